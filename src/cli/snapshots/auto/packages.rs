//! What apt says of the packages that it is about to change: pure.
//!
//! In form 3 of `DPkg::Pre-Install-Pkgs` a line `VERSION 3`, lines of its configuration, an empty line, and then a line per package
//! that begins with its name (apt.conf(5)); in form 1 the paths of the files that are installed.

use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_contract::SnapshotKind;

/// Beginnings of the names of packages that change how a machine boots.
const BOOT: [&str; 17] = [
    "amd64-microcode",
    "cryptsetup-initramfs",
    "dracut",
    "efibootmgr",
    "firmware-",
    "grub",
    "initramfs-tools",
    "intel-microcode",
    "linux-firmware",
    "linux-image",
    "linux-modules",
    "lvm2",
    "mdadm",
    "mkinitcpio",
    "shim",
    "systemd-boot",
    "u-boot",
];

/// Names in a note; more are counted.
const NAMED: usize = 5;

/// Returns the names of the packages, in apt's order, each once.
pub fn names(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let is_detailed = lines.first().is_some_and(|line| line.starts_with("VERSION "));
    let packages = match is_detailed {
        true => lines.split(|line| line.is_empty()).nth(1).unwrap_or_default(),
        false => &lines[..],
    };
    let mut names: Vec<String> = Vec::new();
    for line in packages {
        let name = match is_detailed {
            true => line.split(' ').next(),
            false => line.rsplit('/').next().and_then(|file| file.split('_').next()),
        };
        let is_name = |name: &&str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c))
        };
        if let Some(name) = name.filter(is_name)
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// Returns the kind of the set to be taken before these change, if one is wanted.
pub fn kind(names: &[String], settings: &SnapshotsConfig) -> Option<SnapshotKind> {
    let boots = |name: &String| BOOT.iter().any(|start| name.starts_with(start));
    match names.iter().any(boots) {
        true if settings.auto_boot => Some(SnapshotKind::AutoBoot),
        _ if names.is_empty() => None,
        _ => settings.auto_update.then_some(SnapshotKind::AutoUpdate),
    }
}

/// Returns what the set is for.
pub fn note(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => format!("before apt changed {named}"),
        more => format!("before apt changed {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "VERSION 3\nAPT::Architecture=amd64\nDPkg::Options::=a%20b\n\n\
        linux-image-6.12.1-amd64 - - none < 6.12.1-1 amd64 none /var/cache/apt/archives/linux-image.deb\n\
        libc6 2.36 amd64 same < 2.37 amd64 same /var/cache/apt/archives/libc6.deb\n\
        libc6 2.36 amd64 same < 2.37 amd64 same **CONFIGURE**\n\
        nano 7.2 amd64 none > - - none **REMOVE**\n";

    fn settings(auto_update: bool, auto_boot: bool) -> SnapshotsConfig {
        SnapshotsConfig { auto_update, auto_boot, ..SnapshotsConfig::default() }
    }

    #[test]
    fn packages_are_read_in_either_form_and_removed_ones_count() {
        assert_eq!(names(SAID), ["linux-image-6.12.1-amd64", "libc6", "nano"]);
        let files = "/var/cache/apt/archives/nano_7.2_amd64.deb\n/tmp/libc6_2.37_amd64.deb\n";
        assert_eq!(names(files), ["nano", "libc6"]);
        for nothing in ["", "VERSION 3\n", "VERSION 3\nA=b\n\n", "\n\n"] {
            assert_eq!(names(nothing), Vec::<String>::new(), "{nothing:?}");
        }
    }

    #[test]
    fn a_kernel_makes_it_a_set_before_a_change_of_booting() {
        let (all, plain) = (names(SAID), vec!["nano".to_owned()]);
        assert_eq!(kind(&all, &settings(true, true)), Some(SnapshotKind::AutoBoot));
        assert_eq!(kind(&all, &settings(true, false)), Some(SnapshotKind::AutoUpdate));
        assert_eq!(kind(&all, &settings(false, true)), Some(SnapshotKind::AutoBoot));
        assert_eq!(kind(&plain, &settings(false, true)), None);
        assert_eq!(kind(&plain, &settings(true, true)), Some(SnapshotKind::AutoUpdate));
        assert_eq!(kind(&[], &settings(true, true)), None);
    }

    #[test]
    fn a_note_names_a_few_packages() {
        let many: Vec<String> = (0..7).map(|n| format!("p{n}")).collect();
        assert_eq!(note(&many), "before apt changed p0, p1, p2, p3, p4 and 2 more");
        assert_eq!(note(&many[..1]), "before apt changed p0");
    }
}
