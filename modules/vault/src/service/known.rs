//! What is known of the files that are being looked at.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::backup::PAGE;
use super::source::Looks;
use super::stage::facts_seen;
use crate::catalogue::{Catalogue, CurrentFile, Directory};
use crate::error::Result;
use crate::format::Id;

/// Current versions of files, and of which of them something newer waits.
pub(super) struct Known {
    current: HashMap<PathBuf, CurrentFile>,
    staged: HashSet<Vec<u8>>,
}

impl Known {
    /// Looks up what is from a name down; not `deep`, without what lies in directories of it.
    pub(super) fn of(catalogue: &Catalogue, directory: &Directory, name: &Path, deep: bool) -> Result<Self> {
        let current = match deep {
            true => catalogue.current_files(directory, name, None, usize::MAX >> 1)?,
            false => catalogue.current_files_right_in(directory, name)?,
        };
        let current = current.into_iter().map(|file| (file.name.clone(), file)).collect();
        Ok(Self { current, staged: catalogue.staged_places(directory, name)? })
    }

    /// As [`Known::of`], of these paths and what is below those of which all is looked at.
    fn of_looks(catalogue: &Catalogue, directory: &Directory, looks: &Looks) -> Result<Self> {
        let mut current = HashMap::new();
        for (path, deep) in looks.iter() {
            let Ok(name) = path.strip_prefix(&directory.path) else { continue };
            let found = match deep {
                true => catalogue.current_files(directory, name, None, usize::MAX >> 1)?,
                false => catalogue.current_file(directory, name)?.into_iter().collect(),
            };
            current.extend(found.into_iter().map(|file| (file.name.clone(), file)));
        }
        Ok(Self { current, staged: catalogue.staged_places(directory, Path::new(""))? })
    }

    pub(super) fn is_staged(&self, name: &Path) -> bool {
        waits(&self.staged, name)
    }

    pub(super) fn current(&self, name: &Path) -> Option<&CurrentFile> {
        self.current.get(name)
    }

    pub(super) fn all_current(&self) -> impl Iterator<Item = &CurrentFile> {
        self.current.values()
    }
}

fn waits(staged: &HashSet<Vec<u8>>, name: &Path) -> bool {
    !staged.is_empty() && staged.contains(&Catalogue::place(name))
}

/// What is known of files that come in the order of their places.
pub(super) enum Before<'c> {
    /// All that may come.
    Known(Known),
    /// A page of it at a time.
    Paged(Paged<'c>),
}

pub(super) struct Paged<'c> {
    catalogue: &'c Catalogue,
    directory: &'c Directory,
    name: PathBuf,
    staged: HashSet<Vec<u8>>,
    page: VecDeque<CurrentFile>,
    after: Option<PathBuf>,
    is_last: bool,
}

impl Paged<'_> {
    /// Returns a file, and forgets those before it.
    fn find(&mut self, name: &Path) -> Result<Option<&CurrentFile>> {
        loop {
            while self.page.front().is_some_and(|file| file.name.as_path() < name) {
                self.page.pop_front();
            }
            if self.is_last || !self.page.is_empty() {
                return Ok(self.page.front().filter(|file| file.name == name));
            }
            let page =
                self.catalogue.current_files(self.directory, &self.name, self.after.as_deref(), PAGE)?;
            self.is_last = page.len() < PAGE;
            self.after = page.last().map(|last| last.name.clone());
            self.page = page.into();
        }
    }
}

impl<'c> Before<'c> {
    /// Knows all from a name down; not `deep`, without what lies in directories of it.
    pub(super) fn of(
        catalogue: &'c Catalogue,
        directory: &'c Directory,
        name: &Path,
        deep: bool,
    ) -> Result<Self> {
        if !deep {
            return Ok(Before::Known(Known::of(catalogue, directory, name, false)?));
        }
        let (name, staged) = (name.to_owned(), catalogue.staged_places(directory, name)?);
        let (page, after, is_last) = (VecDeque::new(), None, false);
        Ok(Before::Paged(Paged { catalogue, directory, name, staged, page, after, is_last }))
    }

    /// Knows these paths and what is below those of which all is looked at.
    pub(super) fn of_looks(catalogue: &Catalogue, directory: &Directory, looks: &Looks) -> Result<Self> {
        Known::of_looks(catalogue, directory, looks).map(Before::Known)
    }

    /// Returns the content of the current version if the file is still that and nothing newer waits.
    pub(super) fn current_content(&mut self, name: &Path, facts: &Metadata) -> Result<Option<Id>> {
        let (is_waiting, file) = match self {
            Before::Known(known) => (known.is_staged(name), known.current(name)),
            Before::Paged(paged) => (waits(&paged.staged, name), paged.find(name)?),
        };
        let file = file.filter(|file| !is_waiting && !file.deleted);
        let same = file.filter(|file| file.version.facts.same_inode(&facts_seen(facts)));
        Ok(same.map(|file| file.version.content_id))
    }
}
