//! The target: one or two disks with its root, its state and the parts that a sync writes to.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use pc_switcher_agent::linux::state::StateDir;
use rustix::mount::{MountFlags, UnmountFlags, mount};

use super::pool::{Pool, mount_image, sh, text};

const DISK_BYTES: u64 = 320 << 20;

/// What the names of the pre set's members end in.
const PRE_SET: &str = "presync-20251115T120000Z-0123abcd";

/// How the parts lie on disks. The machine's state lies on the root's subvolume, `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// One part, `@home`.
    OneSubvolume,
    /// `@home` and `@root`.
    TwoSubvolumes,
    /// `@home` and, on another disk, `@root`.
    TwoDisks,
    /// Two directories of one ext4.
    Ext4,
    /// A system, a home and a subvolume for snapshots. The names are its own: flat names are looked up on all disks.
    Laptop,
    /// The same on another machine.
    Desk,
}

impl Layout {
    pub const ALL: [Layout; 4] =
        [Layout::OneSubvolume, Layout::TwoSubvolumes, Layout::TwoDisks, Layout::Ext4];

    pub fn is_btrfs(self) -> bool {
        self != Layout::Ext4
    }

    /// The parts, as directories below the root.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Layout::OneSubvolume | Layout::Laptop | Layout::Desk => &["home"],
            _ => &["home", "root"],
        }
    }

    /// The subvolumes of the root and of the first part.
    pub fn subvolumes(self) -> [&'static str; 2] {
        [self.mounts()[0].1, self.mounts()[1].1]
    }

    /// What is mounted: the disk's number, the subvolume, the directory below the root.
    fn mounts(self) -> &'static [(usize, &'static str, &'static str)] {
        match self {
            Layout::OneSubvolume => &[(0, "@", ""), (0, "@home", "home")],
            Layout::TwoSubvolumes => &[(0, "@", ""), (0, "@home", "home"), (0, "@root", "root")],
            Layout::TwoDisks => {
                &[(0, "@", ""), (0, "@home", "home"), (1, "@root", "root"), (1, "@sets", "sets")]
            }
            Layout::Ext4 => &[(0, "", "")],
            Layout::Laptop => &[(0, "@lap", ""), (0, "@laphome", "home"), (0, "@snapshots", "snapshots")],
            Layout::Desk => &[(0, "@desk", ""), (0, "@deskhome", "home"), (0, "@snapshots", "snapshots")],
        }
    }

    fn disks(self) -> usize {
        if self == Layout::TwoDisks { 2 } else { 1 }
    }
}

/// The target, switched on or off.
pub struct Machine {
    layout: Layout,
    root: PathBuf,
    running: Option<Running>,
    /// How often it was switched on.
    starts: u32,
}

/// What is known of a machine that is on.
#[derive(Clone)]
pub struct Running {
    pub layout: Layout,
    pub root: PathBuf,
    images: Vec<PathBuf>,
    devices: Vec<String>,
}

impl Machine {
    /// Makes one with empty parts and switches it on.
    pub fn make(pool: &Pool, layout: Layout) -> Machine {
        Self::make_as(pool, layout, "machine")
    }

    /// As [`Machine::make`]: one of several that are on at one time.
    pub fn make_as(pool: &Pool, layout: Layout, name: &str) -> Machine {
        let (images, root) = (pool.images(), pool.machine(name));
        let disks: Vec<PathBuf> = (0..layout.disks()).map(|n| images.join(format!("{name}-{n}"))).collect();
        for (number, disk) in disks.iter().enumerate() {
            File::create(disk).unwrap().set_len(DISK_BYTES).unwrap();
            if !layout.is_btrfs() {
                sh("mkfs.ext4", &["-q", text(disk)]);
                continue;
            }
            sh("mkfs.btrfs", &["--quiet", text(disk)]);
            let device = mount_image("btrfs", "", disk, &root);
            for (_, subvolume, _) in layout.mounts().iter().filter(|mount| mount.0 == number) {
                sh("btrfs", &["subvolume", "create", text(&root.join(subvolume))]);
            }
            if number == 0 {
                let system = root.join(layout.mounts()[0].1);
                let points = layout.mounts().iter().map(|mount| mount.2).filter(|point| !point.is_empty());
                points.for_each(|point| fs::create_dir(system.join(point)).unwrap());
            }
            sh("umount", &[text(&root)]);
            gone(&device, disk);
        }
        let mut machine = Machine { layout, root, running: None, starts: 0 };
        machine.boot(disks);
        if !layout.is_btrfs() {
            layout.parts().iter().for_each(|part| fs::create_dir(machine.root.join(part)).unwrap());
        }
        machine
    }

