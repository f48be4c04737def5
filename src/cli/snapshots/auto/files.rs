//! The files that have sets taken by themselves: pure but for [`Files::read`].

use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_installer::STABLE_PATH;

use super::boot::{self, BOOT_HOOK, BOOT_SCRIPT, BOOT_SERVICE, Protection};

/// What timer and hook work with, since root has no config of its own.
pub const CONFIG: &str = pc_switcher_agent::linux::boot::CONFIG;
/// Takes one set.
pub const SERVICE: &str = "/etc/systemd/system/pc-switcher-snapshot.service";
/// Starts [`SERVICE`].
pub const TIMER: &str = "/etc/systemd/system/pc-switcher-snapshot.timer";
/// Marks the state after a start as good.
pub const GOOD_SERVICE: &str = pc_switcher_agent::linux::boot::GOOD_SERVICE;
/// Starts [`GOOD_SERVICE`].
pub const GOOD_TIMER: &str = pc_switcher_agent::linux::boot::GOOD_TIMER;
/// Has apt start us.
pub const HOOK: &str = "/etc/apt/apt.conf.d/80pc-switcher";
/// Without it there is no apt.
pub const APT_DIR: &str = "/etc/apt/apt.conf.d";

/// Stands in every file that is ours.
pub const MARK: &str =
    "Written by `pc-switcher snapshots auto on`; `pc-switcher snapshots auto off` removes it.";

/// What stands in these files; `None` where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// [`CONFIG`].
    pub config: Option<String>,
    /// [`SERVICE`].
    pub service: Option<String>,
    /// [`TIMER`].
    pub timer: Option<String>,
    /// [`GOOD_SERVICE`].
    pub good_service: Option<String>,
    /// [`GOOD_TIMER`].
    pub good_timer: Option<String>,
    /// [`HOOK`].
    pub hook: Option<String>,
    /// [`BOOT_HOOK`].
    pub boot_hook: Option<String>,
    /// [`BOOT_SCRIPT`].
    pub boot_script: Option<String>,
    /// [`BOOT_SERVICE`].
    pub boot_service: Option<String>,
}

impl Files {
    /// Returns no file at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns what the config stands for; `tables` is its part that is copied, `after` the seconds after which a start is looked at.
    pub fn of(
        settings: &SnapshotsConfig,
        (tables, after): (&str, u64),
        has_apt: bool,
        protection: Option<&Protection<'_>>,
    ) -> Self {
        let calendar = settings.schedule.as_calendar();
        let hook = (has_apt && (settings.auto_update || settings.auto_boot)).then(hook);
        let has_good = settings.auto_good || protection.is_some();
        Self {
            config: (calendar.is_some() || hook.is_some() || has_good).then(|| format!("# {MARK}\n{tables}")),
            service: calendar.map(|_| service()),
            timer: calendar.map(timer),
            good_service: has_good.then(good_service),
            good_timer: has_good.then(|| good_timer(after)),
            hook,
            boot_hook: protection.map(|_| boot::hook()),
            boot_script: protection.map(boot::script),
            boot_service: protection.map(|protection| boot::service(protection.snapshot_dir)),
        }
    }

    /// Reads what is there on this machine.
    pub fn read() -> Self {
        let ours = |path: &str| std::fs::read_to_string(path).ok().filter(|text| is_ours(text.as_bytes()));
        Self {
            config: ours(CONFIG),
            service: ours(SERVICE),
            timer: ours(TIMER),
            good_service: ours(GOOD_SERVICE),
            good_timer: ours(GOOD_TIMER),
            hook: ours(HOOK),
            boot_hook: ours(BOOT_HOOK),
            boot_script: ours(BOOT_SCRIPT),
            boot_service: ours(BOOT_SERVICE),
        }
    }
}

/// Whether a file is one that we wrote.
pub fn is_ours(content: &[u8]) -> bool {
    let mut lines = content.split(|byte| *byte == b'\n').skip_while(|line| line.starts_with(b"#!"));
    lines.next().is_some_and(|line| line.ends_with(MARK.as_bytes()))
}

/// Returns the name of a unit by its path.
pub fn unit_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the time that a timer of ours has.
pub fn calendar_of(timer: &str) -> Option<&str> {
    timer.lines().find_map(|line| line.strip_prefix("OnCalendar="))
}

