//! Backups into a bucket while the line or the server fails at one request, whichever it is; and what is asked of the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_testkit::s3::{ACCESS_KEY, Call, Fault, S3Server, SECRET_KEY};

use super::world::{DEAD, World, back_up, prune, stage, with_three_backups};
use super::*;
use crate::engine::{Quiet, Reading, check, workers};
use crate::format::Id;
use crate::store::s3::{Bucket, Credentials, Location, Retries, S3Options, S3Store};
use crate::store::{Kind, Store, Thaw};

const BUCKET: &str = "vaults";

fn bucket(server: &S3Server) -> Arc<S3Store> {
    patient(server, 5)
}

/// Opens the bucket, and sends each request so often at most.
fn patient(server: &S3Server, most: u32) -> Arc<S3Store> {
    let place = Location::parse(&format!("s3:{}/{BUCKET}/alice", server.endpoint())).unwrap();
    let credentials = Credentials::from_variables(|name| match name {
        "AWS_ACCESS_KEY_ID" => Some(ACCESS_KEY.into()),
        "AWS_SECRET_ACCESS_KEY" => Some(SECRET_KEY.into()),
        _ => None,
    });
    let content = Bucket { place, credentials: credentials.unwrap() };
    let options = S3Options {
        metadata: content.clone(),
        content,
        region: None,
        path_style: None,
        storage_class: None,
        ca_file: None,
    };
    let (first, longest) = (Duration::from_millis(1), Duration::from_millis(5));
    let retries = Retries { most, first, longest, silence: Duration::from_secs(60) };
    Arc::new(S3Store::at(options, Arc::new(Timestamp::now), Default::default(), retries).unwrap())
}

/// Puts all that a world's vault holds into a bucket.
fn fill(world: &World, store: &dyn Store) {
    for kind in Kind::LISTED {
        for (name, _) in world.store.list(kind).unwrap() {
            store.put(kind, &name, &world.store.get(kind, &name).unwrap().unwrap()).unwrap();
        }
    }
    for kind in [Kind::Config, Kind::Marker] {
        store.put(kind, "", &world.store.get(kind, "").unwrap().unwrap()).unwrap();
    }
}

fn is_sound(store: &Arc<S3Store>, what: &str) {
    let repo = Repository::open(store.clone(), b"x").unwrap();
    let found = check(&repo, &Reading::All, &Quiet::default()).unwrap();
    assert_eq!(found.problems.kept(), [""; 0], "{what}");
}

fn is_tidy(store: &Arc<S3Store>, what: &str) {
    is_sound(store, what);
    assert!(store.list(Kind::Lock).unwrap().is_empty(), "{what}: a lock is left");
}

/// Runs something once for each request that it makes, which goes wrong in each way, and must be overcome.
fn overcomes(world: &World, kinds: &[Fault], run: impl Fn(&mut Service) -> Result<()>) -> usize {
    let server = S3Server::start(&[BUCKET]);
    fill(world, &*bucket(&server));
    let before = server.objects(BUCKET);
    let of = |calls: &[Call], method: &str| calls.iter().filter(|call| call.method == method).count();
    let once = |plan: Option<(usize, Fault)>| {
        server.set_objects(BUCKET, before.clone());
        let (state, _) = world.copy();
        let store = bucket(&server);
        server.fail(move |call| {
            plan.as_ref().filter(|(at, _)| call.number == *at).map(|(_, fault)| fault.clone())
        });
        let ended = run(&mut world.service(state.path(), store.clone(), std::process::id()));
        let calls = server.calls();
        is_tidy(&store, "afterwards");
        (ended, calls)
    };
    let (ended, calls) = once(None);
    ended.unwrap();
    let mut faults = 0;
    for at in 0..calls.len() {
        for fault in kinds.iter().cloned() {
            let what = format!("{fault:?} at {:?}", calls[at]);
            let (ended, again) = once(Some((at, fault)));
            ended.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(
                again.len() <= calls.len() + 6,
                "{what}: one request more, a look at what was lost, and a pack of another thread"
            );
            assert!(of(&again, "DELETE") <= of(&calls, "DELETE") + 1, "{what}");
            faults += 1;
        }
    }
    faults
}

