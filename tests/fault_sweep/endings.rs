//! Every ending of a sync and its exit code, without a fault of any machine.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use pc_switcher_agent::linux::lock::{Attempt, MachineLock};
use pc_switcher_agent::proto::LockRequest;
use pc_switcher_contract::{EventKind, GateKind, ModuleResult, Role, SessionState};
use pc_switcher_testkit::STAGES;
use pc_switcher_testkit::manifest::{ManifestOptions, TreeManifest, assert_same_tree};
use pc_switcher_testkit::model::{At, CallKey, Disk, Fault, How};

use crate::run::{Ran, Wish, sync};
use crate::sweep::in_model_time;
use crate::world::{World, home, picture};

const MINUTE: Duration = Duration::from_secs(60);

fn config(modules: &str, more: &str) -> String {
    format!(
        "[sync_modules]\n{modules}\n[user-data]\nfolders = [\"/home\"]\n\
         [btrfs-snapshots]\nsubvolumes = [\"@home\"]\n{more}"
    )
}

/// A first sync with open gate; the user waits a minute at most.
fn wish(config: String) -> Wish {
    Wish { config, open: vec![GateKind::FirstSync], ctrl_c_after: Some(MINUTE), ..Wish::default() }
}

#[track_caller]
fn assert_ended(ran: &Ran, exit: u8, criticals: usize) {
    let state = match exit {
        0 => SessionState::Completed,
        130 => SessionState::Aborted,
        _ => SessionState::Failed,
    };
    let got = (ran.exit.code(), ran.state, ran.criticals(), ran.wrong.as_slice());
    assert_eq!(got, (exit, state, criticals, [].as_slice()), "{:#?}", ran.complaints());
}

#[test]
fn a_module_that_fails_ends_the_sync_as_the_way_and_the_call_say() {
    // In which call, in which way; exit code, CRITICAL lines, what became of the three modules.
    let table = "
        validate error       3   1 SKIPPED SKIPPED SKIPPED
        validate panic       1   1 SKIPPED SKIPPED SKIPPED
        validate hang        130 0 SKIPPED SKIPPED SKIPPED
        validate ignore-term 130 0 SKIPPED SKIPPED SKIPPED
        validate log-error   1   0 SUCCESS SUCCESS SUCCESS
        execute  error       1   1 SUCCESS FAILED  SKIPPED
        execute  panic       1   1 SUCCESS FAILED  SKIPPED
        execute  hang        130 0 SUCCESS FAILED  SKIPPED
        execute  ignore-term 130 0 SUCCESS FAILED  SKIPPED
        execute  log-error   1   0 SUCCESS SUCCESS SUCCESS
        verify   error       1   0 SUCCESS FAILED  SUCCESS
        verify   panic       1   1 SUCCESS FAILED  SUCCESS
        verify   hang        130 0 SUCCESS FAILED  SUCCESS
        verify   log-error   1   0 SUCCESS SUCCESS SUCCESS
        abort    error       130 0 SUCCESS FAILED  SKIPPED
        abort    panic       130 0 SUCCESS FAILED  SKIPPED
        abort    hang        130 0 SUCCESS FAILED  SKIPPED
        plan     error       0   0 SUCCESS SUCCESS SUCCESS
    ";
    for line in table.trim().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [at, how, exit, criticals, first, second, third] = words[..] else { panic!("{line}") };
        let modules = "user-data = true\ndummy-fail = true\ndummy-success = true";
        let more = format!("[dummy-fail]\nat = \"{at}\"\nhow = \"{how}\"\n");
        let ran = in_model_time(async { sync(&World::new(), wish(config(modules, &more))).await });
        let got = format!("{at} {how} {} {} {:?}", ran.exit.code(), ran.criticals(), ran.wrong);
        assert_eq!(got, format!("{at} {how} {exit} {criticals} []"), "{:#?}", ran.complaints());
        let results = [("user-data", first), ("dummy-fail", second), ("dummy-success", third)];
        let results = results.map(|(name, result)| format!("{name} {result}"));
        assert_eq!(ran.results[..3], results, "{line}");
    }
}

