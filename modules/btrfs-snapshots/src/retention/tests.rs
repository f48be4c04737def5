use jiff::ToSpan;
use pc_switcher_agent::proto::{Backend, GoodBy, HardPin, Maker, Words};
use pc_switcher_contract::{SnapshotMember, SnapshotSet, UtcStamp};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn keep(text: &str) -> Keep {
    text.parse().unwrap()
}

/// What a machine keeps of a session: kinds and when each was taken.
pub(super) fn session(n: u32, kinds: &[SnapshotKind], stamp: Timestamp) -> Vec<StoredSet> {
    let stored = |(minutes, kind): (i64, &SnapshotKind)| StoredSet {
        set: SnapshotSet {
            hostname: "laptop".parse().unwrap(),
            kind: *kind,
            stamp: UtcStamp::new(stamp + minutes.minutes()),
            session: format!("{n:08x}").parse().unwrap(),
            consistent: true,
            members: Vec::new(),
        },
        backend: Backend::Btrfs,
        pinned: false,
        hard: None,
        in_use: false,
        holders: Vec::new(),
        has_steps: false,
        needs: Vec::new(),
        missing: Vec::new(),
        away: Vec::new(),
        words: Words::default(),
        system: None,
    };
    (0..).zip(kinds).map(stored).collect()
}

