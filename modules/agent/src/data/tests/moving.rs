//! Moves on the target: whole directories and files, past each other, and a death after any step of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::deaths::{At, Fault, assert_nothing_left, dying, is_committed, redo_now};
use super::drive::{apply, apply_watched, everywhere, mirror, state_of, walked};
use super::nasty::set_mtime;
use super::plan::{Plan, identity, tree};
use crate::data::apply::{Unwatched, Watch, redo};
use crate::proto::{ApplyReport, Body, Identity, Meta, Op, Patience};

pub(super) fn make(root: &Path) {
    for path in
        ["a/deep/file", "a/x", "b/y", "over", "under", "left", "right", "one", "two", "three", "p/q/in"]
    {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("content of {}", path.file_name().unwrap().to_str().unwrap())).unwrap();
        set_mtime(&path, 1_000_000, 3);
    }
}

fn target(base: &Path) -> std::path::PathBuf {
    let (old, target) = (base.join("old"), base.join("target"));
    for dir in [&old, &target, &state_of(&target).root().to_owned()] {
        let _ = fs::remove_dir_all(dir);
    }
    fs::create_dir(&old).unwrap();
    fs::create_dir(&target).unwrap();
    make(&old);
    mirror(&old, &target);
    target
}

/// Every way to move: into a new directory, over a file, a swap, a cycle of three, a directory with its own child, and then
/// a change of content and one of metadata at the new places.
pub(super) fn ops(target: &Path) -> Vec<Op> {
    let there = tree(&walked(target));
    let id = |path: &str| -> Identity { identity(&there[&path.into()]) };
    let meta = |mode| Meta { mode, ..Meta::default() };
    let to = |path: &str, from: &str, of: &str| Op::Move {
        path: path.into(),
        from: from.into(),
        expect: id(of),
        replaces: None,
    };
    let swap = |path: &str, with: &str, here: &str, there: &str| Op::Swap {
        path: path.into(),
        with: with.into(),
        expect: id(here),
        other: id(there),
    };
    vec![
        Op::Put { path: "new".into(), body: Body::Bare, meta: meta(0o755), replaces: None },
        to("new/a", "a", "a"),
        to("new/deep", "new/a/deep", "a/deep"),
        Op::Move {
            path: "under".into(),
            from: "over".into(),
            expect: id("over"),
            replaces: Some(id("under")),
        },
        swap("left", "right", "left", "right"),
        // one → two → three → one
        swap("two", "one", "two", "one"),
        swap("three", "one", "three", "two"),
        // p/q → p, p → p/q
        Op::Aside { path: "p/q".into(), expect: id("p/q") },
        Op::Aside { path: "p".into(), expect: id("p") },
        to("p", "p/q", "p/q"),
        to("p/q", "p", "p"),
        Op::Put {
            path: "new/a/link".into(),
            body: Body::Symlink("x".into()),
            meta: meta(0o777),
            replaces: None,
        },
        Op::Put {
            path: "new/deep/file".into(),
            body: Body::Symlink("elsewhere".into()),
            meta: meta(0o777),
            replaces: Some(id("a/deep/file")),
        },
        Op::SetMeta { path: "under".into(), meta: meta(0o600), expect: Some(id("over")) },
        Op::Remove { path: "left".into(), expect: id("right") },
        to("b/edited", "b/y", "b/y"),
        Op::Put {
            path: "b/edited".into(),
            body: Body::Symlink("y".into()),
            meta: meta(0o777),
            replaces: Some(id("b/y")),
        },
    ]
}

