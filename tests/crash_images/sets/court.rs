//! Boots a picture and judges it: at once, after what runs at boot, and when that has run again.

use pc_switcher_agent::data::apply::Unwatched;
use pc_switcher_agent::proto::{RollbackOrder, RollbackPhase};
use pc_switcher_testkit::seed::Random;

use super::afterwards::{go_on, nobody_starts_it_anew};
use super::host::Host;
use super::inside;
use super::state::{State, lie_between, whole};
use super::story::{Lot, order};
use crate::camera::{End, Photo};

/// Judges a machine that was just booted from a picture; whether it ended as it was before.
pub fn judge(host: &mut Host, photo: &Photo, lot: &Lot, random: &mut Random) -> Result<bool, String> {
    at_once(host, photo.end, lot).map_err(|why| format!("before the recovery: {why}"))?;
    host.recover()?;
    restart_if_aside(host)?;
    if !order(host, RollbackOrder::Look, &Unwatched).in_use.is_empty() {
        // It was started with the former trees: what is inside comes along with the next start.
        inside::each_once(host)?;
        host.attend(&Unwatched)?;
        let state = order(host, RollbackOrder::Look, &Unwatched).state;
        if state.and_then(|state| state.trial).is_some_and(|trial| trial.is_partly()) && random.below(2) == 0
        {
            nobody_starts_it_anew(host, lot.before.trees.words)
                .map_err(|why| format!("after a start with some of both trees: {why}"))?;
            return Ok(false);
        }
        host.restart();
        host.recover()?;
    }
    inside::all_in_place(host).map_err(|why| format!("after the recovery: {why}"))?;
    let found = State::read(host).map_err(|why| format!("after the recovery: {why}"))?;
    if !found.fits(photo.end, lot) {
        let (end, Lot { before, after, between, .. }) = (photo.end, lot);
        return Err(format!(
            "wanted {end:?} of {before:#?} and {after:#?}, or {between:#?}, found {found:#?}"
        ));
    }
    nothing_more(host)?;
    if !found.trees.beside.is_empty() {
        // It may have been started with a tree that the recovery has put aside.
        host.restart();
        host.recover()?;
        go_on(host, random).map_err(|why| format!("afterwards, of {:?}: {why}", found.trees))?;
    }
    Ok(found == lot.before)
}

/// Starts a machine once more that was started with the tree that a way back has put aside since: that goes with the next start.
pub fn restart_if_aside(host: &mut Host) -> Result<(), String> {
    let look = order(host, RollbackOrder::Look, &Unwatched);
    if look.state.is_some_and(|state| state.phase == RollbackPhase::Cancelled) && !look.in_use.is_empty() {
        host.attend(&Unwatched)?;
        host.restart();
        host.recover()?;
    }
    Ok(())
}

/// What must hold before anybody tidied up: what is listed is whole, and each tree is an old one or a new one.
fn at_once(host: &Host, end: End, Lot { before, after, between, .. }: &Lot) -> Result<(), String> {
    let sets = whole(host, &host.sets()?.0)?;
    let is_right = match end {
        End::Old => sets == before.sets,
        End::New if between.is_none() => sets == after.sets,
        End::New | End::Either => lie_between(&sets, &before.sets, &after.sets),
    };
    if !is_right {
        let (old, new) = (before.sets.keys(), after.sets.keys());
        return Err(format!("{:?} are listed, not {end:?} of {old:?} and {new:?}", sets.keys()));
    }
    inside::each_once(host)?;
    let (names, words) = host.top();
    if let Some(gone) = host.layout().subvolumes().into_iter().find(|name| !names.iter().any(|it| it == name))
    {
        return Err(format!("`{gone}` is not there, only {names:?}"));
    }
    match words
        .iter()
        .zip(before.trees.words.iter().zip(&after.trees.words))
        .all(|(word, (old, new))| word == old || word == new)
    {
        true => Ok(()),
        false => Err(format!("the trees are of {words:?}")),
    }
}

/// A second recovery has nothing to do.
pub fn nothing_more(host: &Host) -> Result<(), String> {
    let first = host.ours();
    host.recover()?;
    let second = host.ours();
    match first == second {
        true => Ok(()),
        false => {
            let differs = |(path, _): &&(std::path::PathBuf, Vec<u8>)| {
                let of =
                    |all: &[(std::path::PathBuf, Vec<u8>)]| all.iter().find(|one| one.0 == *path).cloned();
                of(&first) != of(&second)
            };
            let paths: Vec<_> = first.iter().chain(&second).filter(differs).map(|one| &one.0).collect();
            Err(format!("a second recovery changed {paths:?}"))
        }
    }
}
