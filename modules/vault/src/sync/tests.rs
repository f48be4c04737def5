//! The module on a machine without snapshots, with a vault in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::{Request, decode};
use pc_switcher_contract::*;
use tokio_util::sync::CancellationToken;

use super::{Given, VaultBackup, VaultBackupConfig};
use crate::service::world::World;
use crate::service::{OpenStore, Service, Surroundings};
use crate::store::faults::Faults;
use crate::store::{Kind, MemoryStore, Store};

/// A machine that does nothing.
struct Host(Hostname);

#[async_trait]
impl Executor for Host {
    fn hostname(&self) -> &Hostname {
        &self.0
    }
    async fn run(&self, _: Action) -> std::result::Result<Output, ExecError> {
        Err(ExecError::Cancelled)
    }
    async fn spawn(&self, _: Action) -> std::result::Result<Spawned, ExecError> {
        Err(ExecError::Cancelled)
    }
    async fn terminate_all(&self, _: Duration) -> usize {
        0
    }
}

#[async_trait]
impl RemoteExecutor for Host {
    async fn send_file(&self, _: &SendFile, _: &WriteLicence) -> std::result::Result<(), ExecError> {
        Ok(())
    }
}

#[async_trait]
impl AgentLink for Host {
    fn hostname(&self) -> &Hostname {
        &self.0
    }
    async fn open(&self, _: Vec<u8>) -> std::result::Result<AgentCall, ExecError> {
        Err(ExecError::Cancelled)
    }
}

#[async_trait]
impl Gatekeeper for Host {
    async fn pass(&self, _: Gate) -> std::result::Result<Answer, ModuleError> {
        Ok(Answer::ByFlag)
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<EventKind>>);

impl Sink for Kept {
    fn emit(&self, kind: EventKind) {
        self.0.lock().unwrap().push(kind);
    }
}

impl Kept {
    fn warnings(&self) -> Vec<String> {
        let text = |event: &EventKind| match event {
            EventKind::Log { level: LogLevel::Warning, message, .. } => Some(message.clone()),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(text).collect()
    }
}

struct Stage {
    world: World,
    kept: Arc<Kept>,
    ctx: ModuleContext,
}

impl Stage {
    fn new(mode: RunMode) -> Self {
        let mut world = World::new();
        world.put(0..5, 1);
        let kept = Arc::new(Kept::default());
        let [laptop, desk] = ["laptop", "desk"].map(|name| Arc::new(Host(name.parse().unwrap())));
        let clock = world.around(world.state.path(), world.store.clone(), 1).clock;
        let ctx = ModuleContext {
            session: "abc12345".parse().unwrap(),
            source: Machine { hostname: laptop.0.clone(), executor: laptop.clone(), agent: laptop.clone() },
            target: TargetMachine { hostname: desk.0.clone(), executor: desk.clone(), agent: desk.clone() },
            reporter: Reporter::new("vault-backup".parse().unwrap(), kept.clone()),
            cancel: CancellationToken::new(),
            mode,
            gates: desk,
            board: Arc::default(),
            clock,
        };
        Self { world, kept, ctx }
    }

    fn real() -> Self {
        Self::new(RunMode::Real(WriteLicence::grant()))
    }

    fn module(&self, word: Option<&str>, config: VaultBackupConfig) -> VaultBackup {
        let around = self.world.around(self.world.state.path(), self.world.store.clone(), std::process::id());
        let variable = word.map(|word| word.as_bytes().to_vec());
        VaultBackup::new(config, Given { surroundings: Arc::new(move || Ok(around.clone())), variable })
    }

