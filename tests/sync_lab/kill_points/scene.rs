//! What is synced: an old tree on the desk, a new one on the laptop, and every kind of step between them.

use std::{
    collections::BTreeSet,
    fs,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::PathBuf,
};

use pc_switcher_testkit::{
    lab::{Lab, Result},
    manifest::{Entry, Kind, ManifestOptions, TreeManifest},
};
use rustix::fs::{AtFlags, statat};

use super::boxes::{self, REACHED};
use crate::hosts::{HOME, alice, configure, first_sync, home, install, root};

/// The state of both machines in which every point begins.
const READY: &str = "ready";
/// How many paths tell how far a commit is.
const PROBES: usize = 64;

/// 1200 small files, 40 of some blocks and large ones, names that are one inode, links, a pair that will be swapped, and two nested
/// subvolumes.
const OLD: &str = "mkdir work; cd work
    for d in {00..11}; do mkdir d$d; for f in {00..99}; do echo old-$d-$f >d$d/f$f; done; done
    head -c 30M /dev/urandom >big; head -c 20M /dev/urandom >image
    mkdir mid; for f in {00..39}; do head -c 40000 /dev/urandom >mid/$f; done
    for n in {0..9}; do ln d11/f0$n twin-$n; ln -s d11/f0$n link-$n; done
    mkdir -p left/deep right/deep becomes-file/sub gone/far/down
    echo left >left/deep/name; echo right >right/deep/name; echo x >becomes-file/sub/x
    echo gone >gone/far/down/file; echo y >becomes-dir";

