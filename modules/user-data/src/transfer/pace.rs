//! Whether content is compressed on its way: decided while it is copied, by what the link takes and what this machine can do.

use std::time::Duration;

use crate::config::Compress;

/// A look at a shorter time says little.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// A link is what everything waits for if it is written to for such a share of the time.
const BUSY: f64 = 0.6;

/// Slower links are compressed for, in bytes a second: with both ends on processors of today it pays below about 100 MB/s
/// (facts/sync-engine.md, part 2.1). Well below it, since a machine that has much else to do encrypts slower, and its link
/// looks slow.
const SLOW: f64 = 32e6;

/// So many looks in a row must say that the link is slow.
const LOOKS: u32 = 2;

/// Compression must be so many times faster than the link: it is not the only work that this machine has.
const FASTER: f64 = 4.0;

/// A link that has become so much faster than the limit is not compressed for any more.
const BAND: f64 = 1.5;

/// How long nothing is compressed after compression turned out to be what everything waits for; doubled each time.
const PAUSE: Duration = Duration::from_secs(10);

/// What happened since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Seen {
    /// How long that is.
    pub(super) elapsed: Duration,
    /// Bytes that the link took.
    pub(super) bytes: u64,
    /// How long they were waited for.
    pub(super) busy: Duration,
    /// Bytes of content that were sent, before they were compressed.
    pub(super) plain: u64,
    /// Bytes that were to be compressed, whether or not they got smaller.
    pub(super) tried: u64,
    /// How long that took.
    pub(super) spent: Duration,
}

/// The decision.
#[derive(Debug)]
pub(super) struct Pace {
    wish: Compress,
    packs: bool,
    /// What the link took when everything waited for it, in bytes a second.
    link: Option<f64>,
    /// Looks in a row at a slow link.
    slow: u32,
    rest: Duration,
    pause: Duration,
}

impl Pace {
    /// Begins with nothing known.
    pub(super) fn new(wish: Compress) -> Self {
        Self { wish, packs: wish == Compress::On, link: None, slow: 0, rest: Duration::ZERO, pause: PAUSE }
    }

    /// Whether content is compressed now.
    pub(super) fn packs(&self) -> bool {
        self.packs
    }

    /// Whether looks change anything.
    pub(super) fn is_open(&self) -> bool {
        self.wish == Compress::Auto
    }

    /// Returns what the link took when everything waited for it, in bytes a second.
    pub(super) fn link(&self) -> Option<f64> {
        self.link
    }

    /// Decides anew.
    pub(super) fn look(&mut self, seen: Seen) {
        if !self.is_open() || seen.elapsed.is_zero() {
            return;
        }
        self.rest = self.rest.saturating_sub(seen.elapsed);
        let elapsed = seen.elapsed.as_secs_f64();
        let is_busy = seen.busy.as_secs_f64() >= BUSY * elapsed;
        let rate = seen.bytes as f64 / seen.busy.as_secs_f64().max(1e-9);
        let speed = (seen.tried > 0).then(|| seen.tried as f64 / seen.spent.as_secs_f64().max(1e-9));
        let limit = speed.map_or(SLOW, |speed| SLOW.min(speed / FASTER));
        if is_busy {
            self.link = Some(rate);
        }
        if !self.packs {
            self.slow = if is_busy && rate < limit { self.slow + 1 } else { 0 };
            self.packs = self.slow >= LOOKS && self.rest.is_zero();
        } else if is_busy {
            self.packs = rate < limit * BAND;
        } else if seen.spent.as_secs_f64() >= BUSY * elapsed
            && self.link.is_some_and(|link| (seen.plain as f64) < link * elapsed)
        {
            // As it is, it would be there sooner.
            self.packs = false;
            self.rest = self.pause;
            self.pause = self.pause.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// A link that takes so many megabytes a second, and is written to for so many of ten seconds.
    fn link(rate: u64, tenths: u64) -> Seen {
        let (elapsed, busy) = (Duration::from_secs(10), Duration::from_secs(tenths));
        let bytes = rate * MB * tenths;
        Seen { elapsed, bytes, busy, plain: bytes, ..Seen::default() }
    }

    /// With so many megabytes a second compressed for all of the time.
    fn compressing(seen: Seen, speed: u64) -> Seen {
        Seen { tried: speed * MB * 10, spent: seen.elapsed, plain: speed * MB * 10, ..seen }
    }

    fn auto(seen: &[Seen]) -> bool {
        let mut pace = Pace::new(Compress::Auto);
        seen.iter().for_each(|seen| pace.look(*seen));
        pace.packs()
    }

    /// As long as it takes to be believed.
    fn slow(rate: u64) -> [Seen; 2] {
        [link(rate, 9); 2]
    }

    #[test]
    fn a_slow_link_that_all_wait_for_is_compressed_for_and_a_fast_or_idle_one_is_not() {
        assert!(!auto(&[]));
        assert!(auto(&slow(10)) && auto(&[link(0, 10); 2]));
        assert!(!auto(&[link(10, 9)]) && !auto(&[link(10, 9), link(300, 9), link(10, 9)]));
        assert!(!auto(&[link(300, 9)]));
        // The target's disk is what is slow, or the source's.
        assert!(!auto(&[link(10, 2); 3]) && !auto(&[link(300, 1); 3]));
    }

    #[test]
    fn around_the_limit_it_stays_as_it_was() {
        let then = |seen| auto(&[link(30, 9), link(30, 9), seen]);
        assert!(then(link(40, 9)) && !auto(&[link(40, 9); 3]));
        assert!(!then(link(60, 9)));
        assert!(then(link(500, 1)), "the link has little to do because it is compressed for");
    }

    #[test]
    fn a_machine_that_compresses_slower_than_its_link_leaves_it() {
        let then = |seen| auto(&[link(30, 9), link(30, 9), seen]);
        assert!(!then(compressing(link(10, 9), 5)));
        let mut pace = Pace::new(Compress::Auto);
        slow(30).into_iter().for_each(|seen| pace.look(seen));
        pace.look(compressing(link(30, 3), 20));
        assert!(!pace.packs() && pace.link() == Some(30e6));
        // For ten seconds it does not try again, then for twenty.
        let look = |pace: &mut Pace| {
            pace.look(Seen { elapsed: Duration::from_secs(9), ..link(30, 9) });
            pace.packs()
        };
        assert!(!look(&mut pace) && look(&mut pace));
        pace.look(compressing(link(30, 3), 20));
        assert!(!look(&mut pace) && !look(&mut pace) && look(&mut pace));
        assert!(then(compressing(link(30, 3), 90)), "it is worth it");
    }

    #[test]
    fn who_says_on_or_off_is_not_asked_again() {
        for (wish, packs) in [(Compress::On, true), (Compress::Off, false)] {
            let mut pace = Pace::new(wish);
            for seen in [link(1, 10), link(500, 9), compressing(link(30, 3), 1)] {
                pace.look(seen);
                assert_eq!(pace.packs(), packs);
            }
        }
    }
}
