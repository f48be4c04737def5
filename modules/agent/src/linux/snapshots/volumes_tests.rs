//! Sets of volumes through the store, over a thin pool of a test: what people do with them, and deaths at every step.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use pc_switcher_contract::{BytePath, SnapshotKind, SubvolumeName};
use rustix::process::geteuid;

use super::copies_tests::items;
use super::*;
use crate::data::trees::Form;
use crate::linux::lvm::fake::FakeLvm;
use crate::linux::lvm::never;
use crate::linux::trees::Members;
use crate::proto::{
    AgentErrorKind, Backend, Change, ChangeKind, CopyOrder, DiffEnd, Finding, PinOrder, RestorePlace, RuleSet,
};

/// A home on a volume and data below it on another, beside a snapshot directory on a disk.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) lvm: &'static FakeLvm,
    pub(super) mounts: Mounts,
}

impl Bench {
    /// `None` without root: attributes of a label take it.
    pub(super) fn make() -> Option<Self> {
        if !geteuid().is_root() {
            assert!(
                std::env::var_os("LAB_REQUIRED").is_none(),
                "root is needed although all tests are required"
            );
            eprintln!("skipped: root is needed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        for name in ["home/notes", "data", "etc"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        fs::write(top.join("home/notes/today"), "write to ann").unwrap();
        fs::write(top.join("data/big"), vec![7; 100_000]).unwrap();
        let lvm = FakeLvm::make(top.join("pool"));
        let at = |name: &str| top.join(name).display().to_string();
        let table = format!(
            "20 1 8:1 / / rw - ext4 x rw\n21 20 {} / {} rw - ext4 x rw\n22 20 {} / {} rw - ext4 x rw\n",
            lvm.add("home", top.join("home")),
            at("home"),
            lvm.add("data", top.join("data")),
            at("data"),
        );
        Some(Self { dir, lvm, mounts: Mounts::parse(table.as_bytes()) })
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    pub(super) fn members(&self) -> Members<'static> {
        Members::with(&KernelBtrfs, self.lvm)
    }

    pub(super) fn request(&self, n: u8, folders: &[&str]) -> CreateSet {
        let folders = folders.iter().map(|name| BytePath::from(self.at(name).as_path())).collect();
        let set = TakeSet {
            session: format!("0000000{n}").parse().unwrap(),
            stamp: format!("20251115T12000{n}Z").parse().unwrap(),
            kind: SnapshotKind::Manual,
            snapshot_dir: self.at("snaps").as_path().into(),
            subvolumes: Vec::new(),
        };
        let copies = CopyOrder { backend: Backend::Lvm, folders, rules: RuleSet::default(), level: 3 };
        CreateSet { set, words: Words::default(), pinned: false, copies }
    }

    pub(super) fn try_take(&self, n: u8, folders: &[&str]) -> Result<CreatedSet, AgentError> {
        let request = self.request(n, folders);
        copies::create(&self.members(), &self.mounts, &request, &|| false).map(|(created, _)| created)
    }

    pub(super) fn take(&self, n: u8, folders: &[&str]) -> SnapshotSet {
        let created = self.try_take(n, folders).unwrap();
        assert_eq!(created.notes, Vec::<String>::new());
        created.set
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&Store<'_>) -> T) -> T {
        let members = self.members();
        work(&Store::new(&members, &self.at("snaps")))
    }

    pub(super) fn list(&self) -> Vec<StoredSet> {
        let (sets, strays) = self.list_all();
        assert!(strays.orphans.is_empty() && strays.damaged.is_empty(), "{strays:?}");
        assert!(strays.volumes.is_empty(), "{strays:?}");
        sets
    }

    pub(super) fn list_all(&self) -> (Vec<StoredSet>, Strays) {
        let mut sets = Vec::new();
        let strays = self.with(|store| {
            store.list(&|_| Vec::new(), &mut |set| {
                sets.push(set);
                Ok(())
            })
        });
        (sets, strays.unwrap())
    }

    pub(super) fn versions(&self, path: &str) -> Versions {
        let request = VersionsRequest {
            snapshot_dir: self.at("snaps").as_path().into(),
            path: self.at(path).as_path().into(),
            uid: 0,
        };
        let (call, _frames) = Call::for_test(Vec::new());
        self.with(|store| store.versions(&self.mounts, &request, &call)).unwrap()
    }

    /// What is wrong with any set.
    pub(super) fn findings(&self) -> Vec<String> {
        let (call, frames) = Call::for_test(Vec::new());
        self.with(|store| store.verify(&[], true, &call)).unwrap();
        drop(call);
        items::<Finding>(&frames).into_iter().map(|one| one.what).collect()
    }

    /// As [`Bench::findings`], and what is there that belongs to none.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.findings();
        for place in ["tmp", "read"] {
            let left = fs::read_dir(self.at("snaps/.pc-switcher").join(place)).into_iter().flatten();
            wrong.extend(left.flatten().map(|entry| format!("{place}: {:?}", entry.file_name())));
        }
        let members: usize = self.list().iter().map(|stored| stored.set.members.len()).sum();
        let volumes = self.lvm.names().len() - 2;
        let flat = fs::read_dir(self.at("snaps")).unwrap().count() - 1;
        if (flat, volumes) != (members, members) {
            wrong.push(format!("{members} members, {flat} directories, {volumes} volumes"));
        }
        if self.lvm.active() != ["home", "data"] {
            wrong.push(format!("devices of {:?}", self.lvm.active()));
        }
        wrong
    }

    pub(super) fn restore(
        &self,
        set: &SnapshotSet,
        path: &str,
        place: RestorePlace,
    ) -> Result<RestoreReply, AgentError> {
        let request = RestoreRequest {
            snapshot_dir: self.at("snaps").as_path().into(),
            id: set.id(),
            paths: vec![self.at(path).as_path().into()],
            place,
            stamp: "20251120T080000Z".parse().unwrap(),
            tag: "fedcba98".parse().unwrap(),
            uid: 0,
        };
        let (call, _frames) = Call::for_test(Vec::new());
        let hostname = "laptop".parse().unwrap();
        self.with(|store| store.restore(&self.mounts, &hostname, &request, &call))
    }

    fn diff(&self, from: &SnapshotSet, to: DiffEnd) -> Vec<(ChangeKind, String)> {
        let (call, frames) = Call::for_test(Vec::new());
        let snapshot_dir = self.at("snaps").as_path().into();
        let request = DiffRequest { snapshot_dir, from: from.id(), to, path: None, uid: 0 };
        let hostname = "laptop".parse().unwrap();
        self.with(|store| store.diff(&self.mounts, &hostname, &request, &call)).unwrap();
        drop(call);
        let top = self.at("").display().to_string();
        let changes = items::<Vec<Change>>(&frames).into_iter().flatten();
        changes.map(|one| (one.kind, one.path.to_string().replace(&top, ""))).collect()
    }

    pub(super) fn delete(&self, set: &SnapshotSet) -> Result<(), AgentError> {
        self.with(|store| store.delete(&set.id(), || Ok(Vec::new())))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Immutable directories would stay.
        let ids = self.with(|store| store.ids()).unwrap_or_default();
        for id in ids {
            let _ = self.with(|store| store.delete(&id, || Ok(Vec::new())));
        }
    }
}

pub(super) fn said(error: &AgentError, what: &str) {
    assert!(error.message.contains(what), "{error}");
}

#[test]
fn sets_of_volumes_are_compared_looked_through_restored_pinned_and_removed_like_any() {
    let Some(bench) = Bench::make() else { return };
    let first = bench.take(1, &["home/notes"]);
    let place = bench.at("home").display().to_string();
    assert_eq!(first.members[0].name.subvolume.shown(), place, "a volume is taken as a whole");
    assert!(first.consistent, "one volume is of one instant");
    let taken = bench.lvm.commands();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0].ends_with("--name home-manual-20251115T120001Z-00000001 vg0/home"), "{taken:?}");
    fs::write(bench.at("home/notes/today"), "written").unwrap();
    fs::write(bench.at("home/new"), "new").unwrap();
    let second = bench.take(2, &["home", "data"]);
    assert_eq!((second.members.len(), second.consistent), (2, false), "two volumes are not");
    let backends: Vec<Backend> = bench.list().iter().map(|stored| stored.backend).collect();
    assert_eq!(backends, [Backend::Lvm, Backend::Lvm]);
    assert_eq!(bench.wrong(), Vec::<String>::new());

    let changed = |kind, path: &str| (kind, path.to_owned());
    let changes =
        [changed(ChangeKind::Created, "home/new"), changed(ChangeKind::Changed, "home/notes/today")];
    assert_eq!(bench.diff(&first, DiffEnd::Set(second.id())), changes);
    assert_eq!(bench.diff(&first, DiffEnd::Now(Box::new(bench.request(3, &["home"])))), changes);
    let versions = bench.versions("home/notes/today");
    assert_eq!(versions.versions.len(), 2);

    bench.restore(&first, "home/notes/today", RestorePlace::Beside).unwrap();
    let beside = bench.at("home/notes/today.restored-20251120T080000Z");
    assert_eq!(fs::read_to_string(beside).unwrap(), "write to ann");
    let safety = Box::new(bench.request(4, &[]));
    bench.restore(&first, "home/notes/today", RestorePlace::InPlace(safety)).unwrap();
    assert_eq!(fs::read_to_string(bench.at("home/notes/today")).unwrap(), "write to ann");
    assert_eq!(bench.list().len(), 3, "the set for safety is one of volumes, too");
    let nowhere = bench.restore(&first, "etc", RestorePlace::Beside).unwrap_err();
    said(&nowhere, "lies in no directory that the set has a copy of");

    let pin = |order: &PinOrder| bench.with(|store| store.pin_as(&first.id(), order));
    said(&pin(&PinOrder::Hard).unwrap_err(), "without `--hard`");
    pin(&PinOrder::Soft).unwrap();
    said(&bench.delete(&first).unwrap_err(), "is pinned");
    pin(&PinOrder::Off { allow_loss: false }).unwrap();
    bench.delete(&first).unwrap();
    assert_eq!(bench.wrong(), Vec::<String>::new());
    assert!(!bench.lvm.names().iter().any(|name| name.ends_with("00000001")), "{:?}", bench.lvm.names());
}

