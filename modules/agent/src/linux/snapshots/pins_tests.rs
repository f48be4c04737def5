//! Hard pins: over the model with faults and deaths, and over a real image with the tools of others.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::store_tests::{dies, whole};
use super::tests::{Bench, HOME, OFF, request};
use super::*;
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::model::Fault;
use crate::proto::{CopyOrder, CreateSet, DiffEnd, Finding, HardPin, PinOrder, RestorePlace, Words, decode};

const LOSE: PinOrder = PinOrder::Off { allow_loss: true };

impl Bench {
    fn pins(&self) -> PathBuf {
        self.dir().join(".pc-switcher/pins")
    }

    /// What lies where pins lie: pins and what is left of them.
    fn left_of_pins(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.pins()).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    fn pin(&self, id: &SetId, order: PinOrder) -> Result<(), AgentError> {
        self.store().pin_as(id, &order)
    }

    fn hard(&self, id: &SetId) -> Option<HardPin> {
        self.list().0.into_iter().find(|stored| stored.set.id() == *id).and_then(|stored| stored.hard)
    }
}

/// What lies where pins lie for one that is whole.
fn of_pin(id: &SetId) -> BTreeSet<String> {
    [id.to_string(), format!("{id}.intent")].into()
}

#[test]
fn what_is_pinned_hard_is_named_and_stays_until_it_is_unpinned() {
    let bench = Bench::new();
    let [one, other] = ["aaaaaaaa", "bbbbbbbb"].map(|session| bench.take(session).unwrap().id());
    for _ in 0..2 {
        bench.pin(&one, PinOrder::Hard).unwrap();
    }
    bench.pin(&one, PinOrder::Soft).unwrap();
    let stored = bench.list().0.remove(0);
    let pin = stored.hard.clone().unwrap();
    assert!(stored.pinned && pin.lacks.is_empty() && !pin.is_open);
    assert_eq!(pin.dir, bench.pins().join(one.to_string()).as_path().into());
    let names = fs::read_dir(pin.dir.as_path()).unwrap().map(|entry| entry.unwrap().file_name());
    let of_set: BTreeSet<String> = stored.set.members.iter().map(|member| member.name.to_string()).collect();
    assert_eq!(names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>(), of_set);
    assert_eq!((bench.hard(&other), whole(&bench)), (None, 2));

    assert!(bench.delete(&one).unwrap_err().message.contains("is pinned hard; `pc-switcher snapshots unpin"));
    let done = bench.store().delete_all(&[one.clone(), other.clone()], || Ok(Needs::default())).unwrap();
    assert_eq!(done.iter().map(|(_, why)| why.is_some()).collect::<Vec<_>>(), [true, false]);
    bench.store().mark_good(&crate::proto::GoodMark::None(None)).unwrap();
    assert!(bench.hard(&one).is_some(), "other words of the record leave the pin alone");
    bench.pin(&one, OFF).unwrap();
    assert_eq!((bench.hard(&one), bench.left_of_pins().len(), bench.list().0[0].pinned), (None, 0, false));
    bench.delete(&one).unwrap();
    assert_eq!((bench.left().len(), bench.sidecars().len()), (0, 0));
    let gone = bench.pin(&one, PinOrder::Hard).unwrap_err();
    assert!(gone.message.contains("there is no set"), "{gone}");
}

#[test]
fn a_pin_that_cannot_be_made_leaves_nothing_and_says_why() {
    let faults = [
        Fault::Snapshot(1, libc::ENOSPC),
        Fault::Snapshot(2, libc::ENOSPC),
        Fault::Freeze(2, libc::EIO),
        Fault::Touched,
        Fault::Immutable(1, libc::EPERM),
    ];
    for fault in faults {
        let bench = Bench::new();
        let id = bench.take("abc12345").unwrap().id();
        bench.model.fail(fault);
        let error = bench.pin(&id, PinOrder::Hard).unwrap_err();
        assert_eq!((bench.left_of_pins().len(), bench.list().0[0].pinned), (0, false), "{fault:?}: {error}");
        if let Fault::Immutable(..) = fault {
            assert!(error.message.contains("CAP_LINUX_IMMUTABLE"), "{error}");
        }
        assert_eq!(whole(&bench), 1);
        bench.pin(&id, PinOrder::Hard).unwrap();
    }
}

