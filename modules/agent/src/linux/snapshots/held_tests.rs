//! Directories of sets of a real image, handed over.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::tests::request as take_request;
use super::*;
use crate::linux::btrfs::image::Image;
use crate::typed::held::{listen, receive};

/// A home with a mount and a subvolume in it, of which there is a set; the letter was changed since.
struct Scene {
    image: Image,
    set: SnapshotSet,
}

impl Scene {
    fn make() -> Option<Self> {
        let mut image = Image::make(256)?;
        ["@held-home", "@snapshots", "@held-home/vm"].iter().for_each(|name| image.create(name));
        let home = image.top().join("@held-home");
        for name in ["alice", "closed"] {
            fs::create_dir(home.join(name)).unwrap();
            fs::write(home.join(name).join("letter"), "before").unwrap();
        }
        fs::set_permissions(home.join("closed"), PermissionsExt::from_mode(0o700)).unwrap();
        fs::create_dir(home.join("alice/usb")).unwrap();
        let usb = image.tmpfs("top/@held-home/alice/usb");
        fs::write(usb.join("live"), "x").unwrap();
        fs::set_permissions(image.dir(), PermissionsExt::from_mode(0o755)).unwrap();
        let dir = image.top().join("@snapshots");
        let store = Store::new(&KernelBtrfs, &dir);
        let request = take_request(store.dir(), "abc12345", &["@held-home"]);
        let set = set::take(
            &store,
            &Mounts::read().unwrap(),
            "laptop".parse().unwrap(),
            &request,
            &Said::default(),
        );
        fs::write(home.join("alice/letter"), "after").unwrap();
        Some(Self { set: set.unwrap().0, image })
    }

    fn home(&self) -> PathBuf {
        self.image.top().join("@held-home")
    }

    fn hand_over(&self, uid: u32, paths: &[&Path], socket: &str) -> Vec<HeldDirectory> {
        let dir = self.image.top().join("@snapshots");
        let request = HeldRequest {
            snapshot_dir: dir.as_path().into(),
            id: self.set.id(),
            paths: paths.iter().map(|path| BytePath::from(*path)).collect(),
            uid,
            socket: socket.to_owned(),
        };
        Store::new(&KernelBtrfs, &dir).hand_over(&Mounts::read().unwrap(), &request).unwrap()
    }
}

#[test]
fn a_directory_of_a_set_is_read_as_it_was_and_what_no_set_holds_is_named() {
    let Some(scene) = Scene::make() else { return };
    let (home, (socket, listener)) = (scene.home(), listen().unwrap());
    let found = scene.hand_over(0, &[&home, &home.join("gone")], &socket);
    let said: Vec<(PathBuf, bool)> =
        found.iter().map(|one| (one.path.as_path().to_owned(), one.lacking.is_none())).collect();
    let wanted = [("", true), ("gone", false), ("alice/usb", false), ("vm", false)];
    assert_eq!(said.len(), wanted.len(), "{found:?}");
    for (name, is_held) in wanted {
        let path = if name.is_empty() { home.clone() } else { home.join(name) };
        assert!(said.contains(&(path, is_held)), "{name}: {found:?}");
    }
    let why = |name: &str| {
        let path = BytePath::from(home.join(name).as_path());
        found.iter().find(|one| one.path == path).unwrap().lacking.clone().unwrap()
    };
    assert_eq!(why("alice/usb"), "it lies on tmpfs");
    assert!(why("vm").contains("hold"), "{}", why("vm"));
    let held = receive(&listener, 1).unwrap().remove(0);
    let below = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    assert_eq!(fs::read_to_string(below.join("alice/letter")).unwrap(), "before");
    assert!(below.join("alice/usb").read_dir().unwrap().next().is_none(), "it was never part of it");
}

#[test]
fn nobody_is_handed_what_is_closed_to_them() {
    let Some(scene) = Scene::make() else { return };
    let (home, (socket, _listener)) = (scene.home(), listen().unwrap());
    let found = scene.hand_over(65_534, &[&home.join("alice"), &home.join("closed")], &socket);
    assert_eq!(found[0].lacking, None);
    assert!(found[1].lacking.as_ref().is_some_and(|why| why.contains("denied")), "{found:?}");
}
