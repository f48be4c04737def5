//! Of which inodes of the live tree a copy was made.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use pc_switcher_contract::BytePath;

use super::item::{Item, Live, What};
use super::roll::read_inventory;
use crate::data::seen::Seen;
use crate::proto::Meta;

/// A part of a copy, by its list.
pub(crate) struct Copied(HashMap<BytePath, Known>);

/// What is known of one name.
struct Known {
    live: Live,
    meta: Meta,
    /// Of a file, but for its further names.
    size: Option<u64>,
}

impl Copied {
    /// Reads what the list of a copy has at a path and below.
    ///
    /// # Errors
    /// If there is none, or it is not whole.
    pub(crate) fn read(list: &Path, inside: &BytePath) -> io::Result<Self> {
        let mut all = HashMap::new();
        read_inventory(list, |Item { path, meta, live, what }| {
            if path.is_within(inside) {
                let size = if let What::File(size, _) = what { Some(size) } else { None };
                all.insert(path, Known { live, meta: Meta { xattrs: Vec::new(), ..meta }, size });
            }
            Ok(())
        })?;
        Ok(Self(all))
    }

    /// Whether what was copied at a path is this inode, as it was then. With `is_touched` its inode may have changed since by
    /// being renamed or losing a name.
    pub(crate) fn is_of(&self, path: &BytePath, is: &Seen, is_touched: bool) -> bool {
        self.0.get(path).is_some_and(|Known { live, meta, size }| {
            let plain = (meta.mode, meta.uid, meta.gid, meta.mtime);
            live.is_it(is)
                && size.is_none_or(|size| size == is.size())
                && plain == (is.mode(), is.uid(), is.gid(), is.mtime())
                && live.is_settled
                && (is_touched || live.ctime == is.ctime())
        })
    }
}
