//! The config as a whole: layers, order, origins, and the promise that every problem has a line.

use proptest::prelude::*;

use super::*;
use crate::registry::registry;

fn specs() -> Vec<ModuleSpec> {
    let vars = [("PC_SWITCHER_TEST_MODULES".into(), "1".into())].into();
    registry(&Env { vars, ..Env::default() })
}

fn source(text: &str) -> Source {
    Source { path: "config.toml".into(), text: text.into() }
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    resolve(Some(&source(text)), &Overrides::default(), &specs())
}

fn errors(text: &str) -> Vec<String> {
    read(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn names(config: &Config) -> Vec<&str> {
    config.modules.iter().map(ModuleName::as_str).collect()
}

#[test]
fn the_shipped_file_says_what_applies_without_a_file() {
    let without = resolve(None, &Overrides::default(), &specs()).unwrap();
    let with = read(DEFAULT_TOML).unwrap();
    assert_eq!(without.hash, with.hash);
    assert!(without.path.is_none() && with.warnings.is_empty());
}

#[test]
fn the_shipped_file_holds_every_key_of_every_module_with_the_default_of_the_module() {
    let (document, problems) = document::parse(&source(DEFAULT_TOML), &[]);
    assert_eq!(problems, []);
    for spec in registry(&Env::default()) {
        let written = &document.root[spec.table];
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(written), keys(&spec.defaults), "{}", spec.table);
        for (key, value) in spec.defaults.as_object().unwrap() {
            let same = &written[key] == value || written[key] == "10GiB" && *value == 10_u64 << 30;
            assert!(same, "{}.{key}: {} in the file, {value} in the module", spec.table, written[key]);
        }
    }
    for core in tables::own().into_iter().filter(|core| core.name != tables::VAULT) {
        assert_eq!(document.root[core.name], core.defaults, "{}", core.name);
    }
}

#[test]
fn what_the_shipped_file_only_names_is_the_default_and_right() {
    assert!(!read(DEFAULT_TOML).unwrap().effective.iter().any(|table| table.name == tables::VAULTS));
    let named: Vec<&str> = DEFAULT_TOML.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let from = named.iter().position(|line| *line == "[vault]").unwrap();
    let text = named[from..].join("\n");
    let config = read(&text).unwrap();
    assert_eq!(config.own_table(tables::VAULT), &tables::own().into_iter().last().unwrap().defaults);
    assert_eq!(config.effective.last().unwrap().index, Some(0));
    let (document, _) = document::parse(&source(&text), &[]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document.root["vault"]), keys(config.own_table(tables::VAULT)));
}

