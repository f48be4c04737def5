use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::format::keyfile::Cost;
use crate::format::{BlobKind, Id, NodeKind, Snapshot};
use crate::repo::{FileTrouble, Repository, Who, Writer};
use crate::store::{Kind, MemoryStore, Store};

/// A store that dies: nothing is stored after so many objects.
struct Dying {
    inner: Arc<MemoryStore>,
    left: AtomicUsize,
}

impl Store for Dying {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| ModuleError::failed("the disk is gone"))?;
        self.inner.put(kind, name, bytes)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.inner.get_range(kind, name, offset, length)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.inner.list(kind)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.inner.delete(kind, name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

fn repository(store: Arc<dyn Store>) -> Repository {
    Repository::init(store, b"x", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH).unwrap()
}

/// What was backed up.
struct Done {
    tree: Id,
    files: u64,
}

/// Backs up a directory with all that is above it, in the order in which backups write.
fn back_up(repo: &Repository, source: &Path) -> Result<Done> {
    let (names, writer) = (Names::default(), Writer::new(repo)?);
    let (mut data, mut trees) = (writer.packer(BlobKind::Data)?, writer.packer(BlobKind::Tree)?);
    let mut entries = Vec::new();
    let mut found: Vec<PathBuf> = vec![source.to_owned()];
    while let Some(path) = found.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let mut node = node_of(&path, path.file_name().unwrap(), &facts, &names).unwrap();
        if facts.is_dir() {
            found.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let content = match data.add_file(fs::File::open(&path).unwrap()) {
                Err(FileTrouble::Store(error)) => return Err(error),
                content => content.unwrap(),
            };
            node.content = Some(content.chunks.into_iter().map(|(id, _)| id).collect());
        }
        entries.push((path, node));
    }
    entries.sort_by(|a, b| a.0.components().cmp(b.0.components()));
    let files = entries.iter().filter(|(_, node)| node.kind == NodeKind::File).count() as u64;
    let mut assembler = Assembler::new(&mut trees);
    feed(&mut assembler, entries.into_iter().map(Ok), |path| bare_directory(path, &names))?;
    let (tree, _) = assembler.finish()?;
    data.flush()?;
    trees.flush()?;
    writer.index()?;
    let snapshot = Snapshot {
        time: Timestamp::UNIX_EPOCH.to_string(),
        parent: None,
        tree,
        paths: vec![],
        hostname: String::new(),
        username: String::new(),
        uid: 0,
        gid: 0,
        tags: vec![],
        original: None,
        program_version: String::new(),
    };
    repo.save(Kind::Snapshot, &snapshot)?;
    Ok(Done { tree, files })
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn whichever_write_is_the_last_the_repository_is_sound_and_the_next_run_completes() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..3_u64 {
        fs::write(dir.path().join(format!("large {index}")), noise(9 << 20, index + 1)).unwrap();
    }
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/small"), "small").unwrap();
    for writes in 0.. {
        let store = Arc::new(MemoryStore::default());
        repository(store.clone());
        let dying = Arc::new(Dying { inner: store.clone(), left: AtomicUsize::new(writes) });
        let ended = back_up(&Repository::open(dying, b"x").unwrap(), dir.path());
        let repo = Repository::open(store, b"x").unwrap();
        let found = check(&repo, &Reading::All, &Quiet::default()).unwrap();
        assert_eq!(found.problems.kept(), [""; 0], "after {writes} writes");
        assert_eq!(found.snapshots, u64::from(ended.is_ok()));
        back_up(&repo, dir.path()).unwrap();
        assert_eq!(check(&repo, &Reading::All, &Quiet::default()).unwrap().problems.kept(), [""; 0]);
        if ended.is_ok() {
            assert!(writes > 4, "{writes} writes are all");
            return;
        }
    }
}

#[test]
fn a_file_that_holds_the_text_of_a_tree_is_stored_beside_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let text = crate::format::Tree::default().to_blob().unwrap();
    fs::write(dir.path().join("tree"), &text).unwrap();
    let repo = repository(Arc::new(MemoryStore::default()));
    let tree = back_up(&repo, dir.path()).unwrap().tree;
    for kind in [BlobKind::Data, BlobKind::Tree] {
        assert_eq!(repo.blob(kind, Id::of(&text)).unwrap(), text);
    }
    let kinds: Vec<BlobKind> = repo.indexed().values().flatten().map(|(_, at)| at.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == BlobKind::Data).count(), 1, "{kinds:?}");
    let target = tempfile::tempdir().unwrap();
    let restorer =
        Restorer { repo: &repo, content_only: false, observer: &Quiet::default(), swept: Swept::default() };
    assert_eq!(restorer.tree(tree, target.path()).unwrap().troubles, vec![]);
}

