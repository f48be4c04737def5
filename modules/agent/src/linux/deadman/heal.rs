//! Takes a sync back to its pre set: path by path while people work, and as a whole where that cannot be done.

use std::collections::HashSet;

use pc_switcher_contract::{BytePath, SessionId, SnapshotKind, SnapshotSet, SubvolumeName, UtcStamp};

use super::{Now, bytes_of, now, read, write};
use crate::data::apply::{Watch, has_list, list_of, redo};
use crate::data::undo;
use crate::linux::rollback;
use crate::linux::snapshots::{self, Needs};
use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, CopyOrder, CreateSet, DeadmanState, DeadmanWish, Healed, HealedHow, Patience, RedoneHow,
    RollbackOrder, RollbackWish, TakeSet, UndoLine, UndoRequest, UndoWord, Words,
};
use crate::server::Call;

/// So many syncs that were taken back are remembered.
const KEPT: usize = 8;

/// So long after a start disks come that nothing waits for, such as those of `nofail`.
const DISKS_COME_MS: u64 = 120_000;

/// So many paths are named of those that stay.
const NAMED: usize = 10;

/// Takes back what is armed, and remembers why: path by path, or, if that cannot be done and `as_a_whole` allows it, by the subvolumes of
/// the pre set. Long after the sync that would take people's own work along. The caller holds the machine's lock.
///
/// # Errors
/// If it cannot be taken back; then it is armed as before, and can be tried again.
pub(super) fn heal(
    state: &StateDir,
    why: &str,
    as_a_whole: bool,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let Some(armed) = read(state)?.armed else { return Ok(()) };
    let told = |how, kept: &SnapshotSet| over(read(state)?, &armed.wish, why, Some((how, kept)));
    let now = match take_back(&armed.wish, as_a_whole, state, &told, watch)? {
        Some((how, kept)) => told(how, &kept)?,
        None => over(read(state)?, &armed.wish, why, None)?,
    };
    write(state, &now)
}

/// Returns what is remembered once a sync is taken back, if it was: how, and the set that keeps the state before.
fn over(
    mut found: DeadmanState,
    wish: &DeadmanWish,
    why: &str,
    done: Option<(HealedHow, &SnapshotSet)>,
) -> Result<DeadmanState, AgentError> {
    found.armed = None;
    if let Some((how, kept)) = done {
        let DeadmanWish { session, from, pre, .. } = wish.clone();
        let on_another_disk = match how {
            HealedHow::RolledBack(_) => apart(&pre),
            HealedHow::Undone { .. } => Vec::new(),
        };
        let (at, why, kept) = (stamp(), why.to_owned(), kept.id());
        found.healed.push(Healed { session, from, at, why, how, kept, on_another_disk });
        let many = found.healed.len().saturating_sub(KEPT);
        found.healed.drain(..many);
    }
    Ok(found)
}

/// Says what of a sync lies on a disk that is not there yet and may still come: without it nothing can be taken back path by path.
pub(super) fn waits_for(wish: &DeadmanWish, now: &Now) -> Option<String> {
    let may_come = now.since_boot_ms < DISKS_COME_MS;
    let why = snapshots::away(&wish.pre).filter(|_| may_come)?;
    Some(format!("{why}, and disks may come until {} s after the start", DISKS_COME_MS / 1000))
}

/// What will be remembered of a sync that is taken back in this way.
type Told<'a> = &'a dyn Fn(HealedHow, &SnapshotSet) -> Result<DeadmanState, AgentError>;

/// Returns what of a set lies on another disk than the snapshots of `/`.
fn apart(set: &SnapshotSet) -> Vec<SubvolumeName> {
    let apart = set.members.iter().filter(|member| member.apart.is_some());
    apart.map(|member| member.name.subvolume.clone()).collect()
}

/// Returns how it was taken back, and the set that keeps the state right before; `None` if the sync changed nothing here.
fn take_back(
    wish: &DeadmanWish,
    as_a_whole: bool,
    state: &StateDir,
    told: Told<'_>,
    watch: &dyn Watch,
) -> Result<Option<(HealedHow, SnapshotSet)>, AgentError> {
    // Until a commit is at its end nothing says what the sync did.
    for redone in redo(state, Patience::TryAgainLater, watch)? {
        if redone.session == wish.session
            && let RedoneHow::Pending(why) = redone.how
        {
            return Err(AgentError::failed(format!("its commit cannot be brought to its end: {why}")));
        }
    }
    let Some(list) = list_of(&wish.pre) else { return Ok(None) };
    let Some(snapshot_dir) = wish.pre.dir() else { return Ok(None) };
    if !has_list(list.as_path()) {
        return Ok(None);
    }
    // What lies on a disk that is away cannot be compared, and that disk may never come back: all that is here goes back as a whole,
    // and what lies there stays as the sync left it. One that is only late is waited for: the next tries come after some seconds.
    let is_late = now()?.since_boot_ms >= DISKS_COME_MS;
    let away = snapshots::away(&wish.pre).filter(|_| as_a_whole && is_late);
    let pre = if away.is_some() { wish.pre.at_home() } else { wish.pre.clone() };
    if let Some(why) = &away
        && pre.members.iter().all(|member| member.name.subvolume.is_nested())
    {
        let id = pre.id();
        return Err(AgentError::failed(format!(
            "nothing goes back to set `{id}`: {why}, and nothing else of it can be put in place; mount it and try again"
        )));
    }
    snapshots::check_set(&pre)
        .map_err(|why| AgentError::failed(format!("set `{}` cannot be trusted: {why}", pre.id())))?;
    let post = match away {
        Some(_) => None,
        None => Some(match post_of(wish, &snapshot_dir)? {
            Some(post) => post,
            None => {
                let request = take(&pre, &snapshot_dir, SnapshotKind::PostSync, wish.session.clone());
                snapshots::take_set(&request)?.0
            }
        }),
    };
    let set = take(&pre, &snapshot_dir, SnapshotKind::PreRollback, fresh()?);
    let note = Some(format!("before sync {} was taken back by itself", wish.session));
    let words = Words { note, ..Words::default() };
    let request = CreateSet { set, words, pinned: false, copies: CopyOrder::default() };
    let (created, reference) = snapshots::create_set(&request, &|| false)?;
    let kept = created.set;
    let whole = || roll_back(wish, &snapshot_dir, state, &|how| told(how, &kept), watch);
    let how = match &post {
        None => whole(),
        Some(post) => undo_it(wish, post, &kept, state, watch).or_else(|error| {
            if !as_a_whole {
                return Err(error);
            }
            whole().map_err(|mut other| {
                other.message = format!("{error}; as a whole: {}", other.message);
                other
            })
        }),
    };
    match how {
        Ok(how) => Ok(Some((how, kept))),
        Err(error) => {
            // Nothing was taken back, and each further try takes one anew.
            drop(reference);
            let _ = snapshots::drop_set(&kept);
            Err(error)
        }
    }
}