/// What a machine keeps of a session whose sets were taken in these transactions of its disk.
fn session_at(n: u32, transactions: [u64; 2], stamp: Timestamp) -> Vec<StoredSet> {
    let mut sets = session(n, &BOTH, stamp);
    for (stored, otransid) in sets.iter_mut().zip(transactions) {
        let name = format!("@home-presync-20260301T000000Z-{n:08x}");
        stored.set.members.push(SnapshotMember {
            name: name.parse().unwrap(),
            path: name.as_str().into(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 300 + otransid,
            otransid,
            ctransid: otransid,
            first_taken: None,
            apart: None,
        });
    }
    sets
}

pub(super) const BOTH: [SnapshotKind; 2] = [SnapshotKind::PreSync, SnapshotKind::PostSync];
const PRE: [SnapshotKind; 1] = [SnapshotKind::PreSync];

/// The sessions that stay, oldest first.
fn staying(sets: &[StoredSet], now: Timestamp, keep: &Keep, keep_min: &Keep) -> Vec<u32> {
    let verdicts = judge(sets, now, keep, keep_min);
    assert_eq!(verdicts.len(), sets.len());
    let staying = verdicts.iter().filter(|verdict| verdict.stays);
    let mut numbers: Vec<u32> =
        staying.map(|verdict| u32::from_str_radix(verdict.id.session.as_str(), 16).unwrap()).collect();
    numbers.dedup();
    numbers
}

fn reason_of(sets: &[StoredSet], now: Timestamp, n: u32) -> Reason {
    let name = format!("{n:08x}");
    let verdicts = judge(sets, now, &keep("last 1 session"), &keep("last 1 session"));
    verdicts.into_iter().find(|verdict| verdict.id.session.as_str() == name).unwrap().reason
}

#[test]
fn pre_and_post_of_a_session_go_and_stay_together_even_over_midnight() {
    let late = at("2026-03-01T23:59:30Z");
    let mut sets = session(1, &BOTH, late - 24.hours());
    sets.extend(session(2, &BOTH, late));
    sets.extend(session(3, &BOTH, late + 1.hours()));
    let now = late + 2.hours();
    assert_eq!(staying(&sets, now, &keep("2d"), &keep("last 1 session")), [2, 3]);
    sets[0].pinned = true;
    assert_eq!(staying(&sets, now, &keep("2d"), &keep("last 1 session")), [1, 2, 3]);
    assert_eq!(judge(&sets, now, &keep("1d"), &keep("1d")).iter().filter(|one| one.stays).count(), 4);
}

#[test]
fn of_sessions_in_one_second_or_over_a_clock_that_was_set_back_the_later_ones_stay() {
    let noon = at("2026-03-01T12:00:00Z");
    let two = keep("last 2 sessions");
    let last_two = |stamps: [Timestamp; 4]| {
        // The id with the lower number is the later one: names tell nothing.
        let sets = (0..4).zip(stamps).flat_map(|(index, stamp)| {
            let first = 10 * u64::from(index);
            session_at(9 - index, [first + 1, first + 2], stamp)
        });
        let mut left = staying(&sets.collect::<Vec<_>>(), noon + 1.hours(), &two, &two);
        left.sort_unstable();
        left.dedup();
        left
    };
    assert_eq!(last_two([noon; 4]), [6, 7]);
    assert_eq!(last_two([noon, noon + 9.minutes(), noon + 5.minutes(), noon + 6.minutes()]), [6, 7]);
}

/// Thirty old sessions that came in from another directory a moment ago, and six that were taken here since.
fn with_moved_in(apart_hours: i64, now: Timestamp) -> Vec<StoredSet> {
    let mut sets = Vec::new();
    for n in 1..=36_u32 {
        let stamp = now - (apart_hours * i64::from(37 - n)).hours();
        let number = 10 * u64::from(n);
        let mut of_it = session_at(n, [number, number + 1], stamp);
        for stored in of_it.iter_mut().filter(|_| n <= 30) {
            let member = &mut stored.set.members[0];
            // Btrfs made them last, and in no order.
            let newest = 10_000 - number;
            member.first_taken = Some(std::mem::replace(&mut member.otransid, newest));
            stored.pinned = true;
        }
        sets.extend(of_it);
    }
    sets
}

#[test]
fn sets_that_came_from_another_directory_are_as_old_as_what_they_hold() {
    let now = at("2026-06-10T12:00:00Z");
    let one = keep("last 1 session");
    for (rules, apart_hours) in [("last 7 sessions", 30), ("7d", 24), ("7w", 7 * 24), ("7h", 1)] {
        let mut sets = with_moved_in(apart_hours, now);
        let all: Vec<u32> = (1..=36).collect();
        assert_eq!(staying(&sets, now, &keep(rules), &one), all, "{rules}: they are pinned");
        assert_eq!(staying(&sets, now, &one, &keep(rules)), all, "{rules}: where space is short");
        // Once somebody has let them go.
        sets.iter_mut().for_each(|stored| stored.pinned = false);
        assert_eq!(staying(&sets, now, &keep(rules), &one), [30, 31, 32, 33, 34, 35, 36], "{rules}");
    }
}

#[test]
fn what_is_wanted_is_never_dropped_and_the_reason_is_said() {
    let now = at("2026-06-01T12:00:00Z");
    let sets_with = |change: fn(&mut StoredSet)| {
        let mut sets = session(1, &BOTH, now - 900.hours());
        change(&mut sets[1]);
        sets.extend(session(2, &BOTH, now - 800.hours()));
        sets.extend(session(3, &BOTH, now - 1.hours()));
        sets
    };
    let words = |change| reason_of(&sets_with(change), now, 1).to_string();
    assert_eq!(words(|_| {}), "no rule keeps it");
    assert_eq!(words(|set| set.pinned = true), "pinned");
    assert_eq!(words(|set| set.in_use = true), "in use");
    assert_eq!(words(|set| set.set.kind = SnapshotKind::Manual), "not taken by a sync");
    assert_eq!(
        words(|set| set.needs.push(Need::Pair("desk".into()))),
        "the next sync with desk starts from it"
    );
    assert_eq!(
        words(|set| set.needs.push(Need::Foreign(Maker::Snapper))),
        "it is snapper's, and only snapper removes it"
    );
    assert_eq!(reason_of(&sets_with(|_| {}), now, 3).to_string(), "kept by `last 1 session`");
}

#[test]
fn sets_dated_in_the_future_stay_and_push_nothing_out() {
    let now = at("2026-06-01T12:00:00Z");
    let mut sets = session(1, &BOTH, now - 2.hours());
    sets.extend(session(2, &BOTH, now - 1.hours()));
    for n in 3..9 {
        sets.extend(session(n, &BOTH, now + i64::from(n).hours()));
    }
    assert_eq!(staying(&sets, now, &keep("last 1 session"), &keep("1y")), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(reason_of(&sets, now, 5), Reason::Future);
}

#[test]
fn a_sync_that_changed_nothing_counts_for_no_rule_and_goes_after_a_day() {
    let now = at("2026-06-10T12:00:00Z");
    let mut sets = session(1, &BOTH, now - 200.hours());
    sets.extend(session(2, &PRE, now - 100.hours()));
    sets.extend(session(3, &PRE, now - 50.hours()));
    sets.extend(session(4, &PRE, now - 1.hours()));
    let rules = keep("last 2 sessions");
    assert_eq!(staying(&sets, now, &rules, &rules), [1, 4]);
    // Once there is a newer one, and a day has passed, it goes too.
    sets.extend(session(5, &BOTH, now + 30.hours()));
    assert_eq!(staying(&sets, now + 40.hours(), &rules, &rules), [1, 5]);
    // Half a commit is written down: that session is a way back.
    sets[2].has_steps = true;
    assert_eq!(staying(&sets, now + 40.hours(), &rules, &rules), [2, 5]);
}

#[test]
fn the_newest_of_each_calendar_bucket_stays() {
    // From a Wednesday on, every six hours for thirty days.
    let begin = at("2025-12-03T00:00:00Z");
    let sets: Vec<StoredSet> =
        (0..120).flat_map(|n| session(n, &BOTH, begin + (6 * i64::from(n)).hours())).collect();
    let now = begin + 720.hours();
    let stay = |rules: &str| staying(&sets, now, &keep(rules), &keep("last 1 session"));
    assert_eq!(stay("3d"), [111, 115, 119]);
    assert_eq!(stay("3w"), [75, 103, 119]);
    assert_eq!((stay("2m"), stay("2y"), stay("3h")), (vec![115, 119], vec![115, 119], vec![117, 118, 119]));
    assert_eq!(stay("all 13h"), [118, 119]);
    assert_eq!(stay("3h, 2d, 1y"), [115, 117, 118, 119]);
}

#[test]
fn each_kind_is_judged_by_itself_and_its_newest_always_stays() {
    let now = at("2026-06-10T12:00:00Z");
    let safety = [SnapshotKind::PreRollback];
    let mut sets = session(1, &BOTH, now - 100.hours());
    for n in 2..6 {
        sets.extend(session(n, &safety, now - (90 - i64::from(n)).hours()));
    }
    sets.extend(session(6, &BOTH, now - 50.hours()));
    let one = keep("last 1 session");
    assert_eq!(staying(&sets, now, &one, &one), [5, 6]);
    assert_eq!(reason_of(&sets, now, 5), Reason::Rule(one.rules()[0]));
    assert_eq!(staying(&sets, now, &keep("last 2 sessions"), &one), [1, 4, 5, 6]);
    let hourly = keep("all 3h");
    assert_eq!(staying(&sets, now, &hourly, &hourly), [5, 6], "the newest of both pools");
    assert_eq!(judge(&sets, now, &hourly, &hourly)[5].reason, Reason::NewestOfKind);
    sets.extend(session(7, &[SnapshotKind::AutoUpdate], now - 200.hours()));
    sets.extend(session(8, &[SnapshotKind::AutoUpdate], now - 300.hours()));
    assert_eq!(staying(&sets, now, &one, &one), [7, 5, 6]);
}

fn world() -> impl Strategy<Value = Vec<StoredSet>> {
    let one = (0..400_i64, 0..3_usize, 0..40_u8);
    prop::collection::vec(one, 0..40).prop_map(|drawn| {
        let begin = at("2026-01-01T00:00:00Z");
        let make = |(n, (hours, kinds, luck)): (u32, (i64, usize, u8))| {
            let kinds: &[SnapshotKind] = [&BOTH[..], &PRE, &BOTH[1..]][kinds];
            let mut sets = session(n, kinds, begin + (7 * hours).hours());
            if luck > 36 {
                sets.truncate(1);
                sets[0].set.kind = SnapshotKind::PreRollback;
            }
            sets[0].pinned = luck == 0;
            sets[0].has_steps = luck == 1;
            sets
        };
        (0..).zip(drawn).flat_map(make).collect()
    })
}

fn rules() -> impl Strategy<Value = Keep> {
    let parts = vec!["all 3d", "last 3 sessions", "5h", "4d", "3w", "2m", "1y"];
    prop::sample::subsequence(parts, 1..=7).prop_map(|parts| keep(&parts.join(", ")))
}

proptest! {
    #[test]
    fn judging_what_stays_drops_nothing_more(sets in world(), rules in rules(), hours in 0..4000_i64) {
        let now = at("2026-01-01T00:00:00Z") + hours.hours();
        let floor = keep("last 1 session");
        let first = staying(&sets, now, &rules, &floor);
        let left: Vec<StoredSet> = sets
            .into_iter()
            .filter(|stored| first.contains(&u32::from_str_radix(stored.set.session.as_str(), 16).unwrap()))
            .collect();
        prop_assert_eq!(staying(&left, now, &rules, &floor), first);
    }

    #[test]
    fn what_is_dropped_once_is_dropped_for_ever(
        sets in world(),
        rules in rules(),
        hours in 0..3000_i64,
        more in 0..3000_i64,
    ) {
        let now = at("2026-01-01T00:00:00Z") + hours.hours();
        let floor = keep("last 1 session");
        let (soon, later) =
            (staying(&sets, now, &rules, &floor), staying(&sets, now + more.hours(), &rules, &floor));
        prop_assert!(later.iter().all(|n| soon.contains(n)), "{:?} {:?}", soon, later);
    }

    #[test]
    fn a_rule_more_keeps_no_set_less(
        sets in world(),
        rules in rules(),
        others in rules(),
        hours in 0..4000_i64,
    ) {
        let now = at("2026-01-01T00:00:00Z") + hours.hours();
        let few = staying(&sets, now, &rules, &rules);
        let many = staying(&sets, now, &rules, &others);
        prop_assert!(few.iter().all(|n| many.contains(n)));
    }

    #[test]
    fn while_there_are_sets_one_stays(sets in world(), rules in rules(), hours in 0..90_000_i64) {
        let now = at("2026-01-01T00:00:00Z") + hours.hours();
        prop_assert_eq!(sets.is_empty(), staying(&sets, now, &rules, &rules).is_empty());
    }
}

#[test]
fn a_set_taken_by_hand_goes_only_when_its_time_has_ended_and_never_stands_for_the_newest_sync() {
    let now = at("2026-03-01T12:00:00Z");
    let mut sets = session(1, &PRE, now - 48.hours());
    let mut by_hand = session(2, &[SnapshotKind::Manual], now - 2.hours());
    by_hand[0].words.until = Some(UtcStamp::new(now + 1.minutes()));
    sets.extend(by_hand);
    sets.extend(session(3, &[SnapshotKind::Manual], now - 4000.hours()));
    assert_eq!(reason_of(&sets, now, 1), Reason::Newest);
    assert_eq!(reason_of(&sets, now, 2), Reason::Until(UtcStamp::new(now + 1.minutes())));
    assert_eq!(reason_of(&sets, now, 3), Reason::NoSync);
    let later = now + 1.minutes();
    assert_eq!(reason_of(&sets, later, 2), Reason::Ended(UtcStamp::new(later)));
    let last = keep("last 1 session");
    assert_eq!(staying(&sets, later, &last, &last), [3, 1]);
    sets[1].words.good = true;
    assert_eq!(reason_of(&sets, later, 2), Reason::Good(GoodBy::Hand));
    sets[1].pinned = true;
    assert_eq!(reason_of(&sets, later, 2), Reason::Pinned);
    sets[1].hard =
        Some(HardPin { dir: "/pins".into(), lacks: Vec::new(), is_open: false, is_for_mark: false });
    assert_eq!(reason_of(&sets, later, 2), Reason::PinnedHard);
    sets[1].hard =
        Some(HardPin { dir: "/pins".into(), lacks: Vec::new(), is_open: false, is_for_mark: true });
    assert_eq!(reason_of(&sets, later, 2), Reason::Pinned, "nobody asked for a hard one");
}

#[test]
fn what_is_not_attached_stays_and_says_so_only_where_it_would_go() {
    let now = at("2026-03-01T12:00:00Z");
    let mut sets = session(1, &BOTH, at("2026-02-01T12:00:00Z"));
    sets.extend(session(2, &BOTH, at("2026-02-02T12:00:00Z")));
    sets.extend(session(3, &BOTH, at("2026-02-03T12:00:00Z")));
    for stored in sets.iter_mut().filter(|stored| stored.set.kind == SnapshotKind::PreSync) {
        let name = format!("@home-presync-20260201T000000Z-{}", stored.set.session);
        stored.away.push((name.parse().unwrap(), "its disk is not mounted".into()));
    }
    sets.iter_mut().take(2).for_each(|stored| stored.away.clear());
    let verdicts = judge(&sets, now, &keep("last 1 session"), &keep("last 1 session"));
    let of = |n: usize| (verdicts[n].stays, verdicts[n].reason.clone());
    assert_eq!([of(0), of(1)], [(false, Reason::Beyond), (false, Reason::Beyond)]);
    assert_eq!([of(2), of(3)], [(true, Reason::NotAttached), (true, Reason::NotAttached)], "both halves");
    assert!(matches!(of(4), (true, Reason::Rule(_))));
    assert!(Reason::NotAttached.to_string().starts_with("not attached"));
}
