//! Sets over the model with faults, and over a real image.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pc_switcher_contract::{SetId, SnapshotKind};

use super::sidecar::{Intent, Planned};
use super::*;
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::model::{Fault, ModelBtrfs};
use crate::proto::{AgentErrorKind, PinOrder};

pub(super) fn request(snapshot_dir: &Path, session: &str, subvolumes: &[&str]) -> TakeSet {
    TakeSet {
        session: session.parse().unwrap(),
        stamp: "20251115T120000Z".parse().unwrap(),
        kind: SnapshotKind::PreSync,
        snapshot_dir: snapshot_dir.into(),
        subvolumes: subvolumes.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

pub(super) struct Bench {
    _dir: tempfile::TempDir,
    pub(super) top: PathBuf,
    pub(super) model: ModelBtrfs,
    mounts: Mounts,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let model = ModelBtrfs::new(&top);
        for name in ["@", "@home", "@snapshots"] {
            model.create(&top.join(name));
        }
        fs::write(top.join("@home/letter"), "dear").unwrap();
        let table = format!("20 1 8:1 / / rw - ext4 x rw\n21 20 0:30 / {} rw - btrfs x rw\n", top.display());
        Self { _dir: dir, model, mounts: Mounts::parse(table.as_bytes()), top }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.top.join("@snapshots")
    }

    pub(super) fn take(&self, session: &str) -> Result<SnapshotSet, AgentError> {
        self.take_held(session).map(|(set, _)| set)
    }

    pub(super) fn take_held(&self, session: &str) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
        self.take_in(&self.store(), session)
    }

    pub(super) fn take_in(
        &self,
        store: &Store<'_>,
        session: &str,
    ) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
        let request = request(&self.dir(), session, &["@", "@home"]);
        set::take(store, &self.mounts, "laptop".parse().unwrap(), &request, &Said::default())
    }

    pub(super) fn create(&self, session: &str, said: Said) -> SnapshotSet {
        let request = request(&self.dir(), session, &["@", "@home"]);
        let taken = set::take(&self.store(), &self.mounts, "laptop".parse().unwrap(), &request, &said);
        taken.unwrap().0
    }

    pub(super) fn store(&self) -> Store<'_> {
        Store::new(&self.model, &self.dir())
    }

    pub(super) fn delete(&self, id: &SetId) -> Result<(), AgentError> {
        self.store().delete(id, || Ok(Vec::new()))
    }

    pub(super) fn list(&self) -> (Vec<StoredSet>, Strays) {
        let mut sets = Vec::new();
        let strays = self.store().list(&|_| Vec::new(), &mut |set| {
            sets.push(set);
            Ok(())
        });
        (sets, strays.unwrap())
    }

    /// What lies beside the sets, whole or not.
    pub(super) fn sidecars(&self) -> Vec<String> {
        self.store().ids().unwrap().iter().map(ToString::to_string).collect()
    }

    /// What stands in the snapshot directory and in the nursery.
    pub(super) fn left(&self) -> BTreeSet<String> {
        let names = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
        names(self.dir())
            .chain(names(self.dir().join(".pc-switcher/tmp")))
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != ".pc-switcher")
            .collect()
    }
}

/// Frees a set, if that loses nothing.
pub(super) const OFF: PinOrder = PinOrder::Off { allow_loss: false };
pub(super) const HOME: &str = "@home-presync-20251115T120000Z-abc12345";

#[test]
fn a_set_stands_under_flat_names_and_nothing_else_is_left() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    assert!(set.consistent);
    let names: BTreeSet<_> = set.members.iter().map(|member| member.name.to_string()).collect();
    assert_eq!(bench.left(), names);
    assert_eq!(fs::read_to_string(bench.dir().join(HOME).join("letter")).unwrap(), "dear");
    assert_eq!(set.members[0].otransid, set.members[1].otransid);
    let mode = fs::metadata(bench.dir().join(".pc-switcher/tmp")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for member in &set.members {
        check_member(&bench.model, member).unwrap();
    }
    assert!(bench.take("abc12345").unwrap_err().message.contains("exists"));
}