    /// As [`Stage::module`], with a further vault that nothing requires and this passphrase opens; this is made of its place afterwards.
    fn module_with_another_vault(
        &self,
        word: &'static [u8],
        place: impl FnOnce(&Arc<MemoryStore>) -> Arc<dyn Store>,
    ) -> VaultBackup {
        let around = self.world.around(self.world.state.path(), self.world.store.clone(), std::process::id());
        Service::add_vault(&around, Path::new("/other"), "other").unwrap();
        let settings = self.world.home.path().join("bt.toml");
        let text = fs::read_to_string(&settings).unwrap();
        let (before, after) = text.rsplit_once("required = true").unwrap();
        fs::write(&settings, format!("{before}required = false{after}")).unwrap();
        let (first, other) = (self.world.store.clone(), Arc::new(MemoryStore::default()));
        let stores = |other: Arc<dyn Store>| -> OpenStore {
            let first = first.clone();
            Arc::new(move |settings| Ok(if settings.name == "other" { other.clone() } else { first.clone() }))
        };
        let around = Surroundings { stores: stores(other.clone()), ..around };
        let mut service = Service::open(around.clone()).unwrap();
        service.prepare_vaults(Some("other"), &mut |_| Ok(word.into())).unwrap();
        let around = Surroundings { stores: stores(place(&other)), ..around };
        let given = Given { surroundings: Arc::new(move || Ok(around.clone())), variable: Some(b"x".into()) };
        VaultBackup::new(VaultBackupConfig::default(), given)
    }

    fn docs(&self) -> PathBuf {
        self.world.home.path().join("docs").canonicalize().unwrap()
    }
}

/// The agent of a machine that answers nothing and keeps what it was asked.
struct Asked(Hostname, Mutex<Vec<Vec<u8>>>);

#[async_trait]
impl AgentLink for Asked {
    fn hostname(&self) -> &Hostname {
        &self.0
    }
    async fn open(&self, body: Vec<u8>) -> std::result::Result<AgentCall, ExecError> {
        self.1.lock().unwrap().push(body);
        Err(ExecError::Cancelled)
    }
}

#[tokio::test]
async fn a_set_whose_first_member_lies_on_another_disk_is_asked_for_where_its_record_lies() {
    let mut stage = Stage::real();
    let asked = Arc::new(Asked(stage.ctx.source.hostname.clone(), Mutex::default()));
    stage.ctx.source.agent = asked.clone();
    let member = |name: &str, dir: &str, apart| SnapshotMember {
        name: name.parse().unwrap(),
        path: BytePath::from(dir).join(name.as_bytes()),
        uuid: String::new(),
        source_uuid: String::new(),
        id: 300,
        otransid: 1,
        ctransid: 1,
        first_taken: None,
        apart,
    };
    let apart = Apart { fs_uuid: "f".into(), place_uuid: "p".into(), dir: "/.snapshots".into(), at: 1 };
    let set = SnapshotSet {
        hostname: stage.ctx.source.hostname.clone(),
        kind: SnapshotKind::PreSync,
        stamp: "20251115T120000Z".parse().unwrap(),
        session: "abc12345".parse().unwrap(),
        consistent: true,
        members: vec![
            member("@home-presync-20251115T120000Z-abc12345", "/.snapshots-home", Some(apart)),
            member("@-presync-20251115T120000Z-abc12345", "/.snapshots", None),
        ],
    };
    stage.ctx.board.add_set(Role::Source, set);
    let module = stage.module(Some("x"), VaultBackupConfig::default());
    assert_eq!(module.execute(&stage.ctx).await.unwrap_err().kind, ErrorKind::Cancelled);
    let asked = asked.1.lock().unwrap();
    let Ok(Request::Held(request)) = decode::<Request>(&asked[0]) else { panic!("{asked:?}") };
    assert_eq!(request.snapshot_dir, "/.snapshots".into());
}

/// Returns what lies below a directory.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(path) = todo.pop() {
        let facts = fs::metadata(&path).unwrap();
        if facts.is_dir() {
            todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = if facts.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path, (content, facts.modified().unwrap()));
    }
    found
}

