//! The tables of the file, whoever they belong to: modules, or the program itself.

use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_contract::ModuleSpec;
use pc_switcher_vault::service::{General, VaultSettings};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::boot::BootConfig;
use super::rollback::RollbackConfig;

/// The table of sets that are taken by themselves.
pub const SNAPSHOTS: &str = "snapshots";

/// The table about starts that fail.
pub const BOOT_PROTECTION: &str = "boot-protection";

/// The table about going back.
pub const ROLLBACK: &str = "rollback";

/// The table of what holds for all vaults.
pub const VAULT: &str = "vault";

/// The list of tables with a vault each.
pub const VAULTS: &str = "vaults";

/// The names of all tables that belong to no module.
pub const OWN: [&str; 4] = [ROLLBACK, BOOT_PROTECTION, SNAPSHOTS, VAULT];

/// What lies below the file for these alone: `bt.toml`.
pub const BELOW: [&str; 2] = [VAULT, VAULTS];

/// A table that belongs to no module.
pub struct TableSpec {
    /// Its name.
    pub name: &'static str,
    /// Its JSON Schema.
    pub schema: Value,
    /// The table with all defaults filled in.
    pub defaults: Value,
    /// Says what its schema cannot.
    pub check: fn(&Value) -> Result<(), String>,
}

/// Returns the tables that belong to no module.
pub fn own() -> [TableSpec; OWN.len()] {
    [
        TableSpec {
            name: ROLLBACK,
            schema: RollbackConfig::schema(),
            defaults: json!(RollbackConfig::default()),
            check: fits::<RollbackConfig>,
        },
        TableSpec {
            name: BOOT_PROTECTION,
            schema: BootConfig::schema(),
            defaults: json!(BootConfig::default()),
            check: fits::<BootConfig>,
        },
        TableSpec {
            name: SNAPSHOTS,
            schema: SnapshotsConfig::schema(),
            defaults: json!(SnapshotsConfig::default()),
            check: fits::<SnapshotsConfig>,
        },
        TableSpec {
            name: VAULT,
            schema: General::schema(),
            defaults: json!(General::default()),
            check: fits::<General>,
        },
    ]
}

/// Returns what one of `[[vaults]]` is held to.
pub fn vault() -> TableSpec {
    TableSpec {
        name: "[vaults]",
        schema: VaultSettings::schema(),
        defaults: VaultSettings::defaults(),
        // All that is wrong with one is told at once: see `findings`.
        check: |_| Ok(()),
    }
}

fn fits<T: DeserializeOwned>(table: &Value) -> Result<(), String> {
    T::deserialize(table).map(|_| ()).map_err(|error| error.to_string())
}

/// Says what the schema of a table cannot.
type Check<'a> = Box<dyn Fn(&Value) -> Result<(), String> + 'a>;

/// Any table.
pub struct TableOf<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its JSON Schema.
    pub schema: &'a Value,
    /// The table with all defaults filled in.
    pub defaults: &'a Value,
    /// Says what its schema cannot.
    pub check: Check<'a>,
}

/// Returns all tables, those of modules first.
pub fn all<'a>(specs: &'a [ModuleSpec], own: &'a [TableSpec]) -> Vec<TableOf<'a>> {
    let of_module = |spec: &'a ModuleSpec| TableOf {
        name: spec.table,
        schema: &spec.schema,
        defaults: &spec.defaults,
        check: Box::new(|table| (spec.build)(table).map(|_| ())),
    };
    let of_own = |spec: &'a TableSpec| TableOf {
        name: spec.name,
        schema: &spec.schema,
        defaults: &spec.defaults,
        check: Box::new(spec.check),
    };
    specs.iter().map(of_module).chain(own.iter().map(of_own)).collect()
}
