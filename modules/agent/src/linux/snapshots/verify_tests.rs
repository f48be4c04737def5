//! What a look at sets finds, over the model and over a real image with a damaged disk.

use std::fs::{self, File};
use std::path::Path;

use super::tests::{Bench, HOME, request};
use super::*;
use crate::linux::btrfs::image::Image;
use crate::proto::{Finding, decode};

fn look(store: &Store<'_>, deep: bool) -> (Verified, Vec<Finding>) {
    let (call, frames) = Call::for_test(Vec::new());
    let seen = store.verify(&[], deep, &call).unwrap();
    drop(call);
    let mut rest = frames.try_iter().flatten().collect::<Vec<u8>>();
    let mut findings = Vec::new();
    let mut input = std::io::Cursor::new(std::mem::take(&mut rest));
    while let Ok(Some(frame)) = crate::frame::read(&mut input) {
        findings.push(decode::<Finding>(&frame.body).unwrap());
    }
    (seen, findings)
}

fn whats(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.what.as_str()).collect()
}

#[test]
fn a_whole_set_has_nothing_wrong_and_a_lost_member_or_toc_is_found() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    let (seen, findings) = look(&bench.store(), true);
    assert_eq!((seen.sets, seen.members, seen.files, findings), (1, 2, 1, vec![]));
    bench.model.destroy(&bench.dir(), HOME.as_ref()).unwrap();
    let (_, findings) = look(&bench.store(), true);
    assert_eq!((whats(&findings), findings[0].member.as_deref()), (vec!["is gone"], Some(HOME)));

    bench.model.snapshot(&bench.top.join("@home"), &bench.dir(), HOME.as_ref()).unwrap();
    let (_, findings) = look(&bench.store(), false);
    assert_eq!(whats(&findings), ["is another subvolume than the one that was taken"]);

    let toc = bench.store().sidecar(&set.id()).dir().join("toc");
    let text = fs::read_to_string(&toc).unwrap();
    fs::write(&toc, text.lines().next().unwrap()).unwrap();
    assert!(whats(&look(&bench.store(), false).1)[0].contains("different members"));
    fs::remove_file(&toc).unwrap();
    let (seen, findings) = look(&bench.store(), false);
    assert_eq!((seen.sets, findings.len(), findings[0].member.clone()), (0, 1, None));
    assert!(findings[0].what.contains("`toc` is gone"));
    let _lock = bench.store().lock().unwrap();
    assert!(look(&bench.store(), false).1.is_empty(), "somebody takes or removes sets right now");
}

#[test]
fn an_unreadable_record_is_found_and_a_set_that_is_not_there_is_refused() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    fs::write(bench.store().sidecar(&set.id()).dir().join("meta.json"), "{").unwrap();
    assert!(whats(&look(&bench.store(), false).1)[0].contains("record cannot be read"));
    let (call, _frames) = Call::for_test(Vec::new());
    let other = "20250101T000000Z-abc12345-manual".parse().unwrap();
    assert!(bench.store().verify(&[other], false, &call).unwrap_err().message.contains("there is no set"));
}

fn take_real(image: &Image, mounts: &Mounts) -> SnapshotSet {
    let store = Store::new(&KernelBtrfs, &image.top().join("@snapshots"));
    let request = request(store.dir(), "abc12345", &["@verify-home"]);
    set::take(&store, mounts, "laptop".parse().unwrap(), &request, &Said::default()).unwrap().0
}

fn real() -> Option<(Image, Mounts)> {
    let image = Image::make(256)?;
    ["@verify-home", "@snapshots"].iter().for_each(|name| image.create(name));
    Some((image, Mounts::read().unwrap()))
}

#[test]
fn an_edit_between_writable_and_read_only_again_is_found_on_a_real_disk() {
    let Some((image, mounts)) = real() else { return };
    let file = image.top().join("@verify-home/letter");
    fs::write(&file, "dear").unwrap();
    let set = take_real(&image, &mounts);
    let path = set.members[0].path.as_path();
    let store = Store::new(&KernelBtrfs, &image.top().join("@snapshots"));
    let flip = |edit: &dyn Fn()| {
        KernelBtrfs.set_readonly(path, false).unwrap();
        edit();
        KernelBtrfs.set_readonly(path, true).unwrap();
    };
    flip(&|| {});
    assert!(look(&store, true).1.is_empty(), "a flip alone changes nothing");
    let append = || {
        let mut letter = File::options().append(true).open(path.join("letter")).unwrap();
        std::io::Write::write_all(&mut letter, b"est").unwrap();
    };
    flip(&append);
    assert_eq!(whats(&look(&store, false).1), ["was changed after it was taken"]);
    KernelBtrfs.set_readonly(path, false).unwrap();
    assert_eq!(whats(&look(&store, false).1), ["is writable"]);
}

/// Overwrites every copy of `needle` in the image behind the file system's back.
fn damage(image: &Path, needle: &[u8]) -> usize {
    use std::os::unix::fs::FileExt;
    let bytes = fs::read(image).unwrap();
    let file = File::options().write(true).open(image).unwrap();
    let places: Vec<usize> =
        bytes.windows(needle.len()).enumerate().filter(|(_, at)| *at == needle).map(|(at, _)| at).collect();
    places.iter().for_each(|at| file.write_all_at(b"rot!", *at as u64).unwrap());
    file.sync_all().unwrap();
    places.len()
}

#[test]
fn a_deep_look_names_the_file_whose_content_the_disk_has_damaged() {
    let Some((image, mounts)) = real() else { return };
    let home = image.top().join("@verify-home");
    fs::create_dir(home.join("alice")).unwrap();
    let needle = b"the needle that is to be found in the image of a disk";
    let mut content = vec![7; 64 << 10];
    content[..needle.len()].copy_from_slice(needle);
    fs::write(home.join("alice/damaged"), &content).unwrap();
    fs::write(home.join("alice/whole"), vec![8; 64 << 10]).unwrap();
    take_real(&image, &mounts);
    KernelBtrfs.sync(image.top()).unwrap();
    assert!(damage(&image.dir().join("image"), needle) > 0);
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let store = Store::new(&KernelBtrfs, &image.top().join("@snapshots"));
    assert!(look(&store, false).1.is_empty());
    let (seen, findings) = look(&store, true);
    assert_eq!((seen.files, findings.len()), (2, 1), "{findings:?}");
    assert_eq!(findings[0].path, "alice/damaged".into());
    assert!(findings[0].what.contains("damaged"), "{findings:?}");
}
