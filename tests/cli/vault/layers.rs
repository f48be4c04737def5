//! Settings in two files, and vaults on other machines, as far as one machine shows them.

use std::io::Read as _;
use std::process::Stdio;

use super::*;

impl Home {
    /// Writes the main config.
    fn configure(&self, content: &str) {
        let path = self.path(".config/pc-switcher/config.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn pc_switcher(&self, args: &[&str]) -> Output {
        crate::run(&self.path(""), args)
    }
}

#[test]
fn what_the_main_config_says_of_vaults_holds_before_bt_toml() {
    let home = Home::ready();
    home.put("f.o", "object");
    home.put("f", "text");
    let usb = home.path("usb");
    home.configure(&format!(
        "[vault]\nignore = [\"*.o\"]\nkeep_min = \"last 2 sessions\"\n\
         [[vaults]]\nname = \"usb\"\ntype = \"filesystem\"\nroot = \"{}\"\n",
        usb.display()
    ));
    let listed = home.bt(&["config", "list"]);
    for line in ["ignore = [\"*.o\"]", "name = \"usb\"", "name = \"local\"", "config.toml", "bt.toml"] {
        assert!(listed.contains(line), "{line} is not in:\n{listed}");
    }
    home.bt(&["init"]);
    home.bt(&["add"]);
    let done = home.json(&["backup"]);
    assert_eq!((&done["versions"], done["vaults"].as_array().unwrap().len()), (&serde_json::json!(1), 2));
    for content in ["second", "third"] {
        home.put("f", content);
        home.bt(&["add"]);
        home.bt(&["backup"]);
    }
    let pruned = home.bt(&["prune", "--keep", "last 1 session", "--explain"]);
    assert!(pruned.contains("stays: kept by `last 2 sessions` of `keep_min`"), "{pruned}");
    assert!(pruned.contains("usb: 1 of 3 snapshots removed"), "{pruned}");

    let shown = text(&home.pc_switcher(&["config", "show"]).stdout);
    assert!(shown.contains("[[vaults]]") && shown.contains("# bt.toml, line "), "{shown}");
    home.configure("[vault]\nkeeep = \"7d\"\n[[vaults]]\nname = \"usb\"\ntype = \"disk\"\n");
    for args in [&["list"][..], &["backup"], &["config", "list"]] {
        let said = home.fails(2, args);
        assert!(said.contains("config.toml:2:1") && said.contains("did you mean `keep`?"), "{said}");
        assert!(said.contains("config.toml:5:8") && said.contains("`filesystem`"), "{said}");
    }
    home.configure("[disk]\nmin_fre = 1\n[dsk]\n");
    assert!(home.bt(&["list"]).contains("local"), "a slip elsewhere keeps nobody out");
    home.bt(&["restore", "f", "--to", home.path("back").to_str().unwrap()]);
    home.configure("");
    let bt = home.path(".config/bt.toml");
    let first = fs::read_to_string(&bt).unwrap();
    fs::write(&bt, format!("{first}\n[disk]\n")).unwrap();
    let validated = home.pc_switcher(&["config", "validate"]);
    let said = ended(2, &["config", "validate"], &validated);
    assert!(said.contains("bt.toml:") && said.contains("`disk` is not for this file"), "{said}");
}

#[test]
fn all_slips_of_bt_toml_are_told_at_once_and_keep_nobody_from_what_is_no_vault() {
    let home = Home::ready();
    home.configure("[sync_modules]\nuser-data = true\n");
    let text = "[vault]\nkeeep = \"7d\"\nstaging_max = \"much\"\n[[vaults]]\nname = \"usb\"\ntype = \"filesystm\"\n\
                [[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"a\"\nregion = \"x\"\n";
    fs::write(home.path(".config/bt.toml"), text).unwrap();
    let all = [
        ("bt.toml:2:1", "did you mean `keep`?"),
        ("bt.toml:3:15", "no size"),
        ("bt.toml:6:8", "did you mean `filesystem`?"),
        ("bt.toml:10:8", "not absolute"),
        ("bt.toml:11:10", "`region` is for"),
    ];
    let told = |said: &str| {
        for (place, words) in all {
            assert!(said.contains(place) && said.contains(words), "{place} {words}: {said}");
        }
    };
    for args in [&["list"][..], &["backup"], &["dir", "status"]] {
        told(&home.fails(2, args));
    }
    for args in
        [&["config", "validate"][..], &["config", "show"], &["sync", "desk", "--only", "vault-backup"]]
    {
        told(&ended(2, args, &home.pc_switcher(args)));
    }
    let listed = home.pc_switcher(&["modules", "list"]);
    let said = ended(0, &["modules", "list"], &listed);
    assert!(said.contains("warning: ") && said.contains("all else works"), "{said}");
    told(&said);
}

#[test]
fn vaults_may_stand_in_the_main_config_alone() {
    let home = Home::new();
    let root = home.path("vault");
    home.configure(&format!(
        "[[vaults]]\nname = \"main\"\ntype = \"filesystem\"\nroot = \"{}\"\n",
        root.display()
    ));
    let said = home.fails(2, &["config", "init", "--root", "/elsewhere"]);
    assert!(said.contains("stands in") && said.contains("config.toml"), "{said}");
    home.bt(&["config", "init"]);
    assert!(!home.path(".config/bt.toml").exists());
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    home.put("f", "text");
    home.bt(&["backup", "--tracked"]);
    assert!(root.join("pc-switcher-vault").exists() && home.json(&["log", "f"])["versions"][0].is_object());
    let said = home.fails(2, &["config", "vault", "init", "--vault", "more", "--root", "/elsewhere"]);
    assert!(said.contains("config.toml"), "{said}");
}

#[test]
fn a_backup_of_all_that_is_tracked_needs_no_add_and_says_what_it_reads() {
    let home = Home::ready();
    home.put("f", "first");
    home.put("deep/g", "here");
    let output = home.command(&["backup", "--tracked"]).output().unwrap();
    let said = ended(0, &["backup", "--tracked"], &output);
    assert!(said.contains("note: files are read where they lie, not in a snapshot: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(text(&output.stdout).starts_with("2 new versions"), "{}", text(&output.stdout));
    home.put("f", "second");
    fs::remove_file(home.path("docs/deep/g")).unwrap();
    let done = home.json(&["backup", "--tracked"]);
    assert_eq!((done["versions"].as_u64(), done["deleted"].as_u64()), (Some(1), Some(1)), "{done}");
    assert!(done["read_in"].is_null());
    assert_eq!(home.state().join("stage").read_dir().unwrap().count(), 0);
}

#[test]
fn a_machine_that_does_not_answer_is_unreachable_and_what_needs_no_vault_works() {
    let home = Home::new();
    home.bt(&["config", "init", "--name", "desk", "--root", "ssh://127.0.0.1:1/srv/vault"]);
    home.bt(&["dir", "init"]);
    home.put("f", "text");
    home.bt(&["add"]);
    for args in [&["init"][..], &["backup"], &["check"]] {
        let said = home.fails(4, args);
        assert!(said.contains("127.0.0.1") && said.contains("help: "), "{said}");
    }
    assert_eq!(home.bt(&["dir", "status"]), "S   f\n");
    assert!(home.bt(&["list"]).contains("127.0.0.1"));
    let said = home.fails(2, &["config", "vault", "init", "--vault", "other", "--root", "ssh://desk"]);
    assert!(said.contains("names no directory"), "{said}");
}

#[test]
fn what_serves_a_vault_ends_with_its_input_and_says_what_it_is_first() {
    let home = Home::new();
    let mut command = home.command(&["serve", "vault"]);
    let mut serving =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(serving.stdin.take());
    let mut said = String::new();
    serving.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((serving.wait().unwrap().code(), said.as_str()), (Some(0), "pc-switcher-vault-server\n"));
    assert!(!home.path("docs/vault").exists(), "nothing is made unasked");
}

#[test]
fn what_is_ours_lies_where_the_settings_say_and_is_never_backed_up() {
    let home = Home::new();
    home.bt(&["config", "init", "--root", home.path("vault").to_str().unwrap()]);
    let (settings, base) = (home.path(".config/bt.toml"), home.path("docs/bt"));
    let text = fs::read_to_string(&settings).unwrap();
    let named = format!(
        "base_dir = {:?}\nstaging_dir = {:?}\nlog_dir = {:?}\n",
        base.to_str().unwrap(),
        home.path("stage").to_str().unwrap(),
        home.path("log").to_str().unwrap()
    );
    fs::write(&settings, text.replacen("[vault]\n", &format!("[vault]\n{named}"), 1)).unwrap();
    let said = home.fails(3, &["dir", "init"]);
    assert!(said.contains("the catalogue is lost") && said.contains("docs/bt/catalogue.db"), "{said}");
    fs::create_dir_all(&base).unwrap();
    fs::rename(home.state().join("catalogue.db"), base.join("catalogue.db")).unwrap();
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    home.put("a", "text");
    home.bt(&["add"]);
    assert_eq!(home.path("stage").read_dir().unwrap().count(), 1);
    assert!(home.bt(&["backup"]).starts_with("1 new versions"));
    assert_eq!(home.bt(&["dir", "status"]), "B   a\n", "what is ours is not listed");
    let log = fs::read_to_string(home.path("log/bt.log")).unwrap();
    let words: Vec<&str> = log.lines().filter_map(|line| line.split('\t').nth(3)).collect();
    assert_eq!(words, ["vault init", "dir init", "add", "backup"], "{log}");
    let listed = home.json(&["config", "list"]);
    assert_eq!(listed["base_dir"], base.to_str().unwrap());
    assert_eq!(listed["log_dir"], home.path("log").to_str().unwrap());
    assert!(!home.state().join("stage").exists());
}
