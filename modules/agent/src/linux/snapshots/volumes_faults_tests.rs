//! Sets of volumes where something is in the way: groups that are not attached or copied, volumes that are mounted or have our tag, and
//! commands that fail.

use std::fs;

use super::volumes_tests::{Bench, said};
use super::*;
use crate::linux::lvm::never;
use crate::proto::{AgentErrorKind, RestorePlace};

const FIRST: &str = "home-manual-20251115T120001Z-00000001";

#[test]
fn what_is_not_attached_is_neither_gone_nor_removed_and_what_no_set_has_is_listed() {
    let Some(bench) = Bench::make() else { return };
    let first = bench.take(1, &["home"]);
    bench.lvm.attach("vg0", false);
    let stored = &bench.list()[0];
    assert_eq!((stored.missing.len(), stored.away.len()), (0, 1));
    assert!(stored.away[0].1.contains("volume group `vg0` is not attached"), "{:?}", stored.away);
    said(&bench.delete(&first).unwrap_err(), "volume group `vg0` is not attached");
    let all = bench.with(|store| store.delete_all(&[first.id()], || Ok(Needs::default()))).unwrap();
    assert!(all[0].1.as_ref().unwrap().contains("is not attached"), "{all:?}");
    said(&bench.restore(&first, "home/notes", RestorePlace::Beside).unwrap_err(), "is not attached");
    let wrong = bench.findings();
    assert!(wrong[0].contains("volume group `vg0` is not attached"), "{wrong:?}");
    bench.lvm.attach("vg0", true);
    assert_eq!(bench.wrong(), Vec::<String>::new());

    // Its label goes behind everybody's back, as with the disk that it lay on.
    let label = bench.at("snaps").join(first.members[0].name.to_string());
    bench.with(|store| store.btrfs.set_readonly(&label, false)).unwrap();
    fs::remove_dir(&label).unwrap();
    let (sets, strays) = bench.list_all();
    assert_eq!(sets[0].missing.len(), 1);
    assert_eq!(strays.volumes, [format!("vg0/{FIRST}")]);
    bench.delete(&first).unwrap();
    assert!(bench.lvm.names().contains(&FIRST.to_owned()), "no label names it");
}

#[test]
fn a_set_that_was_half_made_in_a_group_that_is_not_attached_waits_for_it() {
    let Some(bench) = Bench::make() else { return };
    let first = bench.take(1, &["home"]);
    fs::remove_file(bench.with(|store| store.sidecar(&first.id()).dir().join("toc"))).unwrap();
    bench.lvm.attach("vg0", false);
    said(&bench.try_take(2, &["home"]).unwrap_err(), "is no logical volume of LVM");
    bench.with(|store| drop(store.lock().unwrap()));
    bench.lvm.attach("vg0", true);
    assert!(bench.lvm.names().contains(&FIRST.to_owned()));
    assert_eq!(bench.list_all().1.volumes, Vec::<String>::new(), "its label is there still");
    bench.take(2, &["home"]);
    assert!(!bench.lvm.names().contains(&FIRST.to_owned()), "the next who takes one removes it");
    assert_eq!(bench.wrong(), Vec::<String>::new());
}

#[test]
fn a_volume_that_nothing_names_goes_when_it_is_named_and_no_other_does() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    bench.lvm.copy_group("copy");
    bench.lvm.tag_as("data", FIRST);
    let remove = |name: &str| bench.with(|store| store.delete_volume(name));
    let lost = format!("copy/{FIRST}");
    assert!(bench.list_all().1.volumes.contains(&lost));
    said(&remove(&format!("vg0/{FIRST}")).unwrap_err(), "no volume of ours that nothing");
    said(&remove("vg0/home").unwrap_err(), "no volume of ours that nothing");
    said(&remove("vg0/data").unwrap_err(), "it is writable");
    bench.lvm.remove_nothing(true);
    said(&remove(&lost).unwrap_err(), "`lvremove` left volume");
    bench.lvm.remove_nothing(false);
    bench.lvm.commands();
    remove(&lost).unwrap();
    let commands = bench.lvm.commands();
    assert!(commands.len() == 1 && commands[0].contains("vg_uuid=group-1 copy"), "{commands:?}");
    said(&remove(&lost).unwrap_err(), "no volume of ours that nothing");
    assert!(bench.lvm.names().contains(&FIRST.to_owned()), "that of the set is there");
    assert_eq!(bench.list_all().0[0].missing, []);
    bench.delete(&set).unwrap();
}

