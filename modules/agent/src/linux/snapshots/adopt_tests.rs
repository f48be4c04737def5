//! Snapshots of other tools, in the layouts that their manuals describe, on a real image.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::tests::{Bench, HOME, OFF, request as take_request};
use super::*;
use crate::linux::btrfs::SubvolumeInfo;
use crate::linux::btrfs::image::Image;
use crate::proto::{GoodBy, GoodMark, Maker, Need, PinOrder, RestorePlace};

/// All mounts are looked at, those of other tests too: one scene at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Scene {
    image: Image,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    fn make() -> Option<Self> {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut image = Image::make(256)?;
        ["@adopt", "@adopthome", "@snapshots"].iter().for_each(|name| image.create(name));
        fs::write(image.top().join("@adopthome/letter"), "then").unwrap();
        // A home has a mount of its own.
        image.bind("top/@adopthome", "home");
        let scene = Self { image, _alone };
        scene.image.create("@adopthome/.snapshots");
        for n in [1, 2] {
            let dir = format!("@adopthome/.snapshots/{n}");
            fs::create_dir(scene.at(&dir)).unwrap();
            let text = format!(
                "<?xml version=\"1.0\"?>\n<snapshot>\n  <type>single</type>\n  <num>{n}</num>\n  <date>2025-11-15 \
                 12:00:00</date>\n  <description>number {n}</description>\n</snapshot>\n"
            );
            fs::write(scene.at(&format!("{dir}/info.xml")), text).unwrap();
            scene.snapshot("@adopthome", &dir, "snapshot", true);
        }
        fs::create_dir_all(scene.at("btrbk_snapshots")).unwrap();
        scene.snapshot("@adopthome", "btrbk_snapshots", "adopthome.20251115T1200", true);
        scene.snapshot("@adopt", "@snapshots", "root.20251115", true);
        let day = "timeshift-btrfs/snapshots/2025-11-15_12-00-01";
        fs::create_dir_all(scene.at(day)).unwrap();
        fs::write(scene.at(&format!("{day}/info.json")), "{}").unwrap();
        scene.snapshot("@adopt", day, "@", false);
        scene.snapshot("@adopthome", day, "@home", false);
        scene.snapshot("@adopthome", "@snapshots", "home-20251115120000", true);
        fs::write(scene.at("@snapshots/home-20251115120000-meta.json"), "{}").unwrap();
        fs::write(scene.at("@adopthome/letter"), "now").unwrap();
        Some(scene)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.image.top().join(path)
    }

    fn snapshot(&self, of: &str, dir: &str, name: &str, is_readonly: bool) {
        KernelBtrfs.snapshot(&self.at(of), &self.at(dir), name.as_ref()).unwrap();
        KernelBtrfs.set_readonly(&self.at(dir).join(name), is_readonly).unwrap();
    }

    fn dir(&self) -> PathBuf {
        self.at("@snapshots")
    }

    fn adopt(&self, from: Maker, dirs: &[&str]) -> Adopted {
        let dirs = dirs.iter().map(|dir| self.at(dir).as_path().into()).collect();
        let request = AdoptRequest { snapshot_dir: self.dir().as_path().into(), from, dirs };
        let store = Store::new(&KernelBtrfs, &self.dir());
        store.adopt(&Mounts::read().unwrap(), &"desk".parse().unwrap(), &request).unwrap()
    }

    fn list(&self) -> (Vec<StoredSet>, Strays) {
        let mut sets = Vec::new();
        let strays = list_sets(&self.dir(), Ok(Needs::default()), &mut |set| {
            sets.push(set);
            Ok(())
        });
        (sets, strays.unwrap())
    }

    /// What other tools have: each file and snapshot, and whether anything ever wrote to it.
    fn theirs(&self) -> Vec<(PathBuf, Vec<u8>, Option<SubvolumeInfo>)> {
        let mut found = Vec::new();
        let dirs = ["@adopthome/.snapshots", "btrbk_snapshots", "timeshift-btrfs", "@snapshots"];
        dirs.iter().for_each(|dir| gather(&self.at(dir), &mut found));
        found
    }
}

