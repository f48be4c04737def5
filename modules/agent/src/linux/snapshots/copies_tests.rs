//! Sets of copies through the store: what people do with them, deaths at every step, and streams.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pc_switcher_contract::{BytePath, SnapshotKind, SubvolumeName};
use rustix::process::geteuid;

use super::tests::OFF;
use super::*;
use crate::data::trees::Form;
use crate::linux::trees::{Making, Members};
use crate::proto::{
    AgentErrorKind, Backend, Change, ChangeKind, CopyOrder, DiffEnd, Finding, GoodBy, GoodMark, PinOrder,
    RestorePlace, RuleSet, decode,
};

/// A home beside a snapshot directory, on whatever the tests run on.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    backend: Backend,
}

impl Bench {
    /// `None` without root.
    fn make(backend: Backend) -> Option<Self> {
        geteuid().is_root().then(|| Self::make_in(tempfile::tempdir().unwrap(), backend))
    }

    /// As [`Bench::make`], in a directory somewhere.
    pub(super) fn make_in(dir: tempfile::TempDir, backend: Backend) -> Self {
        let bench = Self { dir, backend };
        fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(bench.home().join("notes")).unwrap();
        fs::create_dir(bench.top().join("etc")).unwrap();
        fs::write(bench.home().join("notes/today"), "write to ann").unwrap();
        fs::write(bench.home().join("stays"), vec![1; 300_000]).unwrap();
        fs::write(bench.top().join("etc/conf"), "a = 1").unwrap();
        bench
    }

    pub(super) fn top(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap()
    }

    pub(super) fn home(&self) -> PathBuf {
        self.top().join("home")
    }

    pub(super) fn snaps(&self) -> PathBuf {
        self.top().join("snaps")
    }

    pub(super) fn store(&self) -> Store<'static> {
        Store::new(&EVERY, &self.snaps())
    }

    fn order(&self) -> CopyOrder {
        let folders = ["home", "etc", "nowhere"].map(|name| BytePath::from(self.top().join(name).as_path()));
        CopyOrder { backend: self.backend, folders: folders.to_vec(), rules: RuleSet::default(), level: 3 }
    }

    pub(super) fn request(&self, n: u8) -> CreateSet {
        let set = TakeSet {
            session: format!("0000000{n}").parse().unwrap(),
            stamp: format!("20251115T12000{n}Z").parse().unwrap(),
            kind: SnapshotKind::Manual,
            snapshot_dir: self.snaps().as_path().into(),
            subvolumes: vec!["@home".parse().unwrap()],
        };
        CreateSet { set, words: Words::default(), pinned: false, copies: self.order() }
    }

    pub(super) fn take(&self, n: u8) -> SnapshotSet {
        let (created, _) = create_set(&self.request(n), &|| false).unwrap();
        assert_eq!(created.notes, Vec::<String>::new());
        created.set
    }

    fn name(&self, of: &str) -> SubvolumeName {
        SubvolumeName::of_directory(&self.top().join(of).as_path().into()).unwrap()
    }

    pub(super) fn in_set(&self, set: &SnapshotSet, path: &str) -> PathBuf {
        let (of, rest) = path.split_once('/').unwrap();
        set.member(&self.name(of)).unwrap().path.as_path().join(rest)
    }

    pub(super) fn list(&self) -> Vec<StoredSet> {
        let mut sets = Vec::new();
        let strays = self.store().list(&|_| Vec::new(), &mut |set| {
            sets.push(set);
            Ok(())
        });
        let Strays { damaged, orphans, .. } = strays.unwrap();
        assert!(damaged.is_empty() && orphans.is_empty(), "{damaged:?} {orphans:?}");
        sets
    }

    /// What is wrong with any set, and what lies in our own directories that belongs to none.
    pub(super) fn wrong(&self) -> Vec<String> {
        let (call, frames) = Call::for_test(Vec::new());
        self.store().verify(&[], true, &call).unwrap();
        drop(call);
        let mut wrong: Vec<String> = items::<Finding>(&frames).into_iter().map(|one| one.what).collect();
        for place in ["tmp", "read"] {
            let left =
                fs::read_dir(self.snaps().join(".pc-switcher").join(place)).into_iter().flatten().flatten();
            wrong.extend(left.map(|entry| format!("{place}: {:?}", entry.file_name())));
        }
        let flat =
            fs::read_dir(self.snaps()).unwrap().flatten().filter(|entry| entry.file_name() != ".pc-switcher");
        let members: usize = self.list().iter().map(|stored| stored.set.members.len()).sum();
        let flat = flat.count();
        if flat != members {
            wrong.push(format!("{flat} directories, {members} members"));
        }
        wrong
    }

    pub(super) fn restore(
        &self,
        set: &SnapshotSet,
        path: &Path,
        place: RestorePlace,
    ) -> Result<RestoreReply, AgentError> {
        let request = RestoreRequest {
            snapshot_dir: self.snaps().as_path().into(),
            id: set.id(),
            paths: vec![path.into()],
            place,
            stamp: "20251120T080000Z".parse().unwrap(),
            tag: "fedcba98".parse().unwrap(),
            uid: 0,
        };
        let (call, _frames) = Call::for_test(Vec::new());
        restore(&request, &call)
    }

    fn diff(&self, from: &SnapshotSet, to: DiffEnd) -> Vec<(ChangeKind, String)> {
        let (call, frames) = Call::for_test(Vec::new());
        let request = DiffRequest {
            snapshot_dir: self.snaps().as_path().into(),
            from: from.id(),
            to,
            path: None,
            uid: 0,
        };
        diff(&request, &call).unwrap();
        drop(call);
        let changes = items::<Vec<Change>>(&frames).into_iter().flatten();
        let short = |path: &BytePath| path.to_string().replace(self.top().to_str().unwrap(), "");
        changes.map(|one| (one.kind, short(&one.path))).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Immutable files would stay.
        for set in self.store().ids().unwrap_or_default() {
            let _ = self.store().pin_as(&set, &OFF);
            let _ = self.store().mark_good(&GoodMark::None(None));
            let _ = self.store().delete(&set, || Ok(Vec::new()));
        }
    }
}

