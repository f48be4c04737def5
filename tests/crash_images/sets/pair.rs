//! Two machines that go back together. Their disks are taken each by itself: while one works, the other may be of any moment
//! that it can be in then.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pc_switcher_agent::data::apply::{Unwatched, Watch};
use pc_switcher_agent::linux::snapshots::take_set;
use pc_switcher_agent::proto::{RollbackOrder, Together, TrialFor};
use pc_switcher_contract::{SessionId, SnapshotKind, SnapshotSet};
use pc_switcher_testkit::seed::Random;

use super::back::LIMIT;
use super::court::{nothing_more, restart_if_aside};
use super::host::{Host, stamp};
use super::state::{On, State};
use super::story::{NONE, film, order, wish};
use crate::camera::{End, Photo, Shelf, Written};
use crate::machine::reflink;

/// Pictures of both machines that go together.
pub struct Lot {
    pub what: &'static str,
    /// Of the machine that leads, and of the other.
    photos: [Vec<Arc<Photo>>; 2],
}

/// What both were, and what they would be.
pub struct Ends {
    old: [State; 2],
    words: [u32; 2],
    session: SessionId,
}

/// The leader takes a rollback back of which the other one has not heard.
pub const BACK: &str = "the leader goes back";

/// It does so by itself, since nobody has confirmed it.
pub const BACK_BY_ITSELF: &str = "the leader goes back by itself";

const OLD_WORD: u32 = 7;
const NEW_WORD: u32 = 3;

/// Makes a set on a machine and work after it.
fn prepare(host: &Host) -> SnapshotSet {
    host.write(NEW_WORD);
    let set = take_set(&host.take(1, SnapshotKind::PreSync)).unwrap().0;
    host.write(OLD_WORD);
    set
}

/// Takes both back, with pictures of every step, and of the one that waits meanwhile. The leader does so `on_trial` or not.
pub fn tell(hosts: &mut [Host; 2], random: &mut Random, name: &str, on_trial: bool) -> (Vec<Lot>, Ends) {
    let sets = [0, 1].map(|at| prepare(&hosts[at]));
    let old = [0, 1].map(|at| State::read(&hosts[at]).unwrap());
    let together = |at: usize| Together { partner: ["desk", "laptop"][at].parse().unwrap(), leads: at == 0 };
    let trial = |at: usize| (on_trial && at == 0).then_some(TrialFor::Seconds(LIMIT));
    let wishes = [0, 1].map(|at| wish(&hosts[at], &sets[at], 9, Some(together(at)), trial(at)));
    let mut lots = Vec::new();
    // Both prepare one after the other, and one may be cut off long before the other.
    let mut prepared = Vec::new();
    for at in 0..2 {
        let ready = RollbackOrder::Prepare(wishes[at].clone());
        prepared.push(film_order(&hosts[at], random, format!("{name}-p{at}"), ready, NONE, Some(End::Old)));
    }
    let waiting = [0, 1].map(|at| waits(&hosts[at], random, format!("{name}-w{at}")));
    let decides = ["entry", "decided"];
    let leads = film_order(&hosts[0], random, format!("{name}-c0"), RollbackOrder::Commit, decides, None);
    let done = waits(&hosts[0], random, format!("{name}-d0"));
    let follows =
        film_order(&hosts[1], random, format!("{name}-c1"), RollbackOrder::Commit, NONE, Some(End::New));
    // The leader may also go back before the other one has heard of anything.
    let cancels = ["entry", "cancelling"];
    let (name_back, what) = (format!("{name}-b0"), if on_trial { BACK_BY_ITSELF } else { BACK });
    let back = if on_trial {
        hosts[0].start_anew().unwrap();
        hosts[0].pass(LIMIT);
        let attend = |host: &Host, watch: &dyn Watch| host.attend(watch).unwrap();
        let photos = film(&hosts[0], random, name_back, cancels, None, attend);
        photos.into_iter().map(Arc::new).collect()
    } else {
        film_order(&hosts[0], random, name_back, RollbackOrder::Cancel, cancels, None)
    };
    let [leader_waits, follower_waits] = waiting;
    let [leader_prepares, follower_prepares]: [Vec<_>; 2] = prepared.try_into().ok().unwrap();
    // Nobody can have decided before both were prepared.
    let both = |one: &[Arc<Photo>], other: &[Arc<Photo>]| [one, other].concat();
    lots.push(Lot {
        what: "both prepare",
        photos: [both(&leader_prepares, &leader_waits), follower_prepares],
    });
    lots.push(Lot { what: "the leader commits", photos: [leads, follower_waits.clone()] });
    lots.push(Lot { what: "the follower commits", photos: [done, follows] });
    lots.push(Lot { what, photos: [back, follower_waits] });
    let now = [0, 1].map(|at| hosts[at].top().1);
    assert_eq!(now, [[OLD_WORD; 2], [NEW_WORD; 2]], "{name}, without any cut");
    (lots, Ends { old, words: [OLD_WORD, NEW_WORD], session: wishes[0].session.clone() })
}