#[test]
fn a_set_that_is_not_what_was_taken_is_not_pinned_and_what_others_put_there_stays() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    let id = set.id();
    let dir = bench.pins().join(id.to_string());
    fs::create_dir_all(&dir).unwrap();
    bench.model.snapshot(&bench.top.join("@home"), &dir, HOME.as_ref()).unwrap();
    assert_eq!(bench.list().1.pins, [dir.as_path().into()]);
    let error = bench.pin(&id, PinOrder::Hard).unwrap_err();
    assert!(error.message.contains("exists, and no record names it"), "{error}");
    bench.pin(&id, OFF).unwrap();
    assert!(dir.join(HOME).exists(), "it is no snapshot of the set");
    bench.model.destroy(&dir, HOME.as_ref()).unwrap();
    bench.pin(&id, PinOrder::Hard).unwrap();
    bench.pin(&id, OFF).unwrap();

    bench.model.set_readonly(&bench.dir().join(HOME), false).unwrap();
    let error = bench.pin(&id, PinOrder::Hard).unwrap_err();
    assert!(error.message.contains("not what was taken") && error.message.contains("writable"), "{error}");
    assert_eq!(bench.left_of_pins().len(), 0);
}

#[test]
fn a_death_at_any_step_of_pinning_leaves_a_whole_pin_or_none_in_the_end() {
    let mut deaths = 0;
    loop {
        let bench = Bench::new();
        let id = bench.take("aaaaaaaa").unwrap().id();
        let died = dies(&bench, deaths, |store| store.pin_as(&id, &PinOrder::Hard).unwrap());
        assert_eq!(whole(&bench), 1, "nothing of it is told of as if nobody knew it");
        bench.take("bbbbbbbb").unwrap();
        assert_eq!(whole(&bench), 2);
        let is_pinned = deaths > 5;
        let left = if is_pinned { of_pin(&id) } else { BTreeSet::new() };
        assert_eq!((bench.left_of_pins(), bench.hard(&id).is_some()), (left, is_pinned), "step {deaths}");
        if let Some(pin) = bench.hard(&id) {
            assert!(pin.lacks.is_empty() && !pin.is_open);
        }
        bench.pin(&id, PinOrder::Hard).unwrap();
        if !died {
            break;
        }
        deaths += 1;
    }
    assert_eq!(deaths, 7, "the intent, the directory, two members, the flag, the mark, the record");
}

#[test]
fn a_death_at_any_step_of_unpinning_leaves_a_whole_pin_or_none_in_the_end() {
    // The second time its intent was lost, and is written again first.
    for (has_intent, steps) in [(true, 5), (false, 6)] {
        let mut deaths = 0;
        loop {
            let bench = Bench::new();
            let id = bench.take("aaaaaaaa").unwrap().id();
            bench.pin(&id, PinOrder::Hard).unwrap();
            if !has_intent {
                fs::remove_file(bench.pins().join(format!("{id}.intent"))).unwrap();
            }
            let died = dies(&bench, deaths, |store| store.pin_as(&id, &OFF).unwrap());
            assert_eq!(whole(&bench), 1);
            let is_pinned = !has_intent && deaths == 0;
            assert_eq!(bench.hard(&id).is_some_and(|pin| pin.lacks.is_empty() && !pin.is_open), is_pinned);
            bench.take("bbbbbbbb").unwrap();
            let left = if is_pinned { of_pin(&id) } else { BTreeSet::new() };
            assert_eq!((bench.left_of_pins(), bench.hard(&id).is_some()), (left, is_pinned), "step {deaths}");
            assert_eq!(whole(&bench), 2);
            bench.pin(&id, OFF).unwrap();
            bench.delete(&id).unwrap();
            if !died {
                break;
            }
            deaths += 1;
        }
        assert_eq!(deaths, steps, "the record, the flag, two members, the commit");
    }
}

