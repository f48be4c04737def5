//! Files on this machine that new ones are made of: other new ones, and those of snapshots.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::part::Part;
use super::planner::Planner;
use crate::data::{delta, open, walk};
use crate::proto::{AgentError, CloneFrom};

/// The file and the root that were opened last, and whom they were for: the next ranges are mostly of the same.
#[derive(Default)]
pub(super) struct Origins {
    file: Option<((u32, usize), CloneFrom, Arc<OwnedFd>)>,
    root: Option<(BytePath, OwnedFd)>,
}

impl Origins {
    /// Returns the part of the content that ranges came for last.
    pub(super) fn part_of(&self, content: u32) -> Option<usize> {
        self.file.as_ref().filter(|((last, _), ..)| *last == content).map(|((_, part), ..)| *part)
    }

    /// Opens what ranges of a content are made of.
    pub(super) fn open(
        &mut self,
        planner: &Planner,
        parts: &[Part],
        (content, part): (u32, usize),
        from: CloneFrom,
    ) -> Result<Arc<OwnedFd>, AgentError> {
        if let Some(((_, last_part), last, fd)) = &self.file
            && (*last_part, last) == (part, &from)
        {
            let fd = Arc::clone(fd);
            self.file = Some(((content, part), from, Arc::clone(&fd)));
            return Ok(fd);
        }
        let failed = |path: &BytePath, error: Errno| AgentError::io(format!("`{path}`"), &error.into());
        let opened = match &from {
            CloneFrom::New(path) => {
                let staged = planner.find(part, path).ok_or_else(|| {
                    AgentError::protocol(format!("`{path}` is not new, and something is made of it"))
                })?;
                delta::open_file(&parts[part].stage, &staged).map_err(|error| failed(path, error))?
            }
            CloneFrom::Sealed { root, path } => {
                if self.root.as_ref().is_none_or(|(last, _)| last != root) {
                    let fd = open::root(root).map_err(|error| failed(root, error))?;
                    if !walk::is_sealed(&fd) {
                        return Err(AgentError::failed(format!("`{root}` is not in a read-only snapshot")));
                    }
                    self.root = Some((root.clone(), fd));
                }
                let (_, dir) = self.root.as_ref().ok_or_else(|| failed(root, Errno::NOENT))?;
                delta::open_file(dir, path).map_err(|error| failed(&root.join(path.as_bytes()), error))?
            }
        };
        let fd = Arc::new(opened);
        self.file = Some(((content, part), from, Arc::clone(&fd)));
        Ok(fd)
    }
}
