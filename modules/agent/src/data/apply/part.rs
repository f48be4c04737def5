//! One part's root on the target with its staging directories.
//!
//! The root is opened through a private copy of its mount that holds no mounts below it, so what is mounted in the tree is
//! never crossed nor in the way. Staging lies in `.pc-switcher` at the root, on the same subvolume: a rename is all that a
//! commit takes. Everything there belongs to root, mode 0700, without inherited ACLs.
//!
//! What dead sessions left is brought to its end by a redo before anybody plans anew (see [`super::redo`]). What nobody can
//! redo is swept when the next session opens its parts: staging goes, displaced versions are judged like all others (see
//! [`super::retire`]).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, fchmod, fsync, mkdirat, openat, syncfs, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use pc_switcher_contract::{BytePath, SessionId};

use super::commit::{RootMeta, explain_frozen};
use super::{remove, retire};
use crate::data::seen::Seen;
use crate::data::{HOME, btrfs, meta, open};
use crate::proto::{AgentError, FileTime, PartRoot};

/// Space kept back for the commit, and the name of the file that holds it.
const RESERVE_BYTES: u64 = 4 << 20;
const RESERVE: &str = "reserve";

/// What sessions leave, in the order it goes: what was displaced is judged by the journal, which lies in staging.
const GOING: [&str; 3] = ["undo-", "deep-", "stage-"];

/// A part that is open.
pub(super) struct Part {
    /// The absolute path, for messages.
    pub(super) path: BytePath,
    /// The live root.
    pub(super) root: OwnedFd,
    /// Where new versions wait.
    pub(super) stage: Arc<OwnedFd>,
    /// Where displaced versions go.
    pub(super) undo: OwnedFd,
    pub(super) home: OwnedFd,
    pub(super) session: SessionId,
    pub(super) has_pre_set: bool,
    mtime: FileTime,
    /// The private mount lives as long as this.
    _mount: Option<OwnedFd>,
}

impl Part {
    /// Returns the time of a root that steps may be applied to.
    pub(super) fn look(wanted: &PartRoot) -> Result<FileTime, AgentError> {
        let (_mount, root) = private(&wanted.root).map_err(|error| at(&wanted.root, error))?;
        check_subvolume(&root, wanted)?;
        Ok(Seen::of(&root).map_err(|error| at(&wanted.root, error))?.mtime())
    }

    /// Opens the root and makes fresh staging; what dead sessions left is swept. `mtime` is the root's time.
    pub(super) fn open(wanted: &PartRoot, mtime: FileTime, session: &SessionId) -> Result<Part, AgentError> {
        let path = wanted.root.clone();
        let (mount, root) = private(&path).map_err(|error| at(&path, error))?;
        check_subvolume(&root, wanted)?;
        let home_path = path.join(HOME.as_bytes());
        let frozen_by = Seen::of(&root).ok().and_then(|seen| seen.frozen_by());
        let home = own_dir(&root, HOME).map_err(|error| match error {
            Errno::PERM if frozen_by.is_some() => {
                let why = frozen_by.map_or_else(String::new, |flag| explain_frozen("it", flag));
                AgentError::failed(format!("`{path}`: {why}"))
            }
            Errno::PERM | Errno::NOTDIR | Errno::LOOP => AgentError::failed(format!(
                "`{home_path}` is not a directory of ours; move it away and try again"
            )),
            error => at(&home_path, error),
        })?;
        let has_pre_set = !wanted.subvolume_uuid.is_empty();
        let swept = retire::sweep(&home, has_pre_set);
        let made = swept.and_then(|()| {
            // What a session of this name left without a pre set was replaced by now.
            remove::tree(&home, &format!("undo-{session}"))?;
            directories(&home, session)
        });
        let (stage, undo) = made.map_err(|error| {
            // Nothing of ours was made, or the next session sweeps it.
            let _ = unlinkat(&root, HOME, AtFlags::REMOVEDIR);
            at(&home_path, error)
        })?;
        let (stage, session) = (Arc::new(stage), session.clone());
        let part = Part { path, root, stage, undo, home, session, has_pre_set, mtime, _mount: mount };
        part.reserve().map_err(|error| {
            // What cannot be removed now is swept by the next session.
            let _ = part.remove_all();
            AgentError::io(format!("reserve in `{home_path}`"), &error.into())
        })?;
        Ok(part)
    }