#[test]
fn a_pin_whose_mark_went_holds_no_more_and_goes_with_the_next_set() {
    for order in [PinOrder::Soft, PinOrder::Hard] {
        let bench = Bench::new();
        let id = bench.take("aaaaaaaa").unwrap().id();
        bench.pin(&id, order).unwrap();
        bench.store().sidecar(&id).unmark_pinned().unwrap();
        let stored = bench.list().0.remove(0);
        assert_eq!((stored.pinned, stored.hard), (false, None));
        assert_eq!(whole(&bench), 1, "what is left of it is on its way");
        bench.take("bbbbbbbb").unwrap();
        assert_eq!(bench.left_of_pins().len(), 0);
        bench.delete(&id).unwrap();
    }
}

/// Fills a disk until it takes nothing more, no record either.
pub(super) fn fill(image: &Image) {
    let one = |name: &str, piece: usize| {
        let mut file = fs::File::create(image.top().join(name)).ok()?;
        while std::io::Write::write_all(&mut file, &vec![7; piece]).is_ok() {}
        Some(())
    };
    for n in 0..200 {
        // What is reserved comes back with a commit, and goes, too.
        let filled = one(&format!("full-{n}"), if n == 0 { 1 << 20 } else { 4 << 10 });
        KernelBtrfs.sync(image.top()).unwrap();
        if filled.is_none() {
            break;
        }
    }
}

#[test]
fn a_full_disk_lets_a_set_be_freed_and_removed() {
    let Some(image) = Image::make(160) else { return };
    ["@full-home", "@full-snapshots"].iter().for_each(|name| image.create(name));
    fs::write(image.top().join("@full-home/letter"), "dear").unwrap();
    let dir = image.top().join("@full-snapshots");
    let ids = ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
        .map(|session| take_set(&request(&dir, session, &["@full-home"])).unwrap().0.id());
    let store = Store::new(&KernelBtrfs, &dir);
    for (id, order) in ids.iter().zip([PinOrder::Hard, PinOrder::Soft, PinOrder::Hard]) {
        store.pin_as(id, &order).unwrap();
    }
    fill(&image);
    let note = store.say(&ids[0], |meta| meta.words.note = Some("no room".into()));
    assert!(note.unwrap_err().message.contains("No space left"), "the disk is full");
    for id in &ids {
        store.pin_as(id, &OFF).unwrap();
        store.delete(id, || Ok(Vec::new())).unwrap();
    }
    let names = |dir: &std::path::Path| fs::read_dir(dir).unwrap().count();
    assert_eq!((names(&dir.join(".pc-switcher/pins")), names(&dir.join(".pc-switcher/sets"))), (0, 0));
}

#[test]
fn what_was_its_pin_and_cannot_be_removed_keeps_the_set_and_goes_the_next_time() {
    let bench = Bench::new();
    let id = bench.take("abc12345").unwrap().id();
    bench.pin(&id, PinOrder::Hard).unwrap();
    // As one that is being sent.
    let inside = bench.pins().join(id.to_string()).join(HOME).join("nested");
    bench.model.create(&inside);
    let error = bench.pin(&id, OFF).unwrap_err();
    assert!(error.message.contains("is pinned no more"), "{error}");
    assert!(bench.delete(&id).unwrap_err().message.contains("what was its pin"));
    assert_eq!((whole(&bench), bench.hard(&id)), (1, None));
    bench.model.destroy(inside.parent().unwrap(), "nested".as_ref()).unwrap();
    bench.delete(&id).unwrap();
    assert_eq!((bench.left_of_pins().len(), bench.sidecars().len()), (0, 0));
}

