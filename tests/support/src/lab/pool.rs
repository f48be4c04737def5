//! A machine's pool: file → loop → XFS with reflinks, and in it the pristine image, the live one and named copies.
//!
//! Invariant: `pristine.img` is complete when the pool's key file names its recipe; it is only ever read. Everything
//! here runs inside the hub.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    base,
    error::{LabError, Result},
    hub::{reflink, shut_down_xfs},
    loops,
    options::{HomeDisk, LabOptions, MachineName, SnapshotDir},
    place::Place,
    provision::{self, Identities},
    tool,
};

/// At least so much, sparse on the host: images of a machine and of its snapshots share their extents.
const POOL_BYTES: u64 = 32 << 30;

/// The image of the homes' own file system on a machine's disk, and its size: sparse, and a little less than the disk.
pub(super) const HOME_IMAGE: &str = "var/lib/lab-home.img";
const HOME_SHARE: (u64, u64) = (3, 4);
/// Where the snapshots of a home's own btrfs lie.
const HOME_SNAPSHOTS: &str = ".snapshots-home";

/// Name of the state in which a machine is first booted; it cannot be saved over.
pub(super) const PRISTINE: &str = "pristine";

/// One machine's pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    place: Place,
    machine: MachineName,
    is_uncached: bool,
    bytes: u64,
}

impl Pool {
    pub(super) fn new(place: &Place, machine: MachineName, options: &LabOptions) -> Self {
        let bytes = POOL_BYTES.max(options.disk_bytes);
        Self { place: place.clone(), machine, is_uncached: options.uncached_disks, bytes }
    }

    fn pristine(&self) -> PathBuf {
        self.place.pool(self.machine).join("pristine.img")
    }

    fn saved(&self, name: &str) -> PathBuf {
        if name == PRISTINE {
            return self.pristine();
        }
        self.place.pool(self.machine).join(format!("saved-{name}.img"))
    }

    /// Creates an empty pool file and mounts it.
    pub(super) fn create(&self) -> Result<()> {
        let file = self.place.pool_file(self.machine);
        // A broken pool may be mounted, or there may be none yet.
        let _ = self.unmount();
        let _ = fs::remove_file(&file);
        set_len(&file, self.bytes)?;
        tool::run("mkfs.xfs", [Path::new("-q"), Path::new("-K"), Path::new("-mreflink=1"), &file])?;
        self.mount()
    }

    /// Mounts the pool; XFS replays its log after a power cut.
    pub(super) fn mount(&self) -> Result<()> {
        let (file, point) = (self.place.pool_file(self.machine), self.place.pool(self.machine));
        for dir in [&point, &self.place.root(self.machine)] {
            fs::create_dir_all(dir).map_err(LabError::path("create", dir))?;
        }
        mount_loop("xfs", "loop", &file, &point)?;
        // The host's own power is not what the lab cuts: flushes of the pool need not reach the host's disk.
        let name = file_name(&file);
        for device in loops::attached(|file| file == name) {
            loops::stop_flushing(&device, &self.place.unflushed())?;
            if self.is_uncached {
                tool::run("losetup", ["--direct-io=on", &format!("/dev/{device}")].map(Path::new))?;
            }
        }
        Ok(())
    }

    /// Unmounts the pool and waits until its loop device is gone.
    pub(super) fn unmount(&self) -> Result<()> {
        loops::wait_detached(&file_name(&self.place.image(self.machine)))?;
        tool::run("umount", [self.place.pool(self.machine)])?;
        loops::wait_detached(&file_name(&self.place.pool_file(self.machine)))
    }