#[test]
fn modules_run_in_the_order_of_the_file_and_only_those_that_are_on() {
    let of_modules = |modules: &str| {
        let ran = in_model_time(async { sync(&World::new(), wish(config(modules, ""))).await });
        assert_ended(&ran, 0, 0);
        let stages = ran.stages().into_iter().filter_map(|stage| stage.strip_prefix("module:"));
        stages.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_modules("user-data = true\ndummy-success = true"), ["user-data", "dummy-success"]);
    assert_eq!(of_modules("dummy-success = true\nuser-data = true"), ["dummy-success", "user-data"]);
    assert_eq!(of_modules("dummy-success = true\nuser-data = false"), ["dummy-success"]);
}

#[test]
fn a_sync_passes_its_stages_in_the_documented_order_and_brings_everything_over() {
    in_model_time(async {
        let world = World::new();
        let ran = sync(&world, wish(config("user-data = true", ""))).await;
        assert_ended(&ran, 0, 0);
        assert_eq!(ran.stages(), STAGES);
        assert_eq!(ran.asked, [GateKind::FirstSync]);
        assert_eq!(world.sets_of(&ran.session), ["pre+post", "pre+post"]);
        assert_eq!(world.desk.history(), [ran.session.to_string().into_bytes()]);
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
        // What is written down of it lies on the modelled disk, not on that of whoever runs this.
        let lists = world.desk.real(&"/.snapshots/.pc-switcher/sets".into());
        assert_eq!(fs::read_dir(lists).unwrap().count(), 1);
    });
}

#[test]
fn a_dry_run_asks_no_machine_to_write_anything() {
    in_model_time(async {
        let world = World::new();
        let modules = "user-data = true\ndummy-success = true";
        assert_ended(&sync(&world, wish(config(modules, ""))).await, 0, 0);
        world.work();
        let whole =
            |disk: &Disk| TreeManifest::read(disk.root(), &ManifestOptions::new().exclude("run")).unwrap();
        let before = world.disks().map(|disk| whole(disk));
        let ran = sync(&world, Wish { dry_run: true, ..wish(config(modules, "")) }).await;
        assert_ended(&ran, 0, 0);
        let reads = [
            "start",
            "connect",
            "close",
            "facts",
            "lock",
            "layout",
            "space",
            "check-set",
            "walk",
            "digests",
            "list",
            "digest",
        ];
        let reads = [
            reads.as_slice(),
            &[
                "state-get",
                "state-list",
                "terminate-all",
                "diagnose",
                "writers",
                "unchanged",
                "changed",
                "moved",
            ],
        ]
        .concat();
        let mut others = ran.calls.iter().map(|seen| seen.key.call.as_str());
        assert_eq!(others.find(|call| !reads.contains(call)), None);
        let after = world.disks().map(|disk| whole(disk));
        before.iter().zip(&after).for_each(|(before, after)| assert_same_tree(before, after));
    });
}

#[test]
fn ctrl_c_in_the_middle_of_work_stops_it_and_the_next_sync_completes() {
    in_model_time(async {
        let world = World::new();
        let modules = "dummy-success = true\nuser-data = true";
        let slow = config(modules, "[dummy-success]\nduration = 3600\nchild = true\n");
        let ran = sync(&world, wish(slow)).await;
        assert_ended(&ran, 130, 0);
        assert_eq!(ran.results[..2], ["dummy-success FAILED", "user-data SKIPPED"]);
        assert_eq!(world.sets_of(&ran.session), ["pre", "pre"]);
        assert_ended(&sync(&world, wish(config(modules, ""))).await, 0, 0);
    });
}

#[test]
fn after_an_unfinished_sync_only_what_people_changed_is_a_conflict() {
    in_model_time(async {
        let world = World::new();
        let modules = "user-data = true\ndummy-success = true";
        assert_ended(&sync(&world, wish(config(modules, ""))).await, 0, 0);
        world.work();
        let slow = config(modules, "[dummy-success]\nduration = 3600\n");
        for _ in 0..2 {
            assert_ended(&sync(&world, wish(slow.clone())).await, 130, 0);
        }
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
        // The sync has brought both over; one of them is edited there.
        fs::write(home(&world.desk).join("alice/new/empty"), "written on the desk\n").unwrap();
        world.work_on();
        let ran = sync(&world, wish(config(modules, ""))).await;
        assert_ended(&ran, 7, 0);
        let said = ran.complaints().join("\n");
        assert!(said.contains("1 path changed on desk") && said.contains("/home/alice/new/empty"), "{said}");
        fs::write(home(&world.laptop).join("alice/new/empty"), "written on the desk\n").unwrap();
        assert_ended(&sync(&world, wish(config(modules, ""))).await, 0, 0);
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
    });
}

