//! The lab proves itself: what a test may rely on, on the real thing. Skipped where the lab cannot run.

use std::time::{Duration, Instant};

use pc_switcher_testkit::{
    lab::{CableCut, Cmd, DiskCache, Lab, LabOptions, Machine, SharedLab},
    manifest::{ManifestOptions, TreeManifest, assert_same_tree},
    seed::HomeSeed,
};

static LAB: SharedLab = SharedLab::new(|| LabOptions::new("selftest"), |_| Ok(()));

const SSH: [&str; 4] = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=1"];

fn ssh(command: &[&str]) -> Cmd {
    Cmd::new("ssh").args(SSH).arg("target-host").args(command.iter().copied()).as_alice()
}

#[test]
fn alice_reaches_the_desk_by_ssh_and_root_by_sudo() {
    let Some(lab) = LAB.take() else { return };
    assert_eq!(
        lab.laptop().run(&ssh(&["hostname; sudo id -u; echo $XDG_RUNTIME_DIR"])).unwrap(),
        "desk\n0\n/run/user/1000\n"
    );
    let back = Cmd::new("ssh").args(SSH).args(["laptop", "hostname"]).as_alice();
    assert_eq!(lab.desk().run(&back).unwrap(), "laptop\n");
}

#[test]
fn a_reset_takes_about_a_second_and_undoes_everything() {
    let Some(lab) = LAB.take() else { return };
    lab.laptop().write_file("/home/alice/early", b"early", 0o644, "alice").unwrap();
    lab.snapshot("early").unwrap();
    lab.laptop().write_file("/home/alice/late", b"late", 0o644, "alice").unwrap();
    lab.desk().disk_fail().unwrap();
    let start = Instant::now();
    lab.reset("early").unwrap();
    println!("reset after a disk failure: {:?}", start.elapsed());
    let start = Instant::now();
    lab.reset("early").unwrap();
    println!("reset: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(lab.laptop().read_file("/home/alice/early").unwrap(), b"early");
    assert!(!lab.laptop().exists("/home/alice/late").unwrap());
    lab.laptop().run(&ssh(&["true"])).unwrap();
    lab.reset(Lab::PRISTINE).unwrap();
    assert!(!lab.laptop().exists("/home/alice/early").unwrap());
}

#[test]
fn a_cut_cable_keeps_the_other_machine_away_until_it_is_restored() {
    let Some(lab) = LAB.take() else { return };
    for how in [CableCut::Carrier, CableCut::Silent] {
        lab.desk().cable_cut(how).unwrap();
        assert_eq!(lab.laptop().exec(&ssh(&["true"])).unwrap().code(), Some(255), "{how:?}");
        lab.desk().cable_restore().unwrap();
        lab.laptop().run(&ssh(&["true"])).unwrap();
    }
}

#[test]
fn a_frozen_machine_answers_again_once_it_thaws() {
    let Some(lab) = LAB.take() else { return };
    lab.desk().freeze().unwrap();
    assert_eq!(lab.laptop().exec(&ssh(&["true"])).unwrap().code(), Some(255));
    lab.desk().thaw().unwrap();
    lab.laptop().run(&ssh(&["true"])).unwrap();
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_loses_the_rest() {
    let Some(lab) = LAB.take() else { return };
    let desk = lab.desk();
    for cache in [DiskCache::Volatile, DiskCache::WriteThrough] {
        desk.run(&Cmd::script("echo kept >kept; sync -f .").as_alice()).unwrap();
        desk.run(&Cmd::script("echo lost >lost").as_alice()).unwrap();
        let start = Instant::now();
        desk.power_cut(cache).unwrap();
        println!("power cut, {cache:?}: {:?}", start.elapsed());
        assert!(!desk.is_on());
        assert_eq!(lab.laptop().exec(&ssh(&["true"])).unwrap().code(), Some(255));
        desk.boot().unwrap();
        assert_eq!(desk.read_file("/home/alice/kept").unwrap(), b"kept\n");
        assert!(!desk.exists("/home/alice/lost").unwrap(), "{cache:?}");
        let scrub = desk.run(&Cmd::new("btrfs").args(["scrub", "start", "-B", "/"])).unwrap();
        assert!(scrub.contains("no errors found"), "{scrub}");
        lab.laptop().run(&ssh(&["true"])).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_writes_until_it_is_emptied() {
    let Some(lab) = LAB.take() else { return };
    let desk = lab.desk();
    let write = Cmd::script("head -c 20000000 /dev/zero >$(mktemp -p .); sync -f .").as_alice();
    desk.fill(200 << 20).unwrap();
    let free_bytes = desk.free_bytes().unwrap();
    assert!((150 << 20..=200 << 20).contains(&free_bytes), "{free_bytes}");
    desk.run(&write).unwrap();
    desk.fill(0).unwrap();
    assert!(desk.exec(&write).unwrap().error_text().contains("No space left"));
    desk.unfill().unwrap();
    desk.run(&write).unwrap();
}

#[test]
fn the_same_seed_makes_the_same_home_on_both_machines() {
    let Some(lab) = LAB.take() else { return };
    let start = Instant::now();
    lab.laptop().seed_home(&HomeSeed::new(7)).unwrap();
    println!("seed: {:?}", start.elapsed());
    lab.desk().seed_home(&HomeSeed::new(7)).unwrap();
    let start = Instant::now();
    let laptop = manifest_of_alice(lab.laptop());
    println!("manifest of {} paths: {:?}", laptop.len(), start.elapsed());
    assert!(laptop.len() > 400, "{}", laptop.len());
    assert_same_tree(&laptop, &manifest_of_alice(lab.desk()));

    // A second writing over the first changes nothing, another seed changes almost everything.
    lab.desk().seed_home(&HomeSeed::new(7)).unwrap();
    assert_same_tree(&laptop, &manifest_of_alice(lab.desk()));
    lab.desk().seed_home(&HomeSeed::new(8)).unwrap();
    assert!(laptop.diff(&manifest_of_alice(lab.desk())).len() > 300);
}

#[test]
fn a_manifest_sees_every_kind_of_change() {
    let Some(lab) = LAB.take() else { return };
    let laptop = lab.laptop();
    laptop.seed_home(&HomeSeed::new(7)).unwrap();
    let before = manifest_of_alice(laptop);
    let kept_time = |change: &str| format!("t=$(stat -c %y \"$f\"); {change}; touch -hd \"$t\" \"$f\"");
    for (path, change, seen) in [
        ("links/original", "printf X | dd of=$f conv=notrunc status=none", "kind file"),
        ("attributes/setuid", "chmod u-s $f", "mode 4755, then 0755"),
        ("attributes/of-bob", "chown 1002 $f", "owner 1001:1001, then 1002:1001"),
        ("attributes/tagged", "setfattr -x user.empty $f", "xattr user.empty"),
        ("attributes/shared-with-bob", "setfacl -m u:1002:r $f", "xattr system.posix_acl_access"),
        ("attributes/may-ping", "setcap -r $f", "xattr security.capability"),
        ("links/dangling", "rm $f; ln -s elsewhere $f; chown -h alice: $f", "symlink to no/such/place, then"),
        ("links/beside", "cp -p $f x; mv x $f", "hard link of"),
        ("special/pipe", "rm $f; touch $f; chmod 600 $f; chown alice: $f", "kind fifo, then file"),
    ] {
        let script = format!("cd /home/alice; f={path}; {}", kept_time(change));
        laptop.run(&Cmd::script(&script)).unwrap();
        let found = before.diff(&manifest_of_alice(laptop));
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|line| line.contains(path) && line.contains(seen)), "{change}: {shown:?}");
    }
    laptop
        .run(&Cmd::script("cd /home/alice; touch -d '2021-01-01 00:00:00.000000002' times/one-nanosecond"))
        .unwrap();
    let found = before.diff(&manifest_of_alice(laptop));
    assert!(
        found.iter().any(|difference| difference.to_string().contains("mtime 1600000000.000000001, then"))
    );
}

fn manifest_of_alice(machine: &Machine) -> TreeManifest {
    // The keys differ by machine, and with them the times of the home itself.
    machine.manifest("/home/alice", &ManifestOptions::new().exclude(".ssh")).unwrap()
}
