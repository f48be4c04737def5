//! Installs the program that runs on this machine (rulings 14).
//!
//! Order: everything is checked first, the line for sudoers by `visudo` too; then the binary, the link to it, the
//! line, the unit for the boot. Each step is atomic and an interrupted activation is completed by the next one.

mod unit;

use std::cmp::Ordering;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pc_switcher_contract::BytePath;
use semver::Version;

use super::machine::is_elevated;
use crate::proto::{ActivateRequest, Activated, AgentError};

pub use unit::Unit;

const LIB: &str = "/usr/local/lib/pc-switcher";
/// The program, under the name that stays.
pub(super) const BIN: &str = "/usr/local/bin/pc-switcher";
/// The vault by its own name.
const SHORT: &str = "/usr/local/bin/bt";
const SUDOERS_DIR: &str = "/etc/sudoers.d";
const PROGRAM: &str = "pc-switcher";

/// Name of an unfinished file or link, next to where it goes.
const UNFINISHED: &str = ".pc-switcher.new";

/// How many versions are kept.
const KEPT: usize = 2;

/// Where `visudo` may lie.
const VISUDO: [&str; 4] = ["/usr/sbin/visudo", "/usr/bin/visudo", "/sbin/visudo", "/usr/local/sbin/visudo"];

/// Words that stand for something else than a user at the start of a line of sudoers.
const WORDS: [&str; 6] = ["Defaults", "User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "Cmd_Alias"];

/// Where things are installed.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Takes what every path begins with: `/` on a machine, a folder in tests.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new("/")
    }
}

/// Installs `own`, the binary of this version, and the user's line for sudoers. Writes nothing that is in place.
///
/// # Errors
/// If a newer version is installed, the user's name or the line is no good for sudoers, or writing fails.
pub fn activate(
    places: &Places,
    request: &ActivateRequest,
    version: &str,
    own: &Path,
) -> Result<Activated, AgentError> {
    activate_checked(places, request, version, own, &visudo)
}

/// Checks a file for sudoers.
type Check<'a> = &'a dyn Fn(&Path) -> Result<(), AgentError>;

fn activate_checked(
    places: &Places,
    request: &ActivateRequest,
    version: &str,
    own: &Path,
    check: Check<'_>,
) -> Result<Activated, AgentError> {
    if parse(version).is_none() || version.contains('/') {
        return Err(AgentError::failed(format!("`{version}` is no version")));
    }
    let lib = places.at(LIB);
    refuse_downgrade(places, &lib, version)?;
    let line = match request.user.as_deref() {
        None | Some("root") => None,
        Some(user) => SudoersLine::prepare(places, user, check)?,
    };
    let mut changes = Vec::new();
    let path = lib.join(version).join(PROGRAM);
    if install_binary(&lib, &path, own)? {
        changes.push(format!("installed `{}`", path.display()));
    }
    if link(places, version)? {
        changes.push(format!("`{}` leads to version `{version}`", places.at(BIN).display()));
    }
    if link_short(places)? {
        changes.push(format!("`{}` leads to it as well", places.at(SHORT).display()));
    }
    if let Some(line) = line {
        changes.push(format!("wrote `{}`", line.path.display()));
        line.put()?;
    }
    changes.extend(unit::put(places)?);
    for old in prune(&lib, version)? {
        changes.push(format!("removed version `{old}`"));
    }
    Ok(Activated { path: BytePath::from(path.as_path()), changes })
}

fn cannot<'a>(action: &'a str, path: &'a Path) -> impl Fn(io::Error) -> AgentError + 'a {
    move |error| AgentError::io(format!("cannot {action} `{}`", path.display()), &error)
}

// Versions

/// Reads a version; numbers that are left out count as 0.
fn parse(text: &str) -> Option<Version> {
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = 2_usize.saturating_sub(numbers.matches('.').count());
    Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

/// Whether version `one` is newer than `other`: by number, not by letter; a pre-release is older than its release.
/// What is no version is never newer.
fn is_newer(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        (Some(one), Some(other)) => one.cmp_precedence(&other) == Ordering::Greater,
        _ => false,
    }
}

