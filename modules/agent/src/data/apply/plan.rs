//! What the commit has to do, after staging took in what it could.

use pc_switcher_contract::BytePath;

use crate::proto::{FileTime, Identity, Meta, Rights};

/// One step of the commit.
pub(super) struct Step {
    /// Its number over the whole session, which is also its name in staging and in undo.
    pub(super) number: u64,
    /// The part.
    pub(super) part: usize,
    /// Where, relative to the part.
    pub(super) path: BytePath,
    /// What.
    pub(super) action: Action,
}

impl Step {
    /// Whether it moves what is there already.
    pub(super) fn is_move(&self) -> bool {
        matches!(self.action, Action::Move { .. } | Action::Swap { .. } | Action::Aside { .. })
    }
}

/// What a step does.
pub(super) enum Action {
    /// Brings in what is staged: a file, a link, or a directory with all below it.
    Put {
        /// What stands there.
        replaces: Option<Identity>,
        /// Names in a staged directory that are linked to live inodes before it is brought in.
        links: Vec<LateLink>,
    },
    /// Makes another name of a live inode.
    Link {
        /// A live name.
        to: BytePath,
        /// What stands there.
        replaces: Option<Identity>,
    },
    /// Removes a name.
    Remove {
        /// What stands there.
        expect: Identity,
    },
    /// Removes an empty directory.
    RemoveDir,
    /// Sets metadata.
    SetMeta {
        /// The metadata.
        meta: Meta,
        /// What stands there, if it must be checked.
        expect: Option<Identity>,
    },
    /// Sets metadata of a directory.
    SetDir {
        /// The metadata.
        meta: Meta,
        /// What becomes of owner, mode and attributes.
        rights: Rights,
    },
    /// Moves what is there already.
    Move {
        /// Where it stands.
        from: BytePath,
        /// The step that took it away, if one did.
        aside: Option<u64>,
        /// What is moved.
        expect: Identity,
        /// What stands at its new place.
        replaces: Option<Identity>,
    },
    /// Exchanges two things.
    Swap {
        /// The other path.
        with: BytePath,
        /// What stands at the path.
        expect: Identity,
        /// What stands at the other one.
        other: Identity,
    },
    /// Takes something away for a moment.
    Aside {
        /// What stands there.
        expect: Identity,
    },
}

/// A name below a staged directory for a live inode.
pub(super) struct LateLink {
    /// Its path relative to the part, for messages.
    pub(super) path: BytePath,
    /// The live name.
    pub(super) to: BytePath,
    /// Its place in staging.
    pub(super) staged: BytePath,
    /// The time that its staged directory has, once the link is made.
    pub(super) mtime: Option<FileTime>,
}