fn gather(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>, Option<SubvolumeInfo>)>) {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == ".pc-switcher" || name.parse::<pc_switcher_contract::SnapshotName>().is_ok() {
            continue;
        }
        if !path.is_dir() {
            found.push((path.clone(), fs::read(&path).unwrap(), None));
            continue;
        }
        // What stands for a subvolume inside of another in its snapshots is no directory that btrfs can name.
        let is_root = KernelBtrfs.inside(&path).is_ok_and(|inside| inside.is_empty());
        let info = is_root.then(|| SubvolumeInfo { generation: 0, ..KernelBtrfs.subvolume(&path).unwrap() });
        found.push((path.clone(), Vec::new(), info));
        gather(&path, found);
    }
}

const ALL: [(Maker, &[&str], usize); 4] =
    [(Maker::Snapper, &[], 2), (Maker::Btrbk, &[], 2), (Maker::Timeshift, &[], 1), (Maker::Yabsnap, &[], 1)];

#[test]
fn snapshots_of_other_tools_are_listed_after_adoption_and_nothing_of_ours_removes_or_changes_them() {
    let Some(scene) = Scene::make() else { return };
    // Who reads what may be written notes when: that is not to come later.
    scene.theirs();
    KernelBtrfs.sync(scene.image.top()).unwrap();
    let before = scene.theirs();
    assert_eq!(scene.list().1.foreign.len(), 2, "{:?}", scene.list().1);
    for (maker, dirs, count) in ALL {
        let adopted = scene.adopt(maker, dirs);
        assert_eq!((adopted.sets.len(), adopted.known), (count, 0), "{maker}: {adopted:?}");
        let again = scene.adopt(maker, dirs);
        assert_eq!((again.sets.len(), again.known), (0, count as u64), "{maker}: {again:?}");
    }
    let (sets, strays) = scene.list();
    assert_eq!((sets.len(), strays), (6, Strays::default()));
    for stored in &sets {
        let id = stored.set.id();
        assert!(matches!(stored.needs[..], [Need::Foreign(_)]), "{stored:?}");
        let set = SetRequest { snapshot_dir: scene.dir().as_path().into(), id: id.clone() };
        let request = DeleteRequest { set, allow_loss: false };
        let why = delete_set(&request, || Ok(Needs::default())).unwrap_err().message;
        assert!(why.contains("only") && why.contains("removes it"), "{why}");
        for order in [PinOrder::Soft, PinOrder::Hard, OFF] {
            let why = pin_set(&PinRequest { set: request.set.clone(), order }).unwrap_err().message;
            assert!(why.contains("tell "), "{why}");
        }
        assert!(
            mark_good(&scene.dir(), &GoodMark::Set { id: id.clone(), by: GoodBy::Hand, keep: 1 }).is_err()
        );
        assert!(drop_set(&stored.set).is_ok() || scene.list().0.len() == 6);
        check_set(&stored.set).unwrap();
    }
    let notes: Vec<_> = sets.iter().filter_map(|stored| stored.words.note.as_deref()).collect();
    assert!(notes.contains(&"number 2"), "{notes:?}");
    let pair = sets.iter().find(|stored| stored.set.members.len() == 2).unwrap();
    assert!(pair.needs == [Need::Foreign(Maker::Timeshift)], "{pair:?}");
    // Our own come and go.
    for session in ["aaaaaaaa", "bbbbbbbb"] {
        let set = take_set(&take_request(&scene.dir(), session, &["@adopt", "@adopthome"])).unwrap().0;
        drop_set(&set).unwrap();
    }
    assert_eq!(scene.theirs(), before);
    assert_eq!(scene.list().0.len(), 6);
}

