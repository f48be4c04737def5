//! One machine: switching on and off, running commands, looking at its processes.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Shared,
    cmd::{Cmd, Output},
    enter::Door,
    error::{LabError, Result},
    guardian::remove_cgroups,
    options::{HomeDisk, Init, MachineName},
    poll::wait_for,
    pool::{self, Pool},
    processes::{self, Process},
    running::Running,
    scripts::Scripts,
    tool, users,
};

const BOOT_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(30);

/// One of the two machines of a lab.
#[derive(Debug)]
pub struct Machine {
    pub(super) name: MachineName,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    door: Mutex<Option<Arc<Door>>>,
}

impl Machine {
    pub(super) fn new(name: MachineName, shared: Arc<Shared>) -> Self {
        let pool = Pool::new(&shared.place, name, &shared.options);
        Self { name, shared, pool, door: Mutex::new(None) }
    }

    /// Returns which machine this is.
    pub fn name(&self) -> MachineName {
        self.name
    }

    /// Returns the hostname.
    pub fn hostname(&self) -> &'static str {
        self.name.as_str()
    }

    /// Tells whether the machine is switched on.
    pub fn is_on(&self) -> bool {
        self.door().is_ok()
    }

    /// Runs a command to its end; a failing command is no error here.
    pub fn exec(&self, cmd: &Cmd) -> Result<Output> {
        let mut running = self.spawn(cmd)?;
        running.feed(cmd.stdin.clone());
        running.wait()
    }

    /// Runs a command that must succeed and returns its standard output as text.
    pub fn run(&self, cmd: &Cmd) -> Result<String> {
        let output = self.exec(cmd)?;
        if output.status.success() {
            return Ok(output.text());
        }
        Err(LabError::Command {
            machine: self.hostname().to_owned(),
            command: cmd.line(),
            status: output.status,
            stderr: format!("{}{}", output.error_text(), output.text()),
        })
    }

    /// Starts a command; its input stays open, [`Cmd::stdin`] is not used.
    pub fn spawn(&self, cmd: &Cmd) -> Result<Running> {
        let door = self.door()?;
        let mut command = Command::new(&cmd.words[0]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let who = self.prepare(&mut command, cmd, &door)?;
        let started = door.spawn(command, &who, false)?;
        Ok(Running::new(self.hostname(), cmd.line(), cmd.timeout, started))
    }

    /// Runs a command on this process's own standard input, output and error, without a limit.
    pub fn exec_inherited(&self, cmd: &Cmd) -> Result<ExitStatus> {
        let door = self.door()?;
        let mut command = Command::new(&cmd.words[0]);
        let who = self.prepare(&mut command, cmd, &door)?;
        let inside = door.spawn(command, &who, false)?;
        inside.process.wait().map_err(LabError::io(format!("wait for `{}`", cmd.line())))
    }

    /// Gives `command` the arguments and environment of `cmd` and looks its user up.
    pub(super) fn prepare(
        &self,
        command: &mut Command,
        cmd: &Cmd,
        door: &Door,
    ) -> Result<users::Credentials> {
        let mut who = users::look_up(&door.root(), &cmd.user)?;
        who.directory = cmd.directory.clone().unwrap_or(who.directory);
        command.args(&cmd.words[1..]).env_clear();
        command.envs(who.environment.iter().cloned()).envs(cmd.environment.iter().cloned());
        Ok(who)
    }

    /// Returns all processes of the machine, its init included.
    pub fn processes(&self) -> Vec<Process> {
        processes::list(&self.shared.place.machine_cgroup(self.name))
    }

    /// Returns the machine's root directory as the host reaches it. Absolute symbolic links below it lead to the
    /// *host's* files: use [`Machine::read_file`] and its kin where a path may hold one.
    pub fn root_path(&self) -> Result<PathBuf> {
        Ok(self.door()?.root())
    }

    /// Listens on the machine's own loopback: whoever asks there from inside speaks to this process.
    pub fn listen(&self) -> Result<TcpListener> {
        self.door()?.listen().map_err(LabError::io("listen inside a machine"))
    }

    /// Sends a signal to the process with this number inside the machine.
    pub fn signal(&self, pid: i32, signal: rustix::process::Signal) -> Result<()> {
        let process = self.processes().into_iter().find(|process| process.pid == pid);
        let process = process.ok_or_else(|| LabError::Invalid {
            what: format!("no process {pid} runs on `{}`", self.hostname()),
        })?;
        let host_pid = rustix::process::Pid::from_raw(process.host_pid);
        let sent = host_pid.map(|pid| rustix::process::kill_process(pid, signal));
        sent.unwrap_or(Ok(())).map_err(|error| LabError::io(format!("signal process {pid}"))(error.into()))
    }

    pub(super) fn door(&self) -> Result<Arc<Door>> {
        let mut cached = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if !cached.as_ref().is_some_and(|door| door.is_open()) {
            *cached = Door::open(&self.shared.place.machine_cgroup(self.name)).map(Arc::new);
        }
        cached.clone().ok_or_else(|| LabError::Off { machine: self.hostname().to_owned() })
    }

    /// Switches the machine on and waits until it takes logins.
    pub fn boot(&self) -> Result<()> {
        if self.is_on() {
            return Err(LabError::Invalid { what: format!("machine `{}` is on already", self.hostname()) });
        }
        let place = &self.shared.place;
        let cgroup = place.machine_cgroup(self.name);
        remove_cgroups(&cgroup)?;
        fs::create_dir_all(&cgroup).map_err(LabError::path("create", &cgroup))?;
        // It is the machine's own root group, which alice's user manager must pass whatever the caller's umask is.
        fs::set_permissions(&cgroup, fs::Permissions::from_mode(0o755))
            .map_err(LabError::path("open up", &cgroup))?;
        let scripts = Scripts::at(&place.run());
        let mut launch = Command::new("bash");
        launch.arg(&scripts.launch).arg(&cgroup).arg(place.console(self.name)).arg(&scripts.boot);
        for (name, value) in self.boot_environment() {
            launch.env(name, value);
        }
        self.shared.hub.run(|| tool::check(&mut launch))?;
        wait_for(&format!("boot of `{}`", self.hostname()), BOOT_LIMIT, || {
            let has_ended = processes::members(&cgroup).is_empty();
            if has_ended { self.fail_boot() } else { Ok(self.is_ready().then_some(())) }
        })
        .map_err(|error| self.with_console(error))
    }

    fn boot_environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let place = &self.shared.place;
        let options = &self.shared.options;
        let mounts: Vec<String> = pool::subvolumes(options, self.name)
            .iter()
            .map(|(subvolume, point)| format!("{subvolume}:{point}"))
            .collect();
        let init = match options.init {
            Init::Tiny => "tiny",
            Init::Systemd => "systemd",
        };
        vec![
            ("LAB_MACHINE", self.hostname().into()),
            ("LAB_IMAGE", place.image(self.name).into()),
            ("LAB_FORMAT", if options.is_ext4(self.name) { "ext4" } else { "btrfs" }.into()),
            ("LAB_ROOT", place.root(self.name).into()),
            ("LAB_ADDRESS", self.name.address().to_string().into()),
            ("LAB_MAC", self.name.hardware_address().into()),
            ("LAB_UNCACHED", if options.uncached_disks { "yes" } else { "" }.into()),
            ("LAB_INIT", init.into()),
            ("LAB_HOME", options.home_of(self.name).map_or("", HomeDisk::as_str).into()),
            ("LAB_HOME_IMAGE", place.root(self.name).join(pool::HOME_IMAGE).into()),
            ("LAB_MOUNTS", mounts.join(" ").into()),
            ("LAB_TINY", Scripts::at(&place.run()).tiny_init.into()),
        ]
    }

    fn fail_boot<T>(&self) -> Result<T> {
        Err(LabError::NotReady {
            what: format!("boot of `{}` (its init ended)", self.hostname()),
            waited: Duration::ZERO,
            detail: String::new(),
        })
    }

    fn with_console(&self, error: LabError) -> LabError {
        let console = fs::read(self.shared.place.console(self.name)).unwrap_or_default();
        let tail = String::from_utf8_lossy(&console[console.len().saturating_sub(2000)..]).trim().to_owned();
        match error {
            LabError::NotReady { what, waited, .. } => {
                LabError::NotReady { what, waited, detail: format!("; its console ends with: {tail}") }
            }
            other => other,
        }
    }

    /// Looks for an sshd that listens and, under systemd, for alice's user manager.
    fn is_ready(&self) -> bool {
        let Ok(door) = self.door() else { return false };
        let has_manager = || door.root().join("run/user/1000/systemd/private").exists();
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", door.pid())).unwrap_or_default();
        // Port 22 (hexadecimal) in state LISTEN (0A).
        let listens = table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(":0016")) && words.nth(1) == Some("0A")
        });
        listens && (self.shared.options.init == Init::Tiny || has_manager())
    }

    /// Shuts the machine down in an orderly way and waits until it is off.
    pub fn shutdown(&self) -> Result<()> {
        let door = self.door()?;
        match self.shared.options.init {
            Init::Tiny => door.signal(rustix::process::Signal::TERM)?,
            Init::Systemd => {
                // The command may be ended by the shutdown that it starts.
                let _ = self.exec(&Cmd::new("systemctl").arg("poweroff"))?;
            }
        }
        self.wait_off()
    }

    /// Kills every process of the machine at once and waits until it is off; its disk stays as the kernel last had
    /// it. See [`Machine::power_cut`] for what a cut power line does.
    pub(super) fn kill_all(&self) -> Result<()> {
        let file = self.shared.place.machine_cgroup(self.name).join("cgroup.kill");
        match fs::write(&file, "1") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LabError::path("write", &file)(error)),
            Ok(()) => self.wait_off(),
        }
    }

    pub(super) fn wait_off(&self) -> Result<()> {
        let cgroup = self.shared.place.machine_cgroup(self.name);
        wait_for(&format!("end of all processes of `{}`", self.hostname()), END_LIMIT, || {
            Ok(processes::is_unpopulated(&cgroup).then_some(()))
        })?;
        // The first process may still be ending; its group is empty, so nothing of the machine is left to enter.
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // A frozen group would freeze what boots in it next.
        remove_cgroups(&cgroup)?;
        super::loops::wait_detached(&self.shared.place.image_name(self.name))
    }
}