    /// Loses everything that was not flushed and fails every later access.
    pub(super) fn shut_down(&self) -> Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        shut_down_xfs(&self.place.pool(self.machine))
    }

    /// Tells whether the pool was shut down: nothing can be made in it any more.
    pub(super) fn is_dead(&self) -> bool {
        let probe = self.place.pool(self.machine).join("probe");
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).is_err()
    }

    /// Makes the pristine image: a file system of its own with the machine's subvolumes, base tree and identity.
    pub(super) fn make_pristine(
        &self,
        options: &LabOptions,
        base: &Path,
        identities: &Identities,
    ) -> Result<()> {
        let image = self.place.image(self.machine);
        let root = self.place.root(self.machine);
        set_len(&image, options.disk_bytes)?;
        let fill = || provision::fill(&root, self.machine, options, base, identities);
        if options.is_ext4(self.machine) {
            tool::run("mkfs.ext4", [Path::new("-q"), Path::new("-Enodiscard"), &image])?;
            mount_loop("ext4", "loop", &image, &root)?;
            let filled = fill();
            tool::run("umount", [&root])?;
            filled?;
        } else {
            tool::run("mkfs.btrfs", [Path::new("--quiet"), Path::new("--nodiscard"), &image])?;
            self.with_subvolumes(options, &image, &root, fill)?;
        }
        loops::wait_detached(&file_name(&image))?;
        fs::rename(&image, self.pristine()).map_err(LabError::path("rename", &image))
    }

    /// Creates the subvolumes and calls `fill` while they are mounted on `root`.
    fn with_subvolumes(
        &self,
        options: &LabOptions,
        image: &Path,
        root: &Path,
        fill: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let top = self.place.top(self.machine);
        fs::create_dir_all(&top).map_err(LabError::path("create", &top))?;
        mount_loop("btrfs", "loop,subvolid=5", image, &top)?;
        let made = mount_subvolumes(&subvolumes(options, self.machine), &top, root).and_then(|()| {
            let home = options.home_of(self.machine).map_or(Ok(()), |disk| make_home(root, disk, options));
            let filled = home.and_then(|()| fill());
            tool::run("umount", [Path::new("--recursive"), root])?;
            filled
        });
        tool::run("umount", [&top])?;
        made
    }

    /// Puts the pristine image in place as the live one and forgets saved copies.
    pub(super) fn restore_pristine(&self) -> Result<()> {
        let dir = self.place.pool(self.machine);
        let pristine = self.pristine();
        for entry in fs::read_dir(&dir).map_err(LabError::path("read", &dir))? {
            let path = entry.map_err(LabError::path("read", &dir))?.path();
            if path != pristine {
                fs::remove_file(&path).map_err(LabError::path("remove", &path))?;
            }
        }
        reflink(&pristine, &self.place.image(self.machine))
    }

    /// Keeps the live image as it is on disk now under `name`.
    pub(super) fn save(&self, name: &str) -> Result<()> {
        reflink(&self.place.image(self.machine), &self.saved(name))
    }

    /// Tells whether a copy was saved under `name`.
    pub(super) fn has_saved(&self, name: &str) -> bool {
        self.saved(name).exists()
    }

    /// Puts the copy `name` in place as the live image. The machine must be off.
    pub(super) fn restore(&self, name: &str) -> Result<()> {
        let image = self.place.image(self.machine);
        loops::wait_detached(&file_name(&image))?;
        reflink(&self.saved(name), &image)
    }

    /// Runs a script at the top level of the live image's btrfs. The machine must be off.
    pub(super) fn look(&self, script: &str) -> Result<String> {
        let (image, top) = (self.place.image(self.machine), self.place.top(self.machine));
        fs::create_dir_all(&top).map_err(LabError::path("create", &top))?;
        mount_loop("btrfs", "loop,subvolid=5", &image, &top)?;
        let said = tool::check(Command::new("bash").args(["-euc", script]).current_dir(&top));
        tool::run("umount", [&top])?;
        loops::wait_detached(&file_name(&image))?;
        // What was replayed of a log is on the disk, as all was before.
        File::open(&image).and_then(|file| file.sync_all()).map_err(LabError::path("sync", &image))?;
        said
    }

    /// Gives free space back to the host's disk.
    pub(super) fn trim(&self) -> Result<()> {
        tool::run("fstrim", [self.place.pool(self.machine)]).map(drop)
    }

    /// Removes the copy `name`.
    pub(super) fn forget(&self, name: &str) -> Result<()> {
        let path = self.saved(name);
        fs::remove_file(&path).map_err(LabError::path("remove", &path))
    }
}

