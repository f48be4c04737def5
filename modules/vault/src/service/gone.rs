//! What is gone: deleted, or on a disk that is not mounted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::backup::PAGE;
use super::status::is_gone;
use super::{BackupReport, Service};
use crate::catalogue::{Directory, StagedItem};
use crate::error::Result;

/// How a directory stands to what is known of it.
#[derive(Default)]
struct Compared {
    /// What is gone since the last backup, and whether it was a directory.
    gone: Vec<(String, bool)>,
    /// What is back.
    back: Vec<String>,
    /// How much of it is there.
    left: u64,
}

impl Service {
    /// Notes which files are gone. A tracked directory that is missing, or without any of its files, may not be mounted:
    /// nothing is noted of it.
    pub(super) fn note_deleted(&mut self, report: &mut BackupReport) -> Result<()> {
        let mut changes = Vec::new();
        for directory in self.catalogue.directories()? {
            let shown = directory.path.display();
            let fix = format!(
                "its versions stay as they are; is its disk mounted? `bt dir forget {shown}` if they are gone for good"
            );
            if !self.view.real(&directory.path).is_dir() {
                report.warnings.push(format!("`{shown}` is not there; {fix}"));
                report.incomplete = true;
                continue;
            }
            let Compared { gone, back, left } = self.compare_with_disk(&directory)?;
            if !gone.is_empty() && left == 0 {
                let count = gone.len();
                report.warnings.push(format!("none of the {count} files of `{shown}` is there; {fix}"));
                report.incomplete = true;
                continue;
            }
            report.deleted += gone.iter().filter(|(_, is_dir)| !is_dir).count() as u64;
            changes.extend(gone.into_iter().map(|(file, _)| (file, true)));
            changes.extend(back.into_iter().map(|file| (file, false)));
        }
        self.catalogue.set_deleted(&changes, (self.around.clock)())
    }

    /// Compares a directory with what is known of it.
    fn compare_with_disk(&self, directory: &Directory) -> Result<Compared> {
        let Compared { mut gone, mut back, mut left } = Compared::default();
        let mut after: Option<PathBuf> = None;
        loop {
            let page = self.catalogue.current_files(directory, Path::new(""), after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(Compared { gone, back, left }) };
            after = Some(last.name.clone());
            for file in page {
                let path = directory.path.join(&file.name);
                let is_gone = is_gone(&self.view.real(&path), file.version.facts.kind);
                left += u64::from(!is_gone);
                match (is_gone, file.deleted) {
                    (true, false) => gone.push((file.file_id, file.version.facts.is_dir())),
                    (false, true) => back.push(file.file_id),
                    _ => {}
                }
            }
        }
    }

    /// Takes off the queue what is read where it lies and is gone; below a directory that may not be mounted it waits on.
    pub(super) fn drop_gone(&mut self, items: &mut Vec<StagedItem>, report: &mut BackupReport) -> Result<()> {
        if items.iter().all(|item| item.content_id.is_some()) {
            return Ok(());
        }
        let mounted: HashMap<String, PathBuf> = self
            .catalogue
            .directories()?
            .into_iter()
            .filter(|directory| {
                let entries = self.view.real(&directory.path).read_dir();
                entries.is_ok_and(|mut entries| entries.next().is_some())
            })
            .map(|directory| (directory.id, directory.path))
            .collect();
        let mut gone = Vec::new();
        items.retain(|item| {
            let path = mounted.get(&item.directory_id).map(|directory| directory.join(&item.name));
            match path
                .filter(|path| item.content_id.is_none() && is_gone(&self.view.real(path), item.facts.kind))
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
