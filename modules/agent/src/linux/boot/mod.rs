//! Boot protection (docs/adr/0022): before `/` is mounted each start is counted, and one that comes after too many that were not
//! found healthy puts the last known good state in place. A healthy start counts from nought again.
//!
//! **Invariant: whatever goes wrong here, the machine is started as ever.** The count lies beside the snapshots and is the switch
//! as well: without it nothing is done. Trees are exchanged by a rollback (`linux/rollback`), by no other way.

mod count;
mod decide;
mod look;
mod view;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pc_switcher_contract::{BytePath, SnapshotKind, SnapshotSet, SubvolumeName, UtcStamp, Vital};

use self::decide::{Standing, Verdict, decide, is_chosen_otherwise, subvolume_of};
use self::view::View;
use crate::data::apply::{Unwatched, Watch};
use crate::linux::rollback::{self, Stand};
use crate::linux::snapshots::{self, Needs};
use crate::linux::state::{STATE_PATH, StateDir};
use crate::proto::{
    AgentError, BootCount, BootLook, BootOrder, BootTree, Counted, Fallback, RollbackOrder, RollbackWish,
    TakeSet,
};

/// The unit that each start of a protected machine has: a tree without it does not say when it is healthy.
pub const UNIT: &str = "/etc/systemd/system/pc-switcher-boot.service";

/// What makes a start have it.
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/pc-switcher-boot.service";

/// The line that says that the machine must be started anew, for the script that starts this program.
pub const START_ANEW: &str = "the machine is started anew";

/// For so long the start waits for this.
const PATIENCE: Duration = Duration::from_secs(90);

/// The early part of a start, as its script asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Early {
    /// The device that `/` lies on.
    pub device: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// The options that `/` would be mounted with.
    pub options: String,
    /// The kernel's id of this start.
    pub boot_id: String,
    /// Where snapshots lie on the machine that is started.
    pub snapshot_dir: BytePath,
    /// After so many starts in a row that were not found healthy it goes back.
    pub limit: u32,
    /// What is mounted for it, `/` first.
    pub trees: Vec<BootTree>,
    /// Whether kernels do not go back with `/`.
    pub boot_apart: bool,
}

/// Does something about boot protection, on the machine that runs.
///
/// # Errors
/// If the machine cannot be looked at, or the count not be written.
pub fn run(snapshot_dir: &BytePath, order: &BootOrder) -> Result<BootLook, AgentError> {
    let dir = snapshot_dir.as_path();
    let failed = |error: io::Error| {
        AgentError::io(format!("cannot write the count of starts in `{snapshot_dir}`"), &error)
    };
    match order {
        BootOrder::Look => return look::look(snapshot_dir, &StateDir::new(STATE_PATH)),
        BootOrder::Count => {}
        BootOrder::On => count::make(dir).map_err(failed)?,
        BootOrder::Off => count::remove(dir).map_err(failed)?,
        BootOrder::Healthy => healthy(dir, &boot_id()?).map_err(failed)?,
    }
    Ok(BootLook { counted: count::read(dir).map_err(failed)?, ..BootLook::default() })
}

fn healthy(snapshot_dir: &Path, boot_id: &str) -> io::Result<()> {
    let well = BootCount { boot_id: boot_id.to_owned(), ..BootCount::default() };
    match count::read(snapshot_dir)? {
        Counted::Off => Ok(()),
        Counted::So(found) if found == well => Ok(()),
        Counted::So(_) | Counted::Garbled => count::write(snapshot_dir, &well),
    }
}

/// Somebody shut the machine down in order before it was found healthy: this start counts for nothing.
///
/// # Errors
/// If the count cannot be read or written.
pub fn leave(snapshot_dir: &Path) -> Result<(), AgentError> {
    let left = |boot_id: &str| match count::read(snapshot_dir)? {
        Counted::So(found) if found.boot_id == boot_id && found.starts > 0 => {
            count::write(snapshot_dir, &BootCount { starts: found.starts - 1, ..found })
        }
        _ => Ok(()),
    };
    left(&boot_id()?).map_err(|error| AgentError::io("cannot take this start off the count", &error))
}

