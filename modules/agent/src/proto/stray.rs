//! Journals of rollbacks of which the machine's own state says nothing.

use pc_switcher_contract::{BytePath, SessionId};
use serde::{Deserialize, Serialize};

/// A journal beside the snapshots that the machine's own state does not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayJournal {
    /// The session of its rollback.
    pub session: SessionId,
    /// The file.
    pub place: BytePath,
    /// Why nothing names it.
    pub why: Unnamed,
    /// Trees of that rollback at the top level of their disk that are not in place.
    pub beside: Vec<String>,
}

/// Why nothing names a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unnamed {
    /// The state was lost: the trees in place are those of the rollback.
    Lost,
    /// Somebody has put another tree in the place of one of them.
    Replaced,
    /// So it was, and the journal was set aside for that.
    Aside,
}

impl StrayJournal {
    /// Says what it is.
    pub fn explain(&self) -> String {
        let Self { session, place, .. } = self;
        match self.why {
            Unnamed::Lost => format!(
                "rollback {session} is not over by its journal `{place}`, of which this machine's own state says nothing: that was lost"
            ),
            Unnamed::Replaced => format!(
                "`{place}` is the journal of rollback {session}, and somebody has put other trees in place since: the next rollback, \
                 or fallback at boot, sets it aside"
            ),
            Unnamed::Aside => format!(
                "`{place}` is the journal of rollback {session}, which was set aside: somebody had put other trees in place{}",
                match self.beside.is_empty() {
                    true => String::new(),
                    false => format!("; at the top level of the disk there are still {}", self.names()),
                }
            ),
        }
    }

    /// Says what to do about it.
    pub fn fix(&self, snapshot_dir: &BytePath) -> String {
        match (self.why, self.beside.is_empty()) {
            (Unnamed::Lost, _) => format!(
                "printf %s {snapshot_dir} | sudo tee /var/lib/pc-switcher/rollback has it known again; then pc-switcher rollback status"
            ),
            (Unnamed::Replaced | Unnamed::Aside, false) => format!(
                "look what you need of {} (mount with `subvolid=5`), `sudo btrfs subvolume delete` the rest, then sudo rm {}",
                self.names(),
                self.place
            ),
            (Unnamed::Replaced | Unnamed::Aside, true) => format!("sudo rm {}", self.place),
        }
    }

    fn names(&self) -> String {
        self.beside.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_journal_says_what_it_is_and_what_to_do() {
        let stray = |why, beside: &[&str]| StrayJournal {
            session: "feedbeef".parse().unwrap(),
            place: "/.snapshots/.pc-switcher/rollback/journal.json".into(),
            why,
            beside: beside.iter().map(|name| (*name).to_owned()).collect(),
        };
        let dir = "/.snapshots".into();
        let lost = stray(Unnamed::Lost, &["@.replaced-feedbeef"]);
        assert!(
            lost.explain().contains("feedbeef is not over") && lost.fix(&dir).contains("sudo tee /var/lib/")
        );
        let aside = stray(Unnamed::Aside, &["@.replaced-feedbeef"]);
        assert!(aside.explain().contains("`@.replaced-feedbeef`"), "{}", aside.explain());
        assert!(aside.fix(&dir).contains("subvolume delete"), "{}", aside.fix(&dir));
        let empty = stray(Unnamed::Aside, &[]);
        assert!(!empty.explain().contains("top level") && empty.fix(&dir).starts_with("sudo rm /.snapshots"));
        assert!(stray(Unnamed::Replaced, &[]).explain().contains("sets it aside"));
    }
}
