//! What goes wrong before the commit leaves no trace; what goes wrong later is told.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::drive::{
    Disk, apply, apply_frames, apply_watched, assert_same, everywhere, frames, mirror, request, sh, skip,
    state_of, uuid_of, walked,
};
use super::nasty;
use super::plan::{normal, plan};
use super::wire::Agent;
use crate::data::apply::Watch;
use crate::frame::FrameKind;
use crate::proto::{
    AgentError, AgentErrorKind, ApplyNews, ApplyReport, Meta, Op, PROTOCOL, Request, StreamFrame, decode,
    encode,
};

/// Applies frames that must fail, and checks that nothing has changed, times included.
fn fails(target: &Path, frames: Vec<StreamFrame>, kind: AgentErrorKind) -> AgentError {
    let before = normal(&walked(target));
    let error = apply_frames(target, frames, "").unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert_eq!(normal(&walked(target)), before);
    assert!(!target.join(".pc-switcher").exists());
    error
}

#[test]
fn a_stream_that_ends_or_lies_leaves_nothing() {
    everywhere(|source, target| {
        nasty::make(source);
        fs::write(target.join("mine"), "x").unwrap();
        let all = frames(source, &plan(&walked(source), &walked(target)));
        for cut in [0, 1, all.len() / 2, all.len() - 1] {
            fails(target, all[..cut].to_vec(), AgentErrorKind::Protocol);
        }
        let mut short = all.clone();
        short.pop();
        short.push(StreamFrame::Commit { ops: 1, contents: 0 });
        fails(target, short, AgentErrorKind::Protocol);
        let damaged = |change: fn(&mut crate::proto::Piece)| {
            let mut damaged = all.clone();
            for frame in &mut damaged {
                if let StreamFrame::Content(pieces) = frame {
                    pieces.iter_mut().filter(|piece| piece.data.len() > 3).for_each(change);
                }
            }
            damaged
        };
        let flipped = damaged(|piece| piece.data[2] ^= 1);
        assert!(fails(target, flipped, AgentErrorKind::Failed).message.contains("digest"));
        fails(target, damaged(|piece| piece.offset += 1 << 40), AgentErrorKind::Failed);
        fails(target, damaged(|piece| piece.content += 5000), AgentErrorKind::Protocol);
    });
}

/// Starts an apply of the nasty tree in an agent of its own; the commit frame is not sent yet.
fn half_way(source: &Path, target: &Path) -> (Agent, Vec<u8>) {
    nasty::make(source);
    let mut all = frames(source, &plan(&walked(source), &walked(target)));
    let commit = encode(&all.pop().unwrap());
    let mut agent = Agent::open(&Request::Apply(request(target, "")));
    for frame in all {
        agent.send(FrameKind::Up, &encode(&frame));
        agent.wait_for(FrameKind::Credit);
    }
    (agent, commit)
}

#[test]
fn a_cancelled_call_and_a_lost_connection_leave_nothing() {
    everywhere(|source, target| {
        let before = normal(&walked(target));
        let (mut agent, _) = half_way(source, target);
        assert!(target.join(".pc-switcher/stage-0123abcd").exists());
        agent.send(FrameKind::Cancel, &[]);
        let error: AgentError = decode(&agent.wait_for(FrameKind::Error).body).unwrap();
        assert_eq!(error.kind, AgentErrorKind::Cancelled);
        agent.hang_up();
        assert!(normal(&walked(target)) == before && !target.join(".pc-switcher").exists());
        fs::remove_dir_all(source).unwrap();
        fs::create_dir(source).unwrap();
        half_way(source, target).0.hang_up();
        assert!(normal(&walked(target)) == before && !target.join(".pc-switcher").exists());
    });
}

#[test]
fn a_connection_lost_after_the_commit_record_does_not_stop_the_commit() {
    everywhere(|source, target| {
        let (mut agent, commit) = half_way(source, target);
        agent.send(FrameKind::Up, &commit);
        let news: ApplyNews = decode(&agent.wait_for(FrameKind::Item).body).unwrap();
        assert_eq!(news, ApplyNews::Staged);
        agent.hang_up();
        assert_same(source, target);
        assert!(!target.join(".pc-switcher").exists());
    });
}