#[test]
fn no_volume_goes_or_is_listed_as_of_no_set_while_a_record_may_be_out_of_sight() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    bench.lvm.copy_group("copy");
    let lost = format!("copy/{FIRST}");
    let snaps = bench.at("snaps");
    let root = bench.at("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    // By what is listed, and by what is said when each is to be removed.
    let look = || {
        let members = bench.members();
        let store = Store { root: root.clone(), ..Store::new(&members, &snaps) };
        let strays = store.list(&|_| Vec::new(), &mut |_| Ok(())).unwrap();
        let refused = |name: &str| store.delete_volume(name).unwrap_err().message;
        (strays, [format!("vg0/{FIRST}"), lost.clone()].map(|name| refused(&name)))
    };
    let assert_untold = |why: &str| {
        let (strays, refused) = look();
        assert_eq!(strays.volumes, Vec::<String>::new(), "{why}");
        assert!(strays.untold_volumes.as_ref().is_some_and(|said| said.contains(why)), "{why}: {strays:?}");
        assert!(
            refused.iter().all(|said| said.contains("cannot be told") && said.contains(why)),
            "{refused:?}"
        );
        assert_eq!(bench.lvm.names().iter().filter(|name| *name == FIRST).count(), 2, "{why}");
    };
    // The disk that they lie on is not mounted today: the place is empty, or not there.
    let away = bench.at("away");
    fs::rename(&snaps, &away).unwrap();
    assert_untold("No such file");
    assert!(!snaps.exists(), "nothing is made there");
    fs::create_dir(&snaps).unwrap();
    assert_untold("there are no records of sets");
    assert_eq!(fs::read_dir(&snaps).unwrap().count(), 0, "nothing is made there");
    for options in ["nofail", "noauto"] {
        fs::create_dir_all(snaps.join(".pc-switcher/sets")).unwrap();
        let line = format!("UUID=x {} ext4 {options} 0 2\n", bench.at("snaps").display());
        fs::write(root.join("etc/fstab"), line).unwrap();
        assert_untold("is not mounted");
    }
    fs::remove_file(root.join("etc/fstab")).unwrap();
    fs::remove_dir_all(&snaps).unwrap();
    fs::rename(&away, &snaps).unwrap();
    // A label that is not there, or is none.
    let label = set.members[0].path.as_path();
    let key = "trusted.pc-switcher.tree";
    let mut text = vec![0; 1024];
    let size = rustix::fs::getxattr(label, key, &mut text).unwrap();
    bench.with(|store| store.btrfs.set_readonly(label, false)).unwrap();
    let put = |text: &[u8]| rustix::fs::setxattr(label, key, text, rustix::fs::XattrFlags::empty()).unwrap();
    put(b"{");
    assert_untold("the label of");
    rustix::fs::removexattr(label, key).unwrap();
    assert_untold("has no label");
    put(&text[..size]);
    let (_, strays) = bench.list_all();
    assert_eq!((strays.volumes, strays.untold_volumes), (vec![lost.clone()], None));
    bench.with(|store| store.delete_volume(&lost)).unwrap();
    assert_eq!(bench.list()[0].missing, []);
}

#[test]
fn a_volume_that_nothing_names_stays_while_somebody_has_it_open() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    let label = set.members[0].path.as_path();
    bench.with(|store| store.btrfs.set_readonly(label, false)).unwrap();
    fs::remove_dir_all(bench.at("snaps/.pc-switcher/sets").join(set.id().to_string())).unwrap();
    fs::remove_dir(label).unwrap();
    let lost = format!("vg0/{FIRST}");
    bench.lvm.hold(FIRST, true);
    let remove = || bench.with(|store| store.delete_volume(&lost));
    said(&remove().unwrap_err(), "it is open");
    assert!(bench.lvm.names().contains(&FIRST.to_owned()));
    bench.lvm.hold(FIRST, false);
    remove().unwrap();
    assert!(!bench.lvm.names().contains(&FIRST.to_owned()));
}

