use pc_switcher_agent::proto::{Meta, Skip};

use super::*;

fn file(name: &str, size: u64, seconds: i64, ino: u64) -> Entry {
    let meta =
        Meta { mode: 0o644, uid: 1000, gid: 1000, mtime: FileTime { seconds, nanos: 0 }, xattrs: vec![] };
    let ctime = FileTime { seconds, nanos: 0 };
    Entry {
        name: name.into(),
        kind: Kind::File,
        meta,
        size,
        allocated: size,
        ctime,
        ino,
        nlink: 1,
        target: BytePath::default(),
    }
}

fn dir(entries: Vec<Entry>) -> DirListing {
    DirListing { path: BytePath::default(), root: None, entries, skipped: vec![], more: false }
}

fn compare(ours: &DirListing, theirs: &DirListing, base: Option<&DirListing>) -> DirResult {
    let judge = Judge { has_base: base.is_some(), ..Judge::default() };
    compare_dir(&BytePath::default(), Sides::Both, [Some(ours), Some(theirs), base, None], judge, None)
}

#[test]
fn equal_directories_need_nothing() {
    let ours = dir(vec![file("a", 1, 10, 5)]);
    let theirs = dir(vec![file("a", 1, 10, 77)]);
    let result = compare(&ours, &theirs, None);
    assert!(result.found.is_empty() && result.suspects.is_empty() && result.children.is_empty());
}

#[test]
fn what_is_no_directory_and_has_several_names_is_told_of_whatever_its_kind() {
    for kind in [Kind::File, Kind::Symlink, Kind::Fifo] {
        let named = |ino, nlink| Entry { kind, nlink, ..file("a", 1, 10, ino) };
        for (ours, theirs) in [(2, 1), (1, 2)] {
            let result = compare(&dir(vec![named(5, ours)]), &dir(vec![named(77, theirs)]), None);
            let seen: Vec<_> = result.links.iter().map(|link| link.target.map(|target| target.ino)).collect();
            assert_eq!(seen, [Some(77)], "{kind:?}");
        }
        // What stands there is something else.
        let result =
            compare(&dir(vec![named(5, 2)]), &dir(vec![Entry { kind: Kind::Dir, ..named(77, 1) }]), None);
        assert_eq!(result.links.iter().map(|link| link.target).collect::<Vec<_>>(), [None], "{kind:?}");
    }
    let dirs = |nlink| dir(vec![Entry { kind: Kind::Dir, nlink, ..file("a", 1, 10, 5) }]);
    assert!(compare(&dirs(3), &dirs(2), None).links.is_empty());
}

#[test]
fn a_file_changed_on_both_machines_is_settled_by_content() {
    let base = dir(vec![file("a", 1, 10, 7)]);
    let result = compare(&dir(vec![file("a", 2, 20, 5)]), &dir(vec![file("a", 2, 30, 7)]), Some(&base));
    assert_eq!(result.suspects.len(), 1);
    let suspect = result.suspects[0].clone();
    assert!(settle(suspect.clone(), false).unwrap().touched);
    let equal = settle(suspect, true).unwrap();
    assert!(!equal.touched && matches!(equal.change, Change::Meta(..)));
}

#[test]
fn a_mode_that_was_set_on_the_target_is_touched_though_the_content_is_equal() {
    let base = dir(vec![file("a", 1, 10, 7)]);
    let mut theirs = dir(vec![file("a", 1, 10, 7)]);
    theirs.entries[0].meta.mode ^= 0o100;
    theirs.entries[0].ctime.seconds += 1;
    let result = compare(&dir(vec![file("a", 1, 10, 5)]), &theirs, Some(&base));
    let found = settle(result.suspects[0].clone(), true).unwrap();
    assert!(found.touched && matches!(found.change, Change::Meta(..)));
}

#[test]
fn a_file_that_the_target_deleted_since_is_a_touched_create() {
    let base = dir(vec![file("a", 1, 10, 7)]);
    let result = compare(&dir(vec![file("a", 1, 10, 5)]), &dir(vec![]), Some(&base));
    assert!(matches!(&result.found[..], [Found { change: Change::Create(_), touched: true, .. }]));
}

#[test]
fn a_file_that_the_target_made_since_is_a_touched_delete() {
    let result = compare(&dir(vec![]), &dir(vec![file("new", 1, 10, 7)]), Some(&dir(vec![])));
    assert!(matches!(&result.found[..], [Found { change: Change::Delete(..), touched: true, .. }]));
}

#[test]
fn what_the_target_excludes_is_never_deleted_or_overwritten() {
    let mut theirs = dir(vec![]);
    theirs.skipped.push(Skip { name: "s".into(), reason: SkipReason::Socket });
    let result = compare(&dir(vec![file("s", 1, 10, 5)]), &theirs, None);
    assert!(result.found.is_empty() && result.holds_excluded);
    assert!(matches!(&result.left_alone[..], [LeftAlone { is_missed: true, .. }]), "{:?}", result.left_alone);
    // The other way round nothing is missing there.
    let mut ours = dir(vec![]);
    ours.skipped = theirs.skipped;
    let result = compare(&ours, &dir(vec![file("s", 1, 10, 5)]), None);
    assert!(
        matches!(&result.left_alone[..], [LeftAlone { is_missed: false, .. }]),
        "{:?}",
        result.left_alone
    );
}