#[test]
fn a_pin_stands_in_for_members_that_another_tool_removed_and_a_lost_toc_comes_back() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    let id = set.id();
    bench.pin(&id, PinOrder::Hard).unwrap();
    fs::remove_file(bench.store().sidecar(&id).dir().join("toc")).unwrap();
    let (sets, strays) = bench.list();
    assert_eq!((sets.len(), strays.pins.len()), (0, 0), "the pin is that of a set, which comes back");
    bench.take("bbbbbbbb").unwrap();
    assert_eq!(whole(&bench), 2, "the set is there again");

    bench.model.destroy(&bench.dir(), HOME.as_ref()).unwrap();
    let stored = bench.list().0.into_iter().find(|stored| stored.set.id() == id).unwrap();
    assert_eq!((stored.missing.len(), stored.lost().count()), (1, 0));
    let readable = bench.store().readable(&id).unwrap();
    let letter = readable.members[1].path.as_path().join("letter");
    assert_eq!(fs::read_to_string(letter).unwrap(), "dear");
    assert_eq!(readable.members[0], set.members[0], "what is there is read where it is");
    readable.members.iter().for_each(|member| check_member(&bench.model, member).unwrap());
    let whats = verify(&bench.store());
    assert_eq!(whats, ["is gone; the one of its pin stands in for it"]);

    let refused = bench.pin(&id, OFF).unwrap_err();
    assert!(
        refused.message.contains("by its pin alone") && refused.message.contains("--allow-loss"),
        "{refused}"
    );
    let reference = Reference::take(&bench.store().sidecar(&id)).unwrap();
    assert!(bench.pin(&id, LOSE).unwrap_err().message.contains("in use"));
    drop(reference);
    assert!(bench.hard(&id).is_some());
    bench.pin(&id, LOSE).unwrap();
    let stored = bench.list().0.into_iter().find(|stored| stored.set.id() == id).unwrap();
    assert_eq!((stored.hard.is_none(), stored.lost().count()), (true, 1));
    bench.delete(&id).unwrap();
}

#[test]
fn an_opened_pin_and_one_that_lost_a_member_are_found_and_closed_again() {
    let bench = Bench::new();
    let id = bench.take("abc12345").unwrap().id();
    bench.pin(&id, PinOrder::Hard).unwrap();
    assert_eq!(verify(&bench.store()), Vec::<String>::new());
    let dir = bench.pins().join(id.to_string());
    bench.model.set_immutable(&dir, false).unwrap();
    assert!(bench.hard(&id).unwrap().is_open);
    assert!(verify(&bench.store())[0].contains("binds nobody but us"));
    bench.pin(&id, PinOrder::Hard).unwrap();
    assert_eq!(verify(&bench.store()), Vec::<String>::new());
    bench.model.set_immutable(&dir, false).unwrap();
    bench.model.destroy(&dir, HOME.as_ref()).unwrap();
    assert_eq!(verify(&bench.store())[0], "in its pin is gone");
    assert!(bench.pin(&id, PinOrder::Hard).unwrap_err().message.contains("is not what was made"));
    bench.pin(&id, OFF).unwrap();
    bench.pin(&id, PinOrder::Hard).unwrap();
    assert_eq!(bench.hard(&id).unwrap().lacks, []);
}

/// What a look finds wrong.
fn verify(store: &Store<'_>) -> Vec<String> {
    let (call, frames) = Call::for_test(Vec::new());
    store.verify(&[], false, &call).unwrap();
    drop(call);
    let bytes: Vec<u8> = frames.try_iter().flatten().collect();
    let mut input = std::io::Cursor::new(bytes);
    let mut whats = Vec::new();
    while let Ok(Some(frame)) = crate::frame::read(&mut input) {
        whats.push(decode::<Finding>(&frame.body).unwrap().what);
    }
    whats
}

