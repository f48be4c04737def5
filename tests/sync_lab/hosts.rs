//! The two machines as these tests see them: laptop with the program and a home, desk with an sshd.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    lab::{Cmd, DiskCache, Lab, LabOptions, Machine, Output, Result, SharedLab, SharedLabGuard},
    manifest::{Entry, ManifestOptions, TreeManifest, assert_same_tree},
    seed::HomeSeed,
};
use rustix::process::Signal;

pub const PROGRAM: &str = "/usr/local/bin/pc-switcher";
pub const HOME: &str = "/home/alice";
pub const CONFIG: &str = "/home/alice/.config/pc-switcher/config.toml";
/// What a child of the test module sleeps.
pub const CHILD: &str = "sleep 86391";
/// How soon nothing of ours may be left after an orderly end.
pub const SOON: Duration = Duration::from_secs(10);
/// By when what a test waits for has begun, on a host with much else to do.
pub const BY_THEN: Duration = Duration::from_secs(60);

/// Sparse on the host, so that the defaults of `[disk]` fit.
const DISK: u64 = 24 << 30;
/// Longer than any sync of these tests takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Three pairs: while one is set back, or its machines wait, the others work. A third test thread uses the third (`tests/run`).
static LABS: [SharedLab; 3] = [
    SharedLab::new(|| options("sync"), |lab| install(lab.laptop())),
    SharedLab::new(|| options("sync-beside"), |lab| install(lab.laptop())),
    SharedLab::new(|| options("sync-third"), |lab| install(lab.laptop())),
];

/// Both machines freshly booted: the program and a seeded home on the laptop, nothing of ours on the desk.
pub fn lab() -> Option<SharedLabGuard<'static>> {
    SharedLab::take_any(&LABS)
}

/// Puts the program and a home on a machine.
pub fn install(machine: &Machine) -> Result<()> {
    machine.copy_in(program(), PROGRAM, 0o755, "root")?;
    // Where our own state will lie: made by a sync, it would change the time of the folder that holds it.
    machine.run(&Cmd::script("mkdir -p .local/state/pc-switcher").as_alice())?;
    machine.seed_home(&HomeSeed::new(7))
}

/// Returns the size of disk for which the defaults are made.
pub fn options(name: &str) -> LabOptions {
    LabOptions::new(name).disk_bytes(DISK)
}

/// Returns the program under test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PC_SWITCHER_BIN") {
        return path.into();
    }
    // Beside this test: target/debug/deps/sync_lab-…, so target/lab/pc-switcher.
    let here = std::env::current_exe().unwrap_or_default();
    let target = here.ancestors().nth(3).unwrap_or_else(|| Path::new("target"));
    let found = ["lab", "release"].map(|profile| target.join(profile).join("pc-switcher"));
    found.into_iter().find(|path| path.exists()).expect("build the program first: tests/build-program")
}

/// How a sync ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    /// Both streams, one after the other.
    pub text: String,
    pub stdout: String,
}

impl Ran {
    /// Checks the exit code and hands itself on.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    /// Checks that all of these stand in what was said.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        // Long lines are wrapped; paths and names are looked for as one text.
        let flat = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in texts {
            assert!(flat.contains(text), "`{text}` is not in:\n{}", self.text);
        }
        self
    }
}

/// Describes `pc-switcher sync TARGET FLAGS…` as alice types it, with the test modules at hand.
pub fn line(target: &str, flags: &[&str]) -> Cmd {
    Cmd::new("pc-switcher")
        .args(["sync", target])
        .args(flags.iter().copied())
        .as_alice()
        .env("PC_SWITCHER_TEST_MODULES", "1")
        .timeout(LIMIT)
}

/// Runs a sync without a terminal.
#[track_caller]
pub fn sync(machine: &Machine, target: &str, flags: &[&str]) -> Ran {
    run(machine, &line(target, flags))
}

#[track_caller]
pub fn run(machine: &Machine, cmd: &Cmd) -> Ran {
    let output = machine.exec(cmd).unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    Ran { code: output.code(), text, stdout: output.text() }
}

/// Makes both machines know each other.
#[track_caller]
pub fn first_sync(lab: &Lab) -> Ran {
    sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(0)
}

/// Cuts the desk's power while it commits, and boots it again; returns what the sync said.
pub fn cut_off_commit(lab: &Lab) -> Output {
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir many && cd many && for n in $(seq 8000); do echo first >$n; done");
    first_sync(lab);
    alice(laptop, "cd many && for n in $(seq 8000); do echo second-$n >$n; done");
    desk.sync_disk().unwrap();
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("committing", Duration::from_secs(60)).unwrap();
    desk.power_cut(DiskCache::Volatile).unwrap();
    let ended = running.wait().unwrap();
    desk.boot().unwrap();
    ended
}

/// Runs a script as alice, in her home.
#[track_caller]
pub fn alice(machine: &Machine, script: &str) -> String {
    machine.run(&Cmd::script(script).as_alice()).unwrap()
}

/// Runs a script as root.
#[track_caller]
pub fn root(machine: &Machine, script: &str) -> String {
    machine.run(&Cmd::script(script)).unwrap()
}