/// Contents, whole or a few blocks of them, modes, times, attributes, names, kinds: all that can become another. Copies that share with
/// what the desk has, whole and a range, and with what is new; a file that is compressed on the disk; work in nested subvolumes.
const NEW: &str = "cd work
    cp --reflink=always image copy; cp --reflink=always image range; truncate -s 8M range
    head -c 1M /dev/urandom | dd of=range bs=1M conv=notrunc,fsync status=none
    head -c 4M /dev/urandom >film; cp --reflink=always film film-copy; cp --reflink=always film film-cut; truncate -s 3M film-cut
    head -c 70000 /dev/urandom | dd of=film-cut bs=4096 seek=99 conv=notrunc,fsync status=none
    touch packed; chattr +c packed; seq 200000 >packed; sync packed; chattr -c packed
    for f in d00/* d01/* d02/*; do echo new-$f >$f; done
    for f in d03/* d04/*; do echo saved-$f >.save; mv .save $f; done
    rm -r d05 gone; mv d06 m06; chmod 600 d07/*; touch d08/*; setfattr -n user.tag -v new d09/*
    chmod 640 d10/*; setfattr -n user.tag -v new d10/*; touch d10/*
    mkdir n00 n01; for d in n00 n01; do for f in {00..99}; do echo fresh-$f >$d/f$f; done; done
    head -c 30M /dev/urandom >big; truncate -s 19M image
    for n in 1 5 9 13; do head -c 9000 /dev/urandom | dd of=image bs=1M seek=$n conv=notrunc status=none; done
    for f in mid/*; do printf changed | dd of=$f bs=20000 seek=1 conv=notrunc status=none; done
    for n in {0..4}; do rm twin-$n; echo alone >twin-$n; ln -sfn d10/f0$n link-$n; done
    ln d10/f00 joined; mv left swap; mv right left; mv swap right
    rm -r becomes-file; echo file >becomes-file; rm becomes-dir; mkdir becomes-dir; echo in >becomes-dir/inside";

/// Both trees as they are when a point begins.
pub struct Scene {
    old: TreeManifest,
    pub new: TreeManifest,
    probes: Vec<(PathBuf, (i64, u32))>,
}

/// How many of the paths that differ between both trees are which version.
#[derive(Debug, Default)]
pub struct Judged {
    pub fresh: usize,
    pub stale: usize,
    /// Old and new in content, but with some of their metadata old and some new.
    pub between: usize,
    /// What is none of these.
    pub wrong: Vec<String>,
}

impl Scene {
    /// Makes the program, both trees and the state that every point begins with.
    pub fn make(lab: &Lab) -> Result<Self> {
        let (laptop, desk) = (lab.laptop(), lab.desk());
        install(laptop)?;
        configure(laptop, &super::point::config());
        alice(laptop, OLD);
        if !super::is_plain() {
            boxes::make(laptop);
        }
        first_sync(lab);
        if super::is_fallback() {
            [laptop, desk]
                .into_iter()
                .for_each(|machine| drop(root(machine, "rm -r /var/lib/pc-switcher/pairs")));
        }
        alice(laptop, NEW);
        if !super::is_plain() {
            boxes::change(laptop, !super::is_fallback());
        }
        lab.snapshot(READY)?;
        let (old, new) = (home(desk), home(laptop));
        // Told by their times, since that takes no reading.
        let is_told = |path: &[u8], entry: &Entry| {
            let was = old.get(as_path(path)).map(|old| old.modified);
            matches!(entry.kind, Kind::File { .. })
                && was != Some(entry.modified)
                && !boxes::is_coming(&as_path(path))
        };
        let changed = new.entries().filter(|(path, entry)| is_told(path, entry));
        let changed: Vec<_> = changed.map(|(path, entry)| (as_path(path), entry.modified)).collect();
        let probes = changed.iter().step_by(changed.len().div_ceil(PROBES)).cloned().collect();
        Ok(Self { old, new, probes })
    }

    /// Sets both machines back.
    pub fn begin(lab: &Lab) -> Result<()> {
        lab.reset(READY)
    }

    /// Returns how much of the new tree is live on the desk, told from a few paths.
    pub fn committed(&self, lab: &Lab) -> f64 {
        let Ok(root) = lab.desk().root_path().map(|root| fs::File::open(root.join(&HOME[1..]))) else {
            return 0.0;
        };
        let Ok(root) = root else { return 0.0 };
        let is_new = |(path, wanted): &&(PathBuf, (i64, u32))| {
            statat(root.as_fd(), path, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| (stat.st_mtime, stat.st_mtime_nsec as u32) == *wanted)
        };
        self.probes.iter().filter(is_new).count() as f64 / self.probes.len() as f64
    }

    /// Tells of each path which version it is.
    pub fn judge(&self, now: &TreeManifest) -> Judged {
        let mut judged = Judged::default();
        for path in self.paths(now) {
            let [old, new, now] = [&self.old, &self.new, now].map(|tree| tree.get(as_path(path)));
            match (is_same(now, old), is_same(now, new)) {
                (true, true) => {}
                (true, false) => judged.stale += 1,
                (false, true) => judged.fresh += 1,
                (false, false) if is_between(now, old, new) => judged.between += 1,
                (false, false) if boxes::is_just_made(&as_path(path), now, old) => judged.between += 1,
                (false, false) => {
                    let path = path.escape_ascii();
                    judged.wrong.push(format!("`{path}`: {now:?}, was {old:?}, becomes {new:?}"));
                }
            }
        }
        judged
    }

    /// Returns what of a tree is not as a sync leaves it that was stopped before or after any of its commits, of the one that is
    /// closest; empty if it is one of them.
    pub fn differences(&self, now: &TreeManifest) -> Vec<String> {
        let paths = self.paths(now);
        let all = REACHED.map(|reached| {
            let odd = paths.iter().filter_map(|path| {
                let path = as_path(path);
                let [old, new, now] = [&self.old, &self.new, now].map(|tree| tree.get(&path));
                let text = || format!("`{}`: {now:?}, was {old:?}, becomes {new:?}", path.display());
                (!reached.has(&path, now, old, new)).then(text)
            });
            odd.collect::<Vec<_>>()
        });
        all.into_iter().min_by_key(Vec::len).unwrap_or_default()
    }

    /// Returns every path of the trees and of another one.
    fn paths<'a>(&'a self, now: &'a TreeManifest) -> BTreeSet<&'a Vec<u8>> {
        [&self.old, &self.new, now]
            .into_iter()
            .flat_map(TreeManifest::entries)
            .map(|(path, _)| path)
            .collect()
    }
}

/// Whether content and name are what they were and will be, and the rest of what is known of a path is partly old and
/// partly new: an inode that stays gets its new owner, mode, attributes and time one after the other.
fn is_between(now: Option<&Entry>, old: Option<&Entry>, new: Option<&Entry>) -> bool {
    let (Some(now), Some(old), Some(new)) = (now, old, new) else { return false };
    let attributes = |entry: &Entry| entry.attributes.keys().cloned().collect::<Vec<_>>();
    let names = [old, new, now].into_iter().flat_map(attributes).collect::<BTreeSet<_>>();
    now.kind == old.kind
        && now.kind == new.kind
        && [old.mode, new.mode].contains(&now.mode)
        && [(old.uid, old.gid), (new.uid, new.gid)].contains(&(now.uid, now.gid))
        && (now.kind == Kind::Directory || [old.modified, new.modified].contains(&now.modified))
        && names.iter().all(|name| {
            let [now, old, new] = [now, old, new].map(|entry| entry.attributes.get(name));
            now == old || now == new
        })
}

/// Whether a path is the version that a person knows. Of a directory its time changes with each name in it, and which
/// other name is the same inode is seen at that name.
fn is_same(now: Option<&Entry>, known: Option<&Entry>) -> bool {
    match (now, known) {
        (Some(now), Some(known)) if now.kind == Kind::Directory => {
            (&now.kind, now.mode, now.uid, now.gid, &now.attributes)
                == (&known.kind, known.mode, known.uid, known.gid, &known.attributes)
        }
        (Some(now), Some(known)) => {
            Entry { hard_link_of: known.hard_link_of.clone(), ..now.clone() } == *known
        }
        (now, known) => now.is_none() && known.is_none(),
    }
}

fn as_path(path: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(path).into()
}

#[test]
fn what_is_neither_old_nor_new_or_missing_is_told_and_a_mixed_tree_is_no_whole_one() {
    let tree = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let names = files.iter().map(|(name, _)| *name);
        for name in names.chain(["."]) {
            fs::File::open(dir.path().join(name)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        TreeManifest::read(dir.path(), &ManifestOptions::new()).unwrap()
    };
    let old = tree(&[("both", "one"), ("gone", "x"), ("kept", "same")]);
    let new = tree(&[("both", "two"), ("fresh", "y"), ("kept", "same")]);
    let scene = Scene { old, new, probes: Vec::new() };
    let judge = |files: &[(&str, &str)]| {
        let Judged { fresh, stale, wrong, .. } = scene.judge(&tree(files));
        let paths = wrong.iter().map(|text| text.split('`').nth(1).unwrap().to_owned());
        (fresh, stale, paths.collect::<Vec<_>>())
    };
    let mixed = [("both", "two"), ("gone", "x"), ("kept", "same")];
    assert_eq!(judge(&mixed), (1, 2, Vec::new()));
    assert_eq!(scene.differences(&tree(&mixed)).len(), 1);
    assert!(scene.differences(&scene.new).is_empty() && scene.differences(&scene.old).is_empty());
    assert_eq!(judge(&[("both", "tw"), ("kept", "same")]), (1, 1, vec!["both".to_owned()]));
    assert_eq!(judge(&[("gone", "x"), ("fresh", "y"), ("what", "")]).2, ["both", "kept", "what"]);
}
