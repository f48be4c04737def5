//! Members of sets of every kind behind one trait: snapshots of btrfs, and copies of directories or snapshots of volumes where
//! there is none.
//!
//! A member's name says which of the two it is: that of a copy begins with the directory that it is of, `%2Fhome-…`. A copy
//! answers as a subvolume would. What makes it so: a label on its root (whose it is, when it was taken, whether it is
//! closed), directories and files that are immutable, and a list of its content in the sidecar of its set. A snapshot of a volume
//! is a copy without content, whose label names the volume.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pc_switcher_contract::{BytePath, SetId, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName};
use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};
use serde::Deserialize;

use super::btrfs::{Btrfs, DeviceSpace, KernelBtrfs, SpaceSlot, SubvolumeInfo, SubvolumeRef, Uuid};
use super::lvm::{self, Lvm, Origin};
use crate::data::rules::Rules;
use crate::data::trees::{self, Form, Former, Growth, InVolume, Inventory, Label};
use crate::proto::{FileTime, RuleSet};

/// The ids of copies have this bit, those of subvolumes never.
const COPY: u64 = 1 << 63;
/// A change that is younger than this may be followed by another at what the clock of a file system calls the same time.
const TICK: i64 = 2;

/// Members of every kind, for whoever looks at them or removes them.
pub static EVERY: Members<'static> = Members { kernel: &KernelBtrfs, making: None, lvm: &lvm::HOST };

/// Members of every kind.
pub struct Members<'a> {
    kernel: &'a dyn Btrfs,
    making: Option<Making<'a>>,
    lvm: &'static dyn Lvm,
}

/// How copies are made.
pub struct Making<'a> {
    /// How their content is kept.
    pub(crate) form: Form,
    /// How hard it is packed, if it is.
    pub(crate) level: i32,
    /// What is left out, by paths from `/` on.
    pub(crate) rules: &'a RuleSet,
    /// Whether it is to end.
    pub(crate) stop: &'a (dyn Fn() -> bool + Sync),
    /// The volumes that snapshots may be taken of, if they are to be of volumes.
    pub(crate) origins: Vec<Origin>,
    /// What is to be told, a line each.
    pub(crate) notes: Mutex<Vec<String>>,
}

impl<'a> Members<'a> {
    /// Members that can be made.
    pub(crate) fn making(kernel: &'a dyn Btrfs, making: Making<'a>) -> Self {
        Self { lvm: kernel.lvm(), kernel, making: Some(making) }
    }

    /// Members of this kernel that nobody makes copies of.
    pub(crate) fn of(kernel: &'a dyn Btrfs) -> Self {
        Self { lvm: kernel.lvm(), kernel, making: None }
    }

    /// As [`Members::of`], with other tools for volumes.
    #[cfg(test)]
    pub(crate) fn with(kernel: &'a dyn Btrfs, lvm: &'static dyn Lvm) -> Self {
        Self { kernel, making: None, lvm }
    }