#[test]
fn copies_of_a_group_and_volumes_that_were_given_our_tag_are_never_touched() {
    let Some(bench) = Bench::make() else { return };
    let (first, second) = (bench.take(1, &["home"]), bench.take(2, &["home"]));
    bench.lvm.copy_group("copy");
    bench.lvm.tag_as("data", FIRST);
    assert_eq!(bench.list_all().0[0].missing, []);
    let (_, strays) = bench.list_all();
    let copies = [1, 2].map(|n| format!("copy/home-manual-20251115T12000{n}Z-0000000{n}"));
    assert_eq!(strays.volumes, [&["vg0/data".to_owned()][..], &copies[..]].concat());
    bench.lvm.commands();
    bench.restore(&first, "home/notes", RestorePlace::Beside).unwrap();
    bench.delete(&first).unwrap();
    let commands = bench.lvm.commands();
    assert!(commands.iter().all(|command| command.contains("vg_uuid=group-0 vg0")), "{commands:?}");
    assert_eq!(bench.lvm.names().iter().filter(|name| *name == FIRST).count(), 1, "that of the copy");
    assert!(bench.lvm.names().contains(&"data".to_owned()));

    // Of the first only the copy is attached: that is not the one.
    bench.lvm.attach("vg0", false);
    said(&bench.delete(&second).unwrap_err(), "volume group `vg0` is not attached");
    bench.lvm.attach("vg0", true);
    bench.delete(&second).unwrap();
    assert_eq!(bench.list_all().0, []);
}

#[test]
fn a_set_of_which_somebody_has_a_volume_open_is_in_use_and_stays_whole() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home", "data"]);
    for name in ["home", "data"].map(|of| format!("{of}-manual-20251115T120001Z-00000001")) {
        bench.lvm.hold(&name, true);
        bench.lvm.commands();
        let error = bench.delete(&set).unwrap_err();
        said(&error, "is in use");
        said(&error, &format!("`vg0/{name}`"));
        let all = bench.with(|store| store.delete_all(&[set.id()], || Ok(Needs::default()))).unwrap();
        assert!(all[0].1.as_ref().unwrap().contains("is in use"), "{all:?}");
        assert_eq!(bench.lvm.commands(), Vec::<String>::new());
        assert_eq!((bench.list().len(), bench.lvm.names().len()), (1, 4));
        bench.lvm.hold(&name, false);
    }
    bench.delete(&set).unwrap();
    assert_eq!((bench.list().len(), bench.lvm.names().len()), (0, 2));
}

#[test]
fn a_volume_that_lvm_does_not_remove_keeps_its_label_until_it_goes() {
    let Some(bench) = Bench::make() else { return };
    for is_silent in [false, true] {
        let set = bench.take(1, &["home"]);
        let broken: &[&str] = if is_silent { &[] } else { &["lvremove"] };
        bench.lvm.fail_all(broken);
        bench.lvm.remove_nothing(is_silent);
        let why = if is_silent { "`lvremove` left volume" } else { "it is broken" };
        said(&bench.delete(&set).unwrap_err(), why);
        let (_, strays) = bench.list_all();
        assert_eq!(strays.volumes, Vec::<String>::new(), "a label names it");
        bench.lvm.fail_all(&[]);
        bench.lvm.remove_nothing(false);
        let second = bench.take(2, &["home"]);
        assert_eq!(bench.wrong(), Vec::<String>::new());
        bench.delete(&second).unwrap();
    }
}

#[test]
fn a_device_that_cannot_be_taken_away_is_noted_until_it_can() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    let notes = || fs::read_dir(bench.at("snaps/.pc-switcher/read")).unwrap().count();
    let reading = bench.with(|store| store.rooted(&set.members[0], &never)).unwrap();
    bench.lvm.fail_all(&["lvchange --activate n"]);
    drop(reading);
    assert!(bench.lvm.active().contains(&FIRST.to_owned()));
    assert_eq!(notes(), 1);
    let second = bench.take(2, &["data"]);
    assert_eq!(notes(), 1, "it is tried again, and in vain");
    bench.lvm.fail_all(&[]);
    bench.lvm.commands();
    bench.delete(&second).unwrap();
    let away = &bench.lvm.commands()[0];
    assert!(away.starts_with("lvchange --activate n --select lv_uuid=uuid-3 && vg_uuid=group-0"), "{away}");
    assert_eq!(notes(), 0);
    assert_eq!(bench.wrong(), Vec::<String>::new());
}