#[test]
fn a_full_disk_leaves_the_tree_as_it_was() {
    for fs_type in ["btrfs", "ext4"] {
        let Some(disk) = Disk::make(fs_type, 120 << 20) else { return };
        let source = tempfile::tempdir().unwrap();
        fs::write(disk.root.join("mine"), "x").unwrap();
        fs::write(source.path().join("mine"), "y").unwrap();
        for n in 0..20 {
            fs::write(source.path().join(format!("large-{n}")), vec![n as u8; 10 << 20]).unwrap();
        }
        let _ = fs::remove_dir(disk.root.join("lost+found"));
        let all = frames(source.path(), &plan(&walked(source.path()), &walked(&disk.root)));
        fails(&disk.root, all, AgentErrorKind::NoSpace);
        assert_eq!(fs::read_to_string(disk.root.join("mine")).unwrap(), "x");
    }
}

#[test]
fn a_disk_that_staging_fills_is_given_back_although_the_machine_state_lies_on_it() {
    for (fs_type, size) in [("btrfs", 120), ("btrfs", 400), ("ext4", 120)] {
        let Some(disk) = Disk::make(fs_type, size << 20) else { return };
        let target = disk.root.join("target");
        fs::create_dir(&target).unwrap();
        let source = tempfile::tempdir().unwrap();
        // Small ones as well: they fill what the large ones leave.
        for n in 0..300 {
            fs::write(source.path().join(format!("small-{n}")), vec![n as u8; 5000]).unwrap();
        }
        for n in 0..size / 10 {
            fs::write(source.path().join(format!("large-{n}")), vec![n as u8; 10 << 20]).unwrap();
        }
        let all = frames(source.path(), &plan(&walked(source.path()), &walked(&target)));
        let error = fails(&target, all, AgentErrorKind::NoSpace);
        assert!(!error.message.contains("tidies up"), "{error}");
        assert_eq!(state_of(&target).list("").unwrap(), [""; 0]);
    }
}

/// Fills the file system of the machine state to the last byte once staging has begun.
struct FillState(PathBuf);

