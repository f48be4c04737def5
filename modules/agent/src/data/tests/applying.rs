//! Round trips: what was walked and read on one side stands on the other afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::drive::{apply, apply_frames, assert_same, everywhere, frames, mirror, uuid_of, walked};
use super::nasty;
use super::plan::{identity, plan, tree};
use crate::proto::{Body, Op, StreamFrame};

#[test]
fn a_nasty_tree_arrives_whole_and_a_second_plan_is_empty() {
    everywhere(|source, target| {
        nasty::make(source);
        let report = mirror(source, target);
        assert!(report.conflicts.is_empty() && report.kept.is_empty(), "{report:?}");
        assert!(!target.join(".pc-switcher").exists());
        let again = plan(&walked(source), &walked(target));
        assert!(again.wants.is_empty());
        assert!(again.ops.iter().all(|op| matches!(op, Op::SetDir { .. })), "{again:?}", again = again.ops);
        let sparse = |root: &std::path::Path| fs::metadata(root.join("docs/sparse")).unwrap().blocks();
        assert!(sparse(target) <= sparse(source), "no hole was filled");
    });
}

/// The stream of a plan whose content goes before its steps.
fn ahead(source: &std::path::Path, plan: &super::plan::Plan) -> Vec<StreamFrame> {
    let mut frames = frames(source, plan);
    let content = |frame: &StreamFrame| matches!(frame, StreamFrame::Content(_));
    // Sorting is stable: pieces of a file stay in order.
    frames.sort_by_key(|frame| !content(frame));
    frames.insert(0, StreamFrame::Ahead { part: 0 });
    frames
}

#[test]
fn content_may_go_before_its_steps_and_what_no_step_asks_for_is_dropped() {
    everywhere(|source, target| {
        nasty::make(source);
        let whole = plan(&walked(source), &walked(target));
        let left = whole.ops.iter().rposition(|op| {
            matches!(op, Op::Put { path, body: Body::File { .. }, .. } if path.to_string().starts_with("docs"))
        });
        let mut frames = ahead(source, &whole);
        let Op::Put { path, .. } = &whole.ops[left.unwrap()] else { unreachable!() };
        let mut without: Vec<Op> = whole.ops.clone();
        without.retain(|op| match op {
            Op::Put { path: other, .. } => other != path,
            Op::Link { path: other, to, .. } => other != path && to != path,
            _ => true,
        });
        let (ops, contents) = (without.len() as u64, whole.wants.len() as u64 - 1);
        frames.retain(|frame| !matches!(frame, StreamFrame::Ops { .. } | StreamFrame::Commit { .. }));
        frames.extend(without.chunks(100).map(|ops| StreamFrame::Ops { part: 0, ops: ops.to_vec() }));
        frames.push(StreamFrame::Commit { ops, contents });
        let report = apply_frames(target, frames, &uuid_of(target)).unwrap();
        assert!(report.conflicts.is_empty() && report.kept.is_empty(), "{report:?}");
        assert!(!target.join(".pc-switcher").exists() && !target.join(path.as_path()).exists());
        let rest = plan(&walked(source), &walked(target));
        apply_frames(target, ahead(source, &rest), &uuid_of(target)).unwrap();
        assert_same(source, target);
    });
}

#[test]
fn a_step_takes_no_content_that_came_otherwise_than_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for dir in [&source, &target] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(source.join("a"), "12345").unwrap();
    let good = ahead(&source, &plan(&walked(&source), &walked(&target)));
    let refused = |change: &dyn Fn(&mut Vec<StreamFrame>)| {
        let mut frames = good.clone();
        change(&mut frames);
        apply_frames(&target, frames, "").unwrap_err();
        assert!(!target.join("a").exists() && !target.join(".pc-switcher").exists());
    };
    refused(&|frames| frames[0] = StreamFrame::Ahead { part: 1 });
    refused(&|frames| drop(frames.remove(0)));
    refused(&|frames| frames.retain(|frame| !matches!(frame, StreamFrame::Content(_))));
    refused(&|frames| {
        for frame in frames {
            if let StreamFrame::Content(pieces) = frame {
                pieces[0].last = None;
            }
        }
    });
    refused(&|frames| {
        for frame in frames {
            if let StreamFrame::Ops { ops, .. } = frame
                && let Op::Put { body: Body::File { size, .. }, .. } = &mut ops[0]
            {
                *size = 4;
            }
        }
    });
    apply_frames(&target, good.clone(), "").unwrap();
    assert_same(&source, &target);
}

