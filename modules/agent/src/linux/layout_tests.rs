//! Layouts of real images, of a model, and of plain directories.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::model::ModelBtrfs;

fn request(folders: &[&Path], subvolumes: &[&str], snapshot_dir: &Path) -> LayoutRequest {
    LayoutRequest {
        folders: folders.iter().map(|path| BytePath::from(*path)).collect(),
        subvolumes: subvolumes.iter().map(|name| name.parse().unwrap()).collect(),
        snapshot_dir: snapshot_dir.into(),
        nested: Vec::new(),
    }
}

fn text(name: &Option<SubvolumeName>) -> &str {
    name.as_ref().map_or("-", |name| name.as_str())
}

#[test]
fn folders_that_cannot_be_mirrored_are_all_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir(real.join("real")).unwrap();
    fs::write(real.join("file"), "").unwrap();
    symlink(real.join("real"), real.join("link")).unwrap();
    symlink("nowhere", real.join("dangling")).unwrap();
    let names = ["link", "file", "dangling", "real/../file"].map(|name| real.join(name));
    let folders: Vec<&Path> = names.iter().map(|path| path.as_path()).collect();
    let unfit = layout(&request(&folders, &[], &real.join("snaps"))).unwrap().unfit_folders;
    let parts = ["leads through a symbolic link; name `", "is not a directory", "leads nowhere", "plain"];
    for ((path, why), (name, part)) in unfit.iter().zip(names.iter().zip(parts)) {
        assert!(why.contains(part) && path.as_path() == name, "{path}: {why}");
    }
    assert_eq!(unfit.len(), 4);
    let gone = real.join("gone");
    assert_eq!(sort_out(&[gone.as_path().into()]).missing_folders, [gone.as_path().into()]);
}

#[test]
fn a_folder_without_btrfs_is_one_part_without_a_subvolume() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let mounts = Mounts::parse(b"20 1 8:1 / / rw - ext4 /dev/vda rw\n");
    let model_root = tempfile::tempdir().unwrap();
    let model = ModelBtrfs::new(model_root.path());
    let layout = layout_on(&model, &mounts, &request(&[&root], &["@"], &root.join("snaps"))).unwrap();
    let part = &layout.parts[0];
    assert_eq!(
        (part.fs_type.as_str(), part.fs_uuid.as_str(), part.subvolume_uuid.as_str()),
        ("ext4", "8:1", "")
    );
    assert!(part.is_empty && part.subvolume.is_none());
    assert_eq!(layout.missing_subvolumes, ["@".parse().unwrap()]);
    assert!(layout.snapshot_fs_uuid.is_empty() && !layout.snapshot_dir_exists);
}

