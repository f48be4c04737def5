//! Taking whole subvolumes back to a set of snapshots.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, Hostname, SessionId, SetId, SnapshotSet, SubvolumeName, UtcStamp};

use super::{Fallback, StrayJournal, Trial, TrialFor};

/// A rollback of two machines by one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Together {
    /// The other machine.
    pub partner: Hostname,
    /// Whether this machine decides: the rollback is when its journal says committed. The other one does what it says.
    pub leads: bool,
}

/// What a rollback is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackWish {
    /// The session of the rollback itself.
    pub session: SessionId,
    /// When it was asked for.
    pub stamp: UtcStamp,
    /// Where snapshots lie; the journal lies beside them.
    pub snapshot_dir: BytePath,
    /// The set that is gone back to.
    pub to: SnapshotSet,
    /// Which of its subvolumes.
    pub subvolumes: Vec<SubvolumeName>,
    /// With which other machine.
    pub together: Option<Together>,
    /// For how long it holds if nobody confirms it; none: for good.
    pub trial: Option<TrialFor>,
    /// That nobody asked for it: the machine does not start any more.
    pub fallback: Option<Fallback>,
}

/// One thing to do about a rollback. All but `Look`, `Check`, `Strays` and `Decided` need the machine's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollbackOrder {
    /// Only looks.
    Look,
    /// Looks for what would keep it from working; writes nothing.
    Check(RollbackWish),
    /// Only looks for journals beside these snapshots that the machine's own state does not name.
    Strays(BytePath),
    /// Makes the new trees beside the old ones. The state of now was kept before.
    Prepare(RollbackWish),
    /// Puts what was prepared in place.
    Commit,
    /// Drops what was prepared.
    Abort,
    /// Removes the trees that are not in place. What was written to them since the last set of them is kept as a set first,
    /// of this stamp.
    Confirm(UtcStamp),
    /// Confirms a rollback on trial, and keeps the old trees: it may still be taken back by hand.
    Stay,
    /// Puts the old trees back in place.
    Cancel,
    /// Says what this machine decided of a rollback that it led; reads nothing but that.
    Decided {
        /// Where snapshots lie.
        snapshot_dir: BytePath,
        /// The session of the rollback.
        session: SessionId,
    },
}

/// How far a rollback has come. A machine that finds one in another phase than `Done` and `Cancelled` finishes it by itself:
/// what was not committed is dropped, the rest goes on to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackPhase {
    /// The new trees are being made.
    Preparing,
    /// The new trees stand beside the old ones.
    Prepared,
    /// It was decided: the new trees are being put in place.
    Committed,
    /// The new trees are in place; the old ones stand beside them.
    Done,
    /// The old trees are being put back.
    Cancelling,
    /// The old trees are back; what stands beside them goes.
    Cancelled,
    /// It was confirmed: the old trees are being removed.
    Confirmed,
}

/// One subvolume of a rollback. Trees are told by their uuids, never by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackMember {
    /// The flat name.
    pub name: SubvolumeName,
    /// The uuid of the file system that it lies on; devices have another name after a restart.
    pub fs_uuid: String,
    /// The uuid of the tree that was there.
    pub old_uuid: String,
    /// The uuid of the tree that takes its place; empty before it was made.
    pub new_uuid: String,
    /// The uuid of the snapshot that it is made of.
    pub made_of: String,
    /// Where it was mounted.
    #[serde(default)]
    pub point: BytePath,
}

/// A subvolume inside of one that goes back. It is in no snapshot of that, and moves along with what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Where it is seen.
    pub path: BytePath,
    /// Whether the set that is gone back to has a snapshot of its own of it.
    pub is_held: bool,
    /// Why it is still in the former tree, though nobody works on that any more.
    pub stays: Option<String>,
}

/// How a subvolume comes to the tree that is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Its flat name.
    pub name: SubvolumeName,
    /// What it waits for; at once if for nothing.
    pub waits: Option<Waits>,
}

/// What a subvolume waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// The restart, for this reason.
    For(String),
    /// The restart, or that these use it no more.
    Users(TreeUsers),
}

/// Who uses a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeUsers {
    /// Some of them.
    pub named: Vec<TreeUser>,
    /// How many there are beyond those.
    pub more: u64,
    /// Whose login it is, if they are all that systemd starts for the very login by which this is asked.
    pub own_login: Option<String>,
}

/// A process that uses a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeUser {
    /// Its number.
    pub pid: u32,
    /// What it runs.
    pub program: String,
    /// Whose it is.
    pub user: String,
    /// The service of that user that it belongs to, if no login has to be there for it (`loginctl enable-linger`).
    pub service: Option<String>,
}

impl std::fmt::Display for TreeUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |TreeUser { pid, program, user, service }: &TreeUser| match service {
            Some(service) => format!("`{program}` (pid {pid}, `{service}` of {user})"),
            None => format!("`{program}` (pid {pid}, {user})"),
        };
        let named: Vec<String> = self.named.iter().map(one).collect();
        f.write_str(&named.join(", "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A tree that is not in place, in which somebody works who came there by the mount of something that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Of which subvolume it is.
    pub name: SubvolumeName,
    /// Where it is seen.
    pub at: BytePath,
    /// Who works there; nobody, if that cannot be told.
    pub users: TreeUsers,
}

impl Reached {
    /// Says who keeps it from being removed.
    pub fn explain(&self) -> String {
        let Self { name, at, users } = self;
        match users.named.is_empty() {
            true => format!(
                "`{at}` is a tree of `{name}` that is not in place, and it cannot be told whether somebody works there"
            ),
            false => format!("`{at}` is a tree of `{name}` that is not in place, and used by {users}"),
        }
    }
}

/// A rollback, as its journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackState {
    /// Its session.
    pub session: SessionId,
    /// When it was asked for.
    pub stamp: UtcStamp,
    /// The set that it goes back to.
    pub to: SetId,
    /// How far it has come.
    pub phase: RollbackPhase,
    /// The subvolumes.
    pub members: Vec<RollbackMember>,
    /// With which other machine it goes.
    #[serde(default)]
    pub together: Option<Together>,
    /// The records of last syncs as they were before: key and content.
    pub records: Vec<(String, String)>,
    /// Whether the machine takes it back by itself.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// That nobody asked for it: the machine did not start any more.
    #[serde(default)]
    pub fallback: Option<Fallback>,
}

