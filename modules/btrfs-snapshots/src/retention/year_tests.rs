//! A year of somebody in Berlin who moves twice a day, and each hour of the nights in which clocks are switched. Each sync prunes.

use std::collections::BTreeSet;
use std::process::Command;

use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};

use super::tests::{BOTH, keep, session};
use super::*;

/// The sessions in which the clock is an hour late, and the one in which it is a year ahead.
const LATE: std::ops::Range<u32> = 240..244;
const AHEAD: u32 = 420;

/// The nights that have an hour less, or one twice, by the day on which they begin.
const SWITCHES: [Date; 2] = [date(2025, 3, 29), date(2025, 10, 25)];

/// The rules of this century, in a form that asks no table of zones.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn in_berlin(stamp: Timestamp) -> Zoned {
    stamp.to_zoned(berlin())
}

fn instant(at: DateTime) -> Timestamp {
    at.to_zoned(berlin()).unwrap().timestamp()
}

/// At eight in the morning and in the evening.
fn moves() -> Vec<Timestamp> {
    let mut all = Vec::new();
    let mut day = date(2025, 1, 1);
    while day.year() == 2025 {
        let tomorrow = day.tomorrow().unwrap();
        let (evening, morning) = (instant(day.at(20, 0, 0, 0)), instant(tomorrow.at(8, 0, 0, 0)));
        all.extend([instant(day.at(8, 0, 0, 0)), evening]);
        if SWITCHES.contains(&day) {
            let hours = (1_i64..).map(|hours| evening + hours.hours());
            all.extend(hours.take_while(|at| *at < morning));
        }
        day = tomorrow;
    }
    all
}

/// What became of the store after one session.
struct Step<'a> {
    number: u32,
    /// When it was in truth.
    honest: Timestamp,
    /// When each session so far was taken by its clock, but for what was dated in the future.
    taken: &'a [Timestamp],
    /// What is there after pruning.
    sets: &'a [StoredSet],
    verdicts: &'a [Verdict],
}

impl Step<'_> {
    /// When what is there was taken, by session.
    fn kept(&self) -> BTreeSet<Timestamp> {
        let pre = self.sets.iter().filter(|stored| stored.set.kind == SnapshotKind::PreSync);
        pre.map(|stored| stored.set.stamp.timestamp()).collect()
    }
}

