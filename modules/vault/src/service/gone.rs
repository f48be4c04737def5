//! What is gone: deleted, or on a disk that is not mounted.
//!
//! Where all that was known of a tracked directory is missing, or of a directory in it on which something is or was mounted, its disk
//! may be away: nothing is noted until somebody says that it is gone for good.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::backup::PAGE;
use super::source::{Looking, Looks, missed};
use super::status::is_gone;
use super::{BackupReport, Service, View};
use crate::catalogue::{CurrentFile, Directory, StagedItem};
use crate::engine::workers;
use crate::error::Result;

/// How a directory stands to what is known of it.
#[derive(Default)]
struct Compared {
    /// What is gone since the last backup.
    gone: Vec<Missing>,
    /// What is back.
    back: Vec<i64>,
    /// How much of it is there.
    left: u64,
    /// The directories in it on which something is or was mounted.
    mounts: Vec<Mount>,
}

struct Missing {
    file_id: i64,
    name: PathBuf,
    is_dir: bool,
}

struct Mount {
    file_id: i64,
    name: PathBuf,
    was: bool,
    is: bool,
    /// How much of what is known below it is there.
    left: u64,
}

/// So many of the files of a tracked directory that go at once are a loss, if they are most of them.
pub(super) const MANY: u64 = 100;

impl Mount {
    fn has(&self, name: &Path) -> bool {
        name != self.name && name.starts_with(&self.name)
    }
}

impl Service {
    /// Notes which files are gone. A tracked directory that is missing, or without any of its files, may not be mounted:
    /// nothing is noted of it, nor of what is or was a mount point in it.
    pub(super) fn note_deleted(&mut self, report: &mut BackupReport) -> Result<()> {
        let (mut changes, mut mounted) = (Vec::new(), Vec::new());
        for directory in self.catalogue.directories()? {
            let shown = directory.path.display();
            let fix = "its versions stay as they are; is its disk mounted? if they are gone for good,";
            let fix_tracked =
                format!("{fix} `bt backup --gone {shown}` notes it and `bt dir forget {shown}` forgets them");
            let is_confirmed = self.is_confirmed(&directory.path);
            if !self.view.real(&directory.path).is_dir() && !is_confirmed {
                report.warnings.push(format!("`{shown}` is not there; {fix_tracked}"));
                report.incomplete = true;
                continue;
            }
            let looking = self.looking.get(&directory.id);
            let Compared { mut gone, back, left, mounts } = match looking {
                Some(Looking::At(looks)) => self.compare_looks(&directory, looks)?,
                _ => self.compare_with_disk(&directory)?,
            };
            if let Some(Looking::ToProve(looks)) = looking {
                let paths = gone.iter().map(|one| directory.path.join(&one.name));
                let beside = paths.filter(|path| !looks.cover(path));
                report.troubles.extend(beside.map(|path| missed(path, "is gone")));
            }
            if !gone.is_empty() && left == 0 && !is_confirmed {
                let count = gone.len();
                report
                    .warnings
                    .push(format!("none of the {count} files of `{shown}` is there; {fix_tracked}"));
                report.incomplete = true;
                continue;
            }
            for mount in &mounts {
                let path = directory.path.join(&mount.name);
                let is_confirmed = self.is_confirmed(&path);
                let missing = gone.iter().filter(|one| mount.has(&one.name)).count();
                if missing > 0 && mount.left == 0 && !is_confirmed {
                    gone.retain(|one| !one.name.starts_with(&mount.name));
                    let shown = path.display();
                    report.warnings.push(format!(
                        "none of the {missing} files of `{shown}` is there, on which another file system is or was \
                         mounted; {fix} `bt backup --gone {shown}` notes it"
                    ));
                    report.incomplete = true;
                }
                // In a snapshot nothing is mounted, whatever is where it lies.
                let is_free = !mount.is && (mount.left > 0 && !is_mount(&path) || is_confirmed);
                if mount.is != mount.was && (mount.is || is_free) {
                    mounted.push((mount.file_id, mount.is));
                }
            }
            // What is gone and comes back as it was is no change to the file system. Whoever looked where it says so records a base anew.
            if !gone.is_empty() {
                self.catalogue.set_base(&directory, None)?;
            }
            let files = gone.iter().filter(|one| !one.is_dir).count() as u64;
            if files >= MANY && files > left && !is_confirmed {
                self.catalogue.note_loss(&directory.path, files, (self.around.clock)())?;
                report.warnings.push(format!(
                    "{files} files of `{shown}` are gone, {left} are left; `bt prune` lets the last backup that has them go after \
                     `bt prune --accept-losses` only"
                ));
            }
            report.deleted += files;
            changes.extend(gone.into_iter().map(|one| (one.file_id, true)));
            changes.extend(back.into_iter().map(|file| (file, false)));
        }
        self.catalogue.set_mounts(&mounted)?;
        self.catalogue.set_deleted(&changes, (self.around.clock)())
    }

