//! Making room on a real btrfs, through a real agent: the order, how far it goes, and what stays whatever is wanted.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use jiff::ToSpan;
use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, main};
use pc_switcher_agent::proto::{
    CopyOrder, CreateSet, GoodBy, GoodMark, LockReply, LockRequest, PinOrder, SetRequest, TakeSet, Words,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::{BtrfsSnapshotsConfig, SnapshotDir};
use pc_switcher_btrfs_snapshots::thin::{If, Thinned, Wish, thin};
use pc_switcher_contract::{
    AgentLink, BytePath, PairEnd, PairRecord, Role, SnapshotKind, SnapshotSet, Threshold, UtcStamp,
};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// Not a test: what the other one starts. Without the variable it has nothing to do.
#[test]
fn be_the_agent() {
    let Some(dir) = std::env::var_os("ROOM_AGENT_DIR") else { return };
    let mut options = AgentOptions::new("0.0.0", Box::new(NoHistory));
    options.state_dir = Path::new(&dir).join("state");
    options.lock_path = Path::new(&dir).join("run/lock");
    // Above this process may be the connection of whoever runs the tests.
    options.ends_connection = false;
    let _ = main(options);
}

struct NoHistory;

impl HistoryKeeper for NoHistory {
    fn put(&self, _state_dir: &Path, _row: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn list(&self, _state_dir: &Path, _count: usize) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A mounted image; unmounted and detached when dropped.
struct Disk {
    dir: tempfile::TempDir,
    top: PathBuf,
}

impl Disk {
    fn make() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, top) = (dir.path().join("image"), dir.path().join("top"));
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(768 * MIB));
        made.and_then(|()| std::fs::create_dir(&top)).map_err(|error| error.to_string())?;
        let (image, point) = (image.display().to_string(), top.display().to_string());
        run("mkfs.btrfs", &["-q", &image])?;
        // The loop device goes away by itself with its last mount.
        run("mount", &["-o", "loop,subvolid=5", &image, &point])?;
        let disk = Self { dir, top };
        for name in ["@room-home", "@snapshots"] {
            run("btrfs", &["subvolume", "create", &format!("{point}/{name}")])?;
        }
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(why) = run("umount", &[&self.top.display().to_string()]) {
            eprintln!("left mounted: {why}");
        }
    }
}

/// A disk, and the agent that holds the lock of its machine.
struct Scene {
    agent: Agent,
    link: Arc<AgentConn>,
    process: Child,
    config: BtrfsSnapshotsConfig,
    disk: Disk,
}

impl Scene {
    async fn make() -> Option<Self> {
        let disk = match Disk::make() {
            Ok(disk) => disk,
            Err(why) if std::env::var_os("LAB_REQUIRED").is_some() => panic!("no btrfs image: {why}"),
            Err(why) => {
                eprintln!("skipped: no btrfs image can be mounted here: {why}");
                return None;
            }
        };
        // The agent blocks signals before there are other threads; below a test runner it has to be born so.
        let mut process = Command::new("env")
            .arg("--block-signal=INT,HUP,PIPE,TERM")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "be_the_agent", "--nocapture"])
            .env("ROOM_AGENT_DIR", disk.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (reader, writer) = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
        let (link, _) = AgentConn::start(reader, writer, ConnOptions::new("laptop", "0.0.0")).await.unwrap();
        let shared: Arc<dyn AgentLink> = link.clone();
        let agent = Agent::new(&shared);
        let request = LockRequest {
            session: "abc12345".parse().unwrap(),
            role: Role::Target,
            from: "laptop".parse().unwrap(),
            user: "alice".into(),
        };
        assert_eq!(agent.lock(request).await.unwrap(), LockReply::Held);
        let snapshot_dir = disk.top.join("@snapshots").display().to_string();
        let config = BtrfsSnapshotsConfig {
            subvolumes: vec!["@room-home".parse().unwrap()],
            snapshot_dir: SnapshotDir::try_from(snapshot_dir).unwrap(),
            keep: "last 9 sessions".parse().unwrap(),
            keep_min: "last 1 session".parse().unwrap(),
            keep_good: 1,
        };
        Some(Self { agent, link, process, config, disk })
    }

    fn dir(&self) -> BytePath {
        self.config.snapshot_dir.as_path().into()
    }

    /// Takes the set of a session that alone holds so many mebibytes.
    async fn take(&self, n: u8, kind: SnapshotKind, mebibytes: u64, is_held: bool) -> SnapshotSet {
        let file = self.disk.top.join("@room-home/work");
        let noise = std::fs::File::open("/dev/urandom").unwrap();
        let mut noise = std::io::Read::take(noise, mebibytes * MIB);
        std::io::copy(&mut noise, &mut std::fs::File::create(&file).unwrap()).unwrap();
        let set = TakeSet {
            session: format!("0000000{n}").parse().unwrap(),
            stamp: format!("20251115T12000{n}Z").parse().unwrap(),
            kind,
            snapshot_dir: self.dir(),
            subvolumes: self.config.subvolumes.clone(),
        };
        let taken = match is_held {
            true => self.agent.take_set(set).await,
            false => {
                let (words, copies) = (Words::default(), CopyOrder::default());
                let request = CreateSet { set, words, pinned: false, copies };
                self.agent.create_set(request).await.map(|created| created.set)
            }
        };
        std::fs::remove_file(&file).unwrap();
        taken.unwrap()
    }

    async fn thin(&self, wish: Wish) -> Thinned {
        let now = UtcStamp::new("2025-11-20T12:00:00Z".parse().unwrap()).timestamp() + 1.hour();
        thin(&self.agent, &self.config, now, wish, &CancellationToken::new()).await.unwrap()
    }

    /// As [`Scene::thin`], as often as it takes a disk that is slow to clear away what was removed.
    async fn thin_to_the_end(&self, wish: Wish) -> Thinned {
        loop {
            let thinned = self.thin(wish).await;
            if !thinned.is_clearing {
                return thinned;
            }
        }
    }

    async fn available(&self) -> u64 {
        self.agent.space(vec![self.dir()]).await.unwrap()[0].available_bytes
    }

    /// The sessions that are there, by their last digit.
    async fn sessions(&self) -> String {
        let (sets, _) = self.agent.sets(self.dir()).await.unwrap();
        let mut last: Vec<String> =
            sets.iter().map(|stored| stored.set.session.as_str()[7..].to_owned()).collect();
        last.sort();
        last.concat()
    }

    async fn end(mut self) {
        self.link.close();
        self.process.wait().await.unwrap();
    }
}

