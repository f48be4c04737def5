//! Boot protection (docs/adr/0022): before `/` is mounted each start is counted, and one that comes after too many that were not
//! found healthy puts the last known good state in place. A healthy start counts from nought again.
//!
//! **Invariant: whatever goes wrong here, the machine is started as ever.** The count lies beside the snapshots and is the switch
//! as well: without it nothing is done. Trees are exchanged by a rollback (`linux/rollback`), by no other way.

mod console;
mod count;
mod decide;
mod goal;
pub(in crate::linux) mod kernels;
mod look;
mod patience;
mod view;
mod whole;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pc_switcher_contract::{BytePath, SnapshotKind, SnapshotSet, UtcStamp};

use self::console::Console;
use self::decide::{Standing, Verdict, chosen_otherwise, decide, mounted_otherwise, subvolume_of};
use self::goal::{going, needs_another_kernel, wish};
use self::patience::{Patience, Shielding};
use self::view::View;
use crate::data::apply::{Unwatched, Watch};
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::rollback::{self, Stand};
use crate::linux::snapshots;
use crate::linux::state::{STATE_PATH, StateDir};
use crate::proto::{AgentError, BootCount, BootLook, BootOrder, BootTree, Counted, RollbackOrder, TakeSet};

pub use self::whole::{CONFIG, GOOD_SERVICE, GOOD_TIMER, UNIT};

/// The line that says that the machine must be started anew, for the script that starts this program.
pub const START_ANEW: &str = "the machine is started anew";

/// The beginning of the line that asks whoever sits before the machine, for the script as well.
pub const ASKED: &str = "press Enter";

/// So long there is to answer.
const QUESTION: Duration = Duration::from_secs(10);

/// For so long the start waits for this, until something is decided.
pub const PATIENCE: Duration = Duration::from_secs(90);

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
    /// Where whoever sits before the machine is asked.
    pub console: Option<PathBuf>,
    /// For so long the start waits, until something is decided.
    pub patience: Duration,
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
        BootOrder::Red => red(dir, &boot_id()?).map_err(failed)?,
        BootOrder::Unknown => unknown(dir, &boot_id()?).map_err(failed)?,
    }
    Ok(BootLook { counted: count::read(dir).map_err(failed)?, ..BootLook::default() })
}

/// This start is well. On a disk that is so full that this cannot be written nothing is counted any more.
fn healthy(snapshot_dir: &Path, boot_id: &str) -> io::Result<()> {
    let well = BootCount { boot_id: boot_id.to_owned(), ..BootCount::default() };
    match count::read(snapshot_dir)? {
        Counted::Off => Ok(()),
        Counted::So(found) => {
            let is_this = found.boot_id == boot_id && found.begun > 0;
            let proven = if is_this { found.begun } else { found.proven };
            let well = BootCount { begun: found.begun, proven, ..well };
            if found == well { Ok(()) } else { count::write_or_remove(snapshot_dir, &well) }
        }
        Counted::Garbled => count::write_or_remove(snapshot_dir, &well),
    }
}

/// This start is not well: it counts, also if it ends in order.
fn red(snapshot_dir: &Path, boot_id: &str) -> io::Result<()> {
    match count::read(snapshot_dir)? {
        Counted::So(found) if found.boot_id == boot_id && found.starts > 0 && !found.red => {
            count::write(snapshot_dir, &BootCount { red: true, ..found })
        }
        _ => Ok(()),
    }
}

/// Nobody can tell whether this start is well: it is taken off the count, and what was known before is known still.
fn unknown(snapshot_dir: &Path, boot_id: &str) -> io::Result<()> {
    match count::read(snapshot_dir)? {
        Counted::So(found) if found.boot_id == boot_id => take_off(snapshot_dir, found),
        _ => Ok(()),
    }
}

/// Takes a start off the count, once: it has no id then.
fn take_off(snapshot_dir: &Path, found: BootCount) -> io::Result<()> {
    let starts = found.starts.saturating_sub(1);
    count::write_or_remove(snapshot_dir, &BootCount { starts, boot_id: String::new(), red: false, ..found })
}