#[test]
fn a_volume_that_is_gone_or_writable_is_found_and_nothing_comes_out_of_it() {
    let Some(bench) = Bench::make() else { return };
    let (first, second) = (bench.take(1, &["home"]), bench.take(2, &["home"]));
    let name = "home-manual-20251115T120001Z-00000001";
    bench.lvm.open(name, true);
    assert_eq!(bench.wrong(), ["is writable"]);
    said(&bench.restore(&first, "home/notes", RestorePlace::Beside).unwrap_err(), "is writable");
    bench.lvm.open(name, false);
    bench.lvm.lose(name);
    let stored = &bench.list()[0];
    assert_eq!(stored.missing, [first.members[0].name.clone()]);
    assert!(bench.wrong().contains(&"is gone".to_owned()));
    said(&bench.restore(&first, "home/notes", RestorePlace::Beside).unwrap_err(), "is gone");
    bench.delete(&first).unwrap();
    assert_eq!(bench.wrong(), Vec::<String>::new());
    assert_eq!(bench.list()[0].set, second);
}

#[test]
fn nothing_is_taken_where_the_pool_is_nearly_full_or_a_folder_lies_in_no_volume() {
    let Some(bench) = Bench::make() else { return };
    let refused = bench.try_take(1, &["home", "etc"]).unwrap_err();
    said(&refused, "is no logical volume of LVM");
    bench.lvm.fill(96.5);
    let full = bench.try_take(1, &["home"]).unwrap_err();
    said(&full, "96.5 % of the data of thin pool `vg0/pool`");
    assert_eq!(full.kind, AgentErrorKind::NoSpace);
    assert_eq!((bench.lvm.names().len(), bench.lvm.commands().len()), (2, 0));
    bench.lvm.fill(85.0);
    assert_eq!(bench.try_take(1, &["home"]).unwrap().notes.len(), 1);
}