/// Lives through the year.
fn live(each: &mut dyn FnMut(&Step<'_>)) {
    let (rules, floor) = (keep("last 5 sessions, 12h, 7d, 4w, 6m, 2y"), keep("last 2 sessions"));
    let (mut sets, mut taken): (Vec<StoredSet>, Vec<Timestamp>) = (Vec::new(), Vec::new());
    for (number, honest) in (0..).zip(moves()) {
        let now = match number {
            _ if LATE.contains(&number) => honest - 1.hours(),
            AHEAD => honest + (24 * 365).hours(),
            _ => honest,
        };
        if number != AHEAD {
            taken.push(now);
        }
        sets.extend(session(number, &BOTH, now));
        let verdicts = judge(&sets, now + 2.minutes(), &rules, &floor);
        let gone: BTreeSet<&SetId> =
            verdicts.iter().filter(|verdict| !verdict.stays).map(|verdict| &verdict.id).collect();
        sets.retain(|stored| !gone.contains(&stored.set.id()));
        each(&Step { number, honest, taken: &taken, sets: &sets, verdicts: &verdicts });
    }
}

#[test]
fn the_nights_of_the_switches_have_an_hour_less_and_one_twice() {
    let civil: Vec<DateTime> = moves().into_iter().map(|at| in_berlin(at).datetime()).collect();
    let count = |at: DateTime| civil.iter().filter(|one| **one == at).count();
    let at_two = |day: Date| count(day.tomorrow().unwrap().at(2, 0, 0, 0));
    assert_eq!(SWITCHES.map(at_two), [0, 2]);
    // Of twelve hours between evening and morning the one night has ten more, the other one twelve.
    assert_eq!(civil.len(), 2 * 365 + 10 + 12);
}

#[test]
fn a_year_keeps_what_the_rules_promise_whatever_the_clock_does() {
    let (mut most, mut least) = (0, usize::MAX);
    let mut last = BTreeSet::new();
    live(&mut |step| {
        let Step { number, sets, .. } = *step;
        let has = |number: u32| {
            let name: SessionId = format!("{number:08x}").parse().unwrap();
            sets.iter().filter(|stored| stored.set.session == name).count() == BOTH.len()
        };
        assert!(has(number), "what was just taken stays");
        assert!(number < AHEAD || has(AHEAD), "it is dated in the future");
        most = most.max(sets.len());
        if number > 5 {
            least = least.min(sets.len());
        }
        last = step.kept();
    });
    // 5 sessions, 12 hours, 7 days, 4 weeks, 6 months, 2 years, the one from the future: at most, and two sets each.
    assert!(most <= 2 * 37 && least >= 2 * 5, "{least} to {most}");
    let ends: BTreeSet<DateTime> = last.into_iter().map(|at| in_berlin(at).datetime()).collect();
    for month in 7..=12 {
        let evening = date(2025, month, 1).last_of_month().at(20, 0, 0, 0);
        assert!(ends.contains(&evening), "the end of month {month} is not among {ends:?}");
    }
}

#[test]
fn each_of_the_last_days_and_hours_is_there_for_people_whose_clock_is_switched() {
    let mut nights = 0;
    live(&mut |step| {
        let (kept, number) = (step.kept(), step.number);
        // Twelve hours in which something was taken, whatever they are called.
        // The clock that is ahead is one of them, until it is right again.
        let hours = step.taken.iter().rev().take(if number == AHEAD { 11 } else { 12 });
        hours.for_each(|at| assert!(kept.contains(at), "session {number}: {} went", in_berlin(*at)));
        // Days are those of UTC, so the end of one may be that of two in the morning.
        let today = in_berlin(step.honest).date();
        for back in 1..=6 {
            let day = today - back.days();
            let (noon, end) = (instant(day.at(12, 0, 0, 0)), instant(day.tomorrow().unwrap().at(2, 0, 0, 0)));
            let there = |at: &Timestamp| (noon..end).contains(at);
            if step.taken.iter().any(there) {
                assert!(kept.iter().any(there), "session {number}: nothing is left of {day}");
            }
        }
        if in_berlin(step.honest).datetime() == date(2025, 10, 26).at(8, 0, 0, 0) {
            let is_two = |at: &&Timestamp| in_berlin(**at).hour() == 2;
            let twice: Vec<&Timestamp> = kept.iter().filter(is_two).collect();
            assert_eq!(twice.len(), 2, "{twice:?}");
            assert_eq!(twice[1].duration_since(*twice[0]), SignedDuration::from_hours(1));
            let names: BTreeSet<String> = twice.iter().map(|at| UtcStamp::new(**at).to_string()).collect();
            assert_eq!(names.len(), 2, "no two of them have one name: {names:?}");
            nights += 1;
        }
    });
    assert_eq!(nights, 1);
}

/// Asks this very program, started in a zone.
const ASKED: &str = "PC_SWITCHER_YEAR_IN_A_ZONE";

#[test]
fn the_verdicts_of_a_year_are_the_same_in_whatever_zone_the_process_runs() {
    if std::env::var_os(ASKED).is_some() {
        let noon = instant(date(2025, 7, 1).at(12, 0, 0, 0));
        // The name of the test stands in the first line.
        println!("\nzone {}", TimeZone::system().to_offset(noon));
        live(&mut |step| {
            for Verdict { id, stays, reason } in step.verdicts {
                println!("verdict {} {id} {stays} {reason}", step.number);
            }
        });
        return;
    }
    let name = "retention::year_tests::the_verdicts_of_a_year_are_the_same_in_whatever_zone_the_process_runs";
    let told = |zone: &str| {
        let mut program = Command::new(std::env::current_exe().unwrap());
        let output = program.args([name, "--exact", "--nocapture"]).env("TZ", zone).env(ASKED, "1").output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let lines = |word: &str| -> Vec<String> {
            said.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
        };
        (lines("zone "), lines("verdict "))
    };
    let zones = ["UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "<+0545>-5:45", "PST8PDT,M3.2.0,M11.1.0"].map(told);
    let offsets: BTreeSet<&Vec<String>> = zones.iter().map(|(zone, _)| zone).collect();
    assert_eq!(offsets.len(), zones.len(), "the process knows its zone: {offsets:?}");
    let verdicts = &zones[0].1;
    assert!(verdicts.len() > 10_000, "{} verdicts", verdicts.len());
    // Not by `assert_eq`: that would print them all.
    for (zone, others) in &zones {
        assert!(others == verdicts, "in {zone:?} other sets go");
    }
}
