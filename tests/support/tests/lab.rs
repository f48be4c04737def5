//! The lab proves itself: what a test may rely on, on the real thing. Skipped where the lab cannot run.

use std::time::{Duration, Instant};

use pc_switcher_testkit::{
    lab::{CTRL_C, CableCut, Cmd, DiskCache, Lab, LabOptions, Machine, Process, SharedLab},
    manifest::{ManifestOptions, TreeManifest, assert_same_tree},
    seed::HomeSeed,
};
use rustix::process::Signal;

static LAB: SharedLab = SharedLab::new(|| LabOptions::new("selftest"), |_| Ok(()));

/// Long enough for a neighbour that is looked for anew after a cut.
const SSH: [&str; 4] = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"];

fn ssh(command: &[&str]) -> Cmd {
    Cmd::new("ssh").args(SSH).arg("target-host").args(command.iter().copied()).as_alice()
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns how a login ends that does not wait long for an answer.
fn hasty_login(machine: &Machine) -> Option<i32> {
    let login =
        Cmd::new("ssh").args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=1", "target-host", "true"]);
    machine.exec(&login.as_alice()).unwrap().code()
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
        assert_eq!(hasty_login(lab.laptop()), Some(255), "{how:?}");
        lab.desk().cable_restore().unwrap();
        lab.laptop().run(&ssh(&["true"])).unwrap();
    }
}

#[test]
fn a_slow_cable_takes_its_time() {
    let Some(lab) = LAB.take() else { return };
    let send = Cmd::script("head -c 400000 /dev/urandom | ssh desk 'cat >received'").as_alice();
    let timed = || {
        let start = Instant::now();
        lab.laptop().run(&send).unwrap();
        start.elapsed()
    };
    lab.desk().limit_rate(Some(1_000)).unwrap();
    assert!(timed() > Duration::from_millis(2_500));
    lab.desk().limit_rate(None).unwrap();
    assert!(timed() < Duration::from_millis(2_500));
}

#[test]
fn a_long_cable_delays_every_answer_and_loses_nothing() {
    let Some(lab) = LAB.take() else { return };
    let delay = Duration::from_millis(60);
    let connect = Cmd::script("exec 3<>/dev/tcp/desk/22; read -r _ <&3");
    let wire = lab.desk().delay(delay).unwrap();
    let start = Instant::now();
    lab.laptop().run(&connect).unwrap();
    // Two round trips: the handshake, and the greeting that follows it half a trip later at the least.
    assert!(start.elapsed() >= delay * 3, "{:?}", start.elapsed());
    let copied = "head -c 20000000 /dev/urandom >sent; md5sum <sent; ssh -o BatchMode=yes desk md5sum <sent";
    let sums = lab.laptop().run(&Cmd::script(copied).as_alice()).unwrap();
    let (sent, received) = sums.split_once('\n').unwrap();
    assert_eq!(sent, received.trim_end());
    drop(wire);
    lab.laptop().run(&connect).unwrap();
}

