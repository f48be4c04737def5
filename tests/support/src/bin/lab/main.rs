//! `lab`: two machines on this host, to try things out by hand. The library does all the work.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use pc_switcher_testkit::{
    lab::{self, CableCut, Cmd, DiskCache, Init, Lab, LabError, LabOptions, MachineName, SnapshotDir, Sudo},
    seed::HomeSeed,
};

mod shell;

/// Two machines, `laptop` and `desk`, on this host.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Cli {
    /// Which lab; labs of different names run side by side
    #[arg(long, global = true, default_value = "hand")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start both machines from pristine disks; they run until `lab down`
    Up(Variants),
    /// End the machines and remove all but the cache
    Down {
        /// Every lab of this host
        #[arg(long)]
        all: bool,
        /// Forget the disks too
        #[arg(long)]
        purge: bool,
    },
    /// Run a command
    Exec {
        machine: MachineName,
        /// As whom
        #[arg(short, long, default_value = "root")]
        user: String,
        /// The command and its arguments, after `--`
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Open a login shell
    Shell {
        machine: MachineName,
        /// As whom
        #[arg(short, long, default_value = "alice")]
        user: String,
    },
    /// Copy a file of this host to a machine
    Copy {
        source: PathBuf,
        machine: MachineName,
        /// Path in the machine; its directory must exist
        target: PathBuf,
        /// Permission bits, octal
        #[arg(long, default_value = "755", value_parser = octal)]
        mode: u32,
        #[arg(long, default_value = "root")]
        owner: String,
    },
    /// Fill alice's home with what people have in theirs
    Seed {
        machine: MachineName,
        /// Other numbers give other homes
        #[arg(default_value_t = 1)]
        number: u64,
    },
    /// Keep the state of both machines' disks under a name
    Snapshot { state: String },
    /// Bring both machines back to a state, freshly booted
    Reset {
        #[arg(default_value = Lab::PRISTINE)]
        state: String,
    },
    /// Cut the cable
    Cut {
        machine: MachineName,
        /// Packets vanish and the carrier stays
        #[arg(long)]
        silent: bool,
    },
    /// Make the cable whole again
    Restore { machine: MachineName },
    /// Stop every process where it is, like a closed lid
    Freeze { machine: MachineName },
    /// Let a frozen machine go on
    Thaw { machine: MachineName },
    /// Pull the plug (or shut down in an orderly way)
    Poweroff {
        machine: MachineName,
        /// Shut down in an orderly way
        #[arg(long)]
        orderly: bool,
        /// The disk keeps what the kernel had sent to it
        #[arg(long, conflicts_with = "orderly")]
        write_through: bool,
    },
    /// Switch a machine on
    Boot { machine: MachineName },
    /// Make the cached base tree only
    Base,
    /// Show the labs of this host
    Status,
}

