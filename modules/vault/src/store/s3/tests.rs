//! Held to the contract of all stores by a server of its own, and to what is promised when that goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pc_switcher_contract::ErrorKind;
use pc_switcher_testkit::s3::{ACCESS_KEY, Call, Conditions, Fault, Fetched, Moto, S3Server, SECRET_KEY};

use super::*;
use crate::store::tests::{keeps_the_contract, tells_two_at_once_apart};
use crate::store::{Depth, Tier};

const BUCKET: &str = "photos";

/// Makes options for a place on a server.
fn options(place: &str) -> S3Options {
    let place = Location::parse(place).unwrap();
    let credentials = Credentials { id: ACCESS_KEY.into(), secret: SECRET_KEY.into(), token: None };
    let content = Bucket { place, credentials };
    S3Options {
        metadata: content.clone(),
        content,
        region: None,
        path_style: None,
        storage_class: None,
        ca_file: None,
    }
}

fn quick() -> Retries {
    let (first, longest) = (Duration::from_millis(1), Duration::from_millis(5));
    Retries { most: 4, first, longest, silence: Duration::from_secs(60) }
}

fn open(options: S3Options) -> S3Store {
    S3Store::at(options, Arc::new(Timestamp::now), Stop::default(), quick()).unwrap()
}

fn served() -> (S3Server, S3Store) {
    let server = S3Server::start(&[BUCKET]);
    let store = open(options(&format!("s3:{}/{BUCKET}/a b/ü&+", server.endpoint())));
    // A server that never answered is given up sooner.
    assert!(store.list(Kind::Pack).unwrap().is_empty());
    (server, store)
}

fn name(letters: &str) -> String {
    letters.repeat(32)
}

/// Lets the first so many requests go wrong.
fn first(count: usize, fault: Fault) -> impl Fn(&Call) -> Option<Fault> {
    move |call| (call.number < count).then(|| fault.clone())
}

#[test]
fn a_bucket_keeps_the_contract_with_and_without_a_prefix() {
    let (_server, store) = served();
    keeps_the_contract(&store);
    tells_two_at_once_apart(&store);
    let server = S3Server::start(&[BUCKET]);
    keeps_the_contract(&open(options(&format!("s3:{}/{BUCKET}", server.endpoint()))));
}

