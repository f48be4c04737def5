//! Boot protection as files: what the initramfs takes in, and the unit that takes starts off the count. Pure.

use pc_switcher_agent::linux::boot::{ASKED, Early, START_ANEW};
use pc_switcher_agent::proto::BootLook;
use pc_switcher_contract::{BytePath, SubvolumeName};
use pc_switcher_installer::STABLE_PATH;

use super::files::MARK;
use crate::config::BootConfig;

/// Takes in the program.
pub const BOOT_HOOK: &str = "/etc/initramfs-tools/hooks/pc-switcher";
/// Has it count a start before the root is mounted.
pub const BOOT_SCRIPT: &str = "/etc/initramfs-tools/scripts/local-premount/pc-switcher";
/// Takes a start off the count that somebody ended in order.
pub const BOOT_SERVICE: &str = pc_switcher_agent::linux::boot::UNIT;

/// Where the program is in the initramfs.
const EARLY_PATH: &str = "/usr/lib/pc-switcher/pc-switcher";

/// What boot protection stands for on a machine.
pub struct Protection<'a> {
    /// What the config says.
    pub config: &'a BootConfig,
    /// Where snapshots lie.
    pub snapshot_dir: &'a BytePath,
    /// How the machine lies.
    pub look: &'a BootLook,
}

/// Returns the hook. Whatever is missing, an initramfs is made.
pub fn hook() -> String {
    format!(
        "#!/bin/sh\n\
         # {MARK}\n\
         PREREQ=\"\"\n\
         case \"$1\" in prereqs) echo \"$PREREQ\"; exit 0 ;; esac\n\
         [ -x {STABLE_PATH} ] || exit 0\n\
         . /usr/share/initramfs-tools/hook-functions\n\
         manual_add_modules btrfs\n\
         copy_exec \"$(readlink -f {STABLE_PATH})\" {EARLY_PATH} || exit 0\n"
    )
}

/// Returns the script. It runs after a machine that slept on the disk has been woken: nothing may be mounted before that. The disk of
/// the root may not be there yet then, so it waits for it as what mounts the root does. Whatever happens, the start goes on.
pub fn script(protection: &Protection<'_>) -> String {
    let Protection { config, snapshot_dir, look } = protection;
    // Other signs than plain ones were refused when it was looked at.
    let args: Vec<String> = Early::fixed_args(config.max_failed_boots, snapshot_dir, look)
        .into_iter()
        .map(|arg| format!("'{arg}'"))
        .collect();
    format!(
        "#!/bin/sh\n\
         # {MARK}\n\
         PREREQ=\"resume btrfs\"\n\
         case \"$1\" in prereqs) echo \"$PREREQ\"; exit 0 ;; esac\n\
         [ -x {EARLY_PATH} ] || exit 0\n\
         . /scripts/functions\n\
         . /scripts/local\n\
         # Whoever waits for the root in vain is asked later.\n\
         panic() {{ exit 0; }}\n\
         local_device_setup \"$ROOT\" \"root file system\"\n\
         [ -n \"$DEV\" ] || exit 0\n\
         {EARLY_PATH} agent --before-root=\"$DEV\" --options=\"$ROOTFLAGS\" \\\n\
         \x20 --command-line=\"$(cat /proc/cmdline)\" --boot-id=\"$(cat /proc/sys/kernel/random/boot_id)\" \\\n\
         \x20 --console=/dev/console \\\n\
         \x20 {} 2>&1 </dev/null |\n\
         while read -r line; do\n\
         \x20 # Behind a splash screen nobody reads, and what is typed goes there.\n\
         \x20 case \"$line\" in \"{ASKED}\"*) ! command -v plymouth >/dev/null || plymouth quit & ;; esac\n\
         \x20 echo \"pc-switcher: $line\"\n\
         \x20 echo \"<4>pc-switcher: $line\" >/dev/kmsg\n\
         \x20 [ \"$line\" != \"{START_ANEW}\" ] || reboot -f\n\
         done\n\
         exit 0\n",
        args.join(" ")
    )
}