impl Watch for FillState {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        match step {
            "stage" => {
                let mut file = fs::File::create(self.0.join("filler")).unwrap();
                while file.write_all(&[1; 4096]).is_ok() {}
                Err(Errno::NOSPC)
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn staging_goes_although_the_machine_state_cannot_be_written_at_all() {
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let (source, target) = (disk.root.join("source"), disk.root.join("target"));
    let state = state_of(&target);
    for dir in [&source, &target, state.root()] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(source.join("new"), "x").unwrap();
    let root = state.root().to_str().unwrap();
    assert!(sh("mount", &["-t", "tmpfs", "-o", "size=256k", "none", root]));
    let changing = plan(&walked(&source), &walked(&target));
    let ended = apply_watched(&source, &target, &changing, &FillState(root.into()));
    let left = state.list("commits");
    assert!(sh("umount", &[root]));
    assert_eq!(ended.unwrap_err().kind, AgentErrorKind::NoSpace);
    assert_eq!(left.unwrap(), [""; 0]);
    assert!(!target.join(".pc-switcher").exists());
    mirror(&source, &target);
}

#[test]
fn an_immutable_file_is_a_conflict_and_the_others_go_on() {
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let (source, target) = (disk.root.join("s"), disk.root.join("t"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    for name in ["content", "meta", "gone", "free", "log"] {
        fs::write(source.join(name), "1").unwrap();
    }
    mirror(&source, &target);
    fs::write(source.join("content"), "22").unwrap();
    fs::write(source.join("free"), "22").unwrap();
    fs::write(source.join("log"), "22").unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    assert!(sh("chmod", &["600", source.join("meta").to_str().unwrap()]));
    let frozen: Vec<String> =
        ["content", "meta", "gone"].iter().map(|n| target.join(n).to_str().unwrap().into()).collect();
    frozen.iter().for_each(|path| assert!(sh("chattr", &["+i", path])));
    let log = target.join("log").to_str().unwrap().to_owned();
    assert!(sh("chattr", &["+a", &log]));
    let planned = plan(&walked(&source), &walked(&target));
    let report: ApplyReport = apply(&source, &target, &planned).unwrap();
    frozen.iter().for_each(|path| assert!(sh("chattr", &["-i", path])));
    assert!(sh("chattr", &["-a", &log]));
    assert_eq!(report.conflicts.len(), 4, "{report:?}");
    for conflict in &report.conflicts {
        let flag = if conflict.path.to_string() == log { "a" } else { "i" };
        assert!(conflict.why.contains(&format!("`sudo chattr -{flag}` takes that off")), "{conflict:?}");
    }
    assert_eq!(fs::read_to_string(target.join("free")).unwrap(), "22");
    mirror(&source, &target);
}

#[test]
fn a_root_that_must_not_be_changed_is_told_with_what_to_do() {
    let Some(disk) = Disk::make("ext4", 60 << 20) else { return };
    let [source, target] = ["s", "t"].map(|name| disk.root.join(name));
    [&source, &target].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    fs::write(source.join("new"), "1").unwrap();
    let root = target.to_str().unwrap();
    assert!(sh("chattr", &["+i", root]));
    let error = apply(&source, &target, &plan(&walked(&source), &walked(&target))).unwrap_err();
    assert!(sh("chattr", &["-i", root]));
    assert!(error.message.contains("`sudo chattr -i` takes that off"), "{error}");
    mirror(&source, &target);
}

#[test]
fn attributes_that_the_file_system_cannot_hold_are_told_with_their_paths_and_all_else_arrives() {
    let (Some(from), Some(to)) = (Disk::make("btrfs", 300 << 20), Disk::make("ext4", 60 << 20)) else {
        return;
    };
    let [source, target] = [&from, &to].map(|disk| disk.root.join("tree"));
    [&source, &target].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let value = vec![b'x'; 10_000];
    fs::create_dir_all(source.join("dir/inner")).unwrap();
    for path in ["dir", "dir/inner", "dir/inner/file", "file", "old"] {
        if path != "dir" && path != "dir/inner" {
            fs::write(source.join(path), path).unwrap();
        }
        set(&source.join(path), "user.large", if path == "old" { b"small" } else { &value });
        set(&source.join(path), "user.small", b"x");
    }
    let sync = || {
        let report = apply(&source, &target, &plan(&walked(&source), &walked(&target))).unwrap();
        assert!(report.failed.is_none() && report.conflicts.is_empty(), "{report:?}");
        let mut told: Vec<String> = Vec::new();
        for refused in report.refused.named() {
            assert_eq!(
                (refused.name.to_string().as_str(), refused.why.as_str()),
                ("user.large", "too large")
            );
            told.push(refused.path.as_path().strip_prefix(&target).unwrap().to_str().unwrap().into());
        }
        told.sort();
        told
    };
    assert_eq!(sync(), ["dir", "dir/inner", "dir/inner/file", "file"]);
    // The value of before goes with what it was of.
    set(&source.join("old"), "user.large", &value);
    assert!(sync().contains(&"old".to_owned()));
    for path in ["dir", "dir/inner", "dir/inner/file", "file", "old"] {
        let mut room = [0_u8; 64];
        let named = |name: &str, room: &mut [u8; 64]| rustix::fs::getxattr(target.join(path), name, room);
        assert_eq!(named("user.small", &mut room), Ok(1), "{path}");
        assert_eq!(named("user.large", &mut room), Err(Errno::NODATA), "{path}");
    }
    assert_eq!(fs::read_to_string(target.join("dir/inner/file")).unwrap(), "dir/inner/file");
}

#[test]
fn a_directory_that_became_a_link_is_not_followed_out_of_the_tree() {
    everywhere(|base, _| {
        let [source, target, outside] = ["s", "t", "o"].map(|name| base.join(name));
        [&source, &target, &outside].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        for root in [&source, &target] {
            fs::create_dir(root.join("dir")).unwrap();
            fs::write(root.join("dir/old"), "1").unwrap();
        }
        fs::write(source.join("dir/new"), "2").unwrap();
        fs::write(outside.join("old"), "theirs").unwrap();
        let planned = plan(&walked(&source), &walked(&target));
        fs::rename(target.join("dir"), target.join("away")).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("dir")).unwrap();
        let report = apply(&source, &target, &planned).unwrap();
        assert!(!report.conflicts.is_empty(), "{report:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("old")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(target.join("away/old")).unwrap(), "1");
    });
}

#[test]
fn a_front_that_speaks_another_protocol_is_refused() {
    assert_eq!(super::wire::greeted(PROTOCOL), Ok(()));
    let why = super::wire::greeted(PROTOCOL + 1).unwrap_err();
    assert!(why.contains(&format!("protocol {}", PROTOCOL + 1)), "{why}");
}

#[test]
fn the_subvolume_of_the_plan_is_insisted_on() {
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let commit = || vec![StreamFrame::Commit { ops: 0, contents: 0 }];
    let uuid = uuid_of(&disk.root);
    apply_frames(&disk.root, commit(), &uuid).unwrap();
    let error = apply_frames(&disk.root, commit(), &"0".repeat(32)).unwrap_err();
    assert!(error.message.contains("plan again"), "{error}");
    assert!(!disk.root.join(".pc-switcher").exists());
    let plain = tempfile::tempdir().unwrap();
    if uuid_of(plain.path()).is_empty() {
        assert!(apply_frames(plain.path(), commit(), &uuid).is_err());
    }
}

#[test]
fn a_mount_below_the_root_is_never_written_to() {
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let inner = disk.root.join("mounted");
    fs::create_dir(&inner).unwrap();
    assert!(sh("mount", &["-t", "tmpfs", "none", inner.to_str().unwrap()]));
    let put = Op::Put {
        path: "mounted/file".into(),
        body: crate::proto::Body::Fifo,
        meta: Meta { mode: 0o600, ..Meta::default() },
        replaces: None,
    };
    let frames =
        vec![StreamFrame::Ops { part: 0, ops: vec![put] }, StreamFrame::Commit { ops: 1, contents: 0 }];
    let done = apply_frames(&disk.root, frames, "");
    let inside = fs::read_dir(&inner).unwrap().count();
    assert!(sh("umount", &[inner.to_str().unwrap()]));
    assert_eq!((inside, done.unwrap().conflicts.len()), (0, 0));
    assert!(inner.join("file").exists(), "it stands below the mount, on the part's own file system");
}

#[test]
fn what_dead_sessions_left_without_an_entry_is_swept() {
    everywhere(|source, target| {
        fs::write(source.join("a"), "1").unwrap();
        let home = target.join(".pc-switcher");
        fs::create_dir_all(home.join("stage-11111111/5/deep")).unwrap();
        fs::write(home.join("stage-11111111/journal"), "").unwrap();
        fs::create_dir_all(home.join("undo-11111111")).unwrap();
        let commit = |ops| vec![StreamFrame::Commit { ops, contents: 0 }];
        let error = apply_frames(target, commit(1), "").unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Protocol);
        assert!(!home.join("stage-11111111").exists());
        apply_frames(target, commit(0), "").unwrap();
        assert!(!home.exists());
        // Without a journal nobody knows what was committed.
        fs::create_dir_all(home.join("stage-11111111")).unwrap();
        fs::write(home.join("stage-11111111/5"), "perhaps somebody's").unwrap();
        apply_frames(target, commit(0), "").unwrap();
        assert!(!home.join("stage-11111111").exists());
        assert_eq!(fs::read_to_string(home.join("kept-11111111/5-")).unwrap(), "perhaps somebody's");
        fs::remove_dir_all(&home).unwrap();
        mirror(source, target);
    });
}

#[test]
fn without_a_pre_set_displaced_versions_stay_until_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    if !uuid_of(dir.path()).is_empty() {
        return skip("the directory for temporary files is on btrfs");
    }
    fs::write(source.join("a"), "first").unwrap();
    mirror(&source, &target);
    fs::write(source.join("a"), "second one").unwrap();
    let report = mirror(&source, &target);
    assert!(report.warnings[0].contains("kept in"), "{report:?}");
    let undo = target.join(".pc-switcher/undo-0123abcd");
    let kept = fs::read_dir(&undo).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(kept).unwrap(), "first");
    mirror(&source, &target);
    assert!(!target.join(".pc-switcher").exists());
}
