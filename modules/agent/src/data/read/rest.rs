//! Files of which the target has some ranges by itself: each is read to its end, for its digest, and the rest is sent.

use std::os::fd::OwnedFd;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::{Batch, Codes, FRAME, Reader, Trouble, opened, read_at};
use crate::data::content::ContentHash;
use crate::data::seen::Seen;
use crate::data::sent::Sent;
use crate::data::{delta, extents, open, walk, wants};
use crate::proto::{AgentError, Piece, ReadWant, RestWant};
use crate::server::Call;

/// Answers [`crate::proto::Request::ReadRest`].
///
/// # Errors
/// If the root cannot be opened or is no read-only snapshot, or the caller gave up.
pub fn run(root: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let dir = opened(root)?;
    if !walk::is_sealed(&dir) {
        return Err(AgentError::failed(format!("`{root}` is not in a read-only snapshot")));
    }
    wants::serve(call, delta::AT_ONCE, |wants| {
        let (inline, batch, codes) = (None, Batch::default(), Codes::default());
        let mut reader =
            Reader { root, dir: &dir, call, sent: Some(sent), inline, batch, codes, digest: None };
        while let Some(wants) = wants::next(wants, || reader.flush())? {
            for RestWant { content, path, had } in wants {
                let want = ReadWant { content, path };
                let done = reader.rest(&want, &had);
                reader.tell(&want, done)?;
            }
        }
        Ok(())
    })
}

impl Reader<'_> {
    fn rest(&mut self, want: &ReadWant, had: &[(u64, u64)]) -> Result<(), Trouble> {
        let file = delta::open_file(self.dir, &want.path)?;
        let size = Seen::of(&file)?.size();
        let mut had = had.iter().peekable();
        self.some(want, &file, size, |at| {
            while had.next_if(|(_, end)| *end <= at).is_some() {}
            match had.peek() {
                Some((begin, end)) if *begin <= at => (false, *end),
                Some((begin, _)) => (true, *begin),
                None => (true, size),
            }
        })
    }

    /// Reads a file to its end and sends some of it: `choose` says of a place whether it goes, and up to where that holds.
    pub(super) fn some(
        &mut self,
        want: &ReadWant,
        file: &OwnedFd,
        size: u64,
        mut choose: impl FnMut(u64) -> (bool, u64),
    ) -> Result<(), Trouble> {
        // Advice: the file is read as well without it.
        let _ = fadvise(file, 0, None, Advice::Sequential);
        let mut hash = ContentHash::new();
        let mut at = 0;
        while let Some((mut start, end)) = extents::next(file, at, size)? {
            while start < end {
                let (goes, until) = choose(start);
                let data = read_at(file, start, FRAME.min((until.min(end) - start) as usize))?;
                if data.is_empty() || self.call.is_cancelled() {
                    return Err(Trouble::File(Errno::IO));
                }
                hash.add(start, &data);
                let offset = start;
                start += data.len() as u64;
                if goes {
                    self.push(Piece { content: want.content, offset, data, last: None }, None)?;
                }
            }
            at = end;
        }
        let last = Some((size, hash.finish(size)));
        let done = self.push_last(want, Piece { content: want.content, offset: 0, data: Vec::new(), last });
        open::forget(file);
        Ok(done?)
    }
}
