//! Several machines that back up into one vault at the same time, and one that prunes it meanwhile.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use pc_switcher_contract::ErrorKind;
use pc_switcher_vault::engine::Quiet;
use pc_switcher_vault::service::{BackupReport, PruneOrder};

use super::given::{Given, everything, noise, same, same_below, word};

const ROUNDS: u64 = 5;
/// Longer than all of it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Backs up, again and again while somebody works alone in the vault, and returns how often it was told so.
fn back_up(given: &Given) -> (BackupReport, u32) {
    let begun = Instant::now();
    let mut refused = 0;
    loop {
        match given.service().backup(None, &mut word, &Quiet::default()) {
            Ok(report) => return (report, refused),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Busy, "{error}");
                assert!(begun.elapsed() < LIMIT, "{error}");
                refused += 1;
            }
        }
    }
}

#[test]
fn several_machines_back_up_at_once_while_one_prunes_and_each_has_its_own_back() {
    let Some(given) = Given::new() else { return };
    let machines = ["one", "two"].map(|name| given.beside(name));
    let pruning = given.beside("three");
    for (machine, seed) in machines.iter().zip([100, 200]) {
        everything(&machine.source());
        machine.set_up();
        std::fs::write(machine.source().join("own"), noise(2_000_000, seed)).unwrap();
    }
    std::fs::write(pruning.source().join("f"), "x").unwrap();
    pruning.set_up();
    pruning.back_up();
    let (mut pruned, mut refused) = (0, 0);
    for round in 1..=ROUNDS {
        for (machine, seed) in machines.iter().zip([100, 200]) {
            // The same on both, and what each alone has; what came two rounds before goes.
            std::fs::write(machine.source().join(format!("both-{round}")), noise(3_000_000, round)).unwrap();
            std::fs::write(machine.source().join("own"), noise(2_000_000, seed + round)).unwrap();
            std::fs::remove_file(machine.source().join(format!("both-{}", round.saturating_sub(2)))).ok();
            let added = machine.add();
            assert!(added.troubles.is_empty(), "{:?}", added.troubles);
        }
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            let storing = machines.each_ref().map(|machine| {
                scope.spawn(|| {
                    start.wait();
                    back_up(machine)
                })
            });
            start.wait();
            let keep = Some("last 2 sessions".parse().unwrap());
            let order = PruneOrder { keep, at_once: round % 2 == 0, ..PruneOrder::default() };
            while storing.iter().any(|one| !one.is_finished()) {
                match pruning.service().prune(&order, &mut word, &Quiet::default()) {
                    Ok(_) => pruned += 1,
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::Busy, "{error}");
                        refused += 1;
                    }
                }
            }
            for one in storing {
                let (report, told) = one.join().unwrap();
                assert!(report.is_clean() && report.warnings.is_empty(), "{report:?}");
                assert!(report.vaults[0].snapshot.is_some());
                refused += told;
            }
        });
        // Each judges its own.
        for machine in machines.iter() {
            let keep = Some("last 2 sessions".parse().unwrap());
            let order = PruneOrder { keep, at_once: round % 2 == 1, ..PruneOrder::default() };
            let report = machine.service().prune(&order, &mut word, &Quiet::default()).unwrap();
            assert!(report.warnings.is_empty(), "{report:?}");
        }
    }
    assert!(refused > 0, "nobody met anybody: {pruned} prunes");
    given.restic(&["check", "--read-data"]);
    for (machine, name) in machines.iter().zip(["one", "two"]) {
        assert!(machine.check().problems.is_empty());
        let target = machine.path("by restic");
        given.restic(&["restore", "latest", "--host", name, "--target", target.to_str().unwrap()]);
        same(&machine.source(), &machine.below(&target));
        let target = machine.path("by us");
        let restored = machine.restore_versions(&target);
        assert!(restored.troubles.is_empty(), "{:?}", restored.troubles);
        same_below(&machine.source(), &target);
    }
}
