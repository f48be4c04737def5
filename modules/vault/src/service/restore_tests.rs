//! What a restore gives, and what it takes nobody's word for.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::world::{World, back_up, noise, stage};
use super::*;
use crate::engine::{Observer, Progress, Quiet, Swept, Unfinished, Way, named_alone};
use crate::format::Id;
use crate::store::faults::Faults;
use crate::store::{Kind, MemoryStore, Store, Thaw};

fn order(path: PathBuf) -> RestoreOrder {
    RestoreOrder {
        path,
        which: Which::Current,
        to: None,
        in_place: false,
        content_only: false,
        short_name: false,
        thaw: Thaw::default(),
    }
}

fn restore(world: &World, order: &RestoreOrder, observer: &dyn Observer) -> RestoreReport {
    let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
    service.restore(order, &mut |_| Ok(b"x".into()), observer).unwrap()
}

fn backed_up(world: &mut World) {
    world.hour += 1;
    world.now(|service| stage(service).and_then(|()| back_up(service)));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn content_alone_takes_the_place_of_a_file_and_its_rights() {
    let mut world = World::new();
    let secret = world.home.path().join("docs/secret");
    fs::write(&secret, "first").unwrap();
    backed_up(&mut world);
    fs::write(&secret, "second").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&secret, Some(1234), Some(4321)).unwrap();
    }
    let before = fs::metadata(&secret).unwrap();
    let order = RestoreOrder { in_place: true, content_only: true, ..order(secret.clone()) };
    let report = restore(&world, &order, &Quiet::default());
    assert!(report.troubles.is_empty() && report.refused.is_empty(), "{report:?}");
    let after = fs::metadata(&secret).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"first");
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
}

#[test]
fn what_a_file_has_beyond_its_version_goes_with_a_restore_in_its_place() {
    let mut world = World::new();
    let tool = world.home.path().join("docs/tool");
    fs::write(&tool, "x").unwrap();
    backed_up(&mut world);
    let then = fs::metadata(&tool).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let is_known = rustix::fs::setxattr(&tool, "user.added", b"later", flags).is_ok();
    let time = |seconds| rustix::fs::Timespec { tv_sec: then.mtime() + seconds, tv_nsec: then.mtime_nsec() };
    let times =
        rustix::fs::Timestamps { last_access: time(0), last_modification: time(i64::from(!is_known)) };
    rustix::fs::utimensat(rustix::fs::CWD, &tool, &times, rustix::fs::AtFlags::empty()).unwrap();
    let order = RestoreOrder { in_place: true, ..order(tool.clone()) };
    let report = restore(&world, &order, &Quiet::default());
    assert!(report.troubles.is_empty() && report.refused.is_empty(), "{report:?}");
    let after = fs::metadata(&tool).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (then.mtime(), then.mtime_nsec()));
    assert_eq!(crate::engine::xattrs(&tool).unwrap(), []);
}

/// Puts a link in the place of a directory when so many files were begun.
struct Swapping {
    at: usize,
    asked: AtomicUsize,
    directory: PathBuf,
    outside: PathBuf,
}

impl Observer for Swapping {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        if self.asked.fetch_add(1, Ordering::SeqCst) == self.at {
            fs::rename(&self.directory, self.directory.with_extension("moved")).unwrap();
            symlink(&self.outside, &self.directory).unwrap();
        }
        false
    }
}

