//! Changed directories, held against what two walks see.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::drive::{items, try_walk};
use crate::data::{changed, moved, younger};
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::proto::{ChangedDir, ChangedRequest, DirListing, Kind, Moved, Rule, RuleSet, Tree};
use crate::server::Call;

fn take(image: &Image, name: &str) -> PathBuf {
    let snapshot = image.top().join(name);
    KernelBtrfs.snapshot(&image.top().join("@home"), image.top(), OsStr::new(name)).unwrap();
    KernelBtrfs.set_readonly(&snapshot, true).unwrap();
    snapshot
}

fn rules() -> RuleSet {
    let rule = |pattern: &str| Rule { pattern: pattern.into(), reason: "made anew".into() };
    RuleSet { forced: Vec::new(), layered: vec![rule("out*/"), rule("*.tmp")] }
}

fn changed(base: &Path, now: &Path) -> Option<Vec<ChangedDir>> {
    let since = KernelBtrfs.subvolume(base).unwrap().otransid;
    let (call, seen) = Call::for_test(Vec::new());
    let tree = Tree { root: now.into(), prefix: "".into(), rules: rules() };
    let is_known = changed::run(&ChangedRequest { base: base.into(), tree }, since, &call).unwrap();
    is_known.then(|| items::<Vec<ChangedDir>>(&seen).into_iter().flatten().collect())
}

fn moved(base: &Path, now: &Path) -> Option<Vec<Moved>> {
    let since = KernelBtrfs.subvolume(base).unwrap().otransid;
    let (call, seen) = Call::for_test(Vec::new());
    let tree = Tree { root: now.into(), prefix: "".into(), rules: rules() };
    let is_known = moved::run(&ChangedRequest { base: base.into(), tree }, since, &call).unwrap();
    is_known.then(|| items::<Vec<Moved>>(&seen).into_iter().flatten().collect())
}

fn listings(root: &Path) -> BTreeMap<String, DirListing> {
    let (_, listings) = try_walk(root, rules()).unwrap();
    listings
        .into_iter()
        .map(|listing| (listing.path.to_string(), DirListing { root: None, ..listing }))
        .collect()
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    let at_slash = path.char_indices().rev().filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at]);
    std::iter::once(path).chain(at_slash).chain((!path.is_empty()).then_some(""))
}

/// Whatever is not named must be as it was, and what is gone must be gone from something that is named.
fn assert_covers(base: &Path, now: &Path, found: &[ChangedDir], round: usize) {
    let whole =
        |path: &str| parents(path).any(|at| found.iter().any(|dir| dir.whole && dir.path.to_string() == at));
    let named = |path: &str| whole(path) || found.iter().any(|dir| dir.path.to_string() == path);
    let (before, after) = (listings(base), listings(now));
    for (path, listing) in &after {
        assert!(named(path) || before.get(path) == Some(listing), "round {round}: `{path}` is not named");
    }
    for ChangedDir { path, names, .. } in found.iter().filter(|dir| !whole(&dir.path.to_string())) {
        let path = path.to_string();
        let Some(names) = names.as_ref().filter(|_| before.contains_key(&path)) else { continue };
        let others = |listing: &DirListing| {
            let mut others = listing.clone();
            others.entries.retain(|entry| !names.contains(&entry.name));
            others.skipped.retain(|skip| !names.contains(&skip.name));
            others
        };
        let [was, is] = [&before[&path], &after[&path]].map(others);
        assert_eq!(was, is, "round {round}: something in `{path}` is not named");
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        let left = parents(path).find(|at| after.contains_key(*at)).unwrap();
        assert!(named(left), "round {round}: `{path}` is gone and `{left}` is not named");
    }
}

/// What is told is just what the inodes of both walks say, but for rules and links.
fn assert_moved(base: &Path, now: &Path, told: &[Moved], round: usize) -> usize {
    let names = |root| -> BTreeMap<String, (u64, Kind, u32)> {
        let all = listings(root).into_iter().flat_map(|(path, listing)| {
            let below =
                move |name: &str| if path.is_empty() { name.into() } else { format!("{path}/{name}") };
            let entries = listing.entries.into_iter();
            entries.map(move |entry| (below(&entry.name.to_string()), (entry.ino, entry.kind, entry.nlink)))
        });
        all.collect()
    };
    let (was, is) = (names(base), names(now));
    for Moved { from, to, is_dir } in told {
        let at = |path: &str, tree: &BTreeMap<String, (u64, Kind, u32)>| {
            tree.get(path).map(|(ino, kind, _)| (*ino, *kind))
        };
        let (then, there) = (at(&from.to_string(), &was), at(&to.to_string(), &is));
        assert!(then.is_some() && then == there, "round {round}: `{from}` to `{to}`: {then:?}, {there:?}");
        assert_eq!(*is_dir, there.unwrap().1 == Kind::Dir);
    }
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let single = |(_, (_, kind, nlink)): &(&String, &(u64, Kind, u32))| *kind == Kind::Dir || *nlink == 1;
    let by_inode = |tree: &BTreeMap<String, (u64, Kind, u32)>| -> BTreeMap<u64, String> {
        tree.iter().filter(single).map(|(path, (ino, ..))| (*ino, path.clone())).collect()
    };
    let was = by_inode(&was);
    for (ino, path) in by_inode(&is) {
        // Another last name is a move whatever happened above.
        if let Some(then) = was.get(&ino).filter(|then| name(then) != name(&path)) {
            let is_told = told.iter().any(|moved| moved.to.to_string() == path);
            assert!(is_told, "round {round}: `{then}` to `{path}` is not told");
        }
    }
    told.len()
}

