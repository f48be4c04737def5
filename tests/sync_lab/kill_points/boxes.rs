//! Nested subvolumes in what is synced, and what a sync that was stopped may have done of them: each is committed by itself, so
//! between these commits the home is neither the old nor the new one (docs/adr/0011-nested-subvolumes-are-parts.md).

use std::path::Path;

use pc_switcher_testkit::{
    lab::Machine,
    manifest::{Entry, Kind},
};

use crate::hosts::{alice, root};

/// The directory that they stand in.
const AROUND: &str = "work/boxes";
/// One that is gone on the source.
const GOES: &str = "work/boxes/goes";
/// One that is new there.
const COMES: &str = "work/boxes/comes";

const OLD: &str = "cd ~alice/work; mkdir boxes; cd boxes
    for box in stays goes; do
        btrfs -q subvolume create $box; mkdir -p $box/dir/deep $box/left
        for f in {00..39}; do echo old-$box-$f >$box/f$f; done
        head -c 300000 /dev/urandom >$box/large; echo deep >$box/dir/deep/file; ln $box/f00 $box/twin
    done
    chown -R alice: .";

const WORK: &str = "cd work/boxes/stays
    for f in f0*; do echo new-$f >$f; done; for f in f1*; do echo saved >.save; mv .save $f; done
    rm f2*; mv dir moved; mv left moved/right; chmod 600 f30; printf changed | dd of=large bs=100000 seek=1 conv=notrunc status=none";

const MAKE: &str = "cd ~alice; cd work/boxes; btrfs -q subvolume create comes; mkdir -p comes/dir/deep
    for f in {00..39}; do echo fresh-$f >comes/dir/f$f; done; ln comes/dir/f00 comes/dir/deep/twin
    head -c 300000 /dev/urandom >comes/large; chown -R alice: comes; chmod 750 comes";

/// Makes two of them.
pub fn make(machine: &Machine) {
    root(machine, OLD);
}

/// Works in the one and makes a third; the other one goes if somebody remembers that it was synced. Otherwise it would stay.
pub fn change(machine: &Machine, is_known: bool) {
    alice(machine, WORK);
    root(machine, MAKE);
    if is_known {
        root(machine, "cd ~alice; btrfs -q subvolume delete work/boxes/goes");
    }
}

/// How far a sync got, in the order in which it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    Nothing,
    /// The one that goes is empty.
    Emptied,
    Removed,
    /// What stands on both machines is new.
    Standing,
    /// The one that comes is there, empty and root's alone.
    Made,
    All,
}

pub const REACHED: [Reached; 6] =
    [Reached::Nothing, Reached::Emptied, Reached::Removed, Reached::Standing, Reached::Made, Reached::All];

impl Reached {
    /// Whether a path is exactly what it is then, where it was and becomes these.
    pub fn has(self, path: &Path, now: Option<&Entry>, old: Option<&Entry>, new: Option<&Entry>) -> bool {
        let is_new = if path == Path::new(GOES) {
            self >= Self::Removed
        } else if path.starts_with(GOES) {
            self >= Self::Emptied
        } else if is_coming(path) {
            self >= Self::All
        } else {
            self >= Self::Standing
        };
        let wanted = if is_new { new } else { old };
        let is_between = self != Self::Nothing && self != Self::All;
        match (now, wanted) {
            (now, _) if self == Self::Made && path == Path::new(COMES) => now.is_some_and(is_made),
            // The directory around gets its time back after each is made or removed.
            (Some(now), Some(wanted)) if is_between && path == Path::new(AROUND) => has_but_time(now, wanted),
            (Some(now), Some(wanted)) if self == Self::Emptied && path == Path::new(GOES) => {
                has_but_time(now, wanted)
            }
            (now, wanted) => now == wanted,
        }
    }
}

/// Whether a path is that of one that comes, or below it.
pub fn is_coming(path: &Path) -> bool {
    path.starts_with(COMES)
}

/// Whether this is one that was made and has not got its owner, mode and time yet.
pub fn is_just_made(path: &Path, now: Option<&Entry>, old: Option<&Entry>) -> bool {
    path == Path::new(COMES) && old.is_none() && now.is_some_and(is_made)
}

fn is_made(now: &Entry) -> bool {
    let whose = (now.mode, now.uid, now.gid) == (0o700, 0, 0);
    now.kind == Kind::Directory && whose && now.attributes.is_empty()
}

fn has_but_time(now: &Entry, wanted: &Entry) -> bool {
    Entry { modified: wanted.modified, ..now.clone() } == *wanted
}

#[test]
fn what_comes_and_goes_by_itself_is_judged_in_its_order_and_by_nothing_less() {
    use Reached::{All, Emptied, Made, Nothing, Removed, Standing};
    let entry = |kind: Kind, mode: u32, uid: u32, time: i64| Entry {
        kind,
        mode,
        uid,
        gid: uid,
        modified: (time, 0),
        attributes: Default::default(),
        hard_link_of: None,
    };
    let dir = |mode, uid, time| entry(Kind::Directory, mode, uid, time);
    let (old, new) = (dir(0o755, 1000, 1), dir(0o755, 1000, 2));
    // Which of the states a path fits that was and becomes these.
    let fits = |path: &str, now: Option<&Entry>, old: Option<&Entry>, new: Option<&Entry>| {
        REACHED.into_iter().filter(|reached| reached.has(path.as_ref(), now, old, new)).collect::<Vec<_>>()
    };
    let goes = |path, now: bool| fits(path, now.then_some(&old), Some(&old), None);
    assert_eq!(goes(GOES, true), [Nothing, Emptied]);
    assert_eq!(goes(GOES, false), [Removed, Standing, Made, All]);
    assert_eq!(goes("work/boxes/goes/dir", true), [Nothing]);
    assert_eq!(goes("work/boxes/goes/dir", false), [Emptied, Removed, Standing, Made, All]);
    assert_eq!(fits("work/big", Some(&old), Some(&old), Some(&new)), [Nothing, Emptied, Removed]);
    assert_eq!(fits("work/boxes/stays", Some(&new), Some(&old), Some(&new)), [Standing, Made, All]);
    let made = dir(0o700, 0, 9);
    assert_eq!(fits(COMES, Some(&made), None, Some(&new)), [Made]);
    assert_eq!(fits(COMES, None, None, Some(&new)), [Nothing, Emptied, Removed, Standing]);
    assert_eq!(fits(COMES, Some(&new), None, Some(&new)), [All]);
    assert!(fits(COMES, Some(&dir(0o755, 0, 9)), None, Some(&new)).is_empty());
    assert_eq!(fits("work/boxes/comes/dir", Some(&new), None, Some(&new)), [All]);
    let other = dir(0o755, 1000, 5);
    assert_eq!(fits(AROUND, Some(&other), Some(&old), Some(&new)), [Emptied, Removed, Standing, Made]);
    assert!(fits("work/boxes/stays", Some(&other), Some(&old), Some(&new)).is_empty());
    assert!(is_just_made(COMES.as_ref(), Some(&made), None));
    assert!(!is_just_made("work/boxes/comes/dir".as_ref(), Some(&made), None));
}
