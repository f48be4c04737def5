//! The base tree of every machine: made once by mmdebstrap, kept as a tarball under a name that is a hash of its
//! recipe.
//!
//! Invariant: a file of that name is complete, since it is renamed into place.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    apt,
    error::{LabError, Result},
    place, tool,
};

const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "btrfs-progs",
    "ca-certificates",
    "cron",
    "dbus",
    "dbus-user-session",
    "debian-archive-keyring",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "jq",
    "less",
    "libcap2-bin",
    "libpam-systemd",
    "netbase",
    "openssh-client",
    "openssh-server",
    "procps",
    "psmisc",
    "rsync",
    "sqlite3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tmux",
    "util-linux",
    "zstd",
];
const EXCLUDED: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
];
const HOOK: &str = include_str!("scripts/base-hook.sh");

/// Returns the base tarball, and makes it first if the cache has none of this recipe (under a minute with a near
/// mirror).
pub fn base_tarball() -> Result<PathBuf> {
    let codename = codename()?;
    let cache = place::cache_dir();
    let tarball = cache.join(format!("base-{}.tar", recipe_hash(&codename)));
    if tarball.exists() {
        return Ok(tarball);
    }
    fs::create_dir_all(&cache).map_err(LabError::path("create", &cache))?;
    let lock_path = cache.join("base.lock");
    let lock = File::create(&lock_path).map_err(LabError::path("create", &lock_path))?;
    lock.lock().map_err(LabError::path("lock", &lock_path))?;
    if !tarball.exists() {
        let partial = cache.join(format!("base-partial-{}.tar", std::process::id()));
        let made = build(&codename, &partial);
        let placed =
            made.and_then(|()| fs::rename(&partial, &tarball).map_err(LabError::path("rename", &partial)));
        if placed.is_err() {
            // Only a leftover of the failure that is reported.
            let _ = fs::remove_file(&partial);
        }
        placed?;
    }
    Ok(tarball)
}

/// Returns a hash of everything that decides what the base tree holds.
pub(super) fn recipe_hash(codename: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [&[codename, HOOK][..], PACKAGES, EXCLUDED].concat() {
        hasher.update(part.as_bytes());
        hasher.update(b"\0");
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Returns the host's release name: the machines run the same one.
pub(crate) fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").map_err(LabError::path("read", "/etc/os-release"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| LabError::Unavailable {
            why: "/etc/os-release names no VERSION_CODENAME: the lab needs a Debian-like host".to_owned(),
        })
}

fn build(codename: &str, tarball: &Path) -> Result<()> {
    // mmdebstrap gives the new root as $1 to a hook of one word, so the script must be a file.
    let hook = tempfile::Builder::new()
        .prefix("lab-base-hook")
        .tempfile()
        .map_err(LabError::io("make a hook file"))?;
    fs::write(hook.path(), HOOK).map_err(LabError::path("write", hook.path()))?;
    let customize = format!("--customize-hook=sh {} \"$1\"", hook.path().display());
    mmdebstrap(codename, tarball, PACKAGES, &[customize])
}

/// Makes a tree of the host's release with these packages: a tarball, or a directory that is there.
pub(crate) fn mmdebstrap(codename: &str, target: &Path, packages: &[&str], options: &[String]) -> Result<()> {
    let sources = apt::host_sources(Path::new("/etc/apt"), codename);
    if sources.is_empty() {
        let why = format!("/etc/apt names no archive of `{codename}` with component main: add one");
        return Err(LabError::Unavailable { why });
    }
    // Its own mount namespace: a killed build leaves no mount behind.
    let mut command = Command::new("bash");
    command.args(["-c", "umask 022; exec \"$@\"", "base", "unshare"]);
    command.args([
        "--mount",
        "--propagation",
        "private",
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
    ]);
    command.arg(format!("--include={}", packages.join(",")));
    command.args(EXCLUDED.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    command.args(acquire_options()?.iter().map(|option| format!("--aptopt={option}")));
    command.args(options).arg(codename).arg(target).args(sources);
    tool::check(&mut command).map(drop)
}

/// Returns those settings of the host's apt without which its archives may not be reached.
fn acquire_options() -> Result<Vec<String>> {
    let dump = tool::run("apt-config", ["dump"])?;
    let wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        name.starts_with("Acquire::")
            && ["Proxy", "Check-Valid-Until", "Check-Date", "Retries"].iter().any(|part| name.contains(part))
    };
    Ok(dump.lines().filter(wanted).map(str::to_owned).collect())
}
