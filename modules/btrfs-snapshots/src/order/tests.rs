use jiff::{Timestamp, ToSpan};
use pc_switcher_agent::proto::{Backend, Need, StoredSet, Words};
use pc_switcher_contract::{SnapshotSet, UtcStamp};
use proptest::prelude::*;

use super::*;
use crate::keep::Keep;
use crate::retention::{Reason, judge};

const GIB: u64 = 1 << 30;

fn session(n: u32) -> SessionId {
    format!("{n:08x}").parse().unwrap()
}

fn verdict(n: u32, kind: &str, stays: bool) -> Verdict {
    let id = format!("202601{n:02}T120000Z-{n:08x}-{kind}").parse().unwrap();
    Verdict { id, stays, reason: if stays { Reason::Newest } else { Reason::Beyond } }
}

fn gain(n: u32, data_bytes: u64) -> Gain {
    Gain { session: session(n), data_bytes, elsewhere_bytes: 0 }
}

fn numbers(order: &[Candidate]) -> Vec<u32> {
    order.iter().map(|one| u32::from_str_radix(one.session.as_str(), 16).unwrap()).collect()
}

#[test]
fn what_no_rule_keeps_goes_first_then_what_holds_the_most_and_what_must_stay_never() {
    let kept = |n| verdict(n, "presync", true);
    let gone = |n| verdict(n, "presync", false);
    let judged = [gone(1), kept(2), kept(3), kept(4), kept(5)];
    let to_spare = [gone(1), gone(2), gone(3), gone(4), kept(5)];
    let gains = [gain(2, 10), gain(3, 30), gain(4, 10), gain(5, 900)];
    assert_eq!(numbers(&order(&judged, &to_spare, &gains)), [1, 3, 2, 4]);
    assert_eq!(order(&judged, &[kept(1), kept(2)], &gains), []);
}

#[test]
fn of_what_no_rule_keeps_ways_back_go_last_and_archive_runs_first() {
    let kinds = ["prerollback", "presync", "autoboot", "scheduled", "session", "autoupdate"];
    let gone: Vec<Verdict> = (1..).zip(kinds).map(|(n, kind)| verdict(n, kind, false)).collect();
    let gains: Vec<Gain> = (1..=6).map(|n| gain(n, u64::from(n))).collect();
    assert_eq!(numbers(&order(&gone, &gone, &gains)), [5, 4, 6, 3, 2, 1]);
}

#[test]
fn a_session_of_which_one_set_must_stay_does_not_go() {
    let half = [verdict(1, "presync", false), verdict(1, "postsync", true)];
    assert_eq!(order(&half, &half, &[gain(1, 1)]), []);
}

fn report(size_bytes: u64, available_bytes: u64) -> SpaceReport {
    SpaceReport {
        path: "/".into(),
        fs_uuid: "x".into(),
        fs_type: "btrfs".into(),
        size_bytes,
        data_free_bytes: available_bytes,
        unallocated_bytes: 0,
        metadata_free_bytes: GIB,
        metadata_copies: 2,
        available_bytes,
    }
}

#[test]
fn a_preview_takes_what_no_rule_keeps_and_then_the_largest_until_it_is_enough() {
    let (kept, gone) = (|n| verdict(n, "presync", true), |n| verdict(n, "presync", false));
    let judged = [gone(1), kept(2), kept(3), kept(4), kept(5), verdict(5, "postsync", false)];
    let to_spare = [gone(1), gone(2), gone(3), gone(4), kept(5)];
    let gains = [gain(1, GIB), gain(2, GIB), gain(3, 3 * GIB), gain(4, 2 * GIB), gain(5, 9 * GIB)];
    let preview = |wanted| {
        let seen = preview(&report(100 * GIB, 10 * GIB), wanted, &judged, &to_spare, &gains);
        let number = |step: &Step| u32::from_str_radix(step.session.as_str(), 16).unwrap();
        let steps: Vec<(u32, bool)> = seen.steps.iter().map(|step| (number(step), step.is_kept)).collect();
        (steps, seen.is_enough, seen.afterwards_bytes() / GIB)
    };
    let bytes = |gib: u64| Threshold::Bytes(gib * GIB);
    let first = [(1, false), (5, false)];
    assert_eq!(preview(bytes(5)), (first.to_vec(), true, 11), "they go whatever is wanted");
    assert_eq!(preview(bytes(11)), (first.to_vec(), true, 11), "half a session is worth nothing by itself");
    assert_eq!(preview(bytes(12)), ([first.as_slice(), &[(3, true)]].concat(), true, 14));
    assert_eq!(preview(bytes(15)), ([first.as_slice(), &[(3, true), (4, true)]].concat(), true, 16));
    let all = [first.as_slice(), &[(3, true), (4, true), (2, true)]].concat();
    assert_eq!(preview(bytes(50)), (all, false, 17));
    assert_eq!(preview(bytes(101)), (first.to_vec(), false, 11), "more than the disk has");
}

