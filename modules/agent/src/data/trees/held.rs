//! What removing copies would free.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::freeze::directory;
use crate::data::apply::remove::list;
use crate::data::seen::Seen;

/// Returns the bytes on the disk of files that no copy but these has, and of their directories.
///
/// # Errors
/// If one cannot be read, or [`Errno::CANCELED`].
pub(crate) fn only_held(roots: &[OwnedFd], stop: &dyn Fn() -> bool) -> Result<u64, Errno> {
    // Names that files have here, of those that they have.
    let mut names: HashMap<(u64, u64), (u32, u32)> = HashMap::new();
    let mut held = 0;
    for root in roots {
        let mut todo = vec![BytePath::default()];
        while let Some(at) = todo.pop() {
            if stop() {
                return Err(Errno::CANCELED);
            }
            let dir = directory(root, &at)?;
            held += Seen::of(&dir)?.allocated();
            for (name, kind) in list(&dir)? {
                if kind == FileType::Directory {
                    todo.push(at.join(name.to_bytes()));
                    continue;
                }
                let seen = Seen::at(&dir, &name)?;
                let known = names.entry((seen.device(), seen.ino())).or_insert((0, seen.nlink()));
                known.0 += 1;
                if known.0 == known.1 {
                    held += seen.allocated();
                }
            }
        }
    }
    Ok(held)
}