/// Somebody says that what was put in place stays: whoever can say so has seen it start. What cannot be written is left.
pub(in crate::linux) fn trusted(snapshot_dir: &Path) {
    if let Ok(Counted::So(found)) = count::read(snapshot_dir)
        && found.starts > 0
    {
        let _ = count::write_or_remove(snapshot_dir, &BootCount { starts: 0, red: false, ..found });
    }
}

/// Somebody shut the machine down in order: unless this start was looked at and not found healthy, it counts for nothing. One that
/// somebody chose and that came so far was work on the machine: what failed before it is over.
///
/// # Errors
/// If the count cannot be read or written.
pub fn leave(snapshot_dir: &Path) -> Result<(), AgentError> {
    let failed = |error: io::Error| AgentError::io("cannot take this start off the count", &error);
    let command_line = fs::read_to_string("/proc/cmdline").map_err(failed)?;
    leave_from(snapshot_dir, &boot_id()?, &command_line).map_err(failed)
}

fn leave_from(snapshot_dir: &Path, boot_id: &str, command_line: &str) -> io::Result<()> {
    let Counted::So(found) = count::read(snapshot_dir)? else { return Ok(()) };
    let starts = match chosen_otherwise(command_line) {
        Some(_) => 0,
        None if found.boot_id == boot_id && !found.red => found.starts.saturating_sub(1),
        None => return Ok(()),
    };
    if starts == found.starts {
        return Ok(());
    }
    // Without an id it is not taken off twice.
    count::write_or_remove(snapshot_dir, &BootCount { starts, boot_id: String::new(), red: false, ..found })
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
    if let Some(word) = chosen_otherwise(&early.command_line) {
        say(&format!("this start is not counted: `{word}` is no word of each day's"));
        return Ok(());
    }
    if let Some(option) = mounted_otherwise(&early.options) {
        say(&format!("this start is not counted: `{option}` is no mount option of each day's"));
        return Ok(());
    }
    if subvolume_of(&early.options) != Some(root.name.as_str()) {
        say(&format!("this start is not counted: it is not of `{}`", root.name));
        return Ok(());
    }
    let view = View::open(&early.device, &early.trees)
        .map_err(|error| AgentError::io("what would be started cannot be mounted", &error))?;
    let child = program(view.dir()).stdin(Stdio::null()).spawn();
    // However it ends, it has said why. It ends in time by itself: one that was killed could leave trees half exchanged.
    let ended = child.and_then(|mut child| child.wait());
    ended.map(drop).map_err(|error| AgentError::io("the part that counts cannot be run", &error))
}

/// The part of [`before_root`] that works in the mounted machine.
///
/// # Errors
/// If it cannot be done; the start goes on all the same.
pub fn inside(early: &Early, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
    view::enter(dir).map_err(|error| AgentError::io("cannot work in what would be started", &error))?;
    if let Some(why) = whole::never_says(Path::new("/"), &early.snapshot_dir) {
        say(&format!("this start is not counted: {why}"));
        return Ok(());
    }
    let length = early.patience;
    #[expect(clippy::disallowed_methods, reason = "nothing is left that must run: it is to end here and now")]
    let end = move || {
        let said = format!("it took longer than {} s; the machine is started as it is\n", length.as_secs());
        // Past the lock of whoever prints now, and past any other that is held.
        let _ = rustix::io::write(rustix::stdio::stdout(), said.as_bytes());
        std::process::exit(0);
    };
    let patience = Patience::begin(length, end);
    let mut ask = |say: &mut dyn FnMut(&str)| {
        let Some(mut console) = early.console.as_deref().and_then(Console::open) else { return false };
        say(&format!("{ASKED} within {} s to start what is in place instead", QUESTION.as_secs()));
        patience.extend(QUESTION);
        console.is_entered(QUESTION)
    };
    let watch = Shielding { patience: &patience, watch: &Unwatched };
    let mut asks = Asks { say, ask: &mut ask, patience: &patience };
    step(early, &StateDir::new(STATE_PATH), &watch, &mut asks)
}

/// Asks a question, told line by line.
type Ask<'a> = dyn FnMut(&mut dyn FnMut(&str)) -> bool + 'a;

/// What a start has to do with people, and with time.
struct Asks<'a> {
    /// Tells a line.
    say: &'a mut dyn FnMut(&str),
    /// Whether somebody wants to start what is in place.
    ask: &'a mut Ask<'a>,
    patience: &'a Patience,
}