#[derive(Debug, Args)]
struct Variants {
    /// A few lines of shell as pid 1 (the default): boots fast, no systemctl, no logind
    #[arg(long, conflicts_with = "systemd")]
    tiny: bool,
    /// systemd as pid 1
    #[arg(long)]
    systemd: bool,
    /// Keep /root in `@` instead of in its own subvolume
    #[arg(long)]
    no_root_subvolume: bool,
    /// What /.snapshots is
    #[arg(long, value_enum, default_value = "subvolume")]
    snapshots: Snapshots,
    /// What sudo lets alice do
    #[arg(long, value_enum, default_value = "no-password")]
    sudo: SudoRule,
    /// Give the desk an ext4 disk: no subvolumes, no snapshots
    #[arg(long)]
    desk_ext4: bool,
    /// Size of each machine's disk in GiB
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=24))]
    disk_gib: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Snapshots {
    None,
    Plain,
    Subvolume,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SudoRule {
    NoPassword,
    Password,
    Refused,
}

impl Variants {
    fn options(&self, name: &str) -> LabOptions {
        let options = LabOptions::new(name);
        let options = if self.desk_ext4 { options.ext4(MachineName::Desk) } else { options };
        options
            .init(if self.systemd { Init::Systemd } else { Init::Tiny })
            .root_subvolume(!self.no_root_subvolume)
            .snapshot_dir(match self.snapshots {
                Snapshots::None => SnapshotDir::None,
                Snapshots::Plain => SnapshotDir::Plain,
                Snapshots::Subvolume => SnapshotDir::Subvolume,
            })
            .sudo(match self.sudo {
                SudoRule::NoPassword => Sudo::NoPassword,
                SudoRule::Password => Sudo::Password,
                SudoRule::Refused => Sudo::Refused,
            })
            .disk_bytes(self.disk_gib << 30)
            .lock_wait(Duration::from_secs(2))
            .detached()
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprint!("lab: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, LabError> {
    let start = Instant::now();
    let done = |what: &str| eprintln!("lab `{}`: {what} ({} ms)", cli.name, start.elapsed().as_millis());
    match &cli.verb {
        Verb::Up(variants) => {
            Lab::up(variants.options(&cli.name))?;
            done("laptop and desk are up");
        }
        Verb::Down { all, purge } => {
            let names = if *all { Lab::names() } else { vec![cli.name.clone()] };
            for name in names {
                if *purge { Lab::purge_by_name(&name)? } else { Lab::down_by_name(&name)? }
            }
            done("down");
        }
        Verb::Exec { machine, user, command } => {
            let lab = Lab::attach(&cli.name)?;
            let (program, args) = command.split_first().expect("clap requires a command");
            let status = lab.machine(*machine).exec_inherited(&Cmd::new(program).args(args).user(user))?;
            return Ok(exit_code(status));
        }
        Verb::Shell { machine, user } => {
            let lab = Lab::attach(&cli.name)?;
            return shell::run(lab.machine(*machine), user).map(exit_code);
        }
        Verb::Copy { source, machine, target, mode, owner } => {
            Lab::attach(&cli.name)?.machine(*machine).copy_in(source, target, *mode, owner)?;
        }
        Verb::Seed { machine, number } => {
            Lab::attach(&cli.name)?.machine(*machine).seed_home(&HomeSeed::new(*number))?;
        }
        Verb::Snapshot { state } => {
            Lab::attach(&cli.name)?.snapshot(state)?;
            done(&format!("state `{state}` kept"));
        }
        Verb::Reset { state } => {
            Lab::attach(&cli.name)?.reset(state)?;
            done(&format!("back in state `{state}`"));
        }
        Verb::Cut { machine, silent } => {
            let how = if *silent { CableCut::Silent } else { CableCut::Carrier };
            Lab::attach(&cli.name)?.machine(*machine).cable_cut(how)?;
        }
        Verb::Restore { machine } => Lab::attach(&cli.name)?.machine(*machine).cable_restore()?,
        Verb::Freeze { machine } => Lab::attach(&cli.name)?.machine(*machine).freeze()?,
        Verb::Thaw { machine } => Lab::attach(&cli.name)?.machine(*machine).thaw()?,
        Verb::Poweroff { machine, orderly, write_through } => {
            let lab = Lab::attach(&cli.name)?;
            let machine = lab.machine(*machine);
            match (orderly, write_through) {
                (true, _) => machine.shutdown()?,
                (_, true) => machine.power_cut(DiskCache::WriteThrough)?,
                _ => machine.power_cut(DiskCache::Volatile)?,
            }
        }
        Verb::Boot { machine } => Lab::attach(&cli.name)?.machine(*machine).boot()?,
        Verb::Base => println!("{}", lab::base_tarball()?.display()),
        Verb::Status => status(),
    }
    Ok(ExitCode::SUCCESS)
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "not octal permission bits".to_owned())
}

fn status() {
    for name in Lab::names() {
        match Lab::attach(&name) {
            Ok(lab) => {
                for machine in MachineName::ALL.map(|machine| lab.machine(machine)) {
                    let state = if machine.is_on() { "on" } else { "off" };
                    println!("{name} {} {state} {} processes", machine.hostname(), machine.processes().len());
                }
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
}

/// Follows the shell: the command's own code, or 128 and the number of the signal that ended it.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