    /// Switches it on with these disks; the file systems replay their logs.
    pub fn boot(&mut self, images: Vec<PathBuf>) {
        self.halt();
        let mut devices: Vec<Option<String>> = vec![None; images.len()];
        let fs_type = if self.layout.is_btrfs() { "btrfs" } else { "ext4" };
        for (disk, subvolume, point) in self.layout.mounts() {
            let (option, point) = (format!("subvol={subvolume}"), self.root.join(point));
            let option = if subvolume.is_empty() { "" } else { &option };
            match &devices[*disk] {
                None => {
                    let comma = if option.is_empty() { "" } else { "," };
                    let options = format!("{comma}{option}");
                    devices[*disk] = Some(mount_image(fs_type, &options, &images[*disk], &point));
                }
                Some(device) => {
                    let option = CString::new(option).unwrap();
                    mount(format!("/dev/{device}"), &point, fs_type, MountFlags::empty(), Some(&*option))
                        .unwrap();
                }
            }
        }
        let devices = devices.into_iter().flatten().collect();
        let (layout, root) = (self.layout, self.root.clone());
        self.running = Some(Running { layout, root, images, devices });
        self.starts += 1;
    }

    /// Returns how often it was switched on: no two starts are the same.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// Switches it off and waits until nothing holds its disks; they stay as they are.
    pub fn halt(&mut self) {
        let Some(running) = self.running.take() else { return };
        for (_, _, point) in self.layout.mounts().iter().rev() {
            unmount(&self.root.join(point));
        }
        running.devices.iter().zip(&running.images).for_each(|(device, image)| gone(device, image));
    }

    /// Switches it off and forgets its disks.
    pub fn scrap(&mut self) {
        let images = self.running.as_ref().map(|running| running.images.clone());
        self.halt();
        images.into_iter().flatten().for_each(|image| fs::remove_file(image).unwrap());
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("a machine that is on")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Running {
    pub fn state(&self) -> StateDir {
        StateDir::new(self.root.join("state"))
    }

    pub fn parts(&self) -> impl Iterator<Item = PathBuf> {
        self.layout.parts().iter().map(|part| self.root.join(part))
    }

    /// Returns where a part, by its number, stands in the pre set.
    pub fn sealed(&self, part: usize) -> PathBuf {
        // A snapshot lies on the disk that it is of.
        let dir = if self.layout == Layout::TwoDisks && part > 0 { "sets" } else { "snapshots" };
        self.root.join(dir).join(format!("@{}-{PRE_SET}", self.layout.parts()[part]))
    }

    /// Takes the pre set.
    pub fn seal(&self) {
        for (number, part) in self.parts().enumerate() {
            let to = self.sealed(number);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            seal(&part, &to);
        }
    }

    /// Takes the disks as the kernel has sent them so far: what is only in the machine's memory is not in it.
    pub fn photograph(&self, name: &str) -> Vec<PathBuf> {
        let shoot =
            |image: &PathBuf| reflink(image, image.with_file_name(format!("{name}-{}", ending(image))));
        self.images.iter().map(shoot).collect()
    }

    /// Returns the disks' images.
    pub fn images(&self) -> &[PathBuf] {
        &self.images
    }

    /// Returns the disks' devices, such as `loop3`.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Counts what was written to the disks.
    pub fn written(&self) -> u64 {
        let written = |device: &String| {
            let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).unwrap();
            // Sectors written, and flushes are none.
            stat.split_whitespace().nth(6).and_then(|number| number.parse::<u64>().ok()).unwrap()
        };
        self.devices.iter().map(written).sum()
    }
}

/// The last part of an image's name: the disk's number.
fn ending(image: &Path) -> String {
    text(image).rsplit('-').next().unwrap_or_default().to_owned()
}

pub fn reflink(image: &Path, copy: PathBuf) -> PathBuf {
    let target = File::create(&copy).unwrap();
    rustix::fs::ioctl_ficlone(&target, File::open(image).unwrap()).unwrap();
    copy
}

pub fn unmount(point: &Path) {
    let done = || rustix::mount::unmount(point, UnmountFlags::empty()).is_ok();
    assert!(soon(done), "`{}` stays busy", point.display());
}

/// Takes a read-only snapshot.
pub fn seal(of: &Path, to: &Path) {
    sh("btrfs", &["subvolume", "snapshot", "-r", text(of), text(to)]);
}

/// Waits until a device has let its image go.
pub fn gone(device: &str, image: &Path) {
    let backing = format!("/sys/block/{device}/loop/backing_file");
    let is_gone = || fs::read_to_string(&backing).map_or(true, |file| file.trim_end() != text(image));
    assert!(soon(is_gone), "`{device}` stays attached to `{}`", image.display());
}

fn soon(done: impl Fn() -> bool) -> bool {
    (0..500).any(|_| {
        let done = done();
        if !done {
            sleep(Duration::from_millis(10));
        }
        done
    })
}
