//! Digests of the blocks of large files, for a machine that has another version of them.

use std::os::fd::OwnedFd;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::read::read_at;
use super::seen::Seen;
use super::{delta, extents, open, walk, wants};
use crate::proto::{AgentError, Blocks, ReadWant};
use crate::server::Call;

/// Answers [`crate::proto::Request::Blocks`]: of a file that cannot be read there are none.
///
/// # Errors
/// If the root cannot be opened or the caller gave up.
pub fn run(root: &BytePath, call: &Call) -> Result<(), AgentError> {
    let dir = open::root(root).map_err(|error| AgentError::io(format!("`{root}`"), &error.into()))?;
    let is_sealed = walk::is_sealed(&dir);
    wants::serve(call, delta::AT_ONCE, |wants: &crossbeam_channel::Receiver<Vec<ReadWant>>| {
        while let Some(wants) = wants::next(wants, || Ok(()))? {
            for ReadWant { content, path } in wants {
                let blocks = file(&dir, &path, is_sealed, call).unwrap_or_default();
                if call.is_cancelled() {
                    return Err(AgentError::cancelled());
                }
                call.item(&Blocks { content, ..blocks })?;
            }
        }
        Ok(())
    })
}

fn file(dir: &OwnedFd, path: &BytePath, forgets: bool, call: &Call) -> Result<Blocks, Errno> {
    let file = delta::open_file(dir, path)?;
    let size = Seen::of(&file)?.size();
    let block = Blocks::block_of(size);
    if block > Blocks::LARGEST {
        return Err(Errno::FBIG);
    }
    let zeros = of_zeros(block);
    // Advice: the file is read as well without it.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let mut digests = Vec::with_capacity(size.div_ceil(block) as usize);
    let (mut at, mut data) = (0, (0, 0));
    while at < size && !call.is_cancelled() {
        let end = size.min(at.saturating_add(block));
        if data.1 <= at {
            data = extents::next(&file, at, size)?.unwrap_or((size, size));
        }
        digests.push(match data.0 >= end && end - at == block {
            true => zeros,
            false => of(&read_at(&file, at, (end - at) as usize)?),
        });
        at = end;
    }
    if forgets {
        open::forget(&file);
    }
    Ok(Blocks { content: 0, block, digests })
}

/// Returns the digest of a block.
pub(super) fn of(data: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(data).as_bytes()[..16]);
    digest
}

/// Returns the digest of a block of zeros.
pub(super) fn of_zeros(len: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let zeros = [0; 16 << 10];
    let mut left = len;
    while left > 0 {
        let step = left.min(zeros.len() as u64);
        hasher.update(&zeros[..step as usize]);
        left -= step;
    }
    let mut digest = [0; 16];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_one_digest_however_they_are_counted() {
        for len in [0, 1, 16 << 10, 100_000] {
            assert_eq!(of_zeros(len), of(&vec![0; len as usize]));
        }
    }
}
