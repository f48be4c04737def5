//! Modes, owners, times, extended attributes and the flags of `chattr`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt, lchown},
    path::Path,
};

use pc_switcher_testkit::seed::Random;
use rustix::fs::{
    AtFlags, CWD, IFlags, Timespec, Timestamps, XattrFlags, ioctl_getflags, ioctl_setflags, lremovexattr,
    lsetxattr, utimensat,
};

use super::{
    changes::{Done, said},
    pick::{Picked, one_of},
};

pub fn attributes(picked: &Picked, random: &mut Random) -> Done {
    let path = match random.below(4) {
        0 => one_of(random, &picked.dirs)?,
        _ => one_of(random, &picked.all)?,
    };
    let (is_link, is_dir) = (path.is_symlink(), path.is_dir());
    let number = random.below(1 << 32);
    let set = |kind: &'static str, name: &str, value: &[u8]| {
        said(kind, name, &[&path], lsetxattr(&path, name, value, XattrFlags::empty()).map_err(Into::into))
    };
    match random.below(11) {
        0 if !is_link => {
            let mode = one_of(random, &[0o644, 0o600, 0o755, 0o000, 0o444])?;
            let done = fs::set_permissions(&path, PermissionsExt::from_mode(mode));
            said("chmod", &format!("{mode:o}"), &[&path], done)
        }
        1 if !is_link => {
            let mode = one_of(random, &[0o4755, 0o2750, 0o1777, 0o6711])?;
            let done = fs::set_permissions(&path, PermissionsExt::from_mode(mode));
            said("chmod with setuid, setgid or sticky", &format!("{mode:o}"), &[&path], done)
        }
        2 => {
            let owner = one_of(random, &[0, 1000, 1001, 54_321])?;
            said("chown", &owner.to_string(), &[&path], lchown(&path, Some(owner), Some(owner / 2)))
        }
        3 | 4 => {
            let seconds = one_of(random, &[-1, 0, 1_600_000_000, 4_000_000_000])? + i64::from(number as u16);
            let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(number as u32 % 1_000_000_000) };
            let times = Timestamps { last_access: time, last_modification: time };
            let done = utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into);
            let kind = if is_dir && !is_link { "touch a directory" } else { "touch" };
            said(kind, &seconds.to_string(), &[&path], done)
        }
        5 if !is_link => {
            set("set an attribute", &format!("user.n{}", number % 3), &random.bytes((number % 300) as usize))
        }
        6 => {
            let done = lremovexattr(&path, format!("user.n{}", number % 3)).map_err(Into::into);
            said("remove an attribute", "", &[&path], done)
        }
        7 if is_dir && !is_link => set("set a default ACL", "system.posix_acl_default", &acl(number)),
        7 if path.is_file() && !is_link => {
            set("set capabilities", "security.capability", &capabilities(number))
        }
        8 if !is_link => set("set an ACL", "system.posix_acl_access", &acl(number)),
        _ if is_dir || path.is_file() && !is_link => {
            let (name, flag) = one_of(
                random,
                &[
                    ("+A", IFlags::NOATIME),
                    ("+d", IFlags::NODUMP),
                    ("+S", IFlags::SYNC),
                    ("+C", IFlags::NOCOW),
                ],
            )?;
            said("chattr", name, &[&path], flag_with(&path, |flags| flags ^ flag))
        }
        _ => None,
    }
}

/// Changes the flags of a file.
pub fn flag_with(path: &Path, change: impl FnOnce(IFlags) -> IFlags) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = ioctl_getflags(&file)?;
    Ok(ioctl_setflags(&file, change(flags))?)
}

/// The right to bind low ports, as the kernel takes it (capabilities(7), revision 2).
fn capabilities(number: u64) -> Vec<u8> {
    let words = [0x0200_0000, 1 << (10 + number % 3), 0, 0, 0_u32];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// One named user beside the owner, as the kernel takes it (acl(5)).
fn acl(number: u64) -> Vec<u8> {
    let rights = (number % 8) as u16;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 6, u32::MAX), (2, rights, 1001), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}