#[test]
fn whatever_fails_leaves_nothing_of_the_set() {
    let faults = [
        Fault::Snapshot(1, libc::ENOSPC),
        Fault::Snapshot(2, libc::ETXTBSY),
        Fault::Freeze(1, libc::EIO),
        Fault::Freeze(2, libc::EPERM),
    ];
    for fault in faults {
        let bench = Bench::new();
        bench.model.fail(fault);
        let error = bench.take("abc12345").unwrap_err();
        assert_eq!((bench.left(), bench.sidecars()), (BTreeSet::new(), vec![]), "{fault:?}");
        match fault {
            Fault::Snapshot(_, libc::ENOSPC) => assert_eq!(error.kind, AgentErrorKind::NoSpace),
            Fault::Snapshot(_, libc::ETXTBSY) => assert!(error.message.contains("swap file"), "{error}"),
            _ => {}
        }
        bench.take("abc12345").unwrap();
    }
}

#[test]
fn a_torn_set_is_taken_again_and_after_five_tries_says_so() {
    let bench = Bench::new();
    bench.model.fail(Fault::Torn(5));
    assert!(bench.take("aaaaaaaa").unwrap().consistent);
    bench.model.fail(Fault::Torn(100));
    let set = bench.take("bbbbbbbb").unwrap();
    assert!(!set.consistent && set.members.len() == 2);
}

#[test]
fn a_member_that_was_written_to_voids_the_try() {
    let bench = Bench::new();
    bench.model.fail(Fault::Touched);
    let set = bench.take("abc12345").unwrap();
    assert!(set.members.iter().all(|member| member.ctransid <= member.otransid));
}

#[test]
fn what_a_crash_left_is_swept_and_what_is_foreign_stays() {
    let bench = Bench::new();
    bench.take("aaaaaaaa").unwrap();
    let (tmp, sets) = (bench.dir().join(".pc-switcher/tmp"), bench.dir().join(".pc-switcher/sets"));
    // A sidecar that only says what a sync did, a directory that is not ours, a snapshot that no intent names.
    fs::create_dir(sets.join("20251115T110000Z-dead0000-presync")).unwrap();
    fs::write(sets.join("20251115T110000Z-dead0000-presync/operations"), "list").unwrap();
    fs::create_dir(tmp.join("keep-me")).unwrap();
    let orphan = "@home-presync-20251115T110000Z-dead0000";
    bench.model.snapshot(&bench.top.join("@"), &bench.dir(), orphan.as_ref()).unwrap();
    // An intent that names a snapshot of something else.
    let intent =
        Intent::new(vec![Planned { name: HOME.parse().unwrap(), source_uuid: "0".repeat(32), home: None }]);
    let other: SetId = "20251115T120000Z-abc12345-presync".parse().unwrap();
    fs::create_dir(bench.store().sidecar(&other).dir()).unwrap();
    bench.store().sidecar(&other).put_intent(&intent).unwrap();
    bench.model.snapshot(&bench.top.join("@home"), &bench.dir(), HOME.as_ref()).unwrap();
    bench.take("bbbbbbbb").unwrap();
    let left = bench.left();
    assert!(left.contains("keep-me") && left.contains(orphan) && left.contains(HOME), "{left:?}");
    assert!(sets.join("20251115T110000Z-dead0000-presync/operations").exists());
    assert!(bench.store().sidecar(&other).intent(&other).is_none(), "its work is done");
    let (sets, strays) = bench.list();
    assert_eq!(sets.len(), 2);
    assert_eq!(strays.orphans.len(), 2);
}