/// Counts a start, and does what is due.
fn step(
    early: &Early,
    state: &StateDir,
    watch: &dyn Watch,
    Asks { say, ask, patience }: &mut Asks<'_>,
) -> Result<(), AgentError> {
    let dir = early.snapshot_dir.as_path();
    let written = |count: &BootCount| -> Result<(), AgentError> {
        let count = BootCount { trees: trees_in_place(early), begun: begun(early), ..count.clone() };
        count::write(dir, &count)
            .map_err(|error| AgentError::io("cannot write the count of starts", &error))?;
        Ok(watch.after("counted")?)
    };
    let counted =
        count::read(dir).map_err(|error| AgentError::io("cannot read the count of starts", &error))?;
    let last = match &counted {
        Counted::So(found) => found.clone(),
        Counted::Off | Counted::Garbled => BootCount::default(),
    };
    let failed = format!("{} starts in a row were not found healthy", last.starts);
    // What was cut off is brought to its end, whatever time that takes.
    let ask_standing = || {
        patience.shield();
        let found = standing(&early.snapshot_dir, &last, state, watch);
        patience.unshield();
        found
    };
    let verdict = decide(&counted, early.limit, &early.boot_id, &trees_in_place(early), ask_standing);
    let (Verdict::FallBack(count) | Verdict::TakeBack(count)) = &verdict else {
        if let Verdict::Count(count, said) = &verdict {
            written(count)?;
            said.iter().for_each(|said| say(said));
        }
        return Ok(());
    };
    // Counted first: whatever becomes of it, it is tried a few times and no more.
    written(count)?;
    let takes_back = matches!(verdict, Verdict::TakeBack(_));
    say(&match takes_back {
        true => format!("{failed}, so the rollback that waits to be confirmed is to be taken back"),
        false => format!("{failed}, so this machine is to go back to its last known good state"),
    });
    if ask(say) {
        say("somebody is here: what is in place is started, and starts are counted from nought");
        return written(&BootCount { starts: 1, ..count.clone() });
    }
    if takes_back {
        patience.shield();
        let why = format!("{} starts in a row with it were not found healthy", last.starts);
        rollback::take_back(why, state, watch)?;
        written(&BootCount { starts: 1, ..count.clone() })?;
        say("it is taken back");
        return Ok(());
    }
    let (to, anew) = fall_back(early, &last, state, watch)?;
    written(&BootCount { starts: 1, went_to: Some(to.id()), ..count.clone() })?;
    say(&format!("this machine goes back to set {}, which was known to be good", to.id()));
    if anew {
        say(START_ANEW);
    }
    Ok(())
}

/// Returns what tells the trees that are started from others: those that would go back. Empty if it cannot be told.
fn trees_in_place(early: &Early) -> String {
    let names = going(&early.snapshot_dir, &early.trees).map(|tree| &tree.name);
    let uuids = rollback::in_place(names).unwrap_or_default();
    match uuids.is_empty() {
        true => String::new(),
        false => blake3::hash(uuids.join(" ").as_bytes()).to_hex()[..32].to_owned(),
    }
}

/// Returns the last transaction of what holds the snapshots, which no set of this machine that is there now is younger than.
fn begun(early: &Early) -> u64 {
    KernelBtrfs.subvolume(early.snapshot_dir.as_path()).map_or(0, |found| found.generation)
}

/// How the rollback of the machine stands; `last` is what was counted up to the start before.
fn standing(snapshot_dir: &BytePath, last: &BootCount, state: &StateDir, watch: &dyn Watch) -> Standing {
    match rollback::settle(snapshot_dir, state, watch) {
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
    last: &BootCount,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(SnapshotSet, bool), AgentError> {
    let starts = last.starts;
    let none =
        || AgentError::failed("no set of what is started is marked as good: what is in place is started");
    let (to, subvolumes) = goal::goal(&early.snapshot_dir, &early.trees, last.proven)?.ok_or_else(none)?;
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
            format!("--patience={}", self.patience.as_secs()).into(),
        ];
        if let Some(console) = &self.console {
            let mut arg = OsString::from("--console=");
            arg.push(console);
            args.push(arg);
        }
        args.extend(Self::fixed_args(self.limit, &self.snapshot_dir, &look).into_iter().map(OsString::from));
        args
    }
}
