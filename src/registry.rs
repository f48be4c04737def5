//! The one place that names all modules.

use pc_switcher_contract::{BytePath, ModuleSpec};

use crate::paths::{self, Env};
use crate::vault;

/// Returns all modules of this build; the test modules only behind their switch.
pub fn registry(env: &Env) -> Vec<ModuleSpec> {
    let mut specs = vec![
        pc_switcher_btrfs_snapshots::spec::spec(),
        pc_switcher_disk_monitor::spec::spec(),
        pc_switcher_user_data::spec::spec(own_dirs(env)),
        pc_switcher_vault::sync::spec(vault::given(env)),
    ];
    if env.test_modules() {
        specs.extend([pc_switcher_dummy::spec::success(), pc_switcher_dummy::spec::fail()]);
    }
    specs
}

/// Returns where our own state and configuration of this user lie.
fn own_dirs(env: &Env) -> Vec<BytePath> {
    let config = paths::config_file(env).ok().and_then(|file| file.parent().map(BytePath::from));
    let bt = paths::vault_settings(env).ok();
    let state = paths::state_dir(env).ok();
    let named = vault::own_directories(env);
    let others = [bt, state].into_iter().flatten().chain(named).map(|path| BytePath::from(path.as_path()));
    config.into_iter().chain(others).collect()
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
