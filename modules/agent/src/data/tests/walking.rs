//! Walking, reading and digests by themselves.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::drive::{Disk, call_with, digests, items, listed, read_frames, sh, skip, try_walk, walked};
use crate::data::sent::Sent;
use crate::data::{read, walk};
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::proto::{Identity, Kind, ListWant, Piece, ReadWant, Rule, RuleSet, Skip, SkipReason, StreamFrame};

fn want(content: u32, path: &str) -> ReadWant {
    ReadWant { content, path: path.into() }
}

fn pieces(frames: Vec<StreamFrame>) -> Vec<Piece> {
    let list = |frame| match frame {
        StreamFrame::Content(pieces) => pieces,
        other => panic!("{other:?}"),
    };
    frames.into_iter().flat_map(list).collect()
}

/// Reads a live tree; returns the numbers of the files that are whole, with their versions.
fn read_live(root: &Path, wants: Vec<ReadWant>) -> Vec<(u32, Identity)> {
    let (call, seen) = call_with(&[wants]);
    read::run_live(&root.into(), &call, &Sent::default()).unwrap();
    let mut all = Vec::new();
    for frame in items(&seen) {
        if let StreamFrame::Whole(whole) = frame {
            all.extend(whole);
        }
    }
    all.sort_by_key(|(content, _)| *content);
    all
}

#[test]
fn a_live_file_is_whole_in_the_version_that_was_listed_or_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("still"), b"12345").unwrap();
    fs::write(root.join("large"), vec![7; 3 << 20]).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    symlink("still", root.join("link")).unwrap();
    let listed = walked(root);
    let version = |name: &str| {
        let entry = listed[0].entries.iter().find(|entry| entry.name == name.into()).unwrap();
        Identity { ino: entry.ino, ctime: entry.ctime, mtime: entry.meta.mtime, size: entry.size }
    };
    let wants = ["still", "large", "dir", "link", "gone", "still/below"];
    let wants = || wants.iter().enumerate().map(|(at, path)| want(at as u32, path)).collect();
    assert_eq!(read_live(root, wants()), [(0, version("still")), (1, version("large"))]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(root.join("still"), b"54321").unwrap();
    let whole = read_live(root, wants());
    assert_ne!(whole[0], (0, version("still")), "another version");
    assert_eq!(whole[1], (1, version("large")));
}

#[test]
fn a_file_that_is_written_while_it_is_read_is_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let was_noticed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().write(true).open(&path).unwrap();
            for round in (0..=u8::MAX).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&vec![round; 8 << 20]).unwrap();
            }
        });
        // The writer may stand still for as long as one reading takes, but not every time.
        let was_noticed = (0..200).any(|_| read_live(dir.path(), vec![want(0, "busy")]).is_empty());
        stop.store(true, Ordering::Relaxed);
        was_noticed
    });
    assert!(was_noticed);
    assert_eq!(read_live(dir.path(), vec![want(0, "busy")]).len(), 1);
}

#[test]
fn what_a_check_of_ext4_makes_is_left_alone() {
    let Some(disk) = Disk::make("ext4", 64 << 20) else { return };
    fs::create_dir_all(disk.root.join("alice/lost+found")).unwrap();
    let listings = walked(&disk.root);
    assert_eq!(listings[0].skipped[0].name, "lost+found".into());
    assert_eq!(
        listings.iter().map(|listing| listing.path.to_string()).collect::<Vec<_>>(),
        ["", "alice", "alice/lost+found"]
    );
}