/// Returns the names of all version folders, newest first.
fn version_dirs(lib: &Path) -> Result<Vec<String>, AgentError> {
    let entries = match fs::read_dir(lib) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("list", lib)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot("list", lib))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().into_string().ok().filter(|_| is_dir);
        found.extend(name.and_then(|name| Some((parse(&name)?, name))));
    }
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Whether the version's binary is there; an interrupted installation leaves a folder without it.
fn is_complete(lib: &Path, version: &str) -> bool {
    lib.join(version).join(PROGRAM).is_file()
}

/// Returns the version that the stable path leads to.
fn linked(places: &Places) -> Option<String> {
    let target = fs::read_link(places.at(BIN)).ok()?;
    let inside = target.strip_prefix(LIB).ok()?;
    inside.parent()?.to_str().map(str::to_owned)
}

fn refuse_downgrade(places: &Places, lib: &Path, version: &str) -> Result<(), AgentError> {
    let installed = version_dirs(lib)?.into_iter().filter(|one| is_complete(lib, one)).chain(linked(places));
    match installed.into_iter().find(|one| is_newer(one, version)) {
        Some(newer) => Err(AgentError::failed(format!(
            "version `{newer}` is installed, which is newer than `{version}`"
        ))),
        None => Ok(()),
    }
}

/// Removes what is older than the kept versions or was never completed; returns the names.
fn prune(lib: &Path, version: &str) -> Result<Vec<String>, AgentError> {
    let (complete, broken): (Vec<_>, Vec<_>) =
        version_dirs(lib)?.into_iter().filter(|one| one != version).partition(|one| is_complete(lib, one));
    let old: Vec<String> = complete.into_iter().skip(KEPT - 1).chain(broken).collect();
    for one in &old {
        let dir = lib.join(one);
        fs::remove_dir_all(&dir).map_err(cannot("remove", &dir))?;
    }
    Ok(old)
}

// Files

/// Whether a file is a plain one with this mode, of root where we are root.
fn is_ours(path: &Path, mode: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.is_file()
            && meta.mode() & 0o7777 == mode
            && (!is_elevated() || (meta.uid(), meta.gid()) == (0, 0))
    })
}

/// Makes a folder and those above it, whatever the umask says.
fn make_dir(dir: &Path) -> Result<(), AgentError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    DirBuilder::new()
        .mode(0o755)
        .create(dir)
        .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755)))
        .map_err(cannot("make", dir))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Refuses a folder in which somebody other than root could put a program.
fn demand_own_dir(dir: &Path) -> Result<(), AgentError> {
    let meta = fs::symlink_metadata(dir).map_err(cannot("look at", dir))?;
    if meta.is_dir() && (!is_elevated() || (meta.uid() == 0 && meta.mode() & 0o022 == 0)) {
        return Ok(());
    }
    Err(AgentError::failed(format!("`{}` is no folder that only root can write to", dir.display())))
}

fn sync_dir(dir: &Path) -> Result<(), AgentError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot("sync", dir))
}

/// A file or link that goes in place by a rename, and away if it does not get there.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Takes the place of an unfinished file; one left by an interrupted activation goes away.
    fn clear(path: PathBuf) -> Result<Self, AgentError> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", &path)(error)),
            _ => Ok(Self { path }),
        }
    }

    fn write(path: PathBuf, mut content: impl Read, mode: u32) -> Result<Self, AgentError> {
        let this = Self::clear(path)?;
        let mut write = || {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&this.path)?;
            io::copy(&mut content, &mut file)?;
            file.flush()?;
            if is_elevated() {
                fchown(&file, Some(0), Some(0))?;
            }
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()
        };
        write().map_err(cannot("write", &this.path))?;
        Ok(this)
    }

    fn put(self, path: &Path) -> Result<(), AgentError> {
        fs::rename(&self.path, path).map_err(cannot("write", path))?;
        path.parent().map_or(Ok(()), sync_dir)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

fn digest(path: &Path) -> Result<blake3::Hash, AgentError> {
    let mut hasher = blake3::Hasher::new();
    File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ())).map_err(cannot("read", path))?;
    Ok(hasher.finalize())
}

