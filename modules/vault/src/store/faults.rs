//! A store that does what tests ask of it: fails at a call, does not read an object, answers as another place would.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pc_switcher_contract::ModuleError;

use super::{Kind, MemoryStore, Store};
use crate::error::Result;

/// A call: what it is, of what, and how many there were before.
pub(crate) struct Call<'c> {
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    pub(crate) name: &'c str,
    pub(crate) number: usize,
}

type Fails = Box<dyn Fn(&Call<'_>) -> Option<ModuleError> + Send + Sync>;

/// Hands calls on, unless they are to fail.
pub(crate) struct Faults {
    inner: Arc<MemoryStore>,
    fails: Fails,
    fails_after: bool,
    keeps: bool,
    /// An object of which a disk does not give a part.
    bad: Option<(Kind, String, Range<usize>)>,
    /// A kind of which one list lacks its last object, and which list that is.
    short: Option<(Kind, usize)>,
    lists: AtomicUsize,
    calls: AtomicUsize,
    hits: AtomicUsize,
}

impl Faults {
    pub(crate) fn on(inner: &Arc<MemoryStore>) -> Self {
        let (calls, hits, lists) = Default::default();
        Self {
            inner: inner.clone(),
            fails: Box::new(|_| None),
            fails_after: false,
            keeps: false,
            bad: None,
            short: None,
            lists,
            calls,
            hits,
        }
    }

    /// Backups may remove nothing.
    pub(crate) fn that_keeps(self) -> Self {
        Self { keeps: true, ..self }
    }

    pub(crate) fn that_fails(
        self,
        fails: impl Fn(&Call<'_>) -> Option<ModuleError> + Send + Sync + 'static,
    ) -> Self {
        Self { fails: Box::new(fails), ..self }
    }

    /// The call of this number fails, before or after it was carried out.
    pub(crate) fn that_fail_at(self, at: usize, fails_after: bool) -> Self {
        let fails = move |call: &Call<'_>| (call.number == at).then(gone);
        Self { fails_after, ..self.that_fails(fails) }
    }

    /// An object cannot be read.
    pub(crate) fn that_cannot_read(self, kind: Kind, name: &str) -> Self {
        let name = name.to_owned();
        self.that_fails(move |call| {
            (call.what.starts_with("get") && call.kind == kind && call.name == name).then(gone)
        })
    }

    /// Of an object this part cannot be read.
    pub(crate) fn that_lost(self, kind: Kind, name: &str, part: Range<usize>) -> Self {
        Self { bad: Some((kind, name.to_owned(), part)), ..self }
    }

    /// The list of this number of a kind lacks its last object, as that of a place may that shows late what was written.
    pub(crate) fn that_lists_less(self, kind: Kind, number: usize) -> Self {
        Self { short: Some((kind, number)), ..self }
    }

    /// Whether a part of an object is one that cannot be read.
    fn prove_readable(&self, kind: Kind, name: &str, part: Range<usize>) -> Result<()> {
        match &self.bad {
            Some((of, object, bad))
                if (*of, object.as_str()) == (kind, name) && part.start < bad.end && bad.start < part.end =>
            {
                Err(gone())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn was_hit(&self) -> bool {
        self.hits.load(Ordering::SeqCst) > 0
    }

    fn call<T>(
        &self,
        what: &'static str,
        kind: Kind,
        name: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match (self.fails)(&Call { what, kind, name, number }) {
            None => run(),
            Some(error) => {
                self.hits.fetch_add(1, Ordering::SeqCst);
                if self.fails_after {
                    run()?;
                }
                Err(error)
            }
        }
    }
}

/// What a disk says that fails.
pub(crate) fn gone() -> ModuleError {
    ModuleError::failed("the disk is gone")
}

impl Store for Faults {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.call("put", kind, name, || self.inner.put(kind, name, bytes))
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.prove_readable(kind, name, 0..usize::MAX)?;
        self.call("get", kind, name, || self.inner.get(kind, name))
    }

    fn salvage(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let mut bytes = self.call("get", kind, name, || self.inner.get(kind, name))?;
        if let (Some(bytes), Some((of, object, part))) = (&mut bytes, &self.bad)
            && (*of, object.as_str()) == (kind, name)
        {
            bytes[part.clone()].fill(0);
        }
        Ok(bytes)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.prove_readable(kind, name, offset as usize..offset as usize + length)?;
        self.call("get_range", kind, name, || self.inner.get_range(kind, name, offset, length))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let mut all = self.call("list", kind, "", || self.inner.list(kind))?;
        if let Some((of, number)) = self.short
            && of == kind
            && self.lists.fetch_add(1, Ordering::SeqCst) == number
            && all.pop().is_some()
        {
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        Ok(all)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.call("delete", kind, name, || self.inner.delete(kind, name))
    }

    fn place(&self) -> String {
        self.inner.place()
    }

    fn removes_freely(&self) -> bool {
        !self.keeps
    }
}