#[test]
fn a_walk_lists_every_kind_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/file"), b"12345").unwrap();
    symlink("/no/where", root.join("a/link")).unwrap();
    symlink("a", root.join("to-a")).unwrap();
    let _socket = UnixListener::bind(root.join("sock")).unwrap();
    assert!(sh("mkfifo", &[root.join("pipe").to_str().unwrap()]));
    let (summary, mut listings) = try_walk(root, RuleSet::default()).unwrap();
    // Each thread sends what it has listed when it has enough: the order between two threads is not told.
    listings.sort_by(|a, b| a.path.cmp(&b.path));
    let paths: Vec<String> = listings.iter().map(|listing| listing.path.to_string()).collect();
    assert_eq!(paths, ["", "a", "a/b", "a/b/c"]);
    assert_eq!((summary.directories, summary.entries, summary.bytes, summary.unreadable), (4, 7, 5, 0));
    assert!(listings[0].path.is_empty() && listings[0].root.as_ref().unwrap().kind == Kind::Dir);
    assert!(listings[1..].iter().all(|listing| listing.root.is_none()));
    let kinds: Vec<_> = listings[0].entries.iter().map(|e| (e.name.to_string(), e.kind)).collect();
    assert_eq!(kinds, [("a".into(), Kind::Dir), ("pipe".into(), Kind::Fifo), ("to-a".into(), Kind::Symlink)]);
    assert_eq!(listings[0].skipped[0].reason, SkipReason::Socket);
}

#[test]
fn excluded_directories_are_named_and_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("u/.cache/deep")).unwrap();
    let rule = Rule { pattern: ".cache/".into(), reason: "made anew".into() };
    let rules = RuleSet { forced: Vec::new(), layered: vec![rule] };
    let (_, mut listings) = try_walk(dir.path(), rules).unwrap();
    listings.sort_by(|a, b| a.path.cmp(&b.path));
    let paths: Vec<String> = listings.iter().map(|listing| listing.path.to_string()).collect();
    assert_eq!(paths, ["", "u"]);
    assert_eq!(listings[1].skipped[0].reason, SkipReason::Rule("made anew".into()));
}

#[test]
fn a_root_that_is_a_symbolic_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc", dir.path().join("link")).unwrap();
    assert!(try_walk(&dir.path().join("link"), RuleSet::default()).is_err());
    assert!(try_walk(&dir.path().join("missing"), RuleSet::default()).is_err());
}

#[test]
fn paths_longer_than_the_kernel_takes_at_once_are_walked() {
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(250);
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, &name, 0o700.into()).unwrap();
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    let (summary, listings) = try_walk(dir.path(), RuleSet::default()).unwrap();
    assert_eq!((summary.directories, summary.unreadable), (21, 0));
    assert_eq!(listings.iter().map(|listing| listing.path.as_bytes().len()).max(), Some(20 * 251 - 1));
}

#[test]
fn some_names_of_a_directory_are_listed_as_they_are_in_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("d").join(name);
    fs::create_dir_all(path("sub/deep")).unwrap();
    symlink("nowhere", path("link")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(path(name), name).unwrap();
    }
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let want = |names: &[&str]| ListWant {
        path: "d".into(),
        whole: false,
        names: Some(names.iter().map(|name| (*name).into()).collect()),
    };
    let all = listed(dir.path(), vec![ListWant::one("d".into())]).pop().unwrap();
    let wanted = ["socket", "sub", "c", "gone", "link", "a", "a"];
    let mut some = all.clone();
    some.entries.retain(|entry| wanted.contains(&entry.name.to_string().as_str()));
    assert_eq!((some.entries.len(), some.skipped.len()), (4, 1));
    assert_eq!(listed(dir.path(), vec![want(&wanted)]), [some]);
    let nothing = listed(dir.path(), vec![want(&[])]).pop().unwrap();
    assert_eq!((nothing.entries.len(), nothing.root), (0, all.root));
    for bad in ["", ".", "..", "sub/deep", "a\0"] {
        let listing = listed(dir.path(), vec![want(&[bad])]).pop().unwrap();
        assert!(matches!(listing.skipped[..], [Skip { reason: SkipReason::Unreadable(_), .. }]), "{bad:?}");
        assert!(listing.entries.is_empty());
    }
}

