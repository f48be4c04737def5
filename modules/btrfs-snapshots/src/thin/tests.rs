use std::sync::Arc;

use pc_switcher_contract::AgentLink;

use super::*;
use crate::fake::{Counters, Fake, NOW};

const MIB: u64 = 1 << 20;

async fn thin_for(fake: &Arc<Fake>, only: If) -> Thinned {
    let link: Arc<dyn AgentLink> = fake.clone();
    let config = fake.config("last 90 sessions");
    let wish = Wish { wanted: Threshold::Share(0.9), only, at_most: usize::MAX };
    thin(&Agent::new(&link), &config, NOW.parse().unwrap(), wish, &CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn numbers_that_never_move_end_it_long_before_the_store_is_empty() {
    for only in [If::Wanted, If::Enough] {
        for (each, goes) in [(100 * MIB, 1), (16 * MIB, 1), (4 * MIB, 4), (MIB, 16)] {
            let fake = Fake::of_sessions(80, each);
            let thinned = thin_for(&fake, only).await;
            // Less than is wanted is held in all: then nothing goes unless somebody insists.
            let goes = if only == If::Enough { 0 } else { goes };
            assert_eq!(fake.sessions_left(), 80 - goes, "{only:?}, {each} each");
            assert_eq!((thinned.is_enough, thinned.is_clearing), (false, only == If::Wanted));
        }
    }
}

#[tokio::test]
async fn numbers_that_come_late_or_lie_never_cost_what_keep_min_keeps() {
    let lies = |_: usize| 0;
    let jumps = |asked: usize| if asked.is_multiple_of(2) { 5 << 30 } else { 0 };
    let absurd = |_: usize| u64::MAX;
    let all: [Counters; 3] = [lies, jumps, absurd];
    for available in all {
        for each in [0, MIB, 100 * MIB] {
            let fake = Arc::new(Fake { available, ..Fake::sessions(40, each) });
            let thinned = thin_for(&fake, If::Wanted).await;
            assert!(!thinned.is_enough && fake.sessions_left() >= 2, "{}", fake.sessions_left());
        }
    }
    let fake = Arc::new(Fake { available: absurd, ..Fake::sessions(40, 100 * MIB) });
    thin_for(&fake, If::Wanted).await;
    assert_eq!(
        fake.sessions_left(),
        40,
        "more is available than the disk has: nothing is concluded from that"
    );
}

#[tokio::test]
async fn a_kernel_that_does_not_clear_away_what_went_ends_it() {
    let fake = Arc::new(Fake { clears: false, ..Fake::sessions(40, 100 * MIB) });
    let thinned = thin_for(&fake, If::Wanted).await;
    assert!(thinned.is_clearing && !thinned.is_enough);
    assert_eq!(fake.sessions_left(), 39);
}

#[tokio::test]
async fn sets_of_volumes_give_no_room_and_stay() {
    let of_volumes = |fake: Fake, every: usize| {
        for (n, stored) in fake.sets.lock().unwrap().iter_mut().enumerate() {
            if n % every == 0 {
                stored.backend = Backend::Lvm;
            }
        }
        Arc::new(fake)
    };
    let fake = of_volumes(Fake::sessions(40, 0), 1);
    for only in [If::Wanted, If::Enough] {
        let thinned = thin_for(&fake, only).await;
        assert_eq!((fake.sessions_left(), thinned.pruned.removed.len(), thinned.is_enough), (40, 0, false));
    }
    // Of others that lie beside them, all go that may.
    let mixed = of_volumes(Fake::sessions(40, MIB), 2);
    thin_for(&mixed, If::Wanted).await;
    let sets = mixed.sets.lock().unwrap().clone();
    let left = |backend| sets.iter().filter(|stored| stored.backend == backend).count();
    assert_eq!(left(Backend::Lvm), 20);
    assert!(left(Backend::Btrfs) < 20);

    let link: Arc<dyn AgentLink> = fake.clone();
    let (agent, config) = (Agent::new(&link), fake.config("last 90 sessions"));
    let now = NOW.parse().unwrap();
    let judged = prune::look(&agent, &config, now).await.unwrap();
    let seen = preview(&agent, &config, now, Threshold::Share(0.9), &judged, &[]).await.unwrap();
    assert_eq!((seen.steps, seen.is_enough), (Vec::new(), false));
}
