//! What goes over the line: frames of at most a mebibyte, so that one object does not keep the end of another from being heard.
//!
//! A frame is the number of its request (8 bytes), its sort (1 byte), the length of what follows (4 bytes), all little-endian,
//! and that. Pieces of an object come first, then the head, which is JSON and says what they are. Whoever asks may give
//! up in between.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::{Deserialize, Serialize};

use crate::store::Kind;

/// What a server says first; whatever a login shell prints before it is skipped.
pub const MAGIC: &[u8] = b"pc-switcher-vault-server\n";
/// Raised when either side would misunderstand the other.
pub const PROTOCOL: u32 = 1;
/// The largest frame.
pub const PIECE: usize = 1 << 20;
/// The largest head; lists are no heads.
const HEAD: usize = 64 << 10;
/// No side holds more of what is not complete yet; packs are of 16 MiB, those of others of up to 128 MiB.
pub const LARGEST: usize = 1 << 30;
/// Nobody asks for more at once.
const MOST: usize = 256;

/// What is asked for. An object that is to be stored comes before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as the methods of `Store`")]
pub enum Ask {
    Hello {
        protocol: u32,
    },
    Ping,
    Put {
        kind: Kind,
        name: String,
    },
    /// Afresh: not from what the system keeps in memory there.
    Get {
        kind: Kind,
        name: String,
        #[serde(default)]
        afresh: bool,
    },
    GetRange {
        kind: Kind,
        name: String,
        offset: u64,
        length: u64,
    },
    List {
        kind: Kind,
    },
    Delete {
        kind: Kind,
        name: String,
    },
    IsVacant,
    MakeReady,
}

/// What comes back. An object or a list comes before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each belongs to what was asked for")]
pub enum Answer {
    Hello { protocol: u32, version: String, hostname: String, append_only: bool },
    Written { is_new: bool },
    Found,
    Missing,
    Vacant { is_vacant: bool },
    Done,
    Failed(Failure),
}

/// Why something could not be done there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// In words.
    pub message: String,
    /// What to try.
    pub hints: Vec<String>,
}

impl From<ModuleError> for Failure {
    fn from(error: ModuleError) -> Self {
        Self { kind: error.kind, message: error.message, hints: error.hints }
    }
}

impl From<Failure> for ModuleError {
    fn from(failure: Failure) -> Self {
        let error = ModuleError::new(failure.kind, failure.message);
        failure.hints.into_iter().fold(error, ModuleError::hint)
    }
}

/// The sort of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A part of an object.
    Piece,
    /// What it is, or what is asked for.
    Head,
    /// Nobody wants to know any more.
    Abort,
}

/// Writes a frame.
///
/// # Errors
/// If the line is gone.
pub fn write(to: &mut impl Write, id: u64, sort: Sort, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a frame is too large"))?;
    let mut head = [0; 13];
    head[..8].copy_from_slice(&id.to_le_bytes());
    head[8] = match sort {
        Sort::Piece => 1,
        Sort::Head => 2,
        Sort::Abort => 3,
    };
    head[9..].copy_from_slice(&length.to_le_bytes());
    to.write_all(&head)?;
    to.write_all(body)
}

/// Writes an object in pieces, and then its head, unless `is_over` says meanwhile that nobody wants it any more.
///
/// # Errors
/// If the line is gone.
pub fn write_whole(
    to: &mut impl Write,
    id: u64,
    head: &impl Serialize,
    body: &[u8],
    mut is_over: impl FnMut() -> bool,
) -> io::Result<()> {
    for piece in body.chunks(PIECE) {
        if is_over() {
            write(to, id, Sort::Abort, &[])?;
            return to.flush();
        }
        write(to, id, Sort::Piece, piece)?;
    }
    write(to, id, Sort::Head, &serde_json::to_vec(head)?)?;
    to.flush()
}

/// Reads a frame; `None` at the end of the line.
///
/// # Errors
/// If the line breaks in the middle of one, or this is none.
pub fn read(from: &mut impl Read) -> io::Result<Option<(u64, Sort, Vec<u8>)>> {
    let mut head = [0; 13];
    let mut filled = 0;
    while filled < head.len() {
        match from.read(&mut head[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let (sort, most) = match head[8] {
        1 => (Sort::Piece, PIECE),
        2 => (Sort::Head, HEAD),
        3 => (Sort::Abort, 0),
        other => return Err(nonsense(format!("there is no frame of sort {other}"))),
    };
    let length = usize::try_from(number(&head[9..])).unwrap_or(usize::MAX);
    if length > most {
        return Err(nonsense(format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((number(&head[..8]), sort, body)))
}

fn nonsense(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Puts pieces together.
#[derive(Debug, Default)]
pub struct Assembly {
    open: HashMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Assembly {
    /// Takes a frame in; returns the number, the head and the object once all of it is there.
    ///
    /// # Errors
    /// If it would be too much, or the head is none.
    pub fn take_in<H: for<'de> Deserialize<'de>>(
        &mut self,
        (id, sort, body): (u64, Sort, Vec<u8>),
    ) -> io::Result<Option<(u64, H, Vec<u8>)>> {
        match sort {
            Sort::Piece => {
                self.bytes += body.len();
                let known = self.open.contains_key(&id);
                if self.bytes > LARGEST || !known && self.open.len() >= MOST {
                    return Err(nonsense("more was begun than can be held".into()));
                }
                self.open.entry(id).or_default().extend_from_slice(&body);
                Ok(None)
            }
            Sort::Head => {
                let head = serde_json::from_slice(&body).map_err(|error| nonsense(error.to_string()))?;
                Ok(Some((id, head, self.close(id))))
            }
            Sort::Abort => {
                self.close(id);
                Ok(None)
            }
        }
    }

    fn close(&mut self, id: u64) -> Vec<u8> {
        let whole = self.open.remove(&id).unwrap_or_default();
        self.bytes -= whole.len();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_in_pieces_and_what_is_given_up_is_forgotten() {
        let (mut bytes, large) = (Vec::new(), vec![7; 2 * PIECE + 5]);
        let ask = Ask::Put { kind: Kind::Pack, name: "ab".repeat(32) };
        write_whole(&mut bytes, 3, &ask, &large, || false).unwrap();
        let mut pieces = 0;
        let is_over = || {
            pieces += 1;
            pieces == 2
        };
        write_whole(&mut bytes, 4, &ask, &large, is_over).unwrap();
        write_whole(&mut bytes, 5, &Ask::Ping, &[], || true).unwrap();
        let (mut from, mut assembly, mut found) = (bytes.as_slice(), Assembly::default(), Vec::new());
        while let Some(frame) = read(&mut from).unwrap() {
            found.extend(assembly.take_in::<Ask>(frame).unwrap());
        }
        assert_eq!(found.len(), 2);
        assert!(found[0] == (3, ask, large) && found[1] == (5, Ask::Ping, Vec::new()));
        assert!(assembly.open.is_empty() && assembly.bytes == 0);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_room_is_made_for_it() {
        let mut huge = Vec::new();
        write(&mut huge, 1, Sort::Piece, b"x").unwrap();
        huge[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&mut huge.as_slice()).is_err());
        assert!(read(&mut [9_u8; 13].as_slice()).is_err());
        assert!(read(&mut [0_u8; 5].as_slice()).is_err(), "cut");
        assert!(read(&mut [].as_slice()).unwrap().is_none());
    }
}
