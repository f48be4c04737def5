//! Power cuts by the thousand: a sync writes to a machine's disks, and every picture of them that a cut could have left is
//! booted and judged. Before the redo each path is its old or its new version, after it the tree is wholly the old or the
//! new one, and nothing of ours is left.
//!
//! A picture is what the kernel has sent to the disks so far. It neither tears single writes nor changes their order between
//! two flushes (facts/btrfs.md B87).

mod agent;
mod camera;
mod grow;
mod inside;
mod judge;
mod machine;
mod places;
mod plan;
mod pool;
mod push;
mod racer;
mod session;
mod sets;
mod source;
mod trees;
mod work;

use std::env;

use self::pool::Pool;
use self::push::Counts;
use self::session::Score;

/// So many images are of all kinds of syncs.
const MANY: usize = 500;

/// Judges at least so many images, from seed to seed; no seed gives more than `most`.
fn score(images: usize, first_seed: u64, most: usize) {
    let pool = Pool::make();
    let mut score = Score::default();
    for seed in first_seed.. {
        if score.images >= images {
            break;
        }
        session::run(&pool, seed, most, &mut score);
        println!("seed {seed}: {} images, {} bad", score.images, score.bad.len());
    }
    for ((layout, generation, written), count) in &score.by {
        println!("{count:6} {layout:?}, {generation} crash, written {written:?}");
    }
    let Counts { moves, files, patches, proven, built } = score.counts;
    println!(
        "{} images of {} syncs (seeds {first_seed} and on): {} with work for the redo, {} ended new, {} old, {} bad",
        score.images,
        score.sessions,
        score.pending,
        score.new,
        score.images - score.new - score.bad.len(),
        score.bad.len()
    );
    println!(
        "in these syncs, of which {} had none before: {moves} moves, {files} files sent whole, {patches} patched, {proven} patched \
         where the rest is proven, {built} made of others",
        score.baseless
    );
    assert!(score.bad.is_empty(), "{} images are bad, see above", score.bad.len());
    let has_all = score.counts.has_all() && score.baseless > 0;
    assert!(has_all || score.images < MANY, "something never happened, see above");
}

fn number(name: &str, usual: u64) -> u64 {
    env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("`{name}` is no number: `{text}`")))
}

#[test]
fn a_power_cut_leaves_each_path_old_or_new_and_a_redo_the_tree() {
    inside::run("a_power_cut_leaves_each_path_old_or_new_and_a_redo_the_tree", || score(60, 3, 9));
}

#[test]
#[ignore = "takes minutes: `tests/full crash-images`"]
fn thousands_of_power_cuts_leave_no_path_and_no_tree_half() {
    inside::run("thousands_of_power_cuts_leave_no_path_and_no_tree_half", || {
        let images = number("IMAGES", 2000);
        score(images as usize, number("SEED", 1), 40);
    });
}

#[test]
fn a_power_cut_leaves_sets_whole_and_a_rollback_done_or_not_on_one_machine_and_on_two() {
    inside::run("a_power_cut_leaves_sets_whole_and_a_rollback_done_or_not_on_one_machine_and_on_two", || {
        // Days in which all happens that is needed.
        sets::score(100, 10, 50);
    });
}

#[test]
#[ignore = "takes minutes: `tests/full crash-images-store`"]
fn thousands_of_power_cuts_leave_sets_whole_and_rollbacks_done_or_not() {
    inside::run("thousands_of_power_cuts_leave_sets_whole_and_rollbacks_done_or_not", || {
        sets::score(number("IMAGES", 2000) as usize, number("SEED", 1), 200);
    });
}