fn boot_id() -> Result<String, AgentError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|error| AgentError::io(format!("`{path}`"), &error))?;
    Ok(text.trim().to_owned())
}

/// Counts a start, and puts another state in place if that is due, in a process of its own that is waited for. What is to be
/// told is printed; the first argument is what starts this program so that it comes to [`inside`], with a directory.
///
/// # Errors
/// If it cannot be done; the start goes on all the same.
pub fn before_root(
    early: &Early,
    program: &dyn Fn(&Path) -> Command,
    say: &mut dyn FnMut(&str),
) -> Result<(), AgentError> {
    let Some(root) = early.trees.first() else { return Err(AgentError::protocol("no tree is named")) };
    if is_chosen_otherwise(&early.command_line) {
        say("this start is not counted: somebody chose another one than each day's");
        return Ok(());
    }
    if subvolume_of(&early.options) != Some(root.name.as_str()) {
        say(&format!("this start is not counted: it is not of `{}`", root.name));
        return Ok(());
    }
    let view = View::open(&early.device, &early.trees)
        .map_err(|error| AgentError::io("what would be started cannot be mounted", &error))?;
    let child = program(view.dir()).stdin(Stdio::null()).spawn();
    let child = child.map_err(|error| AgentError::io("cannot start the part that counts", &error))?;
    wait(child)
}

fn wait(mut child: Child) -> Result<(), AgentError> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) if status.success() => return Ok(()),
            // It has said why.
            Ok(Some(_)) => return Ok(()),
            Err(error) => return Err(AgentError::io("cannot wait for the part that counts", &error)),
        }
    }
    // What it was doing is in the journal, and is brought to its end later.
    let _ = child.kill();
    Err(AgentError::failed(format!("it took longer than {} s, and is not waited for", PATIENCE.as_secs())))
}

/// The part of [`before_root`] that works in the mounted machine.
///
/// # Errors
/// If it cannot be done; the start goes on all the same.
pub fn inside(early: &Early, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
    view::enter(dir).map_err(|error| AgentError::io("cannot work in what would be started", &error))?;
    if !is_protected(Path::new("/")) {
        say("this start is not counted: the state that is started does not say when it is healthy");
        return Ok(());
    }
    step(early, &StateDir::new(STATE_PATH), &Unwatched, say)
}

/// Whether a tree says when it is healthy, or is too broken to tell.
fn is_protected(root: &Path) -> bool {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let is_whole = at("/etc/passwd").exists()
        && ["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"].iter().any(|init| at(init).exists())
        && at("/etc/systemd/system").is_dir();
    !is_whole || fs::symlink_metadata(at(WANTED)).is_ok()
}

/// Counts a start, and does what is due.
fn step(
    early: &Early,
    state: &StateDir,
    watch: &dyn Watch,
    say: &mut dyn FnMut(&str),
) -> Result<(), AgentError> {
    let dir = early.snapshot_dir.as_path();
    let written = |count: &BootCount| -> Result<(), AgentError> {
        count::write(dir, count)
            .map_err(|error| AgentError::io("cannot write the count of starts", &error))?;
        Ok(watch.after("counted")?)
    };
    let counted =
        count::read(dir).map_err(|error| AgentError::io("cannot read the count of starts", &error))?;
    let last = match &counted {
        Counted::So(found) => found.clone(),
        Counted::Off | Counted::Garbled => BootCount::default(),
    };
    let verdict = decide(&counted, early.limit, &early.boot_id, || standing(&last, state, watch));
    match verdict {
        Verdict::Off => Ok(()),
        Verdict::Count(count, said) => {
            written(&count)?;
            said.iter().for_each(|said| say(said));
            Ok(())
        }
        // Counted first: whatever becomes of it, it is tried a few times and no more.
        Verdict::FallBack(count) => {
            written(&count)?;
            say(&format!("{} starts in a row were not found healthy", last.starts));
            let (to, anew) = fall_back(early, last.starts, state, watch)?;
            written(&BootCount { starts: 1, went_to: Some(to.id()), ..count })?;
            say(&format!("this machine goes back to set {}, which was known to be good", to.id()));
            if anew {
                say(START_ANEW);
            }
            Ok(())
        }
        Verdict::TakeBack(count) => {
            written(&count)?;
            let why = format!("{} starts in a row with it were not found healthy", last.starts);
            rollback::take_back(why.clone(), state, watch)?;
            written(&BootCount { starts: 1, ..count })?;
            say(&format!("the rollback that waits to be confirmed is taken back: {why}"));
            Ok(())
        }
    }
}

