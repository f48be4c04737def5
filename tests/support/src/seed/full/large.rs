//! What a home has few of: databases, films, sparse files, copies that share blocks, and what careless tools lose.

use std::{
    fs::{File, Permissions, set_permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, fchown, lchown},
    },
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, ioctl_ficlone, mknodat, setxattr};

use super::{
    super::{
        odd::{CAP_NET_RAW, capability},
        random::Random,
    },
    BLOCK, FullHome, OWNER, database,
    plan::{self, cut},
    sorts::{PICTURES, SORTS},
    write::{Writer, set_times},
};

const STRETCH: u64 = 1 << 20;

impl FullHome {
    pub(super) fn write_large(&self, writer: &mut Writer<'_>) -> io::Result<()> {
        let mut random = Random::new(self.seed ^ 0xb16);
        let (count, bytes) = self.databases();
        for n in 0..count {
            let content = database::create(bytes, random.below(u64::MAX))?;
            let path = writer.create(database_name(n), &content)?;
            set_times(&path, plan::time(&mut random))?;
        }
        let (count, bytes) = self.films();
        for n in 0..count {
            let path = writer.create(format!("Videos/film-{n}.mkv"), b"")?;
            let film = File::options().write(true).open(&path)?;
            for at in (0..bytes).step_by(STRETCH as usize) {
                let begin = random.below(STRETCH);
                film.write_all_at(cut(writer.pool, begin, STRETCH.min(bytes - at)), at)?;
            }
            set_times(&path, plan::time(&mut random))?;
        }
        let (count, bytes) = self.sparse_files();
        for n in 0..count {
            let path = writer.create(format!("data/sparse-{n}.img"), b"")?;
            let file = File::options().write(true).open(&path)?;
            file.set_len(bytes)?;
            for at in [0, bytes / 2] {
                file.write_all_at(cut(writer.pool, random.below(STRETCH), BLOCK), at)?;
            }
            set_times(&path, plan::time(&mut random))?;
        }
        for n in 0..self.copies() {
            let original = writer.home.join(SORTS[PICTURES].name(n));
            let path = writer.create(format!("Pictures/copies/copy-{n}.jpg"), b"")?;
            share(&File::open(original)?, &File::options().write(true).open(&path)?)?;
            set_times(&path, plan::time(&mut random))?;
        }
        odd(writer)
    }
}

/// Returns the name of a database in the home.
pub(super) fn database_name(n: usize) -> String {
    format!("data/base-{n}.db")
}

/// Makes `to` a copy that shares the blocks of `from`; an ordinary one where the file system cannot.
fn share(from: &File, to: &File) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_err() {
        io::copy(&mut &*from, &mut &*to)?;
    }
    fchown(to, Some(OWNER), Some(OWNER))
}

/// Names that are no text, a pipe, a time to come, a program that may do more than its user.
fn odd(writer: &mut Writer<'_>) -> io::Result<()> {
    const TIME: plan::Time = (1_600_000_000, 1);
    const FUTURE: plan::Time = (4_070_908_800, 123_456_789);
    for name in [b"names/not-utf8-\xff\xfe".as_slice(), b"names/new\nline"] {
        let path = writer.create(Path::new(std::ffi::OsStr::from_bytes(name)), b"named\n")?;
        set_times(&path, TIME)?;
    }
    let path = writer.create("times/from-2099", b"later\n")?;
    set_times(&path, FUTURE)?;
    let path = writer.create("attributes/may-ping", b"\x7fELF not really")?;
    set_permissions(&path, Permissions::from_mode(0o755))?;
    setxattr(&path, "security.capability", &capability(1 << CAP_NET_RAW), XattrFlags::empty())?;
    set_times(&path, TIME)?;
    let path = writer.place(PIPE)?;
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    lchown(&path, Some(OWNER), Some(OWNER))?;
    set_times(&path, TIME)
}

/// The named pipe, relative to the home.
const PIPE: &str = "special/pipe";
