//! What of a machine lets people in, and who wants to know before it changes.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::ModuleError;
use crate::path::BytePath;

/// What a path is needed for; a machine that has lost it may not start, be reached or let anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// To start.
    Boot,
    /// To be reached.
    Network,
    /// To be logged in to from elsewhere.
    Ssh,
    /// To be logged in to at all.
    Login,
    /// To have the programs that it needs for all of that.
    Packages,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Area::Boot => "boot",
            Area::Network => "network",
            Area::Ssh => "ssh",
            Area::Login => "login",
            Area::Packages => "packages",
        })
    }
}

/// Is told by modules what they are about to do.
#[async_trait]
pub trait Sentinel: Send + Sync + fmt::Debug {
    /// Is told which areas a module touches on the target, before its first change there; none if it touches none.
    ///
    /// # Errors
    /// If the module must not begin.
    async fn about_to_change(&self, areas: &[Area]) -> Result<(), ModuleError>;
}

/// Places of the system, absolute.
const SYSTEM: [(&str, Area); 62] = [
    ("/boot", Area::Boot),
    ("/efi", Area::Boot),
    ("/etc/crypttab", Area::Boot),
    ("/etc/default/grub", Area::Boot),
    ("/etc/default/grub.d", Area::Boot),
    ("/etc/dracut.conf", Area::Boot),
    ("/etc/dracut.conf.d", Area::Boot),
    ("/etc/fstab", Area::Boot),
    ("/etc/grub.d", Area::Boot),
    ("/etc/initramfs-tools", Area::Boot),
    ("/etc/kernel", Area::Boot),
    ("/etc/mkinitcpio.conf", Area::Boot),
    ("/etc/modprobe.d", Area::Boot),
    ("/etc/modules", Area::Boot),
    ("/etc/modules-load.d", Area::Boot),
    ("/etc/sysctl.conf", Area::Boot),
    ("/etc/sysctl.d", Area::Boot),
    ("/etc/systemd/system", Area::Boot),
    ("/etc/systemd/system.conf", Area::Boot),
    ("/lib/modules", Area::Boot),
    ("/lib/systemd", Area::Boot),
    ("/usr/lib/modules", Area::Boot),
    ("/usr/lib/systemd", Area::Boot),
    ("/etc/NetworkManager", Area::Network),
    ("/etc/firewalld", Area::Network),
    ("/etc/hostname", Area::Network),
    ("/etc/hosts", Area::Network),
    ("/etc/hosts.allow", Area::Network),
    ("/etc/hosts.deny", Area::Network),
    ("/etc/iptables", Area::Network),
    ("/etc/netplan", Area::Network),
    ("/etc/network", Area::Network),
    ("/etc/nftables.conf", Area::Network),
    ("/etc/nsswitch.conf", Area::Network),
    ("/etc/resolv.conf", Area::Network),
    ("/etc/systemd/network", Area::Network),
    ("/etc/ufw", Area::Network),
    ("/etc/wpa_supplicant", Area::Network),
    ("/etc/ssh", Area::Ssh),
    ("/etc/bash.bashrc", Area::Login),
    ("/etc/environment", Area::Login),
    ("/etc/group", Area::Login),
    ("/etc/gshadow", Area::Login),
    ("/etc/login.defs", Area::Login),
    ("/etc/pam.conf", Area::Login),
    ("/etc/pam.d", Area::Login),
    ("/etc/passwd", Area::Login),
    ("/etc/profile", Area::Login),
    ("/etc/profile.d", Area::Login),
    ("/etc/security", Area::Login),
    ("/etc/shadow", Area::Login),
    ("/etc/shells", Area::Login),
    ("/etc/sudoers", Area::Login),
    ("/etc/sudoers.d", Area::Login),
    ("/etc/zsh", Area::Login),
    ("/etc/apt", Area::Packages),
    ("/usr/bin", Area::Packages),
    ("/usr/lib", Area::Packages),
    ("/usr/sbin", Area::Packages),
    ("/var/lib/dpkg", Area::Packages),
    ("/var/lib/pacman", Area::Packages),
    ("/var/lib/rpm", Area::Packages),
];