pub(super) fn items<T: serde::de::DeserializeOwned>(frames: &crossbeam_channel::Receiver<Vec<u8>>) -> Vec<T> {
    let bytes: Vec<u8> = frames.try_iter().flatten().collect();
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Ok(Some(frame)) = crate::frame::read(&mut rest) {
        found.extend(decode::<T>(&frame.body));
    }
    found
}

pub(super) fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn where_there_is_no_btrfs_a_set_is_one_of_copies_that_share_what_did_not_change() {
    let Some(bench) = Bench::make(Backend::Auto) else { return };
    if KernelBtrfs.fs_uuid(bench.dir.path()).is_ok() {
        return;
    }
    let first = bench.take(1);
    let names: Vec<String> = first.members.iter().map(|member| member.name.subvolume.shown()).collect();
    let at = |name: &str| bench.top().join(name).display().to_string();
    assert_eq!(names, [at("etc"), at("home")], "what is not there is left out");
    assert!(!first.consistent);
    fs::write(bench.home().join("notes/today"), "written").unwrap();
    let second = bench.take(2);
    assert!(second.transaction() > first.transaction());
    assert_eq!(ino(&bench.in_set(&first, "home/stays")), ino(&bench.in_set(&second, "home/stays")));
    assert_ne!(ino(&bench.in_set(&first, "home/stays")), ino(&bench.home().join("stays")));
    assert_eq!(fs::read_to_string(bench.in_set(&first, "home/notes/today")).unwrap(), "write to ann");
    assert_eq!(fs::read_to_string(bench.in_set(&second, "home/notes/today")).unwrap(), "written");
    assert_eq!(fs::metadata(bench.snaps()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(bench.wrong(), Vec::<String>::new());
    let same = create_set(&bench.request(2), &|| false).map(drop).unwrap_err();
    assert!(same.message.contains("exists"), "{same}");
    let request = CreateSet { copies: CopyOrder::default(), ..bench.request(3) };
    let refused = create_set(&request, &|| false).map(drop).unwrap_err();
    assert!(refused.message.contains("`@home` does not exist"), "{refused}");
    let stopped = create_set(&bench.request(4), &|| true).map(drop).unwrap_err();
    assert_eq!(stopped.kind, AgentErrorKind::Cancelled);
    assert_eq!(bench.list().len(), 2);
}

#[test]
fn sets_of_copies_are_compared_looked_through_restored_pinned_and_removed_like_any() {
    for backend in [Backend::Hardlink, Backend::Archive] {
        let Some(bench) = Bench::make(backend) else { return };
        let today = bench.home().join("notes/today");
        let first = bench.take(1);
        fs::write(&today, "written, at length").unwrap();
        fs::rename(bench.home().join("stays"), bench.home().join("moved")).unwrap();
        fs::write(bench.top().join("etc/new"), "x").unwrap();
        let second = bench.take(2);
        let mut changes = vec![
            (ChangeKind::Created, "/etc/new".to_owned()),
            (ChangeKind::Renamed, "/home/moved".to_owned()),
            (ChangeKind::Changed, "/home/notes/today".to_owned()),
        ];
        if backend == Backend::Archive {
            changes[1].0 = ChangeKind::Created;
            changes.push((ChangeKind::Deleted, "/home/stays".to_owned()));
        }
        assert_eq!(bench.diff(&first, DiffEnd::Set(second.id())), changes, "{backend:?}");
        let now = DiffEnd::Now(Box::new(CreateSet { ..bench.request(3) }));
        assert_eq!(bench.diff(&first, now), changes, "{backend:?}");
        assert_eq!(bench.list().len(), 2, "what stood for now is gone");

        let (call, _frames) = Call::for_test(Vec::new());
        let request = VersionsRequest {
            snapshot_dir: bench.snaps().as_path().into(),
            path: today.as_path().into(),
            uid: 0,
        };
        let found = versions(&request, &call).unwrap();
        let sizes: Vec<(u64, bool, usize)> =
            found.versions.iter().map(|one| (one.size, one.is_now, one.sets.len())).collect();
        assert_eq!(sizes, [(18, true, 1), (12, false, 1)], "{backend:?}");

        match bench.restore(&first, &today, RestorePlace::Beside).unwrap() {
            RestoreReply::Done { restored, .. } => {
                assert_eq!(fs::read_to_string(restored[0].to.as_path()).unwrap(), "write to ann");
            }
            missing => panic!("{missing:?}"),
        }
        let place = RestorePlace::InPlace(Box::new(bench.request(4)));
        match bench.restore(&first, &today, place).unwrap() {
            RestoreReply::Done { restored, safety } => {
                // What was written within the tick of the set before it might have been written again.
                if let Some(kept) = &restored[0].kept {
                    assert_eq!(fs::read_to_string(kept.as_path()).unwrap(), "written, at length");
                }
                let safety = safety.unwrap();
                let stored = bench.list().into_iter().find(|stored| stored.set.id() == safety).unwrap();
                assert_eq!(stored.set.members.len(), 1, "only of what is concerned");
            }
            missing => panic!("{missing:?}"),
        }
        assert_eq!(fs::read_to_string(&today).unwrap(), "write to ann");
        match bench.restore(&second, &bench.home().join("stays"), RestorePlace::Beside).unwrap() {
            RestoreReply::Missing { nearest, .. } => assert_eq!(nearest, Some(first.id())),
            done => panic!("{done:?}"),
        }
        let into = bench.top().join("into");
        fs::create_dir(&into).unwrap();
        bench.restore(&first, &bench.home(), RestorePlace::Into(into.as_path().into())).unwrap();
        assert_eq!(fs::read(into.join("home/stays")).unwrap(), vec![1; 300_000]);
        let mut none = [0; 64];
        assert!(rustix::fs::getxattr(into.join("home"), crate::data::trees::LABEL, &mut none).is_err());
        assert_eq!(bench.wrong(), Vec::<String>::new(), "{backend:?}");

        let delete = |id: &SetId| bench.store().delete(id, || Ok(Vec::new()));
        let hard = bench.store().pin_as(&first.id(), &PinOrder::Hard).unwrap_err();
        assert!(hard.message.contains("without `--hard`"), "{hard}");
        bench.store().pin_as(&first.id(), &PinOrder::Soft).unwrap();
        assert!(delete(&first.id()).unwrap_err().message.contains("is pinned"));
        bench.store().pin_as(&first.id(), &OFF).unwrap();
        bench.store().mark_good(&GoodMark::Set { id: first.id(), by: GoodBy::Hand, keep: 1 }).unwrap();
        assert!(delete(&first.id()).unwrap_err().message.contains("last known good"));
        bench.store().mark_good(&GoodMark::None(None)).unwrap();
        delete(&first.id()).unwrap();
        assert_eq!(bench.wrong(), Vec::<String>::new(), "what other sets have of it stays whole");
        delete(&second.id()).unwrap();
    }
}

#[test]
fn an_edit_of_a_copy_is_found_and_nothing_comes_out_of_a_copy_that_is_open() {
    let Some(bench) = Bench::make(Backend::Hardlink) else { return };
    let set = bench.take(1);
    let member = set.member(&bench.name("home")).unwrap();
    let (dir, file) = (bench.in_set(&set, "home/notes"), bench.in_set(&set, "home/notes/today"));
    assert_eq!(check_set(&set), Ok(()));
    for path in [&dir, &file] {
        let open = fs::File::open(path).unwrap();
        let flags = rustix::fs::ioctl_getflags(&open).unwrap_or(rustix::fs::IFlags::empty());
        let _ = rustix::fs::ioctl_setflags(&open, flags - rustix::fs::IFlags::IMMUTABLE);
    }
    fs::write(&file, "forged it all").unwrap();
    let wrong = bench.wrong().join("\n");
    assert!(wrong.contains("has other content") || wrong.contains("has another owner"), "{wrong}");
    EVERY.set_readonly(member.path.as_path(), false).unwrap();
    assert!(check_set(&set).unwrap_err().contains("is writable"));
    let error = bench.restore(&set, &bench.home().join("stays"), RestorePlace::Beside).unwrap_err();
    assert!(error.message.contains("not what was taken"), "{error}");
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
fn a_death_at_any_step_of_taking_or_removing_leaves_whole_sets_and_nothing_else_in_the_end() {
    let Some(bench) = Bench::make(Backend::Hardlink) else { return };
    let first = bench.take(1);
    let mut deaths = 0;
    loop {
        let mut wanted = bench.request(2).set;
        wanted.subvolumes = vec![bench.name("etc"), bench.name("home")];
        let rules = RuleSet::default();
        let stop = || false;
        let making = Making {
            form: Form::Hardlink,
            level: 3,
            rules: &rules,
            stop: &stop,
            origins: Vec::new(),
            notes: Mutex::default(),
        };
        let members = Members::making(&KernelBtrfs, making);
        let mounts = Mounts::read().unwrap();
        let taken = dies(Store::new(&members, &bench.snaps()), deaths, |store| {
            let hostname = "laptop".parse().unwrap();
            drop(set::take(store, &mounts, hostname, &wanted, &Said::default()).unwrap());
        });
        let there = bench.list().len();
        assert!(taken || there == 2);
        let third = bench.take(3);
        assert_eq!((bench.list().len(), bench.wrong()), (there + 1, vec![]), "after step {deaths}");
        let removed =
            dies(bench.store(), deaths, |store| store.delete(&third.id(), || Ok(Vec::new())).unwrap());
        assert_eq!(bench.list().len(), there, "its toc went first");
        let fourth = bench.take(4);
        assert_eq!(bench.wrong(), Vec::<String>::new(), "after step {deaths} of removing");
        for stored in bench.list().iter().filter(|stored| stored.set != first) {
            bench.store().delete(&stored.set.id(), || Ok(Vec::new())).unwrap();
        }
        assert!(fourth.members.iter().all(|member| !member.path.as_path().exists()));
        if !taken && !removed {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 6, "{deaths}");
    assert_eq!(bench.wrong(), Vec::<String>::new());
}

/// Returns the stream of a set.
fn stream(bench: &Bench, set: &SnapshotSet, uid: u32) -> Result<Vec<u8>, AgentError> {
    let (call, frames) = Call::for_test(Vec::new());
    let request = ExportRequest { snapshot_dir: bench.snaps().as_path().into(), id: set.id(), uid, level: 3 };
    export(&request, &call)?;
    drop(call);
    let bytes: Vec<u8> = frames.try_iter().flatten().collect();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while let Ok(Some(frame)) = crate::frame::read(&mut rest) {
        found.extend(frame.body);
    }
    Ok(found)
}

fn take_in(bench: &Bench, stream: &[u8], uid: u32) -> Result<Imported, AgentError> {
    let (call, _frames) = Call::for_test(stream.chunks(10_000).map(<[u8]>::to_vec).collect());
    import(&ImportRequest { snapshot_dir: bench.snaps().as_path().into(), uid }, &call)
}

#[test]
fn a_set_goes_out_as_a_stream_and_comes_in_elsewhere_whole_or_not_at_all() {
    let Some(bench) = Bench::make(Backend::Archive) else { return };
    let set = bench.take(1);
    assert!(stream(&bench, &set, 1000).unwrap_err().message.contains("sudo"));
    let out = stream(&bench, &set, 0).unwrap();
    let exists = take_in(&bench, &out, 0).unwrap_err();
    assert!(exists.message.contains("exists"), "{exists}");
    bench.store().delete(&set.id(), || Ok(Vec::new())).unwrap();
    assert!(take_in(&bench, &out, 1000).unwrap_err().message.contains("sudo"));
    for n in 0..20 {
        let cut = out.len() * n / 20;
        let error = take_in(&bench, &out[..cut], 0).unwrap_err();
        assert!(error.message.starts_with("nothing was imported"), "{error}");
    }
    let mut damaged = out.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    assert!(take_in(&bench, &damaged, 0).is_err());
    let more = take_in(&bench, &[&out[..], b"more"].concat(), 0).unwrap_err();
    assert!(more.message.contains("goes on behind its end"), "{more}");
    assert_eq!((bench.list().len(), bench.wrong()), (0, vec![]), "nothing of it is left");

    let came = take_in(&bench, &out, 0).unwrap();
    assert_eq!((came.set.session.as_str(), came.notes.len()), ("00000001", 0));
    assert_eq!(came.entries, 6);
    let content = fs::read_to_string(bench.in_set(&came.set, "home/notes/today")).unwrap();
    assert_eq!(content, "write to ann");
    assert_eq!(bench.wrong(), Vec::<String>::new());
    let note = bench.list()[0].words.note.clone().unwrap();
    assert!(note.starts_with("imported, manual of "), "{note}");
    assert_eq!(bench.diff(&came.set, DiffEnd::Now(Box::new(bench.request(2)))), []);
}

#[test]
fn while_a_stream_comes_in_sets_are_taken_and_removed_and_copies_go_on_from_what_was_taken_here() {
    let Some(bench) = Bench::make(Backend::Hardlink) else { return };
    let (first, gone) = (bench.take(1), bench.take(2));
    let out = stream(&bench, &gone, 0).unwrap();
    bench.store().delete(&gone.id(), || Ok(Vec::new())).unwrap();
    let meanwhile = Cell::new(0);
    let after = |step: &'static str| {
        if step == "streaming" {
            let set = bench.take(3);
            bench.store().delete(&set.id(), || Ok(Vec::new())).unwrap();
            let again = take_in(&bench, &out, 0).unwrap_err();
            assert!(again.message.contains("another run makes set"), "{again}");
            meanwhile.set(meanwhile.get() + 1);
        }
    };
    let store = Store { after: &after, ..bench.store() };
    let (call, _frames) = Call::for_test(out.chunks(10_000).map(<[u8]>::to_vec).collect());
    let request = ImportRequest { snapshot_dir: bench.snaps().as_path().into(), uid: 0 };
    let came = store.import(&request, &call).unwrap();
    assert_eq!((meanwhile.get(), bench.wrong(), bench.list().len()), (1, vec![], 2));
    let next = bench.take(4);
    let inode = |set: &SnapshotSet| ino(&bench.in_set(set, "home/notes/today"));
    assert_eq!(inode(&next), inode(&first), "what did not change is another name of what was taken here");
    assert_ne!(inode(&next), inode(&came.set));
}
