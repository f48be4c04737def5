//! When a file system will be full, by what was seen of it over time: pure.
//!
//! The pace is the median of the slopes between all pairs of looks: a clean-up, a large copy or one wrong number moves it
//! little, where a mean would follow them. Looks that cannot be true, and those at another size of the disk, do not count.

use jiff::{SignedDuration, Timestamp};
use pc_switcher_agent::proto::SpaceReport;
use serde::{Deserialize, Serialize};

/// So many looks at one file system are remembered.
pub const MOST: usize = 64;
/// Fewer tell nothing.
const LEAST: usize = 3;
/// What is further away than this is no forecast.
const FURTHEST_DAYS: f64 = 3650.0;
const DAY_SECONDS: f64 = 86_400.0;

/// How a file system stood at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When, by the clock of whoever looked.
    pub at: Timestamp,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What could be relied on, in bytes.
    pub available_bytes: u64,
}

impl Seen {
    /// Takes what counts out of a report.
    pub fn of(report: &SpaceReport, at: Timestamp) -> Self {
        Self { at, size_bytes: report.size_bytes, available_bytes: report.available_bytes }
    }

    fn is_credible(&self) -> bool {
        self.size_bytes > 0 && self.available_bytes <= self.size_bytes
    }
}

/// Over which times looks are compared.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Looks that are closer to each other count as one.
    pub apart: SignedDuration,
    /// A shorter time tells nothing.
    pub span: SignedDuration,
    /// Older looks do not count.
    pub window: SignedDuration,
}

impl Pace {
    /// From one sync to the next.
    pub const DAYS: Pace = Pace {
        apart: SignedDuration::from_hours(1),
        span: SignedDuration::from_hours(24),
        window: SignedDuration::from_hours(30 * 24),
    };
    /// While somebody watches.
    pub const WATCHED: Pace = Pace {
        apart: SignedDuration::from_secs(1),
        span: SignedDuration::from_secs(20),
        window: SignedDuration::from_mins(5),
    };
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outlook {
    /// Too little was seen to tell.
    Unknown,
    /// It does not get less, or so slowly that it does not matter.
    Steady,
    /// It gets less.
    Filling {
        /// By how much in a day.
        bytes_per_day: f64,
        /// Until nothing is available.
        days: f64,
    },
}

/// Adds a look to those before, oldest first. What lies in the future goes: a clock was wrong then. Of too many the one goes that
/// is the closest to the one before it, so that the past stays covered.
pub fn note(seen: &mut Vec<Seen>, now: Seen, pace: Pace) {
    seen.retain(|one| one.is_credible() && one.at <= now.at);
    seen.sort_by_key(|one| one.at);
    let is_new = seen.last().is_none_or(|last| now.at.duration_since(last.at) >= pace.apart);
    if !is_new || !now.is_credible() {
        return;
    }
    seen.push(now);
    while seen.len() > MOST {
        let is_old = |one: &Seen| now.at.duration_since(one.at) > pace.window;
        let closest = (1..seen.len() - 1).min_by_key(|at| seen[*at].at.duration_since(seen[*at - 1].at));
        let victim = if is_old(&seen[0]) { 0 } else { closest.unwrap_or(0) };
        seen.remove(victim);
    }
}

/// Returns what is to be expected of a file system that stands so now.
pub fn outlook(seen: &[Seen], now: Seen, pace: Pace) -> Outlook {
    let counts = |one: &&Seen| {
        one.is_credible()
            && one.size_bytes == now.size_bytes
            && one.at < now.at
            && now.at.duration_since(one.at) <= pace.window
    };
    let mut looks: Vec<Seen> = seen.iter().filter(counts).copied().collect();
    looks.sort_by_key(|one| one.at);
    looks.push(now);
    if !now.is_credible() || looks.len() < LEAST || now.at.duration_since(looks[0].at) < pace.span {
        return Outlook::Unknown;
    }
    let mut slopes: Vec<f64> = Vec::new();
    for (n, early) in looks.iter().enumerate() {
        for late in &looks[n + 1..] {
            let days = late.at.duration_since(early.at).as_secs_f64() / DAY_SECONDS;
            if late.at.duration_since(early.at) >= pace.apart {
                slopes.push((late.available_bytes as f64 - early.available_bytes as f64) / days);
            }
        }
    }
    if slopes.is_empty() {
        return Outlook::Unknown;
    }
    slopes.sort_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    let slope = match slopes.len() % 2 {
        0 => f64::midpoint(slopes[middle - 1], slopes[middle]),
        _ => slopes[middle],
    };
    let (bytes_per_day, days) = (-slope, now.available_bytes as f64 / -slope);
    match slope < 0.0 && days <= FURTHEST_DAYS {
        true => Outlook::Filling { bytes_per_day, days },
        false => Outlook::Steady,
    }
}

#[cfg(test)]
mod tests;
