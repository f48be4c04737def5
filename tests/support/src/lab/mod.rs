//! The two-machine lab: `laptop` and `desk`, two btrfs machines with sshd on one Linux host, for whoever has root.
//!
//! A machine is a set of namespaces with a disk of its own (file, loop, XFS with reflinks, image, loop, btrfs), an
//! init, an sshd and a cable to the other one. Tests treat it as a PC: log in over ssh, pull its plug, fill its disk.
//!
//! Invariants: nothing of a lab is visible in the host's mount table or network; nothing of it outlives its owner,
//! not even by SIGKILL (a guardian removes it); no process of a machine has a capability that reaches the host's
//! clock, modules or raw I/O. A machine's root is still the host's root in most other ways: this is a test lab, no
//! security boundary.

mod apt;
pub(crate) mod base;
mod cmd;
mod disk;
mod enter;
pub(crate) mod error;
mod files;
mod guardian;
mod held;
mod hub;
mod loops;
mod machine;
mod net;
mod options;
pub(crate) mod place;
mod poll;
mod pool;
mod power;
mod processes;
mod provision;
mod pty;
mod requirements;
mod reset;
mod running;
mod scripts;
mod shared;
mod talk;
pub(crate) mod tool;
mod usage;
mod users;
mod wire;

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

pub use self::{
    base::base_tarball,
    cmd::{Cmd, Output},
    error::{LabError, Result},
    machine::Machine,
    net::CableCut,
    options::{HomeDisk, Init, LabOptions, MachineName, SnapshotDir, Sudo},
    place::cache_dir,
    power::DiskCache,
    processes::Process,
    pty::{CTRL_BACKSLASH, CTRL_C, CTRL_D, Terminal},
    requirements::require_lab,
    running::Running,
    shared::{SharedLab, SharedLabGuard},
    talk::Talk,
    usage::{Memory, Usage},
    wire::Wire,
};
use self::{guardian::Guardian, hub::Hub, place::Place, provision::Identities};

/// What both machines of a lab share.
#[derive(Debug)]
struct Shared {
    place: Place,
    options: LabOptions,
    hub: Hub,
}

/// A running pair of machines. Dropping the owner's handle removes the lab, unless it was started detached.
#[derive(Debug)]
pub struct Lab {
    laptop: Machine,
    desk: Machine,
    shared: Arc<Shared>,
    guardian: Option<Mutex<Guardian>>,
}

impl Lab {
    /// Starts both machines from their pristine disks and waits until they take logins.
    ///
    /// The first time, the base tree and the disks are made and kept in the cache (`PC_SWITCHER_LAB_CACHE`).
    pub fn up(options: LabOptions) -> Result<Self> {
        options.check()?;
        requirements::check()?;
        let base = base::base_tarball()?;
        let place = Place::of(&options.name)?;
        let (guardian, hub) = Guardian::start(&place, options.lock_wait, options.is_detached)?;
        let is_detached = options.is_detached;
        let mut lab = Self::assemble(Shared { place, options, hub });
        // From here on every failure takes the lab down again.
        lab.guardian = Some(Mutex::new(guardian));
        lab.write_options()?;
        lab.prepare_disks(&base)?;
        lab.both(Machine::boot)?;
        if is_detached {
            lab.guardian = None;
        }
        Ok(lab)
    }

    /// Opens a lab that another process started; dropping this handle leaves it running.
    pub fn attach(name: &str) -> Result<Self> {
        options::check_name(name)?;
        let place = Place::of(name)?;
        let not_up = || LabError::NotUp { name: name.to_owned() };
        let hub = Hub::open(&place.hub_pid(), &place.cgroup).ok_or_else(not_up)?;
        let text = fs::read(place.options()).map_err(LabError::path("read", place.options()))?;
        let options = serde_json::from_slice(&text)
            .map_err(|error| LabError::path("read", place.options())(error.into()))?;
        Ok(Self::assemble(Shared { place, options, hub }))
    }

