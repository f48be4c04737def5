//! Frames: a length, a call number, a kind, a body. Lengths are checked before anything is read.

use std::io::{self, Read, Write};

mod pack;

pub use pack::{Packer, is_worthy, unpack};

/// Bytes of a frame's head: length of the body, call number (both little endian), kind.
pub const HEAD: usize = 9;

/// No body is longer.
pub const MAX_BODY: usize = 4 << 20;

/// Bytes that may be under way in each direction of a call before the receiver grants more.
pub const WINDOW: i64 = 8 << 20;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame each way.
    Hello = 1,
    /// Front: opens a call; the body is the request.
    Open = 2,
    /// Front: upload.
    Up = 3,
    /// Front: nothing more will be uploaded.
    UpEnd = 4,
    /// Front: the call is given up.
    Cancel = 5,
    /// Either: grants bytes (u32) in the direction towards the sender.
    Credit = 6,
    /// Agent: one reply of many.
    Item = 7,
    /// Agent: the answer.
    Done = 8,
    /// Agent: the refusal.
    Error = 9,
    /// Front: are you there?
    Ping = 10,
    /// Agent: yes.
    Pong = 11,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::{Cancel, Credit, Done, Error, Hello, Item, Open, Ping, Pong, Up, UpEnd};
        [Hello, Open, Up, UpEnd, Cancel, Credit, Item, Done, Error, Ping, Pong]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The call it belongs to; 0 for none.
    pub call: u32,
    /// What it is for.
    pub kind: FrameKind,
    /// Its body.
    pub body: Vec<u8>,
}

/// The bit of the kind's byte that says that the body is packed.
const PACKED: u8 = 0x80;

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the body that follow.
    pub len: usize,
    /// The call it belongs to; 0 for none.
    pub call: u32,
    /// What it is for.
    pub kind: FrameKind,
    /// Whether [`unpack`] makes the body of what follows.
    pub is_packed: bool,
}

impl Head {
    /// Returns its bytes.
    pub fn encode(self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(self.len as u32).to_le_bytes());
        head[4..8].copy_from_slice(&self.call.to_le_bytes());
        head[8] = self.kind as u8 | if self.is_packed { PACKED } else { 0 };
        head
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the length is over [`MAX_BODY`] or the kind is unknown.
    pub fn parse(head: &[u8; HEAD]) -> Result<Head, String> {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let call = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > MAX_BODY {
            return Err(format!("a frame of {len} bytes is over the limit of {MAX_BODY}"));
        }
        match FrameKind::from_byte(head[8] & !PACKED) {
            Some(kind) => Ok(Head { len, call, kind, is_packed: head[8] & PACKED != 0 }),
            None => Err(format!("frame kind {} is unknown", head[8] & !PACKED)),
        }
    }

    /// Makes the frame of what followed.
    ///
    /// # Errors
    /// If it is packed, and cannot be unpacked.
    pub fn frame(self, body: Vec<u8>) -> Result<Frame, String> {
        let body = if self.is_packed { unpack(&body)? } else { body };
        Ok(Frame { call: self.call, kind: self.kind, body })
    }
}

/// Writes a frame.
pub fn write(out: &mut impl Write, call: u32, kind: FrameKind, body: &[u8]) -> io::Result<()> {
    write_as(out, Head { len: body.len(), call, kind, is_packed: false }, body)
}

/// Writes a frame whose body is packed.
pub fn write_packed(out: &mut impl Write, call: u32, kind: FrameKind, packed: &[u8]) -> io::Result<()> {
    write_as(out, Head { len: packed.len(), call, kind, is_packed: true }, packed)
}

fn write_as(out: &mut impl Write, head: Head, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a body of {} bytes is over the limit", body.len()),
        ));
    }
    let head = head.encode();
    if body.len() <= 16 << 10 {
        let mut whole = Vec::with_capacity(HEAD + body.len());
        whole.extend_from_slice(&head);
        whole.extend_from_slice(body);
        return out.write_all(&whole);
    }
    out.write_all(&head)?;
    out.write_all(body)
}

/// Reads a frame; `None` at a clean end of the stream.
pub fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut bytes = [0; HEAD];
    let mut have = 0;
    while have < HEAD {
        match input.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let head = Head::parse(&bytes).map_err(invalid)?;
    let mut body = vec![0; head.len];
    input.read_exact(&mut body)?;
    head.frame(body).map(Some).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_what_was_written() {
        for len in [0, 5, 100_000] {
            let mut bytes = Vec::new();
            write(&mut bytes, 7, FrameKind::Item, &vec![9; len]).unwrap();
            let frame = read(&mut bytes.as_slice()).unwrap().unwrap();
            assert_eq!((frame.call, frame.kind, frame.body.len()), (7, FrameKind::Item, len));
        }
    }

    #[test]
    fn a_packed_frame_reads_as_its_plain_one() {
        let plain = vec![9; 100_000];
        let mut bytes = Vec::new();
        let packed = Packer::new().unwrap().pack(&plain).unwrap();
        write_packed(&mut bytes, 7, FrameKind::Up, &packed).unwrap();
        assert!(bytes.len() < 1000);
        let frame = read(&mut bytes.as_slice()).unwrap().unwrap();
        assert_eq!(frame, Frame { call: 7, kind: FrameKind::Up, body: plain });
        let last = bytes.len() - 1;
        bytes.truncate(last);
        bytes[0] -= 1;
        assert!(read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn a_hostile_length_is_refused_before_memory_is_taken() {
        let mut bytes = Head { len: 0, call: 1, kind: FrameKind::Item, is_packed: false }.encode();
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&mut bytes.as_slice()).is_err());
        assert!(read(&mut [0_u8; HEAD].as_slice()).is_err());
        assert!(read(&mut [1_u8, 2].as_slice()).is_err());
        assert!(read(&mut [].as_slice()).unwrap().is_none());
    }
}