/// Runs `work` over a store that dies after its step `n`; whether it did.
fn dies(store: Store<'_>, n: usize, work: impl FnOnce(&Store<'_>)) -> bool {
    let left = Cell::new(n);
    let after = |_: &'static str| {
        assert_ne!(left.get(), 0, "killed");
        left.set(left.get() - 1);
    };
    let store = Store { after: &after, ..store };
    catch_unwind(AssertUnwindSafe(|| work(&store))).is_err()
}

#[test]
fn a_death_at_any_step_of_taking_or_removing_leaves_no_volume_that_no_set_has() {
    let Some(bench) = Bench::make() else { return };
    bench.take(1, &["home"]);
    let mut deaths = 0;
    loop {
        let request = bench.request(2, &["home", "data"]);
        let name = |of: &str| SubvolumeName::of_directory(&bench.at(of).as_path().into()).unwrap();
        let mut wanted = request.set.clone();
        wanted.subvolumes = vec![name("data"), name("home")];
        let taken = dying(&bench, deaths, (&wanted, &request));
        let third = bench.take(3, &["home"]);
        assert_eq!(bench.wrong(), Vec::<String>::new(), "after step {deaths}");
        let members = bench.members();
        let removed = dies(Store::new(&members, &bench.at("snaps")), deaths, |store| {
            store.delete(&third.id(), || Ok(Vec::new())).unwrap();
        });
        bench.take(4, &["data"]);
        assert_eq!(bench.wrong(), Vec::<String>::new(), "after step {deaths} of removing");
        for stored in bench.list().iter().skip(1) {
            bench.delete(&stored.set).unwrap();
        }
        if !taken && !removed {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 6, "{deaths}");

    bench.lvm.fail_at_the_end(true);
    said(&bench.try_take(2, &["home"]).unwrap_err(), "it failed at the end");
    bench.lvm.fail_at_the_end(false);
    assert_eq!(bench.wrong(), Vec::<String>::new(), "what it left goes at once");
    bench.take(3, &["home"]);
    assert_eq!((bench.wrong(), bench.list().len()), (Vec::new(), 2));
}

/// Takes a set and dies after step `n` of it; whether it did.
fn dying(bench: &Bench, n: usize, (wanted, request): (&TakeSet, &CreateSet)) -> bool {
    let members = bench.members();
    let making = copies::making(&members, &bench.mounts, (wanted, request), Form::Volume, &|| false).unwrap();
    let members = Members::making(&members, making);
    dies(Store::new(&members, &bench.at("snaps")), n, |store| {
        let hostname = "laptop".parse().unwrap();
        drop(set::take(store, &bench.mounts, hostname, wanted, &Said::default()).unwrap());
    })
}

#[test]
fn the_device_that_a_dead_reader_left_goes_with_the_next_set_and_that_of_a_living_one_stays() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    let name = "home-manual-20251115T120001Z-00000001";
    let reading = bench.with(|store| store.rooted(&set.members[0], &never)).unwrap();
    let dir = bench.at("snaps/.pc-switcher/read/4000000-0");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("volume"), set.members[0].path.as_bytes()).unwrap();
    let second = bench.take(2, &["home"]);
    assert!(!dir.exists());
    assert!(bench.lvm.active().contains(&name.to_owned()), "somebody reads it");
    drop(reading);
    assert_eq!(bench.wrong(), Vec::<String>::new());

    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("volume"), set.members[0].path.as_bytes()).unwrap();
    bench.lvm.wake(name);
    bench.delete(&second).unwrap();
    assert_eq!(bench.wrong(), Vec::<String>::new());
}