#[test]
fn bt_toml_lies_below_the_file_and_says_nothing_but_of_vaults() {
    let usb = "[[vaults]]\nname = 'usb'\ntype = 'filesystem'\nroot = '/mnt/usb'\n";
    let bt = |text: &str| Source { path: "bt.toml".into(), text: text.into() };
    let both = |main: &str, below: &str| {
        resolve_over(Some(&source(main)), Some(&bt(below)), &Overrides::default(), &specs())
    };
    let below = format!("[vault]\nkeep = '7d'\nignore = ['*.o']\n{usb}");
    let main = "[vault]\nkeep = '2w'\n[[vaults]]\nname = 'desk'\ntype = 'ssh'\nroot = 'ssh://desk/srv'\n";
    let config = both(main, &below).unwrap();
    let shown = toml(&config.effective, true);
    for line in [
        "keep = \"2w\"",
        "# file, line 2",
        "# bt.toml, line 3",
        "[[vaults]]",
        "# bt.toml, line 5",
        "# file, line 4",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    let values = json(&config.effective);
    assert_eq!(values["values"]["vaults"][1]["name"], "desk");
    assert_eq!(values["origins"]["vaults[0].name"], "bt.toml, line 5");
    let again = read(&toml(&config.effective, false)).unwrap();
    assert_eq!(again.hash, config.hash, "one file that says the same is the same");
    let over = both(&usb.replace("/mnt/usb", "/media/usb"), &below).unwrap();
    let roots: Vec<_> =
        over.effective.iter().filter(|table| table.index.is_some()).map(Table::value).collect();
    assert_eq!(roots.len(), 1, "one of the same name takes its place");
    assert_eq!(roots[0]["root"], "/media/usb");
    let problems = both("[dsk]\n", "[disk]\n[vault]\nkeeep = '7d'\n").unwrap_err().0;
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(told[0].contains("config.toml:1") && told[1].contains("bt.toml:1"), "{told:?}");
    assert!(told[2].contains("bt.toml:3") && told[2].contains("`keep`"), "{told:?}");
    let config = both(main, "[vault]\nkeeep = '7d'\n[[vaults]]\nname = 'a'\ntype = 'filesystm'\n").unwrap();
    assert_eq!(config.own_table(tables::VAULT)["keep"], "2w", "who needs no vault goes on");
    let lines: Vec<_> = config.vault_problems.iter().map(|problem| problem.spot.unwrap().line).collect();
    assert_eq!(lines, [2, 5]);
    let help = config.vault_problems[1].help.clone().unwrap();
    assert!(help.contains("did you mean `filesystem`?"), "{help}");
    assert_eq!(config.with_vaults().unwrap_err().0.len(), 2);
}

#[test]
fn a_line_that_may_hold_a_secret_is_named_and_not_shown() {
    for line in
        ["secret_key = \"hunter2\"", "secret_key = hunter2", "token = [hunter2", "password = hunter2 hunter2"]
    {
        let all = errors(&format!("[[vaults]]\nname = 'a'\ntype = 's3'\nroot = 's3:h/b'\n{line}\n"));
        let said = all.join("\n");
        assert!(said.contains("config.toml:5:") && said.contains("secrets are never in settings"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn what_is_wrong_with_a_vault_has_its_line() {
    let text = "\
[vault]
keep = '7x'
keep_mim = 'last 2 sessions'
staging_max = 'much'
[[vaults]]
name = 'usb'
type = 'filesystem'
root = 'mnt/usb'
region = 'x'
[[vaults]]
name = 'usb'
type = 'disk'
rot = '/mnt'
[[vaults]]
type = 's3'
";
    let problems = read(text).unwrap_err().0;
    let lines: Vec<usize> = problems.iter().map(|problem| problem.spot.unwrap().line).collect();
    assert_eq!(lines, [2, 3, 4, 8, 9, 11, 12, 13, 14], "{problems:#?}");
    assert!(problems[1].help.as_deref() == Some("did you mean `keep_min`?"), "{problems:#?}");
    assert!(problems[3].message.contains("not absolute") && problems[8].message.contains("lacks `name`"));
    assert!(problems[4].message.contains("`region` is for"), "{problems:#?}");
    for (text, words) in [("vaults = 3\n", "list of tables"), ("[vaults]\nname = 'a'\n", "[[vaults]]")] {
        assert!(errors(text)[0].contains(words), "{:?}", errors(text));
    }
}

#[test]
fn the_order_of_the_table_is_the_order_of_work() {
    let config = read("[sync_modules]\ndummy-fail = true\nuser-data = true\ndummy_success = true\n").unwrap();
    assert_eq!(names(&config), ["dummy-fail", "user-data", "dummy-success"]);
}

#[test]
fn what_the_table_does_not_list_is_off_and_without_a_table_the_defaults_apply() {
    assert_eq!(names(&read("[sync_modules]\ndummy-success = true\n").unwrap()), ["dummy-success"]);
    assert_eq!(names(&read("log_cli_level = 'info'\n").unwrap()), ["user-data"]);
}

#[test]
fn a_required_module_cannot_be_switched_off_and_a_warning_says_so() {
    let text = "[sync_modules]\nbtrfs_snapshots = false\ndisk-monitor = true\nuser-data = true\n";
    let config = read(text).unwrap();
    assert_eq!(names(&config), ["user-data"]);
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].spot, Some(Spot { line: 2, column: 1 }));
}

#[test]
fn flags_come_last() {
    let text = "[sync_modules]\nuser-data = false\ndummy-success = true\n";
    let with = |only: &[&str], skip: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let overrides = Overrides { only: own(only), skip: own(skip), log_cli_level: Some(LogLevel::Debug) };
        resolve(Some(&source(text)), &overrides, &specs())
    };
    let config = with(&["dummy_fail", "user-data"], &[]).unwrap();
    assert_eq!(names(&config), ["user-data", "dummy-fail"]);
    assert_eq!(config.log_cli_level, LogLevel::Debug);
    assert!(with(&[], &["dummy-success"]).unwrap_err().0[0].message.contains("leave no module"));
    assert!(with(&[], &["disk-monitor"]).is_err() && with(&["btrfs-snapshots"], &[]).is_err());
    assert_eq!(with(&["user-dat"], &[]).unwrap_err().0[0].help.as_deref(), Some("did you mean `user-data`?"));
}

#[test]
fn every_kind_of_mistake_has_its_line_and_all_come_in_one_pass() {
    let text = "\
log_cli_level = 'LOUD'
[sync_modules]
user-dat = true
user-data = 'yes'
[disk]
min_fre = 1
min_free = 1.5
reserve_minimum = '5 parsecs'
check_interval = 0
check_interval = 5
[btrfs-snapshots]
subvolumes = ['@', '@/home', '@']
snapshot_dir = 'snapshots'
keep = 'all 2m'
[user-data]
folders = ['/home', 'root']
exclude = [
  '*.tmp # temporary',
]
include = ['.ssh/id_rsa']
[rollback]
deadman = 'sometimes'
deadman_limit = 1
health = ['ssh', 'ssh', 'weather']
dedman = 'off'
[dsk]
x = 1
";
    let problems = read(text).unwrap_err().0;
    let lines: Vec<usize> = problems.iter().map(|problem| problem.spot.unwrap().line).collect();
    assert_eq!(
        lines,
        [1, 3, 4, 6, 7, 8, 9, 10, 12, 12, 13, 14, 16, 18, 20, 22, 23, 24, 24, 25, 26],
        "{problems:#?}"
    );
}

#[test]
fn a_key_in_the_wrong_place_is_told_its_place() {
    let text =
        errors("min_free = 0.1\n[sync_modules]\nuser-data = true\nlog_file_level = 'INFO'\n[disk-monitor]\n");
    assert!(text[0].contains("`min_free` belongs into [disk]"), "{text:#?}");
    assert!(text[1].contains("stands before the first table"), "{text:#?}");
    assert!(text[2].contains("the table of `disk-monitor` is [disk]"), "{text:#?}");
}

#[test]
fn a_line_that_is_no_toml_is_reported_once() {
    let text = errors("[disk]\nmin_free =\ncheck_interval = 0\n");
    assert_eq!(text.len(), 2, "{text:#?}");
}

#[test]
fn what_applies_reads_back_as_itself_and_names_its_origin() {
    let config = read("log_cli_level = 'DEBUG'\n[user-data]\nexclude = ['a\"b', \"it's\"]\n").unwrap();
    let again = read(&config.text).unwrap();
    assert_eq!(config.hash, again.hash);
    let shown = toml(&config.effective, true);
    assert!(shown.contains("log_cli_level = \"DEBUG\""), "{shown}");
    assert!(shown.contains("# file, line 1") && shown.contains("# default"), "{shown}");
    assert_eq!(read(&shown).unwrap().hash, config.hash);
}

#[test]
fn the_digest_ignores_notation_and_order_of_keys_but_not_the_order_of_modules() {
    let hash = |text: &str| read(text).unwrap().hash;
    assert_eq!(
        hash("[disk]\nmin_free = 0.3\ncheck_interval = 9"),
        hash("[disk]\ncheck_interval = 9\nmin_free = 0.30")
    );
    assert_ne!(
        hash("[sync_modules]\nuser-data = true\ndummy-fail = true"),
        hash("[sync_modules]\ndummy-fail = true\nuser-data = true")
    );
}

proptest! {
    #[test]
    fn any_valid_values_read_back_from_what_is_shown(
        seconds in 1_u32..,
        share in 0.001_f64..0.999,
        names in prop::collection::btree_set("[@a-z][a-z0-9 ._'\"-]{0,8}", 1..4),
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let text = format!(
            "[disk]\ncheck_interval = {seconds}\nmin_free = {share:?}\n[btrfs-snapshots]\nsubvolumes = {}\n",
            show::literal(&names.into()),
        );
        let config = read(&text).unwrap();
        prop_assert_eq!(read(&config.text).unwrap().hash, config.hash);
    }

    #[test]
    fn any_text_gives_a_config_or_problems_and_never_a_panic(text in "[\\[\\]a-z_=\"'0-9.,\n #-]{0,120}") {
        if let Err(errors) = read(&text) {
            prop_assert!(!errors.0.is_empty());
        }
    }

    #[test]
    fn the_shipped_file_with_lines_left_out_still_applies(keep in prop::collection::vec(any::<bool>(), 40)) {
        let lines = DEFAULT_TOML.lines().zip(keep).filter(|(line, keep)| *keep || line.starts_with('['));
        let text: String = lines.map(|(line, _)| format!("{line}\n")).collect();
        match read(&text) {
            Ok(config) => prop_assert_eq!(config.hash, read(DEFAULT_TOML).unwrap().hash),
            Err(errors) => prop_assert!(errors.0[0].message.contains("switches no module on")),
        }
    }
}

#[test]
fn every_component_that_is_wrong_has_its_own_line() {
    let text = "[snapshots.components]\nconfig = [\"etc\", \"x\"]\nmail = [\"/var/mail\"]\nfoo = [\"y\"]\n";
    let found = errors(text);
    let at = |line: &str| found.iter().any(|error| error.contains(&format!("config.toml:{line}:")));
    assert!(found.len() == 2 && at("2") && at("4"), "{found:#?}");
}