/// Puts the binary in place; `false` if it was.
fn install_binary(lib: &Path, path: &Path, own: &Path) -> Result<bool, AgentError> {
    let dir = path.parent().unwrap_or(lib);
    make_dir(dir)?;
    demand_own_dir(lib)?;
    demand_own_dir(dir)?;
    let wanted = digest(own)?;
    if is_ours(path, 0o755) && digest(path)? == wanted {
        return Ok(false);
    }
    let file = File::open(own).map_err(cannot("read", own))?;
    let unfinished = Unfinished::write(dir.join(UNFINISHED), file, 0o755)?;
    if digest(&unfinished.path)? != wanted {
        return Err(AgentError::failed(format!("`{}` changed while it was copied", own.display())));
    }
    unfinished.put(path)?;
    Ok(true)
}

/// Makes the stable path lead to the version; `false` if it did.
fn link(places: &Places, version: &str) -> Result<bool, AgentError> {
    let (path, target) = (places.at(BIN), Path::new(LIB).join(version).join(PROGRAM));
    if fs::read_link(&path).is_ok_and(|old| old == target) {
        return Ok(false);
    }
    let dir = places.at("/usr/local/bin");
    make_dir(&dir)?;
    let unfinished = Unfinished::clear(dir.join(UNFINISHED))?;
    symlink(&target, &unfinished.path).map_err(cannot("write", &path))?;
    unfinished.put(&path)?;
    Ok(true)
}

/// Makes the short name, unless something has it; another program of that name stays.
fn link_short(places: &Places) -> Result<bool, AgentError> {
    let path = places.at(SHORT);
    match symlink(PROGRAM, &path) {
        Ok(()) => sync_dir(&places.at("/usr/local/bin")).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("write", &path)(error)),
    }
}

// Sudoers

/// A checked line, not yet in place.
struct SudoersLine {
    path: PathBuf,
    unfinished: Unfinished,
}

impl SudoersLine {
    /// Checks the line of a user; `None` if it is in place.
    fn prepare(places: &Places, user: &str, check: Check<'_>) -> Result<Option<Self>, AgentError> {
        if !is_user_name(user) {
            return Err(AgentError::failed(format!(
                "`{}` cannot stand in sudoers as the name of a user",
                user.escape_debug()
            )));
        }
        let line = format!("{user} ALL=(root) NOPASSWD: {BIN} agent\n");
        let dir = places.at(SUDOERS_DIR);
        let path = dir.join(sudoers_name(user));
        if is_ours(&path, 0o440) && fs::read(&path).is_ok_and(|old| old == line.as_bytes()) {
            return Ok(None);
        }
        if !dir.is_dir() {
            return Err(AgentError::failed(format!("`{}` is missing; is sudo installed?", dir.display())));
        }
        // Next to the folder: sudo does not read it there, and a rename leads into the folder.
        let unfinished = Unfinished::write(places.at("/etc").join(UNFINISHED), line.as_bytes(), 0o440)?;
        check(&unfinished.path)?;
        Ok(Some(Self { path, unfinished }))
    }

    fn put(self) -> Result<(), AgentError> {
        self.unfinished.put(&self.path)
    }
}

/// Whether a name means a user at the start of a line of sudoers: not `ALL` or another alias, not a keyword.
fn is_user_name(name: &str) -> bool {
    let body = name.strip_suffix('$').unwrap_or(name);
    let is_alias = body.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && body.starts_with(|c: char| c.is_ascii_uppercase());
    body.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !is_alias
        && !WORDS.contains(&name)
}

/// Returns the name of a user's file. Sudo leaves out files with a dot or a tilde at the end; `+` stands for them, which
/// no name holds, so that no two users share a file.
fn sudoers_name(user: &str) -> String {
    format!("{PROGRAM}-{}", user.replace(['.', '~'], "+"))
}

fn visudo(file: &Path) -> Result<(), AgentError> {
    let program = VISUDO
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .ok_or_else(|| AgentError::failed("`visudo` is missing; is sudo installed?"))?;
    let output = Command::new(program)
        .arg("-cf")
        .arg(file)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| AgentError::failed(format!("cannot start `{program}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(AgentError::failed(format!("`visudo` refuses the line for sudoers: {}", said.trim())))
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