#[test]
fn of_numbers_that_cannot_be_true_nothing_is_concluded() {
    let ten = Threshold::Bytes(10 * GIB);
    assert_eq!(missing(&report(100 * GIB, 7 * GIB), ten), Some(3 * GIB));
    assert_eq!(missing(&report(100 * GIB, 50 * GIB), ten), Some(0));
    assert_eq!(missing(&report(0, 0), ten), None, "not read yet");
    assert_eq!(missing(&report(0, 0), Threshold::Share(0.2)), None);
    assert_eq!(missing(&report(GIB, u64::MAX), ten), None, "more than there is");
    assert_eq!(missing(&report(8 * GIB, GIB), ten), None, "more than the disk can ever have");
}

#[test]
fn a_removal_that_shows_nowhere_is_in_vain() {
    let (before, after) = (report(100 * GIB, 5 * GIB), report(100 * GIB, 6 * GIB));
    let is_in_vain = |removed: &[u64], now: &SpaceReport| {
        let mut expected = Expected::since(&before);
        removed
            .iter()
            .map(|bytes| {
                expected.add(*bytes);
                expected.is_in_vain(now)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(is_in_vain(&[GIB], &after), [false]);
    assert_eq!(is_in_vain(&[GIB], &before), [true]);
    assert_eq!(is_in_vain(&[0, 4096], &before), [false, false], "so little may go unnoticed");
    assert_eq!(is_in_vain(&[8 << 20, 8 << 20], &before), [false, true], "but not again and again");
    let data_alone = SpaceReport { available_bytes: before.available_bytes, ..after.clone() };
    assert_eq!(is_in_vain(&[GIB], &data_alone), [false], "metadata is what is short");
    assert_eq!(is_in_vain(&[GIB, GIB], &after), [false, true], "each time it has to be more");
}

/// A machine with sessions of all kinds, some of which somebody holds on to.
fn machine() -> impl Strategy<Value = Vec<StoredSet>> {
    let one = (0..SnapshotKind::ALL.len(), 0..4000i64, 0..12u8);
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        let stored = |(n, (kind, hours, held)): (u32, (usize, i64, u8))| {
            let stamp = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + hours.hours();
            let until = (held == 4).then(|| UtcStamp::new(stamp + 5000.hours()));
            StoredSet {
                set: SnapshotSet {
                    hostname: "laptop".parse().unwrap(),
                    kind: SnapshotKind::ALL[kind],
                    stamp: UtcStamp::new(stamp),
                    session: session(n),
                    consistent: true,
                    members: Vec::new(),
                },
                backend: Backend::Btrfs,
                pinned: held == 0,
                hard: None,
                in_use: held == 1,
                holders: Vec::new(),
                has_steps: true,
                needs: if held == 2 { vec![Need::Pair("desk".into())] } else { Vec::new() },
                missing: Vec::new(),
                away: Vec::new(),
                words: Words { good: held == 3, until, ..Words::default() },
                system: None,
            }
        };
        (1..).zip(all).map(stored).collect()
    })
}

proptest! {
    #[test]
    fn what_anybody_holds_on_to_is_no_candidate_and_something_stays_of_each_kind(
        sets in machine(),
        hours in 0..9000i64,
        gains in proptest::collection::vec(0..100u64, 40),
    ) {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + hours.hours();
        let (keep, least): (Keep, Keep) = ("7d, 4w".parse().unwrap(), "last 2 sessions".parse().unwrap());
        let gains: Vec<Gain> = (1..).zip(gains).map(|(n, bytes)| gain(n, bytes)).collect();
        let judged = judge(&sets, now, &keep, &least);
        let going = order(&judged, &judge(&sets, now, &least, &least), &gains);
        let goes = |stored: &StoredSet| going.iter().any(|one| one.session == stored.set.session);
        for stored in &sets {
            let is_held = stored.pinned || stored.in_use || stored.words.good || !stored.needs.is_empty();
            let is_until = stored.words.until.is_some_and(|until| until.timestamp() > now);
            let is_future = stored.set.stamp.timestamp() > now;
            prop_assert!(!((is_held || is_until || is_future) && goes(stored)), "{:?}", stored.set.id());
        }
        let past = |stored: &&StoredSet| stored.set.stamp.timestamp() <= now;
        for kind in [SnapshotKind::PreRollback, SnapshotKind::AutoUpdate, SnapshotKind::AutoBoot] {
            let of_it = || sets.iter().filter(past).filter(move |stored| stored.set.kind == kind);
            if let Some(newest) = of_it().max_by_key(|stored| (stored.set.stamp, stored.set.id())) {
                prop_assert!(!goes(newest), "the newest of its kind goes: {:?}", newest.set.id());
            }
        }
        let is_kept = |one: &Candidate| {
            judged.iter().any(|verdict| verdict.id.session == one.session && verdict.stays)
        };
        prop_assert!(going.iter().map(is_kept).is_sorted(), "what no rule keeps goes first");
        let spared: Vec<u64> = going.iter().filter(|one| is_kept(one)).map(|one| one.data_bytes).collect();
        prop_assert!(spared.is_sorted_by(|a, b| a >= b), "then what holds the most");
    }
}
