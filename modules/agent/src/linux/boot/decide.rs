//! When a start goes back to another state: pure.

use crate::proto::{BootCount, Counted};

/// So many starts in a row try to go back, if something keeps them from it or they are cut off.
const TRIES: u32 = 3;

/// How the one rollback of the machine stands. Whoever is asked has brought to its end what was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none: the last known good state can be put in place.
    Free,
    /// One is on trial: it can be taken back.
    OnTrial,
    /// What was cut off was brought to its end just now: the trees in place are others than those that failed.
    Settled(String),
    /// A fallback stands, of which the count does not know: the power went in between.
    Fallen(BootCount),
    /// One stands in the way.
    Taken(String),
}

/// What a start does before `/` is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: starts are not counted, or this one is already.
    Off,
    /// Counts, and says something if there is something to say.
    Count(BootCount, Option<String>),
    /// Counts, and then puts the last known good state in place.
    FallBack(BootCount),
    /// Counts, and then takes back the rollback on trial.
    TakeBack(BootCount),
}

/// Judges a start of `trees`, which is empty if nobody knows which they are. `standing` is asked only where something is due.
pub(super) fn decide(
    counted: &Counted,
    limit: u32,
    boot_id: &str,
    trees: &str,
    standing: impl FnOnce() -> Standing,
) -> Verdict {
    let first =
        |proven: u64| BootCount { starts: 1, boot_id: boot_id.to_owned(), proven, ..BootCount::default() };
    let found = match counted {
        Counted::Off => return Verdict::Off,
        Counted::Garbled => {
            let said = "the count of starts could not be read; it begins anew with this one".to_owned();
            return Verdict::Count(first(0), Some(said));
        }
        // The script may run more than once in a start.
        Counted::So(found) if found.boot_id == boot_id => return Verdict::Off,
        Counted::So(found) => found,
    };
    let first = first(found.proven);
    let fallen = |count: BootCount| {
        let count = BootCount { boot_id: boot_id.to_owned(), proven: found.proven, ..count };
        Verdict::Count(count, None)
    };
    let are_others = !found.trees.is_empty() && !trees.is_empty() && found.trees != trees;
    if are_others {
        // What was counted was of trees that somebody has put away since: these have not failed yet.
        return match standing() {
            Standing::Fallen(count) => fallen(count),
            Standing::Settled(what) => {
                Verdict::Count(first, Some(format!("{what}, and this start tries that")))
            }
            Standing::Free | Standing::OnTrial | Standing::Taken(_) => Verdict::Count(first, None),
        };
    }
    let next =
        BootCount { starts: found.starts.saturating_add(1), went_to: found.went_to.clone(), ..first.clone() };
    let limit = limit.max(1);
    if found.starts < limit {
        return Verdict::Count(next, None);
    }
    let failed = format!("{} starts in a row were not found healthy", found.starts);
    if let Some(set) = &found.went_to {
        // Once for each healthy start: no loop between two bad states (facts/last-known-good.md G67).
        let said = format!(
            "{failed}, and this machine went to set {set} by itself before: it stops there, and starts what is in place; \
             `pc-switcher rollback status` says more, also from a live system"
        );
        return Verdict::Count(next, Some(said));
    }
    if found.starts >= limit.saturating_add(TRIES) {
        let said =
            format!("{failed}, and going back failed as often as it is tried: what is in place is started");
        return Verdict::Count(next, Some(said));
    }
    match standing() {
        Standing::Free => Verdict::FallBack(next),
        Standing::OnTrial => Verdict::TakeBack(next),
        Standing::Settled(what) => {
            Verdict::Count(first, Some(format!("{failed}; {what}, and this start tries that")))
        }
        Standing::Fallen(count) => fallen(count),
        Standing::Taken(why) => {
            Verdict::Count(next, Some(format!("{failed}, and nothing is put in place: {why}")))
        }
    }
}

/// Returns the word of the kernel's command line by which somebody chose to start the machine in another way than each day. Such a
/// start is work on a machine that is broken, and says nothing of whether it is.
pub(super) fn chosen_otherwise(command_line: &str) -> Option<&str> {
    const WORDS: [&str; 12] = [
        "single",
        "s",
        "S",
        "1",
        "recovery",
        "rescue",
        "emergency",
        "-b",
        "break",
        "rd.break",
        "pc-switcher.boot=off",
        "systemd.debug_shell",
    ];
    const BEGINNINGS: [&str; 5] = ["systemd.unit=", "init=", "rdinit=", "break=", "systemd.run="];
    // Some have their boot loader say what comes anyway.
    const USUAL: [&str; 8] = [
        "init=/sbin/init",
        "init=/usr/sbin/init",
        "init=/lib/systemd/systemd",
        "init=/usr/lib/systemd/systemd",
        "rdinit=/init",
        "systemd.unit=default.target",
        "systemd.unit=graphical.target",
        "systemd.unit=multi-user.target",
    ];
    // What stands behind `--` is for init alone.
    let mut words = command_line.split_whitespace().take_while(|word| *word != "--");
    words.find(|word| {
        let is_other = WORDS.contains(word) || BEGINNINGS.iter().any(|start| word.starts_with(start));
        is_other && !USUAL.contains(word)
    })
}

