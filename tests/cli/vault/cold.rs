//! What lies in cold storage: it is fetched for a restore, which goes on without it.

use pc_switcher_testkit::s3::{Call, Fault, Fetched, S3Server};

use super::bucket::BUCKET;
use super::*;

/// Returns the names of the packs in a bucket.
fn packs(server: &S3Server) -> Vec<String> {
    server.objects(BUCKET).into_keys().filter(|key| key.contains("/data/")).collect()
}

/// Backs up a file of this name, and returns the packs that are new.
fn back_up(home: &Home, server: &S3Server, name: &str) -> Vec<String> {
    let before = packs(server);
    home.put(name, &format!("what {name} says"));
    home.cloud(0, &["add"]);
    home.cloud(0, &["backup"]);
    packs(server).into_iter().filter(|pack| !before.contains(pack)).collect()
}

/// Lets all that is being fetched arrive.
fn arrive(server: &S3Server) {
    for (key, object) in server.objects(BUCKET) {
        if object.fetched == Fetched::UnderWay {
            server.change(BUCKET, &key, |object| object.fetched = Fetched::There);
        }
    }
}

/// Returns what was asked to be fetched since the log was emptied.
fn asked(server: &S3Server) -> Vec<String> {
    let is_asked = |call: &Call| call.method == "POST" && call.query.starts_with("restore");
    let mut all: Vec<String> = server.calls().into_iter().filter(is_asked).map(|call| call.path).collect();
    all.sort();
    all
}

fn content(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok()
}

#[test]
fn what_lies_in_cold_storage_is_fetched_while_all_else_is_restored_and_comes_with_the_same_command() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready_in_bucket(&server.endpoint(), "storage_class = \"DEEP_ARCHIVE\"\n");
    let warm = back_up(&home, &server, "warm");
    for name in ["sub/one", "two"] {
        back_up(&home, &server, name);
    }
    // Its rights keep everybody but root from writing there.
    let mode = |directory: &Path| fs::metadata(directory.join("sub")).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(home.path("docs/sub"), PermissionsExt::from_mode(0o555)).unwrap();
    home.cloud(0, &["add"]);
    home.cloud(0, &["backup"]);
    let classes = |is: fn(Option<&str>) -> bool| {
        let objects = server.objects(BUCKET);
        objects.values().filter(|object| is(object.storage_class.as_deref())).count()
    };
    assert_eq!(classes(|class| class == Some("DEEP_ARCHIVE")), 3, "contents of files, and no trees");
    for pack in &warm {
        server.change(BUCKET, pack, |object| object.storage_class = None);
    }
    let (back, nothing) = (home.path("back"), || server.fail(|_| None));
    let args = ["restore", ".", "--to", back.to_str().unwrap(), "--thaw-days", "3", "--thaw-tier", "bulk"];
    nothing();
    let said = home.cloud(1, &args).1;
    let first = asked(&server);
    assert_eq!(first.len(), 2, "the packs of the two files, and no tree: {first:?}");
    assert!(
        said.contains("2 files, 30 B, lie in cold storage of `cloud`, of which 2 packs are being fetched: 2 were asked for now (bulk, for 3 days)")
            && said.contains("they are there in 48 hours at most; then the same command goes on"),
        "{said}"
    );
    let read = |name| content(&back, name);
    assert_eq!((read("warm").unwrap(), read("sub/one"), read("two")), ("what warm says".into(), None, None));
    assert!(!back.join("sub").exists() || mode(&back) != 0o555, "what is not complete stays open");
    for (key, object) in server.objects(BUCKET) {
        let is_asked = first.iter().any(|path| path.ends_with(&key));
        assert_eq!(object.asked, is_asked.then(|| (3, "Bulk".to_owned())), "{key}");
    }
    assert!(home.cloud(0, &["history"]).0.contains("2 files wait for 2 packs in cold storage of `cloud`"));

    // Meanwhile nobody asks again.
    nothing();
    let said = home.cloud(1, &args).1;
    assert!(said.contains("of which 2 packs are being fetched since an earlier request"), "{said}");
    assert_eq!(asked(&server), [""; 0]);
    let json = text(&home.cloud_command(&[&args[..], &["--json"]].concat()).output().unwrap().stdout);
    let json: Value = serde_json::from_str(&json).unwrap();
    let waiting = &json["waiting"][0];
    assert_eq!((&waiting["files"], &waiting["packs"], &waiting["asked"]), (&2.into(), &2.into(), &0.into()));
    assert_eq!((&waiting["vault"], &waiting["seconds"]), (&"cloud".into(), &172_800.into()));

    arrive(&server);
    nothing();
    home.cloud(0, &args);
    assert_eq!(asked(&server), [""; 0]);
    assert_eq!(
        (read("sub/one").unwrap(), read("two").unwrap()),
        ("what sub/one says".into(), "what two says".into())
    );

    assert!(home.cloud(0, &["list"]).0.ends_with("ready  [contents are restored after a thaw]\n"));
    assert_eq!(mode(&back), 0o555);
    // What was noted at the backup is known without the bucket.
    drop(server);
    assert!(home.cloud(0, &["log", "sub/one"]).0.contains("in cloud, after a thaw  [current]"));
    let log: Value = serde_json::from_str(&home.cloud(0, &["log", "sub/one", "--json"]).0).unwrap();
    assert_eq!(log["versions"][0]["after_thaw"], serde_json::json!(["cloud"]));
}

