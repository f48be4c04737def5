//! Who holds files open for writing (facts/mirror.md M30).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pc_switcher_contract::BytePath;

use super::processes;
use crate::proto::Writer;

/// Looks through the descriptors of all processes but our own. What ends meanwhile is left out.
pub fn writers(folders: &[BytePath]) -> Vec<Writer> {
    let own = std::process::id();
    let mut found = Vec::new();
    for process in processes::all() {
        let Ok(pid) = u32::try_from(process.pid) else { continue };
        if pid != own {
            found.extend(of_process(pid, folders));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn of_process(pid: u32, folders: &[BytePath]) -> Vec<Writer> {
    let dir = Path::new("/proc").join(pid.to_string());
    let Ok(descriptors) = fs::read_dir(dir.join("fd")) else { return Vec::new() };
    let mut found = Vec::new();
    for descriptor in descriptors.flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else { continue };
        let path = BytePath::from(target.as_path());
        let is_concerned = folders.iter().any(|folder| path.is_within(folder));
        // A deleted file has a mark behind its name and is nobody's loss.
        if !is_concerned || target.as_os_str().as_bytes().ends_with(b" (deleted)") || !target.is_file() {
            continue;
        }
        if is_for_writing(&dir, &descriptor.file_name()) {
            let program = fs::read_to_string(dir.join("comm")).unwrap_or_default().trim_end().to_owned();
            let Ok(meta) = fs::metadata(&dir) else { return found };
            found.push(Writer { path, program, pid, uid: meta.uid() });
        }
    }
    found
}

/// Reads the access mode from `/proc/PID/fdinfo/FD`.
fn is_for_writing(process: &Path, descriptor: &OsStr) -> bool {
    let info = fs::read_to_string(process.join("fdinfo").join(descriptor)).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_writer_is_named_with_its_file_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["written", "read"] {
            fs::write(root.join(name), "").unwrap();
        }
        let start = |stdin: Stdio, stdout: Stdio| {
            Command::new("sleep").arg("60").stdin(stdin).stdout(stdout).spawn().unwrap()
        };
        let write = fs::File::options().append(true).open(root.join("written")).unwrap();
        let mut writer = start(Stdio::null(), write.into());
        let mut reader = start(fs::File::open(root.join("read")).unwrap().into(), Stdio::null());
        let found = writers(&[BytePath::from(root.as_path())]);
        for child in [&mut writer, &mut reader] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, BytePath::from(root.join("written").as_path()));
        assert_eq!((found[0].program.as_str(), found[0].pid), ("sleep", writer.id()));
        assert_eq!(writers(&[BytePath::from("/nowhere")]), []);
    }
}