#[tokio::test]
async fn without_snapshots_it_reads_what_lies_there_says_so_and_proves_what_it_stored() {
    let stage = Stage::real();
    let module = stage.module(Some("x"), VaultBackupConfig::default());
    assert_eq!(module.validate(&stage.ctx).await.unwrap(), []);
    let done = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Done(text) = done else { panic!("{done:?}") };
    assert!(text.starts_with("5 new versions, 39.1 KiB; local: "), "{text}");
    assert!(stage.kept.warnings()[0].contains("read where they lie"), "{:?}", stage.kept.warnings());
    assert_eq!(module.verify(&stage.ctx).await.unwrap(), []);
    assert_eq!(stage.ctx.board.checks(), ["5 files came back out of the vaults"]);
    assert!(stage.ctx.board.is_idle(module.name()), "the target has no part in it");
    let stage_dir = stage.world.state.path().join("vault/stage");
    assert_eq!(stage_dir.read_dir().unwrap().count(), 0, "nothing is copied");

    let again = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Done(text) = again else { panic!("{again:?}") };
    assert!(text.starts_with("0 new versions") && text.ends_with("no new snapshot"), "{text}");
    fs::write(stage.docs().join(".btignore"), "[z-a]\n").unwrap();
    let error = module.execute(&stage.ctx).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed, "{error}");
}

#[tokio::test]
async fn a_dry_run_names_the_files_and_leaves_the_state_as_it_is() {
    let stage = Stage::new(RunMode::DryRun);
    let module = stage.module(Some("x"), VaultBackupConfig::default());
    let before = picture(stage.world.state.path());
    assert_eq!(module.validate(&stage.ctx).await.unwrap(), []);
    let plan = module.plan(&stage.ctx).await.unwrap();
    assert_eq!((plan.items.len(), plan.bytes), (5, 40_000));
    assert_eq!(plan.items[0].path, BytePath::from(stage.docs().join("0").as_path()));
    assert!(picture(stage.world.state.path()) == before);
}

