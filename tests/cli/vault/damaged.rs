//! What is damaged or gone, and how it comes back.

use super::*;

#[test]
fn a_damaged_vault_is_named_repaired_and_whole_for_restic() {
    let home = Home::ready();
    home.put("one", "1");
    home.put("two", "2");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let root = home.state().join("local");
    let only = |directory: &str| {
        let mut all: Vec<PathBuf> = walk(&root.join(directory));
        all.sort_by_key(|path| fs::metadata(path).unwrap().len());
        all
    };
    let damage = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let good = fs::read(&only("snapshots")[0]).unwrap();
    damage(&only("snapshots")[0], 30);
    let said = home.fails(1, &["list", "--snapshots"]);
    assert!(said.contains("local: snapshot `") && said.contains("not as it was written"), "{said}");
    fs::write(&only("snapshots")[0], good).unwrap();
    damage(&only("index")[0], 30);
    fs::remove_file(&only("keys")[0]).unwrap();
    let said = home.fails(1, &["check"]);
    assert!(said.contains("index `") && said.contains("bt repair --dry-run"), "{said}");
    let dry = home.bt(&["repair", "--dry-run"]);
    assert!(dry.starts_with("local: 1 keys would be brought back from their copies; 1 index files"), "{dry}");
    home.fails(1, &["check"]);
    let done = home.bt(&["repair"]);
    assert!(done.contains("1 index files made anew") && done.contains("taken into the index"), "{done}");
    assert_eq!(home.bt(&["repair", "--read-data"]), "local: there is nothing to repair\n");
    let data = only("data");
    for pack in &data {
        damage(pack, 3);
    }
    assert!(home.fails(1, &["check", "--read-data=1/1"]).contains("is not as it was written"));
    let lost = home.fails(1, &["repair", "--read-data"]);
    assert!(lost.contains("lost: local: snapshot") && lost.contains("bt backup --tracked"), "{lost}");
    let found = home.fails(1, &["check", "--read-data"]);
    assert!(!found.contains("not as it was written"), "{found}");
    home.command(&["backup", "--tracked"]).output().unwrap();
    home.bt(&["repair", "--drop-lost"]);
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; "));
    home.bt(&["restore", ".", "--to", home.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(home.path("back/two")).unwrap(), "2");
    let history = home.bt(&["history"]);
    assert_eq!(history.matches("  repair  ").count(), 4, "{history}");
    restic(&root, &["check", "--read-data"]);
}

#[test]
fn what_lay_in_a_directory_that_is_gone_has_a_log_and_comes_back() {
    let home = Home::ready();
    fs::create_dir_all(home.path("docs/sub/deep")).unwrap();
    home.put("sub/deep/letter", "dear");
    home.put("kept", "kept");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    fs::remove_dir_all(home.path("docs/sub")).unwrap();
    assert_eq!(home.bt(&["log", "sub/deep/letter"]).lines().count(), 1);
    let restored = home.bt(&["restore", "sub/deep/letter"]);
    assert!(
        restored.starts_with("docs/sub/deep/letter.") || restored.contains("/docs/sub/deep/letter."),
        "{restored}"
    );
    assert_eq!(
        fs::read_to_string(
            home.path("docs").join("sub/deep").join(restored.trim().rsplit('/').next().unwrap())
        )
        .unwrap(),
        "dear"
    );
    fs::remove_dir_all(home.path("docs/sub")).unwrap();
    home.bt(&["restore", "sub", "--in-place"]);
    assert_eq!(fs::read_to_string(home.path("docs/sub/deep/letter")).unwrap(), "dear");
    fs::rename(home.path("docs"), home.path("away")).unwrap();
    let from_home = |args: &[&str]| home.command(args).current_dir(home.path("")).output().unwrap();
    assert_eq!(text(&from_home(&["log", "docs/kept"]).stdout).lines().count(), 1);
    let said = ended(1, &["log"], &from_home(&["log", "none/../docs/kept"]));
    assert!(said.contains("cannot find"), "{said}");
    assert!(from_home(&["dir", "forget", "docs"]).status.success());
}