/// Returns the unit.
pub fn service(snapshot_dir: &BytePath) -> String {
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Do not count a start that somebody ends in order as one that failed\n\
         RequiresMountsFor=/usr/local/bin {snapshot_dir}\n\
         Requires=boot-complete.target\n\
         After=boot-complete.target multi-user.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/bin/true\n\
         ExecStop=-{STABLE_PATH} agent --boot-left {snapshot_dir}\n\
         TimeoutStopSec=30s\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// Returns where the starts are counted that a unit of ours takes off the count.
pub fn counted_in(service: &str) -> Option<&str> {
    service
        .lines()
        .find_map(|line| line.strip_prefix("ExecStop=")?.split_once(" --boot-left "))
        .map(|(_, dir)| dir)
}

/// Says what it would do on this machine, and what would keep it from that.
pub fn plan(protection: &Protection<'_>) -> Vec<String> {
    let BootConfig { max_failed_boots, healthy_after, .. } = protection.config;
    let when = format!(
        "after {max_failed_boots} starts in a row that are not found healthy {} after they began",
        String::from(healthy_after.clone())
    );
    let mut said = vec![match &protection.look.to {
        Some((set, subvolumes)) => {
            format!("{when}, the next one would put {} back to set {set}", names(subvolumes))
        }
        None => format!("{when}, the next one would put back what is marked as good then"),
    }];
    said.extend(
        protection.look.problems.iter().map(|problem| format!("as it stands it would not: {problem}")),
    );
    said
}

fn names(names: &[SubvolumeName]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::snapshots::auto::files::is_ours;
    use pc_switcher_agent::proto::BootTree;

    fn look() -> BootLook {
        let tree = |name: &str, point: &str| BootTree { name: name.parse().unwrap(), point: point.into() };
        BootLook {
            trees: vec![tree("@", "/"), tree("@snapshots", "/.snapshots")],
            boot_apart: true,
            ..BootLook::default()
        }
    }

    fn sh_reads(script: &str) {
        let checked = std::process::Command::new("sh").args(["-n", "-c", script]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    #[test]
    fn what_the_initramfs_takes_in_is_ours_names_all_trees_and_never_ends_the_start() {
        let (config, dir) = (BootConfig::default(), BytePath::from("/.snapshots"));
        let script = script(&Protection { config: &config, snapshot_dir: &dir, look: &look() });
        assert!(script.contains("'--limit=3' '--snapshot-dir=/.snapshots' '--tree=@=/' '--tree=@snapshots=/.snapshots' '--boot-apart'"), "{script}");
        assert!(script.contains("--console=/dev/console \\\n"), "{script}");
        assert!(script.ends_with("\nexit 0\n") && script.contains("PREREQ=\"resume btrfs\""), "{script}");
        for text in [script.as_str(), &hook()] {
            assert!(is_ours(text.as_bytes()), "{text}");
            sh_reads(text);
        }
        assert!(is_ours(service(&dir).as_bytes()));
        assert_eq!(counted_in(&service(&dir)), Some("/.snapshots"));
    }

    #[test]
    fn a_plan_says_when_where_and_what_stands_in_the_way() {
        let (config, dir) = (BootConfig::default(), BytePath::from("/.snapshots"));
        let mut look = look();
        look.problems = vec!["a swap file is in use".into()];
        look.to = Some(("20251115T120000Z-0a1b2c3d-autoboot".parse().unwrap(), vec!["@".parse().unwrap()]));
        let said = plan(&Protection { config: &config, snapshot_dir: &dir, look: &look });
        assert!(
            said[0].contains("after 3 starts in a row that are not found healthy 5min after they began"),
            "{said:?}"
        );
        assert!(said[0].contains("put `@` back to set 20251115T120000Z-0a1b2c3d-autoboot"), "{said:?}");
        assert_eq!(said[1], "as it stands it would not: a swap file is in use");
    }
}
