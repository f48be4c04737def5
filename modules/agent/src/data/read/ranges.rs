//! Files of which the target is proven to have the older version: nothing but what changed since is read, digested and sent.

use std::os::fd::OwnedFd;

use pc_switcher_contract::BytePath;

use super::{Batch, Codes, FRAME, Reader, Trouble, opened};
use crate::data::delta::{self, Range};
use crate::data::ranges::{self, RangesHash};
use crate::data::seen::Seen;
use crate::data::{open, walk, wants};
use crate::proto::{AgentError, Piece, ReadWant, StreamFrame};
use crate::server::Call;

/// Answers [`crate::proto::Request::ReadRanges`].
///
/// # Errors
/// If a root cannot be opened or is no read-only snapshot, or the caller gave up.
pub fn run(root: &BytePath, base: &BytePath, call: &Call) -> Result<(), AgentError> {
    let (dir, base_dir) = (opened(root)?, opened(base)?);
    if let Some((path, _)) = [(root, &dir), (base, &base_dir)].iter().find(|(_, dir)| !walk::is_sealed(dir)) {
        return Err(AgentError::failed(format!("`{path}` is not in a read-only snapshot")));
    }
    wants::serve(call, delta::AT_ONCE, |wants| {
        let (inline, batch, codes) = (None, Batch::default(), Codes::default());
        // What it reads has no digest of a whole file.
        let mut reader = Reader { root, dir: &dir, call, sent: None, inline, batch, codes, digest: None };
        while let Some(wants) = wants::next(wants, || reader.flush())? {
            for want in wants {
                let done = reader.ranges(&want, &base_dir);
                reader.tell(&want, done)?;
            }
        }
        Ok(())
    })
}

impl Reader<'_> {
    fn ranges(&mut self, want: &ReadWant, base: &OwnedFd) -> Result<(), Trouble> {
        let (new, old) = (delta::open_file(self.dir, &want.path)?, delta::open_file(base, &want.path)?);
        let size = Seen::of(&new)?.size();
        let ranges = ranges::changed(&new, &old)?;
        let (content, call) = (want.content, self.call);
        self.flush()?;
        for Range { at, end, .. } in ranges.iter().filter(|range| range.is_hole) {
            self.call.item(&StreamFrame::Hole { content, at: *at, end: *end })?;
        }
        let mut hash = RangesHash::new();
        for range in ranges {
            hash.begin(range);
            if range.is_hole {
                continue;
            }
            ranges::each(&new, (range.at, range.end), &|| call.is_cancelled(), |offset, data| {
                hash.add(&data);
                self.push(Piece { content, offset, data, last: None }, None).map_err(Trouble::from)
            })?;
        }
        let last = Some((size, hash.finish(size)));
        let done = self.push(Piece { content, offset: 0, data: Vec::new(), last }, None);
        open::forget(&new);
        Ok(done?)
    }
}

const _: () = assert!(ranges::STRETCH <= FRAME);
