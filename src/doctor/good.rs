//! Judgements over the sets that are marked as good: whether there is something to go back to, and whether that stays.

use pc_switcher_agent::proto::StoredSet;

use super::seen::Seen;
use super::{Finding, Gravity};

const CHECK: &str = "good";

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let finding = |gravity, text: String| Finding::new(seen.hostname(), gravity, CHECK, text);
    let sets = match &seen.good {
        Ok(sets) => sets,
        Err(why) => {
            let text = format!("it cannot be told whether there is a state that is known to be good: {why}");
            return vec![finding(Gravity::Note, text)];
        }
    };
    let newest = sets.iter().map(|stored| stored.set.transaction()).max();
    let mut found = Vec::new();
    for stored in sets {
        let id = stored.set.id();
        let is_newest = Some(stored.set.transaction()) == newest;
        let missing = stored.missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if stored.lost().next().is_some() {
            let text = format!(
                "set `{id}` is marked as good and something else removed {missing}: nothing goes back to it"
            );
            found.push(
                finding(Gravity::Warning, text)
                    .fix("pc-switcher snapshots good marks the state of now")
                    .fix(format!("pc-switcher snapshots good --none {id}")),
            );
            continue;
        }
        if !missing.is_empty() {
            let text = format!(
                "of set `{id}`, which is marked as good, something else removed {missing}: its pin stands in, for `rollback good` and at \
                 boot"
            );
            let fix = "pc-switcher snapshots good marks the state of now; `unpin --allow-loss` gives the pin up then";
            found.push(finding(Gravity::Note, text).fix(fix));
        }
        match &stored.hard {
            Some(pin) if pin.is_open => found.push(
                finding(
                    Gravity::Warning,
                    format!("`{}` is not immutable any more: set `{id}` may be removed", pin.dir),
                )
                .fix(format!("pc-switcher snapshots pin --hard {id}")),
            ),
            None if is_newest && !is_of_copies(stored) => found.push(
                finding(
                    Gravity::Note,
                    format!("set `{id}`, the newest good one, is not pinned hard: other tools may remove it"),
                )
                .fix(format!("pc-switcher snapshots good {id}")),
            ),
            _ => {}
        }
    }
    found
}

fn is_of_copies(stored: &StoredSet) -> bool {
    stored.set.members.iter().any(|member| member.name.subvolume.directory().is_some())
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::{HardPin, Words};
    use pc_switcher_contract::{SetId, SnapshotMember, SnapshotSet};

    use super::super::tests::healthy;
    use super::*;

    fn good(transaction: u64) -> StoredSet {
        let id: SetId = format!("20251115T120000Z-{transaction:08x}-postsync").parse().unwrap();
        let name = format!("@-postsync-{}-{}", id.stamp, id.session);
        let member = SnapshotMember {
            path: format!("/.snapshots/{name}").as_str().into(),
            name: name.parse().unwrap(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 1,
            otransid: transaction,
            ctransid: transaction,
            first_taken: None,
            apart: None,
        };
        StoredSet {
            set: SnapshotSet {
                hostname: "desk".parse().unwrap(),
                kind: id.kind,
                stamp: id.stamp,
                session: id.session,
                consistent: true,
                members: vec![member],
            },
            backend: pc_switcher_agent::proto::Backend::Btrfs,
            pinned: false,
            hard: Some(HardPin {
                dir: "/pins/x".into(),
                lacks: Vec::new(),
                is_open: false,
                is_for_mark: true,
            }),
            in_use: false,
            holders: Vec::new(),
            has_steps: false,
            needs: Vec::new(),
            missing: Vec::new(),
            away: Vec::new(),
            words: Words { good: true, ..Words::default() },
            system: None,
        }
    }

    fn said(change: impl FnOnce(&mut Vec<StoredSet>)) -> Vec<(Gravity, String)> {
        let mut seen = healthy("desk");
        let mut sets = vec![good(7), good(9)];
        change(&mut sets);
        seen.good = Ok(sets);
        findings(&seen)
            .into_iter()
            .map(|found| (found.gravity, format!("{} {:?}", found.text, found.fix)))
            .collect()
    }

    #[track_caller]
    fn assert_said(change: impl FnOnce(&mut Vec<StoredSet>), gravity: Gravity, words: &str) {
        let found = said(change);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == gravity && found[0].1.contains(words), "{found:?}");
    }

    #[test]
    fn a_good_state_that_something_else_removed_or_may_remove_is_named_with_the_way() {
        assert_eq!(said(|_| ()), []);
        assert_eq!(said(|sets| sets[0].hard = None), [], "an older one needs none");
        assert_said(|sets| sets[1].hard = None, Gravity::Note, "newest good one, is not pinned hard");
        let missing = |stored: &mut StoredSet| stored.missing = vec![stored.set.members[0].name.clone()];
        assert_said(|sets| missing(&mut sets[1]), Gravity::Note, "its pin stands in, for `rollback good`");
        let lost = |sets: &mut Vec<StoredSet>| {
            missing(&mut sets[0]);
            sets[0].hard = None;
        };
        assert_said(lost, Gravity::Warning, "nothing goes back to it");
        let open = |sets: &mut Vec<StoredSet>| sets[1].hard.as_mut().unwrap().is_open = true;
        assert_said(open, Gravity::Warning, "snapshots pin --hard 20251115T120000Z-00000009-postsync");
    }
}
