//! Making room on a real btrfs, through a real agent: the order, how far it goes, and what stays whatever is wanted.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use jiff::ToSpan;
use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::linux::btrfs::{Btrfs, KernelBtrfs, SubvolumeInfo};
use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, main};
use pc_switcher_agent::proto::{
    AdoptRequest, CopyOrder, CreateSet, GoodBy, GoodMark, LockReply, LockRequest, Maker, PinOrder,
    SetRequest, SetsRequest, TakeSet, VerifyRequest, Words,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::{BtrfsSnapshotsConfig, SnapshotDir};
use pc_switcher_btrfs_snapshots::prune::{self, Waits};
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
    /// With a subvolume of a name of its own: those of all disks are looked at.
    fn make(home: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, top) = (dir.path().join("image"), dir.path().join("top"));
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(768 * MIB));
        made.and_then(|()| std::fs::create_dir(&top)).map_err(|error| error.to_string())?;
        let (image, point) = (image.display().to_string(), top.display().to_string());
        run("mkfs.btrfs", &["-q", &image])?;
        // The loop device goes away by itself with its last mount.
        run("mount", &["-o", "loop,subvolid=5", &image, &point])?;
        let disk = Self { dir, top };
        for name in [home, "@snapshots"] {
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
    home: &'static str,
}

impl Scene {
    async fn make(home: &'static str) -> Option<Self> {
        let disk = match Disk::make(home) {
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
            subvolumes: vec![home.parse().unwrap()],
            snapshot_dir: SnapshotDir::try_from(snapshot_dir).unwrap(),
            keep: "last 9 sessions".parse().unwrap(),
            keep_min: "last 1 session".parse().unwrap(),
            keep_good: 1,
        };
        Some(Self { agent, link, process, config, disk, home })
    }

    fn dir(&self) -> BytePath {
        self.config.snapshot_dir.as_path().into()
    }