fn fails(program: &str, args: &[&std::ffi::OsStr]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{program} {args:?} worked");
    said
}

#[test]
fn no_tool_removes_what_is_pinned_hard_and_it_comes_back_after_the_original_is_gone() {
    let Some(image) = Image::make(256) else { return };
    ["@pin-home", "@pin-snapshots"].iter().for_each(|name| image.create(name));
    let home = image.top().join("@pin-home");
    fs::write(home.join("letter"), "dear").unwrap();
    let dir = image.top().join("@pin-snapshots");
    let set = take_set(&request(&dir, "abc12345", &["@pin-home"])).unwrap().0;
    let (id, flat) = (set.id(), set.members[0].path.clone());
    let subvolumes = || KernelBtrfs.subvolumes(image.top()).unwrap().len();
    let before = subvolumes();
    let order = |order: PinOrder| {
        pin_set(&PinRequest { set: SetRequest { snapshot_dir: dir.as_path().into(), id: id.clone() }, order })
    };
    order(PinOrder::Hard).unwrap();
    let pin = dir.join(".pc-switcher/pins").join(id.to_string());
    let copy = pin.join(set.members[0].name.to_string());
    let number = KernelBtrfs.subvolume(&copy).unwrap().id.to_string();
    let os = |text: &'static str| std::ffi::OsStr::new(text);
    fails("btrfs", &[os("subvolume"), os("delete"), copy.as_os_str()]);
    fails("btrfs", &[os("subvolume"), os("delete"), os("-i"), number.as_ref(), image.top().as_os_str()]);
    fails("rm", &[os("-rf"), pin.as_os_str()]);
    fails("mv", &[copy.as_os_str(), dir.as_os_str()]);
    fails("mv", &[pin.as_os_str(), dir.as_os_str()]);
    assert_eq!(fs::read_to_string(copy.join("letter")).unwrap(), "dear");

    // The original is as any other snapshot.
    let done = Command::new("btrfs").args(["subvolume", "delete"]).arg(flat.as_path()).output().unwrap();
    assert!(done.status.success() && !flat.as_path().exists());
    fs::write(home.join("letter"), "spoiled").unwrap();
    let readable = with_pin(&dir, &set);
    assert_eq!(readable.members[0].path, copy.as_path().into());
    check_set(&readable).unwrap();
    let (call, _frames) = Call::for_test(Vec::new());
    let wanted = RestoreRequest {
        snapshot_dir: dir.as_path().into(),
        id: id.clone(),
        paths: vec![home.join("letter").as_path().into()],
        place: RestorePlace::Beside,
        stamp: "20251120T080000Z".parse().unwrap(),
        tag: "fedcba98".parse().unwrap(),
        uid: 0,
    };
    let RestoreReply::Done { restored, .. } = restore(&wanted, &call).unwrap() else { panic!("it has it") };
    assert_eq!(fs::read_to_string(restored[0].to.as_path()).unwrap(), "dear");
    fs::remove_file(restored[0].to.as_path()).unwrap();
    let mut now = request(&dir, "99999999", &[]);
    now.kind = pc_switcher_contract::SnapshotKind::Manual;
    let now = CreateSet { set: now, words: Words::default(), pinned: false, copies: CopyOrder::default() };
    let wanted = DiffRequest {
        snapshot_dir: dir.as_path().into(),
        from: id.clone(),
        to: DiffEnd::Now(Box::new(now)),
        path: None,
        uid: 0,
    };
    let diffed = diff(&wanted, &call).unwrap();
    assert_eq!(diffed.compared.len(), 1);

    assert!(order(OFF).unwrap_err().message.contains("by its pin alone"));
    assert!(copy.exists());
    order(LOSE).unwrap();
    assert!(!pin.exists());
    assert_eq!(subvolumes(), before - 1);
}