/// Makes a set the base of the next sync with a desk.
async fn pair(scene: &Scene, set: SnapshotSet) {
    let end = |name: &str, machine_id: String, set| PairEnd {
        hostname: name.parse().unwrap(),
        machine_id,
        set,
        manifests: Vec::new(),
    };
    let own = scene.agent.facts().await.unwrap().machine_id;
    let record = PairRecord {
        format: PairRecord::FORMAT,
        session: set.session.clone(),
        stamp: set.stamp,
        source: end("laptop", own, Some(set)),
        target: end("desk", "id-of-desk".into(), None),
        rule_hash: String::new(),
        unsettled: Vec::new(),
        unsent: Vec::new(),
        apart: Vec::new(),
        alien: Vec::new(),
        lacking: Vec::new(),
        parts: Vec::new(),
    };
    let bytes = serde_json::to_vec(&record).unwrap();
    scene.agent.state_put("pairs/idofdesk.json", Some(bytes)).await.unwrap();
}

#[tokio::test]
async fn the_largest_go_first_until_there_is_enough_and_what_is_held_on_to_stays_whatever_is_wanted() {
    let Some(scene) = Scene::make().await else { return };
    let request = |set: &SnapshotSet| SetRequest { snapshot_dir: scene.dir(), id: set.id() };
    let pinned = scene.take(1, SnapshotKind::PostSync, 8, false).await;
    scene.agent.pin_set(request(&pinned), PinOrder::Hard).await.unwrap();
    let good = scene.take(2, SnapshotKind::PostSync, 8, false).await;
    scene
        .agent
        .mark_good(scene.dir(), GoodMark::Set { id: good.id(), by: GoodBy::Hand, keep: 1 })
        .await
        .unwrap();
    scene.take(3, SnapshotKind::PostSync, 8, true).await;
    let base = scene.take(4, SnapshotKind::PostSync, 8, false).await;
    pair(&scene, base).await;
    scene.take(5, SnapshotKind::PreRollback, 8, false).await;
    for (n, mebibytes) in [(6, 16), (7, 40), (8, 24), (9, 8)] {
        scene.take(n, SnapshotKind::PostSync, mebibytes, false).await;
    }
    let before = scene.available().await;
    let more = Threshold::Bytes(before + 50 * MIB);

    let one = scene.thin(Wish { at_most: 1, ..Wish::for_enough(more) }).await;
    assert_eq!((one.is_enough, scene.sessions().await.as_str()), (false, "12345689"));
    let enough = scene.thin_to_the_end(Wish::for_enough(more)).await;
    assert_eq!((enough.is_enough, scene.sessions().await.as_str()), (true, "1234569"));
    assert!(scene.available().await >= before + 50 * MIB);

    let everything = Threshold::Share(0.999);
    let in_vain = scene.thin(Wish::for_enough(everything)).await;
    assert_eq!((in_vain.pruned.removed.len(), scene.sessions().await.as_str()), (0, "1234569"));
    let wish = Wish { wanted: everything, only: If::Wanted, at_most: usize::MAX };
    let all = scene.thin_to_the_end(wish).await;
    assert_eq!((all.is_enough, scene.sessions().await.as_str()), (false, "123459"), "{all:?}");
    scene.end().await;
}
