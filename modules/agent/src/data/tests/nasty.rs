//! A small tree with everything that is easily lost.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags, lsetxattr, setxattr, utimensat,
};

use super::drive::{is_root, sh};

pub fn set_mtime(path: &Path, seconds: i64, nanos: u32) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes the tree in an existing directory.
pub fn make(root: &Path) {
    let at = |name: &str| root.join(name);
    let deep = (0..60).map(|n| format!("level-{n}/")).collect::<String>();
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join("leaf"), "down here").unwrap();
    fs::create_dir_all(at("docs/inner")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("docs/plain"), "hello").unwrap();
    fs::write(at("docs/nothing"), "").unwrap();
    fs::write(at("docs/large"), vec![7; 3_000_000]).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"docs/\xff\xfe bad\nname\x1b")), "bytes").unwrap();
    let mut sparse = fs::File::create(at("docs/sparse")).unwrap();
    sparse.write_all(b"head").unwrap();
    sparse.seek(SeekFrom::Start(2 << 20)).unwrap();
    sparse.write_all(&[0; 512]).unwrap();
    sparse.set_len(9 << 20).unwrap();
    fs::hard_link(at("docs/plain"), at("other/second")).unwrap();
    fs::hard_link(at("docs/plain"), at("third")).unwrap();
    symlink("/no/where/at all", at("dangling")).unwrap();
    symlink("docs", at("other/to-docs")).unwrap();
    fs::write(at("suid"), "#!").unwrap();
    assert!(sh("mkfifo", &[at("docs/pipe").to_str().unwrap()]));
    // Not every file system takes all of these; what one side has, the other must have.
    let _ = setxattr(at("docs/plain"), "user.note", b"\0binary\xff", XattrFlags::empty());
    let _ = setxattr(at("empty"), "user.dir", b"on a directory", XattrFlags::empty());
    if is_root() {
        for (path, uid, gid) in [("docs", 1000, 1001), ("suid", 1234, 4321), ("docs/pipe", 7, 8)] {
            chown(at(path), Some(uid), Some(gid)).unwrap();
        }
        lchown(at("dangling"), Some(1000), Some(1000)).unwrap();
        let _ = lsetxattr(at("dangling"), "trusted.link", b"x", XattrFlags::empty());
        fs::copy("/bin/true", at("capable")).unwrap();
        sh("setcap", &["cap_net_raw+ep", at("capable").to_str().unwrap()]);
        sh("setfacl", &["-m", "u:1000:rwx,g:1001:r", at("docs/inner").to_str().unwrap()]);
        sh("setfacl", &["-d", "-m", "u:1002:rx", at("docs/inner").to_str().unwrap()]);
    }
    fs::set_permissions(at("suid"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(at("other"), PermissionsExt::from_mode(0o3770)).unwrap();
    fs::set_permissions(at("docs/nothing"), PermissionsExt::from_mode(0o000)).unwrap();
    set_mtime(&at("docs/plain"), 4_000_000_000, 123_456_789);
    set_mtime(&at("dangling"), 1_000_000, 1);
    set_mtime(&at("docs/pipe"), 12, 999_999_999);
    set_mtime(&at(&deep), -5, 250_000_000);
    set_mtime(&at("docs"), 1_500_000_000, 42);
    set_mtime(root, 1_600_000_000, 7);
}
