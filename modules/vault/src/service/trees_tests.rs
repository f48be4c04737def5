//! Trees of the last snapshot that are taken again, held against those of a backup that takes none.

use std::fs;
use std::path::{Path, PathBuf};

use super::crash_tests::opened;
use super::world::{DEAD, World, back_up, noise, stage};
use super::*;
use crate::engine::Quiet;
use crate::format::index::IndexFile;
use crate::format::{Id, NodeKind};
use crate::store::{Kind, Store};

/// Numbers by a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

fn docs(world: &World) -> PathBuf {
    world.home.path().join("docs")
}

fn backed_up(world: &mut World) -> TrackedReport {
    world.hour += 1;
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    service.back_up_tracked(&[], None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
}

/// Returns the tree of the tracked directory in the newest snapshot, and what it names.
fn newest(world: &World) -> (Id, Vec<PathBuf>) {
    let repo = opened(&world.store);
    let mut tree = repo.snapshots().unwrap().pop().unwrap().1.tree;
    for name in docs(world).components().skip(1) {
        let nodes = repo.tree(tree).unwrap().nodes;
        tree = nodes.into_iter().find(|node| node.name == name.as_os_str()).unwrap().subtree.unwrap();
    }
    let (mut named, mut todo) = (Vec::new(), vec![(PathBuf::new(), tree)]);
    while let Some((path, tree)) = todo.pop() {
        for node in repo.tree(tree).unwrap().nodes {
            let path = path.join(&node.name);
            todo.extend(node.subtree.map(|tree| (path.clone(), tree)));
            assert!(node.kind != NodeKind::Dir || node.subtree.is_some());
            named.push(path);
        }
    }
    named.sort();
    (tree, named)
}

/// As [`newest`], of a backup that takes no tree of the one before.
fn anew(world: &mut World) -> (Id, Vec<PathBuf>) {
    world.hour += 1;
    world.now(|service| {
        service.catalogue.forget_trees("local")?;
        service.catalogue.need_snapshot("local")?;
        back_up(service)
    });
    newest(world)
}

fn known_trees(world: &World) -> usize {
    let service = world.service(world.state.path(), world.store.clone(), DEAD);
    let all = docs(world);
    let directory = service.catalogue.directories().unwrap().remove(0);
    let mut count = 0;
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        count += usize::from(service.catalogue.tree("local", &directory, &name).unwrap().is_some());
        let inside = fs::read_dir(all.join(&name)).unwrap().map(|entry| entry.unwrap());
        todo.extend(
            inside.filter(|one| one.file_type().unwrap().is_dir()).map(|one| name.join(one.file_name())),
        );
    }
    count
}

/// Changes something somewhere.
fn change(root: &Path, dice: &mut Dice, seed: u64) {
    let names = ["a", "a-b", "a\u{1}", "b", "ba"];
    let mut path = root.to_owned();
    for _ in 0..=dice.below(3) {
        path.push(names[dice.below(names.len() as u64) as usize]);
    }
    match dice.below(6) {
        0 => fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap_or_default(),
        1 => {
            let to = root.join(names[dice.below(names.len() as u64) as usize]);
            fs::rename(&path, to).unwrap_or_default();
        }
        _ => {
            fs::create_dir_all(path.parent().unwrap()).unwrap_or_default();
            fs::write(&path, noise(200, seed)).unwrap_or_default();
        }
    }
}