#[test]
fn files_come_back_out_of_what_other_tools_took_also_where_it_may_be_written_to() {
    let Some(scene) = Scene::make() else { return };
    for maker in [Maker::Snapper, Maker::Timeshift] {
        let id = scene.adopt(maker, &[]).sets.remove(0);
        let request = RestoreRequest {
            snapshot_dir: scene.dir().as_path().into(),
            id,
            paths: vec![scene.at("@adopthome/letter").as_path().into()],
            place: RestorePlace::Beside,
            stamp: "20251120T080000Z".parse().unwrap(),
            tag: "fedcba98".parse().unwrap(),
            uid: 0,
        };
        let (call, _frames) = Call::for_test(Vec::new());
        let store = Store::new(&KernelBtrfs, &scene.dir());
        let reply = store.restore(&Mounts::read().unwrap(), &"desk".parse().unwrap(), &request, &call);
        let RestoreReply::Done { restored, .. } = reply.unwrap() else { panic!("{maker}") };
        assert_eq!(fs::read_to_string(restored[0].to.as_path()).unwrap(), "then", "{maker}");
        fs::remove_file(restored[0].to.as_path()).unwrap();
    }
}

#[test]
fn what_its_tool_removes_leaves_the_list_and_its_record_goes() {
    let Some(scene) = Scene::make() else { return };
    scene.adopt(Maker::Snapper, &[]);
    let stays = scene.list().0[1].set.members[0].path.as_path().to_owned();
    let gone = scene.list().0[0].set.members[0].path.as_path().to_owned();
    KernelBtrfs.destroy(gone.parent().unwrap(), gone.file_name().unwrap()).unwrap();
    assert_eq!(scene.list().0.len(), 1);
    mark_good(&scene.dir(), &GoodMark::None(None)).unwrap();
    let sidecars = fs::read_dir(scene.dir().join(".pc-switcher/sets")).unwrap().count();
    assert!(sidecars == 1 && stays.exists());
}

#[test]
fn a_snapshot_of_nobody_knows_what_is_left_alone_and_named() {
    let Some(scene) = Scene::make() else { return };
    scene.image.create("@gone");
    scene.snapshot("@gone", "btrbk_snapshots", "gone.20251115", true);
    KernelBtrfs.destroy(scene.image.top(), "@gone".as_ref()).unwrap();
    fs::create_dir(scene.at("btrbk_snapshots/plain.20251115")).unwrap();
    let adopted = scene.adopt(Maker::Btrbk, &["btrbk_snapshots"]);
    let why: Vec<_> = adopted.left.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!((adopted.sets.len(), why.len()), (1, 2), "{adopted:?}");
    assert!(why[0].contains("not known of which subvolume") && why[1] == "it is no subvolume", "{why:?}");
}

#[test]
fn a_lost_record_is_made_anew_for_what_never_changed_and_the_set_is_one_like_others() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    fs::remove_dir_all(bench.store().sidecar(&set.id()).dir()).unwrap();
    assert_eq!((bench.list().0.len(), bench.list().1.orphans.len()), (0, 2));
    let adopt = || {
        let request = AdoptRequest {
            snapshot_dir: bench.dir().as_path().into(),
            from: Maker::Orphan,
            dirs: Vec::new(),
        };
        bench.store().adopt(&Mounts::parse(b""), &set.hostname, &request).unwrap()
    };
    // One that was written to is not what was taken.
    bench.model.set_readonly(&bench.dir().join(HOME), false).unwrap();
    let adopted = adopt();
    assert_eq!((adopted.sets.len(), adopted.left.len()), (1, 1), "{adopted:?}");
    assert!(adopted.left[0].1.contains("writable"), "{adopted:?}");
    assert_eq!(bench.list().0[0].set.members[..], set.members[..1]);
    assert_eq!(bench.list().1.orphans.len(), 1);
    bench.model.set_readonly(&bench.dir().join(HOME), true).unwrap();
    assert!(adopt().left[0].1.contains("is there without it"));
    assert!(bench.list().0[0].pinned && bench.delete(&set.id()).is_err());
    bench.store().pin_as(&set.id(), &OFF).unwrap();
    bench.delete(&set.id()).unwrap();
    let adopted = adopt();
    assert_eq!((adopted.sets.len(), bench.list().0.len()), (1, 1), "{adopted:?}");
    bench.store().pin_as(&set.id(), &OFF).unwrap();
    bench.delete(&set.id()).unwrap();
    assert_eq!((bench.left().len(), bench.sidecars().len()), (0, 0));
}
