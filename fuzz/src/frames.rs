//! What an agent receives. The first byte chooses: a whole stream, or the body of one type.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::Arc;

use pc_switcher_agent::data::apply::fuzzing::places;
use pc_switcher_agent::data::rules::Rules;
use pc_switcher_agent::frame::{self, FrameKind, MAX_BODY};
use pc_switcher_agent::proto::{
    AgentError, AgentHello, BlocksWant, FrontHello, ListWant, MOST_PLAIN, PROTOCOL, ReadWant, Request,
    RestWant, StreamFrame, decode, encode, unpack,
};
use pc_switcher_agent::server::{Call, Services, serve};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory::peak;

/// A reader may hold so many bytes for each that it reads...
const PER_BYTE: usize = 64;
/// ... beside so many in any case: lists set aside room for what their length promises, at most a mebibyte each.
const AT_LEAST: usize = 4 << 20;

/// Reads the bytes as an agent would.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 6 {
        0 => stream(body),
        1 => served(body),
        2 => drop(one::<FrontHello>(body)),
        3 => request(body),
        4 => upload(body),
        _ => {
            one::<Vec<ReadWant>>(body);
            one::<Vec<ListWant>>(body);
            one::<Vec<RestWant>>(body);
            one::<Vec<BlocksWant>>(body);
        }
    }
}

/// Decodes one message: within its memory, and such that it is the same when it is encoded and read again.
pub fn one<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) -> Option<T> {
    let (decoded, bytes) = peak(|| decode::<T>(body));
    let limit = AT_LEAST + PER_BYTE * body.len();
    assert!(bytes <= limit, "{bytes} bytes were held for a message of {}", body.len());
    let message = decoded.ok()?;
    let again = decode::<T>(&encode(&message));
    assert_eq!(again.as_ref(), Ok(&message));
    Some(message)
}

fn request(body: &[u8]) {
    let Some(request) = one::<Request>(body) else { return };
    assert!(!request.name().is_empty());
    if let Request::Walk(walk) = request
        && let Ok(rules) = Rules::compile(&walk.tree.rules, &walk.tree.prefix)
    {
        let _ = rules.decide_root();
    }
}

fn upload(body: &[u8]) {
    let Some(message) = one::<StreamFrame>(body) else { return };
    assert_eq!(
        StreamFrame::is_content(&encode(&message)),
        matches!(message, StreamFrame::Content(_) | StreamFrame::Hole { .. } | StreamFrame::Coded { .. })
    );
    compressed(&message);
    if let StreamFrame::Ops { part, ops } = message {
        let places = places(part.into(), 3, ops).unwrap_or_default();
        for place in places {
            let mut names = place.as_bytes().split(|byte| *byte == b'/');
            assert!(names.all(|name| !matches!(name, b"" | b"." | b"..")), "staging is left by {place:?}");
        }
    }
}

/// What is compressed takes no more memory than it may hold, whatever it says of itself.
fn compressed(message: &StreamFrame) {
    let (_, bytes) = peak(|| match message {
        StreamFrame::Packed { plain, data } => drop(unpack(*plain, data)),
        StreamFrame::Coded { codings, pieces, .. } => {
            for coding in codings {
                let piece = pieces.get(coding.piece as usize);
                let decoded = piece.map(|piece| coding.decoded(&piece.data));
                assert!(
                    !decoded.is_some_and(|read| read.is_ok_and(|read| read.len() != coding.len as usize))
                );
            }
        }
        _ => {}
    });
    assert!(bytes <= AT_LEAST + 4 * MOST_PLAIN, "{bytes} bytes were held for what was compressed");
}

/// Frame after frame, each body as the type that its kind announces.
fn stream(mut bytes: &[u8]) {
    loop {
        let before = bytes.len();
        let (read, held) = peak(|| frame::read(&mut bytes));
        assert!(held <= 2 * MAX_BODY + AT_LEAST, "{held} bytes were held for a frame");
        let Ok(Some(frame)) = read else { return };
        assert!(bytes.len() < before && frame.body.len() <= MAX_BODY);
        match frame.kind {
            FrameKind::Hello => drop(one::<FrontHello>(&frame.body)),
            FrameKind::Open => request(&frame.body),
            FrameKind::Up => {
                upload(&frame.body);
                one::<Vec<ReadWant>>(&frame.body);
            }
            _ => {}
        }
    }
}

/// The whole agent, with handlers that take in every upload.
fn served(bytes: &[u8]) {
    let _ = serve(Arc::new(Model), Seldom(bytes, 0), Box::new(io::sink()));
}

/// Opens no more than a few calls: each has a thread, and what more of them would do is known.
struct Seldom<'a>(&'a [u8], usize);

impl Read for Seldom<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 += usize::from(into.len() == frame::HEAD);
        if self.1 > 16 { Ok(0) } else { self.0.read(into) }
    }
}

struct Model;

impl Services for Model {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            hostname: "desk".parse().unwrap_or_else(|_| unreachable!("a plain name")),
            machine_id: String::new(),
            uid: 0,
            pid: 0,
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        let mut bytes = 0;
        if matches!(
            request,
            Request::Read { .. } | Request::ReadLive { .. } | Request::Digest { .. } | Request::Apply(_)
        ) {
            while let Some(body) = call.next_upload()? {
                bytes += body.len();
            }
        }
        call.item(&request)?;
        Ok(encode(&(bytes as u64)))
    }

    fn shut_down(&self) {}
}
