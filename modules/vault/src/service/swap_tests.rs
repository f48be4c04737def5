//! A catalogue that takes the place of another one: what is there if a step fails, and what if all ends between two of them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A place with a catalogue of which some is in its log alone, and one that shall take its place.
struct Scene {
    dir: tempfile::TempDir,
    place: PathBuf,
    fresh: PathBuf,
    is_torn: bool,
}

/// What lies in a directory.
type Files = BTreeMap<String, Vec<u8>>;

fn files(directory: &Path) -> Files {
    let all = directory.read_dir().unwrap().map(|entry| entry.unwrap());
    let all = all.filter(|entry| entry.file_type().unwrap().is_file());
    all.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn put(files: &Files, directory: &Path) {
    files.iter().for_each(|(name, bytes)| fs::write(directory.join(name), bytes).unwrap());
}

impl Scene {
    fn new(is_torn: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("catalogue.db");
        let lives = tempfile::tempdir().unwrap();
        let mut old = Catalogue::open(&lives.path().join("catalogue.db")).unwrap();
        old.into_one_file().unwrap();
        drop(old);
        old = Catalogue::open(&lives.path().join("catalogue.db")).unwrap();
        old.begin_operation("old", "", Timestamp::UNIX_EPOCH).unwrap();
        // As whoever was killed leaves it.
        let mut killed = files(lives.path());
        drop(old);
        assert!(killed["catalogue.db-wal"].len() > 4096 && killed.contains_key("catalogue.db-shm"));
        if is_torn {
            killed.get_mut("catalogue.db").unwrap()[..16].copy_from_slice(b"no such database");
            killed.insert("catalogue.db-journal".into(), b"what was there before".into());
        }
        put(&killed, dir.path());
        let fresh = dir.path().join("scratch/fresh.db");
        let mut made = Catalogue::open(&fresh).unwrap();
        made.begin_operation("fresh", "", Timestamp::UNIX_EPOCH).unwrap();
        made.into_one_file().unwrap();
        drop(made);
        fs::set_permissions(&fresh, Permissions::from_mode(0o644)).unwrap();
        Self { dir, place, fresh, is_torn }
    }

    fn swap(&self, step: Step<'_>) -> Result<Option<PathBuf>> {
        // SQLite makes of a log what it can even where it cannot open its file.
        let previous = (!self.is_torn).then(|| Catalogue::open(&self.place).unwrap());
        swap_by(&self.fresh, &self.place, previous, Timestamp::UNIX_EPOCH, step)
    }

    /// What of the old one must be somewhere: all of it, whether it makes sense or not.
    fn old_bytes(&self) -> Files {
        let mut all = files(self.dir.path());
        all.remove("catalogue.db-shm");
        all
    }
}

/// Returns which catalogue it is.
fn told(place: &Path) -> String {
    let catalogue = Catalogue::open(place).unwrap();
    catalogue.prove_sound().unwrap();
    let mut all = catalogue.operations(9).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).operation
}

