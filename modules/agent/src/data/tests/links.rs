//! Hard links whose names come and go: our own steps move the times of the inode they share, and are told from edits.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::drive::{apply_watched, assert_same, everywhere, mirror, walked};
use super::plan::{Plan, plan};
use crate::data::apply::Watch;
use crate::proto::{ApplyReport, Op};

/// Lets the clock of the file system move between any two steps, as it does on a busy machine.
struct Slowly;

impl Watch for Slowly {
    fn after(&self, _: &'static str) -> Result<(), Errno> {
        thread::sleep(Duration::from_millis(12));
        Ok(())
    }
}

/// Edits a file in place once, right after a step of this name.
struct Edit {
    step: &'static str,
    path: PathBuf,
}

impl Watch for Edit {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        Slowly.after(step)?;
        if step == self.step && fs::metadata(&self.path).unwrap().len() == 1 {
            let mut file = fs::File::options().append(true).open(&self.path).unwrap();
            file.write_all(b" and my own words").unwrap();
        }
        Slowly.after(step)
    }
}

/// Plans names that are new before names that are gone, as the engine does.
fn removals_last(source: &Path, target: &Path) -> Plan {
    let Plan { ops, wants } = plan(&walked(source), &walked(target));
    let is_removal = |op: &Op| matches!(op, Op::Remove { .. } | Op::RemoveDir { .. });
    let (removals, mut ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(is_removal);
    let metas = ops.iter().position(|op| matches!(op, Op::SetDir { .. })).unwrap();
    ops.splice(metas..metas, removals);
    Plan { ops, wants }
}

/// Gives both sides `h/a` and `h/b`, one file, and `h/z`; changes the source, and syncs.
fn sync(source: &Path, target: &Path, change: impl Fn(&Path), watch: &dyn Watch) -> ApplyReport {
    let h = source.join("h");
    fs::create_dir_all(&h).unwrap();
    fs::write(h.join("a"), "x").unwrap();
    fs::hard_link(h.join("a"), h.join("b")).unwrap();
    fs::write(h.join("z"), "another file").unwrap();
    mirror(source, target);
    change(&h);
    let report = apply_watched(source, target, &removals_last(source, target), watch).unwrap();
    assert_eq!(report.failed, None);
    report
}

#[test]
fn one_name_of_a_hard_link_is_renamed_and_nobody_is_accused() {
    let changes: [fn(&Path); 5] = [
        |h| fs::rename(h.join("a"), h.join("c")).unwrap(),
        |h| {
            fs::hard_link(h.join("b"), h.join("d")).unwrap();
            fs::remove_file(h.join("a")).unwrap();
        },
        |h| fs::rename(h.join("a"), h.join("z")).unwrap(),
        |h| {
            fs::hard_link(h.join("b"), h.join("c")).unwrap();
            fs::rename(h.join("b"), h.join("z")).unwrap();
        },
        |h| {
            fs::create_dir(h.join("new")).unwrap();
            fs::rename(h.join("a"), h.join("new/a")).unwrap();
        },
    ];
    everywhere(|source, target| {
        for change in changes {
            let report = sync(source, target, change, &Slowly);
            assert!(report.conflicts.is_empty(), "{report:?}");
            assert_same(source, target);
            fs::remove_dir_all(source.join("h")).unwrap();
        }
    });
}

#[test]
fn what_somebody_edits_while_its_names_come_and_go_is_still_a_conflict() {
    everywhere(|source, target| {
        for step in ["link", "step"] {
            let edit = Edit { step, path: target.join("h/b") };
            let rename = |h: &Path| fs::rename(h.join("a"), h.join("c")).unwrap();
            let report = sync(source, target, rename, &edit);
            let [conflict] = report.conflicts.as_slice() else { panic!("{step}: {report:?}") };
            assert!(conflict.path.to_string().ends_with("/h/a"), "{step}: {conflict:?}");
            assert!(conflict.why.contains("changed after the plan"), "{step}: {conflict:?}");
            assert_eq!(fs::read_to_string(target.join("h/a")).unwrap(), "x and my own words");
            assert_eq!(fs::metadata(target.join("h/a")).unwrap().nlink(), 3);
            fs::remove_dir_all(source.join("h")).unwrap();
            fs::remove_dir_all(target.join("h")).unwrap();
        }
    });
}
