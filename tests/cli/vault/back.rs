//! A catalogue that went back, or is gone.

use super::*;

/// Runs a script with `bt` as `$0` while a small file system of its own is mounted at a directory; `None` where nothing may be mounted.
fn with_a_disk(home: &Home, at: &Path, script: &str) -> Option<String> {
    let given = home.command(&[]);
    let script = format!("mount -t tmpfs none \"$1\"\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script]).arg(given.get_program()).arg(at);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(home.path("docs"));
    command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    if said.contains("Operation not permitted") || said.contains("permission denied") {
        eprintln!("skipped: nothing may be mounted here: {said}");
        return None;
    }
    assert!(output.status.success(), "{}{said}", text(&output.stdout));
    Some(text(&output.stdout))
}

#[test]
fn a_catalogue_on_a_disk_of_its_own_is_put_back_in_its_place_by_recover() {
    let home = Home::ready();
    let data = home.path("data");
    fs::create_dir(&data).unwrap();
    home.put("f", "first");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let config = home.path(".config/bt.toml");
    let settings = fs::read_to_string(&config).unwrap();
    let named = format!("[vault]\ndata_dir = \"{}\"\n", data.display());
    fs::write(&config, settings.replacen("[vault]\n", &named, 1)).unwrap();
    let script = r#"
        mv ../.local/state/pc-switcher/vault/catalogue.db "$1"
        cp "$1/catalogue.db" "$1/old"
        echo "second, and longer" > f
        "$0" add >&2
        "$0" backup >&2
        mv "$1/old" "$1/catalogue.db"
        rm -f "$1"/catalogue.db-*
        "$0" recover >&2
        "$0" log f
        ls -A "$1"
        rm "$1"/*
        "$0" recover >&2
        "$0" log f
        ls -A "$1"
        stat -c %a "$1/catalogue.db"
    "#;
    let Some(said) = with_a_disk(&home, &data, script) else { return };
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.contains("in local")).count(), 4, "{said}");
    assert!(lines[2] == "catalogue.db" && lines[3].starts_with("catalogue.db.2"), "{said}");
    assert_eq!(lines[6..], ["catalogue.db", "600"], "{said}");
}

/// Has `bt` find itself on a system that was started anew, now.
const RESTART: &str = r#"
    restart() {
        umount /proc/sys/kernel/random/boot_id /proc/stat 2>/dev/null || true
        cat /proc/sys/kernel/random/uuid > ../boot
        sed "s/^btime .*/btime $(date +%s)/" /proc/stat > ../stat
        mount --bind ../boot /proc/sys/kernel/random/boot_id
        mount --bind ../stat /proc/stat
    }
    restart
"#;

#[test]
fn a_rollback_of_the_state_and_a_restart_are_made_up_for_by_the_next_backup() {
    if fs::read_to_string("/etc/machine-id").map_or(true, |id| id.trim().is_empty()) {
        eprintln!("skipped: this system has no id");
        return;
    }
    for is_apart in [false, true] {
        let home = Home::new();
        let disk = home.path("disk");
        fs::create_dir(&disk).unwrap();
        home.bt(&["config", "init", "--root", home.path("vault").to_str().unwrap()]);
        home.bt(&["config", "vault", "init"]);
        home.bt(&["dir", "init"]);
        if is_apart {
            let config = home.path(".config/bt.toml");
            let settings = fs::read_to_string(&config).unwrap();
            let named = format!("[vault]\ndata_dir = \"{}\"\n", disk.display());
            fs::write(&config, settings.replacen("[vault]\n", &named, 1)).unwrap();
        }
        let script = r#"
            state=../.local/state/pc-switcher
            if [ -e ../apart ]; then mv $state/vault/catalogue.db "$1"; fi
            echo first > f
            "$0" add >&2
            "$0" backup >&2
            mkdir ../old
            cp -a $state "$1" ../old
            echo "second, and longer" > f
            echo new > g
            "$0" add >&2
            "$0" backup >&2
            rm -rf $state "$1"/*
            cp -a ../old/pc-switcher $state
            cp -a ../old/disk/. "$1"
            # As if somebody had put it back by hand.
            "$0" backup 2>&1 >/dev/null && exit 9 || echo "exit $?"
            restart
            echo "written since" > h
            "$0" add h >&2
            "$0" backup --json
            "$0" log f
            "$0" log g
            "$0" log h
            "$0" history
            echo "once more"
            "$0" backup 2>&1
            ls -A $state/vault "$1"
        "#;
        if is_apart {
            fs::write(home.path("apart"), "").unwrap();
        }
        let Some(said) = with_a_disk(&home, &disk, &format!("{RESTART}{script}")) else { return };
        let (before, after) = said.split_once("exit 3\n").expect(&said);
        assert!(
            before.contains("older than the vault") && before.contains("since this system started"),
            "{said}"
        );
        assert!(before.contains("`bt recover`"), "{said}");
        assert!(after.contains("is up to date again"), "{said}");
        assert_eq!(after.matches("in local").count(), 4, "two of f, one of g and one of h: {said}");
        let (after, again) = after.split_once("once more\n").expect(&said);
        assert!(after.contains("recover") && after.contains("by itself"), "{said}");
        assert!(again.starts_with("0 new versions") && !again.contains("up to date"), "{said}");
        assert_eq!(again.matches("catalogue.db.2").count(), 1, "{said}");
        assert!(!again.contains(".pc-switcher-recover"), "{said}");
    }
}
