use std::time::Instant;

use pc_switcher_contract::SnapshotKind;

use super::super::btrfs::KernelBtrfs;
use super::super::btrfs::image::Image;
use super::*;

fn request(dir: &Path, session: &str) -> TakeSet {
    TakeSet {
        session: session.parse().unwrap(),
        stamp: "20251115T120000Z".parse().unwrap(),
        kind: SnapshotKind::PreSync,
        snapshot_dir: BytePath::from(dir),
        subvolumes: vec![],
    }
}

fn source(image: &Image, name: &str) -> Source {
    Source { name: name.parse().unwrap(), mount_point: image.top().join(name) }
}

#[test]
fn a_set_lies_at_its_flat_names_read_only_and_of_one_instant() {
    let Some(image) = Image::make(512) else { return };
    image.create("@");
    image.create("@home");
    fs::write(image.top().join("@home/f"), "x").unwrap();
    let dir = image.top().join("snaps");
    let began = Instant::now();
    let sources = [source(&image, "@"), source(&image, "@home")];
    let set = take(&KernelBtrfs, &"laptop".parse().unwrap(), &request(&dir, "abc12345"), &sources).unwrap();
    println!("set of two: {:?}", began.elapsed());
    assert!(set.consistent);
    assert_eq!(set.members[1].path.as_path(), dir.join("@home-presync-20251115T120000Z-abc12345"));
    assert!(fs::write(dir.join("@home-presync-20251115T120000Z-abc12345/g"), "y").is_err());
    assert_eq!(check(&KernelBtrfs, &set), Ok(()));
    assert!(!dir.join(OURS).exists(), "the nursery is gone");
    assert!(take(&KernelBtrfs, &"laptop".parse().unwrap(), &request(&dir, "abc12345"), &sources).is_err());
    assert_eq!(check(&KernelBtrfs, &set), Ok(()), "a second set of that name does not harm the first");
    remove(&KernelBtrfs, &set).unwrap();
    assert_eq!(entries(&dir).len(), 0);
    assert!(check(&KernelBtrfs, &set).unwrap_err().contains("is gone"));
}

#[test]
fn a_snapshot_that_was_opened_and_edited_is_found() {
    let Some(image) = Image::make(512) else { return };
    image.create("@");
    let dir = image.top().join("snaps");
    let set =
        take(&KernelBtrfs, &"desk".parse().unwrap(), &request(&dir, "abc12345"), &[source(&image, "@")])
            .unwrap();
    let path = set.members[0].path.as_path().to_owned();
    KernelBtrfs.set_readonly(&path, false).unwrap();
    assert!(check(&KernelBtrfs, &set).unwrap_err().contains("writable"));
    fs::write(path.join("edit"), "x").unwrap();
    KernelBtrfs.sync(&path).unwrap();
    KernelBtrfs.set_readonly(&path, true).unwrap();
    assert!(check(&KernelBtrfs, &set).unwrap_err().contains("changed"));
}

#[test]
fn what_a_dead_run_left_goes_and_foreign_things_stay() {
    let Some(image) = Image::make(512) else { return };
    image.create("@");
    let dir = image.top().join("snaps");
    let dead = dir.join(".pc-switcher/tmp/deadbeef/0");
    fs::create_dir_all(&dead).unwrap();
    let name = "@-presync-20251114T120000Z-deadbeef";
    KernelBtrfs.snapshot(&image.top().join("@"), &dead, OsStr::new(name)).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    take(&KernelBtrfs, &"desk".parse().unwrap(), &request(&dir, "abc12345"), &[source(&image, "@")]).unwrap();
    assert!(!dead.exists() && dir.join("mine").exists());
}
