//! What is no regular file: links, pipes, devices, directories, and files of several names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use super::Home;
use crate::text;

/// One of everything; a device as root alone, which may make one.
fn everything() -> Home {
    let home = Home::ready();
    let docs = home.path("docs");
    home.put("plain", "plain");
    home.put("sub/inner/deep", "deep");
    symlink("plain", docs.join("link")).unwrap();
    symlink(OsStr::from_bytes(b"no/where\xff"), docs.join("dangling")).unwrap();
    fs::hard_link(docs.join("plain"), docs.join("sub/second name")).unwrap();
    fs::create_dir(docs.join("empty")).unwrap();
    fs::set_permissions(docs.join("empty"), PermissionsExt::from_mode(0o1750)).unwrap();
    mknodat(CWD, docs.join("pipe"), FileType::Fifo, 0o640.into(), 0).unwrap();
    // A temporary directory in memory may take no attributes.
    let _ = rustix::fs::setxattr(docs.join("sub"), "user.note", b"of a directory", XattrFlags::empty());
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, docs.join("null"), FileType::CharacterDevice, 0o666.into(), null).unwrap();
        std::os::unix::fs::lchown(docs.join("link"), Some(1234), Some(4321)).unwrap();
    }
    let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: old, last_modification: old };
    for name in ["link", "empty", "sub/inner"] {
        utimensat(CWD, docs.join(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    home
}

/// Checks that two trees hold the same, but for the directories themselves.
#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let mut names: Vec<_> = one.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut others: Vec<_> = other.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    others.sort();
    assert_eq!(names, others, "{} and {}", one.display(), other.display());
    for name in names {
        let (one, other) = (one.join(&name), other.join(&name));
        let look = |path: &Path| {
            let facts = fs::symlink_metadata(path).unwrap();
            let kind = facts.file_type();
            let nlink = if facts.is_file() { facts.nlink() } else { 1 };
            let content = match () {
                () if kind.is_file() => fs::read(path).unwrap(),
                () if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
                () => Vec::new(),
            };
            let times = (facts.mtime(), facts.mtime_nsec());
            let xattrs = pc_switcher_vault::engine::xattrs(path).unwrap();
            (facts.mode(), (facts.uid(), facts.gid()), times, facts.rdev(), nlink, content, xattrs)
        };
        assert_eq!(look(&one), look(&other), "{} and {}", one.display(), other.display());
        if one.is_dir() && !one.is_symlink() {
            assert_same(&one, &other);
        }
    }
}

#[test]
fn links_pipes_devices_and_directories_come_back_as_they_were() {
    let home = everything();
    let docs = home.path("docs");
    let status = home.bt(&["dir", "status"]);
    for line in ["?   dangling", "?   empty/", "?   link\n", "?   pipe", "?   sub/inner/deep"] {
        assert!(status.contains(line), "`{line}` in {status}");
    }
    assert!(!status.contains("sub/\n"), "what is not empty is told by what is in it: {status}");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let target = home.path("back");
    home.bt(&["restore", ".", "--to", target.to_str().unwrap()]);
    assert_same(&docs, &target);
    let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(inode("plain"), inode("sub/second name"), "two names of one file");
    assert!(fs::symlink_metadata(target.join("pipe")).unwrap().file_type().is_fifo());

    assert_eq!(home.json(&["add"])["staged"], 0, "nothing changed");
    let again = home.json(&["backup"]);
    assert_eq!((&again["versions"], &again["vaults"][0]["snapshot"]), (&0.into(), &serde_json::Value::Null));
    assert!(!home.bt(&["dir", "status"]).contains('?'));
}

#[test]
fn what_only_root_may_give_is_warned_of_and_counted_and_all_else_comes_back() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = everything();
    std::os::unix::fs::chown(home.path("docs/sub/inner/deep"), Some(1234), Some(4321)).unwrap();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let without_rights = |args: &[&str]| {
        let given = home.command(args);
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-chown").arg(given.get_program()).args(given.get_args());
        command.env_clear().current_dir(home.path("docs"));
        command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().unwrap()
    };
    let target = home.path("back");
    let args = ["restore", ".", "--to", target.to_str().unwrap()];
    let output = without_rights(&args);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("back/link: its owner 1234:4321 could not be set"), "{said}");
    assert!(said.contains("2 files or directories are without an owner"), "{said}");
    assert_eq!(fs::read(target.join("sub/inner/deep")).unwrap(), b"deep");
    let listed = without_rights(&["restore", "sub", "--to", home.path("more").to_str().unwrap(), "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (listed["refused"].as_array().unwrap().len(), &listed["troubles"]),
        (1, &serde_json::json!([]))
    );
    let all = home.bt(&["restore", ".", "--to", home.path("root").to_str().unwrap()]);
    assert!(all.contains("deep"));
    assert_eq!(fs::metadata(home.path("root/sub/inner/deep")).unwrap().uid(), 1234);
}

