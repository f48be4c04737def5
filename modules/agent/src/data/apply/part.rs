//! One part's root on the target with its staging directories.
//!
//! The root is opened through a private copy of its mount that holds no mounts below it, so what is mounted in the tree is
//! never crossed nor in the way. Staging lies in `.pc-switcher` at the root, on the same subvolume: a rename is all that a
//! commit takes. Everything there belongs to root, mode 0700, without inherited ACLs.
//!
//! What a dead session left: staging that was never committed is removed. Staging past its commit record is left for a
//! redo until a later session has committed, whose plan was made from what it found and thus replaces it. Displaced
//! versions (`undo-…`) without such staging are removed where there is btrfs, since the pre set of that session holds them
//! too: a version was only displaced if it was the planned one. Without btrfs they are the only copy and stay until the
//! next session has committed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, fallocate, fchmod, mkdirat, openat, syncfs,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use pc_switcher_contract::{BytePath, SessionId};

use super::{journal, remove};
use crate::data::seen::Seen;
use crate::data::{HOME, btrfs, meta, open};
use crate::proto::{AgentError, FileTime, PartRoot};

/// Space kept back for the commit, and the name of the file that holds it.
const RESERVE_BYTES: u64 = 4 << 20;
const RESERVE: &str = "reserve";

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
    home: OwnedFd,
    session: SessionId,
    has_pre_set: bool,
    mtime: FileTime,
    /// The private mount lives as long as this.
    _mount: Option<OwnedFd>,
}

impl Part {
    /// Opens the root and makes fresh staging; what dead sessions left is swept.
    pub(super) fn open(wanted: &PartRoot, session: &SessionId) -> Result<Part, AgentError> {
        let path = wanted.root.clone();
        let failed = |error: Errno| AgentError::io(format!("`{path}`"), &error.into());
        let (mount, root) = private(&path).map_err(failed)?;
        check_subvolume(&root, wanted)?;
        let mtime = Seen::of(&root).map_err(failed)?.mtime();
        let at_home = |error: Errno| AgentError::io(format!("`{path}/{HOME}`"), &error.into());
        let home = own_dir(&root, HOME).map_err(|error| match error {
            Errno::PERM | Errno::NOTDIR | Errno::LOOP => AgentError::failed(format!(
                "`{path}/{HOME}` is not a directory of ours; move it away and try again"
            )),
            error => at_home(error),
        })?;
        let made = staging(&home, session, !wanted.subvolume_uuid.is_empty());
        let (stage, undo) = made.map_err(|error| {
            // Nothing of ours was made, or the next session sweeps it.
            let _ = unlinkat(&root, HOME, AtFlags::REMOVEDIR);
            at_home(error)
        })?;
        let part = Part {
            path,
            root,
            stage: Arc::new(stage),
            undo,
            home,
            session: session.clone(),
            has_pre_set: !wanted.subvolume_uuid.is_empty(),
            mtime,
            _mount: mount,
        };
        part.reserve().map_err(|error| {
            part.remove_all();
            AgentError::io(format!("reserve in `{}/{HOME}`", part.path), &error.into())
        })?;
        Ok(part)
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
        self.absolute(&format!("{HOME}/undo-{}", self.session).as_str().into())
    }

    /// Forgets that this session was committed: what is left of it is no work for a redo.
    pub(super) fn end_journal(&self) {
        // If it stays, a redo finds every step done.
        let _ = unlinkat(&self.stage, journal::NAME, AtFlags::empty());
    }

    /// Removes staging after a commit, with what older sessions left. Displaced versions go too if the pre set holds them
    /// and `keep` is not set; returns whether some stay.
    pub(super) fn clean_up(&self, keep: bool) -> Result<bool, Errno> {
        let own_undo = format!("undo-{}", self.session);
        let stays = (keep || !self.has_pre_set) && self.thin_out()?;
        for (name, _) in remove::list(&self.home)? {
            let name = name.to_string_lossy();
            let ours = name.starts_with("stage-") || name.starts_with("undo-") || name.starts_with("deep-");
            if ours && !(stays && *name == *own_undo) {
                remove::tree(&self.home, &name)?;
            }
        }
        self.remove_home();
        Ok(stays)
    }

    /// Removes displaced names of inodes that live on under another name, so that nothing live shares an inode with undo.
    /// Returns whether something is left.
    fn thin_out(&self) -> Result<bool, Errno> {
        let mut left = false;
        for (name, file_type) in remove::list(&self.undo)? {
            if file_type != FileType::Directory && Seen::at(&self.undo, &name)?.nlink() > 1 {
                unlinkat(&self.undo, &name, AtFlags::empty())?;
            } else {
                left = true;
            }
        }
        Ok(left)
    }

    /// Removes all traces of a session that was not committed.
    pub(super) fn remove_all(&self) {
        self.free_reserve();
        for kind in ["stage", "undo"] {
            // What cannot be removed now is swept by the next session.
            let _ = remove::tree(&self.home, &format!("{kind}-{}", self.session));
        }
        self.remove_home();
        self.restore_mtime();
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

/// Sweeps what is dead and makes the two directories of a session.
fn staging(home: &OwnedFd, session: &SessionId, has_pre_set: bool) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (stage, undo) = (format!("stage-{session}"), format!("undo-{session}"));
    remove::tree(home, &stage)?;
    remove::tree(home, &undo)?;
    sweep(home, has_pre_set)?;
    Ok((own_dir(home, &stage)?, own_dir(home, &undo)?))
}

/// Makes or opens a directory that only we may use.
fn own_dir(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
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

/// Removes what dead sessions left and nobody needs; see the module's page.
fn sweep(home: &OwnedFd, has_pre_set: bool) -> Result<(), Errno> {
    let names: Vec<String> =
        remove::list(home)?.into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let mut committed = Vec::new();
    for name in &names {
        let Some(session) = name.strip_prefix("stage-") else { continue };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stage = openat(home, name.as_str(), flags, Mode::empty())?;
        // What cannot be read is not known to be dead.
        if journal::is_committed(&stage).unwrap_or(true) {
            committed.push(session);
        } else {
            remove::tree(home, name)?;
        }
    }
    for name in &names {
        let dead_undo = name.strip_prefix("undo-").is_some_and(|session| !committed.contains(&session));
        if (dead_undo && has_pre_set) || name.starts_with("deep-") {
            remove::tree(home, name)?;
        }
    }
    Ok(())
}
