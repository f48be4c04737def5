//! Whether a copy is what its list says: every name, all metadata, and the content by its digest.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, readlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::freeze::directory;
use super::item::{Form, Item, What, meta_with};
use super::roll::read_inventory;
use super::unpack::digest_of;
use crate::data::apply::remove::list;
use crate::data::read_through::Told;
use crate::data::seen::Seen;
use crate::data::{digest, open};
use crate::proto::{AgentError, FileTime, Meta};

/// Bytes read at once.
const STRETCH: usize = 256 << 10;

/// What is wrong with a name, or that the look is to end.
enum Wrong {
    Said(String),
    Ended,
}

impl From<Errno> for Wrong {
    fn from(error: Errno) -> Self {
        match error {
            Errno::CANCELED => Wrong::Ended,
            Errno::NOENT => Wrong::Said("is gone".into()),
            Errno::IO => Wrong::Said("cannot be read: the disk says that it is damaged".into()),
            error => Wrong::Said(format!("cannot be read: {error}")),
        }
    }
}

/// Looks at all of a copy, and tells what is wrong. Returns how many files and bytes were read.
///
/// # Errors
/// If the caller gave up.
pub(crate) fn check(
    (root, path, form): (&OwnedFd, &Path, Form),
    told: &mut Told<'_>,
    stop: &dyn Fn() -> bool,
) -> Result<(u64, u64), AgentError> {
    let (mut files, mut bytes) = (0, 0);
    let mut names: HashMap<BytePath, usize> = HashMap::new();
    let mut buffer = vec![0; STRETCH];
    let mut ended = Ok(());
    let read = read_inventory(path, |item| {
        if let Some(parent) = item.path.parent() {
            *names.entry(parent).or_default() += 1;
        }
        if item.what == What::Dir {
            names.entry(item.path.clone()).or_default();
        }
        if let What::File(size, _) = item.what {
            (files, bytes) = (files + 1, bytes + size);
        }
        match look(root, form, &item, &mut buffer, stop) {
            Ok(()) => Ok(()),
            Err(Wrong::Said(what)) => told(item.path.as_bytes(), what).map_err(|error| {
                ended = Err(error);
                io::ErrorKind::Interrupted.into()
            }),
            Err(Wrong::Ended) => {
                ended = Err(AgentError::cancelled());
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    });
    ended?;
    if let Err(error) = read {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "the list of what it holds is gone".to_owned(),
            _ => format!("the list of what it holds cannot be used: {error}"),
        };
        return told(b"", what).map(|()| (files, bytes));
    }
    for (path, known) in names {
        // What cannot be read was told already.
        let Ok(there) = directory(root, &path).and_then(list) else { continue };
        if there.len() > known {
            told(path.as_bytes(), format!("has {} names that were not kept", there.len() - known))?;
        }
    }
    Ok((files, bytes))
}

/// Whether a time is what was to be kept; old ext file systems keep whole seconds.
fn is_time(is: FileTime, wanted: FileTime) -> bool {
    is == wanted || is == FileTime { nanos: 0, ..wanted }
}

fn look(
    root: &OwnedFd,
    form: Form,
    item: &Item,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<(), Wrong> {
    if stop() {
        return Err(Wrong::Ended);
    }
    let said = |what: &str| Err(Wrong::Said(what.to_owned()));
    let fd = open::beneath(root, item.path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)?;
    let seen = Seen::of(&fd)?;
    let wanted = match item.what {
        What::Dir => FileType::Directory,
        What::File(..) | What::Link(_) => FileType::RegularFile,
        What::Symlink(_) => FileType::Symlink,
        What::Fifo => FileType::Fifo,
        What::Device(true, ..) => FileType::BlockDevice,
        What::Device(false, ..) => FileType::CharacterDevice,
    };
    if seen.file_type() != wanted {
        return said("is something else than was kept");
    }
    let mut meta = meta_with(&seen, &fd)?;
    // What the file system could not keep was said when the set was taken.
    meta.xattrs.retain(|pair| item.meta.xattrs.contains(pair));
    let has_more = meta.xattrs.len() != crate::data::xattr::Reader::new().of(&fd)?.len();
    let plain = |meta: &Meta| (meta.mode, meta.uid, meta.gid);
    if plain(&meta) != plain(&item.meta) || !is_time(meta.mtime, item.meta.mtime) || has_more {
        return said("has another owner, mode, time or attribute than was kept");
    }
    match &item.what {
        What::Symlink(target)
            if readlinkat(&fd, c"", Vec::new())? != CString::new(target.as_bytes()).unwrap_or_default() =>
        {
            said("leads elsewhere than it did")
        }
        What::Device(_, major, minor) if seen.stands_for() != (*major, *minor) => said("is another device"),
        What::File(size, right) => {
            let file = open::beneath_for_reading(root, item.path.as_bytes(), OFlags::NOFOLLOW)?;
            // Pages that are in memory already would answer for the disk.
            open::forget(&file);
            let is = match form {
                Form::Hardlink => (seen.size(), digest::content(&file, buffer, stop)?),
                Form::Archive => digest_of(&file, stop).map_err(|error| match error.raw_os_error() {
                    Some(libc::ECANCELED) => Wrong::Ended,
                    _ => Wrong::Said(format!("cannot be unpacked: {error}")),
                })?,
                Form::Volume => return Err(Errno::OPNOTSUPP.into()),
            };
            open::forget(&file);
            if is == (*size, *right) { Ok(()) } else { said("has other content than was kept") }
        }
        _ => Ok(()),
    }
}
