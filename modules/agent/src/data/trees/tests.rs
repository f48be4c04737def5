//! Copies of real trees, on whatever file system the tests run on.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use rustix::process::geteuid;

use super::item::{Item, What};
use super::roll::read_inventory;
use super::*;
use crate::data::rules::Rules;
use crate::proto::{FileTime, Rule, RuleSet};

/// A live tree, and copies of it beside it.
struct Bench {
    dir: tempfile::TempDir,
    form: Form,
}

impl Bench {
    /// `None` without root, who alone can give files away and make them immutable.
    fn make(form: Form) -> Option<Self> {
        geteuid().is_root().then(|| {
            let bench = Self { dir: tempfile::tempdir().unwrap(), form };
            fs::create_dir(bench.at("live")).unwrap();
            bench
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn list(&self, name: &str) -> PathBuf {
        self.at(&format!("{name}.list"))
    }

    fn open(&self, name: &str) -> OwnedFd {
        fs::File::open(self.at(name)).unwrap().into()
    }

    /// Copies the live tree; `settled` as if everything had changed long ago.
    fn copy(&self, name: &str, former: Option<&str>) -> Vec<String> {
        self.copy_but(name, former, &[], FileTime { seconds: i64::MAX, nanos: 0 })
    }

    fn copy_but(&self, name: &str, former: Option<&str>, but: &[&str], settled: FileTime) -> Vec<String> {
        fs::create_dir(self.at(name)).unwrap();
        let layered = but.iter().map(|one| Rule { pattern: (*one).into(), reason: String::new() }).collect();
        let rules = RuleSet { forced: Vec::new(), layered };
        let former = former.map(|name| Former::read(self.open(name), &self.list(name)).unwrap());
        fs::create_dir_all(self.at("live/store")).unwrap();
        let growth = Growth {
            live: &self.at("live").as_path().into(),
            root: &self.open(name),
            rules: &Rules::compile(&rules, &"live".into()).unwrap(),
            store: &self.open("live/store"),
            form: self.form,
            level: 3,
            former: former.as_ref(),
            settled,
            stop: &|| false,
        };
        let mut inventory = Inventory::create(&self.list(name)).unwrap();
        let notes =
            grow(&growth, &mut inventory).map_err(|(path, error)| format!("{path}: {error}")).unwrap();
        inventory.finish().unwrap();
        seal(&self.open(name)).unwrap();
        notes
    }

    fn findings(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut told = |path: &[u8], what: String| {
            found.push(format!("{} {what}", BytePath::new(path)));
            Ok(())
        };
        check((&self.open(name), &self.list(name), self.form), &mut told, &|| false).unwrap();
        found.sort();
        found
    }

    fn remove(&self, name: &str) {
        let name = std::ffi::CString::new(name).unwrap();
        remove(&self.open("."), &name).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
            self.remove(entry.file_name().to_str().unwrap());
        }
    }
}

/// All that a person could tell of a tree, line by line.
fn picture(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    let mut first: Vec<(u64, PathBuf)> = Vec::new();
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            kind if kind.is_file() => {
                format!("{} {}", meta.size(), blake3::hash(&fs::read(&path).unwrap()).to_hex())
            }
            _ => format!("{}", meta.rdev()),
        };
        let of = match meta.is_file().then(|| first.iter().find(|(ino, _)| *ino == meta.ino())).flatten() {
            Some((_, first)) => format!("{first:?}"),
            None => {
                first.push((meta.ino(), inside.clone()));
                String::new()
            }
        };
        let fd =
            rustix::fs::open(&path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW, Mode::empty());
        let xattrs = crate::data::xattr::Reader::new().of(fd.unwrap()).unwrap();
        // The first name that is met depends on the order of the directory.
        let of = if of.is_empty() { 0 } else { 1 };
        lines.push(format!(
            "{inside:?} {:o} {}:{} {}.{} {content} {xattrs:?} {of}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        ));
        todo.sort();
    }
    lines.sort();
    lines
}

fn furnish(live: &Path) {
    fs::create_dir_all(live.join("notes/deep/er")).unwrap();
    fs::write(live.join("notes/today"), "write to ann").unwrap();
    fs::write(live.join("notes/empty"), "").unwrap();
    fs::write(live.join("notes/large"), vec![7; 700_000]).unwrap();
    fs::hard_link(live.join("notes/today"), live.join("notes/deep/other")).unwrap();
    symlink("/nowhere", live.join("notes/link")).unwrap();
    mknodat(CWD, live.join("notes/pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = fs::File::create(live.join("notes/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 1 << 20).unwrap();
    fs::write(live.join("notes").join(std::ffi::OsStr::new("new\nline")), "odd").unwrap();
    fs::set_permissions(live.join("notes/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    std::os::unix::fs::chown(live.join("notes/large"), Some(1234), Some(4321)).unwrap();
    fs::set_permissions(live.join("notes/large"), fs::Permissions::from_mode(0o4751)).unwrap();
    setxattr(live.join("notes/today"), "trusted.mood", b"good", XattrFlags::empty()).unwrap();
    fs::File::open(live.join("notes/deep")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
}

fn same(bench: &Bench, name: &str) {
    let (mut live, copy) = (picture(&bench.at("live")), picture(&bench.at(name)));
    live.retain(|line| !line.starts_with("\"store\""));
    assert_eq!(live, copy);
}

fn ino(path: impl AsRef<Path>) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn a_copy_is_the_tree_and_shares_no_inode_with_it() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    furnish(&bench.at("live"));
    assert_eq!(bench.copy("a", None), Vec::<String>::new());
    same(&bench, "a");
    for name in ["notes/today", "notes/large", "notes/link", "notes/pipe"] {
        assert_ne!(ino(bench.at("live").join(name)), ino(bench.at("a").join(name)));
    }
    let sparse = fs::metadata(bench.at("a/notes/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    assert_eq!(bench.findings("a"), Vec::<String>::new());
    let is_immutable = rustix::fs::ioctl_getflags(bench.open("a/notes"))
        .is_ok_and(|flags| flags.contains(rustix::fs::IFlags::IMMUTABLE));
    if is_immutable {
        assert!(fs::write(bench.at("a/notes/today"), "x").is_err());
        assert!(fs::remove_file(bench.at("a/notes/today")).is_err());
    }
}

#[test]
fn what_did_not_change_is_a_further_name_of_what_the_copy_before_has_and_all_else_is_new() {
    for form in [Form::Hardlink, Form::Archive] {
        let Some(bench) = Bench::make(form) else { return };
        let live = |name: &str| bench.at("live").join(name);
        furnish(&bench.at("live"));
        bench.copy("a", None);
        fs::write(live("notes/empty"), "no more").unwrap();
        fs::set_permissions(live("notes/large"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(live("notes/sparse"), live("notes/deep/thin")).unwrap();
        // The same content and time, another inode.
        let modified = fs::metadata(live("notes/new\nline")).unwrap().modified().unwrap();
        fs::remove_file(live("notes/new\nline")).unwrap();
        fs::write(live("notes/new\nline"), "odd").unwrap();
        fs::File::options()
            .write(true)
            .open(live("notes/new\nline"))
            .unwrap()
            .set_modified(modified)
            .unwrap();
        bench.copy("b", Some("a"));
        assert_eq!(bench.findings("b"), Vec::<String>::new());
        let is_shared = |a: &str, b: &str| ino(bench.at("a").join(a)) == ino(bench.at("b").join(b));
        for (a, b) in [
            ("notes/today", "notes/today"),
            ("notes/deep/other", "notes/deep/other"),
            ("notes/sparse", "notes/deep/thin"),
            ("notes/new\nline", "notes/new\nline"),
        ] {
            assert!(is_shared(a, b), "{form:?}: {a:?} takes space twice");
        }
        assert!(!is_shared("notes/empty", "notes/empty") && !is_shared("notes/large", "notes/large"));
        if form == Form::Hardlink {
            same(&bench, "b");
        }
        // The copies are independent of each other.
        bench.remove("a");
        assert_eq!(bench.findings("b"), Vec::<String>::new());
    }
}

#[test]
fn two_files_never_become_one() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    let live = |name: &str| bench.at("live").join(name);
    fs::write(live("a"), "the same").unwrap();
    bench.copy("1", None);
    // `a` moved to `b`, and a new `a` with the same content and time.
    let modified = fs::metadata(live("a")).unwrap().modified().unwrap();
    fs::rename(live("a"), live("b")).unwrap();
    fs::write(live("a"), "the same").unwrap();
    fs::File::options().write(true).open(live("a")).unwrap().set_modified(modified).unwrap();
    bench.copy("2", Some("1"));
    assert_ne!(ino(bench.at("2/a")), ino(bench.at("2/b")));
    // Two names of one file that were parted.
    fs::remove_file(live("b")).unwrap();
    fs::hard_link(live("a"), live("b")).unwrap();
    bench.copy("3", Some("2"));
    assert_eq!(ino(bench.at("3/a")), ino(bench.at("3/b")));
    fs::remove_file(live("b")).unwrap();
    fs::copy(live("a"), live("b")).unwrap();
    fs::File::options().write(true).open(live("b")).unwrap().set_modified(modified).unwrap();
    bench.copy("4", Some("3"));
    assert_ne!(ino(bench.at("4/a")), ino(bench.at("4/b")));
    for name in ["1", "2", "3", "4"] {
        assert_eq!(bench.findings(name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_file_that_may_have_changed_within_a_tick_is_read_again() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    let file = bench.at("live/file");
    fs::write(&file, "one").unwrap();
    let long_ago = FileTime { seconds: 0, nanos: 0 };
    bench.copy_but("a", None, &[], long_ago);
    // A change that no time tells of: as the list has it, nothing happened.
    let mut items = Vec::new();
    read_inventory(&bench.list("a"), |item| {
        items.push(item);
        Ok(())
    })
    .unwrap();
    assert!(items.iter().all(|item| !item.live.is_settled));
    fs::write(&file, "two").unwrap();
    let seen = crate::data::seen::Seen::of(fs::File::open(&file).unwrap()).unwrap();
    let mut forged = Inventory::create(&bench.list("a")).unwrap();
    for mut item in items {
        if item.path == "file".into() {
            item.live.ctime = seen.ctime();
            item.meta.mtime = seen.mtime();
        }
        forged.add(&item).unwrap();
    }
    forged.finish().unwrap();
    bench.copy_but("b", Some("a"), &[], long_ago);
    assert_eq!(fs::read_to_string(bench.at("b/file")).unwrap(), "two");
}

#[test]
fn what_is_excluded_and_where_copies_lie_is_not_in_a_copy() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    furnish(&bench.at("live"));
    fs::write(bench.at("live/notes/cache"), "x").unwrap();
    bench.copy_but("a", None, &["/live/*/cache", "deep/"], FileTime::default());
    let names = |at: &str| fs::read_dir(bench.at(at)).unwrap().count();
    assert_eq!((names("a"), names("a/notes")), (1, 7));
}

#[test]
fn damage_is_named_by_its_path() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    furnish(&bench.at("live"));
    bench.copy("a", None);
    let thaw = |name: &str| {
        let file = fs::File::open(bench.at("a").join(name)).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).unwrap_or(rustix::fs::IFlags::empty());
        let _ = rustix::fs::ioctl_setflags(&file, flags - rustix::fs::IFlags::IMMUTABLE);
    };
    for name in ["notes", "notes/deep", "notes/large", "notes/today", "notes/empty", "notes/sparse"] {
        thaw(name);
    }
    let at = |name: &str| bench.at("a/notes").join(name);
    let modified = fs::metadata(at("large")).unwrap().modified().unwrap();
    let mut bytes = fs::read(at("large")).unwrap();
    bytes[123_456] ^= 1;
    fs::write(at("large"), bytes).unwrap();
    fs::set_permissions(at("large"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::File::options().write(true).open(at("large")).unwrap().set_modified(modified).unwrap();
    fs::remove_file(at("sparse")).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(at("deep/new"), "x").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("/elsewhere", at("link")).unwrap();
    let found = bench.findings("a").join("\n");
    for said in [
        "notes/large has other content than was kept",
        "notes/sparse is gone",
        "notes/empty has another owner, mode, time or attribute",
        "notes/deep has 1 names that were not kept",
        "notes/link",
    ] {
        assert!(found.contains(said), "{said} in\n{found}");
    }
    fs::write(bench.list("a"), "nonsense").unwrap();
    assert!(bench.findings("a").join("\n").contains("the list of what it holds cannot be used"));
}

#[test]
fn an_archive_unpacks_to_what_was_copied_all_of_it_or_a_part() {
    let Some(bench) = Bench::make(Form::Archive) else { return };
    furnish(&bench.at("live"));
    bench.copy("a", None);
    assert!(fs::metadata(bench.at("a/notes/large")).unwrap().len() < 10_000);
    assert_eq!(bench.findings("a"), Vec::<String>::new());
    let unpacked = |only: &str, name: &str| -> io::Result<()> {
        fs::create_dir(bench.at(name)).unwrap();
        let archive = bench.open("a");
        unpack((&archive, &bench.list("a")), &only.into(), None, &bench.open(name), &|| false)
    };
    unpacked("", "whole").unwrap();
    same(&bench, "whole");
    // A further name, of which the first is not wanted.
    unpacked("notes/deep", "part").unwrap();
    assert_eq!(fs::read_to_string(bench.at("part/notes/deep/other")).unwrap(), "write to ann");
    assert_eq!(fs::read_dir(bench.at("part/notes")).unwrap().count(), 1);
    let file = fs::File::open(bench.at("a/notes/large")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap_or(rustix::fs::IFlags::empty());
    let _ = rustix::fs::ioctl_setflags(&file, flags - rustix::fs::IFlags::IMMUTABLE);
    let mut bytes = fs::read(bench.at("a/notes/large")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(bench.at("a/notes/large"), bytes).unwrap();
    let error = unpacked("", "damaged").unwrap_err().to_string();
    assert!(error.contains("notes/large"), "{error}");
}

#[test]
fn a_stream_makes_the_same_tree_and_a_damaged_one_is_refused() {
    const WORD: &[u8; 8] = b"a-test-2";
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    furnish(&bench.at("live"));
    bench.copy("a", None);
    let mut roll = RollWriter::new(Vec::new(), WORD, 3).unwrap();
    send_tree(&bench.open("a"), &mut roll, &|| false)
        .map_err(|(path, error)| format!("{path}: {error}"))
        .unwrap();
    let stream = roll.finish().unwrap();
    let read = |stream: &[u8], name: &str| -> io::Result<Came> {
        let _ = fs::create_dir(bench.at(name));
        let mut inventory = Inventory::create(&bench.list(name)).unwrap();
        let mut roll = RollReader::new(stream, WORD)?;
        let (came, notes) = read_tree(&mut roll, &bench.open(name), &mut inventory, &|| false)?;
        assert_eq!(notes, Vec::<String>::new());
        inventory.finish()?;
        match roll.next()? {
            None => Ok(came),
            Some(_) => Err(io::Error::other("more")),
        }
    };
    let came = read(&stream, "b").unwrap();
    assert_eq!(picture(&bench.at("a")), picture(&bench.at("b")));
    assert_eq!(bench.findings("b"), Vec::<String>::new());
    assert_eq!(came.entries as usize, picture(&bench.at("a")).len());
    for cut in (0..stream.len()).step_by(stream.len() / 40 + 1) {
        assert!(read(&stream[..cut], &format!("cut-{cut}")).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_stream_leads_nowhere_but_into_its_own_tree() {
    const WORD: &[u8; 8] = b"a-test-3";
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    let item = |path: &str, what: What| Item {
        path: path.into(),
        what,
        meta: crate::proto::Meta { mode: 0o755, ..Default::default() },
        live: super::item::Live::default(),
    };
    let bad: Vec<Vec<Item>> = vec![
        vec![item("x", What::Dir)],
        vec![item("", What::Fifo)],
        vec![item("", What::Dir), item("../x", What::Dir)],
        vec![item("", What::Dir), item("/x", What::Dir)],
        vec![item("", What::Dir), item("a//b", What::Dir)],
        vec![item("", What::Dir), item("a/b", What::Dir)],
        vec![item("", What::Dir), item("a", What::Symlink("/etc".into())), item("a/b", What::Dir)],
        vec![item("", What::Dir), item("a", What::Link("/etc/passwd".into()))],
        vec![item("", What::Dir), item("a", What::Link("../b".into()))],
        vec![item("", What::Dir), item("a", What::Dir), item("b", What::Link("a".into()))],
        vec![item("", What::Dir), item("a", What::Fifo), item("a", What::Fifo)],
    ];
    for (n, items) in bad.into_iter().enumerate() {
        let mut roll = RollWriter::new(Vec::new(), WORD, 3).unwrap();
        for item in &items {
            roll.frame(super::roll::ITEM, &crate::proto::encode(item)).unwrap();
        }
        roll.frame(4, &[]).unwrap();
        let stream = roll.finish().unwrap();
        let name = format!("bad-{n}");
        fs::create_dir(bench.at(&name)).unwrap();
        let mut inventory = Inventory::create(&bench.list(&name)).unwrap();
        let mut roll = RollReader::new(&stream[..], WORD).unwrap();
        let read = read_tree(&mut roll, &bench.open(&name), &mut inventory, &|| false);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData, "{items:?}");
    }
}

#[test]
fn removing_a_copy_would_free_what_it_alone_has() {
    let Some(bench) = Bench::make(Form::Hardlink) else { return };
    fs::write(bench.at("live/stays"), vec![1; 1 << 20]).unwrap();
    fs::write(bench.at("live/goes"), vec![2; 1 << 20]).unwrap();
    bench.copy("a", None);
    fs::remove_file(bench.at("live/goes")).unwrap();
    bench.copy("b", Some("a"));
    let held = |names: &[&str]| {
        let roots: Vec<OwnedFd> = names.iter().map(|name| bench.open(name)).collect();
        only_held(&roots, &|| false).unwrap() >> 20
    };
    assert_eq!((held(&["a"]), held(&["b"]), held(&["a", "b"])), (1, 0, 2));
}