#[test]
fn a_frozen_machine_answers_again_once_it_thaws() {
    let Some(lab) = LAB.take() else { return };
    lab.desk().freeze().unwrap();
    assert_eq!(hasty_login(lab.laptop()), Some(255));
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
        assert_eq!(hasty_login(lab.laptop()), Some(255));
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

#[test]
fn a_terminal_answers_prompts_and_ctrl_c_ends_the_far_side_too() {
    let Some(lab) = LAB.take() else { return };
    let limit = Duration::from_secs(10);
    let ask = Cmd::script("tty; read -rp 'name? ' name; echo hello $name; sleep 100").as_alice();
    let mut terminal = lab.laptop().spawn_pty(&ask).unwrap();
    assert!(terminal.expect("name? ", limit).unwrap().starts_with("/dev/pts/"));
    terminal.send_line("bob").unwrap();
    terminal.expect("hello bob", limit).unwrap();
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert!(!status.success(), "{screen}");

    let far = Cmd::new("ssh").args(SSH).args(["-t", "desk", "echo ready; sleep 1234"]).as_alice();
    let mut terminal = lab.laptop().spawn_pty(&far).unwrap();
    terminal.expect("ready", limit).unwrap();
    let sleepers = || lab.desk().processes().iter().filter(|process| process.command == "sleep 1234").count();
    wait_until(|| sleepers() == 1);
    terminal.send(CTRL_C).unwrap();
    terminal.wait().unwrap();
    wait_until(|| sleepers() == 0);
}

#[test]
fn a_command_is_streamed_signalled_and_never_outlives_its_handle() {
    let Some(lab) = LAB.take() else { return };
    let laptop = lab.laptop();
    let limit = Duration::from_secs(10);
    let mut running =
        laptop.spawn(&Cmd::script("read -r a; echo got $a; sleep 4321 || echo ended $?").as_alice()).unwrap();
    running.send(b"it\n").unwrap();
    running.expect("got it", limit).unwrap();
    let sleeper = || laptop.processes().into_iter().find(|process| process.command == "sleep 4321");
    wait_until(|| sleeper().is_some());
    let Process { pid, uid, .. } = sleeper().unwrap();
    assert_eq!(uid, 1000);
    laptop.signal(pid, Signal::TERM).unwrap();
    assert_eq!(running.wait().unwrap().text(), "got it\nended 143\n");
    drop(laptop.spawn(&Cmd::new("sleep").arg("4321")).unwrap());
    assert_eq!(sleeper(), None);
    let error = laptop.exec(&Cmd::new("sleep").arg("4321").timeout(Duration::from_millis(100))).unwrap_err();
    assert!(error.to_string().contains("`sleep 4321` on `laptop` was killed after 100ms"), "{error}");
    assert_eq!(sleeper(), None);
    let error = laptop.exec(&Cmd::new("no-such-program")).unwrap_err();
    assert!(error.to_string().contains("start `no-such-program`"), "{error}");
}

#[test]
fn no_way_into_a_machine_lets_it_set_the_clock() {
    let Some(lab) = LAB.take() else { return };
    // Near enough that a broken lab does no harm to the host that runs the test.
    let set = ["date", "-s", "+1 second"];
    let ways = [
        Cmd::new("date").args(["-s", "+1 second"]),
        Cmd::new("sudo").args(set).as_alice(),
        ssh(&["sudo date -s '+1 second'"]),
    ];
    for way in &ways {
        let output = lab.laptop().exec(way).unwrap();
        assert!(
            output.error_text().contains("cannot set date: Operation not permitted"),
            "{way:?}: {output:?}"
        );
    }
    let mut terminal = lab.laptop().spawn_pty(&Cmd::new("date").args(["-s", "+1 second"])).unwrap();
    terminal.expect("Operation not permitted", Duration::from_secs(10)).unwrap();
    // Nor the module loader, nor raw I/O, for any process from the first on.
    for process in lab.laptop().processes().iter().chain(&lab.desk().processes()) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.host_pid)).unwrap();
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
        let bounding = u64::from_str_radix(bounding, 16).unwrap();
        for capability in [16, 17, 25] {
            assert_eq!(bounding & (1 << capability), 0, "{process:?}");
        }
    }
}

#[test]
fn the_machines_are_two() {
    let Some(lab) = LAB.take() else { return };
    for path in [
        "/etc/machine-id",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/proc/sys/kernel/random/boot_id",
        "/etc/hostname",
    ] {
        assert_ne!(lab.laptop().read_file(path).unwrap(), lab.desk().read_file(path).unwrap(), "{path}");
    }
    let uuid = Cmd::new("findmnt").args(["-no", "UUID", "/"]);
    assert_ne!(lab.laptop().run(&uuid).unwrap(), lab.desk().run(&uuid).unwrap());
    let list = lab.laptop().run(&Cmd::new("btrfs").args(["subvolume", "list", "/"])).unwrap();
    let names: Vec<&str> = list.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(names, ["@", "@home", "@root", "@snapshots"]);
    let before = lab.laptop().read_file("/proc/sys/kernel/random/boot_id").unwrap();
    lab.laptop().shutdown().unwrap();
    assert!(!lab.laptop().is_on());
    lab.laptop().boot().unwrap();
    assert_ne!(lab.laptop().read_file("/proc/sys/kernel/random/boot_id").unwrap(), before);
}