/// Has the step of this number fail, if there is one.
fn failing(at: usize, count: &mut usize) -> impl FnMut(&'static str) -> io::Result<()> {
    move |_| {
        *count += 1;
        if *count == at + 1 { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

#[test]
fn whatever_step_of_a_swap_fails_what_was_there_is_in_its_place() {
    for is_torn in [false, true] {
        let (mut failed, mut copied) = (0, 0);
        for at in 0.. {
            let (scene, mut count) = (Scene::new(is_torn), 0);
            let before = scene.old_bytes();
            let done = scene.swap(&mut failing(at, &mut count));
            let left = files(scene.dir.path());
            let aside = left.keys().filter(|name| name.starts_with("catalogue.db.1970")).count();
            match done {
                Ok(put_aside) => {
                    assert_eq!(told(&scene.place), "fresh", "{at}");
                    let put_aside = put_aside.unwrap();
                    assert_eq!(aside, if is_torn { 3 } else { 1 }, "{:?}", left.keys());
                    match is_torn {
                        false => assert_eq!(told(&put_aside), "old"),
                        true => {
                            assert!(fs::read(&put_aside).unwrap() == before["catalogue.db"]);
                            assert_eq!(
                                fs::read(with(&put_aside, "-wal")).unwrap(),
                                before["catalogue.db-wal"]
                            );
                        }
                    }
                    assert_eq!(fs::metadata(&scene.place).unwrap().mode() & 0o777, 0o600);
                    if count <= at {
                        break;
                    }
                    // A file system that has no second names was a reason to copy.
                    copied += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("os error 5"), "{error}");
                    assert_eq!(aside, 0, "{at}: {:?}", left.keys());
                    match is_torn {
                        false => assert_eq!(told(&scene.place), "old", "{at}"),
                        true => assert!(scene.old_bytes() == before, "{at}"),
                    }
                    failed += 1;
                }
            }
        }
        let least = if is_torn { (6, 3) } else { (6, 1) };
        assert!(failed >= least.0 && copied == least.1, "{failed} {copied}");
    }
}

#[test]
fn a_file_that_can_neither_be_linked_nor_copied_stays_where_it_is() {
    for is_torn in [false, true] {
        let scene = Scene::new(is_torn);
        let before = scene.old_bytes();
        let refuse = |what: &str| match what {
            "link" | "copy" => Err(io::Error::from_raw_os_error(1)),
            _ => Ok(()),
        };
        scene.swap(&mut { refuse }).unwrap_err();
        match is_torn {
            false => assert_eq!(told(&scene.place), "old"),
            true => assert!(scene.old_bytes() == before),
        }
    }
}

#[test]
fn wherever_a_swap_is_killed_one_of_the_two_is_in_the_place_or_all_of_a_torn_one_under_some_name() {
    for (is_torn, links) in [(false, true), (false, false), (true, true), (true, false)] {
        let scene = Scene::new(is_torn);
        let before = scene.old_bytes();
        let mut seen: Vec<Files> = Vec::new();
        let directory = scene.dir.path();
        // What has the catalogue open loses its locks by that, which nobody here asks for.
        let mut look = |what: &'static str| {
            seen.push(files(directory));
            if what == "link" && !links { Err(io::Error::from_raw_os_error(95)) } else { Ok(()) }
        };
        scene.swap(&mut look).unwrap();
        seen.push(files(directory));
        assert!(seen.len() > 6, "{}", seen.len());
        let mut found = Vec::new();
        for state in &seen {
            let then = tempfile::tempdir().unwrap();
            put(state, then.path());
            let place = then.path().join("catalogue.db");
            let is_there = |(name, bytes): (&String, &Vec<u8>)| {
                let end = name.strip_prefix("catalogue.db").unwrap();
                let aside = format!("catalogue.db.19700101T000000Z{end}");
                [name, &aside].iter().any(|name| state.get(*name) == Some(bytes))
            };
            match is_torn && state["catalogue.db"] == before["catalogue.db"] {
                true => assert!(before.iter().all(is_there), "{:?}", state.keys()),
                false => found.push(told(&place)),
            }
            if is_torn && found.last().is_some_and(|found| found == "fresh") {
                let mut aside: Vec<&String> = state.keys().filter(|name| name.contains(".1970")).collect();
                aside.sort();
                assert_eq!(aside.len(), 3, "{aside:?}");
            }
        }
        found.dedup();
        let all = if is_torn { vec!["fresh"] } else { vec!["old", "fresh"] };
        assert_eq!(found, all);
    }
}

#[test]
fn a_catalogue_that_others_have_open_is_not_swapped() {
    let scene = Scene::new(false);
    let other = Catalogue::open(&scene.place).unwrap();
    let error = scene.swap(&mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    assert_eq!(other.operations(9).unwrap().len(), 1);
    assert_eq!(told(&scene.place), "old");
    drop(other);
    scene.swap(&mut |_| Ok(())).unwrap();
    assert_eq!(told(&scene.place), "fresh");
}

#[test]
fn a_log_beside_nothing_is_put_aside_and_a_name_that_is_taken_stays_as_it_is() {
    let scene = Scene::new(false);
    fs::remove_file(&scene.place).unwrap();
    let taken = scene.dir.path().join("catalogue.db.19700101T000000Z");
    fs::write(&taken, "of an earlier one").unwrap();
    let log = fs::read(with(&scene.place, "-wal")).unwrap();
    let aside = swap(&scene.fresh, &scene.place, None, Timestamp::UNIX_EPOCH).unwrap().unwrap();
    assert_eq!(told(&scene.place), "fresh");
    assert!(fs::read(with(&aside, "-wal")).unwrap() == log);
    assert_eq!((aside.exists(), fs::read(&taken).unwrap()), (false, b"of an earlier one".to_vec()));
    let newer = scene.dir.path().join("catalogue.db.19700101T000000Z.11");
    for name in ["19700101T000000Z.9", "19700101T000000Z.11", "19700101T000000Z.12-wal", "old", "20260101"] {
        fs::write(scene.dir.path().join(format!("catalogue.db.{name}")), "").unwrap();
    }
    assert_eq!(newest_aside(&scene.place), Some((newer, Timestamp::UNIX_EPOCH)));
}

#[test]
fn what_a_killed_recovery_left_beside_the_catalogue_goes_with_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("new/catalogue.db");
    let killed = scratch_beside(&place).unwrap().keep();
    fs::write(killed.join("copy0.db"), "half").unwrap();
    let other = dir.path().join("new/.pc-switcher-recover-notes");
    fs::write(&other, "a file").unwrap();
    let next = scratch_beside(&place).unwrap();
    assert!(!killed.exists() && other.exists() && next.path().parent() == place.parent());
}
