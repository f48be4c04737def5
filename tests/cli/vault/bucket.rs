//! Vaults in buckets: against a server of the tests' own, and against moto and restic, which others wrote.

use std::process::Stdio;

use pc_switcher_testkit::s3::{ACCESS_KEY, Fault, Moto, S3Server, SECRET_KEY};
use serde_json::json;

use super::*;

pub(super) const BUCKET: &str = "vaults";

impl Home {
    /// Returns one whose vault will be in a bucket, with `docs` tracked.
    fn in_bucket(endpoint: &str, more: &str) -> Self {
        let home = Self::new();
        home.cloud(
            0,
            &["config", "init", "--name", "cloud", "--root", &format!("s3:{endpoint}/{BUCKET}/alice")],
        );
        let config = home.path(".config/bt.toml");
        let settings = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{settings}{more}")).unwrap();
        home
    }

    /// Returns one whose vault is there.
    pub(super) fn ready_in_bucket(endpoint: &str, more: &str) -> Self {
        let home = Self::in_bucket(endpoint, more);
        home.cloud(0, &["config", "vault", "init"]);
        home.cloud(0, &["dir", "init"]);
        home
    }

    pub(super) fn cloud_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    /// Runs `bt` with credentials, which must end with `code`, and returns what it printed and what it said.
    pub(super) fn cloud(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = self.cloud_command(args).output().unwrap();
        let said = ended(code, args, &output);
        assert!(!said.contains(SECRET_KEY), "{said}");
        (text(&output.stdout), said)
    }

    fn back_up(&self) -> String {
        self.cloud(0, &["add"]);
        self.cloud(0, &["backup"]).0
    }
}

#[test]
fn from_an_empty_home_to_a_bucket_and_back_and_pruned() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::in_bucket(&server.endpoint(), "");
    assert!(home.cloud(0, &["list"]).0.contains("there is no vault in"), "nothing is made unasked");
    let made = home.cloud(0, &["config", "vault", "init"]).1;
    assert!(
        made.contains(&format!("made the vault `cloud` in s3:{}/{BUCKET}/alice", server.endpoint())),
        "{made}"
    );
    assert!(home.cloud(0, &["config", "vault", "init"]).1.contains("is as it should be"));
    home.cloud(0, &["dir", "init"]);
    home.put("a/b", "one\n");
    home.put("large", &"some text\n".repeat(300_000));
    assert!(home.back_up().starts_with("2 new versions"));
    home.put("a/b", "two, and longer\n");
    home.back_up();
    let log = home.cloud(0, &["log", "a/b"]).0;
    assert!(log.lines().count() == 2 && log.contains("in cloud  [current]"), "{log}");
    let first = log.lines().nth(1).unwrap().split("  ").nth(1).unwrap();
    let restored = home.cloud(0, &["restore", "a/b", first]).0;
    assert_eq!(fs::read_to_string(restored.trim_end()).unwrap(), "one\n");
    let back = home.path("back");
    home.cloud(0, &["restore", ".", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("large")).unwrap(), fs::read(home.path("docs/large")).unwrap());
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound; 2 snapshots"));
    assert!(home.cloud(0, &["list"]).0.contains("ready"));
    let pruned = home.cloud(0, &["prune", "--keep", "last 1 session", "--at-once"]).0;
    assert!(pruned.starts_with("cloud: 1 of 2 snapshots removed"), "{pruned}");
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound; 1 snapshots"));
    assert!(!server.objects(BUCKET).keys().any(|key| key.starts_with("alice/locks/")));
}