#[test]
fn subvolumes_stubs_and_mounts_are_skipped() {
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let path = |name: &str| disk.root.join(name).to_str().unwrap().to_owned();
    assert!(sh("btrfs", &["subvolume", "create", &path("home")]));
    assert!(sh("btrfs", &["subvolume", "create", &path("home/nested")]));
    fs::create_dir(path("home/mounted")).unwrap();
    fs::create_dir(path("home/plain")).unwrap();
    assert!(sh("btrfs", &["subvolume", "snapshot", "-r", &path("home"), &path("snap")]));
    assert!(sh("mount", &["-t", "tmpfs", "none", &path("home/mounted")]));
    let live = walked(&disk.root.join("home"));
    assert!(sh("umount", &[&path("home/mounted")]));
    let snap = walked(&disk.root.join("snap"));
    let names = |skips: &[crate::proto::Skip]| -> Vec<String> {
        assert!(skips.iter().all(|skip| skip.reason == SkipReason::Subvolume));
        skips.iter().map(|skip| skip.name.to_string()).collect()
    };
    assert_eq!(names(&live[0].skipped), ["mounted", "nested"]);
    assert_eq!(names(&snap[0].skipped), ["nested"]);
    assert_eq!(live.len(), 2);
    let inode = |listing: &crate::proto::DirListing| listing.entries.last().unwrap().ino;
    assert_eq!(inode(&live[0]), inode(&snap[0]));
}

#[test]
fn small_files_share_a_frame_and_large_ones_come_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut wants = Vec::new();
    for n in 0..50 {
        fs::write(dir.path().join(format!("f{n}")), vec![n as u8; n * 7]).unwrap();
        wants.push(want(n as u32, &format!("f{n}")));
    }
    let large: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    fs::write(dir.path().join("large"), &large).unwrap();
    wants.push(want(99, "large"));
    let frames = read_frames(dir.path(), wants);
    assert!(frames.len() < 30, "{}", frames.len());
    let all = pieces(frames);
    let of_large: Vec<_> = all.iter().filter(|piece| piece.content == 99).collect();
    let joined: Vec<u8> = of_large.iter().flat_map(|piece| piece.data.clone()).collect();
    assert!(joined == large && of_large.len() > 10);
    assert_eq!(of_large.iter().filter(|piece| piece.last.is_some()).count(), 1);
    for n in 0..50 {
        let piece = all.iter().find(|piece| piece.content == n).unwrap();
        assert_eq!(piece.data, vec![n as u8; n as usize * 7]);
        assert_eq!(piece.last.unwrap().0, u64::from(n) * 7);
    }
}

#[test]
fn holes_do_not_travel_and_zeros_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(dir.path().join("sparse")).unwrap();
    file.seek(SeekFrom::Start(8 << 20)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.set_len(16 << 20).unwrap();
    drop(file);
    fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 20).unwrap();
    if fs::metadata(dir.path().join("sparse")).unwrap().blocks() * 512 > 1 << 20 {
        return skip("no holes on this file system");
    }
    let all = pieces(read_frames(dir.path(), vec![want(1, "sparse"), want(2, "hole")]));
    let sparse = all.iter().find(|piece| piece.content == 1).unwrap();
    assert_eq!((sparse.offset, sparse.data.len(), sparse.last.unwrap().0), (8 << 20, 4096, 16 << 20));
    let hole = all.iter().find(|piece| piece.content == 2).unwrap();
    assert!(hole.data.is_empty() && hole.last.unwrap().0 == 1 << 20);
}

#[test]
fn what_cannot_be_read_is_told_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    fs::write(dir.path().join("real/file"), b"x").unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    symlink("real/file", dir.path().join("leaf")).unwrap();
    let wants = ["gone", "link/file", "leaf", "../escape", "real"];
    let wants = wants.iter().zip(0..).map(|(path, n)| want(n, path)).collect::<Vec<_>>();
    let frames = read_frames(dir.path(), wants.clone());
    assert_eq!(frames.len(), 5);
    assert!(frames.iter().all(|frame| matches!(frame, StreamFrame::Unreadable { .. })));
    assert!(digests(dir.path(), wants).iter().all(|(_, digest)| digest.is_none()));
}