/// Places in a home. What ssh reads to go elsewhere (`.ssh/config`) keeps nobody out.
const HOME: [(&str, Area); 18] = [
    (".ssh/authorized_keys", Area::Ssh),
    (".ssh/authorized_keys2", Area::Ssh),
    (".ssh/environment", Area::Ssh),
    (".ssh/rc", Area::Ssh),
    (".bash_login", Area::Login),
    (".bash_profile", Area::Login),
    (".bashrc", Area::Login),
    (".config/environment.d", Area::Login),
    (".config/fish", Area::Login),
    (".cshrc", Area::Login),
    (".k5login", Area::Login),
    (".kshrc", Area::Login),
    (".pam_environment", Area::Login),
    (".profile", Area::Login),
    (".zlogin", Area::Login),
    (".zprofile", Area::Login),
    (".zshenv", Area::Login),
    (".zshrc", Area::Login),
];

/// The places that matter, on one machine.
#[derive(Debug, Clone)]
pub struct Vital(Vec<(BytePath, Area)>);

impl Vital {
    /// Knows the places of the system, and those in these homes.
    pub fn of<'a>(homes: impl IntoIterator<Item = &'a BytePath>) -> Self {
        let system = SYSTEM.iter().map(|(path, area)| (BytePath::from(*path), *area));
        let mut places: Vec<(BytePath, Area)> = system.collect();
        for home in homes {
            places.extend(HOME.iter().map(|(path, area)| (home.join(path.as_bytes()), *area)));
        }
        Self(places)
    }

    /// Leaves out what lies neither below a folder nor above it.
    #[must_use]
    pub fn near(&self, folder: &BytePath) -> Self {
        let is_near = |place: &BytePath| place.is_within(folder) || folder.is_within(place);
        Self(self.0.iter().filter(|(place, _)| is_near(place)).cloned().collect())
    }

    /// Returns what an absolute path is needed for. A change that is `with_all` moves or removes what is below the path, too.
    pub fn area(&self, path: &BytePath, with_all: bool) -> Option<Area> {
        let is_hit = |place: &BytePath| path.is_within(place) || with_all && place.is_within(path);
        self.0.iter().find(|(place, _)| is_hit(place)).map(|(_, area)| *area)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital() -> Vital {
        Vital::of(&["/home/alice".into(), "/root".into()])
    }

    #[test]
    fn what_lets_people_in_is_known_by_its_place_and_a_days_work_is_not() {
        for (path, area) in [
            ("/etc/ssh/sshd_config.d/a.conf", Area::Ssh),
            ("/root/.ssh/authorized_keys", Area::Ssh),
            ("/home/alice/.bashrc", Area::Login),
            ("/home/alice/.config/fish/config.fish", Area::Login),
            ("/etc/pam.d/sshd", Area::Login),
            ("/boot/grub/grub.cfg", Area::Boot),
            ("/etc/netplan/01.yaml", Area::Network),
            ("/var/lib/dpkg/status", Area::Packages),
        ] {
            assert_eq!(vital().area(&path.into(), false), Some(area), "{path}");
        }
        for path in [
            "/home/alice/notes/bashrc",
            "/home/alice/.ssh/config",
            "/home/alice/.ssh",
            "/home/alice",
            "/home/bob/.bashrc",
            "/home/alice/.bashrc.old",
            "/etc/hosts.old",
        ] {
            assert_eq!(vital().area(&path.into(), false), None, "{path}");
        }
    }

    #[test]
    fn what_is_moved_or_removed_takes_along_what_is_below_it() {
        for (path, area) in [
            ("/home/alice/.ssh", Area::Ssh),
            ("/home/alice/.config", Area::Login),
            ("/home/alice", Area::Ssh),
            ("/home", Area::Ssh),
            ("/etc", Area::Boot),
        ] {
            assert_eq!(vital().area(&path.into(), true), Some(area), "{path}");
        }
        assert_eq!(vital().area(&"/home/alice/notes".into(), true), None);
    }

    #[test]
    fn near_a_folder_the_same_is_found() {
        let near = vital().near(&"/home".into());
        assert!(near.0.len() < vital().0.len());
        assert_eq!(near.area(&"/home/alice/.profile".into(), false), Some(Area::Login));
        assert_eq!(near.area(&"/home/alice".into(), true), Some(Area::Ssh));
        assert_eq!(
            vital().near(&"/etc/ssh/below".into()).area(&"/etc/ssh/below/a".into(), false),
            Some(Area::Ssh)
        );
    }
}