fn film_order(
    host: &Host,
    random: &mut Random,
    name: String,
    what: RollbackOrder,
    decides: [&'static str; 2],
    ends: Option<End>,
) -> Vec<Arc<Photo>> {
    let photos = film(host, random, name, decides, ends, |host, watch| {
        order(host, what, watch);
    });
    photos.into_iter().map(Arc::new).collect()
}

/// Takes pictures of a machine that does nothing: at once, and when everything that it has in mind is on the disk.
fn waits(host: &Host, random: &mut Random, name: String) -> Vec<Arc<Photo>> {
    let camera = host.camera(random, name, NONE);
    let mut shelf: std::sync::MutexGuard<'_, Shelf> = camera.shelf();
    shelf.take_anyhow("waits", Written::ByItself);
    rustix::fs::syncfs(fs::File::open(host.root()).unwrap()).unwrap();
    shelf.take("waits", Written::Whole);
    drop(shelf);
    camera.finish().into_iter().map(Arc::new).collect()
}

impl Lot {
    /// Returns so many pairs of a picture of each machine, no pair twice; all of them if there are no more.
    pub fn some(&self, count: usize, random: &mut Random) -> Vec<[Arc<Photo>; 2]> {
        let [ours, theirs] = &self.photos;
        let mut left: Vec<(usize, usize)> =
            (0..ours.len()).flat_map(|one| (0..theirs.len()).map(move |other| (one, other))).collect();
        let mut pairs = Vec::new();
        while pairs.len() < count && !left.is_empty() {
            let (one, other) = left.swap_remove(random.below(left.len() as u64) as usize);
            pairs.push([Arc::clone(&ours[one]), Arc::clone(&theirs[other])]);
        }
        pairs
    }
}

/// Boots both and judges them by themselves, and when they have met.
pub fn judge(
    hosts: &mut [Host; 2],
    photos: &[Arc<Photo>; 2],
    what: &str,
    ends: &Ends,
) -> Result<End, String> {
    for (host, photo) in hosts.iter_mut().zip(photos) {
        let copy = |image: &PathBuf| {
            reflink(
                image,
                image.with_file_name(format!("booted-{}", image.file_name().unwrap().to_string_lossy())),
            )
        };
        host.machine.boot(photo.images.iter().map(copy).collect());
    }
    let judged = alone(hosts, ends).and_then(|()| meet(hosts, photos, what, ends));
    hosts.iter_mut().for_each(|host| host.machine.scrap());
    judged
}

/// Each does what it can by itself. One that was started with a tree that its way back has put aside since is started once more.
fn alone(hosts: &mut [Host; 2], ends: &Ends) -> Result<(), String> {
    for host in hosts {
        host.recover()?;
        if order(host, RollbackOrder::Look, &Unwatched).may_come_again() && word(host, ends).is_some() {
            return Err("a leader that may be put in place again has given its word".into());
        }
        restart_if_aside(host)?;
    }
    Ok(())
}

/// What the leader says when it is asked.
fn word(leader: &Host, ends: &Ends) -> Option<bool> {
    let snapshot_dir = leader.snapshot_dir().as_path().into();
    let asked = RollbackOrder::Decided { snapshot_dir, session: ends.session.clone() };
    order(leader, asked, &Unwatched).decided
}

fn meet(hosts: &[Host; 2], photos: &[Arc<Photo>; 2], what: &str, ends: &Ends) -> Result<End, String> {
    let [leader, follower] = hosts;
    for (host, old) in hosts.iter().zip(&ends.old) {
        let words = host.top().1;
        if words[0] != words[1] || !ends.words.contains(&words[0]) {
            return Err(format!("{:?} is {words:?} by itself", host.layout()));
        }
        let sets = super::state::whole(host, &host.sets()?.0)?;
        if sets != old.sets {
            return Err(format!("{:?} has the sets {sets:?}", host.layout()));
        }
    }
    let look = order(follower, RollbackOrder::Look, &Unwatched);
    if look.state.as_ref().and_then(|state| state.waits_for()).is_some() {
        if look.forbids_sync().is_none() || follower.top().1 != ends.old[1].trees.words {
            return Err("a machine in doubt is not as it was".into());
        }
        let word = match word(leader, ends) {
            Some(true) => RollbackOrder::Commit,
            Some(false) => RollbackOrder::Abort,
            None => return Err("the leader gives no word".into()),
        };
        order(follower, word, &Unwatched);
    }
    let words = hosts.each_ref().map(|host| host.top().1);
    let found = match words {
        [[OLD_WORD, OLD_WORD], [OLD_WORD, OLD_WORD]] => End::Old,
        [[NEW_WORD, NEW_WORD], [NEW_WORD, NEW_WORD]] => End::New,
        other => return Err(format!("they do not agree: {other:?}")),
    };
    let wanted = match (what, photos[0].end) {
        (BACK | BACK_BY_ITSELF, End::New) => End::Old,
        (BACK | BACK_BY_ITSELF, End::Old) => End::New,
        ("the leader commits" | BACK | BACK_BY_ITSELF, end) => end,
        _ => photos[1].end,
    };
    if wanted != End::Either && wanted != found {
        return Err(format!("wanted {wanted:?}, found {found:?}"));
    }
    for (host, old) in hosts.iter().zip(&ends.old) {
        let mut now = State::read(host)?;
        if now.trees.trial == Some(On::Returned) {
            // What nobody asked for stands beside until somebody has seen it, and what is not in any other set is kept as one.
            order(host, RollbackOrder::Confirm(stamp(80_000)), &Unwatched);
            now = State::read(host)?;
            now.sets.retain(|id, _| old.sets.contains_key(id));
        }
        let is_right = match found {
            End::Old => now == *old,
            _ => now.sets == old.sets && now.trees.beside.len() == 2,
        };
        if !is_right {
            return Err(format!("both are {found:?}, and on {:?} there is {now:?}", host.layout()));
        }
        super::inside::each_once(host)?;
        nothing_more(host)?;
    }
    Ok(found)
}