    /// Whether somebody said that what is missing in a directory is gone for good.
    fn is_confirmed(&self, path: &Path) -> bool {
        self.gone.iter().any(|gone| path.starts_with(gone))
    }

    /// Compares a directory with what is known of it.
    fn compare_with_disk(&self, directory: &Directory) -> Result<Compared> {
        let known: HashSet<i64> = self.catalogue.mounts(directory)?.into_iter().map(|(id, _)| id).collect();
        let mut found = Compared::default();
        let mut after: Option<PathBuf> = None;
        loop {
            let page = self.catalogue.current_files(directory, Path::new(""), after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.name.clone());
            let looked = look(&page, &directory.path, &self.view);
            for (file, (is_gone, is_mount)) in page.into_iter().zip(looked) {
                let is_dir = file.version.facts.is_dir();
                found.left += u64::from(!is_gone);
                // A directory comes before what is in it; one alone may have been made where nothing is mounted.
                if !is_gone {
                    let around = found.mounts.iter_mut().filter(|mount| mount.has(&file.name));
                    around.filter(|mount| !is_dir || mount.is).for_each(|mount| mount.left += 1);
                }
                let (was, is) = (known.contains(&file.file_id), is_mount);
                if was || is {
                    let (file_id, name) = (file.file_id, file.name.clone());
                    found.mounts.push(Mount { file_id, name, was, is, left: 0 });
                }
                match (is_gone, file.deleted) {
                    (true, false) => {
                        found.gone.push(Missing { file_id: file.file_id, name: file.name, is_dir });
                    }
                    (false, true) => found.back.push(file.file_id),
                    _ => {}
                }
            }
        }
    }

    /// As [`Service::compare_with_disk`], where something changed alone; nothing is mounted there.
    fn compare_looks(&self, directory: &Directory, looks: &Looks) -> Result<Compared> {
        let (mut found, mut seen) = (Compared::default(), HashSet::new());
        for (path, deep) in looks.iter() {
            let Ok(name) = path.strip_prefix(&directory.path) else { continue };
            // What is below a directory that is there is told by itself.
            let is_dir = std::fs::symlink_metadata(self.view.real(path)).is_ok_and(|facts| facts.is_dir());
            let files = match deep || !is_dir {
                true => self.catalogue.current_files(directory, name, None, usize::MAX >> 1)?,
                false => self.catalogue.current_file(directory, name)?.into_iter().collect(),
            };
            for file in files.into_iter().filter(|file| seen.insert(file.file_id)) {
                let real = directory.path.join(&file.name);
                let is_dir = file.version.facts.is_dir();
                match (is_gone(&self.view.real(&real), file.version.facts.kind), file.deleted) {
                    (true, false) => {
                        found.gone.push(Missing { file_id: file.file_id, name: file.name, is_dir });
                    }
                    (false, true) => found.back.push(file.file_id),
                    _ => {}
                }
            }
        }
        let present = self.catalogue.count_present(directory)?;
        found.left = present.saturating_sub(found.gone.len() as u64);
        Ok(found)
    }