#[test]
fn an_acl_has_one_name_on_xfs_too() {
    let Some(disk) = super::drive::Disk::make("xfs", 320 << 20) else { return };
    let (here, there) = (tempfile::tempdir().unwrap(), disk.root.join("target"));
    fs::create_dir(&there).unwrap();
    fs::create_dir(here.path().join("shared")).unwrap();
    let path = here.path().join("shared");
    // `u::rwx,u:1001:r-x,g::r-x,m::r-x,o::---`, for the directory and by default for what is made in it.
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries =
        [entry(1, 7, none), entry(2, 5, 1001), entry(4, 5, none), entry(16, 5, none), entry(32, 0, none)];
    let acl = [2_u32.to_le_bytes().to_vec(), entries.concat()].concat();
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let set = rustix::fs::setxattr(&path, name, &acl, rustix::fs::XattrFlags::empty());
        if set == Err(rustix::io::Errno::OPNOTSUPP) {
            return super::drive::skip("no ACLs in the temporary directory");
        }
        set.unwrap();
    }
    mirror(here.path(), &there);
    let again = plan(&walked(here.path()), &walked(&there));
    assert!(again.ops.iter().all(|op| matches!(op, Op::SetDir { .. })), "{:?}", again.ops);
    assert_eq!(walked(&there)[0].entries[0].meta.xattrs.len(), 2);
}

#[test]
fn changes_types_and_links_follow() {
    everywhere(|source, target| {
        nasty::make(source);
        mirror(source, target);
        fs::write(source.join("docs/large"), "small now").unwrap();
        fs::remove_file(source.join("suid")).unwrap();
        fs::create_dir(source.join("suid")).unwrap();
        fs::write(source.join("suid/now-a-dir"), "x").unwrap();
        fs::remove_dir_all(source.join("docs/inner")).unwrap();
        fs::write(source.join("docs/inner"), "now a file").unwrap();
        fs::remove_file(source.join("dangling")).unwrap();
        fs::write(source.join("dangling"), "now a file").unwrap();
        fs::remove_file(source.join("docs/nothing")).unwrap();
        symlink("x", source.join("docs/nothing")).unwrap();
        fs::remove_file(source.join("other/second")).unwrap();
        fs::hard_link(source.join("docs/sparse"), source.join("other/second")).unwrap();
        fs::write(source.join("third"), "both names change").unwrap();
        fs::remove_dir_all(source.join("level-0")).unwrap();
        fs::create_dir(source.join("moved")).unwrap();
        fs::hard_link(source.join("docs/plain"), source.join("moved/fourth")).unwrap();
        let before = fs::metadata(target.join("docs/sparse")).unwrap().ino();
        let report = mirror(source, target);
        assert!(report.conflicts.is_empty() && report.kept.is_empty(), "{report:?}");
        assert_eq!(fs::metadata(target.join("docs/sparse")).unwrap().ino(), before, "linked, not sent");
        mirror(source, target);
    });
}

#[test]
fn a_renamed_directory_is_linked_and_nothing_is_sent() {
    everywhere(|source, target| {
        fs::create_dir_all(source.join("before/deep")).unwrap();
        for n in 0..50 {
            fs::write(source.join(format!("before/deep/{n}")), vec![1; n]).unwrap();
        }
        mirror(source, target);
        let here = tree(&walked(target));
        fs::rename(source.join("before"), source.join("after")).unwrap();
        let there = tree(&walked(source));
        let mut ops = Vec::new();
        for (path, entry) in there {
            let (path, from) = (path.clone(), path.to_string().replace("after", "before").as_str().into());
            ops.push(match entry.kind {
                crate::proto::Kind::Dir => {
                    Op::Put { path, body: crate::proto::Body::Dir, meta: entry.meta, replaces: None }
                }
                _ => Op::Link { path, to: from, replaces: None },
            });
        }
        for (path, entry) in here.iter().rev() {
            ops.push(match entry.kind {
                crate::proto::Kind::Dir => Op::RemoveDir { path: path.clone() },
                _ => Op::Remove { path: path.clone(), expect: identity(entry) },
            });
        }
        let root = walked(source)[0].root.clone().unwrap();
        ops.push(Op::SetMeta { path: "".into(), meta: root.meta, expect: None });
        let commit = StreamFrame::Commit { ops: ops.len() as u64, contents: 0 };
        let all = vec![StreamFrame::Ops { part: 0, ops }, commit];
        let report = apply_frames(target, all, &uuid_of(target)).unwrap();
        assert_eq!((report.conflicts, report.kept, report.bytes), (vec![], vec![], 0));
        assert_same(source, target);
    });
}

