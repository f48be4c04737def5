//! Files that the front puts somewhere on this machine.

use std::io::{self, Write};

use super::atomic::Pending;
use super::mounts::is_plain;
use crate::proto::{AgentError, PutFile};
use crate::server::Call;

/// Writes the uploaded bytes to a file, whole or not at all.
///
/// # Errors
/// If the path is not plain, leads through a symbolic link, or cannot be written; nothing is left then.
pub fn put_file(request: &PutFile, call: &Call) -> Result<(), AgentError> {
    let path = &request.path;
    if !is_plain(path.as_path()) {
        return Err(AgentError::protocol(format!("`{path}` is not a plain absolute path")));
    }
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ELOOP) => AgentError::failed(format!("`{path}` leads through a symbolic link")),
        _ => AgentError::io(format!("cannot write `{path}`"), &error),
    };
    let mut pending = Pending::create(path.as_path(), 0o600).map_err(failed)?;
    while let Some(bytes) = call.next_upload()? {
        pending.file.write_all(&bytes).map_err(failed)?;
    }
    pending.give(request.owner, request.mode).map_err(failed)?;
    pending.publish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn put(path: &Path, mode: u32, parts: &[&str]) -> Result<(), AgentError> {
        let uploads = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
        let (call, _wire) = Call::for_test(uploads);
        put_file(&PutFile { path: path.into(), mode, owner: None }, &call)
    }

    #[test]
    fn a_file_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let path = root.join("file");
        put(&path, 0o755, &["a long ", "text"]).unwrap();
        put(&path, 0o640, &["new"]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }

    #[test]
    fn a_link_on_the_way_is_refused_and_one_at_the_end_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        let error = put(&root.join("link/file"), 0o644, &["x"]).unwrap_err();
        assert!(error.message.contains("symbolic link"), "{error}");
        fs::write(root.join("precious"), "keep").unwrap();
        symlink("precious", root.join("end")).unwrap();
        put(&root.join("end"), 0o644, &["x"]).unwrap();
        assert_eq!(fs::read_to_string(root.join("precious")).unwrap(), "keep");
        assert!(fs::symlink_metadata(root.join("end")).unwrap().is_file());
    }

    #[test]
    fn odd_paths_are_refused_and_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        assert!(put(Path::new("relative"), 0o644, &[]).is_err());
        assert!(put(&root.join("../up"), 0o644, &[]).is_err());
        fs::create_dir_all(root.join("dir/full")).unwrap();
        assert!(put(&root.join("dir"), 0o644, &["x"]).is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }
}
