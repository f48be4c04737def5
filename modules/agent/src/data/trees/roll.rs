//! Lists and streams: a zstd stream of frames that ends in the digest of all before, so that what is cut off, changed or
//! longer than it was is found out.
//!
//! Unpacked it is a magic word of eight bytes, and then frames: a byte that says what it is, the length as four bytes with
//! the lowest first, and so many bytes. The last frame has the kind 255 and holds the BLAKE3 digest of every byte before it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::item::Item;
use crate::proto::{decode, encode};

/// Longest frame: an item with the largest attributes fits.
const MOST: usize = 16 << 20;
/// The kind of the last frame.
const END: u8 = 255;
/// The kind of an item.
pub(super) const ITEM: u8 = 1;
/// How hard lists are packed.
const LEVEL: i32 = 3;
/// What a list begins with.
const MAGIC: &[u8; 8] = b"pcs-tre1";

/// Writes frames.
pub(crate) struct RollWriter<W: Write> {
    out: zstd::Encoder<'static, W>,
    hash: blake3::Hasher,
}

impl<W: Write> RollWriter<W> {
    /// Begins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn new(out: W, magic: &[u8; 8], level: i32) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(out, level)?;
        out.include_checksum(true)?;
        let mut roll = Self { out, hash: blake3::Hasher::new() };
        roll.put(magic)?;
        Ok(roll)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// If it cannot be written, or is too long.
    pub(crate) fn frame(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long");
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MOST).ok_or_else(too_long)?;
        self.put(&[kind])?;
        self.put(&length.to_le_bytes())?;
        self.put(body)
    }

    /// Ends, and returns what was written to.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let digest = *self.hash.finalize().as_bytes();
        self.frame(END, &digest)?;
        self.out.finish()
    }
}

/// Why a list or stream is none that can be used.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) String);

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, damaged.0)
    }
}

/// Reads frames.
pub(crate) struct RollReader<R: Read> {
    from: zstd::Decoder<'static, BufReader<R>>,
    hash: blake3::Hasher,
    at: u64,
}

impl<R: Read> RollReader<R> {
    /// Begins.
    ///
    /// # Errors
    /// If it does not begin with the magic word.
    pub(crate) fn new(from: R, magic: &[u8; 8]) -> Result<Self, Damaged> {
        let from = zstd::Decoder::new(from).map_err(|error| Damaged(error.to_string()))?;
        let mut roll = Self { from, hash: blake3::Hasher::new(), at: 0 };
        let mut begin = [0; 8];
        let read = roll.get(&mut begin);
        match read {
            Ok(()) if begin == *magic => Ok(roll),
            // Also if it is no zstd stream at all.
            _ => Err(Damaged("it does not begin as such a file does".into())),
        }
    }

    fn get(&mut self, bytes: &mut [u8]) -> Result<(), Damaged> {
        let at = self.at;
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Damaged(format!("it ends too early, after {at} bytes of what it holds"))
            }
            _ => Damaged(format!("it is damaged behind byte {at} of what it holds: {error}")),
        })?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Returns the next frame; `None` behind the last, if all of it is what was written.
    ///
    /// # Errors
    /// If it is cut off, changed or longer than it was.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>, Damaged> {
        let (before, at) = (self.hash.clone(), self.at);
        let mut head = [0; 5];
        self.get(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST {
            return Err(Damaged(format!("it is damaged at byte {at} of what it holds: a frame is too long")));
        }
        let mut body = vec![0; length];
        self.get(&mut body)?;
        if kind != END {
            return Ok(Some((kind, body)));
        }
        if body != before.finalize().as_bytes() {
            return Err(Damaged("its digest does not match what it holds".into()));
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Damaged("it ends too early, within its last bytes".into()))
            }
            _ => Err(Damaged("it goes on behind its end".into())),
        }
    }
}

/// The list of a copy, while it is written.
pub(crate) struct Inventory(RollWriter<BufWriter<File>>);

impl Inventory {
    /// Begins it.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        RollWriter::new(BufWriter::new(file), MAGIC, LEVEL).map(Self)
    }

    /// Adds a name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn add(&mut self, item: &Item) -> io::Result<()> {
        self.0.frame(ITEM, &encode(item))
    }

    /// Ends it; durable when it returns, but for its name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(self) -> io::Result<()> {
        let file = self.0.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    }
}

/// Reads the list of a copy to its end.
///
/// # Errors
/// If it is not there, not whole, or what `each` says.
pub(crate) fn read_inventory(path: &Path, mut each: impl FnMut(Item) -> io::Result<()>) -> io::Result<()> {
    let mut roll = RollReader::new(File::open(path)?, MAGIC)?;
    while let Some((kind, body)) = roll.next()? {
        match (kind, decode::<Item>(&body)) {
            (ITEM, Ok(item)) => each(item)?,
            _ => return Err(Damaged("a name in it cannot be read".into()).into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: &[u8; 8] = b"a-test-1";

    fn written() -> Vec<u8> {
        let mut roll = RollWriter::new(Vec::new(), WORD, 1).unwrap();
        for n in 0..50_u8 {
            roll.frame(n, &vec![n; usize::from(n) * 100]).unwrap();
        }
        roll.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Damaged> {
        let mut roll = RollReader::new(bytes, WORD)?;
        let mut frames = Vec::new();
        while let Some(frame) = roll.next()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn what_is_cut_off_changed_or_longer_is_found_out_wherever_that_is() {
        let whole = written();
        let frames = read(&whole).unwrap();
        assert_eq!(frames.len(), 50);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            // Some bits mean nothing to zstd.
            assert!(read(&changed).map_or(true, |read| read == frames), "changed at {at}");
        }
        for more in [&b"x"[..], &whole] {
            assert!(read(&[&whole, more].concat()).is_err());
        }
        assert!(RollReader::new(&whole[..], b"another1").is_err());
    }
}