/// Returns a repository as older versions left it: a tree whose text was the content of a file before, and the other way round.
fn with_one_kind_each(store: &Arc<MemoryStore>) -> (Repository, [(BlobKind, Id); 2]) {
    let repo = repository(store.clone());
    let mut node = crate::format::Node::new("f".into(), crate::format::NodeKind::File);
    let empty = crate::format::Tree::default().to_blob().unwrap();
    (node.size, node.content) = (empty.len() as u64, Some(vec![Id::of(&empty)]));
    let mut directory = crate::format::Node::new("d".into(), crate::format::NodeKind::Dir);
    directory.subtree = Some(Id::of(&empty));
    let top = crate::format::Tree { nodes: vec![directory, node] }.to_blob().unwrap();
    let writer = Writer::new(&repo).unwrap();
    // The root alone as content, the empty tree alone as a tree.
    for (kind, blob) in [(BlobKind::Data, &top), (BlobKind::Tree, &empty)] {
        let mut packer = writer.packer(kind).unwrap();
        packer.add(blob).unwrap();
        packer.flush().unwrap();
    }
    writer.index().unwrap();
    let snapshot = Snapshot {
        time: Timestamp::UNIX_EPOCH.to_string(),
        parent: None,
        tree: Id::of(&top),
        paths: vec![],
        hostname: String::new(),
        username: String::new(),
        uid: 0,
        gid: 0,
        tags: vec![],
        original: None,
        program_version: String::new(),
    };
    repo.save(Kind::Snapshot, &snapshot).unwrap();
    let lacking = [(BlobKind::Tree, Id::of(&top)), (BlobKind::Data, Id::of(&empty))];
    (Repository::open(store.clone(), b"x").unwrap(), lacking)
}

#[test]
fn a_tree_that_an_older_version_stored_as_content_alone_is_read_named_and_stored_as_what_it_is_by_a_prune() {
    let store = Arc::new(MemoryStore::default());
    let (repo, lacking) = with_one_kind_each(&store);
    let problems = check(&repo, &Reading::All, &Quiet::default()).unwrap().problems;
    assert!(
        problems.count() == 2 && problems.kept().iter().all(|one| one.contains("bt prune")),
        "{problems:?}"
    );
    let target = tempfile::tempdir().unwrap();
    let restorer =
        Restorer { repo: &repo, content_only: true, observer: &Quiet::default(), swept: Swept::default() };
    let tree = repo.snapshots().unwrap()[0].1.tree;
    assert_eq!(restorer.tree(tree, target.path()).unwrap().troubles, vec![]);

    let clock: pc_switcher_contract::Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
    let (forget, also_needed) = Default::default();
    let when = When { now: clock(), grace: std::time::Duration::ZERO };
    let order = PruneOrder { forget: &forget, also_needed: &also_needed, when, alone: None };
    let objects = store.list(Kind::Pack).unwrap();
    prune(&repo, &order, &Quiet::default()).unwrap();
    assert_eq!(store.list(Kind::Pack).unwrap(), objects, "a dry run writes nothing");
    let alone = repo.lock_alone(&Who { pid: std::process::id(), ..Who::default() }, &clock).unwrap();
    prune(&repo, &PruneOrder { alone: Some(&alone), ..order }, &Quiet::default()).unwrap();
    drop(alone);
    let repo = Repository::open(store, b"x").unwrap();
    assert_eq!(check(&repo, &Reading::All, &Quiet::default()).unwrap().problems.kept(), [""; 0]);
    for (kind, id) in lacking {
        assert!(repo.find(kind, &id).is_some());
    }
}

/// A store in which somebody takes the vault over as soon as a pack was removed, while this machine sleeps for an hour.
struct TakenOver {
    inner: Arc<MemoryStore>,
    hours: Arc<AtomicUsize>,
}

impl Store for TakenOver {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.inner.put(kind, name, bytes)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.inner.get_range(kind, name, offset, length)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.inner.list(kind)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        if kind == Kind::Pack {
            self.hours.fetch_add(1, Ordering::SeqCst);
            for (lock, _) in self.inner.list(Kind::Lock)? {
                self.inner.delete(Kind::Lock, &lock)?;
            }
        }
        self.inner.delete(kind, name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

#[test]
fn a_prune_whose_lock_was_taken_away_removes_no_further_pack() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::default());
    let repo = repository(store.clone());
    for content in ["one", "two"] {
        fs::write(dir.path().join("f"), content).unwrap();
        back_up(&repo, dir.path()).unwrap();
    }
    let packs = store.list(Kind::Pack).unwrap().len();
    let hours = Arc::new(AtomicUsize::new(0));
    let slept = hours.clone();
    let clock: pc_switcher_contract::Clock =
        Arc::new(move || Timestamp::from_second(slept.load(Ordering::SeqCst) as i64 * 3600).unwrap());
    let taken_over = Arc::new(TakenOver { inner: store.clone(), hours });
    let repo = Repository::open(taken_over, b"x").unwrap();
    let alone = repo.lock_alone(&Who { pid: std::process::id(), ..Who::default() }, &clock).unwrap();
    let forget = repo.snapshots().unwrap().into_iter().map(|(id, _)| id).collect();
    let when = When { now: clock(), grace: std::time::Duration::ZERO };
    let order = PruneOrder { forget: &forget, also_needed: &Default::default(), when, alone: Some(&alone) };
    let error = prune(&repo, &order, &Quiet::default()).unwrap_err();
    assert_eq!(error.kind, pc_switcher_contract::ErrorKind::Busy, "{error}");
    assert!(packs > 2, "{packs}");
    assert_eq!(store.list(Kind::Pack).unwrap().len(), packs - 1);
}