#[test]
fn whichever_request_of_a_backup_fails_once_the_backup_goes_on() {
    let mut world = World::new();
    world.put(0..6, 1);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.put(0..3, 2);
    world.now(stage);
    let kinds = [Fault::Says(503, "SlowDown"), Fault::Resets, Fault::LosesAnswer, Fault::CutsBody];
    let faults = overcomes(&world, &kinds, back_up);
    assert!(faults > 40, "{faults}");
}

#[test]
fn whichever_request_of_a_prune_fails_once_the_prune_goes_on() {
    let mut world = with_three_backups();
    world.hour += 1;
    world.now(prune);
    world.hour += 24;
    let faults = overcomes(&world, &[Fault::LosesAnswer, Fault::CutsBody], prune);
    assert!(faults > 40, "{faults}");
}

#[test]
fn wherever_the_line_is_cut_for_good_the_vault_is_sound_and_the_next_backup_ends_what_was_begun() {
    let mut world = World::new();
    world.put(0..6, 1);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.put(0..3, 2);
    world.now(stage);
    let server = S3Server::start(&[BUCKET]);
    fill(&world, &*bucket(&server));
    let before = server.objects(BUCKET);
    let mut at = 0;
    loop {
        let mut was_cut = false;
        for fault in [Fault::Resets, Fault::LosesAnswer] {
            let what = format!("{fault:?} at {at}");
            server.set_objects(BUCKET, before.clone());
            let (state, _) = world.copy();
            server.fail(move |call| match call.number.cmp(&at) {
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal => Some(fault.clone()),
                std::cmp::Ordering::Greater => Some(Fault::Resets),
            });
            let ended = back_up(&mut world.service(state.path(), patient(&server, 1), DEAD));
            was_cut |= server.calls().len() > at;
            is_sound(&bucket(&server), &format!("{what}: {ended:?}"));
            let mut service = world.service(state.path(), bucket(&server), std::process::id());
            back_up(&mut service).unwrap_or_else(|error| panic!("{what}: {error}"));
            is_tidy(&bucket(&server), &what);
            let docs = &service.tracked_directories().unwrap()[0].path;
            let history = service.history_of(&Path::new(docs).join("0")).unwrap();
            assert_eq!(history.versions.len(), 2, "{what}");
        }
        if !was_cut {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "{at}");
}

#[test]
fn a_backup_removes_nothing_but_its_own_locks_and_writes_over_nothing() {
    let server = S3Server::start(&[BUCKET]);
    let store = bucket(&server);
    let mut world = World::new();
    fill(&world, &*store);
    let mut locks = Vec::new();
    // More than the copies of the catalogue that are kept.
    for round in 0..13 {
        world.put(0..4, round + 1);
        let before = server.objects(BUCKET);
        server.calls();
        let mut service = world.service(world.state.path(), store.clone(), std::process::id());
        stage(&mut service).and_then(|()| back_up(&mut service)).unwrap();
        for call in server.calls() {
            let path = &call.path;
            match call.method.as_str() {
                "GET" | "HEAD" => {}
                "PUT" if path.starts_with("/vaults/alice/locks/") => locks.push(path.clone()),
                "PUT" => assert!(!before.contains_key(path.strip_prefix("/vaults/").unwrap()), "{call:?}"),
                "DELETE" => assert!(locks.contains(path), "{call:?} is no lock of ours"),
                _ => panic!("{call:?}"),
            }
        }
        let after = server.objects(BUCKET);
        assert!(
            before.iter().all(|(key, object)| after.get(key) == Some(object)),
            "what was there stays as it was"
        );
    }
    let copies = |store: &S3Store| {
        store.list(Kind::Meta).unwrap().iter().filter(|(name, _)| name.contains("/db.")).count()
    };
    assert_eq!(copies(&store), 13);
    let mut service = world.service(world.state.path(), store.clone(), std::process::id());
    prune(&mut service).unwrap();
    // The ten newest, and the one that made the base before if it is older.
    assert!((10..=11).contains(&copies(&store)), "who may remove things does it: {}", copies(&store));
    is_tidy(&store, "in the end");
}

#[test]
fn a_key_that_was_changed_is_named() {
    let server = S3Server::start(&[BUCKET]);
    let store = bucket(&server);
    let world = World::new();
    fill(&world, &*store);
    let key = store.list(Kind::Key).unwrap()[0].0.clone();
    server.change(BUCKET, &format!("alice/keys/{key}"), |object| object.bytes[20] ^= 0xff);
    let error = Repository::open(store, b"x").err().unwrap();
    assert!(format!("{error} {}", error.hints.join(" ")).contains(&key), "{error:?}");
}

#[test]
fn what_lies_cold_is_asked_for_before_the_rest_is_restored() {
    let mut world = World::new();
    let names = |round: u64| round * 10..round * 10 + 10;
    for round in 1..=3 {
        world.put(names(round), round);
        world.now(|service| stage(service).and_then(|()| back_up(service)));
    }
    let server = S3Server::start(&[BUCKET]);
    let store = bucket(&server);
    fill(&world, &*store);
    let docs = world.home.path().join("docs").canonicalize().unwrap();
    let service = world.service(world.state.path(), store.clone(), std::process::id());
    let repo = Repository::open(store.clone(), b"x").unwrap();
    repo.load_index().unwrap();
    let pack_of = |name: u64| {
        let content = Id::of(&fs::read(docs.join(name.to_string())).unwrap());
        let chunks = service.catalogue.chunks("local", content).unwrap().unwrap();
        repo.packs_of(chunks.iter().map(|chunk| &chunk.blob_id)).pop_first().unwrap().hex()
    };
    // The first files and the last ones that are restored.
    let cold: BTreeSet<String> = names(1).chain(names(3)).map(&pack_of).collect();
    let warm: BTreeSet<String> = names(2).map(&pack_of).collect();
    assert!(cold.is_disjoint(&warm) && cold.len() > 1);
    for pack in &cold {
        let key = format!("alice/data/{}/{pack}", &pack[..2]);
        server.change(BUCKET, &key, |object| object.storage_class = Some("GLACIER".into()));
    }
    drop(service);
    server.fail(|_| None);
    let to = world.home.path().join("back");
    let order = RestoreOrder {
        path: docs.clone(),
        which: Which::Current,
        to: Some(to.clone()),
        in_place: false,
        content_only: false,
        short_name: false,
        thaw: Thaw::default(),
    };
    let mut service = world.service(world.state.path(), bucket(&server), std::process::id());
    let report = service.restore(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    let calls = server.calls();
    assert_eq!((report.files.len(), report.troubles.len(), report.waiting.len()), (10, 0, 1), "{report:?}");
    let waiting = &report.waiting[0];
    assert_eq!((waiting.files, waiting.packs, waiting.asked), (20, cold.len() as u64, cold.len() as u64));
    let at = |call: &Call, method: &str, packs: &BTreeSet<String>| {
        call.method == method && packs.iter().any(|pack| call.path.ends_with(pack))
    };
    let last_asked = calls.iter().rposition(|call| at(call, "POST", &cold)).unwrap();
    let last_read = calls.iter().rposition(|call| at(call, "GET", &warm)).unwrap();
    assert!(last_asked < last_read, "{last_asked} {last_read}");
    assert_eq!(calls.iter().filter(|call| call.method == "POST").count(), cold.len());
    // What turned out to be cold is not read again and again.
    let reads = calls.iter().filter(|call| at(call, "GET", &cold)).count();
    assert!(reads <= cold.len() * workers() * 2, "{reads}");
}