#[test]
fn an_edit_that_keeps_size_and_time_is_a_suspect_by_its_inode_time() {
    let mut edited = file("a", 1, 10, 5);
    edited.ctime.seconds = 99;
    let judge = Judge { source_after: Some(FileTime { seconds: 50, nanos: 0 }), ..Judge::default() };
    let (ours, theirs) = (dir(vec![edited]), dir(vec![file("a", 1, 10, 7)]));
    let result =
        compare_dir(&BytePath::default(), Sides::Both, [Some(&ours), Some(&theirs), None, None], judge, None);
    assert_eq!(result.suspects.len(), 1);
}

#[test]
fn a_directory_over_a_file_is_replaced_and_its_children_are_new() {
    let mut d = file("x", 0, 10, 5);
    d.kind = Kind::Dir;
    let result = compare(&dir(vec![d]), &dir(vec![file("x", 1, 10, 7)]), None);
    assert!(matches!(&result.found[..], [Found { change: Change::Replace(_, _, Kind::File), .. }]));
    assert_eq!(result.children[0].sides, Sides::Source);
}

#[test]
fn noise_in_a_directory_s_time_is_no_touch() {
    let at = |seconds| {
        let mut d = file("d", 0, seconds, 7);
        d.kind = Kind::Dir;
        d
    };
    let result = compare(&dir(vec![at(20)]), &dir(vec![at(30)]), Some(&dir(vec![at(10)])));
    assert!(matches!(&result.found[..], [Found { change: Change::Meta(..), touched: false, .. }]));
}

#[test]
fn a_directory_s_time_can_be_left_out_of_a_second_look() {
    let at = |seconds, mode| {
        let mut d = file("d", 0, seconds, 7);
        d.kind = Kind::Dir;
        d.meta.mode = mode;
        d
    };
    let judge = Judge { ignore_dir_times: true, ..Judge::default() };
    let look = |ours: Entry, theirs: Entry| {
        let (ours, theirs) = (dir(vec![ours]), dir(vec![theirs]));
        compare_dir(&BytePath::default(), Sides::Both, [Some(&ours), Some(&theirs), None, None], judge, None)
            .found
            .len()
    };
    assert_eq!((look(at(20, 0o755), at(30, 0o755)), look(at(20, 0o755), at(30, 0o700))), (0, 1));
}

#[test]
fn a_directory_of_keys_never_takes_the_place_of_a_link_to_one() {
    let mut keys = file(".ssh", 0, 10, 5);
    keys.kind = Kind::Dir;
    let mut link = file(".ssh", 0, 10, 7);
    link.kind = Kind::Symlink;
    let result = compare(&dir(vec![keys]), &dir(vec![link]), None);
    assert!(result.found.is_empty());
    assert_eq!((result.left_alone.len(), result.children[0].sides), (1, Sides::Ignore));
}

#[test]
fn a_file_that_is_another_one_than_then_is_compared_by_content_whatever_its_times_say() {
    let compare = |was: Option<Entry>, judge| {
        let [ours, theirs] = [dir(vec![file("a", 5, 10, 7)]), dir(vec![file("a", 5, 10, 9)])];
        let before = dir(was.into_iter().collect());
        compare_dir(
            &BytePath::default(),
            Sides::Both,
            [Some(&ours), Some(&theirs), None, Some(&before)],
            judge,
            None,
        )
    };
    let judge = Judge { has_before: true, ..Judge::default() };
    let same = compare(Some(file("a", 5, 10, 7)), judge);
    assert!(same.suspects.is_empty() && same.found.is_empty());
    let kept_its_time = Entry { ctime: FileTime { seconds: -3, nanos: 0 }, ..file("a", 5, 10, 7) };
    for was in [Some(file("a", 6, 10, 7)), Some(kept_its_time), None] {
        assert_eq!(compare(was.clone(), judge).suspects.len(), 1, "{was:?}");
        assert!(compare(was, Judge::default()).suspects.is_empty(), "nobody knows what it was");
    }
}

#[test]
fn what_was_written_under_an_unchanged_time_is_compared_by_content() {
    let [ours, theirs, was] =
        [7, 9, 7].map(|ino| dir(vec![file("a", 5, 10, ino), file("b", 5, 10, ino + 1)]));
    let judge = Judge { has_before: true, ..Judge::default() };
    let silent = HashSet::from([BytePath::from("a")]);
    let listings = [Some(&ours), Some(&theirs), None, Some(&was)];
    let result = compare_dir(&BytePath::default(), Sides::Both, listings, judge, Some(&silent));
    assert_eq!(result.suspects.iter().map(|one| one.path.to_string()).collect::<Vec<_>>(), ["a"]);
}
