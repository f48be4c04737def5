//! What is gone: deleted, or on a disk that is not mounted.

use std::collections::HashMap;
use std::path::PathBuf;

use super::status::is_gone;
use super::{BackupReport, Service};
use crate::catalogue::StagedItem;
use crate::error::Result;

impl Service {
    /// Takes off the queue what is read where it lies and is gone; below a directory that may not be mounted it waits on.
    pub(super) fn drop_gone(&mut self, items: &mut Vec<StagedItem>, report: &mut BackupReport) -> Result<()> {
        if items.iter().all(|item| item.content_id.is_some()) {
            return Ok(());
        }
        let mounted: HashMap<String, PathBuf> = self
            .catalogue
            .directories()?
            .into_iter()
            .filter(|directory| directory.path.read_dir().is_ok_and(|mut entries| entries.next().is_some()))
            .map(|directory| (directory.id, directory.path))
            .collect();
        let mut gone = Vec::new();
        items.retain(|item| {
            let path = mounted.get(&item.directory_id).map(|directory| directory.join(&item.name));
            match path.filter(|path| item.content_id.is_none() && is_gone(path)) {
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
