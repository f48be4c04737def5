//! Which small packs are put together: each backup leaves one of trees and one of data, however little it stored.
//!
//! Only many of them are worth the writing, and only so much in one run that a prune stays a short one. What comes out is larger,
//! so that nothing is carried along by each run.

use std::collections::BTreeSet;

use super::plan::Pack;
use crate::format::{BlobKind, Id};
use crate::repo::PACK;

/// A pack is small below this part of what a full one has.
const SMALL: u64 = PACK as u64 / 4;
/// Fewer small packs of a kind are left as they are.
const LEAST: usize = 8;
/// So many hundredths of what is stored move in one run,
const SHARE: u64 = 5;
/// but so many bytes in any case.
const ANYHOW: u64 = 4 * PACK as u64;

/// Returns those of the packs that stay that are put together; `stored` is what the vault holds.
pub fn small<'p>(staying: impl Iterator<Item = &'p Pack> + Clone, stored: u64) -> BTreeSet<Id> {
    let mut left = (stored * SHARE / 100).max(ANYHOW);
    let mut all = BTreeSet::new();
    for kind in [BlobKind::Tree, BlobKind::Data] {
        let is_small = |pack: &&Pack| {
            let is_of_kind = pack.blobs.iter().all(|blob| blob.kind == kind);
            pack.size < SMALL && !pack.blobs.is_empty() && is_of_kind
        };
        let mut small: Vec<&Pack> = staying.clone().filter(is_small).collect();
        small.sort_by_key(|pack| (pack.size, pack.id));
        let mut bytes = 0;
        small.retain(|pack| {
            bytes += pack.size;
            bytes <= left
        });
        if small.len() >= LEAST {
            left -= small.iter().map(|pack| pack.size).sum::<u64>();
            all.extend(small.iter().map(|pack| pack.id));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::IndexedBlob;

    fn packs(kind: BlobKind, sizes: impl IntoIterator<Item = u64>) -> Vec<Pack> {
        let pack = |(number, size): (u8, u64)| {
            let id = Id([number, kind as u8].repeat(16).try_into().unwrap());
            let blob =
                IndexedBlob { id, kind, offset: 0, length: size as u32 - 50, uncompressed_length: None };
            Pack { id, size, blobs: vec![blob] }
        };
        (0..).zip(sizes).map(pack).collect()
    }

    fn count(packs: &[Pack]) -> usize {
        small(packs.iter(), packs.iter().map(|pack| pack.size).sum()).len()
    }

    #[test]
    fn many_small_packs_of_a_kind_are_put_together_and_few_are_left() {
        assert_eq!(count(&packs(BlobKind::Data, [1_000; 7])), 0);
        assert_eq!(count(&packs(BlobKind::Data, [1_000; 8])), 8);
        let mixed = [packs(BlobKind::Data, [1_000; 7]), packs(BlobKind::Tree, [1_000; 9])].concat();
        assert_eq!(count(&mixed), 9);
        assert_eq!(count(&packs(BlobKind::Data, [SMALL; 20])), 0, "what is large enough stays");
        let unknown: Vec<Pack> = packs(BlobKind::Data, [1_000; 9])
            .into_iter()
            .map(|pack| Pack { blobs: vec![], ..pack })
            .collect();
        assert_eq!(count(&unknown), 0);
    }

    #[test]
    fn a_run_moves_no_more_than_its_share_the_smallest_first() {
        let many = packs(BlobKind::Data, (0..100).map(|_| SMALL - 1));
        assert_eq!(count(&many), 16, "four full packs in any case");
        let mixed = packs(BlobKind::Data, (0..100).map(|number| if number < 90 { SMALL - 1 } else { 100 }));
        let chosen = small(mixed.iter(), 0);
        assert!(mixed[90..].iter().all(|pack| chosen.contains(&pack.id)));
        let stored = 100 * ANYHOW;
        assert_eq!(small(many.iter(), stored).len(), 80, "of a large vault five hundredths");
    }

    #[test]
    fn what_came_out_is_not_moved_again_until_there_is_more() {
        let mut sizes = vec![1_000; 3];
        sizes.push(8_000);
        assert_eq!(count(&packs(BlobKind::Data, sizes)), 0);
    }
}