/// A small generator: the same seed makes the same changes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, all: &'a [PathBuf]) -> Option<&'a PathBuf> {
        (!all.is_empty()).then(|| &all[self.roll(all.len())])
    }
}

fn tree(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    let mut at = 0;
    while at < dirs.len() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&dirs[at]).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let list = if path.symlink_metadata().unwrap().is_dir() { &mut dirs } else { &mut files };
            list.push(path);
        }
        at += 1;
    }
    (dirs, files)
}

/// Changes something; what does not work on what is there is no change.
fn change(root: &Path, dice: &mut Dice, number: usize) {
    let (dirs, files) = tree(root);
    let dir = dice.pick(&dirs).unwrap().clone();
    let name = ["f", "g.tmp", "out", "d"][dice.roll(4)];
    let new = dir.join(format!("{name}{number}"));
    let file = dice.pick(&files).cloned();
    let moved = dice.pick(&dirs[1..]).cloned();
    let _ = match (dice.roll(14), file, moved) {
        (0 | 1, ..) => fs::create_dir(&new),
        (2 | 3, ..) => fs::write(&new, vec![b'x'; dice.roll(9000)]),
        (4, Some(file), _) => fs::write(file, format!("again {number}")),
        (5, Some(file), _) => fs::remove_file(file),
        (6, Some(file), _) => fs::rename(file, &new),
        (7 | 8, _, Some(moved)) => fs::rename(moved, &new),
        (9, _, Some(moved)) => fs::remove_dir_all(moved),
        (10, Some(file), _) => fs::hard_link(file, &new),
        (11, Some(file), _) => fs::set_permissions(file, fs::Permissions::from_mode(0o600)),
        (12, _, Some(moved)) => fs::set_permissions(moved, fs::Permissions::from_mode(0o711)),
        (13, _, Some(moved)) => {
            // Two directories change places.
            let other = dice.pick(&dirs[1..]).unwrap();
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &moved, rustix::fs::CWD, other, flags)
                .map_err(Into::into)
        }
        _ => symlink("nowhere", &new),
    };
}

#[test]
fn what_is_not_named_is_as_it_was_whatever_was_done() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    let mut dice = Dice(20_261_121);
    for number in 0..120 {
        change(&home, &mut dice, number);
    }
    let mut base = take(&image, "base");
    let (mut named, mut carried) = (0, 0);
    for round in 0..60 {
        for number in 0..1 + dice.roll(12) {
            change(&home, &mut dice, 1000 * (round + 1) + number);
        }
        let now = take(&image, &format!("now-{round}"));
        let found = changed(&base, &now).unwrap();
        assert_covers(&base, &now, &found, round);
        carried += assert_moved(&base, &now, &moved(&base, &now).unwrap(), round);
        named += found.len();
        base = now;
    }
    assert!(named > 60, "the rounds changed something");
    assert!(carried > 20, "{carried} things moved");
}

#[test]
fn a_number_that_another_file_had_and_what_crosses_the_rules_are_not_taken_for_moved() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    for dir in ["one", "two", "three", "out", "deep/er", "sub"] {
        fs::create_dir_all(home.join(dir)).unwrap();
        fs::write(home.join(dir).join("f"), "x").unwrap();
    }
    fs::write(home.join("linked"), "x").unwrap();
    fs::hard_link(home.join("linked"), home.join("also")).unwrap();
    let base = take(&image, "0");
    let mv = |from: &str, to: &str| fs::rename(home.join(from), home.join(to)).unwrap();
    mv("one", "deep/one");
    mv("deep/er", "er");
    mv("three/f", "three/g.tmp");
    mv("out/f", "f-out");
    mv("two", "out-two");
    mv("linked", "linked-now");
    mv("sub", "sub-was");
    image.create("@home/sub");
    let told: Vec<(String, String)> = moved(&base, &take(&image, "1"))
        .unwrap()
        .into_iter()
        .map(|moved| (moved.from.to_string(), moved.to.to_string()))
        .collect();
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let expected = [pair("one", "deep/one"), pair("deep/er", "er"), pair("linked", "linked-now")];
    assert_eq!(told, expected);
    fs::write(home.join("live"), "not in any snapshot").unwrap();
    assert!(moved(&base, &home).unwrap().len() >= 2, "a live tree tells as well");
}

