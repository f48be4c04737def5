//! Which packs were found unused, and when: kept beside the repository, encrypted with its key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::error::Result;
use crate::format::{Id, unpacked};
use crate::store::Kind;

/// When a pack was found unused first.
pub type Marks = BTreeMap<Id, Timestamp>;

/// What concerns all machines lies beside what each of them keeps.
const NAME: &str = "all/unused.";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    packs: Marks,
}

/// Returns the marks and the number of their document. What cannot be read counts as none: then the grace begins anew.
pub(crate) fn read(repo: &Repository) -> Result<(Marks, u64)> {
    let Some(number) = numbers(repo)?.pop() else { return Ok((Marks::new(), 0)) };
    let sealed = repo.store().get(Kind::Meta, &format!("{NAME}{number}"))?.unwrap_or_default();
    let plain = repo.unseal(&sealed, || "the list of unused packs".into());
    let written = plain.ok().and_then(|plain| unpacked::decode::<Written>(&plain).ok());
    Ok((written.unwrap_or_default().packs, number))
}

/// Writes a document after the one of this number, and removes older ones.
pub(crate) fn write(repo: &Repository, marks: Marks, after: u64) -> Result<()> {
    let plain =
        unpacked::encode(&Written { packs: marks }, 2).map_err(pc_switcher_contract::ModuleError::failed)?;
    let fresh = after + 1;
    repo.store().put(Kind::Meta, &format!("{NAME}{fresh}"), &repo.seal(&plain)?)?;
    for old in numbers(repo)?.into_iter().filter(|number| *number < fresh) {
        repo.store().delete(Kind::Meta, &format!("{NAME}{old}"))?;
    }
    Ok(())
}

fn numbers(repo: &Repository) -> Result<Vec<u64>> {
    let names = repo.store().list(Kind::Meta)?;
    let mut all: Vec<u64> =
        names.iter().filter_map(|(name, _)| name.strip_prefix(NAME)?.parse().ok()).collect();
    all.sort_unstable();
    Ok(all)
}