#[test]
fn what_only_a_bare_404_says_is_not_missing() {
    let (server, store) = served();
    store.put(Kind::Pack, &name("ab"), b"x").unwrap();
    // What stands before the server starts anew.
    server.fail(first(2, Fault::Says(404, "")));
    assert_eq!(store.get(Kind::Pack, &name("ab")).unwrap().unwrap(), b"x");
    server.fail(|_| Some(Fault::Says(404, "")));
    let error = store.get(Kind::Pack, &name("ab")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    server.fail(|_| Some(Fault::Says(404, "NoSuchBucket")));
    let error = store.get(Kind::Pack, &name("ab")).unwrap_err();
    assert!(error.to_string().contains("there is no such bucket"), "{error}");
    server.fail(|_| None);
    assert_eq!(store.get(Kind::Pack, &name("cd")).unwrap(), None);
}

#[test]
fn objects_have_the_names_that_restic_gives_them() {
    let server = S3Server::start(&[BUCKET, "meta"]);
    let mut options = options(&format!("s3:{}/{BUCKET}/p", server.endpoint()));
    options.metadata.place = Location::parse(&format!("s3:{}/meta/q", server.endpoint())).unwrap();
    options.storage_class = Some("STANDARD_IA".into());
    let store = open(options);
    for kind in [Kind::Key, Kind::Lock, Kind::Index, Kind::Snapshot, Kind::Pack] {
        store.put(kind, &name("ab"), b"x").unwrap();
    }
    store.put(Kind::Config, "", b"x").unwrap();
    store.put(Kind::Marker, "", b"x").unwrap();
    store.put(Kind::Meta, "host/db.1", b"x").unwrap();
    store.put_trees(&name("cd"), b"x").unwrap();
    let id = name("ab");
    let mut expected = ["keys/", "locks/", "index/", "snapshots/", "data/ab/"]
        .map(|below| format!("p/{below}{id}"))
        .to_vec();
    expected.extend(["p/config".into(), "p/pc-switcher-vault".into(), format!("p/data/cd/{}", name("cd"))]);
    expected.sort();
    let objects = server.objects(BUCKET);
    assert_eq!(objects.keys().cloned().collect::<Vec<_>>(), expected);
    assert_eq!(server.objects("meta").into_keys().collect::<Vec<_>>(), ["q/pc-switcher/hosts/host/db.1"]);
    let cold: Vec<&String> =
        objects.iter().filter(|(_, object)| object.storage_class.is_some()).map(|(key, _)| key).collect();
    assert_eq!(cold, [&format!("p/data/ab/{id}")], "what is read often lies where it can be read");
}

#[test]
fn listings_of_many_pages_are_whole() {
    let (server, store) = served();
    server.set_page(3);
    let names: Vec<String> = (0..20).map(|number| format!("{number:064x}")).collect();
    for name in &names {
        store.put(Kind::Index, name, b"12").unwrap();
    }
    let listed = store.list(Kind::Index).unwrap();
    assert_eq!(listed, names.into_iter().map(|name| (name, 2)).collect::<Vec<_>>());
}

#[test]
fn whatever_goes_wrong_for_a_while_is_overcome() {
    for fault in [
        Fault::Says(503, "SlowDown"),
        Fault::Says(500, ""),
        Fault::Says(409, "ConditionalRequestConflict"),
        Fault::Says(400, "RequestTimeout"),
        Fault::Resets,
        Fault::LosesAnswer,
        Fault::CutsBody,
    ] {
        let (server, store) = served();
        let what = format!("{fault:?}");
        server.fail(first(2, fault.clone()));
        assert!(
            store.put(Kind::Pack, &name("ab"), b"0123456789").unwrap(),
            "{what}: ours, whatever was lost"
        );
        server.fail(first(2, fault.clone()));
        assert_eq!(store.get(Kind::Pack, &name("ab")).unwrap().unwrap(), b"0123456789", "{what}");
        server.fail(first(2, fault.clone()));
        assert_eq!(store.get_range(Kind::Pack, &name("ab"), 2, 3).unwrap(), b"234", "{what}");
        server.fail(first(2, fault.clone()));
        assert_eq!(store.list(Kind::Pack).unwrap().len(), 1, "{what}");
        server.fail(first(2, fault));
        store.delete(Kind::Pack, &name("ab")).unwrap();
        assert!(server.objects(BUCKET).is_empty(), "{what}");
    }
}

#[test]
fn what_is_there_already_is_not_ours_though_an_answer_was_lost() {
    let (server, store) = served();
    store.put(Kind::Pack, &name("ab"), b"theirs").unwrap();
    server.fail(first(1, Fault::LosesAnswer));
    assert!(!store.put(Kind::Pack, &name("ab"), b"ours").unwrap());
    assert_eq!(store.get(Kind::Pack, &name("ab")).unwrap().unwrap(), b"theirs");
}

#[test]
fn a_server_that_goes_on_failing_is_given_up_after_a_bounded_time() {
    let (server, store) = served();
    store.list(Kind::Key).unwrap();
    server.fail(|_| Some(Fault::Says(503, "SlowDown")));
    let error = store.put(Kind::Index, &name("ab"), b"x").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    // An attempt may meet a connection that the server is just closing.
    assert!((2..=4).contains(&server.calls().len()));
    assert!(error.to_string().contains(&format!("`{BUCKET}` at `{}`", server.endpoint())), "{error}");
    server.fail(|_| Some(Fault::Resets));
    let error = store.get(Kind::Index, &name("ab")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    // An attempt may meet a connection that the server is just closing.
    assert!((2..=4).contains(&server.calls().len()));
    server.fail(|_| Some(Fault::Stalls));
    let retries = Retries { silence: Duration::from_secs(1), ..quick() };
    let options = options(&format!("s3:{}/{BUCKET}", server.endpoint()));
    let store = S3Store::at(options, Arc::new(Timestamp::now), Stop::default(), retries).unwrap();
    let error = store.list(Kind::Key).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(server.calls().len() <= 2, "it never answered: less hope");
    assert!(error.to_string().contains("nothing came or went"), "{error}");
}

#[test]
fn a_server_without_conditions_is_written_to_without_them() {
    let (server, store) = served();
    server.set_conditions(Conditions::Refused);
    keeps_the_contract(&store);
    server.calls();
    store.put(Kind::Pack, &name("ef"), b"x").unwrap();
    let asked: Vec<String> = server.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(asked, ["HEAD", "PUT"], "it is not asked twice for what it does not know");
    server.set_conditions(Conditions::Ignored);
    let store = open(options(&format!("s3:{}/{BUCKET}/p", server.endpoint())));
    for (kind, name) in [(Kind::Config, ""), (Kind::Marker, ""), (Kind::Meta, "host/db.1")] {
        assert!(store.put(kind, name, b"first").unwrap());
        assert!(!store.put(kind, name, b"second").unwrap(), "{kind:?}");
        assert_eq!(store.get(kind, name).unwrap().unwrap(), b"first");
    }
}

#[test]
fn of_two_that_write_one_name_at_once_one_is_told_so() {
    let (server, store) = served();
    let other = open(options(&format!("s3:{}/{BUCKET}/a b/ü&+", server.endpoint())));
    let won: Vec<bool> = std::thread::scope(|scope| {
        let both = [&store, &other];
        let all =
            both.map(|store| scope.spawn(move || store.put(Kind::Snapshot, &name("cd"), b"same").unwrap()));
        all.map(|thread| thread.join().unwrap()).to_vec()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
}

#[test]
fn who_is_refused_reads_which_bucket_where_and_what_to_try() {
    let server = S3Server::start(&[BUCKET]);
    let place = format!("s3:{}/{BUCKET}", server.endpoint());
    let fails = |options: S3Options, kind: ErrorKind, why: &str, hint: &str| {
        let error = open(options).list(Kind::Key).unwrap_err();
        let text = format!("{error}; {}", error.hints.join("; "));
        assert_eq!(error.kind, kind, "{text}");
        assert!(text.contains(why) && text.contains(hint) && text.contains(&server.endpoint()), "{text}");
        assert!(!text.contains(SECRET_KEY) && !text.contains("wrong secret"), "{text}");
    };
    let mut wrong = options(&place);
    wrong.content.credentials.secret = "wrong secret".into();
    fails(
        wrong,
        ErrorKind::Invalid,
        "the credentials are refused (403 SignatureDoesNotMatch",
        "AWS_SECRET_ACCESS_KEY",
    );
    let mut nobody = options(&place);
    nobody.content.credentials.id = "NOBODY".into();
    fails(nobody, ErrorKind::Invalid, "the credentials are refused", "AWS_ACCESS_KEY_ID");
    let missing = options(&format!("s3:{}/missing", server.endpoint()));
    fails(missing, ErrorKind::Unreachable, "in the bucket `missing`", "is its name right?");
    server.fail(|_| Some(Fault::Says(400, "AuthorizationHeaderMalformed")));
    fails(
        options(&place),
        ErrorKind::Invalid,
        "not in the region `us-east-1`",
        "set `region = \"eu-west-1\"`",
    );
    server.fail(|_| Some(Fault::Says(403, "AccessDenied")));
    fails(options(&place), ErrorKind::Invalid, "do not allow it", "docs/vault.md");
}

#[test]
fn a_server_that_is_not_there_and_one_that_speaks_no_tls_are_named() {
    let server = S3Server::start(&[BUCKET]);
    let gone = server.endpoint();
    let secure = gone.replace("http://", "https://");
    let error = open(options(&format!("s3:{secure}/{BUCKET}"))).list(Kind::Key).unwrap_err();
    let text = format!("{error}; {}", error.hints.join("; "));
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(text.contains(&format!("cannot reach `{secure}`")) && text.contains("ca_file"), "{text}");
    drop(server);
    let error = open(options(&format!("s3:{gone}/{BUCKET}"))).list(Kind::Key).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");
    // A name that no server is asked for: a part of one has 63 letters at most.
    let nobody = format!("s3:http://{}.invalid/b", "x".repeat(64));
    let error = open(options(&nobody)).list(Kind::Key).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.to_string().contains("no machine of this name"), "{error}");
}

#[test]
fn names_of_machines_are_found() {
    let server = S3Server::start(&[BUCKET]);
    let named = server.endpoint().replace("127.0.0.1", "localhost");
    assert!(open(options(&format!("s3:{named}/{BUCKET}"))).list(Kind::Key).unwrap().is_empty());
}

#[test]
fn what_lies_in_cold_storage_is_said_to() {
    let server = S3Server::start(&[BUCKET]);
    let place = format!("s3:{}/{BUCKET}", server.endpoint());
    let store = open(S3Options { storage_class: Some("GLACIER".into()), ..options(&place) });
    store.put(Kind::Pack, &name("ab"), b"x").unwrap();
    store.put(Kind::Index, &name("ab"), b"x").unwrap();
    assert!(store.get(Kind::Index, &name("ab")).unwrap().is_some());
    for error in [
        store.get(Kind::Pack, &name("ab")).unwrap_err(),
        store.get_range(Kind::Pack, &name("ab"), 0, 1).unwrap_err(),
    ] {
        assert!(error.to_string().contains("it lies in cold storage"), "{error}");
        assert!(error.hints[0].contains("restore-object"), "{error:?}");
    }
    server.change(BUCKET, &format!("data/ab/{}", name("ab")), |object| object.storage_class = None);
    assert!(open(options(&place)).get(Kind::Pack, &name("ab")).unwrap().is_some());
}

#[test]
fn what_is_cold_is_fetched_once_and_not_asked_for_before_it_is_there() {
    let server = S3Server::start(&[BUCKET]);
    let place = format!("s3:{}/{BUCKET}", server.endpoint());
    let store = open(S3Options { storage_class: Some("DEEP_ARCHIVE".into()), ..options(&place) });
    let [cold, warm, gone] = ["ab", "cd", "ef"].map(name);
    let key = format!("data/ab/{cold}");
    let asked = || -> Vec<String> { server.calls().into_iter().map(|call| call.method).collect() };
    store.put(Kind::Pack, &cold, b"x").unwrap();
    open(options(&place)).put(Kind::Pack, &warm, b"y").unwrap();
    let read = || store.get_range(Kind::Pack, &cold, 0, 1);
    let is_cold = |name: &str| store.is_cold(Kind::Pack, name);
    assert!(!store.has_cold() && !is_cold(&cold), "nobody knows before it is read");
    assert!(read().is_err() && is_cold(&cold) && !is_cold(&warm) && store.has_cold());
    asked();
    assert!(read().unwrap_err().to_string().contains("it lies in cold storage"));
    assert_eq!(asked(), [""; 0], "it is known by now");
    let thaw = |name: &str| store.thaw(Kind::Pack, name, Thaw { days: 2, tier: Tier::Bulk });
    assert_eq!(thaw(&warm).unwrap(), Fetching::Readable);
    assert_eq!(asked(), ["HEAD"]);
    assert_eq!(thaw(&cold).unwrap(), Fetching::Asked(Depth::Deep));
    assert_eq!(server.objects(BUCKET)[&key].asked, Some((2, "Bulk".into())));
    asked();
    assert_eq!(thaw(&cold).unwrap(), Fetching::UnderWay(Depth::Deep));
    assert_eq!(asked(), ["HEAD"]);
    // Somebody else asked in between.
    server.change(BUCKET, &key, |object| object.fetched = Fetched::Never);
    server.fail(|call| (call.method == "POST").then_some(Fault::Says(409, "RestoreAlreadyInProgress")));
    assert_eq!(thaw(&cold).unwrap(), Fetching::UnderWay(Depth::Deep));
    server.fail(|call| (call.method == "POST").then_some(Fault::Says(403, "AccessDenied")));
    let error = thaw(&cold).unwrap_err();
    assert_eq!((error.kind, error.hints.len()), (ErrorKind::Invalid, 1));
    assert!(error.hints[0].contains("s3:RestoreObject"), "{error:?}");
    server.calls();
    assert!(thaw(&gone).unwrap_err().to_string().contains("it is not there"));
    assert!(is_cold(&cold) && read().is_err());
    server.change(BUCKET, &key, |object| object.fetched = Fetched::There);
    assert_eq!(thaw(&cold).unwrap(), Fetching::Readable);
    assert_eq!(read().unwrap(), b"x");
    assert!(is_cold(&cold), "it was");
}

#[test]
fn a_stop_ends_waits_and_transfers_and_lets_tidying_up_go_on() {
    let server = S3Server::start(&[BUCKET]);
    let options = options(&format!("s3:{}/{BUCKET}", server.endpoint()));
    let (stop, asked) = (Stop::default(), Arc::new(AtomicBool::new(false)));
    let seen = asked.clone();
    stop.when(move || seen.load(Ordering::SeqCst));
    let retries = Retries { first: Duration::from_secs(3600), longest: Duration::from_secs(3600), ..quick() };
    let store = S3Store::at(options, Arc::new(Timestamp::now), stop, retries).unwrap();
    store.put(Kind::Lock, &name("ab"), b"held").unwrap();
    let large = vec![7; 4 << 20];
    let begun = Instant::now();
    for fault in [Fault::Stalls, Fault::Says(503, "SlowDown")] {
        asked.store(false, Ordering::SeqCst);
        let (came, comes) = std::sync::mpsc::channel();
        server.fail(move |_| {
            came.send(()).ok();
            Some(fault.clone())
        });
        std::thread::scope(|scope| {
            let put = scope.spawn(|| store.put(Kind::Pack, &name("cd"), &large));
            comes.recv().unwrap();
            asked.store(true, Ordering::SeqCst);
            assert_eq!(put.join().unwrap().unwrap_err().kind, ErrorKind::Cancelled);
        });
        server.calls();
    }
    store.delete(Kind::Lock, &name("ab")).unwrap();
    assert!(server.objects(BUCKET).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(600), "nobody waited for an hour");
}

#[test]
fn a_server_of_others_keeps_the_contract_with_and_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    for tls in [None, Some(dir.path())] {
        let Some(mut moto) = Moto::start(tls) else { return };
        moto.owner("create_bucket", serde_json::json!({ "Bucket": BUCKET }));
        let mut options = options(&format!("s3:{}/{BUCKET}/a b/ü&+", moto.endpoint()));
        if let Some(dir) = tls {
            let error = open(options.clone()).list(Kind::Key).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unreachable);
            assert!(error.to_string().contains("certificate"), "{error}");
            options.ca_file = Some(dir.join("cert.pem"));
        }
        // Of two at once that server tells both that they were the first: it looks, and writes later.
        keeps_the_contract(&open(options.clone()));
        let missing = Location { bucket: "missing".into(), ..options.content.place.clone() };
        options.content.place = missing;
        let error = open(options).list(Kind::Key).unwrap_err();
        assert!(error.to_string().contains("there is no such bucket"), "{error}");
    }
}

#[test]
fn listings_of_a_server_of_others_go_on_over_pages() {
    let Some(mut moto) = Moto::start(None) else { return };
    moto.owner("create_bucket", serde_json::json!({ "Bucket": BUCKET }));
    let store = open(options(&format!("s3:{}/{BUCKET}", moto.endpoint())));
    let names: Vec<String> = (0..7).map(|number| format!("{number:064x}")).collect();
    for name in &names {
        store.put(Kind::Index, name, b"12").unwrap();
    }
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let page = store.page(Kind::Index, "index/", 3, token).unwrap();
        assert!(page.contents.len() <= 3);
        found
            .extend(page.contents.into_iter().map(|entry| entry.key.trim_start_matches("index/").to_owned()));
        token = page.next_continuation_token.filter(|_| page.is_truncated);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, names);
}