#[test]
fn versions_come_of_one_volume_after_the_other_and_what_cannot_be_read_is_named() {
    let Some(bench) = Bench::make() else { return };
    let file = bench.at("home/notes/today");
    let sets = [1, 2, 3].map(|n| {
        let set = bench.take(n, &["home"]);
        // Another inode with the same content and time, as a program makes it that saves.
        let times = fs::metadata(&file).unwrap().modified().unwrap();
        let text = if n == 2 { "write to bob".into() } else { fs::read(&file).unwrap() };
        fs::remove_file(&file).unwrap();
        fs::write(&file, text).unwrap();
        fs::File::options().append(true).open(&file).unwrap().set_modified(times).unwrap();
        set
    });
    bench.lvm.commands();
    let found = bench.versions("home/notes/today");
    let of: Vec<Vec<SetId>> = found.versions.iter().map(|version| version.sets.clone()).collect();
    assert_eq!(of, [vec![sets[2].id()], vec![sets[1].id(), sets[0].id()]]);
    assert_eq!((found.without.len(), found.unread.len()), (0, 0));
    let mut open = 0_usize;
    for command in bench.lvm.commands() {
        match command.contains("--activate y") {
            true => open += 1,
            false => open -= 1,
        }
        assert!(open <= 1, "one at a time");
    }
    assert_eq!(open, 0);

    bench.lvm.lose(FIRST);
    let found = bench.versions("home/notes/today");
    let unread: Vec<&SetId> = found.unread.iter().map(|(id, _)| id).collect();
    assert_eq!(unread, [&sets[0].id()]);
    assert!(found.unread[0].1.contains("is gone"), "{:?}", found.unread);
    assert_eq!(found.versions.len(), 2);

    let (call, _frames) = Call::for_test(Vec::new());
    call.cancel_for_test();
    let request = VersionsRequest {
        snapshot_dir: bench.at("snaps").as_path().into(),
        path: file.as_path().into(),
        uid: 0,
    };
    bench.lvm.commands();
    let stopped = bench.with(|store| store.versions(&bench.mounts, &request, &call)).unwrap_err();
    assert_eq!(stopped.kind, AgentErrorKind::Cancelled);
    assert_eq!(bench.lvm.commands(), Vec::<String>::new());
}

#[test]
fn a_set_is_refused_whose_folders_are_not_there_or_whose_records_would_lie_in_it() {
    let Some(bench) = Bench::make() else { return };
    std::os::unix::fs::symlink(bench.at("data"), bench.at("link")).unwrap();
    said(&bench.try_take(1, &["home", "nowhere"]).unwrap_err(), "nowhere`: it is not there");
    said(&bench.try_take(1, &["home", "link"]).unwrap_err(), "symbolic links lead from it to");
    let mut request = bench.request(1, &["home", "data"]);
    request.set.snapshot_dir = bench.at("home/.snapshots").as_path().into();
    let members = bench.members();
    let refused = copies::create(&members, &bench.mounts, &request, &|| false).unwrap_err();
    said(&refused, "lies in volume `vg0/home`, of which the set would be");
    said(&refused, "`snapshot_dir` in [btrfs-snapshots]");
    assert_eq!(bench.lvm.names(), ["home", "data"]);
    assert!(!bench.at("home/.snapshots").exists());
    // Beside another volume that is not taken they may lie.
    request.copies.folders.retain(|folder| *folder == bench.at("data").as_path().into());
    let (created, _) = copies::create(&members, &bench.mounts, &request, &|| false).unwrap();
    let store = Store::new(&members, request.set.snapshot_dir.as_path());
    store.delete(&created.set.id(), || Ok(Vec::new())).unwrap();
}

#[test]
fn nothing_is_staged_where_the_pool_is_nearly_full() {
    let Some(bench) = Bench::make() else { return };
    let set = bench.take(1, &["home"]);
    bench.lvm.fill(93.0);
    let safety = Box::new(bench.request(4, &[]));
    let into = RestorePlace::Into(bench.at("data").as_path().into());
    for place in [RestorePlace::Beside, RestorePlace::InPlace(safety), into] {
        let error = bench.restore(&set, "home/notes", place).unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::NoSpace);
        said(&error, "nothing is restored to");
    }
    let left: Vec<_> = fs::read_dir(bench.at("home")).unwrap().collect();
    assert_eq!(left.len(), 1);
    // Another disk has nothing to do with it.
    bench.restore(&set, "home/notes", RestorePlace::Into(bench.at("etc").as_path().into())).unwrap();
}