#[test]
fn whoever_may_not_have_it_fetched_is_told_which_right_it_takes() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready_in_bucket(&server.endpoint(), "storage_class = \"GLACIER\"\n");
    back_up(&home, &server, "letter");
    let back = home.path("back");
    let args = ["restore", "letter", "--to", back.to_str().unwrap()];
    server.fail(|call| (call.method == "POST").then_some(Fault::Says(403, "AccessDenied")));
    let said = home.cloud(1, &args).1;
    assert!(
        said.contains("1 files, 16 B, lie in cold storage of `cloud`, and nobody fetches them"),
        "{said}"
    );
    assert!(said.contains("1 packs are not being fetched") && said.contains("`s3:RestoreObject`"), "{said}");
    assert_eq!(asked(&server).len(), 1, "what is refused is not asked for again");
    server.fail(|call| {
        let is_busy = call.method == "POST" && call.query.starts_with("restore");
        is_busy.then_some(Fault::Says(503, "GlacierExpeditedRetrievalNotAvailable"))
    });
    let said = home.cloud(1, &[&args[..], &["--thaw-tier", "expedited"]].concat()).1;
    assert!(said.contains("GlacierExpedited") && said.contains("try `--thaw-tier standard`"), "{said}");
    assert_eq!(asked(&server).len(), 1);
    home.cloud(2, &[&args[..], &["--thaw-days", "0"]].concat());
    let said = home.cloud(1, &args).1;
    assert!(
        said.contains("1 were asked for now (standard, for 7 days)") && said.contains("in 5 hours"),
        "{said}"
    );
}

#[test]
fn a_snapshot_comes_in_two_steps_from_cold_storage_what_is_in_it_and_then_that() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready_in_bucket(&server.endpoint(), "storage_class = \"GLACIER\"\n");
    // Trees are not put where they cannot be read, but somebody may have moved them.
    for pack in ["a/b/c", "d"].iter().flat_map(|name| back_up(&home, &server, name)) {
        server.change(BUCKET, &pack, |object| object.storage_class = Some("GLACIER".into()));
    }
    let listed: Value = serde_json::from_str(&home.cloud(0, &["list", "--snapshots", "--json"]).0).unwrap();
    let newest = listed.as_array().unwrap().last().unwrap();
    let (back, docs) = (home.path("back"), home.path("docs"));
    let [id, docs, to] = [newest["id"].as_str().unwrap(), docs.to_str().unwrap(), back.to_str().unwrap()];
    let args = ["restore", "--snapshot", id, docs, "--to", to];
    server.fail(|_| None);
    let said = home.cloud(1, &args).1;
    assert!(said.contains("1 directories with all that is in them lie in cold storage"), "{said}");
    let trees = asked(&server);
    arrive(&server);
    server.fail(|_| None);
    let said = home.cloud(1, &args).1;
    assert!(said.contains("2 files, 26 B, lie in cold storage"), "{said}");
    let data = asked(&server);
    assert!(!trees.is_empty() && data.len() == 2 && !data.iter().any(|pack| trees.contains(pack)));
    arrive(&server);
    home.cloud(0, &args);
    assert_eq!(content(&back, "a/b/c").unwrap(), "what a/b/c says");
    assert_eq!(content(&back, "d").unwrap(), "what d says");
}

#[test]
fn what_another_vault_gives_is_not_fetched_from_cold_storage() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready_in_bucket(&server.endpoint(), "storage_class = \"GLACIER\"\n");
    let other = home.path("other");
    home.cloud(0, &["config", "vault", "init", "--vault", "disk", "--root", other.to_str().unwrap()]);
    for name in ["one", "two"] {
        back_up(&home, &server, name);
    }
    assert!(home.cloud(0, &["log", "one"]).0.contains("in cloud (after a thaw), disk  [current]"));
    server.fail(|_| None);
    let back = home.path("back");
    let said = home.cloud(0, &["restore", ".", "--to", back.to_str().unwrap()]).1;
    assert!(said.contains("the vault `cloud` could not give it, `disk` did"), "{said}");
    assert_eq!(asked(&server), [""; 0]);
    assert_eq!(content(&back, "two").unwrap(), "what two says");
}