fn run(target: &Path, ops: Vec<Op>, watch: &dyn Watch) -> ApplyReport {
    apply_watched(target, target, &Plan { ops, wants: Vec::new() }, watch).unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn assert_moved(target: &Path, inodes: &[(&str, u64)]) {
    let at = |path: &str| target.join(path);
    assert_eq!(read(at("new/a/x")), "content of x");
    assert_eq!(read(at("under")), "content of over");
    assert_eq!(read(at("right")), "content of left");
    assert_eq!(
        [read(at("two")), read(at("three")), read(at("one"))],
        ["one", "two", "three"].map(|n| format!("content of {n}"))
    );
    assert_eq!(read(at("p/in")), "content of in");
    assert_eq!(fs::read_dir(at("p/q")).unwrap().count(), 0);
    assert_eq!(fs::read_link(at("new/deep/file")).unwrap(), Path::new("elsewhere"));
    assert_eq!(fs::read_link(at("new/a/link")).unwrap(), Path::new("x"));
    assert_eq!(fs::metadata(at("under")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_link(at("b/edited")).unwrap(), Path::new("y"));
    for gone in ["a", "b/y", "over", "left", "new/a/deep"] {
        assert!(!at(gone).exists(), "{gone}");
    }
    for (path, ino) in inodes {
        assert_eq!(fs::metadata(at(path)).unwrap().ino(), *ino, "{path}");
    }
}

fn inodes(target: &Path) -> [(&'static str, u64); 6] {
    [("new/a", "a"), ("new/a/x", "a/x"), ("under", "over"), ("one", "three"), ("p", "p/q"), ("p/q", "p")]
        .map(|(now, was)| (now, fs::metadata(target.join(was)).unwrap().ino()))
}

#[test]
fn what_is_moved_keeps_its_inode_and_everything_below_it() {
    everywhere(|base, _| {
        let target = target(base);
        let inodes = inodes(&target);
        let report = run(&target, ops(&target), &Unwatched);
        assert!(report.conflicts.is_empty() && report.failed.is_none(), "{report:?}");
        assert_moved(&target, &inodes);
    });
}

#[test]
fn a_death_after_any_step_of_a_move_is_redone_to_the_end() {
    everywhere(|base, _| {
        let mut deaths = Vec::new();
        for number in 0.. {
            let target = target(base);
            let inodes = inodes(&target);
            let ops = ops(&target);
            let Err(step) = dying(|| run(&target, ops, &At::new(number, Fault::Die))) else { break };
            deaths.push(step);
            let _ = dying(|| redo_now(&target, &At::new(number * 7 % 29, Fault::Die)));
            for result in redo_now(&target, &Unwatched) {
                assert!(result.report.conflicts.is_empty(), "after {number} `{step}`: {result:?}");
            }
            match is_committed(step) {
                true => assert_moved(&target, &inodes),
                false => assert_eq!(read(target.join("a/x")), "content of x"),
            }
            assert_nothing_left(&target);
        }
        for step in ["move", "lift", "exchange", "swap", "bring back"] {
            assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
        }
    });
}

#[test]
fn a_failure_once_is_overcome_and_a_session_that_is_given_up_loses_nothing() {
    everywhere(|base, _| {
        for number in 0.. {
            let target = target(base);
            let inodes = inodes(&target);
            let watch = At::new(number, Fault::Once(Errno::IO));
            let plan = Plan { ops: ops(&target), wants: Vec::new() };
            let ended = apply_watched(&target, &target, &plan, &watch);
            if watch.seen.load(Ordering::SeqCst) <= number {
                break;
            }
            if let Ok(report) = ended {
                assert!(report.conflicts.is_empty(), "{number}: {report:?}");
                redo_now(&target, &Unwatched);
                assert_moved(&target, &inodes);
            }
        }
        for number in 0.. {
            let target = target(base);
            let ops = ops(&target);
            let Err(step) = dying(|| run(&target, ops, &At::new(number, Fault::Die))) else { break };
            let full = At::new(0, Fault::FromThenOn(Errno::NOSPC));
            redo(&state_of(&target), Patience::GiveUp, &full).unwrap();
            let mut all: Vec<String> = walk_all(&target);
            all.retain(|content| content.starts_with("content of"));
            for wanted in ["x", "over", "left", "one", "two", "three", "in"] {
                assert!(
                    all.contains(&format!("content of {wanted}")),
                    "after {number} `{step}`: {wanted} of {all:?}"
                );
            }
        }
    });
}

/// Files of several names: one that moves to a free name, over a file, past another one and from aside, with one that comes and
/// one that goes besides.
fn linked(base: &Path) -> (std::path::PathBuf, Vec<Op>) {
    let (old, target) = (base.join("old"), base.join("target"));
    for dir in [&old, &target, &state_of(&target).root().to_owned()] {
        let _ = fs::remove_dir_all(dir);
    }
    for dir in [&old, &target] {
        fs::create_dir(dir).unwrap();
    }
    for (file, names) in [("h", "h1 h2 h3 h4 h5 h6"), ("g", "g1 g2 g3"), ("under", ""), ("p/q", "p/r")] {
        let path = old.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("content of {file}")).unwrap();
        set_mtime(&path, 1_000_000, 3);
        names.split_whitespace().for_each(|name| fs::hard_link(&path, old.join(name)).unwrap());
    }
    mirror(&old, &target);
    let there = tree(&walked(&target));
    let id = |path: &str| -> Identity { identity(&there[&path.into()]) };
    let to = |path: &str, from: &str, replaces: Option<&str>| Op::Move {
        path: path.into(),
        from: from.into(),
        expect: id(from),
        replaces: replaces.map(id),
    };
    let ops = vec![
        to("moved", "h1", None),
        to("under", "h2", Some("under")),
        Op::Swap { path: "h3".into(), with: "g1".into(), expect: id("h3"), other: id("g1") },
        to("g2", "h4", Some("g2")),
        // p/q → p, and the directory goes there
        Op::Aside { path: "p/q".into(), expect: id("p/q") },
        to("d", "p", None),
        to("p", "p/q", None),
        Op::Link { path: "came".into(), to: "under".into(), replaces: None },
        Op::Link { path: "g3".into(), to: "moved".into(), replaces: Some(id("g3")) },
        Op::Remove { path: "h5".into(), expect: id("h5") },
        Op::SetMeta {
            path: "moved".into(),
            meta: Meta { mode: 0o640, ..there[&"h".into()].meta.clone() },
            expect: Some(id("h1")),
        },
    ];
    (target, ops)
}

fn assert_linked(target: &Path, [h, g, p]: [u64; 3]) {
    let ino = |path: &str| fs::symlink_metadata(target.join(path)).unwrap().ino();
    for path in ["h", "moved", "under", "g1", "g2", "h6", "came", "g3"] {
        assert_eq!(ino(path), h, "{path}");
    }
    assert_eq!([ino("g"), ino("h3"), ino("p"), ino("d/r")], [g, g, p, p]);
    let seen = fs::metadata(target.join("h")).unwrap();
    assert_eq!((seen.nlink(), seen.mode() & 0o7777), (8, 0o640));
    assert_eq!(fs::metadata(target.join("g")).unwrap().nlink(), 2);
    assert_eq!(read(target.join("h")), "content of h");
    for gone in ["h1", "h2", "h4", "h5", "p/q", "p/r", "d/q"] {
        assert!(!target.join(gone).exists(), "{gone}");
    }
}

#[test]
fn names_of_a_file_with_several_move_and_a_death_after_any_step_is_redone_to_the_end() {
    everywhere(|base, _| {
        for number in 0.. {
            let (target, ops) = linked(base);
            let inodes = ["h", "g", "p/q"].map(|path| fs::metadata(target.join(path)).unwrap().ino());
            let Err(step) = dying(|| run(&target, ops, &At::new(number, Fault::Die))) else {
                assert_linked(&target, inodes);
                break;
            };
            let _ = dying(|| redo_now(&target, &At::new(number * 7 % 29, Fault::Die)));
            for result in redo_now(&target, &Unwatched) {
                assert!(result.report.conflicts.is_empty(), "after {number} `{step}`: {result:?}");
            }
            if is_committed(step) {
                assert_linked(&target, inodes);
            }
            assert_nothing_left(&target);
        }
        for number in 0.. {
            let (target, ops) = linked(base);
            let inodes = ["h", "g", "p/q"].map(|path| fs::metadata(target.join(path)).unwrap().ino());
            let watch = At::new(number, Fault::Once(Errno::IO));
            let ended = apply_watched(&target, &target, &Plan { ops, wants: Vec::new() }, &watch);
            if watch.seen.load(Ordering::SeqCst) <= number {
                break;
            }
            if let Ok(report) = ended {
                assert!(report.conflicts.is_empty(), "{number}: {report:?}");
                redo_now(&target, &Unwatched);
                assert_linked(&target, inodes);
            }
        }
    });
}

/// Returns the content of every file below a directory, ours included.
fn walk_all(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let inside = |entry: fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => walk_all(&entry.path()),
        kind if kind.is_file() => {
            vec![String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned()]
        }
        _ => Vec::new(),
    };
    entries.flat_map(inside).collect()
}

#[test]
fn what_somebody_changed_meanwhile_is_not_moved_and_nothing_is_done_below_its_new_place() {
    everywhere(|base, _| {
        let target = target(base);
        let ops = ops(&target);
        // Another file under the name, an edit of what is moved, and of what is moved over; a new directory under the name.
        fs::write(target.join("left"), "mine").unwrap();
        fs::write(target.join("under"), "mine too").unwrap();
        fs::rename(target.join("a"), target.join("mine")).unwrap();
        fs::create_dir(target.join("a")).unwrap();
        let report = run(&target, ops, &Unwatched);
        assert!(report.failed.is_none(), "{report:?}");
        let named = |path: &str| {
            let path = target.join(path);
            report.conflicts.iter().any(|conflict| conflict.path.as_path() == path)
        };
        for path in
            ["left", "right", "under", "over", "new/a", "a", "new/a/link", "new/deep", "new/deep/file"]
        {
            assert!(named(path), "{path}: {report:?}");
        }
        assert_eq!([read(target.join("left")), read(target.join("under"))], ["mine", "mine too"]);
        assert_eq!(read(target.join("over")), "content of over");
        assert_eq!(read(target.join("mine/deep/file")), "content of file");
        assert_eq!(read(target.join("one")), "content of three", "the others are done");
        assert_nothing_left(&target);
    });
}

#[test]
fn what_was_planned_below_either_place_of_a_swap_that_is_refused_is_not_done() {
    everywhere(|base, _| {
        let target = target(base);
        for path in ["a/mine", "b/mine"] {
            fs::create_dir(target.join(path)).unwrap();
        }
        let there = tree(&walked(&target));
        let id = |path: &str| -> Identity { identity(&there[&path.into()]) };
        let put = |path: &str| Op::Put {
            path: path.into(),
            body: Body::Symlink("to".into()),
            meta: Meta { mode: 0o777, ..Meta::default() },
            replaces: None,
        };
        let open = |path: &str| Op::SetMeta {
            path: path.into(),
            meta: Meta { mode: 0o777, ..Meta::default() },
            expect: None,
        };
        let swap = Op::Swap { path: "a".into(), with: "b".into(), expect: id("a"), other: id("b") };
        let aside = Op::Aside { path: "p".into(), expect: id("p") };
        let ops = vec![
            swap,
            aside,
            Op::Put { path: "p".into(), body: Body::Bare, meta: Meta::default(), replaces: None },
            put("a/new"),
            put("b/new"),
            put("p/new"),
            Op::RemoveDir { path: "a/mine".into() },
            Op::RemoveDir { path: "b/mine".into() },
            open("b"),
            open("p"),
        ];
        // Other directories under two of the names.
        for name in ["a", "p"] {
            fs::rename(target.join(name), target.join(format!("{name}-moved"))).unwrap();
            fs::create_dir(target.join(name)).unwrap();
        }
        let rights = |name: &str| fs::metadata(target.join(name)).unwrap().mode();
        let before = ["a", "b", "p"].map(rights);
        let report = run(&target, ops, &Unwatched);
        assert!(report.failed.is_none(), "{report:?}");
        for path in ["a", "b", "p", "a/new", "b/new", "p/new"] {
            let named = report.conflicts.iter().any(|conflict| conflict.path.as_path() == target.join(path));
            assert!(named, "{path}: {report:?}");
        }
        for path in ["a/new", "b/new", "p/new"] {
            assert!(fs::symlink_metadata(target.join(path)).is_err(), "{path}");
        }
        assert!(target.join("a-moved/mine").is_dir() && target.join("b/mine").is_dir());
        assert_eq!(["a", "b", "p"].map(rights), before);
        assert_nothing_left(&target);
    });
}

#[test]
fn an_edit_below_a_directory_that_moves_comes_along() {
    everywhere(|base, _| {
        let target = target(base);
        let ops = ops(&target);
        fs::write(target.join("a/x"), "edited").unwrap();
        fs::write(target.join("a/deep/file"), "edited, too").unwrap();
        let report = run(&target, ops, &Unwatched);
        assert_eq!(report.conflicts.len(), 1, "{report:?}");
        assert_eq!(read(target.join("new/a/x")), "edited");
        assert_eq!(read(target.join("new/deep/file")), "edited, too", "it is left as it is");
    });
}

#[test]
fn a_step_that_would_move_something_onto_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("a"), "x").unwrap();
    let expect = identity(&tree(&walked(&target))[&"a".into()]);
    for (path, from) in [("a", "a"), ("../b", "a"), ("b", ".pc-switcher/a")] {
        let ops = vec![Op::Move { path: path.into(), from: from.into(), expect, replaces: None }];
        assert!(apply(&source, &target, &Plan { ops, wants: Vec::new() }).is_err(), "{path} {from}");
    }
}
