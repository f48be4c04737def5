//! The units of the boot: one brings a rollback to its end before anything uses what it brings along (docs/adr/0024), one a commit
//! before anybody logs in (docs/adr/0005).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Places, Unfinished, cannot, is_ours, make_dir};
use crate::proto::AgentError;

const DIR: &str = "/etc/systemd/system";

/// Where systemd may lie; without it there is nobody to read a unit.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// A unit that each boot starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Brings commits to their end, and looks after what is on trial.
    Redo,
    /// Brings rollbacks to their end.
    Rollback,
}

const REDO: &str = "\
[Unit]
Description=Bring a cut off sync of pc-switcher to its end
ConditionDirectoryNotEmpty=|/var/lib/pc-switcher/commits
ConditionPathExists=|/var/lib/pc-switcher/rollback
ConditionPathExists=|/var/lib/pc-switcher/deadman
RequiresMountsFor=/var/lib/pc-switcher /usr/local/bin
After=local-fs.target
Before=systemd-user-sessions.service

[Service]
Type=oneshot
ExecStart=/usr/local/bin/pc-switcher agent --redo
TimeoutStartSec=15min

[Install]
WantedBy=multi-user.target
";

/// Before `sysinit.target`, so before every ordinary service, and before what makes missing directories.
const ROLLBACK: &str = "\
[Unit]
Description=Bring a rollback of pc-switcher to its end
DefaultDependencies=no
ConditionPathExists=/var/lib/pc-switcher/rollback
After=local-fs.target
Before=systemd-journal-flush.service systemd-tmpfiles-setup.service sysinit.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=/usr/local/bin/pc-switcher agent --redo-rollback
TimeoutStartSec=5min

[Install]
WantedBy=sysinit.target
";

impl Unit {
    /// All of them; `installer/install.sh` has the program print each.
    pub const ALL: [Unit; 2] = [Unit::Redo, Unit::Rollback];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Redo => "pc-switcher-redo.service",
            Unit::Rollback => "pc-switcher-rollback.service",
        }
    }

    /// Returns what it says.
    pub fn text(self) -> &'static str {
        match self {
            Unit::Redo => REDO,
            Unit::Rollback => ROLLBACK,
        }
    }

    /// Returns the directory of those that are started with it.
    fn wants(self) -> &'static str {
        match self {
            Unit::Redo => "/etc/systemd/system/multi-user.target.wants",
            Unit::Rollback => "/etc/systemd/system/sysinit.target.wants",
        }
    }

    /// Whether each boot starts it.
    pub fn is_enabled(self) -> bool {
        Path::new(self.wants()).join(self.name()).is_file()
    }
}

/// Puts the units in place and makes each boot start them; a line per change. One that the user has masked stays masked.
pub(super) fn put(places: &Places) -> Result<Vec<String>, AgentError> {
    let mut changes = Vec::new();
    for unit in Unit::ALL {
        changes.extend(put_one(unit, places)?);
    }
    Ok(changes)
}

fn put_one(unit: Unit, places: &Places) -> Result<Vec<String>, AgentError> {
    let name = unit.name();
    let (dir, path) = (places.at(DIR), places.at(DIR).join(name));
    let is_masked = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
    if is_masked || !dir.is_dir() || !SYSTEMD.iter().any(|program| places.at(program).exists()) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    if !is_ours(&path, 0o644) || fs::read(&path).is_ok_and(|old| old != unit.text().as_bytes()) {
        // A name that systemd does not take for a unit.
        Unfinished::write(dir.join(".pc-switcher.new"), unit.text().as_bytes(), 0o644)?.put(&path)?;
        changes.push(format!("wrote `{}`", path.display()));
    }
    let wants = places.at(unit.wants());
    let (link, target) = (wants.join(name), Path::new("..").join(name));
    if fs::read_link(&link).is_ok_and(|old| old == target) {
        return Ok(changes);
    }
    make_dir(&wants)?;
    let unfinished = Unfinished::clear(wants.join(".pc-switcher.new"))?;
    symlink(&target, &unfinished.path).map_err(cannot("write", &link))?;
    unfinished.put(&link)?;
    changes.push(format!("each boot starts `{name}`"));
    Ok(changes)
}
