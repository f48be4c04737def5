//! What a snapshot holds comes back by its id, whoever wrote it.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;

/// Writes one of everything into a directory.
fn everything(source: &Path) {
    fs::create_dir_all(source.join("sub/empty")).unwrap();
    fs::write(source.join("plain"), "hello\n").unwrap();
    fs::write(source.join(OsStr::from_bytes(b"raw\xff\xfe")), "no utf-8").unwrap();
    fs::write(source.join("sub/deep"), "x".repeat(3 << 20)).unwrap();
    fs::hard_link(source.join("sub/deep"), source.join("second name")).unwrap();
    symlink("plain", source.join("link")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(32 << 20).unwrap();
    fs::write(source.join("suid"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("suid"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o1711)).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("fifo"), fifo, 0o600.into(), 0).unwrap();
    for (name, value) in [("plain", b"a\0\xffb".as_slice()), ("sub", b"of a directory")] {
        rustix::fs::setxattr(source.join(name), "user.note", value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    for name in ["plain", "sub"] {
        // Version 2; the owner, the user 1234, the group, the mask, all others.
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, !0), (2, 6, 1234), (4, 4, !0), (0x10, 6, !0), (0x20, 0, !0)];
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(source.join(name), "system.posix_acl_access", &acl, flags).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        rustix::fs::mknodat(rustix::fs::CWD, source.join("null"), kind, 0o666.into(), device).unwrap();
        std::os::unix::fs::chown(source.join("link"), Some(1234), Some(4321)).ok();
        std::os::unix::fs::lchown(source.join("sub"), Some(1234), Some(4321)).unwrap();
    }
}

/// Returns what there is to know of each path below a directory.
fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let kind = facts.file_type();
        let content = if kind.is_dir() {
            todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap();
            let sum = content.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
            format!("{} {sum} of {} names", content.len(), facts.nlink())
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            assert!(kind.is_fifo() || kind.is_char_device());
            facts.rdev().to_string()
        };
        let mut attributes = Vec::new();
        for name in ["user.note", "system.posix_acl_access"] {
            let mut value = [0; 200];
            let read = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap_or(0);
            attributes.push(value[..read].to_vec());
        }
        let times = (facts.mtime(), facts.mtime_nsec());
        let said = format!("{:o} {}:{} {times:?}", facts.mode(), facts.uid(), facts.gid());
        let below = path.strip_prefix(root).unwrap().to_owned();
        if !below.as_os_str().is_empty() {
            all.insert(below, format!("{said} {content} {attributes:?}"));
        }
    }
    all
}

fn same(one: &Path, other: &Path) {
    let (one, other) = (described(one), described(other));
    for (path, facts) in &one {
        assert_eq!(Some(facts), other.get(path), "{}", path.display());
    }
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one.len() >= 10, "{one:?}");
}

#[test]
fn what_restic_wrote_into_our_vault_is_listed_and_restored_with_everything() {
    let home = Home::ready();
    home.put("ours", "ours");
    home.bt(&["backup", "--tracked"]);
    let source = home.path("elsewhere");
    fs::create_dir(&source).unwrap();
    everything(&source);
    let root = home.state().join("local");
    let given = source.to_str().unwrap();
    if restic(&root, &["backup", "--host", "other", given]).is_none() {
        return;
    }
    let listed = home.bt(&["list", "--snapshots"]);
    let line = listed.lines().find(|line| line.contains("  other  ")).unwrap();
    assert!(line.ends_with(given), "{listed}");
    let id = line.split("  ").nth(1).unwrap();
    // Everything, as it lay there.
    let to = home.path("all");
    let output = home.command(&["restore", "--snapshot", id, "--to", to.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("of other ("), "{}", text(&output.stderr));
    let below = to.join(source.strip_prefix("/").unwrap());
    same(&source, &below);
    let blocks = fs::metadata(below.join("sparse")).unwrap().blocks();
    assert!(blocks < 64, "a hole stays one: {blocks}");
    // One directory: what is in it. Several paths, relative ones too: under their own names.
    let to = home.path("one");
    home.bt(&["restore", "--snapshot", id, "../elsewhere", "--to", to.to_str().unwrap()]);
    same(&source, &to);
    let to = home.path("several");
    let raw = OsStr::from_bytes(b"raw\xff\xfe");
    let mut command = home.command(&["restore", "--snapshot", id, "sub"]);
    command.current_dir(&source).arg(raw).arg("--to").arg(&to);
    assert!(command.output().unwrap().status.success());
    assert_eq!(fs::read(to.join(raw)).unwrap(), b"no utf-8");
    assert_eq!(fs::metadata(to.join("sub/deep")).unwrap().len(), 3 << 20);
    assert_eq!(to.read_dir().unwrap().count(), 2);
    // Nothing that is there is replaced.
    fs::write(to.join(raw), "mine").unwrap();
    let mut command = home.command(&["restore", "--snapshot", id]);
    command.current_dir(&source).arg(raw).arg("--to").arg(&to);
    let said = ended(1, &["restore"], &command.output().unwrap());
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(fs::read(to.join(raw)).unwrap(), b"mine");
    let report = home.json(&["restore", "--snapshot", id, "--to", home.path("json").to_str().unwrap()]);
    assert!(report["hostname"] == "other" && report["files"].as_u64() > Some(5), "{report}");
    assert!(home.bt(&["history"]).contains("restore"));
    // Our own snapshot, by the same way.
    let own = listed.lines().find(|line| !line.contains("  other  ")).unwrap().split("  ").nth(1).unwrap();
    let to = home.path("own");
    home.bt(&["restore", "--snapshot", own, "ours", "--to", to.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(to.join("ours")).unwrap(), "ours");
}

#[test]
fn what_is_no_snapshot_or_not_in_it_is_said_with_what_is_there() {
    let home = Home::ready();
    home.put("sub/one", "1");
    home.bt(&["backup", "--tracked"]);
    home.put("sub/one", "two");
    home.bt(&["backup", "--tracked"]);
    let to = home.path("to");
    let to = to.to_str().unwrap();
    let fails = |args: &[&str]| home.fails(2, &[&["restore"], args, &["--to", to]].concat());
    assert!(fails(&["--snapshot", "xyz"]).contains("no id of a snapshot"));
    let ids: Vec<String> = home
        .json(&["list", "--snapshots"])
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    let none =
        (0..16).map(|digit| format!("{digit:x}")).find(|digit| ids.iter().all(|id| !id.starts_with(digit)));
    let said = fails(&["--snapshot", &none.unwrap()]);
    assert!(said.contains("in `local` begins with") && said.contains("bt list --snapshots"), "{said}");
    let said = fails(&["--snapshot", &ids[0][..20], "sub/none"]);
    let nearest = home.path("docs/sub");
    assert!(said.contains("is not in the snapshot") && said.contains(nearest.to_str().unwrap()), "{said}");
    let said = fails(&["--snapshot", &ids[0][..20], "sub", "sub"]);
    assert!(said.contains("two of the paths are called `sub`"), "{said}");
    assert!(home.fails(2, &["restore", "--snapshot", &ids[0]]).contains("--to"));
    assert!(home.fails(2, &["restore", "--to", to]).contains("FILENAME"));
    let said = home.fails(2, &["restore", "sub/one", "12", "34"]);
    assert!(said.contains("2 versions") && said.contains("--snapshot"), "{said}");
    assert!(!Path::new(to).exists());
}