#[test]
fn the_holding_subvolume_joins_the_requested_ones() {
    let dir = tempfile::tempdir().unwrap();
    let top = fs::canonicalize(dir.path()).unwrap();
    let model = ModelBtrfs::new(&top);
    for name in ["@", "@home", "@snapshots"] {
        model.create(&top.join(name));
    }
    fs::create_dir(top.join("@home/alice")).unwrap();
    model.create(&top.join("@home/alice/vm"));
    let table = format!("20 1 8:1 / / rw - ext4 x rw\n21 20 0:30 / {} rw - btrfs x rw\n", top.display());
    let request = request(&[&top.join("@home/alice")], &["@", "@gone"], &top.join("@snapshots"));
    let layout = layout_on(&model, &Mounts::parse(table.as_bytes()), &request).unwrap();
    let part = &layout.parts[0];
    assert_eq!((text(&part.subvolume), &part.inside), ("@home", &"alice".into()));
    assert_eq!((part.nested.as_slice(), part.is_empty), (["vm".into()].as_slice(), false));
    let names: Vec<_> = layout.subvolumes.iter().map(|fact| fact.name.as_str()).collect();
    assert_eq!(names, ["@", "@home"]);
    assert_eq!(layout.missing_subvolumes, ["@gone".parse().unwrap()]);
    assert!(layout.snapshot_dir_own_subvolume && layout.snapshot_dir_is_open);
    assert_eq!(layout.snapshot_fs_uuid, part.fs_uuid);
    fs::set_permissions(top.join("@snapshots"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let layout = layout_on(&model, &Mounts::parse(table.as_bytes()), &request).unwrap();
    assert_eq!(layout.snapshot_dir_is_open, !rustix::process::geteuid().is_root());
}

#[test]
fn mounts_below_a_folder_are_parts_or_are_named() {
    let Some(mut image) = Image::make(256) else { return };
    for name in ["@home", "@alice", "@hidden"] {
        image.create(name);
    }
    image.create("@home/nested");
    fs::create_dir_all(image.top().join("@home/alice")).unwrap();
    for dir in ["again", "tmp", "real"] {
        fs::create_dir_all(image.top().join("@home").join(dir)).unwrap();
    }
    let home = image.bind("top/@home", "home");
    let alice = image.bind("top/@alice", "home/alice");
    let again = image.bind("top/@home/real", "home/again");
    let tmp = image.tmpfs("home/tmp");
    let layout = layout(&request(&[&home], &["@hidden"], &image.dir().join("snaps"))).unwrap();

    let parts: Vec<_> = layout.parts.iter().map(|part| (part.root.clone(), text(&part.subvolume))).collect();
    assert_eq!(parts, [(home.as_path().into(), "@home"), (alice.as_path().into(), "@alice")]);
    assert_eq!(layout.parts[0].nested, ["nested".into()]);
    assert!(layout.parts[1].is_empty && !layout.parts[0].is_empty);
    let foreign: Vec<_> = layout.foreign.iter().map(|one| (one.path.clone(), one.fs_type.as_str())).collect();
    assert_eq!(
        foreign,
        [(again.as_path().into(), "btrfs, bound from the same folder"), (tmp.as_path().into(), "tmpfs")]
    );
    let mut names: Vec<_> = layout.subvolumes.iter().map(|fact| fact.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["@alice", "@hidden", "@home"]);
    assert_eq!(layout.subvolumes[0].mount_point, image.top().join("@hidden").as_path().into());
    assert!(layout.snapshot_fs_uuid.is_empty(), "the directory of the mount points is no btrfs");
}

#[test]
fn a_subvolume_that_is_not_mounted_is_missing_but_known() {
    let Some(mut image) = Image::make(256) else { return };
    image.create("@");
    image.create("@aside");
    let root = image.bind("top/@", "root");
    let mounts = Mounts::read().unwrap();
    // The same table without the mount of the top level.
    let top = BytePath::from(image.top());
    let only = Mounts::of(mounts.visible().filter(|mount| mount.point != top).cloned().collect());
    let layout = layout_on(&KernelBtrfs, &only, &request(&[&root], &["@aside"], &root.join("s"))).unwrap();
    assert_eq!(layout.missing_subvolumes, ["@aside".parse().unwrap()]);
    assert!(layout.known_subvolumes.contains(&"@aside".parse().unwrap()));
    assert_eq!(layout.subvolumes[0].mount_point, root.as_path().into());
    assert!(!layout.snapshot_fs_uuid.is_empty() && !layout.snapshot_dir_exists);
}

#[test]
fn a_nested_root_stands_as_what_is_there() {
    let Some(mut image) = Image::make(256) else { return };
    image.create("@home");
    let top = image.top().to_owned();
    fs::create_dir_all(top.join("@home/alice/plain")).unwrap();
    for name in ["vm", "vm/deep", "hidden", "frozen", ".snapshots"] {
        image.create(&format!("@home/alice/{name}"));
    }
    KernelBtrfs.snapshot(&top.join("@home/alice/vm"), &top.join("@home/alice"), "copy".as_ref()).unwrap();
    for name in ["copy", "frozen"] {
        KernelBtrfs.set_readonly(&top.join("@home/alice").join(name), true).unwrap();
    }
    fs::write(top.join("@home/alice/file"), "").unwrap();
    symlink("vm", top.join("@home/alice/link")).unwrap();
    let home = image.bind("top/@home", "home");
    image.tmpfs("home/alice/hidden");
    let names = ["vm", "vm/deep", "plain", "none", "none/deep", "file", "link/deep", "hidden"];
    let nested = names.iter().map(|name| home.join("alice").join(name).as_path().into()).collect();
    let request = LayoutRequest { nested, ..request(&[&home], &[], &image.dir().join("snaps")) };
    let layout = layout(&request).unwrap();

    use Standing::{Directory, File, Folder, Missing, Nested, Other};
    let standing: Vec<Standing> = layout.parts.iter().map(|part| part.standing).collect();
    assert_eq!(standing, [Folder, Nested, Nested, Directory, Missing, Missing, File, Other, Other]);
    let place =
        |at: usize| (text(&layout.parts[at].subvolume).to_owned(), layout.parts[at].inside.to_string());
    assert_eq!(place(2), ("@home%2Falice%2Fvm%2Fdeep".into(), String::new()));
    assert_eq!(place(3), ("@home".into(), "alice/plain".into()));
    let closed: Vec<(String, &str)> =
        layout.parts[0].closed.iter().map(|(path, why)| (path.to_string(), why.as_str())).collect();
    let wanted = [
        ("alice/.snapshots", "it holds snapshots"),
        ("alice/copy", "a read-only snapshot"),
        ("alice/frozen", "it is read-only; `btrfs property set -ts` with `ro false` changes that"),
        ("alice/hidden", "something is mounted over it"),
    ];
    let closed: Vec<(&str, &str)> = closed.iter().map(|(path, why)| (path.as_str(), *why)).collect();
    assert_eq!(closed[..3], wanted[..3]);
    assert_eq!((closed.len(), closed[3].0), (4, wanted[3].0), "{closed:?}");
    let held: Vec<&str> = layout.subvolumes.iter().map(|fact| fact.name.as_str()).collect();
    assert_eq!(held, ["@home", "@home%2Falice%2Fvm", "@home%2Falice%2Fvm%2Fdeep"]);
    assert_eq!(layout.parts[4].fs_uuid, layout.parts[0].fs_uuid);
}