    /// Returns what is to be told of the copies that were made.
    pub(crate) fn notes(self) -> Vec<String> {
        self.making
            .map(|making| making.notes.into_inner().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_default()
    }
}

/// Returns the name of a copy that stands at a path, as its name says.
pub(crate) fn copy_at(path: &Path) -> Option<SnapshotName> {
    let name: SnapshotName = path.file_name()?.to_str()?.parse().ok()?;
    name.subvolume.directory().map(|_| name)
}

/// Whether a set is one of copies.
pub(crate) fn is_of_copies(set: &SnapshotSet) -> bool {
    set.members.iter().any(|member| member.name.subvolume.directory().is_some())
}

/// Returns what stands for the uuid of a directory that is copied: the same for each copy of it.
pub(crate) fn uuid_of(directory: &SubvolumeName) -> Uuid {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(
        &blake3::derive_key("pc-switcher directory of copies", directory.as_str().as_bytes())[..16],
    );
    Uuid(uuid)
}

/// Returns where the list of a member's content lies.
pub(crate) fn list_of(snapshot_dir: &Path, name: &SnapshotName) -> PathBuf {
    let id = SetId { stamp: name.stamp, session: name.session.clone(), kind: name.kind };
    let sets = snapshot_dir.join(".pc-switcher/sets");
    sets.join(id.to_string()).join(format!("{}.list", name.subvolume))
}

/// Opens a member's root.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Returns how a copy keeps content; `None` if it says nothing of that.
pub(crate) fn form_of(path: &Path) -> Option<Form> {
    Label::read(open_root(path).ok()?).ok()?.map(|label| label.form)
}

/// Opens the volume of a member to be read; `None` if its content lies in none.
///
/// # Errors
/// `NotFound` if it is gone; or what LVM or the kernel says.
pub(crate) fn open_volume(
    btrfs: &dyn Btrfs,
    path: &Path,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<lvm::Reading>> {
    if copy_at(path).is_none() {
        return Ok(None);
    }
    let root = open_root(path)?;
    match Label::read(&root)?.and_then(|label| label.volume) {
        Some(label) => lvm::Reading::open(btrfs.lvm(), root, &label, stop).map(Some),
        None => Ok(None),
    }
}

/// Takes the device of a member's volume away that nobody reads any more.
pub(crate) fn rest_volume(btrfs: &dyn Btrfs, path: &Path) -> io::Result<()> {
    let root = open_root(path)?;
    match Label::read(&root)?.and_then(|label| label.volume) {
        Some(label) => lvm::rest(btrfs.lvm(), root, &label),
        None => Ok(()),
    }
}

/// Returns in which volume a member's content lies; `None` if in none.
pub(crate) fn volume_of(path: &Path) -> Option<InVolume> {
    label_at(path).ok()??.volume
}

/// Returns what a copy says of itself; `None` if it says nothing.
///
/// # Errors
/// If that cannot be read.
pub(crate) fn label_at(path: &Path) -> io::Result<Option<Label>> {
    Label::read(open_root(path)?)
}

fn info(name: &SnapshotName, label: Option<&Label>) -> SubvolumeInfo {
    let order = label.map_or(0, |label| label.order);
    SubvolumeInfo {
        // No number of a copy is one of a subvolume.
        id: label.map_or(COPY, |label| label.id | COPY),
        parent_id: 0,
        uuid: Uuid(label.map_or([0; 16], |label| label.uuid)),
        source_uuid: uuid_of(&name.subvolume),
        generation: order,
        ctransid: order,
        otransid: order,
        readonly: false,
        created_seconds: label.map_or(0, |label| label.created_seconds),
    }
}

fn id_of(path: &Path) -> io::Result<u64> {
    Ok(Label::read(open_root(path)?)?.map_or(COPY, |label| label.id | COPY))
}

/// Whether an error says that there is no btrfs.
fn is_none(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL))
}

/// Returns the snapshot directory that a birth place belongs to: `DIR/.pc-switcher/tmp/SESSION/N`.
fn store_of(cradle: &Path) -> io::Result<&Path> {
    let odd = || io::Error::new(io::ErrorKind::InvalidInput, "a copy is made in no birth place");
    cradle.ancestors().nth(4).ok_or_else(odd)
}

/// Returns the number of a new copy: higher than that of any set that is there.
fn next_order(kernel: &dyn Btrfs, store: &Path, session: &str) -> io::Result<u64> {
    #[derive(Deserialize)]
    struct Record {
        set: SnapshotSet,
    }
    let mut highest = kernel.subvolume(store).map(|info| info.generation).unwrap_or_default();
    for entry in fs::read_dir(store.join(".pc-switcher/sets"))? {
        let Ok(record) = fs::read(entry?.path().join("meta.json")) else { continue };
        // A record that cannot be read says nothing here; the list says what is wrong with it.
        let Ok(Record { set }) = serde_json::from_slice(&record) else { continue };
        if set.session.as_str() != session {
            // Of what lies on another disk, which counts by itself, the transaction of this one is recorded beside.
            let here =
                |member: &SnapshotMember| member.apart.as_ref().map_or(member.otransid, |apart| apart.at);
            highest = highest.max(set.members.iter().map(here).max().unwrap_or_default());
        }
    }
    Ok(highest + 1)
}

/// Returns the newest whole copy of the same directory that keeps content the same way.
fn former(store: &Path, name: &SnapshotName, form: Form) -> Option<Former> {
    let mut names: Vec<SnapshotName> = fs::read_dir(store)
        .ok()?
        .flatten()
        .filter_map(|entry| copy_at(&entry.path()))
        .filter(|other| other.subvolume == name.subvolume && other != name)
        .collect();
    let label = |name: &SnapshotName| {
        let root = open_root(&store.join(name.to_string())).ok()?;
        let label = Label::read(&root).ok()??;
        (label.form == form && label.is_sealed).then_some((label.order, root))
    };
    let is_whole = |name: &SnapshotName| list_of(store, name).with_file_name("toc").exists();
    names.retain(is_whole);
    let mut found: Vec<(u64, OwnedFd, SnapshotName)> =
        names.into_iter().filter_map(|name| label(&name).map(|(order, root)| (order, root, name))).collect();
    found.sort_by_key(|(order, ..)| std::cmp::Reverse(*order));
    // One without a usable list is passed over: everything is copied then.
    found.into_iter().find_map(|(_, root, name)| Former::read(root, &list_of(store, &name)).ok())
}

