//! The arrows between our crates: who may use whom. A new arrow is a decision, not a habit.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

const CONTRACT: &str = "pc-switcher-contract";
const AGENT: &str = "pc-switcher-agent";
const ROOT: &str = "pc-switcher";
const TESTKIT: &str = "pc-switcher-testkit";
const SNAPSHOTS: &str = "pc-switcher-btrfs-snapshots";
const INSTALLER: &str = "pc-switcher-installer";

/// Returns the workspace's crates, each with its directory and with ours that it uses in the given way.
fn uses(kind: DependencyKind) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let ours: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let used = |package: &cargo_metadata::Package| {
        let all = package.dependencies.iter().filter(|used| used.kind == kind).map(|used| used.name.clone());
        all.filter(|name| ours.contains(name)).collect()
    };
    let root = metadata.workspace_root.clone();
    let place = |package: &cargo_metadata::Package| {
        let directory = package.manifest_path.parent().unwrap();
        directory.strip_prefix(&root).unwrap().to_string()
    };
    metadata
        .packages
        .iter()
        .map(|package| (package.name.to_string(), (place(package), used(package))))
        .collect()
}

/// Whether the crate in `place` may use `other`.
fn allowed(name: &str, place: &str, other: &str) -> bool {
    match (name, place) {
        (CONTRACT, _) => false,
        (AGENT, _) | (INSTALLER, _) => other == CONTRACT || other == AGENT,
        // Its `bench-sets` measures what a store of sets would let go, which is that module's to say.
        (TESTKIT, _) => [CONTRACT, AGENT, SNAPSHOTS].contains(&other),
        (ROOT, _) => other != TESTKIT,
        (_, place) if place.starts_with("modules/") => other == CONTRACT || other == AGENT,
        _ => false,
    }
}

#[test]
fn our_crates_use_each_other_only_as_the_plan_of_the_house_says() {
    for (name, (place, used)) in uses(DependencyKind::Normal) {
        for other in used {
            assert!(allowed(&name, &place, &other), "new arrow: {name} → {other}");
        }
    }
}

#[test]
fn the_testkit_is_for_tests_alone() {
    for (name, (place, used)) in uses(DependencyKind::Development) {
        for other in used {
            assert!(
                other == TESTKIT || allowed(&name, &place, &other),
                "new arrow in tests: {name} → {other}"
            );
        }
    }
}

#[test]
fn the_contract_uses_none_of_ours() {
    let all = uses(DependencyKind::Normal);
    assert!(all[CONTRACT].1.is_empty());
    assert!(all.len() >= 8, "the house lost a room: {:?}", all.keys());
}

#[test]
fn the_screen_does_not_know_the_orchestrator_and_lower_layers_do_not_know_the_commands() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let never = [
        ("ui", "crate::orchestrator"),
        ("ui", "crate::cli"),
        ("config", "crate::orchestrator"),
        ("config", "crate::cli"),
        ("events", "crate::ui"),
        ("events", "crate::cli"),
        ("history", "crate::cli"),
        ("remote", "crate::orchestrator"),
    ];
    for (directory, arrow) in never {
        for file in rust_files(&source.join(directory)) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains(arrow), "{} uses {arrow}", file.display());
        }
    }
}

fn rust_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
