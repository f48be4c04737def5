//! The unit that brings a commit to its end at boot, before anybody logs in (docs/adr/0005).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Places, Unfinished, cannot, is_ours, make_dir};
use crate::proto::AgentError;

const DIR: &str = "/etc/systemd/system";
const NAME: &str = "pc-switcher-redo.service";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// Where systemd may lie; without it there is nobody to read a unit.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// The unit; `installer/install.sh` has the program print it.
pub const REDO_UNIT: &str = "\
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

/// Whether each boot starts the unit.
pub fn is_enabled() -> bool {
    Path::new(WANTS).join(NAME).is_file()
}

/// Puts the unit in place and makes each boot start it; a line per change. One that the user has masked stays masked.
pub(super) fn put(places: &Places) -> Result<Vec<String>, AgentError> {
    let (dir, path) = (places.at(DIR), places.at(DIR).join(NAME));
    let is_masked = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
    if is_masked || !dir.is_dir() || !SYSTEMD.iter().any(|program| places.at(program).exists()) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    if !is_ours(&path, 0o644) || fs::read(&path).is_ok_and(|old| old != REDO_UNIT.as_bytes()) {
        // A name that systemd does not take for a unit.
        Unfinished::write(dir.join(".pc-switcher.new"), REDO_UNIT.as_bytes(), 0o644)?.put(&path)?;
        changes.push(format!("wrote `{}`", path.display()));
    }
    let wants = places.at(WANTS);
    let (link, target) = (wants.join(NAME), Path::new("..").join(NAME));
    if fs::read_link(&link).is_ok_and(|old| old == target) {
        return Ok(changes);
    }
    make_dir(&wants)?;
    let unfinished = Unfinished::clear(wants.join(".pc-switcher.new"))?;
    symlink(&target, &unfinished.path).map_err(cannot("write", &link))?;
    unfinished.put(&link)?;
    changes.push(format!("each boot starts `{NAME}`"));
    Ok(changes)
}
