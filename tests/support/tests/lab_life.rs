//! The life of a lab: variants, two side by side, and that nothing is left of it however it ends.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use pc_switcher_testkit::lab::{
    Cmd, DiskCache, Init, Lab, LabError, LabOptions, MachineName, SnapshotDir, Sudo, require_lab,
};

const HOLD: &str = "LAB_LIFE_HOLD";
const LIMIT: Duration = Duration::from_secs(20);

fn ssh(command: &str) -> Cmd {
    Cmd::new("ssh").args(["-o", "BatchMode=yes", "desk", command]).as_alice()
}

/// Returns all that a lab of this name has on the host. Its namespaces end with its processes, since nothing else
/// holds them: the numbers of ended ones may be anyone's.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: &str, text: &str| {
        if text.contains(&format!("pcs-lab.{name}.")) || text.contains(&format!("pc-switcher-lab/{name}/")) {
            found.push(format!("{what}: {text}"));
        }
    };
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        note("loop", &fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default());
    }
    fs::read_to_string("/proc/self/mounts").unwrap().lines().for_each(|line| note("mount", line));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let text = |file: &str| {
            String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        note("process", &text("cmdline").replace('\0', " "));
        note("cgroup of a process", &text("cgroup"));
        note("mount of another process", &text("mounts"));
    }
    let run = Path::new("/run/pc-switcher-lab").join(name);
    if run.exists() {
        found.push(format!("{} exists", run.display()));
    }
    found
}

fn links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|link| link.file_name().display().to_string())
        .collect()
}

fn wait_until_nothing_is_left(name: &str) {
    let start = Instant::now();
    while !traces(name).is_empty() {
        assert!(start.elapsed() < LIMIT, "{:#?}", traces(name));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lab_that_goes_down_leaves_nothing_behind() {
    let Some(_host) = require_lab() else { return };
    let before = links();
    let start = Instant::now();
    let lab = Lab::up(LabOptions::new("life-down")).unwrap();
    println!("up: {:?}", start.elapsed());
    assert!(!traces("life-down").is_empty());
    assert_eq!(links(), before);
    let unflushed = fs::read_to_string("/run/pc-switcher-lab/life-down/unflushed").unwrap();
    assert_eq!(unflushed.lines().count(), 2);
    // In the worst of states: one machine frozen, the other one's disk dead.
    lab.laptop().freeze().unwrap();
    lab.desk().disk_fail().unwrap();
    let start = Instant::now();
    lab.down().unwrap();
    println!("down: {:?}", start.elapsed());
    assert_eq!(traces("life-down"), [""; 0]);
    assert_eq!(links(), before);
    for device in unflushed.lines() {
        let mode = fs::read_to_string(format!("/sys/block/{device}/queue/write_cache")).unwrap();
        // Another lab may have the device by now; looked at afterwards, since it has it before it changes the setting.
        let is_free = !Path::new(&format!("/sys/block/{device}/loop/backing_file")).exists();
        assert!(!is_free || mode == "write back\n", "{device}: {mode}");
    }
    Lab::down_by_name("life-down").unwrap();
    let start = Instant::now();
    drop(Lab::up(LabOptions::new("life-down")).unwrap());
    println!("later up and down: {:?}", start.elapsed());
    assert_eq!(traces("life-down"), [""; 0]);
    Lab::purge_by_name("life-down").unwrap();
}

#[test]
fn a_lab_whose_owner_is_killed_is_removed() {
    let Some(_host) = require_lab() else { return };
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLD, "life-kill")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("holding")));
    let error = Lab::up(LabOptions::new("life-kill").lock_wait(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, LabError::InUse { .. }), "{error}");
    let attached = Lab::attach("life-kill").unwrap();
    let _running = attached.laptop().spawn(&Cmd::new("sleep").arg("1000")).unwrap();
    // SIGKILL: no destructor of the owner runs.
    owner.kill().unwrap();
    owner.wait().unwrap();
    let start = Instant::now();
    wait_until_nothing_is_left("life-kill");
    println!("nothing is left {:?} after kill -9", start.elapsed());
    drop(Lab::up(LabOptions::new("life-kill")).unwrap());
    Lab::purge_by_name("life-kill").unwrap();
}

/// No test by itself: the process that `a_lab_whose_owner_is_killed_is_removed` kills.
#[test]
fn holder() {
    let Ok(name) = std::env::var(HOLD) else { return };
    let _lab = Lab::up(LabOptions::new(name)).unwrap();
    println!("holding");
    loop {
        std::thread::park();
    }
}