    /// Ends the lab `name`, whoever started it, and removes all that is left of it; does nothing if there is none.
    pub fn down_by_name(name: &str) -> Result<()> {
        options::check_name(name)?;
        guardian::end_from_outside(&Place::of(name)?)
    }

    /// Ends the lab `name` like [`Lab::down_by_name`] and forgets its disks too: the next [`Lab::up`] makes new ones.
    pub fn purge_by_name(name: &str) -> Result<()> {
        Self::down_by_name(name)?;
        let pools = Place::of(name)?.pools();
        match fs::remove_dir_all(&pools) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LabError::path("remove", pools)(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns the names of all labs that run or left something behind.
    pub fn names() -> Vec<String> {
        place::known_labs()
    }

    /// Ends the lab and waits until nothing is left of it. The disks stay in the cache for the next [`Lab::up`].
    pub fn down(mut self) -> Result<()> {
        match self.guardian.take() {
            Some(guardian) => {
                guardian.into_inner().unwrap_or_else(PoisonError::into_inner).end(&self.shared.place)
            }
            None => guardian::end_from_outside(&self.shared.place),
        }
    }

    /// Returns the machine that tests mostly start from.
    pub fn laptop(&self) -> &Machine {
        &self.laptop
    }

    /// Returns the other machine, also called `target-host`.
    pub fn desk(&self) -> &Machine {
        &self.desk
    }

    /// Returns the machine of this name.
    pub fn machine(&self, name: MachineName) -> &Machine {
        match name {
            MachineName::Laptop => &self.laptop,
            MachineName::Desk => &self.desk,
        }
    }

    /// Returns the options it was started with.
    pub fn options(&self) -> &LabOptions {
        &self.shared.options
    }

    fn assemble(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let [laptop, desk] = MachineName::ALL.map(|name| Machine::new(name, Arc::clone(&shared)));
        Self { laptop, desk, shared, guardian: None }
    }

    fn write_options(&self) -> Result<()> {
        let path = self.shared.place.options();
        let text = serde_json::to_vec(&self.shared.options)
            .map_err(|error| LabError::path("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(LabError::path("write", &path))
    }

    /// Mounts both pools with a pristine image put in place; makes them first when the recipe is another one.
    fn prepare_disks(&self, base: &std::path::Path) -> Result<()> {
        let pools = self.shared.place.pools();
        fs::create_dir_all(&pools).map_err(LabError::path("create", &pools))?;
        let key = pools.join("recipe");
        let recipe = pool::recipe(&self.shared.options)?;
        let reuse = |machine: &Machine| {
            self.shared.hub.run(|| machine.pool.mount().and_then(|()| machine.pool.restore_pristine()))
        };
        // A pool that a crash of the host has broken is made anew.
        if fs::read_to_string(&key).is_ok_and(|text| text == recipe) && self.both(reuse).is_ok() {
            return Ok(());
        }
        // Written last, so that a half-made pool is made again.
        let _ = fs::remove_file(&key);
        let identities = Identities::create(&pools.join("keys"))?;
        self.both(|machine| {
            self.shared.hub.run(|| {
                machine.pool.create()?;
                machine.pool.make_pristine(&self.shared.options, base, &identities)?;
                machine.pool.restore_pristine()
            })
        })?;
        fs::write(&key, recipe).map_err(LabError::path("write", &key))
    }

    /// Does the same to both machines at once.
    fn both(&self, work: impl Fn(&Machine) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let laptop = scope.spawn(|| work(&self.laptop));
            let desk = work(&self.desk);
            match laptop.join() {
                Ok(laptop) => laptop.and(desk),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            // A test that ends by panic must not panic again; the guardian removes the lab in any case.
            let _ = guardian.into_inner().unwrap_or_else(PoisonError::into_inner).end(&self.shared.place);
        }
    }
}