/// Makes the homes' own file system and mounts it.
fn make_home(root: &Path, disk: HomeDisk, options: &LabOptions) -> Result<()> {
    let (image, point) = (root.join(HOME_IMAGE), root.join("home"));
    for dir in [image.parent().unwrap_or(root), &point] {
        fs::create_dir_all(dir).map_err(LabError::path("create", dir))?;
    }
    set_len(&image, options.disk_bytes / HOME_SHARE.1 * HOME_SHARE.0)?;
    let kept = match disk {
        HomeDisk::Ext4 => "-Enodiscard",
        HomeDisk::Xfs | HomeDisk::Btrfs => "-K",
    };
    tool::run(&format!("mkfs.{}", disk.as_str()), [Path::new("-q"), Path::new(kept), &image])?;
    if disk == HomeDisk::Btrfs {
        // The device stays with its next mount: files of other labs are called like this one, so nobody could wait until it is free.
        let top = root.join("mnt");
        fs::create_dir_all(&top).map_err(LabError::path("create", &top))?;
        mount_loop("btrfs", "loop,subvolid=5", &image, &top)?;
        let made = ["@home", "@snapshots"].iter().try_for_each(|name| {
            tool::run("btrfs", [Path::new("subvolume"), Path::new("create"), &top.join(name)]).map(drop)
        });
        let shut = made.and_then(|()| tool::run("chmod", [Path::new("700"), &top.join("@snapshots")]));
        let device = tool::run(
            "findmnt",
            ["-no", "SOURCE", "--nofsroot", "--mountpoint"]
                .map(Path::new)
                .iter()
                .copied()
                .chain([top.as_path()]),
        );
        let mounted =
            device.and_then(|device| mount_loop("btrfs", "subvol=@home", Path::new(device.trim()), &point));
        tool::run("umount", [&top])?;
        shut?;
        let place = root.join(HOME_SNAPSHOTS);
        fs::create_dir_all(&place).map_err(LabError::path("create", &place))?;
        return mounted;
    }
    mount_loop(disk.as_str(), "loop", &image, &point)
}

fn mount_subvolumes(others: &[(&str, &str)], top: &Path, root: &Path) -> Result<()> {
    for subvolume in ["@"].into_iter().chain(others.iter().map(|(subvolume, _)| *subvolume)) {
        tool::run("btrfs", [Path::new("subvolume"), Path::new("create"), &top.join(subvolume)])?;
    }
    let question = ["--noheadings", "--nofsroot", "--output=SOURCE", "--mountpoint"].map(Path::new);
    let disk = tool::run("findmnt", question.into_iter().chain([top]))?;
    for (subvolume, point) in [("@", "/")].iter().chain(others) {
        let point = root.join(point.trim_start_matches('/'));
        fs::create_dir_all(&point).map_err(LabError::path("create", &point))?;
        let option = format!("-osubvol={subvolume}");
        tool::run("mount", [Path::new("-tbtrfs"), Path::new(&option), Path::new(disk.trim()), &point])?;
    }
    Ok(())
}

/// Returns the subvolumes beside `@` with their mount points.
pub(super) fn subvolumes(options: &LabOptions, machine: MachineName) -> Vec<(&'static str, &'static str)> {
    if options.is_ext4(machine) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if options.home_of(machine).is_none() {
        found.push(("@home", "/home"));
    }
    if options.root_subvolume {
        found.push(("@root", "/root"));
    }
    if options.snapshot_dir == SnapshotDir::Subvolume {
        found.push(("@snapshots", "/.snapshots"));
    }
    found
}

/// Returns the recipe of the pristine images of these options.
pub(super) fn recipe(options: &LabOptions) -> Result<String> {
    let base = base::recipe_hash(&base::codename()?);
    Ok(format!("{base} {} {}", provision::VERSION, options.disk_recipe()))
}

fn mount_loop(kind: &str, options: &str, file: &Path, point: &Path) -> Result<()> {
    let option = format!("-o{options}");
    let words = [Path::new("-t"), Path::new(kind), Path::new(&option), file, point];
    let first = tool::run("mount", words);
    // Another user of the host may have taken the same free loop device in between.
    if first.is_err() { tool::run("mount", words).map(drop) } else { first.map(drop) }
}

fn set_len(path: &Path, bytes: u64) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(bytes)).map_err(LabError::path("create", path))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
