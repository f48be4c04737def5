//! The one place that names all modules.

use std::sync::Arc;

use async_trait::async_trait;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::module::Build;
use pc_switcher_contract::{
    Module, ModuleContext, ModuleError, ModuleName, ModuleSpec, Outcome, Plan, Problem,
};
use pc_switcher_disk_monitor::config::DiskConfig;
use pc_switcher_user_data::config::UserDataConfig;
use serde::de::DeserializeOwned;

use crate::paths::Env;

/// Returns all modules of this build; the test modules only behind their switch.
pub fn registry(env: &Env) -> Vec<ModuleSpec> {
    let bracket = absent::<BtrfsSnapshotsConfig>("btrfs-snapshots");
    let mut specs = vec![
        pc_switcher_btrfs_snapshots::spec::spec(Arc::new(move |table, _phase| bracket(table))),
        pc_switcher_disk_monitor::spec::spec(absent::<DiskConfig>("disk-monitor")),
        pc_switcher_user_data::spec::spec(absent::<UserDataConfig>("user-data")),
    ];
    if env.test_modules() {
        specs.extend([pc_switcher_dummy::spec::success(), pc_switcher_dummy::spec::fail()]);
    }
    specs
}

/// Checks the table of a module whose work is not linked in; the module itself refuses to validate.
fn absent<C: DeserializeOwned>(name: &'static str) -> Build {
    Arc::new(move |table| {
        C::deserialize(table).map_err(|error| error.to_string())?;
        Ok(Arc::new(Absent(ModuleName::literal(name))))
    })
}

/// A module of which only the table is known.
struct Absent(ModuleName);

impl Absent {
    fn refuse(&self) -> ModuleError {
        ModuleError::failed(format!("`{}` is not part of this build", self.0))
    }
}

#[async_trait]
impl Module for Absent {
    fn name(&self) -> &ModuleName {
        &self.0
    }
    async fn validate(&self, _ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        Err(self.refuse())
    }
    async fn plan(&self, _ctx: &ModuleContext) -> Result<Plan, ModuleError> {
        Err(self.refuse())
    }
    async fn execute(&self, _ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        Err(self.refuse())
    }
    async fn verify(&self, _ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        Err(self.refuse())
    }
    async fn abort(&self, _ctx: &ModuleContext, _timeout: std::time::Duration) {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn with_dummies() -> Vec<ModuleSpec> {
        let vars = [("PC_SWITCHER_TEST_MODULES".into(), "1".into())].into();
        registry(&Env { vars, ..Env::default() })
    }

    #[test]
    fn names_and_tables_are_unique() {
        let specs = with_dummies();
        let names: BTreeSet<_> = specs.iter().map(|spec| &spec.name).collect();
        let tables: BTreeSet<_> = specs.iter().map(|spec| spec.table).collect();
        assert_eq!((names.len(), tables.len()), (specs.len(), specs.len()));
    }

    #[test]
    fn every_module_accepts_its_own_defaults() {
        for spec in with_dummies() {
            let validator = jsonschema::validator_for(&spec.schema).unwrap();
            assert!(validator.is_valid(&spec.defaults), "{}", spec.name);
            assert_eq!((spec.build)(&spec.defaults).map(|module| module.name().clone()), Ok(spec.name));
        }
    }

    #[test]
    fn the_test_modules_need_their_switch() {
        assert!(registry(&Env::default()).iter().all(|spec| !spec.name.as_str().starts_with("dummy")));
    }
}