#[test]
fn each_name_of_a_file_that_went_is_one_that_came() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    let at = |path: &str| home.join(path);
    for name in ["all", "some", "more", "less"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("1"), name).unwrap();
        fs::hard_link(at(name).join("1"), at(name).join("2")).unwrap();
    }
    let base = take(&image, "0");
    let mv = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
    mv("all/2", "some/x");
    mv("all/1", "some/y");
    mv("some/2", "all/3");
    mv("more/1", "more/7");
    fs::hard_link(at("more/2"), at("more/8")).unwrap();
    mv("less/1", "less/6.tmp");
    fs::remove_file(at("less/2")).unwrap();
    let told: Vec<String> = moved(&base, &take(&image, "1"))
        .unwrap()
        .into_iter()
        .map(|moved| format!("{} {}", moved.from, moved.to))
        .collect();
    assert_eq!(told, ["some/2 all/3", "more/1 more/7", "all/1 some/x", "all/2 some/y"]);
}

#[test]
fn only_what_changed_is_named() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    for dir in 0..200 {
        let dir = home.join(format!("user/{dir}/deep"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
    }
    fs::create_dir_all(home.join("user/out/side")).unwrap();
    let base = take(&image, "0");
    let paths = |found: Option<Vec<ChangedDir>>| -> Vec<(String, bool)> {
        found.unwrap().into_iter().map(|dir| (dir.path.to_string(), dir.whole)).collect()
    };
    assert!(paths(changed(&base, &take(&image, "1"))).is_empty());
    fs::write(home.join("user/7/deep/file"), "y").unwrap();
    fs::write(home.join("user/out/side/new"), "y").unwrap();
    fs::write(home.join("user/8/deep/file"), "z").unwrap();
    let now = take(&image, "2");
    let deep = |number: u32| (format!("user/{number}/deep"), false);
    assert_eq!(paths(changed(&base, &now)), [deep(7), deep(8)], "the excluded one is not told");
    for dir in changed(&base, &now).unwrap() {
        assert_eq!(dir.names, Some(vec!["file".into()]), "{dir:?}");
    }
    fs::rename(home.join("user/9"), home.join("user/10/nine")).unwrap();
    let after = take(&image, "3");
    // The time of `user` is in the root's listing.
    let expected = [("", false), ("user", false), ("user/10", false), ("user/10/nine", true)];
    assert_eq!(paths(changed(&now, &after)), expected.map(|(path, whole)| (path.to_owned(), whole)));
    let names: Vec<Option<Vec<String>>> = changed(&now, &after)
        .unwrap()
        .into_iter()
        .map(|dir| dir.names.map(|names| names.iter().map(ToString::to_string).collect()))
        .collect();
    let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(names, [some(&["user"]), some(&["10", "9"]), some(&["nine"]), some(&[])]);
    assert_eq!(changed(&now.join("user"), &after.join("user/10")), None, "another root is no base");
}

#[test]
fn several_threads_find_what_one_would_wherever_it_lies() {
    let Some(image) = Image::make(512) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    let file = |number: usize| home.join(format!("{}/{number}", number / 500));
    for number in 0..6000 {
        fs::create_dir_all(file(number).parent().unwrap()).unwrap();
        fs::write(file(number), format!("{number}")).unwrap();
    }
    let base = take(&image, "0");
    assert_eq!(younger::count(&base, &take(&image, "same")).unwrap(), Some(0));
    // All over the tree, in one place, and the last inode alone.
    let cases = [(0..6000).step_by(37).collect(), (2710..2790).collect(), vec![5999_usize]];
    let mut before = base;
    for (at, touched) in cases.into_iter().enumerate() {
        for &number in &touched {
            fs::write(file(number), format!("{number} {at}")).unwrap();
        }
        let now = take(&image, &format!("case-{at}"));
        assert_eq!(younger::count(&before, &now).unwrap(), Some(touched.len()));
        let mut told: Vec<usize> = changed(&before, &now)
            .unwrap()
            .into_iter()
            .flat_map(|dir| dir.names.unwrap())
            .map(|name| name.to_string().parse().unwrap())
            .collect();
        told.sort_unstable();
        assert_eq!(told, touched, "case {at}");
        before = now;
    }
}

#[test]
fn of_a_directory_of_any_size_only_the_names_that_differ_are_told() {
    let Some(image) = Image::make(512) else { return };
    image.create("@home");
    let home = image.top().join("@home/mail");
    fs::create_dir(&home).unwrap();
    // More than the room for one page, and than the one for two.
    let names: Vec<String> = (0..12_000).map(|number| format!("{number:0>40}")).collect();
    for name in &names {
        fs::write(home.join(name), "").unwrap();
    }
    let base = take(&image, "0");
    fs::remove_file(home.join(&names[0])).unwrap();
    fs::remove_file(home.join(&names[4_321])).unwrap();
    fs::rename(home.join(&names[9_000]), home.join("moved")).unwrap();
    fs::write(home.join("new"), "").unwrap();
    fs::write(home.join(&names[11_999]), "other").unwrap();
    let now = take(&image, "1");
    let told = |found: Option<Vec<ChangedDir>>| found.unwrap().pop().unwrap();
    let mut expected = [0, 4_321, 9_000, 11_999].map(|at| names[at].as_str()).to_vec();
    expected.extend(["moved", "new"]);
    let expected = Some(expected.into_iter().map(BytePath::from).collect());
    assert_eq!(told(changed(&base, &now)).names, expected);
    // So many differ that all are looked at.
    for name in &names[1..4_000] {
        fs::remove_file(home.join(name)).unwrap();
    }
    let after = take(&image, "2");
    assert_eq!(told(changed(&now, &after)).names, None);
}

#[test]
fn what_was_only_read_is_not_named_and_what_was_written_in_the_next_moment_is() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let home = image.top().join("@home");
    for number in 0..40 {
        let dir = home.join(format!("{number}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
    }
    let base = take(&image, "0");
    let (dirs, files) = tree(&home);
    let now = take(&image, "1");
    let written = younger::count(&base, &now).unwrap().unwrap();
    assert!(written >= dirs.len() - 1, "{written} inodes have another time of access");
    assert_eq!(changed(&base, &now), Some(Vec::new()));
    assert_eq!(moved(&base, &now), Some(Vec::new()));
    for file in &files {
        assert_eq!(fs::read(file).unwrap(), b"x");
    }
    let read = take(&image, "read");
    assert_eq!(younger::count(&now, &read).unwrap().unwrap(), files.len());
    assert_eq!(changed(&now, &read), Some(Vec::new()));
    fs::set_permissions(&files[3], fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(changed(&read, &take(&image, "closed")).unwrap().len(), 1);
    // Each write may fall into the tick of the clock in which the file had been written before.
    for round in 0..30 {
        let (file, names) = (home.join("7/file"), |found: Option<Vec<ChangedDir>>| found.unwrap().len());
        fs::write(&file, format!("{round:04}")).unwrap();
        let before = take(&image, &format!("before-{round}"));
        fs::write(&file, format!("{:04}", round + 1)).unwrap();
        let after = take(&image, &format!("after-{round}"));
        assert_eq!(names(changed(&before, &after)), 1, "round {round}");
    }
}

#[test]
fn one_write_that_ends_behind_the_base_is_told_though_size_and_times_stay() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    const SIZE: usize = 128 << 20;
    let Some(image) = Image::make(2048) else { return };
    image.create("@home");
    let path = image.top().join("@home/image");
    fs::write(&path, vec![0; SIZE]).unwrap();
    let mut cuts = 0;
    for round in 1..=6_u8 {
        let stamp = || path.metadata().map(|seen| (seen.ctime(), seen.ctime_nsec())).unwrap();
        let before = stamp();
        let base = std::thread::scope(|scope| {
            scope.spawn(|| {
                fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .write_all_at(&vec![round; SIZE], 0)
                    .unwrap();
            });
            while stamp() == before {
                std::thread::yield_now();
            }
            take(&image, &format!("base-{round}"))
        });
        let now = take(&image, &format!("now-{round}"));
        let entry = |root: &Path| listings(root).remove("").unwrap().entries.remove(0);
        let is_cut = fs::read(base.join("image")).unwrap() != fs::read(now.join("image")).unwrap();
        let found = changed(&base, &now).unwrap();
        let silent: Vec<BytePath> = found.into_iter().flat_map(|dir| dir.silent).collect();
        if is_cut && entry(&base) == entry(&now) {
            assert_eq!(silent, [BytePath::from("image")], "round {round}");
            cuts += 1;
        }
        let again = take(&image, &format!("again-{round}"));
        assert_eq!(changed(&now, &again), Some(Vec::new()));
        fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(SIZE as u64).unwrap();
        for old in ["base", "now", "again"] {
            KernelBtrfs.destroy(image.top(), OsStr::new(&format!("{old}-{round}"))).unwrap();
        }
    }
    assert!(cuts > 0, "no base was taken within a write");
}