fn random() -> io::Result<[u8; 24]> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The number of what came from elsewhere: older than all that was taken here, so that no copy of live files builds on it.
pub(crate) const FROM_ELSEWHERE: u64 = 0;

/// Makes the root of a new copy, with its label. A crash between the two leaves an empty directory.
pub(crate) fn make_root(cradle: &Path, name: &SnapshotName, form: Form, order: u64) -> io::Result<OwnedFd> {
    make_labelled(cradle, name, (form, order), |_| None)
}

/// As [`make_root`]; `volume` says for the uuid of the new one in which volume its content is to lie.
fn make_labelled(
    cradle: &Path,
    name: &SnapshotName,
    (form, order): (Form, u64),
    volume: impl FnOnce(&[u8; 16]) -> Option<InVolume>,
) -> io::Result<OwnedFd> {
    let path = cradle.join(name.to_string());
    DirBuilder::new().mode(0o700).create(&path)?;
    let root = open_root(&path)?;
    let random = random()?;
    let (uuid, id) = random.split_at(16);
    let uuid: [u8; 16] = uuid.try_into().unwrap_or_default();
    let label = Label {
        volume: volume(&uuid),
        uuid,
        id: COPY | u64::from_le_bytes(id.try_into().unwrap_or_default()),
        order,
        created_seconds: now(),
        form,
        is_sealed: false,
        is_immutable: false,
    };
    label.write(&root)?;
    Ok(root)
}

impl Making<'_> {
    fn copy(&self, kernel: &dyn Btrfs, live: &Path, cradle: &Path, name: &SnapshotName) -> io::Result<()> {
        let store = store_of(cradle)?;
        if self.form == Form::Volume {
            return self.take_volume(kernel, (live, store), cradle, name);
        }
        let live = BytePath::from(live);
        let prefix = BytePath::new(live.as_bytes().strip_prefix(b"/").unwrap_or(live.as_bytes()));
        let rules = Rules::compile(self.rules, &prefix).map_err(io::Error::other)?;
        let former = former(store, name, self.form);
        let begun = now();
        // A page that a program writes through a mapping gets a new time only if it was clean.
        syncfs(open_root(live.as_path())?)?;
        let order = next_order(kernel, store, name.session.as_str())?;
        let root = make_root(cradle, name, self.form, order)?;
        let mut inventory = Inventory::create(&list_of(store, name))?;
        let growth = Growth {
            live: &live,
            root: &root,
            rules: &rules,
            store: &open_root(store)?,
            form: self.form,
            level: self.level,
            former: former.as_ref(),
            settled: FileTime { seconds: begun - TICK, nanos: 0 },
            stop: self.stop,
        };
        let told =
            trees::grow(&growth, &mut inventory).map_err(|(path, error)| worded(&live, &path, error))?;
        inventory.finish()?;
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
        Ok(syncfs(&root)?)
    }

    /// Takes a snapshot of a volume. What it will be called and found by is on the disk before.
    fn take_volume(
        &self,
        kernel: &dyn Btrfs,
        (live, store): (&Path, &Path),
        cradle: &Path,
        name: &SnapshotName,
    ) -> io::Result<()> {
        let origin = self.origins.iter().find(|origin| origin.place.as_path() == live);
        let origin = origin.ok_or_else(|| io::Error::other("it was no volume when it was looked at"))?;
        let order = next_order(kernel, store, name.session.as_str())?;
        let called = lvm::name_of(origin, name);
        let (mut tag, full_name) = (String::new(), format!("{}/{called}", origin.vg));
        let root = make_labelled(cradle, name, (Form::Volume, order), |uuid| {
            tag = lvm::tag_of(uuid);
            Some(InVolume {
                name: full_name,
                tag: tag.clone(),
                fs_type: origin.fs_type.clone(),
                vg_uuid: Some(origin.vg_uuid.clone()),
                lv_uuid: None,
            })
        })?;
        syncfs(&root)?;
        let held = File::from(root);
        held.lock()?;
        lvm::create(kernel.lvm(), origin, (&called, &tag), &held, self.stop)?;
        // From now on no name and no tag of another can be taken for it.
        let mut label = Label::read(&held)?.ok_or_else(|| io::Error::other("its label is gone"))?;
        if let Some(volume) = &mut label.volume {
            volume.lv_uuid = Some(lvm::find(kernel.lvm(), volume, &lvm::never)?.uuid);
        }
        label.write(&held)
    }
}

/// Names the path that failed, but for what the caller words by itself.
fn worded(live: &BytePath, path: &BytePath, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::ECANCELED) => error,
        _ => io::Error::new(error.kind(), format!("`{}`: {error}", live.join(path.as_bytes()))),
    }
}