#[test]
fn what_was_edited_after_the_plan_is_kept_and_reported() {
    everywhere(|source, target| {
        for name in ["edited", "deleted", "removed-here", "quiet", "meta"] {
            fs::write(source.join(name), "first").unwrap();
        }
        fs::create_dir(source.join("dir")).unwrap();
        mirror(source, target);
        for name in ["edited", "deleted", "quiet"] {
            fs::write(source.join(name), "second version").unwrap();
        }
        fs::remove_file(source.join("removed-here")).unwrap();
        fs::remove_dir(source.join("dir")).unwrap();
        fs::write(source.join("new"), "from the source").unwrap();
        nasty::set_mtime(&source.join("meta"), 77, 0);
        let mut stale = plan(&walked(source), &walked(target));
        stale.ops.iter_mut().for_each(|op| {
            if let Op::Put { path, .. } = op {
                assert!(path.to_string() != "meta" || !stale.wants.is_empty());
            }
        });
        fs::write(target.join("edited"), "my own words").unwrap();
        fs::remove_file(target.join("deleted")).unwrap();
        fs::write(target.join("removed-here"), "still needed").unwrap();
        fs::write(target.join("new"), "was first").unwrap();
        fs::write(target.join("dir/inside"), "late").unwrap();
        let report = apply(source, target, &stale).unwrap();
        let mut left: Vec<_> =
            report.conflicts.iter().map(|c| c.path.as_path().file_name().unwrap().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["deleted", "edited", "new", "removed-here"], "{report:?}");
        assert_eq!(report.kept.len(), 1);
        let text = |name: &str| fs::read_to_string(target.join(name)).unwrap();
        assert_eq!(text("edited"), "my own words");
        assert_eq!(text("removed-here"), "still needed");
        assert_eq!(text("new"), "was first");
        assert_eq!(text("dir/inside"), "late");
        assert_eq!(text("quiet"), "second version");
        assert!(!target.join("deleted").exists());
    });
}

#[test]
fn the_root_keeps_its_time_when_nothing_is_said_about_it() {
    everywhere(|source, target| {
        fs::create_dir(source.join("d")).unwrap();
        mirror(source, target);
        nasty::set_mtime(target, 5, 6);
        let commit = StreamFrame::Commit { ops: 0, contents: 0 };
        apply_frames(target, vec![commit], "").unwrap();
        let meta = fs::metadata(target).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (5, 6));
    });
}

/// A plan that brings a file into `shared`, and what became of it after `meanwhile`.
fn closed_meanwhile(
    source: &std::path::Path,
    target: &std::path::Path,
    plans: impl Fn(&std::path::Path),
    meanwhile: impl Fn(&std::path::Path),
) -> crate::proto::ApplyReport {
    fs::create_dir(source.join("shared")).unwrap();
    fs::set_permissions(source.join("shared"), fs::Permissions::from_mode(0o755)).unwrap();
    mirror(source, target);
    fs::write(source.join("shared/new"), "x").unwrap();
    plans(&source.join("shared"));
    nasty::set_mtime(&source.join("shared"), 1_234_567, 8);
    let plan = plan(&walked(source), &walked(target));
    meanwhile(&target.join("shared"));
    let report = apply_frames(target, frames(source, &plan), &uuid_of(target)).unwrap();
    assert_eq!(fs::read_to_string(target.join("shared/new")).unwrap(), "x");
    let seen = fs::metadata(target.join("shared")).unwrap();
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_234_567, 8));
    report
}

#[test]
fn a_directory_that_somebody_closes_after_the_plan_stays_closed() {
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let chmod = |mode| {
        move |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    everywhere(|source, target| {
        // Nothing of its rights was to be changed.
        let report = closed_meanwhile(source, target, |_| (), chmod(0o700));
        assert!(report.conflicts.is_empty(), "{report:?}");
        assert_eq!(mode(&target.join("shared")), 0o700);
    });
    everywhere(|source, target| {
        // The source opens it further.
        let report = closed_meanwhile(source, target, chmod(0o777), chmod(0o700));
        let paths: Vec<String> = report.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        assert_eq!(paths, [target.join("shared").to_str().unwrap()]);
        assert_eq!(mode(&target.join("shared")), 0o700);
    });
    everywhere(|source, target| {
        let report = closed_meanwhile(source, target, chmod(0o750), |_| ());
        assert!(report.conflicts.is_empty(), "{report:?}");
        assert_eq!(mode(&target.join("shared")), 0o750);
    });
}