/// How the rollback of the machine stands; `last` is what was counted up to the start before.
fn standing(last: &BootCount, state: &StateDir, watch: &dyn Watch) -> Standing {
    match rollback::settle(state, watch) {
        Ok(Stand::Free) => Standing::Free,
        Ok(Stand::OnTrial) => Standing::OnTrial,
        Ok(Stand::Settled(what)) => Standing::Settled(what),
        Ok(Stand::Fallen(fallback, to)) if fallback.boot_id == last.boot_id => {
            Standing::Fallen(BootCount { starts: 1, went_to: Some(to), ..BootCount::default() })
        }
        Ok(Stand::Fallen(_, to)) => {
            Standing::Taken(format!("it went to set {to} by itself before, which nobody has confirmed"))
        }
        Ok(Stand::Taken(why)) => Standing::Taken(why),
        Err(error) => Standing::Taken(error.to_string()),
    }
}

/// Puts the last known good state in place; returns it, and whether the kernel that runs does not fit it.
fn fall_back(
    early: &Early,
    starts: u32,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(SnapshotSet, bool), AgentError> {
    let none =
        || AgentError::failed("no set of what is started is marked as good: what is in place is started");
    let (to, subvolumes) = goal(&early.snapshot_dir, &early.trees)?.ok_or_else(none)?;
    let anew = needs_another_kernel(early, &to, &subvolumes)?;
    let stamp = UtcStamp::new(jiff::Timestamp::now());
    let wish = wish(&early.snapshot_dir, to.clone(), subvolumes.clone(), &early.boot_id, stamp, starts)?;
    let looked = rollback::run(&RollbackOrder::Check(wish.clone()), state, watch)?;
    if !looked.problems.is_empty() {
        return Err(AgentError::failed(looked.problems.join("; ")));
    }
    let safety = TakeSet {
        session: wish.session.clone(),
        stamp,
        kind: SnapshotKind::PreRollback,
        snapshot_dir: early.snapshot_dir.clone(),
        subvolumes,
    };
    let note = format!("what did not come to a healthy start, {starts} times");
    snapshots::take_early(&safety, to.hostname.clone(), note)?;
    watch.after("kept")?;
    rollback::fall_back(&wish, state, watch)?;
    Ok((to, anew))
}

/// Finds the newest set that is marked as good and has the tree of `/`, and which of the trees go back to it: those that start the
/// machine.
fn goal(
    snapshot_dir: &BytePath,
    trees: &[BootTree],
) -> Result<Option<(SnapshotSet, Vec<SubvolumeName>)>, AgentError> {
    let Some(root) = trees.first() else { return Ok(None) };
    let mut newest: Option<SnapshotSet> = None;
    snapshots::list_sets(snapshot_dir.as_path(), Ok(Needs::default()), &mut |stored| {
        let fits =
            stored.words.good && stored.lost().next().is_none() && stored.set.member(&root.name).is_some();
        if fits && newest.as_ref().is_none_or(|newest| newest.transaction() < stored.set.transaction()) {
            newest = Some(stored.set);
        }
        Ok(())
    })?;
    let vital = Vital::of([]);
    let goes = |tree: &&BootTree| {
        let holds_snapshots = snapshot_dir.is_within(&tree.point) && tree.point != root.point;
        !holds_snapshots && (tree.point == root.point || vital.area(&tree.point, true).is_some())
    };
    Ok(newest.map(|set| {
        let names = trees.iter().filter(goes).map(|tree| tree.name.clone());
        let names = names.filter(|name| set.member(name).is_some()).collect();
        (snapshots::with_pin(snapshot_dir.as_path(), &set), names)
    }))
}

/// Whether the state has no modules for the kernel that runs, so that its own kernel has to be started.
///
/// # Errors
/// If that one cannot be had: it does not go back with `/`.
fn needs_another_kernel(
    early: &Early,
    to: &SnapshotSet,
    subvolumes: &[SubvolumeName],
) -> Result<bool, AgentError> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = format!("lib/modules/{}", kernel.trim());
    let root = early.trees.first().and_then(|tree| to.member(&tree.name));
    let has = |dir: &Path| dir.join(&modules).is_dir() || dir.join("usr").join(&modules).is_dir();
    let is_there = root.is_none_or(|member| has(member.path.as_path()));
    // A kernel that brings all it needs has none anywhere.
    if is_there || !has(Path::new("/")) {
        return Ok(false);
    }
    let holder = early.trees.iter().filter(|tree| BytePath::from("/boot").is_within(&tree.point));
    let holder = holder.max_by_key(|tree| tree.point.as_bytes().len());
    let comes_along = !early.boot_apart && holder.is_some_and(|tree| subvolumes.contains(&tree.name));
    match comes_along {
        true => Ok(true),
        false => Err(AgentError::failed(format!(
            "set {} has no modules for kernel {}, and kernels do not go back with it",
            to.id(),
            kernel.trim()
        ))),
    }
}

