//! Small files out of a snapshot's tree are what opening them would give.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;

use super::drive::{digests, read_frames, sh};
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::proto::{ReadWant, StreamFrame};

#[test]
fn files_of_every_size_and_kind_read_from_a_snapshot_as_they_are() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    fs::create_dir_all(home.join("a/b")).unwrap();
    fs::create_dir(home.join("packed")).unwrap();
    let packed = home.join("packed");
    assert!(sh("btrfs", &["property", "set", packed.to_str().unwrap(), "compression", "zstd"]));
    let mut expected: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for dir in ["a", "a/b", "packed"] {
        for size in [0, 1, 5, 100, 2047, 2048, 2049, 3900, 4096, 5000, 300_000] {
            let content: Vec<u8> = (0..size).map(|at: usize| (at / 7 % 11) as u8 + b'a').collect();
            fs::write(home.join(dir).join(size.to_string()), &content).unwrap();
            expected.push((format!("{dir}/{size}"), Some(content)));
        }
    }
    // A hole in front and behind, a cut one, one that shares its inode, and what is no file.
    File::create(home.join("hole")).unwrap().set_len(1500).unwrap();
    expected.push(("hole".into(), Some(vec![0; 1500])));
    fs::write(home.join("cut"), "0123456789").unwrap();
    File::options().write(true).open(home.join("cut")).unwrap().set_len(4).unwrap();
    expected.push(("cut".into(), Some(b"0123".to_vec())));
    fs::write(home.join("grown"), "0123456789").unwrap();
    File::options().write(true).open(home.join("grown")).unwrap().set_len(1000).unwrap();
    expected.push(("grown".into(), Some([b"0123456789".as_slice(), &[0; 990]].concat())));
    fs::hard_link(home.join("cut"), home.join("a/other")).unwrap();
    expected.push(("a/other".into(), Some(b"0123".to_vec())));
    symlink("cut", home.join("link")).unwrap();
    expected.extend([("link".into(), None), ("a".into(), None), ("missing".into(), None)]);

    let snapshot = image.top().join("snapshot");
    KernelBtrfs.snapshot(&home, image.top(), OsStr::new("snapshot")).unwrap();
    KernelBtrfs.set_readonly(&snapshot, true).unwrap();
    fs::write(home.join("cut"), "changed afterwards").unwrap();

    let want =
        |(at, (path, _)): (usize, &(String, _))| ReadWant { content: at as u32, path: path.as_str().into() };
    let wants: Vec<ReadWant> = expected.iter().enumerate().map(want).collect();
    for (at, digest) in digests(&snapshot, wants.clone()) {
        let (path, content) = &expected[at as usize];
        assert_eq!(digest, content.as_ref().map(|content| *blake3::hash(content).as_bytes()), "`{path}`");
    }
    let mut read: Vec<Option<Vec<u8>>> = vec![None; expected.len()];
    for frame in read_frames(&snapshot, wants) {
        let pieces = match frame {
            StreamFrame::Content(pieces) => pieces,
            StreamFrame::Coded { codings, mut pieces, .. } => {
                for coding in codings {
                    let piece = &mut pieces[coding.piece as usize];
                    piece.data = coding.decoded(&piece.data).unwrap();
                }
                pieces
            }
            _ => continue,
        };
        for piece in pieces {
            let whole = read[piece.content as usize].get_or_insert_default();
            whole.resize(whole.len().max(piece.offset as usize), 0);
            whole.extend(&piece.data);
            if let Some((size, _)) = piece.last {
                whole.resize(size as usize, 0);
            }
        }
    }
    for ((path, content), read) in expected.iter().zip(read) {
        assert_eq!(&read, content, "`{path}`");
    }
}

#[test]
fn files_that_chattr_protects_are_told_whether_they_are_opened_or_not() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    let wanted = [("small", 5, "+i"), ("large", 300_000, "+a"), ("free", 5, "-i"), ("log", 5, "+a")];
    for (name, size, flag) in wanted {
        fs::write(home.join(name), vec![7; size]).unwrap();
        assert!(sh("chattr", &[flag, home.join(name).to_str().unwrap()]));
    }
    let snapshot = image.top().join("snapshot");
    KernelBtrfs.snapshot(&home, image.top(), OsStr::new("snapshot")).unwrap();
    KernelBtrfs.set_readonly(&snapshot, true).unwrap();
    for (name, _, flag) in wanted {
        assert!(sh("chattr", &[&flag.replace('+', "-"), home.join(name).to_str().unwrap()]));
    }
    let wants =
        wanted.iter().zip(0..).map(|((name, ..), content)| ReadWant { content, path: (*name).into() });
    let told = read_frames(&snapshot, wants.collect()).into_iter().filter_map(|frame| match frame {
        StreamFrame::Frozen { content } => Some(content),
        _ => None,
    });
    let mut told: Vec<u32> = told.collect();
    told.sort_unstable();
    assert_eq!(told, [0, 1, 3]);
}
