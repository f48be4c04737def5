//! Boots a picture and judges it: at once, after what runs at boot, and when that has run again.

use pc_switcher_agent::data::apply::Unwatched;
use pc_switcher_agent::linux::rollback;
use pc_switcher_agent::proto::{RollbackOrder, RollbackPhase};
use pc_switcher_testkit::seed::Random;

use super::host::{Host, stamp};
use super::inside;
use super::state::{State, lie_between, whole};
use super::story::order;
use crate::camera::{End, Photo};

/// Judges a machine that was just booted from a picture; whether it ended as it was before.
pub fn judge(
    host: &mut Host,
    photo: &Photo,
    (before, after): (&State, &State),
    random: &mut Random,
) -> Result<bool, String> {
    at_once(host, photo.end, (before, after)).map_err(|why| format!("before the recovery: {why}"))?;
    host.recover()?;
    restart_if_aside(host)?;
    if !order(host, RollbackOrder::Look, &Unwatched).in_use.is_empty() {
        // It was started with the former trees: what is inside comes along with the next start.
        inside::each_once(host)?;
        restart(host);
        host.recover()?;
    }
    inside::all_in_place(host).map_err(|why| format!("after the recovery: {why}"))?;
    let found = State::read(host).map_err(|why| format!("after the recovery: {why}"))?;
    if !found.fits(photo.end, before, after) {
        let end = photo.end;
        return Err(format!("wanted {end:?} of {before:#?} and {after:#?}, found {found:#?}"));
    }
    nothing_more(host)?;
    if !found.trees.beside.is_empty() {
        // It may have been started with a tree that the recovery has put aside.
        restart(host);
        go_on(host, random).map_err(|why| format!("afterwards: {why}"))?;
    }
    Ok(found == *before)
}

/// Starts a machine once more that was started with the tree that a way back has put aside since: that goes with the next start.
pub fn restart_if_aside(host: &mut Host) -> Result<(), String> {
    let look = order(host, RollbackOrder::Look, &Unwatched);
    if look.state.is_some_and(|state| state.phase == RollbackPhase::Cancelled) && !look.in_use.is_empty() {
        restart(host);
        host.recover()?;
    }
    Ok(())
}

fn restart(host: &mut Host) {
    let images = host.running().images().to_vec();
    host.machine.boot(images);
}

/// What must hold before anybody tidied up: what is listed is whole, and each tree is an old one or a new one.
fn at_once(host: &Host, end: End, (before, after): (&State, &State)) -> Result<(), String> {
    let sets = whole(host, &host.sets()?.0)?;
    let is_right = match end {
        End::Old => sets == before.sets,
        End::New => sets == after.sets,
        End::Either => lie_between(&sets, &before.sets, &after.sets),
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

/// Whoever has a rollback that is not confirmed can take it back or confirm it.
fn go_on(host: &Host, random: &mut Random) -> Result<(), String> {
    let words = host.top().1;
    let is_over = host.top().0.iter().any(|name| name.contains(".cancelled-"));
    if is_over || random.below(2) == 0 {
        order(host, RollbackOrder::Confirm(stamp(80_000)), &Unwatched);
        let found = State::read(host)?;
        return match found.trees.beside.is_empty() && found.trees.words == words {
            true => inside::all_in_place(host),
            false => Err(format!("a confirm left {found:?}")),
        };
    }
    host.agent(|state| rollback::run(&RollbackOrder::Cancel, state, &Unwatched))
        .map_err(|error| format!("a way back: {error}"))?;
    let (names, now) = host.top();
    match names.iter().any(|name| name.contains(".replaced-")) || now == words || now[0] != now[1] {
        true => Err(format!("a way back left {names:?} with {now:?}")),
        false => Ok(()),
    }
}