#[test]
fn a_link_that_takes_the_place_of_a_directory_leads_a_restore_nowhere() {
    let mut world = World::new();
    let home = world.home.path().to_owned();
    let docs = home.join("docs");
    fs::create_dir(docs.join("sub")).unwrap();
    fs::set_permissions(docs.join("sub"), PermissionsExt::from_mode(0o777)).unwrap();
    for name in ["sub/a", "sub/b", "z"] {
        fs::write(docs.join(name), name).unwrap();
    }
    backed_up(&mut world);
    let outside = home.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o700)).unwrap();
    let mut happened = 0;
    for at in 0..16 {
        let to = home.join(format!("back{at}"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(to.join("sub")).unwrap();
        let observer =
            Swapping { at, asked: AtomicUsize::new(0), directory: to.join("sub"), outside: outside.clone() };
        let order = RestoreOrder { to: Some(to.clone()), ..order(docs.clone()) };
        let report = restore(&world, &order, &observer);
        assert_eq!(outside.read_dir().unwrap().count(), 0, "{at}");
        assert_eq!(mode(&outside), 0o700, "{at}");
        assert_eq!(fs::read(to.join("z")).unwrap(), b"z", "{at}");
        if observer.asked.load(Ordering::SeqCst) > at {
            happened += 1;
            assert!(!report.troubles.is_empty(), "{at}: what could not be restored is named");
        }
    }
    assert!(happened > 4, "{happened}");
}

#[test]
fn root_is_led_nowhere_by_a_link_in_the_place_of_a_tracked_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    fs::write(docs.join("f"), "x").unwrap();
    backed_up(&mut world);
    let outside = world.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::rename(&docs, world.home.path().join("moved")).unwrap();
    symlink(&outside, &docs).unwrap();
    let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
    let order =
        RestoreOrder { in_place: true, ..order(docs.canonicalize().unwrap().with_file_name("docs/f")) };
    let error = service.restore(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap_err();
    assert!(error.to_string().contains("is a link"), "{error}");
    assert_eq!(outside.read_dir().unwrap().count(), 0);
}

#[test]
fn a_directory_of_a_moment_is_without_what_was_gone_then() {
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    let at = |world: &World, hour: i64, minute: i64| {
        use jiff::ToSpan as _;
        let to = world.home.path().join(format!("{hour}-{minute}"));
        let moment = jiff::Timestamp::UNIX_EPOCH + hour.hours() + minute.minutes();
        let order = RestoreOrder { which: Which::At(moment), to: Some(to.clone()), ..order(docs.clone()) };
        restore(world, &order, &Quiet::default());
        let mut names: Vec<_> = to.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for name in ["a", "b"] {
        fs::write(docs.join(name), name).unwrap();
    }
    backed_up(&mut world);
    fs::remove_file(docs.join("b")).unwrap();
    backed_up(&mut world);
    fs::write(docs.join("b"), "again").unwrap();
    backed_up(&mut world);
    assert_eq!(at(&world, 1, 30), ["a", "b"]);
    assert_eq!(at(&world, 2, 0), ["a"]);
    assert_eq!(at(&world, 2, 59), ["a"]);
    assert_eq!(at(&world, 3, 0), ["a", "b"]);
    fs::remove_file(docs.join("a")).unwrap();
    backed_up(&mut world);
    assert_eq!(at(&world, 3, 59), ["a", "b"]);
    assert_eq!(at(&world, 5, 0), ["b"]);
}

/// Counts the locks in a store while somebody works with it.
struct Locks(Arc<MemoryStore>, AtomicUsize);

impl Observer for Locks {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.1.fetch_max(self.0.list(Kind::Lock).unwrap().len(), Ordering::SeqCst);
        false
    }
}

/// A store that cannot be written to.
struct ReadOnly(Arc<MemoryStore>);

impl Store for ReadOnly {
    fn put(&self, _: Kind, _: &str, _: &[u8]) -> Result<bool> {
        Err(ModuleError::failed("read-only"))
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.0.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.0.get_range(kind, name, offset, length)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.0.list(kind)
    }

    fn delete(&self, _: Kind, _: &str) -> Result<()> {
        Err(ModuleError::failed("read-only"))
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

#[test]
fn nobody_prunes_what_is_being_restored_and_a_vault_that_is_only_readable_is_restored_from() {
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    fs::write(docs.join("f"), "x").unwrap();
    backed_up(&mut world);
    let to = |name: &str| RestoreOrder { to: Some(world.home.path().join(name)), ..order(docs.join("f")) };
    let locks = Locks(world.store.clone(), AtomicUsize::new(0));
    restore(&world, &to("one"), &locks);
    assert_eq!(locks.1.load(Ordering::SeqCst), 1);
    assert!(world.store.list(Kind::Lock).unwrap().is_empty());

    let pid = std::process::id();
    let repo = crate::repo::Repository::open(world.store.clone(), b"x").unwrap();
    let around = world.around(world.state.path(), world.store.clone(), pid);
    let alone = repo.lock_alone(&around.who, &around.clock).unwrap();
    let mut service = world.service(world.state.path(), world.store.clone(), pid);
    let busy = service.restore(&to("two"), &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap_err();
    assert_eq!(busy.kind, ErrorKind::Busy);
    drop((alone, service));

    let mut service = world.service(world.state.path(), Arc::new(ReadOnly(world.store.clone())), pid);
    let report = service.restore(&to("three"), &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    assert_eq!(report.files.len(), 1);
}

#[test]
fn a_link_with_several_names_that_is_as_it_was_is_no_trouble_in_its_place() {
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    symlink("nowhere", docs.join("a")).unwrap();
    fs::hard_link(docs.join("a"), docs.join("b")).unwrap();
    backed_up(&mut world);
    let order = RestoreOrder { in_place: true, ..order(docs.canonicalize().unwrap()) };
    let report = restore(&world, &order, &Quiet::default());
    assert!(report.troubles.is_empty() && report.files.len() == 2, "{report:?}");
    // Another time of one of the names is that of all of them.
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, docs.join("a"), &times, flags).unwrap();
    let report = restore(&world, &order, &Quiet::default());
    assert!(report.troubles.len() == 2 && report.troubles[0].why.contains("has other names"), "{report:?}");
    assert_eq!(fs::symlink_metadata(docs.join("b")).unwrap().mtime(), 5);
}

#[test]
fn many_files_come_back_together_and_one_that_is_in_the_way_stops_no_other() {
    let mut world = World::new();
    world.put(0..40, 1);
    let docs = world.home.path().join("docs");
    for name in ["3", "9"] {
        fs::hard_link(docs.join(name), docs.join(format!("{name}-again"))).unwrap();
    }
    fs::create_dir(docs.join("sub")).unwrap();
    fs::write(docs.join("sub/deep"), "deep").unwrap();
    fs::set_permissions(docs.join("7"), PermissionsExt::from_mode(0o640)).unwrap();
    backed_up(&mut world);
    let back = world.home.path().join("back");
    fs::create_dir(&back).unwrap();
    for name in ["5", "9"] {
        fs::write(back.join(name), "mine").unwrap();
    }
    let all = RestoreOrder { to: Some(back.clone()), ..order(docs.canonicalize().unwrap()) };
    let report = restore(&world, &all, &Quiet::default());
    let are_taken = report.troubles.iter().all(|one| one.why.contains("exists already"));
    assert!(report.troubles.len() == 2 && are_taken, "{report:?}");
    assert_eq!((report.files.len(), report.bytes), (41, 40 * 8_000 + 4));
    for name in ["5", "9"] {
        assert_eq!(fs::read(back.join(name)).unwrap(), b"mine");
    }
    assert_eq!(fs::read(back.join("9-again")).unwrap(), fs::read(docs.join("9")).unwrap());
    for name in (0..40).filter(|name| ![5, 9].contains(name)).map(|name| name.to_string()) {
        let of = |root: &Path| (fs::read(root.join(&name)).unwrap(), mode(&root.join(&name)));
        assert_eq!(of(&back), of(&docs), "{name}");
        let at = |root: &Path| fs::metadata(root.join(&name)).unwrap().modified().unwrap();
        assert_eq!(at(&back), at(&docs), "{name}");
    }
    let ino = |name: &str| fs::metadata(back.join(name)).unwrap().ino();
    assert!(ino("3") == ino("3-again") && ino("3") != ino("4"));
    assert_eq!(fs::read(back.join("sub/deep")).unwrap(), b"deep");
    assert_eq!(back.read_dir().unwrap().count(), 43, "nothing else is left");
}

#[test]
fn a_further_name_is_that_of_a_file_that_was_proven_and_of_nothing_that_took_its_first_name() {
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    for (name, further) in [("a", &["b", "c"]), ("k", &["l", "m"])] {
        fs::write(docs.join(name), noise(8_000, 3)).unwrap();
        further.iter().for_each(|other| fs::hard_link(docs.join(name), docs.join(other)).unwrap());
    }
    backed_up(&mut world);
    let back = world.home.path().join("back");
    let all = RestoreOrder { to: Some(back.clone()), ..order(docs.canonicalize().unwrap()) };
    assert_eq!(restore(&world, &all, &Quiet::default()).files.len(), 6);
    let ino = |name: &str| fs::metadata(back.join(name)).unwrap().ino();
    // Somebody goes on with one of them, and further names are missing of both.
    fs::remove_file(back.join("a")).unwrap();
    fs::write(back.join("a"), noise(8_000, 4)).unwrap();
    for name in ["b", "c", "l"] {
        fs::remove_file(back.join(name)).unwrap();
    }
    let again = restore(&world, &all, &Quiet::default());
    assert!(again.troubles.len() == 1 && again.troubles[0].path.ends_with("a"), "{again:?}");
    assert_eq!((again.files.len(), again.there), (3, 2), "{again:?}");
    assert_eq!(fs::read(back.join("a")).unwrap(), noise(8_000, 4));
    for name in ["b", "c", "k", "l", "m"] {
        assert_eq!(fs::read(back.join(name)).unwrap(), noise(8_000, 3), "{name}");
    }
    assert!(ino("a") != ino("b") && ino("b") == ino("c") && ino("k") == ino("l"));
}

#[test]
fn what_an_earlier_restore_left_is_given_the_owner_and_rights_that_it_lacks() {
    let mut world = World::new();
    let docs = world.home.path().join("docs");
    let is_root = rustix::process::geteuid().is_root();
    for name in ["run", "several", "text", "whole"] {
        fs::write(docs.join(name), name).unwrap();
        if is_root {
            std::os::unix::fs::chown(docs.join(name), Some(1234), Some(4321)).unwrap();
        }
        let rights = if name == "run" { 0o4755 } else { 0o640 };
        fs::set_permissions(docs.join(name), PermissionsExt::from_mode(rights)).unwrap();
    }
    backed_up(&mut world);
    let back = world.home.path().join("back");
    let all = RestoreOrder { to: Some(back.clone()), ..order(docs.canonicalize().unwrap()) };
    assert!(restore(&world, &all, &Quiet::default()).troubles.is_empty());
    let whole = fs::metadata(back.join("whole")).unwrap();
    // As somebody leaves them who may give nothing to others.
    for name in ["run", "several", "text"] {
        if is_root {
            std::os::unix::fs::chown(back.join(name), Some(0), Some(0)).unwrap();
        }
        fs::set_permissions(back.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    fs::hard_link(back.join("several"), world.home.path().join("elsewhere")).unwrap();
    let content_only = RestoreOrder { content_only: true, ..all.clone() };
    let report = restore(&world, &content_only, &Quiet::default());
    assert!(report.there == 4 && mode(&back.join("text")) == 0o600, "{report:?}");
    let report = restore(&world, &all, &Quiet::default());
    assert_eq!((report.files.len(), report.there), (0, 4), "{report:?}");
    let of = |path: &Path| {
        let facts = fs::metadata(path).unwrap();
        (facts.uid(), facts.gid(), facts.mode() & 0o7777)
    };
    assert_eq!(of(&back.join("text")), of(&docs.join("text")));
    let after = fs::metadata(back.join("whole")).unwrap();
    assert_eq!((after.ctime(), after.ctime_nsec()), (whole.ctime(), whole.ctime_nsec()), "left alone");
    let said: Vec<_> =
        report.troubles.iter().map(|one| format!("{}", one.path.display()) + &one.why).collect();
    assert!(said.iter().any(|one| one.contains("several") && one.contains("has other names")), "{said:?}");
    assert_eq!(mode(&back.join("several")), 0o600, "it is somebody's else as well");
    if is_root {
        assert!(
            said.len() == 2 && said.iter().any(|one| one.contains("only a new file is given")),
            "{said:?}"
        );
        assert_eq!(of(&back.join("run")), (0, 0, 0o600), "who had it may hold it open");
    }
}

#[test]
fn what_is_in_its_place_as_it_should_be_is_not_kept_and_exchanged_again() {
    let mut world = World::new();
    world.put(0..6, 1);
    let docs = world.home.path().join("docs");
    fs::hard_link(docs.join("4"), docs.join("4-again")).unwrap();
    backed_up(&mut world);
    world.put(0..2, 2);
    let changed = fs::read(docs.join("0")).unwrap();
    let facts = |name: &str| fs::metadata(docs.join(name)).unwrap();
    let before = facts("3").ino();
    let all = RestoreOrder { in_place: true, ..order(docs.canonicalize().unwrap()) };
    let report = restore(&world, &all, &Quiet::default());
    assert_eq!((report.files.len(), report.there), (2, 5), "{report:?}");
    assert_eq!(facts("3").ino(), before);
    assert_eq!(facts("4").ino(), facts("4-again").ino());
    let kept = || world.state.path().join("vault/stage").read_dir().unwrap().count();
    let (kept_once, restored) = (kept(), facts("0").ino());
    let report = restore(&world, &all, &Quiet::default());
    assert_eq!((report.files.len(), report.there), (0, 7), "{report:?}");
    assert_eq!((kept(), facts("0").ino()), (kept_once, restored));
    // Other rights are a version of their own, which is kept before.
    fs::set_permissions(docs.join("5"), PermissionsExt::from_mode(0o600)).unwrap();
    let report = restore(&world, &all, &Quiet::default());
    assert_eq!((report.files.len(), report.there), (1, 6), "{report:?}");
    world.hour += 1;
    world.now(back_up);
    world.now(|service| {
        let history = service.history_of(&docs.canonicalize().unwrap().join("0"))?;
        let sums: Vec<_> = history.versions.iter().map(|one| one.checksum.parse::<Id>().unwrap()).collect();
        assert!(sums.len() >= 3 && sums.contains(&sum(&changed)), "{history:?}");
        assert_eq!(sums[0], sum(&fs::read(docs.join("0")).unwrap()), "what was restored is the current one");
        Ok(())
    });
}

fn sum(bytes: &[u8]) -> Id {
    use sha2::{Digest, Sha256};
    Id(Sha256::digest(bytes).into())
}

/// Wants an end when it was asked so often.
struct Ending(AtomicUsize, usize);

impl Observer for Ending {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst) >= self.1
    }
}

#[test]
fn a_stop_of_a_restore_leaves_whole_files_alone() {
    let mut world = World::new();
    world.put(0..30, 1);
    backed_up(&mut world);
    let docs = world.home.path().join("docs").canonicalize().unwrap();
    for asked in [10, 40, 60, 80] {
        let back = tempfile::tempdir_in(world.home.path()).unwrap();
        let order = RestoreOrder { to: Some(back.path().to_owned()), ..order(docs.clone()) };
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let ending = Ending(AtomicUsize::new(0), asked);
        let ended = service.restore(&order, &mut |_| Ok(b"x".into()), &ending);
        assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
        for entry in back.path().read_dir().unwrap().map(|entry| entry.unwrap()) {
            let original = fs::read(docs.join(entry.file_name()));
            assert_eq!(fs::read(entry.path()).unwrap(), original.unwrap(), "{entry:?}");
        }
    }
}

#[test]
fn a_restore_removes_what_a_dead_one_left_and_harms_none_beside_it() {
    let mut world = World::new();
    world.put(0..3, 1);
    let docs = world.home.path().join("docs").canonicalize().unwrap();
    fs::create_dir(docs.join("sub")).unwrap();
    fs::write(docs.join("sub/extra"), "extra").unwrap();
    backed_up(&mut world);
    let to = world.home.path().join("back");
    let way = Way::to(&to).unwrap();
    // As if the file system knew no files without a name.
    named_alone(&way);
    let names = || {
        let entries = to.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort_unstable();
        names
    };
    // What a killed process leaves: a name, and a lock that went with it.
    let dead = Unfinished::begin(&way, 0o600, &Swept::default()).unwrap();
    dead.as_file().write_all_at(b"half of", 0).unwrap();
    let left = names();
    fs::hard_link(to.join(&left[0]), world.home.path().join("kept")).unwrap();
    drop(dead);
    fs::rename(world.home.path().join("kept"), to.join(&left[0])).unwrap();
    fs::write(to.join(".pc-switcher-restore-mine"), "somebody's").unwrap();

    let (blocked, at_gate) = std::sync::mpsc::channel();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (blocked, gate) = (Mutex::new(blocked), Mutex::new(gate));
    let gated = Faults::on(&world.store).that_fails(move |call| {
        if call.what == "get_range" && call.kind == Kind::Pack {
            blocked.lock().unwrap().send(()).ok();
            gate.lock().unwrap().recv().ok();
        }
        None
    });
    let other_state = world.copy().0;
    let all = RestoreOrder { to: Some(to.clone()), ..order(docs.clone()) };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut service = world.service(world.state.path(), Arc::new(gated), std::process::id());
            service.restore(&all, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
        });
        at_gate.recv().unwrap();
        let under_way: Vec<String> = names();
        let being_written = under_way.iter().filter(|name| name.len() > 40).count();
        assert!(being_written > 0 && !under_way.contains(&left[0]), "{under_way:?} after {left:?}");
        // Somebody else restores into the same directory meanwhile.
        let mut service = world.service(other_state.path(), world.store.clone(), std::process::id());
        let one = RestoreOrder { path: docs.join("sub/extra"), ..all.clone() };
        let report = service.restore(&one, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
        assert_eq!(report.files, [to.join("extra")]);
        assert!(under_way.iter().all(|name| names().contains(name)), "{under_way:?}, {:?}", names());
        drop(open);
        let report = first.join().unwrap();
        assert!(report.files.len() == 4 && report.troubles.is_empty(), "{report:?}");
    });
    assert_eq!(names(), [".pc-switcher-restore-mine", "0", "1", "2", "extra", "sub"]);
    assert_eq!(fs::read(to.join("2")).unwrap(), fs::read(docs.join("2")).unwrap());
}
