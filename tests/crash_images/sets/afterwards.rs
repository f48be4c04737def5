//! What comes after a picture was judged: whoever has a rollback that is not over can take it back or confirm it, and one on trial
//! goes back by itself unless somebody does.

use pc_switcher_agent::data::apply::Unwatched;
use pc_switcher_agent::proto::{RollbackLook, RollbackOrder, TrialFor};
use pc_switcher_testkit::seed::Random;

use super::back::LIMIT;
use super::host::{Host, stamp};
use super::inside;
use super::state::{On, State};
use super::story::order;

/// Goes on with a rollback that is not over, after a restart and the redo of that boot.
pub fn go_on(host: &mut Host, random: &mut Random) -> Result<(), String> {
    match State::read(host)?.trees.trial {
        None => by_hand(host, random),
        Some(On::Returned) => it_is_over(host),
        // A start after the one in which its time began, or the one for which it was to hold.
        Some(On::Runs(_) | On::ToBegin(TrialFor::OneStart)) => goes_back(host, random),
        Some(On::ToBegin(TrialFor::Seconds(_))) => {
            time_begins(host)?;
            match random.below(5) {
                0 => by_hand(host, random),
                1 => {
                    order(host, RollbackOrder::Stay, &Unwatched);
                    host.pass(2 * LIMIT);
                    host.start_anew()?;
                    let trial = State::read(host)?.trees.trial;
                    match trial {
                        None => by_hand(host, random),
                        some => Err(format!("it was said that it stays, and it is {some:?}")),
                    }
                }
                2 => {
                    host.pass(LIMIT - 1);
                    time_begins(host)?;
                    host.pass(1);
                    goes_back(host, random)
                }
                _ => {
                    host.restart();
                    host.recover()?;
                    goes_back(host, random)
                }
            }
        }
    }
}

fn look(host: &Host) -> RollbackLook {
    order(host, RollbackOrder::Look, &Unwatched)
}

/// The machine waits for somebody, and says so.
fn time_begins(host: &Host) -> Result<(), String> {
    host.attend(&Unwatched)?;
    let (trial, look) = (State::read(host)?.trees.trial, look(host));
    let is_said = look.forbids_sync().is_some_and(|why| why.contains("waits for somebody"));
    match (trial, look.left_seconds) {
        (Some(On::Runs(_)), Some(1..=LIMIT)) if is_said => Ok(()),
        _ => Err(format!("its time does not run: {look:?}")),
    }
}

/// Nobody confirms it: the machine puts the trees from before back by itself. Whoever works on the new ones may confirm that, and may
/// put them in place once more until the restart.
fn goes_back(host: &mut Host, random: &mut Random) -> Result<(), String> {
    let (new, old) = (host.top().1, host.beside());
    host.attend(&Unwatched)?;
    let found = State::read(host)?.trees;
    let is_back = found.words.to_vec() == old && host.beside() == new && found.trial == Some(On::Returned);
    if !is_back || !look(host).may_come_again() {
        return Err(format!("it did not go back by itself: {found:?}"));
    }
    if random.below(2) == 0 {
        return ends_with(host, new).map_err(|why| format!("kept after all: {why}"));
    }
    host.start_anew()?;
    it_is_over(host)
}

/// Whoever sees that the machine went back confirms that.
fn it_is_over(host: &Host) -> Result<(), String> {
    let look = look(host);
    if look.may_come_again() || look.forbids_sync().is_some() {
        return Err(format!("it went back and is not over: {look:?}"));
    }
    ends_with(host, host.top().1)
}

/// The time of a trial is over in a start that found only some of the new trees: those from before come back.
pub fn nobody_starts_it_anew(host: &mut Host, old: [u32; 2]) -> Result<(), String> {
    host.pass(LIMIT);
    host.attend(&Unwatched)?;
    host.start_anew()?;
    match host.top().1 == old {
        true => it_is_over(host),
        false => Err(format!("the trees are of {:?}, not of {old:?}", host.top().1)),
    }
}

/// A confirm leaves these trees alone in place, with what is inside, and nothing waits any more.
fn ends_with(host: &Host, words: [u32; 2]) -> Result<(), String> {
    order(host, RollbackOrder::Confirm(stamp(80_000)), &Unwatched);
    let (found, look) = (State::read(host)?, look(host));
    let is_over = look.state.is_none() && look.forbids_sync().is_none();
    match found.trees.beside.is_empty() && found.trees.words == words && is_over {
        true => inside::all_in_place(host),
        false => Err(format!("a confirm left {found:?}")),
    }
}

/// Somebody takes it back, or confirms it.
fn by_hand(host: &mut Host, random: &mut Random) -> Result<(), String> {
    let (names, words) = host.top();
    let is_over = names.iter().any(|name| name.contains(".cancelled-"));
    if is_over || random.below(2) == 0 {
        return ends_with(host, words);
    }
    let old = host.beside();
    order(host, RollbackOrder::Cancel, &Unwatched);
    let (names, now) = host.top();
    if names.iter().any(|name| name.contains(".replaced-")) || now.to_vec() != old {
        return Err(format!("a way back left {names:?} with {now:?}"));
    }
    host.start_anew()?;
    match look(host).state {
        Some(_) => ends_with(host, now),
        None => Ok(()),
    }
}
