//! What was forecast against what was freed, on a real image.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::tests::request;
use super::*;
use crate::linux::btrfs::image::Image;
use crate::proto::{Gain, decode};

const DATA: u64 = 1;

pub(super) struct Scene {
    pub(super) image: Image,
    pub(super) taken: Vec<SnapshotSet>,
}

pub(super) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Scene {
    pub(super) fn make() -> Option<Self> {
        let image = Image::make(512)?;
        ["@gain-home", "@gain-other", "@snapshots"].iter().for_each(|name| image.create(name));
        Some(Self { image, taken: Vec::new() })
    }

    pub(super) fn home(&self) -> std::path::PathBuf {
        self.image.top().join("@gain-home")
    }

    pub(super) fn take(&mut self) {
        let n = self.taken.len();
        let dir = self.image.top().join("@snapshots");
        // What lies beside the sets is not what is forecast, so there are no packages to be listed.
        let store = Store { root: dir.clone(), ..Store::new(&KernelBtrfs, &dir) };
        let mut request = request(&dir, &format!("{n:08x}"), &["@gain-home"]);
        request.stamp = format!("20251115T12{:02}{:02}Z", n / 60, n % 60).parse().unwrap();
        let taken = set::take(
            &store,
            &Mounts::read().unwrap(),
            "laptop".parse().unwrap(),
            &request,
            &Said::default(),
        );
        self.taken.push(taken.unwrap().0);
    }

    pub(super) fn forecast(&self, set: &SnapshotSet) -> u64 {
        let (call, frames) = Call::for_test(Vec::new());
        let dir = self.image.top().join("@snapshots");
        Store::new(&KernelBtrfs, &dir).gains(&Mounts::read().unwrap(), &call).unwrap();
        drop(call);
        let bytes: Vec<u8> = frames.try_iter().flatten().collect();
        let mut input = std::io::Cursor::new(bytes);
        while let Ok(Some(frame)) = crate::frame::read(&mut input) {
            let gain: Gain = decode(&frame.body).unwrap();
            if gain.session == set.session {
                return gain.data_bytes;
            }
        }
        panic!("nothing is said of {}", set.id())
    }

    pub(super) fn sync(&self) {
        KernelBtrfs.sync(self.image.top()).unwrap();
    }

    pub(super) fn holdings(&self) -> Holdings {
        let (call, _frames) = Call::for_test(Vec::new());
        let dir = self.image.top().join("@snapshots");
        let names = ["@gain-home".parse().unwrap()];
        Store::new(&KernelBtrfs, &dir).holdings(&Mounts::read().unwrap(), &names, &call).unwrap()
    }

    fn used(&self) -> u64 {
        KernelBtrfs.sync(self.image.top()).unwrap();
        let slots = KernelBtrfs.space(self.image.top()).unwrap();
        slots.iter().filter(|slot| slot.flags & DATA != 0).map(|slot| slot.used_bytes).sum()
    }

    /// Removes a set and returns how much data that freed.
    pub(super) fn freed(&self, set: &SnapshotSet) -> u64 {
        let before = self.used();
        let dir = self.image.top().join("@snapshots");
        Store::new(&KernelBtrfs, &dir).delete(&set.id(), || Ok(Vec::new())).unwrap();
        let done = Command::new("btrfs").args(["subvolume", "sync"]).arg(self.image.top()).output().unwrap();
        assert!(done.status.success());
        before - self.used()
    }
}

