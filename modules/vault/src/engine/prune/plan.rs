//! Which packs stay, are rewritten, wait, or go: pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::merge;
use crate::format::index::IndexedBlob;
use crate::format::{BlobKind, Id};
use crate::repo::Marks;

/// So many hundredths of what is stored may be unused before packs are rewritten for it.
const SPARE: u64 = 5;

/// A pack that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Its name.
    pub id: Id,
    /// Its bytes.
    pub size: u64,
    /// What the index knows in it; nothing of a pack that no index knows.
    pub blobs: Vec<IndexedBlob>,
}

/// When a pack goes that is unused.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// The time.
    pub now: Timestamp,
    /// For how long it must have been found unused.
    pub grace: Duration,
}

/// What becomes of the packs. Those that are not named stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs of which these blobs move to new packs.
    pub rewrite: BTreeMap<Id, Vec<IndexedBlob>>,
    /// Those of them that are only small, and put together.
    pub merged: BTreeSet<Id>,
    /// Unused packs, those included that are rewritten first, and since when they are known as such.
    pub marks: Marks,
    /// Those of them that go now.
    pub remove: BTreeSet<Id>,
}

/// Plans. Where several packs hold a blob one of them counts: the one that is not marked, and of those the one that has
/// the least beside what is needed, so that what a killed run rewrote is not rewritten again.
///
/// # Errors
/// Returns what is needed and in no pack.
pub fn plan(
    packs: &[Pack],
    needed: &HashSet<(BlobKind, Id)>,
    marks: &Marks,
    when: When,
) -> Result<Plan, Vec<(BlobKind, Id)>> {
    let name = |blob: &IndexedBlob| (blob.kind, blob.id);
    let share = |pack: &Pack| {
        let held = pack.blobs.iter().filter(|blob| needed.contains(&name(blob)));
        held.map(|blob| u64::from(blob.length)).sum::<u64>() * 1000 / pack.size.max(1)
    };
    let mut order: Vec<&Pack> = packs.iter().collect();
    order.sort_by_cached_key(|pack| {
        (marks.contains_key(&pack.id), std::cmp::Reverse(share(pack)), std::cmp::Reverse(pack.size), pack.id)
    });
    let mut held_already: HashSet<(BlobKind, Id)> = HashSet::new();
    let mut used: BTreeMap<Id, (u64, Vec<IndexedBlob>)> = BTreeMap::new();
    for pack in &order {
        for blob in pack.blobs.iter().filter(|blob| needed.contains(&name(blob))) {
            if held_already.insert(name(blob)) {
                let held = used.entry(pack.id).or_default();
                held.0 += u64::from(blob.length);
                held.1.push(*blob);
            }
        }
    }
    let missing: Vec<(BlobKind, Id)> = needed.difference(&held_already).copied().collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let mut plan = Plan::default();
    let (mut unused, mut stored) = (0, 0);
    let mut partly: Vec<(u64, &Pack)> = Vec::new();
    for pack in order {
        let Some((bytes, _)) = used.get(&pack.id) else {
            // A mark of the future was made by a clock that ran ahead.
            let since = marks.get(&pack.id).copied().filter(|since| *since <= when.now);
            plan.marks.insert(pack.id, since.unwrap_or(when.now));
            continue;
        };
        let whole: u64 = pack.blobs.iter().map(|blob| u64::from(blob.length)).sum();
        stored += bytes;
        unused += whole - bytes;
        if whole > *bytes {
            partly.push((bytes * 1000 / whole, pack));
        }
    }
    partly.sort_by_key(|(share, pack)| (*share, pack.id));
    for (_, pack) in partly {
        if unused <= stored * SPARE / 100 {
            break;
        }
        if let Some((bytes, blobs)) = used.remove(&pack.id) {
            unused -= pack.blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>() - bytes;
            plan.rewrite.insert(pack.id, blobs);
            plan.marks.insert(pack.id, when.now);
        }
    }
    let staying = packs.iter().filter(|pack| used.contains_key(&pack.id));
    plan.merged = merge::small(staying, stored);
    for id in &plan.merged {
        if let Some((_, blobs)) = used.remove(id) {
            plan.rewrite.insert(*id, blobs);
            plan.marks.insert(*id, when.now);
        }
    }
    let is_ripe = |since: &Timestamp| when.now.duration_since(*since).unsigned_abs() >= when.grace;
    plan.remove = plan.marks.iter().filter(|(_, since)| is_ripe(since)).map(|(id, _)| *id).collect();
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(23 * 3600);

    fn id(number: u8) -> Id {
        Id::of(&[number])
    }

    fn pack(number: u8, blobs: &[u8]) -> Pack {
        let blob = |(at, number): (u32, &u8)| IndexedBlob {
            id: id(*number),
            kind: BlobKind::Data,
            offset: at * 100,
            length: 100,
            uncompressed_length: None,
        };
        let blobs: Vec<IndexedBlob> = (0..).zip(blobs).map(blob).collect();
        Pack { id: Id([number; 32]), size: 100 * blobs.len() as u64 + 50, blobs }
    }

    fn needed(blobs: &[u8]) -> HashSet<(BlobKind, Id)> {
        blobs.iter().map(|number| (BlobKind::Data, id(*number))).collect()
    }

    fn at(hour: i64) -> When {
        When { now: Timestamp::UNIX_EPOCH + hour.hours(), grace: GRACE }
    }

    #[test]
    fn what_nobody_needs_waits_and_goes_once_the_grace_is_over() {
        let packs = [pack(1, &[1, 2]), pack(2, &[3]), pack(3, &[])];
        let first = plan(&packs, &needed(&[1, 2]), &Marks::new(), at(100)).unwrap();
        assert_eq!(first.marks, Marks::from([2, 3].map(|number| (Id([number; 32]), at(100).now))));
        assert!(first.remove.is_empty());
        let soon = plan(&packs, &needed(&[1, 2]), &first.marks, at(122)).unwrap();
        assert_eq!((soon.remove.len(), &soon.marks), (0, &first.marks));
        let later = plan(&packs, &needed(&[1, 2]), &first.marks, at(123)).unwrap();
        assert_eq!(later.remove, BTreeSet::from([2, 3].map(|number| Id([number; 32]))));
        let wanted_again = plan(&packs, &needed(&[1, 2, 3]), &first.marks, at(123)).unwrap();
        assert_eq!(wanted_again.remove, BTreeSet::from([Id([3; 32])]));
        let ahead = Marks::from([(Id([2; 32]), at(9000).now)]);
        assert!(plan(&packs, &needed(&[1, 2]), &ahead, at(123)).unwrap().remove.is_empty());
    }

    #[test]
    fn a_pack_with_much_that_nobody_needs_is_rewritten_and_what_was_rewritten_is_not_again() {
        let packs = [pack(1, &[1, 2, 3, 4]), pack(2, &[5, 6, 7])];
        let first = plan(&packs, &needed(&[1, 5, 6, 7]), &Marks::new(), at(0)).unwrap();
        assert_eq!(first.rewrite.keys().collect::<Vec<_>>(), [&Id([1; 32])]);
        assert_eq!(first.rewrite[&Id([1; 32])].len(), 1);
        // Killed before the mark was written: the new pack counts all the same.
        let packs = [packs[0].clone(), packs[1].clone(), pack(0xff, &[1])];
        let second = plan(&packs, &needed(&[1, 5, 6, 7]), &Marks::new(), at(0)).unwrap();
        assert!(second.rewrite.is_empty());
        assert_eq!(second.marks.keys().collect::<Vec<_>>(), [&Id([1; 32])]);
    }

    #[test]
    fn what_is_needed_and_nowhere_is_named() {
        assert_eq!(
            plan(&[pack(1, &[1])], &needed(&[1, 2]), &Marks::new(), at(0)),
            Err(vec![(BlobKind::Data, id(2))])
        );
    }

    #[test]
    fn a_tree_is_needed_for_itself_though_a_file_of_its_text_is_there() {
        let mut both = [pack(1, &[1]), pack(2, &[1])];
        both[1].blobs[0].kind = BlobKind::Tree;
        let wanted = HashSet::from([(BlobKind::Data, id(1)), (BlobKind::Tree, id(1))]);
        assert!(plan(&both, &wanted, &Marks::new(), at(0)).unwrap().marks.is_empty());
        let missing = plan(&both[..1], &wanted, &Marks::new(), at(0));
        assert_eq!(missing, Err(vec![(BlobKind::Tree, id(1))]));
    }

    #[test]
    fn small_packs_that_were_put_together_and_not_yet_marked_are_not_put_together_again() {
        let mut packs: Vec<Pack> = (1..=8).map(|number| pack(number, &[number])).collect();
        let all: Vec<u8> = (1..=8).collect();
        let first = plan(&packs, &needed(&all), &Marks::new(), at(0)).unwrap();
        assert_eq!((first.merged.len(), first.rewrite.len(), first.marks.len()), (8, 8, 8));
        packs.push(pack(0xff, &all));
        let second = plan(&packs, &needed(&all), &Marks::new(), at(0)).unwrap();
        assert_eq!((second.rewrite.len(), second.marks.len()), (0, 8));
        assert!(!second.marks.contains_key(&Id([0xff; 32])));
    }

    proptest! {
        #[test]
        fn what_is_needed_is_always_in_a_pack_that_stays_or_is_rewritten(
            blobs in prop::collection::vec(prop::collection::vec(0_u8..40, 0..6), 1..20),
            wanted in prop::collection::vec(0_u8..40, 0..30),
            marked in prop::collection::vec((0_u8..20, 0_i64..60), 0..10),
        ) {
            let packs: Vec<Pack> = (0..).zip(&blobs).map(|(number, blobs)| pack(number, blobs)).collect();
            let there = needed(&blobs.concat());
            let needed: HashSet<(BlobKind, Id)> = needed(&wanted).intersection(&there).copied().collect();
            let marks: Marks = marked.iter().map(|(number, hour)| (Id([*number; 32]), at(*hour).now)).collect();
            let plan = plan(&packs, &needed, &marks, at(50)).unwrap();
            let stays = |pack: &&Pack| !plan.remove.contains(&pack.id) && !plan.marks.contains_key(&pack.id);
            let kept = packs.iter().filter(stays).flat_map(|pack| &pack.blobs);
            let held = kept.chain(plan.rewrite.values().flatten()).map(|blob| (blob.kind, blob.id));
            let held: HashSet<(BlobKind, Id)> = held.collect();
            prop_assert!(needed.is_subset(&held));
            prop_assert!(plan.remove.iter().all(|id| plan.marks.contains_key(id)));
            prop_assert!(plan.rewrite.keys().all(|id| plan.marks.contains_key(id)));
            let stored: u64 = needed.len() as u64 * 100;
            let left = packs.iter().filter(stays).flat_map(|pack| &pack.blobs).count() as u64 * 100;
            let moved = plan.rewrite.values().flatten().count() as u64 * 100;
            prop_assert!(left + moved <= stored + stored * SPARE / 100 , "{left} {moved} {stored}");
        }
    }
}
