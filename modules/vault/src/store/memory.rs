//! A store in memory: for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pc_switcher_contract::ModuleError;

use super::{Kind, Store};
use crate::error::Result;

type Objects = BTreeMap<(Kind, String), Vec<u8>>;

/// Keeps objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Objects>);

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.objects().clone()))
    }
}

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        let mut objects = self.objects();
        let fresh = !objects.contains_key(&(kind, name.into()));
        if fresh {
            objects.insert((kind, name.into()), bytes.into());
        }
        Ok(fresh)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.objects().get(&(kind, name.into())).cloned())
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let objects = self.objects();
        let part =
            objects.get(&(kind, name.into())).and_then(|bytes| bytes.get(start..start.checked_add(length)?));
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| ModuleError::failed(format!("{} `{name}` is not there or shorter", kind.noun())))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let objects = self.objects();
        let of_kind = objects.iter().filter(|((other, _), _)| *other == kind);
        Ok(of_kind.map(|((_, name), bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.objects().remove(&(kind, name.into()));
        Ok(())
    }

    fn place(&self) -> String {
        "memory".into()
    }
}