#[test]
fn a_tree_that_is_there_is_told_by_what_its_file_system_keeps_of_times_and_given_what_it_lacks() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let then = Timestamp::from_second(1_000_000_001).unwrap() + jiff::SignedDuration::from_nanos(987_654_321);
    let set = |path: &Path, at: Timestamp| {
        let at = std::time::SystemTime::from(at);
        fs::File::open(path).unwrap().set_modified(at).unwrap();
    };
    for name in ["a", "b"] {
        fs::write(source.path().join(name), name).unwrap();
        set(&source.path().join(name), then);
    }
    fs::set_permissions(source.path().join("b"), fs::Permissions::from_mode(0o640)).unwrap();
    let repo = repository(Arc::new(MemoryStore::default()));
    let tree = back_up(&repo, source.path()).unwrap().tree;
    let restorer =
        Restorer { repo: &repo, content_only: false, observer: &Quiet::default(), swept: Swept::default() };
    let restore = || restorer.tree(tree, target.path()).unwrap();
    assert_eq!(restore().files, 2);
    let below = target.path().join(source.path().strip_prefix("/").unwrap());
    let at = |name: &str| {
        Timestamp::try_from(fs::metadata(below.join(name)).unwrap().modified().unwrap()).unwrap()
    };
    // Of exFAT, NTFS, old systems and FAT.
    for kept in [10_000_000, 100, 1_000_000_000, 2_000_000_000] {
        let nanoseconds = then.as_nanosecond();
        set(&below.join("a"), Timestamp::from_nanosecond(nanoseconds - nanoseconds % kept).unwrap());
        let again = restore();
        assert_eq!((again.files, again.there, again.troubles), (0, 2, vec![]), "{kept}");
        assert_eq!(at("a"), then, "where more of it can be kept it is set");
    }
    set(&below.join("a"), then - jiff::SignedDuration::from_secs(2));
    let other = restore();
    assert!(other.there == 1 && other.troubles[0].why.contains("exists already"), "{other:?}");
    fs::set_permissions(below.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    restore();
    assert_eq!(fs::metadata(below.join("b")).unwrap().mode() & 0o7777, 0o640);
    fs::set_permissions(below.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(below.join("b"), target.path().join("elsewhere")).unwrap();
    let told = restore();
    assert!(told.troubles.iter().any(|one| one.why.contains("has other names")), "{told:?}");
    assert_eq!(fs::metadata(below.join("b")).unwrap().mode() & 0o7777, 0o600);
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (0_usize..3_000_000, any::<u64>()).prop_map(|(length, seed)| noise(length, seed | 1)),
        (0_usize..3_000_000).prop_map(|length| vec![0; length]),
    ]
}

fn name() -> impl Strategy<Value = OsString> {
    use std::os::unix::ffi::OsStringExt as _;
    let byte = any::<u8>().prop_filter("part of a name", |byte| !matches!(byte, 0 | b'/'));
    let bytes = proptest::collection::vec(byte, 1..12);
    bytes
        .prop_filter("no way out", |bytes| !matches!(bytes.as_slice(), b"." | b".."))
        .prop_map(OsString::from_vec)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_files_come_back_as_they_were(files in proptest::collection::btree_map((name(), name()), content(), 0..12)) {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut written: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for ((directory, name), content) in files {
            let path = source.path().join(&directory).join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
            written.insert(Path::new(&directory).join(&name), content);
        }
        let repo = repository(Arc::new(MemoryStore::default()));
        let summary = back_up(&repo, source.path()).unwrap();
        prop_assert_eq!(summary.files, written.len() as u64);
        let restorer = Restorer { repo: &repo, content_only: false, observer: &Quiet::default(), swept: Swept::default() };
        let restored = restorer.tree(summary.tree, target.path()).unwrap();
        prop_assert_eq!(restored.troubles, vec![]);
        let below = target.path().join(source.path().strip_prefix("/").unwrap());
        for (path, content) in written {
            let back = fs::read(below.join(&path)).unwrap();
            prop_assert_eq!(Id::of(&back), Id::of(&content), "{}", path.display());
        }
    }
}