/// Finds the sync's post set, if it came to that.
fn post_of(wish: &DeadmanWish, snapshot_dir: &BytePath) -> Result<Option<SnapshotSet>, AgentError> {
    let mut post = None;
    snapshots::list_sets(snapshot_dir.as_path(), Ok(Needs::default()), &mut |stored| {
        if stored.set.session == wish.session && stored.set.kind == SnapshotKind::PostSync {
            post = Some(stored.set);
        }
        Ok(())
    })?;
    Ok(post)
}

fn take(pre: &SnapshotSet, snapshot_dir: &BytePath, kind: SnapshotKind, session: SessionId) -> TakeSet {
    TakeSet {
        session,
        stamp: stamp(),
        kind,
        snapshot_dir: snapshot_dir.clone(),
        subvolumes: pre.members.iter().map(|member| member.name.subvolume.clone()).collect(),
    }
}

/// Takes back what nobody touched since.
fn undo_it(
    wish: &DeadmanWish,
    post: &SnapshotSet,
    now: &SnapshotSet,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<HealedHow, AgentError> {
    let request = UndoRequest {
        session: now.session.clone(),
        pre: wish.pre.clone(),
        post: post.clone(),
        now: Some(now.clone()),
    };
    let mut lines: Vec<UndoLine> = Vec::new();
    let report = undo::take_back(&request, &Call::alone(), state, watch, &mut |said| {
        lines.extend_from_slice(said);
        Ok(())
    })?;
    if let Some(error) = report.commit.failed {
        return Err(error);
    }
    let stays: HashSet<&BytePath> =
        report.commit.conflicts.iter().map(|conflict| &conflict.path).chain(&report.commit.kept).collect();
    let is_undone =
        |line: &&UndoLine| matches!(line.word, UndoWord::Undone(_)) && !stays.contains(&line.path);
    let (undone, left): (Vec<&UndoLine>, Vec<&UndoLine>) = lines.iter().partition(is_undone);
    Ok(HealedHow::Undone {
        paths: undone.len() as u64,
        left: left.len() as u64,
        named: left.iter().take(NAMED).map(|line| line.path.clone()).collect(),
    })
}

/// Puts the subvolumes of the pre set in place, for the next start.
fn roll_back(
    wish: &DeadmanWish,
    snapshot_dir: &BytePath,
    state: &StateDir,
    told: &dyn Fn(HealedHow) -> Result<DeadmanState, AgentError>,
    watch: &dyn Watch,
) -> Result<HealedHow, AgentError> {
    // What lies on another disk is of no rollback: there is one journal, on the disk of the snapshots of `/`.
    let members = wish.pre.members.iter().filter(|member| member.apart.is_none());
    let names = members.map(|member| member.name.subvolume.clone());
    let subvolumes: Vec<_> = names.filter(|name| !name.is_nested()).collect();
    let wish = RollbackWish {
        session: fresh()?,
        stamp: stamp(),
        snapshot_dir: snapshot_dir.clone(),
        to: wish.pre.clone(),
        subvolumes: subvolumes.clone(),
        together: None,
        // It goes back already: the other way leads to what shut people out.
        trial: None,
        fallback: None,
    };
    let how = HealedHow::RolledBack(subvolumes);
    rollback::run(&RollbackOrder::Prepare(wish), state, watch)?;
    // Whoever starts with the new trees would take the sync back once more, and for ever, since that is done already.
    let known = told(how.clone()).and_then(|now| {
        let bytes = bytes_of(&now)?;
        rollback::tell_new_trees(state, DeadmanState::KEY, bytes.as_deref())
    });
    if let Err(error) = known {
        // Whoever comes next drops it otherwise: nothing was decided.
        let _ = rollback::run(&RollbackOrder::Abort, state, watch);
        return Err(error);
    }
    rollback::run(&RollbackOrder::Commit, state, watch)?;
    Ok(how)
}

fn stamp() -> UtcStamp {
    UtcStamp::new(jiff::Timestamp::now())
}

/// Makes the id of a session that has no front.
fn fresh() -> Result<SessionId, AgentError> {
    const RANDOM: &str = "/proc/sys/kernel/random/uuid";
    let uuid = std::fs::read_to_string(RANDOM)
        .map_err(|error| AgentError::io(format!("cannot read `{RANDOM}`"), &error))?;
    uuid.get(..8).unwrap_or_default().parse().map_err(|error| AgentError::failed(format!("{error}")))
}