/// Returns the mount option by which somebody chose to have a disk that is ill mounted in another way than each day. It must not be
/// mounted before without it: that would do what the option is to keep from being done.
pub(super) fn mounted_otherwise(options: &str) -> Option<&str> {
    const WORDS: [&str; 8] = [
        "degraded",
        "nologreplay",
        "norecovery",
        "recovery",
        "ro",
        "skip_balance",
        "usebackuproot",
        "clear_cache",
    ];
    let options = options.trim().trim_start_matches("-o").trim();
    options.split(',').find(|option| WORDS.contains(option) || option.starts_with("rescue="))
}

/// Returns the name of the subvolume that mount options name, if they name one at the top level.
pub(super) fn subvolume_of(options: &str) -> Option<&str> {
    let options = options.trim().trim_start_matches("-o").trim();
    let mut named = options.split(',').filter_map(|option| option.strip_prefix("subvol="));
    let name = named.next_back()?.trim_start_matches('/').trim_end_matches('/');
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "11111111-2222-3333-4444-555555555555";
    const TREES: &str = "those that failed";

    fn so(starts: u32, went: bool) -> Counted {
        let went_to = went.then(|| "20251115T120000Z-0a1b2c3d-autoboot".parse().unwrap());
        Counted::So(BootCount {
            starts,
            boot_id: "before".into(),
            went_to,
            trees: TREES.into(),
            ..BootCount::default()
        })
    }

    fn not_asked() -> Standing {
        panic!("nothing is due")
    }

    fn counted(verdict: &Verdict) -> u32 {
        match verdict {
            Verdict::Off => 0,
            Verdict::Count(count, _) | Verdict::FallBack(count) | Verdict::TakeBack(count) => {
                assert_eq!(count.boot_id, BOOT);
                count.starts
            }
        }
    }

    #[test]
    fn three_starts_are_counted_the_fourth_goes_back_and_what_fails_after_that_stays() {
        for starts in 0..3 {
            let verdict = decide(&so(starts, false), 3, BOOT, TREES, not_asked);
            assert!(matches!(verdict, Verdict::Count(_, None)), "{verdict:?}");
            assert_eq!(counted(&verdict), starts + 1);
        }
        let fourth = decide(&so(3, false), 3, BOOT, TREES, || Standing::Free);
        assert!(matches!(fourth, Verdict::FallBack(_)) && counted(&fourth) == 4, "{fourth:?}");
        for starts in 1..3 {
            let again = decide(&so(starts, true), 3, BOOT, TREES, not_asked);
            assert!(matches!(again, Verdict::Count(_, None)), "{again:?}");
        }
        for starts in [3, 4, 1000, u32::MAX] {
            let stops = decide(&so(starts, true), 3, BOOT, TREES, not_asked);
            let Verdict::Count(count, Some(said)) = stops else { panic!("{stops:?}") };
            assert!(said.contains("it stops there"), "{said}");
            assert_eq!(count.starts, starts.saturating_add(1));
            assert!(count.went_to.is_some(), "it is not forgotten");
        }
    }

    #[test]
    fn a_start_is_counted_once() {
        let count = BootCount { starts: 3, boot_id: BOOT.into(), ..BootCount::default() };
        assert_eq!(decide(&Counted::So(count), 3, BOOT, TREES, not_asked), Verdict::Off);
    }

    #[test]
    fn what_is_torn_or_off_never_goes_back() {
        assert_eq!(decide(&Counted::Off, 1, BOOT, TREES, not_asked), Verdict::Off);
        let verdict = decide(&Counted::Garbled, 1, BOOT, TREES, not_asked);
        assert!(matches!(&verdict, Verdict::Count(_, Some(_))) && counted(&verdict) == 1, "{verdict:?}");
    }

    #[test]
    fn going_back_is_tried_by_three_starts_and_then_no_more() {
        for starts in 3..6 {
            assert!(matches!(
                decide(&so(starts, false), 3, BOOT, TREES, || Standing::Free),
                Verdict::FallBack(_)
            ));
        }
        let verdict = decide(&so(6, false), 3, BOOT, TREES, not_asked);
        assert!(matches!(verdict, Verdict::Count(_, Some(_))), "{verdict:?}");
        assert!(matches!(
            decide(&so(u32::MAX, false), u32::MAX, BOOT, TREES, || Standing::Free),
            Verdict::Count(..)
        ));
    }

    #[test]
    fn a_rollback_that_stands_is_taken_back_brought_to_its_end_or_left_alone() {
        let due = |standing| decide(&so(3, false), 3, BOOT, TREES, || standing);
        assert!(matches!(due(Standing::OnTrial), Verdict::TakeBack(_)));
        let settled = due(Standing::Settled("rollback feedbeef was brought to its end".into()));
        assert!(
            matches!(settled, Verdict::Count(_, Some(_))) && counted(&settled) == 1,
            "others are in place"
        );
        let Counted::So(known) = so(1, true) else { unreachable!() };
        let fallen = due(Standing::Fallen(known));
        assert!(matches!(&fallen, Verdict::Count(count, None) if count.went_to.is_some()), "{fallen:?}");
        assert_eq!(counted(&fallen), 1);
        let taken = due(Standing::Taken("rollback feedbeef is not confirmed".into()));
        assert!(matches!(taken, Verdict::Count(_, Some(_))) && counted(&taken) == 4);
    }

    #[test]
    fn trees_that_somebody_put_in_place_since_are_counted_from_nought() {
        for went in [false, true] {
            let due = |standing| decide(&so(9, went), 3, BOOT, "others", || standing);
            for standing in [Standing::Free, Standing::OnTrial, Standing::Taken("not confirmed".into())] {
                let verdict = due(standing);
                let Verdict::Count(count, None) = &verdict else { panic!("{verdict:?}") };
                assert_eq!((count.starts, &count.went_to), (1, &None));
            }
            // It was this program that did it, and the power went before it was counted.
            let Counted::So(known) = so(1, true) else { unreachable!() };
            let fallen = due(Standing::Fallen(known));
            assert!(matches!(&fallen, Verdict::Count(count, None) if count.went_to.is_some()), "{fallen:?}");
            let settled = due(Standing::Settled("it was brought to its end".into()));
            assert!(matches!(&settled, Verdict::Count(_, Some(_))) && counted(&settled) == 1, "{settled:?}");
        }
        // Where it cannot be told which they are, they are those that failed.
        assert!(matches!(decide(&so(3, false), 3, BOOT, "", || Standing::Free), Verdict::FallBack(_)));
        let Counted::So(found) = so(3, false) else { unreachable!() };
        let unknown = Counted::So(BootCount { trees: String::new(), ..found });
        assert!(matches!(decide(&unknown, 3, BOOT, TREES, || Standing::Free), Verdict::FallBack(_)));
    }

    #[test]
    fn a_limit_of_nought_counts_one_start_all_the_same() {
        assert!(matches!(decide(&so(0, false), 0, BOOT, TREES, not_asked), Verdict::Count(_, None)));
    }

    #[test]
    fn a_start_that_somebody_chose_is_not_counted() {
        let usual = "BOOT_IMAGE=/vmlinuz root=UUID=1 ro rootflags=subvol=@ quiet splash panic=1";
        assert_eq!(chosen_otherwise(usual), None);
        for word in ["-- single", "init=/lib/systemd/systemd", "systemd.unit=graphical.target"] {
            assert_eq!(chosen_otherwise(&format!("{usual} {word}")), None, "{word}");
        }
        for word in
            ["single", "recovery", "systemd.unit=rescue.target", "init=/bin/sh", "pc-switcher.boot=off", "1"]
        {
            assert_eq!(chosen_otherwise(&format!("{usual} {word} nosplash")), Some(word));
        }
    }

    #[test]
    fn a_disk_that_is_to_be_mounted_as_one_that_is_ill_is_not_mounted_before() {
        for usual in ["", "subvol=@", "-o compress=zstd,subvol=@,noatime,rw"] {
            assert_eq!(mounted_otherwise(usual), None, "{usual}");
        }
        for (options, word) in [
            ("subvol=@,skip_balance", "skip_balance"),
            ("-o rescue=nologreplay,subvol=@", "rescue=nologreplay"),
            ("degraded", "degraded"),
        ] {
            assert_eq!(mounted_otherwise(options), Some(word));
        }
    }

    #[test]
    fn what_has_started_well_stays_known_over_starts_that_fail() {
        let Counted::So(found) = so(1, false) else { unreachable!() };
        let counted = Counted::So(BootCount { proven: 77, ..found });
        for trees in [TREES, "others"] {
            let verdict = decide(&counted, 3, BOOT, trees, || Standing::Free);
            let Verdict::Count(count, _) = verdict else { panic!("{verdict:?}") };
            assert_eq!(count.proven, 77, "{trees}");
        }
        let Verdict::Count(count, _) = decide(&Counted::Garbled, 3, BOOT, TREES, not_asked) else {
            panic!("it is counted")
        };
        assert_eq!(count.proven, 0);
    }

    #[test]
    fn the_subvolume_of_mount_options_is_one_of_the_top_level() {
        for good in ["subvol=@", "-o subvol=/@", "compress=zstd,subvol=@,noatime", "subvol=@old,subvol=@"] {
            assert_eq!(subvolume_of(good), Some("@"), "{good}");
        }
        for bad in ["", "subvolid=256", "subvol=/", "subvol=@snapshots/@-manual-1"] {
            assert_eq!(subvolume_of(bad), None, "{bad}");
        }
    }
}