/// Makes the wish of a fallback.
fn wish(
    snapshot_dir: &BytePath,
    to: SnapshotSet,
    subvolumes: Vec<SubvolumeName>,
    boot_id: &str,
    stamp: UtcStamp,
    starts: u32,
) -> Result<RollbackWish, AgentError> {
    let session: String = boot_id.chars().take(8).collect();
    Ok(RollbackWish {
        session: session
            .parse()
            .map_err(|error| AgentError::failed(format!("boot id `{boot_id}`: {error}")))?,
        stamp,
        snapshot_dir: snapshot_dir.clone(),
        to,
        subvolumes,
        together: None,
        trial: None,
        fallback: Some(Fallback { at: stamp, starts, boot_id: boot_id.to_owned() }),
    })
}

impl Early {
    /// Returns it as arguments, but for what differs from start to start.
    pub fn fixed_args(limit: u32, snapshot_dir: &BytePath, look: &BootLook) -> Vec<String> {
        let mut args = vec![format!("--limit={limit}"), format!("--snapshot-dir={snapshot_dir}")];
        args.extend(look.trees.iter().map(|tree| format!("--tree={}={}", tree.name, tree.point)));
        args.extend(look.boot_apart.then(|| "--boot-apart".to_owned()));
        args
    }

    /// Returns it as arguments.
    pub fn args(&self) -> Vec<OsString> {
        let look = BootLook { trees: self.trees.clone(), boot_apart: self.boot_apart, ..BootLook::default() };
        let mut device = OsString::from("--before-root=");
        device.push(&self.device);
        let mut args = vec![
            device,
            format!("--command-line={}", self.command_line).into(),
            format!("--options={}", self.options).into(),
            format!("--boot-id={}", self.boot_id).into(),
        ];
        args.extend(Self::fixed_args(self.limit, &self.snapshot_dir, &look).into_iter().map(OsString::from));
        args
    }
}