#[test]
fn too_little_space_before_a_sync_and_during_one_is_exit_6() {
    in_model_time(async {
        let world = World::new();
        let old = picture(&world.desk);
        world.desk.set_available(1 << 30);
        let ran = sync(&world, wish(config("user-data = true", ""))).await;
        assert_ended(&ran, 6, 1);
        assert_eq!(world.sets_of(&ran.session), ["-", "-"]);
        world.desk.set_available(Disk::SIZE / 2);
        let slow = "[dummy-success]\nduration = 3600\n[disk]\ncheck_interval = 30\n";
        let desk = Arc::clone(&world.desk);
        let filling = tokio::spawn(async move {
            tokio::time::sleep(MINUTE / 3).await;
            desk.set_available(1 << 30);
        });
        let modules = "dummy-success = true\nuser-data = true";
        let ran = sync(&world, wish(config(modules, slow))).await;
        filling.await.unwrap();
        assert_ended(&ran, 6, 1);
        assert_eq!(ran.results[..2], ["dummy-success FAILED", "user-data SKIPPED"]);
        let why = ran.events.iter().find_map(|event| match &event.kind {
            EventKind::Module { result: ModuleResult::Failed, summary, .. } => Some(summary.as_str()),
            _ => None,
        });
        let wanted = "stopped: disk-monitor: the disk-space reserve is used up: desk: ";
        assert!(why.is_some_and(|why| why.starts_with(wanted)), "{why:?}");
        assert_same_tree(&old, &picture(&world.desk));
    });
}

#[test]
fn a_disk_that_gives_no_answer_three_times_in_a_row_ends_the_sync_and_twice_does_not() {
    let look = |phase: &str, nth: usize| {
        let key = CallKey { phase: phase.into(), machine: "desk".into(), call: "space".into(), nth };
        Fault { key, how: How::Hang, at: At::Open }
    };
    let faults = [look("monitors", 0), look("module:dummy-success", 0), look("module:dummy-success", 1)];
    for (count, exit) in [(2, 0), (3, 1)] {
        let slow = config("dummy-success = true", "[dummy-success]\nduration = 600\n");
        let wish = Wish { faults: faults[..count].to_vec(), ctrl_c_after: None, ..wish(slow) };
        let ran = in_model_time(async { sync(&World::new(), wish).await });
        assert_ended(&ran, exit, usize::from(exit == 1));
        let failed = ran.complaints().iter().filter(|line| line.contains("no answer within 20 s")).count();
        assert_eq!(failed, count + usize::from(exit == 1), "{:?}", ran.complaints());
    }
}

#[test]
fn a_gate_that_stays_shut_is_exit_7_and_leaves_no_trace() {
    in_model_time(async {
        let world = World::new();
        let shut = Wish { open: vec![], ..wish(config("user-data = true", "")) };
        let ran = sync(&world, shut).await;
        assert_ended(&ran, 7, 0);
        assert_eq!(world.sets_of(&ran.session), ["-", "-"]);
    });
}

#[test]
fn a_machine_that_is_busy_is_exit_5() {
    in_model_time(async {
        let world = World::new();
        let other = LockRequest {
            session: "eeeeeeee".parse().unwrap(),
            role: Role::Source,
            from: "desk".parse().unwrap(),
            user: "bob".into(),
        };
        let held = MachineLock::try_take(&world.desk.lock_path(), &other).unwrap();
        assert!(matches!(held, Attempt::Held(_)));
        let mut ran = sync(&world, wish(config("user-data = true", ""))).await;
        // The other's lock is his.
        ran.wrong.retain(|wrong| wrong != "desk is locked");
        assert_ended(&ran, 5, 0);
        assert!(ran.complaints()[0].contains("from desk by bob"), "{:?}", ran.complaints());
        drop(held);
        assert_ended(&sync(&world, wish(config("user-data = true", ""))).await, 0, 0);
    });
}

#[test]
fn a_machine_is_not_synced_with_itself() {
    in_model_time(async {
        let mut world = World::new();
        world.desk = Arc::new(Disk::new("laptop".parse().unwrap()).unwrap());
        assert_ended(&sync(&world, wish(config("user-data = true", ""))).await, 2, 0);
    });
}
