use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;
const SIZE: u64 = 1000 * GIB;

fn look(hour: i64, available_bytes: u64) -> Seen {
    let at = Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap();
    Seen { at, size_bytes: SIZE, available_bytes }
}

/// Looks every `every` hours at a disk that loses so much in an hour.
fn steady(count: i64, every: i64, lost: u64) -> Vec<Seen> {
    (0..count).map(|n| look(n * every, 500 * GIB - lost * (n * every) as u64)).collect()
}

fn days(seen: &[Seen], now: Seen) -> Option<f64> {
    match outlook(seen, now, Pace::DAYS) {
        Outlook::Filling { days, .. } => Some(days),
        Outlook::Unknown | Outlook::Steady => None,
    }
}

#[test]
fn a_disk_that_loses_ten_gibibytes_a_day_is_full_when_they_are_used_up() {
    let now = look(240, 400 * GIB);
    let seen: Vec<Seen> = (0..10).map(|day| look(day * 24, (500 - 10 * day as u64) * GIB)).collect();
    assert_eq!(
        outlook(&seen, now, Pace::DAYS),
        Outlook::Filling { bytes_per_day: (10 * GIB) as f64, days: 40.0 }
    );
}

#[test]
fn too_few_looks_or_too_short_a_time_tell_nothing() {
    let now = look(48, 100 * GIB);
    assert_eq!(outlook(&[], now, Pace::DAYS), Outlook::Unknown);
    assert_eq!(outlook(&[look(0, 200 * GIB)], now, Pace::DAYS), Outlook::Unknown);
    let hours: Vec<Seen> = (40..48).map(|hour| look(hour, (200 - hour as u64) * GIB)).collect();
    assert_eq!(outlook(&hours, now, Pace::DAYS), Outlook::Unknown);
}

#[test]
fn a_disk_that_gets_emptier_or_hardly_fuller_is_steady() {
    let emptier: Vec<Seen> = (0..10).map(|day| look(day * 24, (100 + day as u64) * GIB)).collect();
    assert_eq!(outlook(&emptier, look(240, 110 * GIB), Pace::DAYS), Outlook::Steady);
    let hardly: Vec<Seen> = (0..10).map(|day| look(day * 24, 500 * GIB - day as u64)).collect();
    assert_eq!(outlook(&hardly, look(240, 500 * GIB - 10), Pace::DAYS), Outlook::Steady);
}

#[test]
fn what_was_seen_before_the_disk_was_made_larger_does_not_count() {
    let small = |day: i64| Seen { size_bytes: SIZE / 2, ..look(day * 24, 10 * GIB) };
    let seen: Vec<Seen> = (0..10).map(small).collect();
    assert_eq!(outlook(&seen, look(240, 500 * GIB), Pace::DAYS), Outlook::Unknown);
}

#[test]
fn numbers_that_cannot_be_true_tell_nothing() {
    let seen = steady(10, 24, GIB);
    for absurd in [
        Seen { size_bytes: 0, ..look(240, 0) },
        Seen { size_bytes: 0, ..look(240, GIB) },
        look(240, SIZE + 1),
        look(240, u64::MAX),
    ] {
        assert_eq!(outlook(&seen, absurd, Pace::DAYS), Outlook::Unknown);
        let mut noted = seen.clone();
        note(&mut noted, absurd, Pace::DAYS);
        assert_eq!(noted, seen);
    }
}

#[test]
fn a_clock_that_was_ahead_is_forgotten_when_it_is_right_again() {
    let mut seen = steady(5, 24, GIB);
    note(&mut seen, look(100_000, 400 * GIB), Pace::DAYS);
    note(&mut seen, look(130, 300 * GIB), Pace::DAYS);
    assert_eq!((seen.len(), seen.last().unwrap().at), (6, look(130, 0).at));
}

#[test]
fn looks_within_an_hour_count_as_one_and_the_time_still_goes_on() {
    let mut seen = Vec::new();
    for minute in 0..300 {
        let at = Timestamp::from_second(1_700_000_000 + minute * 60).unwrap();
        note(&mut seen, Seen { at, size_bytes: SIZE, available_bytes: GIB }, Pace::DAYS);
    }
    assert_eq!(seen.len(), 5);
}

fn any_look() -> impl Strategy<Value = Seen> {
    let number = prop_oneof![any::<u64>(), 0..2 * SIZE, Just(0), Just(SIZE)];
    (-5_000i64..5_000, number.clone(), number)
        .prop_map(|(hour, size_bytes, free)| Seen { size_bytes, ..look(hour, free) })
}

proptest! {
    #[test]
    fn whatever_was_seen_the_forecast_is_a_number_of_days_and_the_memory_stays_small(
        looks in proptest::collection::vec(any_look(), 0..200),
        now in any_look(),
    ) {
        let mut seen = Vec::new();
        for look in looks {
            note(&mut seen, look, Pace::DAYS);
            prop_assert!(seen.len() <= MOST);
            prop_assert!(seen.windows(2).all(|pair| pair[0].at < pair[1].at));
            prop_assert!(seen.iter().all(|one| one.at <= look.at && one.is_credible()));
        }
        if let Outlook::Filling { bytes_per_day, days } = outlook(&seen, now, Pace::DAYS) {
            prop_assert!(bytes_per_day.is_finite() && bytes_per_day > 0.0);
            prop_assert!((0.0..=FURTHEST_DAYS).contains(&days));
        }
    }

    #[test]
    fn one_wrong_look_among_steady_ones_changes_nothing(
        every in 2i64..72,
        lost in (GIB / 24)..(GIB / 4),
        wrong in (1usize..9, 0..SIZE),
    ) {
        let mut seen = steady(10, every, lost);
        let now = seen.pop().unwrap();
        prop_assume!(9 * every >= 24 && 9 * every <= 700);
        let right = days(&seen, now).unwrap();
        prop_assert!((right - now.available_bytes as f64 / (lost as f64 * 24.0)).abs() < 0.001 * right);
        seen[wrong.0 - 1].available_bytes = wrong.1;
        let still = days(&seen, now).unwrap();
        prop_assert!((right - still).abs() < 0.001 * right, "{right} {still}");
    }

    #[test]
    fn a_disk_that_is_noted_at_every_hour_for_months_is_forecast_as_from_all_of_it(lost in 1u64..(GIB / 6)) {
        let mut seen = Vec::new();
        for look in steady(2000, 1, lost) {
            note(&mut seen, look, Pace::DAYS);
        }
        let now = look(2000, 500 * GIB - lost * 2000);
        let wanted = now.available_bytes as f64 / (lost as f64 * 24.0);
        match days(&seen, now) {
            Some(days) => prop_assert!((days - wanted).abs() < 0.01 * wanted),
            None => prop_assert!(wanted > FURTHEST_DAYS * 0.99),
        }
    }
}