    /// Takes off the queue what is read where it lies and is gone; below a directory that may not be mounted it waits on.
    pub(super) fn drop_gone(&mut self, items: &mut Vec<StagedItem>, report: &mut BackupReport) -> Result<()> {
        if items.iter().all(|item| item.content_id.is_some()) {
            return Ok(());
        }
        let (mut mounted, mut away): (HashMap<i64, PathBuf>, Vec<PathBuf>) = Default::default();
        for directory in self.catalogue.directories()? {
            let entries = self.view.real(&directory.path).read_dir();
            if !entries.is_ok_and(|mut entries| entries.next().is_some()) {
                continue;
            }
            let mounts = self.catalogue.mounts(&directory)?;
            let mounts = mounts.into_iter().map(|(_, name)| directory.path.join(name));
            let is_empty = |path: &PathBuf| {
                let entries = self.view.real(path).read_dir();
                !entries.is_ok_and(|mut entries| entries.next().is_some())
            };
            away.extend(mounts.filter(|path| is_empty(path) && !is_mount(path) && !self.is_confirmed(path)));
            mounted.insert(directory.id, directory.path);
        }
        let mut gone = Vec::new();
        items.retain(|item| {
            let path = mounted.get(&item.directory_id).map(|directory| directory.join(&item.name));
            match path
                .filter(|path| item.content_id.is_none() && is_gone(&self.view.real(path), item.facts.kind))
                .filter(|path| !away.iter().any(|mount| path.starts_with(mount)))
            {
                Some(path) => {
                    gone.push(item.seq);
                    let shown = path.display();
                    report.warnings.push(format!("`{shown}` is gone before it was read; it waits no longer"));
                    false
                }
                None => true,
            }
        });
        report.incomplete |= !gone.is_empty();
        self.catalogue.remove_staged(&gone)
    }
}

