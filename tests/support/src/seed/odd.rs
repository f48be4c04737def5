//! What a careless sync loses: holes, links, attributes, special files, odd names, odd times.

use std::{io, path::Path};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::{random::Random, tree::Tree};

/// Paths with a time of their own: far in the future, before 1970, at the smallest step.
pub(super) const TIMES: &[(&str, i64, i64)] = &[
    ("times/from-2099", 4_070_908_800, 123_456_789),
    ("times/from-1960", -315_619_200, 1),
    ("times/one-nanosecond", 1_600_000_000, 1),
    ("times/last-nanosecond", 1_600_000_000, 999_999_999),
];

pub(super) fn sparse_files(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    let island = random.bytes(4_096);
    tree.sparse(
        "vm/disk.raw",
        64 << 20,
        &[(0, island.clone()), (32 << 20, island.clone()), ((64 << 20) - 100, vec![7; 100])],
    )?;
    tree.sparse("vm/all-hole.raw", 8 << 20, &[])?;
    tree.sparse("vm/hole-at-the-end.raw", 1 << 20, &[(0, island)])
}

pub(super) fn links(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    tree.file("links/original", &random.prose(3_000), 0o640)?;
    tree.hard_link("links/beside", "links/original")?;
    tree.hard_link("links/far/away/third", "links/original")?;
    tree.file("Documents/shared.txt", &random.prose(500), 0o644)?;
    tree.hard_link("Desktop/shared.txt", "Documents/shared.txt")?;
    tree.symlink("links/relative", "original")?;
    tree.symlink("links/absolute", "/etc/hostname")?;
    tree.symlink("links/dangling", "no/such/place")?;
    tree.symlink("links/loop", "loop")?;
    tree.symlink("links/to-directory", "../Documents")?;
    tree.symlink("links/up-and-out", "../../../../etc")
}

pub(super) fn attributes(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    let set = |path: &Path, name: &str, value: &[u8]| setxattr(path, name, value, XattrFlags::empty());
    let path = tree.file("attributes/tagged", b"tagged\n", 0o644)?;
    set(&path, "user.comment", b"from the seed")?;
    set(&path, "user.empty", b"")?;
    set(&path, "user.binary", &random.bytes(300))?;
    let path = tree.file("attributes/shared-with-bob", b"acl\n", 0o640)?;
    set(&path, "system.posix_acl_access", &acl(0o6, &[(1001, 0o6)], 0o4, 0o6, 0))?;
    let path = tree.dir("attributes/inherited", 0o750)?;
    set(&path, "system.posix_acl_access", &acl(0o7, &[(1001, 0o5)], 0o5, 0o5, 0))?;
    set(&path, "system.posix_acl_default", &acl(0o7, &[(1001, 0o7)], 0o5, 0o7, 0))?;
    set(&path, "user.folder", b"yes")?;
    let path = tree.file("attributes/may-ping", b"\x7fELF not really", 0o755)?;
    set(&path, "security.capability", &capability(1 << CAP_NET_RAW))?;
    let path = tree.file("attributes/setuid", b"#!/bin/true\n", 0o755)?;
    tree.own(&path, 0o4755)?;
    let path = tree.file("attributes/setgid", b"#!/bin/true\n", 0o755)?;
    tree.own(&path, 0o2755)?;
    tree.dir("attributes/sticky", 0o1777)?;
    tree.dir("attributes/setgid-folder", 0o2775)?;
    tree.file("attributes/no-rights", b"hidden\n", 0)?;
    for (name, uid, gid) in
        [("of-root", 0, 0), ("of-bob", 1001, 1001), ("of-nobody", 65534, 65534), ("group-only", 1000, 27)]
    {
        let path = tree.file(format!("attributes/{name}"), name.as_bytes(), 0o640)?;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

pub(super) fn special_files(tree: &mut Tree<'_>) -> io::Result<()> {
    for (name, kind) in [("special/pipe", FileType::Fifo), ("special/agent.sock", FileType::Socket)] {
        let path = tree.fresh(name)?;
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), 0)?;
        tree.own(&path, 0o600)?;
    }
    Ok(())
}

pub(super) fn names(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    let longest = vec![b'x'; 255 - 6];
    let names: [&[u8]; 17] = [
        b"with space",
        b" leading and trailing ",
        b"new\nline",
        b"tab\tand\x07bell",
        b"not-utf8-\xff\xfe",
        b"latin1-\xe9t\xe9",
        "nfc-\u{e9}".as_bytes(),
        "nfd-e\u{301}".as_bytes(),
        "日本語.txt".as_bytes(),
        b"-rf",
        b"--delete",
        b"*?[a]{b}",
        b"quote\"and'apostrophe",
        b"back\\slash",
        b"$(touch pwned);`id`",
        b"#comment~",
        &longest,
    ];
    for name in names {
        let text = random.prose(60);
        tree.file([b"names/", name].concat(), &text, 0o644)?;
    }
    for name in [b"names/folder\xff\n/inside".as_slice(), b"names/Case/a", b"names/case/a"] {
        tree.file(name, b"inside\n", 0o644)?;
    }
    Ok(())
}

pub(super) fn shapes(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    let deep: String = (0..60).map(|level| format!("level-{level:02}/")).collect();
    tree.file(format!("shapes/{deep}bottom"), b"bottom\n", 0o644)?;
    tree.dir("shapes/empty", 0o755)?;
    tree.dir("shapes/empty-inside/empty", 0o700)?;
    tree.file("shapes/no-bytes", b"", 0o644)?;
    for number in 0..100 {
        tree.file(format!("shapes/many/{number:03}"), &random.bytes(16), 0o644)?;
    }
    for (path, ..) in TIMES {
        tree.file(path, path.as_bytes(), 0o644)?;
    }
    Ok(())
}

pub(super) const CAP_NET_RAW: u32 = 13;

/// Builds the value of `security.capability`, version 2 of `struct vfs_cap_data`: permitted and effective.
pub(super) fn capability(permitted: u32) -> Vec<u8> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    [REVISION_2_EFFECTIVE, permitted, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Builds the value of a POSIX ACL attribute (`linux/posix_acl_xattr.h`): owner, users, group, mask, others.
pub(super) fn acl(owner: u16, users: &[(u32, u16)], group: u16, mask: u16, others: u16) -> Vec<u8> {
    const VERSION: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    let mut entries = vec![(0x01, owner, NOBODY)];
    entries.extend(users.iter().map(|&(uid, rights)| (0x02, rights, uid)));
    entries.extend([(0x04, group, NOBODY), (0x10, mask, NOBODY), (0x20, others, NOBODY)]);
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend_from_slice(&u16::to_le_bytes(tag));
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
