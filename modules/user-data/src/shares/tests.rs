use super::*;
use pc_switcher_agent::proto::{FileTime, Meta, Share};

const BIG: u64 = 1 << 20;

fn steps_of(names: &[&str]) -> Steps {
    let mut steps = Steps::default();
    for (content, name) in (0..).zip(names) {
        let path = BytePath::from(*name);
        let body = Body::File { content, size: BIG };
        let (meta, replaces) = (Meta::default(), None);
        steps.ops.push(Op::Put { path: path.clone(), body, meta, replaces });
        steps.wants.push(ReadWant { content, path });
        let (ctime, mtime) = (FileTime::default(), FileTime::default());
        steps.versions.push(Identity { ino: 1, ctime, mtime, size: BIG });
        steps.stats.bytes += BIG;
        steps.need.data_bytes += BIG;
    }
    steps
}

fn file(path: &str) -> Origin {
    Origin::File { path: path.into(), size: BIG, mtime: FileTime::default() }
}

fn whole(content: u32, origin: Origin) -> Shares {
    let range = Share { at: 0, len: BIG, from_at: 0, origin: 0 };
    Shares { content, origins: vec![origin], ranges: vec![range] }
}

fn levels(steps: &Steps) -> Vec<Vec<u32>> {
    let contents = |level: &Vec<Built>| level.iter().map(|built| built.rest.content).collect();
    steps.built.iter().map(contents).collect()
}

#[test]
fn of_copies_only_the_first_is_sent() {
    let mut steps = steps_of(&["a", "b", "c"]);
    let shares = vec![whole(1, Origin::Asked(0)), whole(2, Origin::Asked(0))];
    rebuild(&mut steps, shares, &"/set".into(), |_| true);
    assert_eq!(levels(&steps), [[1, 2]]);
    assert_eq!((steps.stats.bytes, steps.need.data_bytes, steps.contents()), (BIG, BIG, 3));
    assert_eq!(steps.wants.len(), steps.versions.len());
    let bodies: Vec<bool> =
        steps.ops.iter().map(|op| matches!(op, Op::Put { body: Body::Built { .. }, .. })).collect();
    assert_eq!(bodies, [false, true, true]);
    let clones = &steps.built[0][1].clones;
    assert_eq!(clones, &[(CloneFrom::New("a".into()), vec![(0, 0, BIG)])]);
}

#[test]
fn what_the_target_does_not_have_as_it_was_is_sent() {
    let mut steps = steps_of(&["a", "b"]);
    let shares = vec![whole(0, file("old")), whole(1, file("edited"))];
    let is_there = |origin: &Origin| *origin == file("old");
    rebuild(&mut steps, shares, &"/set".into(), is_there);
    assert_eq!(levels(&steps), [[0]]);
    let from = CloneFrom::Sealed { root: "/set".into(), path: "old".into() };
    assert_eq!(steps.built[0][0].clones, [(from, vec![(0, 0, BIG)])]);
    assert_eq!(steps.wants.len(), 1);
}

#[test]
fn files_that_are_made_of_others_wait_for_them_and_a_long_chain_begins_anew() {
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    let mut steps = steps_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let shares = (1..8).map(|content| whole(content, Origin::Asked(content - 1))).collect();
    rebuild(&mut steps, shares, &"/set".into(), |_| true);
    assert_eq!(levels(&steps), [vec![1, 6], vec![2, 7], vec![3], vec![4]]);
    assert_eq!(steps.wants.iter().map(|want| want.content).collect::<Vec<_>>(), [0, 5]);
}

#[test]
fn nothing_is_made_of_what_comes_later_or_is_not_sent_and_little_is_not_worth_it() {
    let mut steps = steps_of(&["a", "b", "c"]);
    let little = Share { at: 0, len: LARGE - 1, from_at: 0, origin: 0 };
    let shares = vec![
        whole(0, Origin::Asked(1)),
        whole(1, Origin::Asked(9)),
        Shares { ranges: vec![little], ..whole(2, Origin::Asked(0)) },
    ];
    rebuild(&mut steps, shares, &"/set".into(), |_| true);
    assert!(steps.built.is_empty() && steps.wants.len() == 3, "{:?}", steps.built);
    let mut patched = steps_of(&["a"]);
    patched.patches.append(&mut patched.wants);
    rebuild(&mut patched, vec![whole(0, file("old"))], &"/set".into(), |_| true);
    assert!(patched.built.is_empty());
}