#[test]
fn restic_restores_what_is_no_file_too() {
    if !Command::new("restic").arg("version").output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("LAB_REQUIRED").is_none(), "restic is missing; tests/packages installs it");
        eprintln!("skipped: restic is missing; tests/packages installs it");
        return;
    }
    let home = everything();
    // What is no UTF-8 stands in a field of its own, which a restic before 0.17 does not read.
    fs::remove_file(home.path("docs/dangling")).unwrap();
    symlink("no/where", home.path("docs/dangling")).unwrap();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let restic = |args: &[&str]| {
        let output = Command::new("restic")
            .args(["--repo", home.state().join("local").to_str().unwrap(), "--no-cache"])
            .args(args)
            .env("RESTIC_PASSWORD", "correct horse")
            .output()
            .unwrap();
        assert!(output.status.success(), "restic {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    restic(&["check", "--read-data"]);
    let target = home.path("back");
    restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let back = target.join(home.path("docs").strip_prefix("/").unwrap());
    assert_same(&home.path("docs"), &back);
    let inode = |name: &str| fs::metadata(back.join(name)).unwrap().ino();
    assert_eq!(inode("plain"), inode("sub/second name"));
    // What restic stores of the same tree shares what is stored already.
    let docs = home.path("docs");
    let theirs = restic(&["backup", "--json", docs.to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(theirs.lines().last().unwrap()).unwrap();
    assert_eq!(summary["data_blobs"], 0, "{summary}");
}

#[test]
fn a_link_has_versions_and_comes_back_in_its_place_unless_something_else_is_there() {
    let home = everything();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let (docs, link) = (home.path("docs"), home.path("docs/link"));
    fs::remove_file(&link).unwrap();
    symlink("sub", &link).unwrap();
    assert_eq!(home.bt(&["dir", "status", "link"]), "BM  link\n");
    home.bt(&["add", "link"]);
    assert_eq!(home.json(&["backup"])["versions"], 1);
    let log = home.bt(&["log", "link"]);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("-> sub") && lines[1].contains("-> plain"), "{log}");
    assert!(lines[0].contains("new target"), "{log}");
    let first = home.json(&["log", "link"])["versions"][1]["created_at"].as_str().unwrap().to_owned();

    let beside = home.bt(&["restore", "link", "--at", &first]);
    assert_eq!(fs::read_link(beside.trim_end()).unwrap(), Path::new("plain"));
    assert!(!home.bt(&["dir", "status"]).contains("link."), "restored copies are not listed");
    assert!(home.fails(2, &["restore", "link", "--at", &first, "--in-place"]).contains("something else now"));
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("sub"));
    fs::remove_file(&link).unwrap();
    home.bt(&["restore", "link", "--at", &first, "--in-place"]);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("plain"));
    home.bt(&["backup"]);
    assert_eq!(home.bt(&["dir", "status", "link"]), "B   link\n");

    fs::remove_dir(docs.join("empty")).unwrap();
    fs::remove_file(docs.join("pipe")).unwrap();
    fs::write(docs.join("pipe"), "a file now").unwrap();
    assert!(home.bt(&["dir", "status", "--deleted"]).contains("D   empty/\n"));
    assert_eq!(home.json(&["backup"])["deleted"], 1, "the pipe is gone, directories are not counted");
    home.bt(&["restore", "empty", "--at", &first, "--in-place"]);
    assert_eq!(fs::metadata(docs.join("empty")).unwrap().mode() & 0o7777, 0o1750);
    assert!(home.fails(2, &["restore", "pipe", "--in-place"]).contains("something else now"));
}

#[test]
fn a_socket_is_named_and_left_out() {
    let home = Home::ready();
    let _socket = UnixListener::bind(home.path("docs/sock")).unwrap();
    home.put("f", "x");
    let output = home.command(&["add"]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("sock is a socket and is left out"), "{}", text(&output.stderr));
    home.bt(&["backup"]);
    assert_eq!(home.bt(&["dir", "status"]), "B   f\n");
    assert!(home.json(&["add"])["sockets"][0].as_str().unwrap().ends_with("docs/sock"));
}

#[test]
fn snapshots_alone_tell_what_is_no_file_too() {
    let home = everything();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let hosts = home.state().join("local/pc-switcher/hosts");
    fs::remove_dir_all(&hosts).unwrap();
    fs::remove_file(home.state().join("catalogue.db")).unwrap();
    home.bt(&["recover"]);
    let target = home.path("back");
    home.bt(&["restore", ".", "--to", target.to_str().unwrap()]);
    assert_same(&home.path("docs"), &target);
    assert_eq!(home.json(&["add"])["staged"], 0, "all of it is known");
}

#[test]
fn a_rehearsal_brings_files_back_and_names_what_does_not_come() {
    let home = everything();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let said = home.bt(&["rehearse", "--seed", "7"]);
    assert_eq!(said, "local: 3 of 3 files came back, 14 B; 3 are as they are on the disk\n");
    let found = home.json(&["rehearse", "--size", "5", "--seed", "7"]);
    assert_eq!((&found["seed"], &found["vaults"][0]["files"]), (&7.into(), &1.into()), "{found}");
    assert_eq!(home.json(&["history"])[0]["operation"], "rehearse");
    for pack in packs(&home.state().join("local/data")) {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[10] ^= 1;
        fs::set_permissions(&pack, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let said = home.fails(1, &["rehearse"]);
    assert!(said.contains("from the vault `local`"), "{said}");
    assert!(home.fails(2, &["rehearse", "--size", "lots"]).contains("is no size"));
}

fn packs(data: &Path) -> Vec<std::path::PathBuf> {
    let directories = data.read_dir().unwrap().map(|entry| entry.unwrap().path());
    directories.flat_map(|dir| dir.read_dir().unwrap().map(|entry| entry.unwrap().path())).collect()
}
