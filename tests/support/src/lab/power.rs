//! Power and sleep: plug pulled, lid closed.

use std::{fs, time::Duration};

use super::{
    error::{LabError, Result},
    machine::Machine,
    poll::wait_for,
    tool,
};

/// What survives a power cut, beside all that was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCache {
    /// Nothing: the disk loses its own cache, and with it what was written but never flushed.
    Volatile,
    /// What the kernel had sent to the disk; only the page cache is lost.
    WriteThrough,
}

const FREEZE_LIMIT: Duration = Duration::from_secs(20);

impl Machine {
    /// Cuts the power: no process and no packet gets a last word, and the machine is off until [`Machine::boot`].
    ///
    /// Even a directory made a second before is gone: [`Machine::sync_disk`] what a test wants to find.
    pub fn power_cut(&self, cache: DiskCache) -> Result<()> {
        self.door()?;
        match cache {
            DiskCache::Volatile => {
                // The cable first, so that no end of a connection and no error message gets out.
                self.remove_port()?;
                self.shared.hub.run(|| self.pool.shut_down())?;
                self.kill_all()?;
                self.shared.hub.run(|| self.pool.unmount().and_then(|()| self.pool.mount()))
            }
            DiskCache::WriteThrough => {
                self.remove_port()?;
                self.freeze()?;
                self.shared.hub.run(|| self.pool.save(CUT))?;
                self.kill_all()?;
                self.shared.hub.run(|| self.pool.restore(CUT).and_then(|()| self.pool.forget(CUT)))
            }
        }
    }

    /// Runs a script of the host at the top level of this machine's btrfs while the machine is off, and returns what it prints. The
    /// file system replays its log, as at a boot.
    pub fn look_while_off(&self, script: &str) -> Result<String> {
        if self.is_on() {
            return Err(LabError::Invalid { what: format!("`{}` is on", self.hostname()) });
        }
        self.shared.hub.run(|| self.pool.look(script))
    }

    /// Stops every process of the machine where it is, like a closed lid; the cable stays plugged.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets a frozen machine go on; its clock has jumped.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        self.door()?;
        let cgroup = self.shared.place.machine_cgroup(self.name);
        let file = cgroup.join("cgroup.freeze");
        fs::write(&file, if frozen { "1" } else { "0" }).map_err(LabError::path("write", &file))?;
        let wanted = format!("frozen {}", u8::from(frozen));
        let what = format!("`{wanted}` of machine `{}`", self.hostname());
        wait_for(&what, FREEZE_LIMIT, || {
            let events = cgroup.join("cgroup.events");
            let text = fs::read_to_string(&events).map_err(LabError::path("read", &events))?;
            Ok(text.lines().any(|line| line == wanted).then_some(()))
        })
    }

    fn remove_port(&self) -> Result<()> {
        self.shared.hub.run(|| tool::run("ip", ["link", "del", self.hostname()]).map(drop))
    }
}

/// Name of the passing copy of a disk whose power is cut; no name that [`super::Lab::snapshot`] takes.
const CUT: &str = "CUT";
