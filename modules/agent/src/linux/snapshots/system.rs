//! Which system a set is of: the kernel that ran and the one to come, what was to be mounted, and the packages that were installed.
//!
//! It is looked at beside the birth of the members. Packages are read only if their database is another one than at the newest
//! set; their list lies beside the set, as one file with that of the set before if nothing changed. What cannot be told is left
//! out: no set fails for it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pc_switcher_contract::SetId;
use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::linux::boot::kernels;
use crate::linux::packages;
use crate::proto::{System, SystemChange};

/// The list of packages beside a set.
pub(super) const LIST: &str = "packages";

/// What the record of a set says of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    #[serde(flatten)]
    pub(super) system: System,
    /// From which state of the database of packages that was read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    read_from: String,
}

/// What is to be recorded of the system, and the list that belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    pub(super) recorded: Recorded,
    list: List,
}

/// Where the list of packages comes from.
#[derive(Debug, Clone)]
enum List {
    /// There is none.
    None,
    /// It is that of another set.
    Same(PathBuf),
    /// It is new.
    New(Vec<u8>),
}

/// What is known from the newest set: it need not be read again.
#[derive(Debug)]
pub(super) struct Known {
    recorded: Recorded,
    list: PathBuf,
}

/// Looks at the system below this root; `None` if not even its kernel is known.
pub(super) fn look(root: &Path, known: Option<Known>) -> Option<Looked> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned();
    let boot_kernel = kernels::next(root);
    let fstab = fs::read(root.join("etc/fstab")).ok().map(|text| packages::digest(&text));
    let system = System { kernel, packages: None, boot_kernel, fstab };
    let Some(database) = packages::database(root) else {
        return Some(Looked { recorded: Recorded { system, read_from: String::new() }, list: List::None });
    };
    let read_from = database.state.clone();
    // One without a list is read again, unless none can be had.
    let is_whole = |known: &Known| {
        let packages = known.recorded.system.packages.as_ref();
        let is_listed = fs::symlink_metadata(&known.list).is_ok();
        packages.is_some_and(|packages| packages.count.is_none() || is_listed)
    };
    let same = known.filter(|known| known.recorded.read_from == read_from && is_whole(known));
    let (packages, list) = match same {
        Some(Known { recorded, list }) => (recorded.system.packages, List::Same(list)),
        None => match database.read() {
            Some(installed) => (Some(installed.packages), installed.list.map_or(List::None, List::New)),
            None => (None, List::None),
        },
    };
    Some(Looked { recorded: Recorded { system: System { packages, ..system }, read_from }, list })
}

impl Looked {
    /// Puts the list of packages into a directory. If that does not work there is none: the digest in the record tells.
    pub(super) fn put_list(&self, dir: &Path) {
        let path = dir.join(LIST);
        let write = |bytes: &[u8]| -> std::io::Result<()> {
            fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?.write_all(bytes)
        };
        let _ = match &self.list {
            List::None => Ok(()),
            List::Same(other) => fs::hard_link(other, &path).or_else(|_| write(&fs::read(other)?)),
            List::New(bytes) => write(bytes),
        };
    }
}

impl Store<'_> {
    /// Returns what the newest whole set says of the system.
    pub(super) fn known_system(&self) -> Option<Known> {
        let ids = self.ids().ok()?;
        let newest = ids.iter().rev().filter(|id| self.sidecar(id).has_toc()).take(2);
        let mut all = newest.filter_map(|id| {
            let (sidecar, id) = (self.sidecar(id), id);
            Some(Known { recorded: sidecar.meta(id).ok()?.system?, list: sidecar.dir().join(LIST) })
        });
        all.next()
    }

    /// Says how the system differs between two sets.
    pub(super) fn system_change(&self, from: &SetId, to: &SetId) -> SystemChange {
        let of = |id: &SetId| self.sidecar(id).meta(id).ok()?.system.map(|recorded| recorded.system);
        let (Some(before), Some(after)) = (of(from), of(to)) else { return SystemChange::default() };
        let list = |id: &SetId, system: &System| {
            let list = fs::read(self.sidecar(id).dir().join(LIST)).ok()?;
            // One that a crash has cut off is none.
            (packages::digest(&list) == system.packages.as_ref()?.digest).then_some(list)
        };
        let packages = match (&before.packages, &after.packages) {
            (Some(one), Some(other)) if one == other => Some(Vec::new()),
            _ => list(from, &before).zip(list(to, &after)).map(|(from, to)| packages::changes(&from, &to)),
        };
        let kernels = (before.kernel != after.kernel).then_some((before.kernel, after.kernel));
        SystemChange { kernels, packages }
    }
}
