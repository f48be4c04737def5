//! The shell scripts of guardian, hub and boot, written into the run directory so that process lists stay readable.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::error::{LabError, Result};

/// Paths of the scripts of a running lab.
pub(super) struct Scripts {
    pub(super) guardian: PathBuf,
    pub(super) hub: PathBuf,
    pub(super) launch: PathBuf,
    pub(super) boot: PathBuf,
    pub(super) tiny_init: PathBuf,
}

impl Scripts {
    /// Names the scripts in a run directory.
    pub(super) fn at(run: &Path) -> Self {
        let script = |name: &str| run.join("scripts").join(name);
        Self {
            guardian: script("guardian.sh"),
            hub: script("hub.sh"),
            launch: script("launch.sh"),
            boot: script("boot.sh"),
            tiny_init: script("tiny-init.sh"),
        }
    }

    /// Writes the scripts into a run directory.
    pub(super) fn write(run: &Path) -> Result<Self> {
        let scripts = Self::at(run);
        let dir = run.join("scripts");
        fs::create_dir_all(&dir).map_err(LabError::path("create", &dir))?;
        for (path, text) in [
            (&scripts.guardian, include_str!("scripts/guardian.sh")),
            (&scripts.hub, include_str!("scripts/hub.sh")),
            (&scripts.launch, include_str!("scripts/launch.sh")),
            (&scripts.boot, include_str!("scripts/boot.sh")),
            (&scripts.tiny_init, include_str!("scripts/tiny-init.sh")),
        ] {
            fs::write(path, text).map_err(LabError::path("write", path))?;
        }
        Ok(scripts)
    }
}