    /// Takes the set of a session that alone holds so many mebibytes.
    async fn take(&self, n: u8, kind: SnapshotKind, mebibytes: u64, is_held: bool) -> SnapshotSet {
        let file = self.disk.top.join(self.home).join("work");
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
    let Some(scene) = Scene::make("@room-home").await else { return };
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

/// What stands at a path: its content, and what btrfs knows of it if it is a subvolume.
type Stands = (PathBuf, Vec<u8>, Option<SubvolumeInfo>);

/// What snapper, timeshift and btrbk leave in the directory that is ours as well.
struct Theirs {
    flat: Vec<BytePath>,
    dir: PathBuf,
}

impl Theirs {
    fn lay(scene: &Scene) -> Self {
        let (home, dir) = (scene.disk.top.join(scene.home), scene.disk.top.join("@snapshots"));
        std::fs::write(home.join("letter"), "then").unwrap();
        let snapshot = |to: &str, is_readonly: bool| {
            let to = dir.join(to);
            KernelBtrfs.snapshot(&home, to.parent().unwrap(), to.file_name().unwrap()).unwrap();
            KernelBtrfs.set_readonly(&to, is_readonly).unwrap();
        };
        let day = "2025-11-14_12-00-01";
        for (of, name, text) in [
            (
                "7",
                "info.xml",
                "<snapshot>\n  <num>7</num>\n  <date>2025-11-14 12:00:00</date>\n</snapshot>\n",
            ),
            (day, "info.json", "{\"comments\": \"by hand\"}"),
        ] {
            std::fs::create_dir(dir.join(of)).unwrap();
            std::fs::write(dir.join(of).join(name), text).unwrap();
        }
        snapshot("7/snapshot", true);
        snapshot(&format!("{day}/@home"), false);
        snapshot("room-home.20251114T1200", true);
        std::fs::write(home.join("letter"), "now").unwrap();
        let flat = ["2025-11-14_12-00-01", "7", "room-home.20251114T1200"];
        let theirs = Self { flat: flat.map(|name| dir.join(name).as_path().into()).to_vec(), dir };
        // Who reads what may be written to notes when: that is not to come later.
        theirs.read();
        KernelBtrfs.sync(&theirs.dir).unwrap();
        theirs
    }

    /// Returns all of it.
    fn read(&self) -> Vec<Stands> {
        let mut found = Vec::new();
        self.flat.iter().for_each(|path| gather(path.as_path(), &mut found));
        found
    }
}

fn gather(path: &Path, found: &mut Vec<Stands>) {
    if !path.is_dir() {
        return found.push((path.to_owned(), std::fs::read(path).unwrap(), None));
    }
    let is_subvolume = KernelBtrfs.inside(path).is_ok_and(|inside| inside.is_empty());
    found.push((path.to_owned(), Vec::new(), is_subvolume.then(|| KernelBtrfs.subvolume(path).unwrap())));
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    inside.sort();
    inside.iter().for_each(|path| gather(path, found));
}

/// Removes what can be removed of ours in each way that there is; says which sets are left.
async fn clear(scene: &Scene) -> String {
    let cancel = CancellationToken::new();
    let few = BtrfsSnapshotsConfig { keep: "last 4 sessions".parse().unwrap(), ..scene.config.clone() };
    let now = UtcStamp::new("2025-11-20T12:00:00Z".parse().unwrap()).timestamp();
    let judged = prune::look(&scene.agent, &few, now).await.unwrap();
    prune::remove(&scene.agent, &few, &judged.verdicts, Waits::Each, &cancel).await;
    let pruned = scene.sessions().await;
    let wish = Wish { wanted: Threshold::Share(0.999), only: If::Wanted, at_most: usize::MAX };
    scene.thin_to_the_end(wish).await;
    let thinned = scene.sessions().await;
    let ids = scene.agent.sets(scene.dir()).await.unwrap().0.iter().map(|stored| stored.set.id()).collect();
    let all = SetsRequest { snapshot_dir: scene.dir(), ids };
    scene.agent.delete_sets(all).await.unwrap();
    format!("{pruned} {thinned} {}", scene.sessions().await)
}

async fn verify(scene: &Scene) -> u64 {
    let request = VerifyRequest { snapshot_dir: scene.dir(), ids: Vec::new(), deep: true };
    let mut wrong = Vec::new();
    let seen = scene.agent.verify(request, |finding| wrong.push(finding)).await.unwrap();
    assert_eq!(wrong, []);
    seen.sets
}

#[tokio::test]
async fn what_snapper_timeshift_and_btrbk_have_among_our_sets_is_told_as_theirs_and_no_byte_of_it_changes() {
    let Some(scene) = Scene::make("@room-others").await else { return };
    let theirs = Theirs::lay(&scene);
    let before = theirs.read();
    let subvolumes = before.iter().filter_map(|(_, _, info)| info.as_ref());
    assert_eq!(subvolumes.map(|info| info.readonly).collect::<Vec<_>>(), [false, true, true]);

    for n in 1..=6 {
        scene.take(n, SnapshotKind::PostSync, 1, false).await;
    }
    let (_, strays) = scene.agent.sets(scene.dir()).await.unwrap();
    assert_eq!((strays.foreign, strays.orphans), (theirs.flat.clone(), vec![]));
    assert_eq!(verify(&scene).await, 6);
    assert_eq!(clear(&scene).await, "3456 6 ", "by the rules, for space, and by hand");
    assert_eq!(scene.agent.sets(scene.dir()).await.unwrap().1.foreign, theirs.flat);
    KernelBtrfs.sync(&theirs.dir).unwrap();
    assert_eq!(theirs.read(), before);

    // In the list as well they are theirs: ours come and go, and none of these.
    for maker in [Maker::Snapper, Maker::Timeshift, Maker::Btrbk] {
        let request = AdoptRequest { snapshot_dir: scene.dir(), from: maker, dirs: vec![scene.dir()] };
        let adopted = scene.agent.adopt(request).await.unwrap();
        assert_eq!(adopted.sets.len(), 1, "{maker}: {adopted:?}");
    }
    for n in 1..=6 {
        scene.take(n, SnapshotKind::PostSync, 1, false).await;
    }
    assert_eq!((scene.sessions().await.len(), verify(&scene).await), (9, 9));
    clear(&scene).await;
    let (sets, strays) = scene.agent.sets(scene.dir()).await.unwrap();
    assert_eq!((sets.len(), strays.foreign), (3, vec![]), "{sets:?}");
    assert_eq!(verify(&scene).await, 3);
    KernelBtrfs.sync(&theirs.dir).unwrap();
    assert_eq!(theirs.read(), before);
    scene.end().await;
}
