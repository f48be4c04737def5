//! The journal of one session: every step, which staged inode belongs to which, and whether all is there to be committed.
//!
//! It lies in the first part's staging directory, which the machine state names. A record is its length, eight bytes of its
//! BLAKE3 digest and its postcard bytes. Reading ends at the first record that is cut or damaged; a journal without a whole
//! [`Record::Commit`] was never committed. A disk that cannot be read says nothing of that, and is an error, as is a whole
//! record that another version wrote in a way that is not known. A redo compares the inodes of [`Record::Staged`] with what it
//! finds: a staged name that still holds its own inode has not been committed, one that holds another was exchanged.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SessionId};

use crate::proto::{ApplyReport, Op, PartRoot, decode, encode, few};

/// Its name in the staging directory.
pub(super) const NAME: &str = "journal";

/// No record is longer.
const MAX_RECORD: usize = 16 << 20;

/// Bytes of the digest that are kept.
const SUM: usize = 8;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first one.
    Begin {
        /// The session.
        session: SessionId,
        /// The roots that steps refer to.
        parts: Vec<PartRoot>,
    },
    /// Steps in commit order.
    Ops {
        /// The number of the first, counted over the whole session; it is the staged name.
        first: u64,
        /// Index of the part.
        part: u16,
        /// The steps.
        #[serde(deserialize_with = "few")]
        ops: Vec<Op>,
    },
    /// Numbers of steps with the inode that stands staged for each.
    Staged(Vec<(u64, u64)>),
    /// All is on the disk; from here on the session is finished, by itself or by a redo.
    Commit {
        /// How many steps there are.
        ops: u64,
    },
    /// In the list that is kept for an undo: which paths were left alone.
    Left(Vec<BytePath>),
}

/// Writes a journal.
pub(super) struct Writer(BufWriter<File>);

impl Writer {
    /// Creates it in a fresh staging directory.
    pub(super) fn create(stage: impl AsFd) -> io::Result<Writer> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(stage, NAME, flags, Mode::from_raw_mode(0o600))?;
        Ok(Writer(BufWriter::with_capacity(256 << 10, fd.into())))
    }

    /// Appends a record.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        let body = encode(record);
        if body.len() > MAX_RECORD {
            return Err(io::Error::other("a journal record is too long"));
        }
        self.0.write_all(&(body.len() as u32).to_le_bytes())?;
        self.0.write_all(&blake3::hash(&body).as_bytes()[..SUM])?;
        self.0.write_all(&body)
    }

    /// Brings everything so far to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

/// Removes a journal, durably; none is fine.
pub(super) fn remove(stage: &OwnedFd) -> Result<(), Errno> {
    match unlinkat(stage, NAME, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => fsync(stage),
        Err(error) => Err(error),
    }
}

/// Reads the records of a journal, up to the first that is cut or damaged, or the error of a disk that cannot be read.
pub struct Reader<R = BufReader<File>>(pub(super) R);