#[test]
fn a_set_of_volumes_goes_out_as_a_stream() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    let (call, frames) = Call::for_test(Vec::new());
    let snapshot_dir = bench.at("snaps").as_path().into();
    let request = ExportRequest { snapshot_dir, id: set.id(), uid: 0, level: 3 };
    bench.with(|store| store.export(&bench.mounts, &request, &call)).unwrap();
    drop(call);
    let bytes: Vec<u8> = frames.try_iter().flatten().collect();
    let (mut rest, mut out) = (&bytes[..], Vec::new());
    while let Ok(Some(frame)) = crate::frame::read(&mut rest) {
        out.extend(frame.body);
    }
    bench.delete(&set).unwrap();
    let (call, _frames) = Call::for_test(vec![out]);
    let request = ImportRequest { snapshot_dir: bench.at("snaps").as_path().into(), uid: 0 };
    let came = bench.with(|store| store.import(&request, &call)).unwrap();
    let file = came.set.members[0].path.as_path().join("notes/today");
    assert_eq!(fs::read_to_string(file).unwrap(), "write to ann");
    assert_eq!(bench.list()[0].backend, Backend::Hardlink, "what comes in is a copy");
    // The copy is all that is left of it: no volume, and no directory that stood for one.
    assert_eq!(bench.lvm.names(), ["home", "data"]);
    assert_eq!(bench.list().len(), 1);
}
