//! Whether the live tree is open to whoever asks: what was open once may be closed by now, and a snapshot does not know.

use pc_switcher_contract::BytePath;
use rustix::fs::{Access, AtFlags, CWD, accessat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Whether a directory on the way is closed. What is gone is not: its rights of then count.
pub(crate) fn is_out_of_reach(path: &BytePath) -> bool {
    matches!(statat(CWD, path.as_path(), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::ACCESS))
}

/// Whether a path cannot be reached, or is somebody else's and cannot be read.
pub(crate) fn is_closed(path: &BytePath) -> bool {
    match statat(CWD, path.as_path(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(error) => error == Errno::ACCESS,
        // Who owns it may open it.
        Ok(stat) if stat.st_uid == geteuid().as_raw() => false,
        Ok(_) => {
            let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
            accessat(CWD, path.as_path(), Access::READ_OK, flags) == Err(Errno::ACCESS)
        }
    }
}
