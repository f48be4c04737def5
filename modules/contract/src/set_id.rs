//! What one set of snapshots is called on its machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{IdError, SessionId};
use crate::snapshot::{SnapshotKind, SnapshotName, SnapshotSet};
use crate::time::UtcStamp;

/// A set's name: `{YYYYMMDDTHHMMSSZ}-{session8}-{kind}`; sorted by it sets stand in the order of their stamps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetId {
    /// When it was taken.
    pub stamp: UtcStamp,
    /// The session it belongs to.
    pub session: SessionId,
    /// Why it was taken.
    pub kind: SnapshotKind,
}

impl SetId {
    /// Whether a snapshot's name says that it belongs to this set.
    pub fn covers(&self, name: &SnapshotName) -> bool {
        (self.stamp, &self.session, self.kind) == (name.stamp, &name.session, name.kind)
    }
}

impl SnapshotSet {
    /// Returns the set's name.
    pub fn id(&self) -> SetId {
        SetId { stamp: self.stamp, session: self.session.clone(), kind: self.kind }
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.stamp, self.session, self.kind.in_name())
    }
}

impl FromStr for SetId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = |why| IdError { what: "set of snapshots", text: text.to_owned(), why };
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().unwrap_or_default();
        let stamp = part().parse().map_err(|_| bad("it begins with a UTC stamp"))?;
        let session = part().parse().map_err(|_| bad("eight hex digits follow the stamp"))?;
        let word = part();
        let kind = SnapshotKind::ALL.into_iter().find(|kind| kind.in_name() == word);
        Ok(Self { stamp, session, kind: kind.ok_or_else(|| bad("it ends in a kind such as `presync`"))? })
    }
}

impl TryFrom<String> for SetId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SetId> for String {
    fn from(id: SetId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_s_name_reads_what_it_wrote_and_covers_its_members() {
        let id: SetId = "20251115T120000Z-abc12345-presync".parse().unwrap();
        assert_eq!(id.to_string(), "20251115T120000Z-abc12345-presync");
        assert!(id.covers(&"@my-data-presync-20251115T120000Z-abc12345".parse().unwrap()));
        assert!(!id.covers(&"@my-data-postsync-20251115T120000Z-abc12345".parse().unwrap()));
        for bad in ["", "20251115T120000Z-abc12345", "20251115T120000Z-abc12345-pre", "../etc-a-presync"] {
            assert!(bad.parse::<SetId>().is_err(), "{bad}");
        }
    }
}
