//! Links from a staged directory to live inodes, made right before the directory is brought in.

use rustix::fs::OFlags;

use pc_switcher_contract::BytePath;

use super::commit::{Committer, Refusal};
use super::plan::LateLink;
use crate::data::{meta, open};
use crate::proto::{Conflict, FileTime};

impl Committer<'_> {
    /// Makes the links. One that cannot be made is reported for its own path and does not hold up the directory. The
    /// times of the directories that hold them are put back.
    pub(super) fn late_links(&mut self, part: usize, links: &[LateLink]) -> Result<(), Refusal> {
        let mut held: Option<(BytePath, FileTime)> = None;
        for link in links {
            let parent = link.staged.parent().unwrap_or_default();
            if held.as_ref().is_none_or(|(path, _)| *path != parent) {
                self.restore(part, held.take());
                held = link.mtime.map(|mtime| (parent, mtime));
            }
            let why = match self.link_live(part, &link.to, &link.staged) {
                Ok(()) | Err(Refusal::Kept) => continue,
                Err(Refusal::Conflict(why)) => why,
                Err(refusal @ Refusal::System(_)) => return Err(refusal),
            };
            let path = self.parts[part].absolute(&link.path);
            self.report.conflicts.push(Conflict { path, why });
        }
        self.restore(part, held);
        Ok(())
    }

    fn restore(&self, part: usize, held: Option<(BytePath, FileTime)>) {
        if let Some((path, mtime)) = held {
            let stage = &self.parts[part].stage;
            // A wrong time of a directory is seen and put right by the next plan.
            let _ = open::beneath(stage, path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|dir| meta::set_mtime(&dir, mtime));
        }
    }
}