/// Says of files whether they are gone, and of directories whether something is mounted there; on several threads.
fn look(files: &[CurrentFile], directory: &Path, view: &View) -> Vec<(bool, bool)> {
    let look_at = |file: &CurrentFile| {
        let (path, kind) = (directory.join(&file.name), file.version.facts.kind);
        let real = view.real(&path);
        let is_gone = is_gone(&real, kind);
        (is_gone, file.version.facts.is_dir() && !is_gone && is_mount(&real))
    };
    let each = files.len().div_ceil(workers()).max(1);
    std::thread::scope(|scope| {
        let looking: Vec<_> = files
            .chunks(each)
            .map(|some| scope.spawn(move || some.iter().map(look_at).collect::<Vec<_>>()))
            .collect();
        let looked = looking.into_iter().map(|one| one.join());
        looked.flat_map(|some| some.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Whether something is mounted on a directory, subvolumes without a mount of their own left aside. Kernels before 5.8 do not say.
fn is_mount(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let root = StatxAttributes::MOUNT_ROOT;
    statx(CWD, path, flags, StatxFlags::empty())
        .is_ok_and(|facts| facts.stx_attributes_mask.contains(root) && facts.stx_attributes.contains(root))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::world::{World, back_up, stage};
    use super::*;
    use crate::engine::Quiet;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mount(Path::new("/proc")));
        assert!(!is_mount(dir.path()) && !is_mount(&dir.path().join("nothing")));
    }

    /// Backs up a directory on which something was mounted, and says what became of it.
    fn report(world: &mut World, gone: &[&Path]) -> BackupReport {
        world.hour += 1;
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        stage(&mut service).unwrap();
        service.take_as_gone(gone.iter().map(|path| path.to_path_buf()).collect()).unwrap();
        service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    }

    #[test]
    fn what_was_mounted_in_a_tracked_directory_and_is_away_is_no_deletion() {
        let mut world = World::new();
        let docs = world.home.path().canonicalize().unwrap().join("docs");
        let usb = docs.join("usb");
        fs::create_dir_all(usb.join("deep")).unwrap();
        for name in ["usb/a", "usb/deep/b", "c", "d"] {
            fs::write(docs.join(name), name).unwrap();
        }
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        world.now(|service| {
            let directory = service.catalogue.directories()?.remove(0);
            let file = service.catalogue.find_file_by_path(&directory, Path::new("usb"))?;
            service.catalogue.set_mounts(&[(file.unwrap().id, true)])
        });
        fs::remove_dir_all(&usb).unwrap();
        fs::create_dir(&usb).unwrap();
        fs::remove_file(docs.join("d")).unwrap();
        for deleted in [1, 0] {
            let report = report(&mut world, &[]);
            assert!(report.incomplete && report.deleted == deleted, "{report:?}");
            let said = &report.warnings[0];
            assert!(said.contains("none of the 3 files of") && said.contains("bt backup --gone"), "{said}");
        }
        fs::create_dir(usb.join("deep")).unwrap();
        let made = report(&mut world, &[]);
        assert!(
            made.incomplete && made.deleted == 0,
            "somebody made a directory where nothing is mounted: {made:?}"
        );
        fs::write(usb.join("deep/b"), "usb/deep/b").unwrap();
        let back = report(&mut world, &[]);
        assert!(back.is_clean() && back.deleted == 1, "where something of it is, `a` was deleted: {back:?}");
        fs::remove_dir_all(usb.join("deep")).unwrap();
        let free = report(&mut world, &[]);
        assert!(free.is_clean() && free.deleted == 1, "it was no mount point any more: {free:?}");
    }

    #[test]
    fn what_is_gone_for_good_is_noted_when_somebody_says_so() {
        let mut world = World::new();
        let docs = world.home.path().canonicalize().unwrap().join("docs");
        for name in ["a", "b"] {
            fs::write(docs.join(name), name).unwrap();
        }
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        for name in ["a", "b"] {
            fs::remove_file(docs.join(name)).unwrap();
        }
        assert!(report(&mut world, &[]).incomplete);
        let noted = report(&mut world, &[&docs]);
        assert!(noted.is_clean() && noted.deleted == 2, "{noted:?}");
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        assert!(service.take_as_gone(vec!["/nowhere".into()]).is_err());
    }

    #[test]
    fn what_was_there_before_most_of_it_was_lost_stays_until_somebody_says_otherwise() {
        let mut world = World::new();
        world.put(0..120, 1);
        assert!(report(&mut world, &[]).warnings.is_empty());
        for name in 0..110 {
            fs::remove_file(world.home.path().join(format!("docs/{name}"))).unwrap();
        }
        let lost = report(&mut world, &[]);
        assert!(lost.is_clean() && lost.deleted == 110, "{lost:?}");
        assert!(
            lost.warnings[0].contains("110 files of") && lost.warnings[0].contains("10 are left"),
            "{lost:?}"
        );
        world.put(0..1, 2);
        report(&mut world, &[]);
        world.hour += 1;
        let stay = |accept_losses: bool, dry_run: bool| {
            let keep = Some("last 1 session".parse().unwrap());
            let order = super::super::PruneOrder { keep, accept_losses, dry_run, ..Default::default() };
            let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
            let pruned = service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
            pruned.vaults[0].verdicts.iter().map(|verdict| verdict.stays).collect::<Vec<_>>()
        };
        assert_eq!(stay(true, true), [false, false, true]);
        assert_eq!(stay(false, false), [true, false, true]);
        assert_eq!(stay(false, false), [true, true]);
        assert_eq!(stay(true, false), [false, true]);
        assert_eq!(stay(false, false), [true]);
    }
}