    /// Opens what a session left below a root; `None` if its staging is not there, which goes last of all that is its.
    pub(super) fn reopen(
        wanted: &PartRoot,
        mtime: FileTime,
        session: &SessionId,
    ) -> Result<Option<Part>, AgentError> {
        let path = wanted.root.clone();
        let (mount, root) = private(&path).map_err(|error| at(&path, error))?;
        check_subvolume(&root, wanted)?;
        match Seen::at(&root, HOME) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(|error| at(&path, error))?,
        };
        let home = own_dir(&root, HOME).map_err(|error| at(&path, error))?;
        match Seen::at(&home, &*stage_name(session)) {
            Err(Errno::NOENT) => {
                // It stays if something else is in it.
                let _ = unlinkat(&root, HOME, AtFlags::REMOVEDIR);
                return Ok(None);
            }
            found => found.map_err(|error| at(&path, error))?,
        };
        let (stage, undo) = directories(&home, session).map_err(|error| at(&path, error))?;
        Ok(Some(Part {
            path,
            root,
            stage: Arc::new(stage),
            undo,
            home,
            session: session.clone(),
            has_pre_set: !wanted.subvolume_uuid.is_empty(),
            mtime,
            _mount: mount,
        }))
    }

    /// Sets what a root must end with where nothing else of a session is left, durably: its metadata, or the time it had
    /// before.
    pub(super) fn end_root(
        wanted: &PartRoot,
        mtime: FileTime,
        becomes: Option<&RootMeta>,
    ) -> Result<(), AgentError> {
        let (_mount, root) = private(&wanted.root).map_err(|error| at(&wanted.root, error))?;
        check_subvolume(&root, wanted)?;
        let set = match becomes {
            Some(becomes) => becomes.set(&root).map(drop),
            None => meta::set_mtime(&root, mtime),
        };
        set.and_then(|()| fsync(&root)).map_err(|error| at(&wanted.root, error))
    }

    fn reserve(&self) -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat(&self.stage, RESERVE, flags, Mode::from_raw_mode(0o600))?;
        match fallocate(&fd, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Err(Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the space back that was kept for the commit.
    pub(super) fn free_reserve(&self) {
        // Gone is gone; without it the commit is only a little less safe.
        let _ = unlinkat(&self.stage, RESERVE, AtFlags::empty());
    }

    /// Waits until all of the file system is on the disk.
    pub(super) fn sync(&self) -> Result<(), AgentError> {
        syncfs(&self.root).map_err(|error| AgentError::io(format!("sync of `{}`", self.path), &error.into()))
    }

    /// Takes a path of this part to an absolute one.
    pub(super) fn absolute(&self, path: &BytePath) -> BytePath {
        self.path.join(path.as_bytes())
    }

    /// Where displaced versions are, for messages.
    pub(super) fn undo_path(&self) -> BytePath {
        undo_of(&self.path, &self.session)
    }

    /// Where versions are kept that nobody else holds, for messages.
    pub(super) fn kept_path(&self) -> BytePath {
        self.absolute(&format!("{HOME}/{}", retire::kept_name(&self.session)).as_str().into())
    }

    /// Removes staging after a commit, with what older sessions left. Displaced versions stay where there is no pre set;
    /// returns whether there are any.
    pub(super) fn clean_up(&self) -> Result<bool, Errno> {
        let own_undo = format!("undo-{}", self.session);
        let stays = !self.has_pre_set && !remove::list(&self.undo)?.is_empty();
        let names: Vec<String> =
            remove::list(&self.home)?.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        for kind in GOING {
            for name in names.iter().filter(|name| name.starts_with(kind) && !(stays && **name == own_undo)) {
                remove::tree(&self.home, name)?;
            }
        }
        self.remove_home();
        Ok(stays)
    }

    /// Removes all traces of a session that was not committed or is given up, as many as it can. Displaced versions stay where
    /// there is no pre set, as behind a commit.
    pub(super) fn remove_all(&self) -> Result<(), Errno> {
        self.free_reserve();
        let own_undo = format!("undo-{}", self.session);
        let stays = !self.has_pre_set && !remove::list(&self.undo)?.is_empty();
        let names = GOING.map(|kind| format!("{kind}{}", self.session));
        let going = names.iter().filter(|name| !(stays && **name == own_undo));
        let mut removed = Ok(());
        for name in going {
            removed = removed.and(remove::tree(&self.home, name));
        }
        self.remove_home();
        self.restore_mtime();
        removed
    }

    fn remove_home(&self) {
        // It stays if something of another session is in it.
        let _ = unlinkat(&self.root, HOME, AtFlags::REMOVEDIR);
    }

    /// Takes back what making and removing our directory did to the root's time.
    pub(super) fn restore_mtime(&self) {
        // A wrong time of the root is seen and put right by the next plan.
        let _ = meta::set_mtime(&self.root, self.mtime);
    }
}

/// Opens a root through a copy of its mount; plainly where that is not permitted.
fn private(path: &BytePath) -> Result<(Option<OwnedFd>, OwnedFd), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    match open_tree(CWD, path.as_path(), flags) {
        Ok(mount) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let root = openat(&mount, c".", flags, Mode::empty())?;
            Ok((Some(mount), root))
        }
        Err(_) => open::root(path).map(|root| (None, root)),
    }
}

fn check_subvolume(root: &OwnedFd, wanted: &PartRoot) -> Result<(), AgentError> {
    if wanted.subvolume_uuid.is_empty() {
        return Ok(());
    }
    let plain = |uuid: &str| uuid.replace('-', "").to_ascii_lowercase();
    let found = btrfs::subvolume_uuid(root)
        .map_err(|error| AgentError::io(format!("subvolume of `{}`", wanted.root), &error))?;
    match found {
        Some(found) if plain(&found) == plain(&wanted.subvolume_uuid) => Ok(()),
        _ => Err(AgentError::failed(format!(
            "`{}` does not lie on the subvolume of the plan any more; plan again",
            wanted.root
        ))),
    }
}

fn at(path: &BytePath, error: Errno) -> AgentError {
    AgentError::io(format!("`{path}`"), &error.into())
}

/// Returns where a session keeps what it displaced below a root, each under the number of its step.
pub fn undo_of(root: &BytePath, session: &SessionId) -> BytePath {
    root.join(format!("{HOME}/undo-{session}").as_bytes())
}

fn stage_name(session: &SessionId) -> String {
    format!("stage-{session}")
}

/// Makes or opens the two directories of a session.
fn directories(home: &OwnedFd, session: &SessionId) -> Result<(OwnedFd, OwnedFd), Errno> {
    Ok((own_dir(home, &stage_name(session))?, own_dir(home, &format!("undo-{session}"))?))
}

/// Makes or opens a directory that only we may use.
pub(super) fn own_dir(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(&parent, name, flags, Mode::empty())?;
    if Seen::of(&dir)?.uid() != rustix::process::geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    meta::strip_acls(&dir)?;
    fchmod(&dir, Mode::from_raw_mode(0o700))?;
    Ok(dir)
}