#[test]
fn two_labs_run_side_by_side_and_do_not_meet() {
    let Some(_host) = require_lab() else { return };
    let one = Lab::up(LabOptions::new("life-one")).unwrap();
    let two = Lab::up(LabOptions::new("life-two").detached()).unwrap();
    one.laptop().run(&ssh("echo one >mark")).unwrap();
    two.laptop().run(&ssh("echo two >mark")).unwrap();
    assert_eq!(one.desk().read_file("/home/alice/mark").unwrap(), b"one\n");
    assert_eq!(two.desk().read_file("/home/alice/mark").unwrap(), b"two\n");
    one.down().unwrap();
    two.laptop().run(&ssh("true")).unwrap();
    // A detached lab outlives its handle and is found again by its name.
    drop(two);
    Lab::attach("life-two").unwrap().laptop().run(&ssh("true")).unwrap();
    Lab::down_by_name("life-two").unwrap();
    assert_eq!(traces("life-two"), [""; 0]);
    assert!(matches!(Lab::attach("life-two"), Err(LabError::NotUp { .. })));
    Lab::purge_by_name("life-one").unwrap();
    Lab::purge_by_name("life-two").unwrap();
}

#[test]
fn systemd_runs_as_the_first_process_with_sessions_for_alice() {
    let Some(_host) = require_lab() else { return };
    let start = Instant::now();
    let lab = Lab::up(LabOptions::new("life-systemd").init(Init::Systemd)).unwrap();
    println!("up with systemd: {:?}", start.elapsed());
    let state = lab.desk().exec(&Cmd::new("systemctl").args(["is-system-running", "--wait"])).unwrap();
    let failed = lab.desk().run(&Cmd::new("systemctl").args(["--failed", "--no-legend"])).unwrap();
    assert_eq!((state.text().trim(), failed.as_str()), ("running", ""));
    assert_eq!(
        lab.laptop().run(&ssh("echo $XDG_RUNTIME_DIR; systemd-run --user --pipe -q echo hi")).unwrap(),
        "/run/user/1000\nhi\n"
    );
    let clock =
        lab.desk().exec(&Cmd::new("systemd-run").args(["--pipe", "-q", "date", "-s", "+1 second"])).unwrap();
    assert!(clock.error_text().contains("Operation not permitted"), "{clock:?}");
    lab.snapshot("clean").unwrap();
    let start = Instant::now();
    lab.reset("clean").unwrap();
    println!("reset with systemd: {:?}", start.elapsed());
    lab.desk().shutdown().unwrap();
    lab.desk().boot().unwrap();
    lab.laptop().run(&ssh("sudo true")).unwrap();
    lab.down().unwrap();
    assert_eq!(traces("life-systemd"), [""; 0]);
    Lab::purge_by_name("life-systemd").unwrap();
}

#[test]
fn variants_of_disks_and_sudo_are_what_they_say() {
    let Some(_host) = require_lab() else { return };
    let options = || LabOptions::new("life-variant");
    let lab =
        Lab::up(options().sudo(Sudo::Password).snapshot_dir(SnapshotDir::Plain).disk_bytes(1 << 30)).unwrap();
    assert!(lab.laptop().exec(&ssh("sudo -n true")).unwrap().error_text().contains("password is required"));
    assert_eq!(lab.laptop().run(&ssh("echo alice | sudo -S -p '' id -u")).unwrap(), "0\n");
    let mut terminal = lab.laptop().spawn_pty(&Cmd::new("sudo").args(["id", "-u"]).as_alice()).unwrap();
    terminal.expect("password for alice: ", LIMIT).unwrap();
    terminal.send_line("alice").unwrap();
    terminal.expect("0\r\n", LIMIT).unwrap();
    let mount = |lab: &Lab| {
        lab.laptop().run(&Cmd::script("stat -c %i /.snapshots; findmnt -no FSROOT /.snapshots || true"))
    };
    assert_ne!(mount(&lab).unwrap(), "256\n/@snapshots\n");
    assert!(lab.desk().exists("/.snapshots").unwrap());
    assert!(
        (600 << 20..1 << 30).contains(&lab.desk().free_bytes().unwrap()),
        "{:?}",
        lab.desk().free_bytes()
    );
    lab.down().unwrap();

    let lab = Lab::up(options().ext4(MachineName::Desk)).unwrap();
    assert_eq!(lab.desk().run(&Cmd::new("findmnt").args(["-no", "FSTYPE", "/"])).unwrap(), "ext4\n");
    lab.desk().run(&Cmd::script("echo kept >kept; sync -f .; echo lost >lost").as_alice()).unwrap();
    lab.desk().power_cut(DiskCache::Volatile).unwrap();
    lab.desk().boot().unwrap();
    assert_eq!(lab.laptop().run(&ssh("ls")).unwrap(), "kept\n");
    lab.down().unwrap();

    let lab =
        Lab::up(options().sudo(Sudo::Refused).snapshot_dir(SnapshotDir::None).root_subvolume(false)).unwrap();
    assert!(!lab.laptop().exec(&ssh("echo alice | sudo -S true")).unwrap().status.success());
    assert!(!lab.desk().exists("/.snapshots").unwrap());
    let list = lab.desk().run(&Cmd::new("btrfs").args(["subvolume", "list", "/"])).unwrap();
    assert!(!list.contains("@root") && !list.contains("@snapshots"), "{list}");
    lab.down().unwrap();
    Lab::purge_by_name("life-variant").unwrap();
}
