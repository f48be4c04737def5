//! What a power cut left on the disk of a machine that is off, and what it must be after the steps that were taken.

use pc_switcher_testkit::lab::Machine;
use serde_json::Value;

use crate::hosts::root;

/// What goes back, in the order in which it is put in place.
pub const MEMBERS: [&str; 3] = ["@", "@home", "@root"];

/// Where the journal is at the top level.
const JOURNAL: &str = "@snapshots/.pc-switcher/rollback";

/// The uuids of all subvolumes, by where they lie below the top level.
#[derive(Debug, PartialEq)]
pub struct Uuids(Vec<(String, String)>);

impl Uuids {
    /// Those of a machine that runs.
    pub fn of(machine: &Machine) -> Self {
        Self::parse(&root(machine, "btrfs subvolume list -u /"))
    }

    /// Reads lines such as `ID 256 gen 30 top level 5 uuid 6fae… path @`.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (before, path) = line.split_once(" path ")?;
            // As the journal writes them.
            Some((path.to_owned(), before.rsplit(' ').next()?.replace('-', "")))
        };
        Self(text.lines().filter_map(line).collect())
    }

    pub fn of_name(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(path, _)| path == name).map(|(_, uuid)| uuid.as_str())
    }
}

/// What was found on the disk.
#[derive(Debug)]
pub struct Left {
    uuids: Uuids,
    journal: Option<Value>,
    is_decided: bool,
}

impl Left {
    pub fn read(machine: &Machine) -> Self {
        let look = |script: &str| machine.look_while_off(script).unwrap();
        let said = look(&format!(
            "btrfs subvolume list -u .; echo; ls {JOURNAL} 2>/dev/null || true; echo; cat {JOURNAL}/journal.json 2>/dev/null || true"
        ));
        let mut parts = said.splitn(3, "\n\n");
        let mut part = || parts.next().unwrap_or_default();
        let (uuids, names, journal) = (Uuids::parse(part()), part().to_owned(), part());
        Self {
            uuids,
            journal: serde_json::from_str(journal).ok(),
            is_decided: names.lines().any(|name| name.starts_with("decided-")),
        }
    }

    /// Checks that this is a disk on which exactly these steps were taken. What was not flushed yet may be gone; with `is_flushed`
    /// nothing is.
    #[track_caller]
    pub fn assert_after(&self, steps: &[String], is_flushed: bool) {
        let count = |step: &str| steps.iter().filter(|one| *one == step).count();
        let phases = ["done", "committed", "prepared", "preparing"];
        let phase = phases.into_iter().find(|phase| count(phase) > 0);
        let journal = self.journal.as_ref();
        assert_eq!(journal.and_then(|journal| journal["phase"].as_str()), phase, "after {steps:?}: {self:?}");
        assert_eq!(self.is_decided, count("decided") > 0, "after {steps:?}: {self:?}");
        let Some(journal) = journal else { return };
        let session = journal["session"].as_str().unwrap();
        let members = journal["members"].as_array().unwrap();
        let uuid = |name: &str| self.uuids.of_name(name);
        let names: Vec<&str> = members.iter().map(|member| member["name"].as_str().unwrap()).collect();
        assert_eq!(names, MEMBERS);
        for (at, member) in members.iter().enumerate() {
            // In the order of the members: one is wholly in place before the next one begins.
            let (is_made, is_exchanged, is_renamed) =
                (count("snapshot") > at, count("exchange") > at, count("rename") > at);
            let beside = |word: &str| uuid(&format!("{}.{word}-{session}", names[at]));
            let old = uuid(names[at]) == member["old_uuid"].as_str();
            let stands = (old, beside("incoming").is_some(), beside("replaced").is_some());
            let wanted = match (is_made, is_exchanged, is_renamed) {
                (false, ..) => (true, false, false),
                (true, false, _) => (true, true, false),
                (true, true, false) => (false, true, false),
                (true, true, true) => (false, false, true),
            };
            // The last exchange and the last renaming are on the disk once that was flushed.
            let is_last = count("exchange") == at + 1 && phase == Some("committed") && !is_flushed;
            let before = [(true, true, false), (false, true, false)];
            assert!(
                stands == wanted || is_last && before.contains(&stands),
                "`{}`, whether it is old, coming, replaced: {stands:?}, not {wanted:?} after {steps:?}: {self:?}",
                names[at]
            );
        }
    }
}

#[test]
fn the_list_of_subvolumes_is_read_by_path() {
    let text = "ID 256 gen 30 top level 5 uuid 6f-ae path @\nID 257 gen 9 top level 5 uuid 77aa path @home.incoming-feedbeef\n";
    let uuids = Uuids::parse(text);
    assert_eq!((uuids.of_name("@"), uuids.of_name("@home")), (Some("6fae"), None));
    assert_eq!(uuids.of_name("@home.incoming-feedbeef"), Some("77aa"));
}