fn service() -> String {
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Take a set of snapshots\n\
         RequiresMountsFor=/usr/local/bin\n\n\
         [Service]\n\
         Type=oneshot\n\
         Environment=HOME=/root\n\
         Nice=10\n\
         ExecStart={STABLE_PATH} --config {CONFIG} snapshots auto take\n"
    )
}

fn timer(calendar: &str) -> String {
    // A machine that was off takes one set when it is on again (facts/last-known-good.md G62).
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Take sets of snapshots by the clock\n\n\
         [Timer]\n\
         OnCalendar={calendar}\n\
         Persistent=true\n\n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}

fn good_service() -> String {
    // What others say of the start counts as well (systemd's boot-complete.target).
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Look whether a start went well, and mark its state as good\n\
         RequiresMountsFor=/usr/local/bin\n\
         Requires=boot-complete.target\n\
         After=boot-complete.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         Environment=HOME=/root\n\
         Nice=10\n\
         ExecStart={STABLE_PATH} --config {CONFIG} snapshots auto booted\n"
    )
}

fn good_timer(after: u64) -> String {
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Look some time after a start whether all is well\n\n\
         [Timer]\n\
         OnBootSec={after}s\n\n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}

fn hook() -> String {
    // Whatever becomes of the set, the packages are changed. In form 3 apt names removed packages, too.
    format!(
        "// {MARK}\n\
         DPkg::Pre-Install-Pkgs {{ \"{STABLE_PATH} --config {CONFIG} snapshots auto take --packages || true\"; }};\n\
         DPkg::Tools::Options::{STABLE_PATH}::Version \"3\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(schedule: &str, auto_update: bool, auto_boot: bool) -> SnapshotsConfig {
        let schedule = schedule.to_owned().try_into().unwrap();
        SnapshotsConfig { schedule, auto_update, auto_boot, ..SnapshotsConfig::default() }
    }

    #[test]
    fn there_is_a_timer_for_a_schedule_a_hook_for_packages_and_a_config_for_either() {
        let files = Files::of(&settings("Mon..Fri 12:00", false, true), ("\n[snapshots]\n", 300), true, None);
        let timer = files.timer.as_deref().unwrap();
        assert_eq!(calendar_of(timer), Some("Mon..Fri 12:00"));
        assert!(timer.contains("\nPersistent=true\n"), "{timer}");
        assert!(files.service.as_deref().unwrap().contains(
            "ExecStart=/usr/local/bin/pc-switcher --config /etc/pc-switcher/config.toml snapshots auto take\n"
        ));
        assert!(files.hook.as_deref().unwrap().contains(" snapshots auto take --packages || true\"; };\n"));
        assert!(files.config.as_deref().unwrap().ends_with("\n[snapshots]\n"));
        for file in [&files.config, &files.service, &files.timer, &files.hook] {
            assert!(is_ours(file.as_deref().unwrap().as_bytes()));
        }
        let by_clock = Files::of(&settings("daily", false, false), ("", 300), true, None);
        assert_eq!(
            (by_clock.hook.is_some(), by_clock.timer.is_some(), by_clock.config.is_some()),
            (false, true, true)
        );
        let by_hook = Files::of(&settings("", true, false), ("", 300), true, None);
        assert_eq!(
            (by_hook.hook.is_some(), by_hook.timer.is_some(), by_hook.service.is_some()),
            (true, false, false)
        );
        assert_eq!(
            Files::of(&settings("", true, true), ("", 300), false, None),
            Files::none(),
            "no apt, no schedule"
        );
        let good = SnapshotsConfig { auto_good: true, ..settings("", false, false) };
        let by_start = Files::of(&good, ("", 300), true, None);
        assert!(by_start.good_timer.as_deref().unwrap().contains("\nOnBootSec=300s\n"));
        let service = by_start.good_service.as_deref().unwrap();
        assert!(
            service.contains("\nRequires=boot-complete.target\n") && is_ours(service.as_bytes()),
            "{service}"
        );
        assert!(service.ends_with(" snapshots auto booted\n"), "{service}");
        assert!(by_start.config.is_some() && by_start.timer.is_none() && by_start.hook.is_none());
    }

    #[test]
    fn a_file_of_somebody_else_is_not_ours() {
        assert!(!is_ours(b"[btrfs-snapshots]\n"));
        assert!(!is_ours(format!("keep = \"7d\"\n# {MARK}\n").as_bytes()));
        assert!(!is_ours(b""));
        assert!(is_ours(format!("#!/bin/sh\n# {MARK}\n").as_bytes()), "a program has another line before");
    }
}