#[test]
fn when_the_machine_is_gone_its_files_come_back_from_the_bucket() {
    let server = S3Server::start(&[BUCKET]);
    let gone = Home::ready_in_bucket(&server.endpoint(), "");
    gone.put("letter", "dear");
    gone.back_up();
    let listed: Value = serde_json::from_str(&gone.cloud(0, &["config", "list", "--json"]).0).unwrap();
    let host = listed["host_id"].as_str().unwrap();
    let new = Home::in_bucket(&server.endpoint(), "");
    let (docs, back) = (gone.path("docs"), new.path("back"));
    drop(gone);
    new.cloud(0, &["recover", "--from", host, "--take-over"]);
    new.cloud(0, &["restore", docs.to_str().unwrap(), "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back.join("letter")).unwrap(), "dear");
}

#[test]
fn what_keeps_a_bucket_from_being_used_is_said_with_what_to_do() {
    let server = S3Server::start(&[BUCKET]);
    let endpoint = server.endpoint();
    let home = Home::in_bucket(&endpoint, "");
    let none = home.command(&["config", "vault", "init"]).output().unwrap();
    let said = ended(3, &["config", "vault", "init"], &none);
    assert!(said.contains("there are no credentials") && said.contains("AWS_SECRET_ACCESS_KEY"), "{said}");
    let mut wrong = home.cloud_command(&["config", "vault", "init"]);
    let said = ended(3, &["wrong secret"], &wrong.env("AWS_SECRET_ACCESS_KEY", "wrong").output().unwrap());
    assert!(
        said.contains("the credentials are refused") && said.contains(BUCKET) && said.contains(&endpoint),
        "{said}"
    );
    home.cloud(0, &["config", "vault", "init"]);
    home.cloud(0, &["dir", "init"]);
    home.put("f", "x");
    home.cloud(0, &["add"]);
    server.fail(|_| Some(Fault::Says(400, "AuthorizationHeaderMalformed")));
    let said = home.cloud(3, &["backup"]).1;
    assert!(said.contains("set `region = \"eu-west-1\"`"), "{said}");
    server.calls();
    server.set_objects(BUCKET, Default::default());
    let said = home.cloud(4, &["backup"]).1;
    assert!(
        said.contains("there is no vault in") && said.contains("is `root` still the right one?"),
        "{said}"
    );
    let config = home.path(".config/bt.toml");
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, settings.replace("/vaults/", "/nowhere/")).unwrap();
    let said = home.cloud(4, &["backup"]).1;
    assert!(said.contains("in the bucket `nowhere`") && said.contains("is its name right?"), "{said}");
    fs::write(&config, format!("{settings}storage_klass = \"X\"\n")).unwrap();
    assert!(home.cloud(2, &["backup"]).1.contains("storage_klass"));
    fs::write(&config, format!("{settings}secret = \"hunter2\"\n")).unwrap();
    let said = home.cloud(2, &["backup"]).1;
    assert!(said.contains("secrets are never in settings") && !said.contains("hunter2"), "{said}");
    fs::write(&config, &settings).unwrap();
    drop(server);
    let said = home.cloud(4, &["backup"]).1;
    assert!(said.contains(&format!("cannot reach `{endpoint}`")), "{said}");
    assert_eq!(
        home.cloud(0, &["dir", "status"]).0,
        "S   f\n",
        "what is staged stays, and no bucket is asked for that"
    );
}

#[test]
fn credentials_come_from_a_private_file_too() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::new();
    let file = home.path("s3-credentials");
    let settings = format!(
        "[[vaults]]\nname = \"cloud\"\ntype = \"s3\"\nendpoint = \"{}\"\ncontent = {{ bucket = \"{BUCKET}\", prefix = \"alice\" }}\n\
         metadata = {{ bucket = \"{BUCKET}\", prefix = \"meta\" }}\ncredentials = \"file:{}\"\n",
        server.endpoint(),
        file.display()
    );
    fs::create_dir(home.path(".config")).unwrap();
    fs::write(home.path(".config/bt.toml"), settings).unwrap();
    fs::write(&file, format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"))
        .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    home.bt(&["config", "init"]);
    let said = home.fails(2, &["config", "vault", "init"]);
    assert!(said.contains("others may read the credentials") && said.contains("chmod 600"), "{said}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    home.put("f", "x");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let keys: Vec<String> = server.objects(BUCKET).into_keys().collect();
    let (content, metadata): (Vec<&String>, Vec<&String>) =
        keys.iter().partition(|key| key.starts_with("alice/"));
    assert!(content.iter().all(|key| !key.contains("/hosts/")) && content.len() >= 6, "{keys:?}");
    assert!(metadata.iter().all(|key| key.starts_with("meta/pc-switcher/hosts/")), "{keys:?}");
    let count = |part: &str| metadata.iter().filter(|key| key.contains(part)).count();
    assert_eq!((count("/base."), count("/db."), count("/key.")), (1, 1, 1), "{keys:?}");
    assert_eq!(metadata.len(), 3, "a copy of the catalogue and one of the key: {keys:?}");
    assert!(!home.bt(&["config", "list"]).contains(SECRET_KEY));
}

#[test]
fn a_bucket_is_added_beside_a_disk_and_filled_by_the_next_add() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready();
    home.put("one", "1");
    home.back_up();
    let place = format!("s3:{}/{BUCKET}/alice", server.endpoint());
    let config = home.path(".config/bt.toml");
    fs::write(&config, format!("# my own words\n{}", fs::read_to_string(&config).unwrap())).unwrap();
    home.cloud(0, &["config", "vault", "init", "--vault", "cloud", "--root", &place]);
    assert!(fs::read_to_string(&config).unwrap().starts_with("# my own words\n"));
    let said = home.cloud(2, &["config", "vault", "init", "--vault", "cloud", "--root", &place]).1;
    assert!(said.contains("a vault is called `cloud` already"), "{said}");
    home.cloud(2, &["config", "vault", "init", "--vault", "other", "--root", "s3:host"]);
    assert!(home.cloud(0, &["add"]).0.starts_with("staged 1 files"));
    home.cloud(0, &["backup"]);
    assert!(home.cloud(0, &["log", "one"]).0.contains("in cloud, local  [current]"));
    fs::rename(home.state().join("local"), home.path("lost")).unwrap();
    let back = home.path("back");
    home.cloud(0, &["restore", "one", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back.join("one")).unwrap(), "1");
}

#[test]
fn ctrl_c_ends_a_backup_into_a_bucket_that_does_not_answer() {
    let server = S3Server::start(&[BUCKET]);
    let home = Home::ready_in_bucket(&server.endpoint(), "");
    home.put("large", &"x".repeat(1 << 20));
    home.cloud(0, &["add"]);
    let (came, comes) = std::sync::mpsc::channel();
    server.fail(move |call| {
        let is_pack = call.method == "PUT" && call.path.contains("/data/");
        is_pack.then(|| came.send(())).map(|_| Fault::Stalls)
    });
    let mut running = home.cloud_command(&["backup"]).stderr(Stdio::piped()).spawn().unwrap();
    comes.recv().unwrap();
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    server.calls();
    assert!(!server.objects(BUCKET).keys().any(|key| key.contains("/locks/")), "its lock is gone");
    assert!(home.cloud(0, &["backup"]).0.starts_with("1 new versions"));
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound"));
}

/// Runs restic on a bucket; nothing where there is none.
fn restic(home: &Home, endpoint: &str, args: &[&str]) -> String {
    let output = Command::new("restic")
        .args(["--repo", &format!("s3:{endpoint}/{BUCKET}/alice"), "--no-cache"])
        .args(args)
        .env_clear()
        .env("HOME", home.path(""))
        .env("RESTIC_PASSWORD", "correct horse")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("restic: {error}; tests/packages installs it"));
    assert!(output.status.success(), "restic {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Starts moto with a bucket; with object lock if it shall have that.
fn moto(locked: bool) -> Option<Moto> {
    let mut moto = Moto::start(None)?;
    moto.owner("create_bucket", json!({ "Bucket": BUCKET, "ObjectLockEnabledForBucket": locked }));
    Some(moto)
}

#[test]
fn restic_checks_and_restores_what_lies_in_the_bucket_of_a_server_of_others() {
    let Some(moto) = moto(false) else { return };
    let home = Home::ready_in_bucket(moto.endpoint(), "");
    home.put("a/b", "one\n");
    home.put("large", &"some text\n".repeat(300_000));
    home.back_up();
    home.put("a/b", "two\n");
    home.back_up();
    restic(&home, moto.endpoint(), &["check", "--read-data"]);
    let listed: Value =
        serde_json::from_str(&restic(&home, moto.endpoint(), &["snapshots", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let back = home.path("back");
    restic(&home, moto.endpoint(), &["restore", "latest", "--target", back.to_str().unwrap()]);
    let docs = back.join(home.path("docs").strip_prefix("/").unwrap());
    for name in ["a/b", "large"] {
        assert_eq!(fs::read(docs.join(name)).unwrap(), fs::read(home.path("docs").join(name)).unwrap());
    }
    restic(&home, moto.endpoint(), &["backup", home.path("docs").to_str().unwrap()]);
    assert_eq!(home.cloud(0, &["list", "--snapshots"]).0.lines().count(), 3, "and we see what restic writes");
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound; 3 snapshots"));
}

#[test]
fn versions_and_object_lock_bring_back_what_a_thief_of_credentials_removes() {
    let Some(mut moto) = moto(true) else { return };
    let days = json!({ "ObjectLockEnabled": "Enabled", "Rule": { "DefaultRetention": { "Mode": "COMPLIANCE", "Days": 30 } } });
    moto.owner("put_object_lock_configuration", json!({ "Bucket": BUCKET, "ObjectLockConfiguration": days }));
    let home = Home::ready_in_bucket(moto.endpoint(), "");
    home.put("letter", "dear");
    home.back_up();
    home.put("letter", "dear all");
    home.back_up();
    home.cloud(0, &["prune", "--keep", "last 1 session", "--at-once"]);
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound; 1 snapshots"));
    let all = json!({ "Bucket": BUCKET, "Prefix": "alice/" });
    let versions = moto.owner("list_object_versions", all.clone());
    let of = |listed: &Value, what: &str| listed[what].as_array().cloned().unwrap_or_default();
    // The thief removes all that there is, and then tries to remove the versions below.
    for version in of(&versions, "Versions") {
        moto.owner("delete_object", json!({ "Bucket": BUCKET, "Key": version["Key"] }));
        let gone = json!({ "Bucket": BUCKET, "Key": version["Key"], "VersionId": version["VersionId"] });
        assert_eq!(moto.owner("delete_object", gone)["error"], "AccessDenied", "{version}");
    }
    let said = home.cloud(4, &["check"]).1;
    assert!(said.contains("there is no vault in"), "{said}");
    // The owner removes the marks of removal, but of locks and of what was pruned.
    let marks = moto.owner("list_object_versions", all);
    let pruned: Vec<Value> = of(&versions, "DeleteMarkers").iter().map(|mark| mark["Key"].clone()).collect();
    for mark in of(&marks, "DeleteMarkers") {
        if !pruned.contains(&mark["Key"]) {
            moto.owner(
                "delete_object",
                json!({ "Bucket": BUCKET, "Key": mark["Key"], "VersionId": mark["VersionId"] }),
            );
        }
    }
    assert!(home.cloud(0, &["check", "--read-data"]).0.starts_with("cloud: sound; 1 snapshots"));
    let back = home.path("back");
    home.cloud(0, &["restore", "letter", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back.join("letter")).unwrap(), "dear all");
}

#[test]
fn what_lies_in_cold_storage_is_restored_once_the_provider_has_fetched_it() {
    let Some(mut moto) = moto(false) else { return };
    let home = Home::ready_in_bucket(moto.endpoint(), "storage_class = \"GLACIER\"\n");
    home.put("letter", "dear");
    home.back_up();
    home.put("letter", "dear all");
    assert!(home.back_up().starts_with("1 new versions"), "a backup reads nothing that is cold");
    assert_eq!(home.cloud(0, &["log", "letter"]).0.lines().count(), 2);
    let back = home.path("back");
    let args = ["restore", "letter", "--to", back.to_str().unwrap()];
    let said = home.cloud(1, &args).1;
    assert!(
        said.contains("lie in cold storage of `cloud`") && said.contains("1 were asked for now"),
        "{said}"
    );
    // That server has what it is asked for in a moment.
    home.cloud(0, &args);
    assert_eq!(fs::read_to_string(back.join("letter")).unwrap(), "dear all");
    // Trees lie where they can be read at once, so restic finds everything, too, and a snapshot is restored in one step.
    let listed = moto.owner("list_objects_v2", json!({ "Bucket": BUCKET, "Prefix": "alice/data/" }));
    let is_cold = |object: &&Value| object["StorageClass"] == "GLACIER";
    let cold: Vec<&Value> = listed["Contents"].as_array().unwrap().iter().filter(is_cold).collect();
    assert_eq!(cold.len(), 2, "{listed}");
    restic(&home, moto.endpoint(), &["check"]);
    home.cloud(0, &["check"]);
    for object in cold {
        let days = json!({ "Days": 1 });
        moto.owner(
            "restore_object",
            json!({ "Bucket": BUCKET, "Key": object["Key"], "RestoreRequest": days }),
        );
    }
    restic(&home, moto.endpoint(), &["check", "--read-data"]);
}