impl<R: Read> Iterator for Reader<R> {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<io::Result<Record>> {
        let mut head = [0; 4 + SUM];
        if let Err(error) = self.0.read_exact(&mut head) {
            return unless_ended(error);
        }
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if len > MAX_RECORD {
            return None;
        }
        let mut body = vec![0; len];
        if let Err(error) = self.0.read_exact(&mut body) {
            return unless_ended(error);
        }
        if blake3::hash(&body).as_bytes()[..SUM] != head[4..] {
            return None;
        }
        Some(decode(&body).map_err(|error| {
            let why = format!("a whole record of the journal is not understood: {error}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        }))
    }
}

/// What was not written to its end ends the reading; anything else is told.
fn unless_ended<T>(error: io::Error) -> Option<io::Result<T>> {
    (error.kind() != io::ErrorKind::UnexpectedEof).then_some(Err(error))
}

/// Opens the journal in a staging directory; `None` if there is none.
///
/// # Errors
/// If it is there and cannot be opened.
pub fn read_journal(stage: impl AsFd) -> io::Result<Option<Reader>> {
    match openat(stage, NAME, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(Reader(BufReader::new(fd.into())))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The name of a list of steps in the directory of its set.
pub const LIST: &str = "operations";

/// Keeps the records of a journal in `dir`, durably, with the paths that were left alone at their end. They come behind those of
/// earlier journals of the session; kept again they are there once.
pub(super) fn keep(records: Reader, dir: &Path, report: &ApplyReport) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut records = records.peekable();
    let own = records.peek().and_then(|first| first.as_ref().ok()).cloned();
    let mut is_other = true;
    let earlier = read_list(dir)?.into_iter().flatten().filter(|record| {
        if let Ok(record @ Record::Begin { .. }) = record {
            is_other = own.as_ref() != Some(record);
        }
        is_other
    });
    let temp = dir.join("operations.new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    let mut writer = Writer(BufWriter::with_capacity(256 << 10, file));
    for record in earlier.chain(records) {
        writer.append(&record?)?;
    }
    let conflicts = report.conflicts.iter().map(|conflict| conflict.path.clone());
    writer.append(&Record::Left(conflicts.chain(report.kept.iter().cloned()).collect()))?;
    writer.sync()?;
    std::fs::rename(&temp, dir.join(LIST))?;
    File::open(dir)?.sync_all()
}

/// Whether a list of steps was kept with a set.
pub fn has_list(dir: &Path) -> bool {
    dir.join(LIST).is_file()
}

/// Opens a list of steps that was kept with a set; `None` if there is none.
///
/// # Errors
/// If it is there and cannot be opened.
pub fn read_list(dir: &Path) -> io::Result<Option<Reader>> {
    match File::open(dir.join(LIST)) {
        Ok(file) => Ok(Some(Reader(BufReader::new(file)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_committed(stage: impl AsFd) -> bool {
        let last = read_journal(stage).unwrap().unwrap().last();
        last.is_some_and(|last| matches!(last.unwrap(), Record::Commit { .. }))
    }

    fn written(dir: &std::path::Path) -> (File, Vec<Record>) {
        let stage = File::open(dir).unwrap();
        let records = vec![
            Record::Begin { session: "0a1b2c3d".parse().unwrap(), parts: Vec::new() },
            Record::Ops { first: 0, part: 0, ops: vec![Op::RemoveDir { path: "a".into() }] },
            Record::Staged(vec![(0, 7)]),
            Record::Commit { ops: 1 },
        ];
        let mut writer = Writer::create(&stage).unwrap();
        records.iter().for_each(|record| writer.append(record).unwrap());
        writer.sync().unwrap();
        (stage, records)
    }

    #[test]
    fn a_journal_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (stage, records) = written(dir.path());
        let read: Vec<Record> = read_journal(&stage).unwrap().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, records);
        assert!(is_committed(&stage));
    }

    #[test]
    fn a_list_holds_each_journal_of_its_session_once() {
        let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (stage, first) = written(dir.path());
        let part = PartRoot { root: "/home/alice/vm".into(), subvolume_uuid: "u".into() };
        let session = "0a1b2c3d".parse().unwrap();
        let second = [Record::Begin { session, parts: vec![part] }, Record::Commit { ops: 0 }];
        let later = File::open(other.path()).unwrap();
        let mut writer = Writer::create(&later).unwrap();
        second.iter().for_each(|record| writer.append(record).unwrap());
        writer.sync().unwrap();
        let list = tempfile::tempdir().unwrap();
        // The second is kept again by a redo.
        for stage in [&stage, &later, &later] {
            keep(read_journal(stage).unwrap().unwrap(), list.path(), &ApplyReport::default()).unwrap();
        }
        let kept: Vec<Record> = read_list(list.path()).unwrap().unwrap().map(Result::unwrap).collect();
        let left = [Record::Left(Vec::new())];
        assert_eq!(kept, [&first[..], &left, &second, &left].concat());
    }

    #[test]
    fn a_journal_cut_anywhere_is_not_committed_and_keeps_its_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let (stage, records) = written(dir.path());
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(dir.path().join(NAME), &bytes[..len]).unwrap();
            assert!(!is_committed(&stage), "{len}");
            let read: Vec<_> = read_journal(&stage).unwrap().unwrap().map(Result::unwrap).collect();
            assert!(records.starts_with(&read));
        }
    }

    #[test]
    fn a_disk_that_cannot_be_read_does_not_end_a_journal() {
        /// Gives so many bytes, and then what a disk says.
        struct Broken(io::Cursor<Vec<u8>>);
        impl Read for Broken {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                match self.0.read(into)? {
                    0 => Err(io::Error::from_raw_os_error(libc::EIO)),
                    some => Ok(some),
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let (_stage, records) = written(dir.path());
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for len in 0..bytes.len() {
            let mut reader = Reader(Broken(io::Cursor::new(bytes[..len].to_vec())));
            let read: Vec<Record> = reader.by_ref().map_while(Result::ok).collect();
            assert!(records.starts_with(&read) && read.len() < records.len(), "{len}");
            assert_eq!(reader.next().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO), "{len}");
        }
    }

    #[test]
    fn a_whole_record_of_another_version_does_not_end_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (stage, records) = written(dir.path());
        let strange = [0xff; 9];
        let mut bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        bytes.extend((strange.len() as u32).to_le_bytes());
        bytes.extend(&blake3::hash(&strange).as_bytes()[..SUM]);
        bytes.extend(strange);
        std::fs::write(dir.path().join(NAME), bytes).unwrap();
        let mut read = read_journal(&stage).unwrap().unwrap().skip(records.len());
        assert_eq!(read.next().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_flipped_bit_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let (stage, _) = written(dir.path());
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(dir.path().join(NAME), damaged).unwrap();
            assert!(!is_committed(&stage), "{at}");
        }
    }
}