impl Btrfs for Members<'_> {
    fn subvolume(&self, path: &Path) -> io::Result<SubvolumeInfo> {
        let Some(name) = copy_at(path) else { return self.kernel.subvolume(path) };
        let root = open_root(path)?;
        let label = Label::read(&root)?;
        let is_closed = match &label {
            Some(Label { volume: Some(volume), is_sealed, .. }) => {
                lvm::find(self.lvm, volume, &lvm::never)?.is_read_only && *is_sealed
            }
            Some(label) if label.is_sealed && label.is_immutable => trees::is_frozen(&root)?,
            Some(label) => label.is_sealed,
            None => false,
        };
        Ok(SubvolumeInfo { readonly: is_closed, ..info(&name, label.as_ref()) })
    }

    fn has_newer(&self, path: &Path, transid: u64) -> io::Result<bool> {
        match copy_at(path) {
            Some(_) => Ok(true),
            None => self.kernel.has_newer(path, transid),
        }
    }

    fn fs_uuid(&self, path: &Path) -> io::Result<Uuid> {
        self.kernel.fs_uuid(path)
    }

    fn subvolumes(&self, path: &Path) -> io::Result<Vec<SubvolumeRef>> {
        self.kernel.subvolumes(path)
    }

    fn inside(&self, path: &Path) -> io::Result<Vec<u8>> {
        match copy_at(path) {
            Some(_) => Ok(Vec::new()),
            None => self.kernel.inside(path),
        }
    }

    fn snapshot(&self, source: &Path, parent: &Path, name: &OsStr) -> io::Result<()> {
        let Some(copy) = copy_at(Path::new(name)) else { return self.kernel.snapshot(source, parent, name) };
        match &self.making {
            Some(making) => making.copy(self, source, parent, &copy),
            None => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        }
    }

    fn make(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        self.kernel.make(parent, name)
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        self.kernel.remove_empty(path)
    }

    fn destroy(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        if copy_at(Path::new(name)).is_none() {
            return self.kernel.destroy(parent, name);
        }
        match open_root(&parent.join(name)) {
            Ok(root) => {
                if let Some(volume) = Label::read(&root)?.and_then(|label| label.volume) {
                    lvm::remove(self.lvm, root, &volume)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let name = CString::new(name.as_bytes()).map_err(io::Error::other)?;
        Ok(trees::remove(&open_root(parent)?, &name)?)
    }

    fn destroy_id(&self, parent: &Path, id: u64) -> io::Result<()> {
        if id & COPY == 0 {
            return self.kernel.destroy_id(parent, id);
        }
        for entry in fs::read_dir(parent)? {
            let path = entry?.path();
            if copy_at(&path).is_some() && id_of(&path)? == id {
                return self.destroy(parent, path.file_name().unwrap_or_default());
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match copy_at(to) {
            Some(_) => fs::rename(from, to),
            None => self.kernel.rename(from, to),
        }
    }

    fn set_readonly(&self, path: &Path, readonly: bool) -> io::Result<()> {
        if copy_at(path).is_none() {
            return self.kernel.set_readonly(path, readonly);
        }
        let root = open_root(path)?;
        let Some(mut label) = Label::read(&root)? else {
            return Err(io::Error::other("it has no label of ours"));
        };
        trees::freeze_root(&root, false)?;
        if readonly {
            label.is_immutable = trees::seal(&root)?;
        }
        label.is_sealed = readonly;
        label.write(&root)?;
        if readonly && !trees::freeze_root(&root, true)? && label.is_immutable {
            label.is_immutable = false;
            label.write(&root)?;
        }
        Ok(syncfs(&root)?)
    }

    fn set_immutable(&self, dir: &Path, immutable: bool) -> io::Result<()> {
        self.kernel.set_immutable(dir, immutable)
    }

    fn is_immutable(&self, dir: &Path) -> io::Result<bool> {
        self.kernel.is_immutable(dir)
    }

    fn start_sync(&self, path: &Path) -> io::Result<()> {
        match self.kernel.start_sync(path) {
            Err(error) if is_none(&error) => Ok(()),
            done => done,
        }
    }

    fn is_clearing(&self, path: &Path) -> io::Result<bool> {
        match self.kernel.is_clearing(path) {
            Err(error) if is_none(&error) => Ok(false),
            done => done,
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.kernel.sync(path) {
            Err(error) if is_none(&error) => Ok(syncfs(File::open(path)?)?),
            done => done,
        }
    }

    fn space(&self, path: &Path) -> io::Result<Vec<SpaceSlot>> {
        self.kernel.space(path)
    }

    fn devices(&self, path: &Path) -> io::Result<DeviceSpace> {
        self.kernel.devices(path)
    }

    fn lvm(&self) -> &'static dyn Lvm {
        self.lvm
    }
}
