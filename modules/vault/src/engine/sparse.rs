//! Reads files with holes: what was never written is zeros that no disk is asked for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Reads a file from its beginning, whatever its descriptor did before.
pub(crate) struct Sparse<'f> {
    file: &'f File,
    at: u64,
    /// How far it goes on as it is at `at`.
    until: u64,
    is_hole: bool,
}

impl<'f> Sparse<'f> {
    /// Takes the file as it is now: whoever reads it looks afterwards whether it changed.
    pub(crate) fn new(file: &'f File) -> Self {
        // One that takes all the room of its size has nothing to look for, and most files are such.
        let has_holes = file.metadata().is_ok_and(|facts| facts.blocks() * 512 < facts.size());
        Self { file, at: 0, until: if has_holes { 0 } else { u64::MAX }, is_hole: false }
    }

    /// Finds out what lies at `at`.
    fn look(&mut self) -> io::Result<()> {
        let next = match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(next) => next,
            // Nothing but a hole, or nothing at all, up to the end.
            Err(Errno::NXIO) => self.file.metadata()?.len().max(self.at),
            // A file system that does not tell.
            Err(_) => {
                (self.until, self.is_hole) = (u64::MAX, false);
                return Ok(());
            }
        };
        self.is_hole = next > self.at;
        self.until = match self.is_hole {
            true => next,
            false => seek(self.file, SeekFrom::Hole(self.at)).unwrap_or(u64::MAX),
        };
        Ok(())
    }
}

impl Read for Sparse<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.until {
            self.look()?;
        }
        // At the end nothing is known of what comes: the file says that nothing does.
        let left = usize::try_from(self.until.saturating_sub(self.at)).unwrap_or(usize::MAX).max(1);
        let length = into.len().min(left);
        let into = &mut into[..length];
        let read = match self.is_hole {
            true => {
                into.fill(0);
                into.len()
            }
            false => self.file.read_at(into, self.at)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Returns what is read in pieces of this size.
    fn read(file: &File, piece: usize) -> Vec<u8> {
        let (mut sparse, mut all, mut buffer) = (Sparse::new(file), Vec::new(), vec![7; piece]);
        loop {
            match sparse.read(&mut buffer).unwrap() {
                0 => return all,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn holes_are_zeros_wherever_they_are() {
        const BLOCK: u64 = 64 << 10;
        for (extents, length) in [
            (vec![], 0),
            (vec![], 3 * BLOCK + 5),
            (vec![0], BLOCK),
            (vec![0], 9 * BLOCK + 1),
            (vec![4], 5 * BLOCK),
            (vec![1, 2, 6], 8 * BLOCK + 100),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.set_len(length).unwrap();
            for at in &extents {
                file.write_all_at(&vec![*at as u8 + 1; BLOCK as usize], at * BLOCK).unwrap();
            }
            file.flush().unwrap();
            let mut expected = vec![0; length as usize];
            for at in &extents {
                expected[(at * BLOCK) as usize..][..BLOCK as usize].fill(*at as u8 + 1);
            }
            for piece in [1 << 20, 10_000] {
                assert!(read(&file, piece) == expected, "{extents:?} in {length}, {piece} at once");
            }
        }
    }

    #[test]
    fn what_is_written_whole_is_read_as_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"no holes").unwrap();
        assert_eq!(read(&file, 3), b"no holes");
    }
}