/// What is to be said of a rollback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackLook {
    /// The rollback that is under way or not confirmed; none if there is none.
    pub state: Option<RollbackState>,
    /// Subvolumes whose other tree is still mounted: what runs works on that one until the machine is started anew.
    pub in_use: Vec<SubvolumeName>,
    /// Trees that are not in place and not mounted, in which somebody works all the same.
    pub reached: Vec<Reached>,
    /// Journals that the machine's own state does not name, if that was asked.
    pub strays: Vec<StrayJournal>,
    /// What keeps it from working.
    pub problems: Vec<String>,
    /// What is to be known before, if it was checked, and keeps nobody from anything.
    pub warnings: Vec<String>,
    /// What was decided, if that was asked and is settled.
    pub decided: Option<bool>,
    /// The set that keeps what was removed, if no other set had it.
    pub kept: Option<SetId>,
    /// Whether the subvolumes that it was checked for hold what starts the machine or lets people in.
    pub is_vital: bool,
    /// Why nobody would look after a rollback on trial after a restart, if it was checked and that is so.
    pub unattended: Option<String>,
    /// So many seconds are left to confirm it, if its time runs.
    pub left_seconds: Option<u64>,
    /// Subvolumes inside that are to move along: those of now, if it was checked, otherwise those that are still in trees
    /// that are not in place.
    pub inside: Vec<Inside>,
    /// How many more of these there are.
    pub inside_more: u64,
    /// Why they would come later than whoever needs them at boot, if it was checked and that is so.
    pub late: Option<String>,
    /// How the subvolumes would go back, if it was checked; otherwise why some work on the former tree still.
    pub ways: Vec<Way>,
    /// Where nothing is mounted, since an exchange was cut off right there.
    pub not_mounted: Vec<BytePath>,
    /// That somebody has put some of the trees from before back in place, and not all, and what to do about it.
    pub moved: Option<String>,
}

impl RollbackState {
    /// Returns the machine that decides, if this one waits for its word.
    pub fn waits_for(&self) -> Option<&Hostname> {
        let together = self.together.as_ref().filter(|together| !together.leads)?;
        (self.phase == RollbackPhase::Prepared).then_some(&together.partner)
    }
}

impl RollbackLook {
    /// Returns the first subvolume that should have moved along and has not, and why.
    pub fn left_behind(&self) -> Option<(&BytePath, &str)> {
        self.inside.iter().find_map(|inside| Some((&inside.path, inside.stays.as_deref()?)))
    }

    /// Says what is missing since an exchange was cut off, if so.
    pub fn explain_not_mounted(&self) -> Option<String> {
        let first = self.not_mounted.first()?;
        Some(format!(
            "`{first}` is not mounted: this machine was cut off while it put another tree there; the next `pc-switcher rollback`, `undo` \
             or sync mounts it (so does `sudo mount {first}`)"
        ))
    }

    /// Returns why no sync may start, if so.
    pub fn forbids_sync(&self) -> Option<String> {
        let state = self.state.as_ref()?;
        if let Some(why) = self.explain_not_mounted() {
            return Some(why);
        }
        if self.moved.is_some() {
            return self.moved.clone();
        }
        match state.phase {
            // The former trees are nobody's any more; what cannot be removed of them is in nobody's way.
            RollbackPhase::Confirmed => None,
            // A sync would not see them.
            RollbackPhase::Done | RollbackPhase::Cancelled
                if self.in_use.is_empty() && self.left_behind().is_some() =>
            {
                let (first, why) = self.left_behind()?;
                Some(format!("rollback {} is not at its end for `{first}`: {why}", state.session))
            }
            // What a sync did would go with the trees.
            RollbackPhase::Done if self.in_use.is_empty() => state.on_trial().map(|trial| {
                format!("rollback {} waits for somebody: {}", state.session, trial.explain(self.left_seconds))
            }),
            RollbackPhase::Cancelled if self.in_use.is_empty() => None,
            RollbackPhase::Cancelled if self.may_come_again() => Some(format!(
                "{}; start it anew first, or keep the rollback after all with `pc-switcher rollback confirm`",
                state.explain_returned()?
            )),
            RollbackPhase::Done | RollbackPhase::Cancelled => {
                let names: Vec<String> = self.in_use.iter().map(|name| format!("`{name}`")).collect();
                Some(format!(
                    "after rollback {} it still works on the former tree of {}; start it anew first",
                    state.session,
                    names.join(", ")
                ))
            }
            _ if state.waits_for().is_some() => Some(format!(
                "it does not know whether {} decided for rollback {}, and keeps its old state until they meet",
                state.waits_for()?,
                state.session
            )),
            _ => Some(format!(
                "rollback {} is not at its end; `pc-switcher rollback status` says more",
                state.session
            )),
        }
    }
}
