//! Differential fuzz: random changes on one machine, a sync, and then rsync's own dry run has nothing to do, nor does a
//! strict comparison find anything. Either machine is the source, round by round.
//!
//! `tests/full differential` has more rounds; `docs/faults.md` has the score.

mod changes;
mod pick;

use std::path::Path;

use pc_switcher_testkit::{
    lab::{Cmd, Machine, SharedLab},
    manifest::{ManifestOptions, TreeManifest},
    seed::Random,
};

use self::changes::change;
use crate::{
    hosts::{alice, configure, first_sync, install, options, root, sync},
    odds::rounds,
};

/// What changes, below alice's home.
const TREE: &str = "home/alice/work";
/// Names that begin so are left alone by rule.
const SKIPPED: &str = "skip-";
/// The tree begins anew after so many rounds: what went wrong is found again by its seed alone.
const ROUNDS_OF_A_SEED: u64 = 25;

static LAB: SharedLab = SharedLab::new(|| options("differential"), |lab| install(lab.laptop()));

#[test]
fn whatever_is_done_to_a_tree_a_sync_brings_it_over_and_rsync_finds_nothing() {
    let Some(lab) = LAB.take() else { return };
    let machines = [lab.laptop(), lab.desk()];
    machines.iter().for_each(|machine| rules(machine, 0));
    alice(lab.laptop(), "mkdir work; echo stays >canary");
    first_sync(&lab);
    let rounds = rounds(4);
    let mut random = Random::new(0);
    let mut done = 0;
    for round in rounds.clone() {
        if round % ROUNDS_OF_A_SEED == 0 || round == rounds.start {
            random = Random::new(round / ROUNDS_OF_A_SEED);
            root(lab.laptop(), &format!("rm -rf /{TREE}; install -d -o alice -g alice /{TREE}"));
            sync(lab.laptop(), "desk", &["--allow-mass-deletion"]).ends_with(0);
        }
        let source = usize::try_from(random.below(2)).unwrap();
        done += one_round([machines[source], machines[1 - source]], round, &mut random);
    }
    println!("rounds {rounds:?}: {done} changes, no difference");
    assert!(done > 0);
}

/// Changes the source's tree, syncs and compares; returns how many changes that were.
fn one_round([source, target]: [&Machine; 2], round: u64, random: &mut Random) -> usize {
    let [ours, theirs] = [source, target].map(|machine| machine.root_path().unwrap().join(TREE));
    if random.below(8) == 0 {
        // Other rules than last time: everything is compared.
        rules(source, round);
    }
    // Few and many: a batch of one finds what later changes would hide.
    let wanted = [1, 4, 40][usize::try_from(random.below(3)).unwrap()];
    let done: Vec<String> = (0..wanted).filter_map(|_| change(&ours, random)).collect();
    // Shown if a later round fails.
    println!("round {round}, {} → {}: {}", source.hostname(), target.hostname(), done.join("; "));
    let ran = sync(source, target.hostname(), &["--allow-mass-deletion"]);
    let seed = round / ROUNDS_OF_A_SEED;
    let story = || {
        format!("round {round} of seed {seed}, to {}:\n{}\n{}", target.hostname(), done.join("\n"), ran.text)
    };
    assert_eq!(ran.code, Some(0), "{}", story());
    let went: Vec<_> = pick::paths(&theirs).into_iter().filter(|path| is_skipped(path)).collect();
    assert!(went.is_empty(), "{went:?} went over\n{}", story());
    let rsync = rsync(source, target);
    assert!(rsync.is_empty(), "rsync would do:\n{rsync}\nin {}", story());
    let options = ManifestOptions::new().exclude_if(is_skipped);
    let [here, there] = [&ours, &theirs].map(|tree| TreeManifest::read(tree, &options).unwrap());
    let differences: Vec<String> = here.diff(&there).iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{differences:#?}\nin {}", story());
    if pick::paths(&ours).iter().any(|path| is_skipped(path)) {
        // On a target they would hold the directories that go; and to lose a name changes a file of several.
        root(source, &format!("find /{TREE} -name '{SKIPPED}*' -prune -exec rm -rf {{}} +"));
        sync(source, target.hostname(), &[]).ends_with(0);
    }
    done.len()
}

/// Returns what rsync would do to make the tree on the second machine like the one on the first.
fn rsync(from: &Machine, to: &Machine) -> String {
    let there = format!("{}:/{TREE}/", to.hostname());
    let output = from
        .exec(
            &Cmd::new("rsync")
                .args(["-naHAXc", "--numeric-ids", "--delete", "--itemize-changes"])
                .args(["-e", "sudo -u alice ssh", "--rsync-path=sudo rsync"])
                .args([&format!("--exclude={SKIPPED}*"), &format!("/{TREE}/"), &there]),
        )
        .unwrap();
    let text = format!("{}{}", output.text(), output.error_text());
    assert!(output.status.success(), "{text}");
    text
}

fn rules(machine: &Machine, version: u64) {
    configure(machine, &format!("[user-data]\nexclude = [\"{SKIPPED}*\", \"never-there-{version}\"]\n"));
}

fn is_skipped(path: &Path) -> bool {
    path.iter().any(|name| name.to_string_lossy().starts_with(SKIPPED))
}
