//! Saved states of the whole lab: taken in a moment, brought back in about half a second.

use super::{
    Lab,
    error::{LabError, Result},
    machine::Machine,
    pool::PRISTINE,
};

impl Lab {
    /// The state in which the machines are first booted.
    pub const PRISTINE: &str = PRISTINE;

    /// Keeps the state of both machines' disks under `name` (of `a-z0-9-`), in place of an older one of that name.
    ///
    /// Both machines must be on; they stand still for the moment. What programs hold in memory is not kept: to a
    /// restored machine this was a power cut right after a complete sync.
    pub fn snapshot(&self, name: &str) -> Result<()> {
        check_saved_name(name)?;
        self.both(|machine| machine.save(name))
    }

    /// Brings both machines back to the state `name` ([`Lab::PRISTINE`] is always there), booted anew and with everything undone that was done to cable,
    /// power or disk.
    pub fn reset(&self, name: &str) -> Result<()> {
        super::options::check_name(name)?;
        self.both(|machine| machine.restore(name))
    }

    /// Gives the host's disk back what no state of the machines holds any more; a reset alone keeps it for what comes.
    pub fn trim(&self) -> Result<()> {
        self.both(|machine| self.shared.hub.run(|| machine.pool.trim()))
    }

    /// Forgets the state `name`.
    pub fn forget_snapshot(&self, name: &str) -> Result<()> {
        check_saved_name(name)?;
        self.both(|machine| self.shared.hub.run(|| machine.pool.forget(name)))
    }
}

impl Machine {
    fn save(&self, name: &str) -> Result<()> {
        self.freeze()?;
        let saved = self.sync_disk().and_then(|()| self.shared.hub.run(|| self.pool.save(name)));
        self.thaw()?;
        saved
    }

    /// Writes everything to the machine's disk, as `sync -f /` does inside: what was done before survives a power cut.
    pub fn sync_disk(&self) -> Result<()> {
        let root = self.root_path()?;
        // The homes may have a file system of their own, in an image on this one: it goes first.
        for path in [root.join("home"), root] {
            let dir = std::fs::File::open(&path).map_err(LabError::path("open", &path))?;
            let what = format!("sync the disk of `{}`", self.hostname());
            rustix::fs::syncfs(&dir).map_err(|error| LabError::io(what)(error.into()))?;
        }
        Ok(())
    }

    /// Brings this machine alone back to the state `name` of its disk and boots it.
    pub fn restore(&self, name: &str) -> Result<()> {
        let missing = || LabError::Invalid {
            what: format!(
                "no state `{name}` was saved of `{}`: take it by `snapshot` first",
                self.hostname()
            ),
        };
        // Asked before the machine is killed; a disk that died can only tell after it is mounted anew.
        if self.shared.hub.run(|| Ok(!self.pool.is_dead() && !self.pool.has_saved(name)))? {
            return Err(missing());
        }
        self.kill_all()?;
        self.shared.hub.run(|| {
            if self.pool.is_dead() {
                self.pool.unmount().and_then(|()| self.pool.mount())?;
            }
            if self.pool.has_saved(name) { self.pool.restore(name) } else { Err(missing()) }
        })?;
        self.boot()
    }
}

fn check_saved_name(name: &str) -> Result<()> {
    if name == PRISTINE {
        return Err(LabError::Invalid { what: format!("the state `{PRISTINE}` cannot be changed") });
    }
    super::options::check_name(name)
}
