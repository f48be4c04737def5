//! The sweep itself.

use crate::run::{Wish, sync};
use crate::world::{World, picture};
use pc_switcher_contract::GateKind;
use pc_switcher_testkit::manifest::assert_same_tree;

/// A module of each sort runs; the last one is long enough for a second look at the disks.
pub const CONFIG: &str = "
[sync_modules]
user-data = true
dummy-success = true

[user-data]
folders = [\"/home\"]

[btrfs-snapshots]
subvolumes = [\"@\", \"@home\"]

[dummy-success]
duration = 40
child = true
";

#[test]
fn baseline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new();
        let t = std::time::Instant::now();
        let first = sync(&world, Wish { config: CONFIG.into(), open: vec![GateKind::FirstSync], ..Wish::default() }).await;
        eprintln!("{:?} {:?} {:?} {:?}", t.elapsed(), first.exit, first.wrong, first.complaints());
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
        world.work();
        let t = std::time::Instant::now();
        let second = sync(&world, Wish { config: CONFIG.into(), ..Wish::default() }).await;
        eprintln!("{:?} {:?} {:?} {:?}", t.elapsed(), second.exit, second.wrong, second.complaints());
        for seen in &second.calls {
            eprintln!("{} items {} uploads {}", seen.key, seen.items, seen.uploads);
        }
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
        let t = std::time::Instant::now();
        let third = sync(&world, Wish { config: CONFIG.into(), ..Wish::default() }).await;
        eprintln!("{:?} {:?} {:?} {:?}", t.elapsed(), third.exit, third.wrong, third.complaints());
    });
}