#[test]
fn a_second_creator_is_refused() {
    let bench = Bench::new();
    bench.take("aaaaaaaa").unwrap();
    let tmp = fs::File::open(bench.dir().join(".pc-switcher/tmp")).unwrap();
    tmp.try_lock().unwrap();
    assert!(bench.take("bbbbbbbb").unwrap_err().message.contains("another run"));
}

#[test]
fn a_set_with_a_member_that_is_another_subvolume_by_now_stays() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    let path = set.members[0].path.as_path();
    bench.model.destroy(&bench.dir(), path.file_name().unwrap()).unwrap();
    bench.model.snapshot(&bench.top.join("@"), &bench.dir(), path.file_name().unwrap()).unwrap();
    let error = bench.delete(&set.id()).unwrap_err();
    assert!(error.message.contains("another subvolume"), "{error}");
    assert_eq!((bench.left().len(), bench.list().0.len()), (2, 1));
    assert!(check_member(&bench.model, &set.members[0]).is_err());
    // One that is gone is in nobody's way.
    bench.model.destroy(&bench.dir(), path.file_name().unwrap()).unwrap();
    assert_eq!(bench.list().0[0].missing, [set.members[0].name.clone()]);
    bench.delete(&set.id()).unwrap();
    assert_eq!((bench.left(), bench.sidecars()), (BTreeSet::new(), vec![]));
}

#[test]
fn a_real_set_is_one_instant_and_tampering_shows() {
    let Some(image) = Image::make(512) else { return };
    for name in ["@", "@home"] {
        image.create(name);
        fs::write(image.top().join(name).join("file"), name).unwrap();
    }
    let dir = image.top().join("snaps");
    let mut times = Vec::new();
    let mut consistent = 0;
    for n in 0..20 {
        let since = Instant::now();
        let set = take_set(&request(&dir, &format!("{n:08}"), &["@", "@home"])).unwrap().0;
        times.push(since.elapsed());
        consistent += usize::from(set.consistent);
        check_set(&set).unwrap();
    }
    times.sort();
    println!("20 sets of two: median {:?}, slowest {:?}, one instant {consistent}", times[10], times[19]);
    assert!(consistent >= 15, "{consistent} of 20");
    assert_eq!(fs::read_dir(dir.join(".pc-switcher/tmp")).unwrap().count(), 0);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);

    let (set, _) = take_set(&request(&dir, "abc12345", &["@", "@home"])).unwrap();
    let path = set.members[1].path.as_path();
    KernelBtrfs.set_readonly(path, false).unwrap();
    assert!(check_set(&set).unwrap_err().contains("writable"));
    fs::write(path.join("file"), "tampered").unwrap();
    KernelBtrfs.set_readonly(path, true).unwrap();
    assert!(check_set(&set).unwrap_err().contains("changed"));
    drop_set(&set).unwrap();
    drop_set(&set).unwrap();
    assert!(check_set(&set).is_err() && !path.exists());
}

#[test]
fn a_snapshot_directory_without_btrfs_is_refused_and_not_littered_with_members() {
    let Some(image) = Image::make(256) else { return };
    image.create("@");
    let dir = image.dir().join("elsewhere");
    let error = take_set(&request(&dir, "abc12345", &["@"])).map(drop).unwrap_err();
    assert!(error.message.contains("no btrfs") && !dir.exists(), "{error}");
    let error = take_set(&request(&dir, "abc12345", &["@nope"])).map(drop).unwrap_err();
    assert!(error.message.contains("not mounted"), "{error}");
}

#[test]
fn a_subvolume_of_another_file_system_is_refused_before_anything_is_made() {
    let (Some(one), Some(other)) = (Image::make(256), Image::make(256)) else { return };
    one.create("@one-alone");
    let dir = other.top().join("snaps");
    let error = take_set(&request(&dir, "abc12345", &["@one-alone"])).map(drop).unwrap_err();
    assert!(error.message.contains("another file system") && !dir.exists(), "{error}");
}