/// Writes alice's config on a machine.
#[track_caller]
pub fn configure(machine: &Machine, text: &str) {
    alice(machine, "mkdir -p .config/pc-switcher");
    machine.write_file(CONFIG, text.as_bytes(), 0o600, "alice").unwrap();
}

/// Makes a sync from this machine work for so long in the test module, with a child on both machines, before it moves
/// anything.
#[track_caller]
pub fn dawdle(machine: &Machine, seconds: u32, more: &str) {
    configure(
        machine,
        &format!(
            "[sync_modules]\ndummy-success = true\nuser-data = true\n\
             [dummy-success]\nduration = {seconds}\nchild = true\n{more}"
        ),
    );
}

/// Reads what of alice's home must be the same on both machines: all but what belongs to a machine.
#[track_caller]
pub fn home(machine: &Machine) -> TreeManifest {
    machine.manifest(HOME, &ManifestOptions::new().exclude_if(belongs_to_the_machine)).unwrap()
}

/// As [`home`], without what a sync that was cut off may have staged in nested subvolumes.
#[track_caller]
pub fn home_cut_off(machine: &Machine) -> TreeManifest {
    let is_ours = |path: &Path| path.file_name().is_some_and(|name| name == ".pc-switcher");
    let options = ManifestOptions::new().exclude_if(belongs_to_the_machine).exclude_if(is_ours);
    machine.manifest(HOME, &options).unwrap()
}

fn belongs_to_the_machine(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let starts = |prefix: &str| text.starts_with(prefix);
    starts(".ssh/id_")
        || starts(".ssh/known_hosts")
        || starts(".ssh/authorized_keys")
        || starts(".cache/")
        || [
            ".config/bt.toml",
            ".config/pc-switcher",
            ".local/state/pc-switcher",
            ".local/share/Trash",
            "special/agent.sock",
        ]
        .contains(&&*text)
}

/// Reads what no sync may touch: keys, logins and known hosts. The folder itself is like any other.
#[track_caller]
pub fn identity(machine: &Machine) -> Vec<(Vec<u8>, Entry)> {
    let options = ManifestOptions::new().exclude_if(|path| path == Path::new("config"));
    let tree = machine.manifest("/home/alice/.ssh", &options).unwrap();
    tree.entries()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

/// Checks that both homes are the same, and that a further plan is empty.
#[track_caller]
pub fn assert_moved(from: &Machine, to: &Machine) {
    assert_same_tree(&home(from), &home(to));
    assert_eq!(plan(from, to.hostname()), [""; 0]);
}

/// Returns what a dry run would do, a line each.
#[track_caller]
pub fn plan(from: &Machine, to: &str) -> Vec<String> {
    let ran = sync(from, to, &["--dry-run", "--json"]).ends_with(0);
    let lines = ran.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let plans: Vec<serde_json::Value> = lines.filter(|value| value["type"] == "plan").collect();
    assert!(!plans.is_empty(), "no plan in:\n{}", ran.text);
    let items = plans.iter().flat_map(|event| event["plan"]["items"].as_array().cloned().unwrap_or_default());
    items.map(|item| format!("{} {}", item["action"], item["path"])).collect()
}

/// Returns what of ours runs on a machine.
pub fn ours(machine: &Machine) -> Vec<String> {
    let processes = machine.processes().into_iter();
    processes
        .map(|process| process.command)
        .filter(|command| command.contains("pc-switcher") || command.contains(CHILD))
        .collect()
}

/// Ends every process of a machine whose command holds a word.
pub fn kill(machine: &Machine, word: &str) -> usize {
    let found = machine.processes().into_iter().filter(|process| process.command.contains(word));
    let killed = found.filter(|process| {
        rustix::process::Pid::from_raw(process.host_pid)
            .is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
    });
    killed.count()
}

/// Checks that soon nothing of ours runs on these machines and that their locks are free.
#[track_caller]
pub fn assert_nothing_runs(machines: &[&Machine], limit: Duration) {
    let start = Instant::now();
    for machine in machines {
        while !ours(machine).is_empty() {
            assert!(
                start.elapsed() < limit,
                "{} runs after {limit:?}: {:#?}",
                machine.hostname(),
                ours(machine)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        for lock in ["/run/pc-switcher/lock", "/run/user/1000/pc-switcher/pc-switcher.lock"] {
            let free = format!("[ ! -e {lock} ] || flock --nonblock {lock} true");
            wait_for(&format!("{lock} of {}", machine.hostname()), limit, || {
                machine.exec(&Cmd::script(&free)).unwrap().status.success()
            });
        }
    }
    assert!(start.elapsed() < limit + SOON);
}

/// Waits until something holds.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "after {limit:?} still no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the snapshots of a machine by name.
#[track_caller]
pub fn snapshots(machine: &Machine) -> Vec<String> {
    root(machine, "ls /.snapshots").lines().map(str::to_owned).collect()
}

/// All that a run which must write nothing could leave on a machine.
#[track_caller]
pub fn picture(machine: &Machine) -> (Vec<TreeManifest>, String) {
    let trees = ["/home", "/root", "/etc", "/usr/local", "/var/lib"]
        .map(|dir| machine.manifest(dir, &ManifestOptions::new()).unwrap());
    (trees.into(), root(machine, "btrfs subvolume list / | cut -d ' ' -f 2,9"))
}
