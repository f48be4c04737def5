//! Whether nothing changed between two snapshots: asked of the tree, not of the files.

use std::io;
use std::path::Path;

use super::btrfs::{Btrfs, Uuid};

/// Returns the transaction after which everything in the snapshot `to` was written that is not in `from`: both are
/// read-only, of the same subvolume, and in this order. Otherwise, and where there is no btrfs, nothing is known.
///
/// # Errors
/// If btrfs cannot be asked, for example without root.
pub fn since(btrfs: &dyn Btrfs, from: &Path, to: &Path) -> io::Result<Option<u64>> {
    let (older, newer) = match (btrfs.subvolume(from), btrfs.subvolume(to)) {
        (Ok(older), Ok(newer)) => (older, newer),
        (Err(error), _) | (_, Err(error))
            if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::ENOENT)) =>
        {
            return Ok(None);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let same_source = older.source_uuid == newer.source_uuid && older.source_uuid != Uuid::default();
    let in_order = older.readonly && newer.readonly && newer.otransid >= older.otransid;
    Ok((same_source && in_order).then_some(older.otransid))
}

/// As [`since`], but `to` may also be the live subvolume that `from` is a snapshot of: it is brought to the disk, since its tree
/// does not hold before what was done a moment ago.
///
/// # Errors
/// As [`since`].
pub fn since_in_any(btrfs: &dyn Btrfs, from: &Path, to: &Path) -> io::Result<Option<u64>> {
    if let Some(since) = since(btrfs, from, to)? {
        return Ok(Some(since));
    }
    let (Ok(older), Ok(newer)) = (btrfs.subvolume(from), btrfs.subvolume(to)) else { return Ok(None) };
    let is_of_it = older.readonly && older.source_uuid == newer.uuid && newer.uuid != Uuid::default();
    if is_of_it {
        rustix::fs::syncfs(std::fs::File::open(to)?)?;
    }
    Ok(is_of_it.then_some(older.otransid))
}

/// Whether the snapshots that two paths lie in are of the same subvolume and nothing in it changed from the first to the
/// second.
///
/// A node of a tree is written anew in the transaction that changes anything below it. So a younger snapshot that holds
/// nothing newer than the transaction in which the older one was taken holds the same; what a crash left in the log tree
/// counts too, since its replay writes nodes.
///
/// # Errors
/// As [`since`].
pub fn unchanged(btrfs: &dyn Btrfs, from: &Path, to: &Path) -> io::Result<bool> {
    match since(btrfs, from, to)? {
        Some(transid) => Ok(!btrfs.has_newer(to, transid)?),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::super::btrfs::KernelBtrfs;
    use super::super::btrfs::image::Image;
    use super::*;

    fn take(image: &Image, name: &str) -> PathBuf {
        let snapshot = image.top().join(name);
        KernelBtrfs.snapshot(&image.top().join("@home"), image.top(), OsStr::new(name)).unwrap();
        KernelBtrfs.set_readonly(&snapshot, true).unwrap();
        snapshot
    }

    /// Enough files for a tree of several leaves; a single one is written anew with every snapshot.
    fn home(image: &Image) -> PathBuf {
        image.create("@home");
        let home = image.top().join("@home");
        for number in 0..500 {
            fs::write(home.join(format!("a file with a long name, number {number}")), "x".repeat(500))
                .unwrap();
        }
        home
    }

    #[test]
    fn every_kind_of_change_is_seen_and_none_is_none() {
        let Some(image) = Image::make(256) else { return };
        let home = home(&image);
        let mut before = take(&image, "0");
        let file = home.join("a file with a long name, number 7");
        let changes: [&dyn Fn(); 8] = [
            &|| fs::write(home.join("new"), "").unwrap(),
            &|| fs::write(home.join("new"), "content").unwrap(),
            &|| fs::rename(home.join("new"), home.join("renamed")).unwrap(),
            &|| fs::remove_file(home.join("renamed")).unwrap(),
            &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(),
            &|| rustix::fs::setxattr(&file, "user.x", b"y", rustix::fs::XattrFlags::empty()).unwrap(),
            &|| fs::hard_link(&file, home.join("link")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let quiet = take(&image, &format!("quiet-{number}"));
            assert!(
                unchanged(&KernelBtrfs, &before, &quiet).unwrap(),
                "nothing happened before change {number}"
            );
            change();
            let after = take(&image, &format!("after-{number}"));
            assert!(!unchanged(&KernelBtrfs, &quiet, &after).unwrap(), "change {number} was not seen");
            assert!(!unchanged(&KernelBtrfs, &after, &quiet).unwrap(), "backwards nothing is known");
            before = after;
        }
    }

    #[test]
    fn what_is_no_pair_of_sealed_snapshots_of_one_subvolume_is_not_known() {
        let Some(image) = Image::make(256) else { return };
        let home = home(&image);
        let (one, two) = (take(&image, "1"), take(&image, "2"));
        assert!(unchanged(&KernelBtrfs, &one, &two.join("a file with a long name, number 3")).unwrap());
        assert!(!unchanged(&KernelBtrfs, &one, &home).unwrap());
        KernelBtrfs.set_readonly(&two, false).unwrap();
        assert!(!unchanged(&KernelBtrfs, &one, &two).unwrap());
        image.create("@other");
        assert!(!unchanged(&KernelBtrfs, &image.top().join("@other"), &one).unwrap());
        assert!(!unchanged(&KernelBtrfs, Path::new("/proc"), &one).unwrap());
    }
}