pub(super) fn reflink(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--reflink=always").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn what_is_forecast_is_what_removing_a_set_frees() {
    let Some(mut scene) = Scene::make() else { return };
    let home = scene.home();
    let file = |name: &str| home.join(name);
    let write = |name: &str, seed: u8, mib: usize| fs::write(file(name), noise(seed, mib << 20)).unwrap();
    let sync = || KernelBtrfs.sync(&home).unwrap();
    write("stays", 1, 3);
    write("rewritten", 2, 2);
    write("deleted", 3, 5);
    write("partly", 4, 4);
    write("appended", 5, 1);
    write("copied", 6, 2);
    write("copied-away", 7, 3);
    fs::write(file("tiny"), "x").unwrap();
    sync();
    scene.take();
    // Everything of the first set is held by the live tree still.
    assert_eq!(scene.forecast(&scene.taken[0]), 0);
    write("rewritten", 12, 2);
    fs::remove_file(file("deleted")).unwrap();
    let partly = fs::File::options().write(true).open(file("partly")).unwrap();
    partly.write_all_at(&noise(14, 1 << 20), 1 << 20).unwrap();
    let mut appended = fs::File::options().append(true).open(file("appended")).unwrap();
    std::io::Write::write_all(&mut appended, &noise(15, 1 << 20)).unwrap();
    reflink(&file("copied"), &file("copied-here"));
    fs::remove_file(file("copied")).unwrap();
    reflink(&file("copied-away"), &scene.image.top().join("@gain-other/kept"));
    fs::remove_file(file("copied-away")).unwrap();
    write("short-lived", 16, 6);
    sync();
    scene.take();
    fs::remove_file(file("short-lived")).unwrap();
    write("rewritten", 22, 2);
    // Compressed extents are smaller on the disk than the file.
    let text = "a line that is the same over and over again\n".repeat(60_000);
    let zip =
        Command::new("btrfs").args(["property", "set"]).arg(&home).args(["compression", "zstd"]).status();
    assert!(zip.unwrap().success());
    fs::write(file("compressed"), &text).unwrap();
    sync();
    scene.take();
    fs::remove_file(file("compressed")).unwrap();
    sync();
    let mut sums = Vec::new();
    // The middle first, then both of its neighbours: each time others hold what they held together.
    for n in [1, 0, 2] {
        let set = &scene.taken[n];
        let (forecast, freed) = (scene.forecast(set), scene.freed(set));
        assert_eq!(forecast, freed, "set {n}");
        sums.push(forecast >> 10);
    }
    // 6 MiB that lived shortly and 2 MiB that were written twice; then all that the first set alone held.
    assert_eq!(sums[0], 8 << 10);
    assert_eq!(sums[1], (2 + 5) << 10, "rewritten and deleted; `partly` is held as a whole by its rest");
    assert!(sums[2] > 0 && sums[2] < 1024, "compressed: {sums:?}");
}

#[test]
fn what_a_set_that_came_from_another_directory_holds_is_forecast_as_of_any() {
    let Some(mut scene) = Scene::make() else { return };
    let (home, top) = (scene.home(), scene.image.top().to_owned());
    // Enough for a tree of several leaves, whose root alone is written anew with a snapshot.
    for n in 0..500 {
        fs::write(home.join(format!("a file with a long name, number {n}")), "x".repeat(500)).unwrap();
    }
    fs::write(home.join("deleted"), noise(1, 8 << 20)).unwrap();
    scene.sync();
    fs::rename(top.join("@snapshots"), top.join("@young")).unwrap();
    scene.image.create("@snapshots");
    scene.take();
    fs::rename(top.join("@snapshots"), top.join("@before")).unwrap();
    fs::rename(top.join("@young"), top.join("@snapshots")).unwrap();
    fs::remove_file(home.join("deleted")).unwrap();
    fs::write(home.join("new"), noise(2, 2 << 20)).unwrap();
    scene.sync();
    scene.take();
    let dir = top.join("@snapshots");
    let request = AdoptRequest {
        snapshot_dir: dir.as_path().into(),
        from: crate::proto::Maker::Orphan,
        dirs: vec![top.join("@before").as_path().into()],
    };
    let hostname = "laptop".parse().unwrap();
    let adopted = Store::new(&KernelBtrfs, &dir).adopt(&Mounts::read().unwrap(), &hostname, &request);
    assert_eq!(adopted.unwrap().sets, [scene.taken[0].id()]);
    assert_eq!(scene.forecast(&scene.taken[0]), 0, "what it came from holds it as well");
    let name = scene.taken[0].members[0].name.to_string();
    KernelBtrfs.destroy(&top.join("@before"), name.as_ref()).unwrap();
    let done = Command::new("btrfs").args(["subvolume", "sync"]).arg(&top).status().unwrap();
    assert!(done.success());
    let all = scene.holdings().snapshot_bytes;
    assert!(all >= 8 << 20, "{all}");
    assert_eq!(scene.forecast(&scene.taken[0]), all);
    let store = Store::new(&KernelBtrfs, &dir);
    store.pin_as(&scene.taken[0].id(), &super::tests::OFF).unwrap();
    assert_eq!(scene.freed(&scene.taken[0]), all);
}