#[test]
fn a_snapshot_that_takes_trees_again_is_the_one_that_takes_none() {
    for seed in 1_u64..7 {
        let mut world = World::new();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let root = docs(&world);
        for name in ["a/a/one", "a/b/two", "b/three", "b/ba/a/four"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        backed_up(&mut world);
        for step in 0..14 {
            for _ in 0..=dice.below(4) {
                change(&root, &mut dice, seed * 1000 + step);
            }
            // A content that the vault lost keeps its directories from being taken for whole.
            if dice.below(4) == 0 {
                world.now(|service| {
                    service.catalogue.forget_location("local", Id::of(b"b/ba/a/four"))?;
                    service.catalogue.need_snapshot("local")
                });
            }
            if fs::read_dir(&root).unwrap().next().is_none() {
                fs::write(root.join("last"), "").unwrap();
            }
            let report = backed_up(&mut world);
            let what = format!("seed {seed}, step {step}");
            assert!(report.backup.troubles.is_empty(), "{what}: {report:?}");
            let taken = newest(&world);
            assert_eq!(taken, anew(&mut world), "{what}");
        }
    }
}

#[test]
fn of_an_unchanged_directory_the_tree_is_taken_and_of_a_changed_one_those_on_the_way() {
    let mut world = World::new();
    let root = docs(&world);
    for name in ["a/a/one", "a/b/two", "b/three"] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
    backed_up(&mut world);
    assert_eq!(known_trees(&world), 5, "the tracked directory and the four in it");
    fs::write(root.join("a/b/two"), "changed").unwrap();
    world.hour += 1;
    world.now(|service| {
        stage(service)?;
        // It is noted when it is recorded, which a backup does that comes to no snapshot.
        let facts = |path: &Path| super::stage::facts_of(path, &fs::symlink_metadata(path).unwrap()).unwrap();
        let item = service.catalogue.next_staged_operation()?.unwrap();
        let path = root.join(&item.name);
        let item = crate::catalogue::StagedItem { facts: facts(&path), ..item };
        let arrived = crate::catalogue::Arrived { content: Id::of(b"changed"), item, stored: Vec::new() };
        service.catalogue.record(&[arrived], (service.around.clock)())?;
        service.catalogue.forget_stale_trees()
    });
    assert_eq!(known_trees(&world), 2, "`a/a` and `b`");
}

#[test]
fn what_is_noted_of_a_directory_is_what_the_next_snapshot_has_of_it() {
    let mut world = World::new();
    let root = docs(&world);
    for name in ["a/one", "b/two", "three"] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
    backed_up(&mut world);
    let db = rusqlite::Connection::open(world.state.path().join("vault/catalogue.db")).unwrap();
    let sql =
        "UPDATE trees SET tree_id = (SELECT tree_id FROM trees WHERE place = x'62') WHERE place = x'61'";
    assert_eq!(db.execute(sql, []).unwrap(), 1);
    drop(db);
    fs::write(root.join("three"), "changed").unwrap();
    backed_up(&mut world);
    let expected = ["a", "a/two", "b", "b/two", "three"].map(PathBuf::from);
    assert_eq!(newest(&world).1, expected, "so nobody looked into `a`");
    assert_eq!(anew(&mut world).1[1], Path::new("a/one"));
}

#[test]
fn a_tree_is_not_taken_again_where_an_index_is_gone_that_named_what_is_in_it() {
    let mut world = World::new();
    let root = docs(&world);
    for name in ["a/one", "b/two"] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), noise(5_000, name.len() as u64 * 7)).unwrap();
    }
    backed_up(&mut world);
    let lost = Id::of(&fs::read(root.join("a/one")).unwrap());
    // Somebody wrote the index anew, without a content of which they found the pack gone.
    let repo = opened(&world.store);
    let mut left = IndexFile::default();
    for (name, file) in repo.index_files().unwrap() {
        left.packs.extend(file.packs);
        world.store.delete(Kind::Index, &name).unwrap();
    }
    let blobs = |file: &IndexFile| file.packs.iter().map(|pack| pack.blobs.len()).sum::<usize>();
    let all = blobs(&left);
    left.packs.iter_mut().for_each(|pack| pack.blobs.retain(|blob| blob.id != lost));
    assert_eq!(blobs(&left), all - 1);
    repo.save(Kind::Index, &left).unwrap();
    fs::write(root.join("b/two"), "changed").unwrap();
    let report = backed_up(&mut world);
    let said = report.backup.warnings.join("\n");
    assert!(said.contains("a/one") && report.backup.incomplete, "{said}");
    assert!(!newest(&world).1.contains(&PathBuf::from("a/one")), "{:?}", newest(&world).1);
}
