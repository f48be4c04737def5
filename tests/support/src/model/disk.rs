//! A machine's disk and what a reboot would not lose.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pc_switcher_agent::data::apply::{has_list, list_of};
use pc_switcher_agent::linux::snapshots::Needs;
use pc_switcher_agent::proto::{AgentError, DirListing, StoredSet, TakeSet};
use pc_switcher_contract::{
    BytePath, Hostname, SetId, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName,
};
use tempfile::TempDir;

use super::copy::{Inodes, copy};
use super::lock;

/// Subvolumes by their flat names, and where they are mounted.
const MOUNTS: [(&str, &str); 3] = [("@", "/"), ("@home", "/home"), ("@snapshots", "/.snapshots")];

struct Taken {
    set: SnapshotSet,
    inodes: HashMap<PathBuf, Inodes>,
}

/// The disk of one modelled machine. It outlives the agents that work on it.
pub struct Disk {
    hostname: Hostname,
    dir: TempDir,
    sets: Mutex<Vec<Taken>>,
    history: Mutex<Vec<Vec<u8>>>,
    next_id: AtomicU64,
    available_bytes: AtomicU64,
    is_plain: bool,
}

impl Disk {
    /// Makes an empty disk with `@`, `@home` and `@snapshots`, and plenty of space.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn new(hostname: Hostname) -> io::Result<Disk> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        for (name, _) in MOUNTS {
            fs::create_dir(dir.path().join(name))?;
        }
        Ok(Disk {
            hostname,
            dir,
            sets: Mutex::default(),
            history: Mutex::default(),
            next_id: AtomicU64::new(256),
            available_bytes: AtomicU64::new(Self::SIZE / 2),
            is_plain: false,
        })
    }

    /// As [`Disk::new`], on a file system without subvolumes and snapshots.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn plain(hostname: Hostname) -> io::Result<Disk> {
        Ok(Disk { is_plain: true, ..Disk::new(hostname)? })
    }

    /// Whether it has no subvolumes and no snapshots.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Its size in bytes.
    pub const SIZE: u64 = 100 << 30;

    /// Returns the name of the machine.
    pub fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    /// Returns the directory that holds all of it.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Returns where a path of the machine really lies.
    pub fn real(&self, path: &BytePath) -> PathBuf {
        let (name, inside) = holder(path);
        self.dir.path().join(name).join(inside.as_path())
    }

    /// Returns a set with the paths at which its members lie on the machine that the test runs on.
    pub fn really(&self, mut set: SnapshotSet) -> SnapshotSet {
        for member in &mut set.members {
            member.path = self.real(&member.path).as_path().into();
        }
        set
    }

    /// Returns the directory of the machine's state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Returns the file of the machine's lock.
    pub fn lock_path(&self) -> PathBuf {
        self.dir.path().join("run/lock")
    }

    /// Returns the sets that are there, oldest first.
    pub fn sets(&self) -> Vec<SnapshotSet> {
        lock(&self.sets).iter().map(|taken| taken.set.clone()).collect()
    }

    /// Returns the rows of the machine's history.
    pub fn history(&self) -> Vec<Vec<u8>> {
        lock(&self.history).clone()
    }

    pub(super) fn add_history(&self, row: Vec<u8>) {
        lock(&self.history).push(row);
    }

    /// Sets how much space is free.
    pub fn set_available(&self, bytes: u64) {
        self.available_bytes.store(bytes, Ordering::SeqCst);
    }

    pub(super) fn available(&self) -> u64 {
        self.available_bytes.load(Ordering::SeqCst)
    }

    /// Returns all subvolumes with their mount points.
    pub(super) fn subvolumes(&self) -> impl Iterator<Item = (SubvolumeName, BytePath)> {
        let mounts = MOUNTS.iter().filter(|_| !self.is_plain);
        mounts.filter_map(|(name, mount)| Some((name.parse().ok()?, BytePath::from(*mount))))
    }

    /// Returns the uuid of a subvolume.
    pub(super) fn uuid(&self, subvolume: &SubvolumeName) -> String {
        blake3::hash(format!("{}{subvolume}", self.hostname).as_bytes()).to_hex()[..32].to_owned()
    }

    pub(super) fn take(&self, wanted: &TakeSet) -> Result<SnapshotSet, AgentError> {
        let otransid = self.next_id.fetch_add(1, Ordering::SeqCst);
        let mut taken = Taken {
            set: SnapshotSet {
                hostname: self.hostname.clone(),
                kind: wanted.kind,
                stamp: wanted.stamp,
                session: wanted.session.clone(),
                consistent: true,
                members: Vec::new(),
            },
            inodes: HashMap::new(),
        };
        for subvolume in &wanted.subvolumes {
            let name = SnapshotName {
                subvolume: subvolume.clone(),
                kind: wanted.kind,
                stamp: wanted.stamp,
                session: wanted.session.clone(),
            };
            let path = wanted.snapshot_dir.join(name.to_string().as_bytes());
            let (from, to) = (self.dir.path().join(subvolume.as_str()), self.real(&path));
            let inodes = copy(&from, &to).map_err(|error| AgentError::io(format!("`{path}`"), &error))?;
            let id = self.next_id.fetch_add(1, Ordering::SeqCst);
            taken.inodes.insert(to, inodes);
            taken.set.members.push(SnapshotMember {
                name,
                path,
                uuid: format!("{id:032x}"),
                source_uuid: self.uuid(subvolume),
                id,
                otransid,
                ctransid: otransid,
                first_taken: None,
                apart: None,
            });
        }
        let set = taken.set.clone();
        lock(&self.sets).push(taken);
        Ok(set)
    }

    pub(super) fn check(&self, set: &SnapshotSet) -> Result<(), String> {
        let held = lock(&self.sets);
        let member = |wanted: &SnapshotMember| {
            let found = held.iter().any(|taken| taken.set.members.contains(wanted));
            if found { Ok(()) } else { Err(format!("`{}` is not there any more", wanted.path)) }
        };
        set.members.iter().try_for_each(member)
    }

    pub(super) fn drop_set(&self, set: &SnapshotSet) -> Result<(), AgentError> {
        lock(&self.sets).retain(|taken| taken.set != *set);
        let remove = |member: &SnapshotMember| fs::remove_dir_all(self.real(&member.path));
        set.members.iter().try_for_each(remove).map_err(|error| AgentError::io("cannot drop the set", &error))
    }

    /// Returns the sets as an agent lists them, oldest first.
    pub(super) fn stored(&self, needs: &Needs) -> Vec<StoredSet> {
        let stored = |set: SnapshotSet| StoredSet {
            backend: pc_switcher_agent::proto::Backend::Btrfs,
            pinned: false,
            hard: None,
            in_use: false,
            holders: Vec::new(),
            has_steps: list_of(&self.really(set.clone())).is_some_and(|list| has_list(list.as_path())),
            needs: needs.of(&set.id()),
            missing: Vec::new(),
            away: Vec::new(),
            words: pc_switcher_agent::proto::Words::default(),
            system: None,
            set,
        };
        let mut all: Vec<StoredSet> = self.sets().into_iter().map(stored).collect();
        all.sort_by_key(|stored| stored.set.id());
        all
    }

    /// Removes a set that nobody needs.
    pub(super) fn delete(&self, id: &SetId, needs: &Needs) -> Result<(), AgentError> {
        if let Some(need) = needs.of(id).first() {
            return Err(AgentError::failed(format!("set `{id}` stays: {need}")));
        }
        match self.sets().into_iter().find(|set| set.id() == *id) {
            Some(set) => self.drop_set(&set),
            None => Err(AgentError::failed(format!("there is no set `{id}`"))),
        }
    }

    /// Gives what was listed below `root` the inodes of what the snapshot was taken of, as a real snapshot has them.
    pub(super) fn as_taken(&self, root: &BytePath, mut listing: DirListing) -> DirListing {
        let root = self.real(root);
        let held = lock(&self.sets);
        let mut all = held.iter().flat_map(|taken| &taken.inodes);
        let Some((top, inodes)) = all.find(|(top, _)| root.starts_with(top)) else { return listing };
        let inside = BytePath::from(root.strip_prefix(top).unwrap_or(Path::new("")));
        let dir = if inside.is_empty() { listing.path.clone() } else { inside.join(listing.path.as_bytes()) };
        for entry in listing.root.iter_mut().chain(&mut listing.entries) {
            let path = if entry.name.is_empty() { dir.clone() } else { dir.join(entry.name.as_bytes()) };
            if let Some((ino, ctime)) = inodes.get(path.as_bytes()) {
                (entry.ino, entry.ctime) = (*ino, *ctime);
            }
        }
        listing
    }
}

/// Returns the subvolume that holds a path, and the path inside it.
pub(super) fn holder(path: &BytePath) -> (&'static str, BytePath) {
    let held = |mount: &&(&'static str, &'static str)| path.is_within(&BytePath::from(mount.1));
    let (name, mount) = MOUNTS.iter().filter(held).max_by_key(|mount| mount.1.len()).unwrap_or(&MOUNTS[0]);
    let rest = path.as_bytes().strip_prefix(mount.as_bytes()).unwrap_or(path.as_bytes());
    (name, BytePath::new(rest.strip_prefix(b"/").unwrap_or(rest)))
}