#[tokio::test]
async fn what_keeps_it_from_working_is_a_problem_with_its_fix() {
    let stage = Stage::real();
    let problems = async |word, config: VaultBackupConfig| {
        let found = stage.module(word, config).validate(&stage.ctx).await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = problems(None, VaultBackupConfig::default()).await;
    assert!(
        none[0].starts_with("laptop: there is no passphrase") && none[0].contains("password_file"),
        "{none:?}"
    );
    let wrong = problems(Some("wrong"), VaultBackupConfig::default()).await;
    assert!(
        wrong[0].contains("does not open the vault") && wrong[0].contains("--skip vault-backup"),
        "{wrong:?}"
    );
    let config = |json| serde_json::from_value::<VaultBackupConfig>(json).unwrap();
    let other = config(serde_json::json!({ "directories": ["/elsewhere"], "vault": "local" }));
    let other = problems(Some("x"), other).await;
    assert!(other.len() == 1 && other[0].contains("`/elsewhere` is no tracked directory"), "{other:?}");
    let unknown = problems(Some("x"), config(serde_json::json!({ "vault": "remote" }))).await;
    assert!(unknown[0].contains("no vault is called `remote`"), "{unknown:?}");
}

#[tokio::test]
async fn a_stop_ends_it_and_where_nothing_is_tracked_nothing_is_done() {
    let stage = Stage::real();
    let module = stage.module(Some("x"), VaultBackupConfig::default());
    stage.ctx.cancel.cancel();
    assert_eq!(module.execute(&stage.ctx).await.unwrap_err().kind, ErrorKind::Cancelled);
    module.abort(&stage.ctx, Duration::from_secs(60)).await;
    stage.world.now(|service| service.forget_directory(&stage.docs()));
    let stage = Stage { ctx: ModuleContext { cancel: CancellationToken::new(), ..stage.ctx }, ..stage };
    assert!(matches!(module.execute(&stage.ctx).await, Ok(Outcome::Skipped(_))));
}

#[tokio::test]
async fn a_vault_that_is_not_required_and_cannot_be_used_keeps_no_sync_from_beginning_and_all_from_ending_well()
 {
    let stage = Stage::real();
    let module = stage.module_with_another_vault(b"another", |other| other.clone());
    assert_eq!(module.validate(&stage.ctx).await.unwrap(), []);
    let said = stage.kept.warnings();
    assert!(
        said[0].contains("the vault `other` is left out") && said[0].contains("does not open the vault"),
        "{said:?}"
    );
    let done = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Partly(text, ErrorKind::Failed) = done else { panic!("{done:?}") };
    assert!(text.starts_with("5 new versions"), "{text}");
    assert!(module.verify(&stage.ctx).await.unwrap()[0].to_string().contains("`other`"));
}

#[tokio::test]
async fn a_vault_that_is_not_required_and_is_full_stops_no_sync_and_says_so_in_the_end() {
    let stage = Stage::real();
    let module = stage.module_with_another_vault(b"x", |other| {
        Arc::new(Faults::on(other).that_fails(|call| {
            let is_lock = call.what == "put" && call.kind == Kind::Lock;
            is_lock.then(|| ModuleError::new(ErrorKind::DiskSpace, "no room"))
        }))
    });
    assert_eq!(module.validate(&stage.ctx).await.unwrap(), []);
    let done = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Partly(text, ErrorKind::DiskSpace) = done else { panic!("{done:?}") };
    assert!(text.starts_with("5 new versions"), "{text}");
    let said = stage.kept.warnings().join(" ");
    assert!(said.contains("vault `other` was left out: no room"), "{said}");
}

#[tokio::test]
async fn a_copy_of_the_catalogue_that_finds_no_room_is_told_as_that() {
    let stage = Stage::real();
    let module = stage.module_with_another_vault(b"x", |other| {
        Arc::new(Faults::on(other).that_fails(|call| {
            let is_copy = call.what == "put" && call.name.contains("/db.");
            is_copy.then(|| ModuleError::new(ErrorKind::DiskSpace, "no room"))
        }))
    });
    let done = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Partly(_, ErrorKind::DiskSpace) = done else { panic!("{done:?}") };
    let said = stage.kept.warnings().join(" ");
    assert!(said.contains("was not copied to the vault `other`: no room"), "{said}");
}

#[tokio::test]
async fn a_catalogue_that_went_back_to_before_anything_was_tracked_is_brought_up_to_date_first() {
    let mut stage = Stage::real();
    let docs = stage.docs();
    stage.world.now(|service| service.forget_directory(&docs));
    let (old, _) = stage.world.copy();
    stage.world.hour += 1;
    stage.world.now(|service| {
        service.track(&docs)?;
        crate::service::world::stage(service)?;
        crate::service::world::back_up(service)
    });
    let catalogue = "vault/catalogue.db";
    fs::copy(old.path().join(catalogue), stage.world.state.path().join(catalogue)).unwrap();
    stage.world.hour += 1;
    let module = |hostname: &str| {
        let mut around = stage.world.around(stage.world.state.path(), stage.world.store.clone(), 1);
        around.who.hostname = hostname.into();
        around.who.origin.boot_id = "the boot after that".into();
        around.who.booted_at = Some((around.clock)());
        let given = Given { surroundings: Arc::new(move || Ok(around.clone())), variable: Some(b"x".into()) };
        let config = serde_json::json!({ "directories": [docs.clone()] });
        VaultBackup::new(serde_json::from_value(config).unwrap(), given)
    };
    // Whether it is this machine's is not certain: it is not skipped either.
    let problems = module("another").validate(&stage.ctx).await.unwrap();
    assert!(problems.iter().any(|one| one.to_string().contains("older than the vault")), "{problems:?}");
    let error = module("another").execute(&stage.ctx).await.unwrap_err();
    assert!(error.to_string().contains("the catalogue is older than a vault"), "{error:?}");
    let module = module("laptop");
    assert_eq!(module.validate(&stage.ctx).await.unwrap(), []);
    let done = module.execute(&stage.ctx).await.unwrap();
    let Outcome::Done(text) = done else { panic!("{done:?}") };
    assert!(text.starts_with("0 new versions"), "{text}");
    let said = stage.kept.warnings();
    assert_eq!(said.iter().filter(|line| line.contains("is up to date again")).count(), 1, "{said:?}");
    assert!(said.iter().any(|line| line.contains("brings it up to date first")), "{said:?}");
}