#[test]
fn digests_read_holes_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20] = 7;
    fs::write(dir.path().join("full"), &bytes).unwrap();
    let mut file = fs::File::create(dir.path().join("sparse")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(&[7]).unwrap();
    file.set_len(3 << 20).unwrap();
    let found = digests(dir.path(), vec![want(1, "full"), want(2, "sparse")]);
    let digest = Some(blake3::hash(&bytes).into());
    assert_eq!(found, [(1, digest), (2, digest)]);
}

#[test]
fn a_read_only_snapshot_is_listed_as_the_tree_it_was_taken_of() {
    let Some(disk) = Disk::make("btrfs", 300 << 20) else { return };
    let live = disk.root.join("live");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    assert!(sh("btrfs", &["subvolume", "create", &path(&live)]));
    let mut nasty = 0;
    for dir in ["", "few", "many", "many/deep"] {
        fs::create_dir_all(live.join(dir)).unwrap();
        for n in 0..(if dir == "many" { 3000 } else { 20 }) {
            let file = live.join(dir).join(format!("file-{n}"));
            fs::write(&file, vec![7; n * 37 % 5000]).unwrap();
            for size in [1, 200, 3000].iter().take(n % 4) {
                let (name, value) = (format!("user.x{size}"), vec![b'v'; *size]);
                rustix::fs::setxattr(&file, name, &value, rustix::fs::XattrFlags::empty()).unwrap();
                nasty += 1;
            }
        }
    }
    // Attributes of more than one search, two names in one directory, extents by the thousand, odd modes and owners.
    let file = live.join("few/attributes");
    fs::write(&file, b"x").unwrap();
    for n in 0..100 {
        let value = vec![b'v'; 3500];
        rustix::fs::setxattr(&file, format!("user.{n}"), &value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    fs::hard_link(live.join("few/file-3"), live.join("few/other name")).unwrap();
    let sparse = fs::File::create(live.join("few/sparse")).unwrap();
    for n in 0..4000 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", n * 16384).unwrap();
    }
    fs::set_permissions(live.join("few/file-1"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    std::os::unix::fs::chown(live.join("few/file-2"), Some(70_000), Some(70_001)).unwrap();
    fs::create_dir(live.join("many/gone")).unwrap();
    assert!(sh("setfacl", &["-m", "u:1001:rw", &path(&live.join("few/file-5"))]));
    let times =
        fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500));
    fs::File::options().write(true).open(live.join("few/file-4")).unwrap().set_times(times).unwrap();
    drop(sparse);
    let sealed = disk.root.join("sealed");
    assert!(sh("btrfs", &["subvolume", "snapshot", "-r", &path(&live), &path(&sealed)]));
    let (ours, theirs) = (walked(&sealed), walked(&live));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for (ours, theirs) in ours.entries.iter().zip(&theirs.entries) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ours, theirs);
    }
    assert!(nasty > 1000);
}

#[test]
fn what_lies_in_a_read_only_snapshot_is_sealed_whatever_directory_of_it_is_asked() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let (home, snapshot) = (image.top().join("@home"), image.top().join("snapshot"));
    fs::create_dir_all(home.join("a/b")).unwrap();
    KernelBtrfs.snapshot(&home, image.top(), OsStr::new("snapshot")).unwrap();
    KernelBtrfs.set_readonly(&snapshot, true).unwrap();
    let is_sealed = |path: &Path| walk::is_sealed(fs::File::open(path).unwrap());
    assert!(is_sealed(&snapshot) && is_sealed(&snapshot.join("a")) && is_sealed(&snapshot.join("a/b")));
    assert!(!is_sealed(&home) && !is_sealed(&home.join("a/b")));
}
