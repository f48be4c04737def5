//! Sets over two file systems, of which one is not there, on real ones.

use super::apart_tests::Two;
use super::*;

#[test]
fn a_place_below_the_disks_own_mount_that_is_not_mounted_is_away_though_its_mount_point_is_on_that_disk() {
    let Some(two) = Two::make_at("below", "top/@below-far/.snapshots") else { return };
    let (first, second) = (two.take("aaaaaaaa"), two.take("bbbbbbbb"));
    two.detach();
    assert!(two.place.is_dir(), "the mount point is there, on that disk");
    for stored in two.list().0 {
        assert_eq!((stored.missing.len(), stored.away.len()), (0, 1), "{stored:?}");
    }
    let error = two.store().delete(&first.id(), || Ok(Vec::new())).unwrap_err();
    assert!(error.message.contains("mount it and try again"), "{error}");
    let done = two.store().delete_all(&[first.id(), second.id()], || Ok(Needs::default())).unwrap();
    assert!(done.iter().all(|(_, why)| why.as_ref().is_some_and(|why| why.contains("mount it"))), "{done:?}");
    // One that is half removed is not forgotten either.
    two.store().sidecar(&second.id()).unpublish().unwrap();
    two.take_in(&two.store(), "cccccccc", &[0, 1]).unwrap();
    assert!(two.store().sidecar(&second.id()).intent(&second.id()).is_some(), "what names it stays");
    two.attach();
    assert!(second.members[2].path.as_path().is_dir());
    two.take_in(&two.store(), "dddddddd", &[0, 1]).unwrap();
    assert!(!second.members[2].path.as_path().exists(), "it is finished now");
    two.store().delete(&first.id(), || Ok(Vec::new())).unwrap();
    assert!(!first.members[2].path.as_path().exists());
    assert_eq!((two.list().0.len(), two.left().len()), (2, 4));
}
