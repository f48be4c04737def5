//! Sets that are taken by the clock and before packages change, by a real apt.

use pc_switcher_testkit::lab::{Cmd, Machine};
use serde_json::Value;

use crate::hosts::{Ran, alice, configure, lab, root, run};

pub fn auto(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").args(["snapshots", "auto"]).args(words.iter().copied()).as_alice())
}

/// What the timer starts.
const TAKE: &str = "pc-switcher --config /etc/pc-switcher/config.toml snapshots auto take";

/// Kinds and notes of all sets, oldest first.
pub fn sets(machine: &Machine) -> Vec<(String, String)> {
    let list = run(machine, &Cmd::new("pc-switcher").args(["snapshots", "list", "--json"]).as_alice());
    let list: Value = serde_json::from_str(&list.ends_with(0).stdout).unwrap();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list["sets"].as_array().unwrap().iter().map(|set| (word(&set["kind"]), word(&set["note"]))).collect()
}

#[test]
fn sets_are_taken_before_apt_changes_packages_and_by_the_clock_and_none_after_it_is_off() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    auto(laptop, &[]).ends_with(0).says(&["By the clock off", "Before packages off"]);
    configure(laptop, "[snapshots]\nschedule = \"Mon..Fry 12:00\"\n");
    auto(laptop, &["on"]).ends_with(2).says(&["`schedule` in [snapshots]", "Mon..Fry 12:00"]);
    assert_eq!(root(laptop, "ls /etc/apt/apt.conf.d | grep -c pc-switcher || true"), "0\n");

    configure(
        laptop,
        "[btrfs-snapshots]\nkeep = \"last 1 sessions\"\nkeep_min = \"last 1 sessions\"\n\
         [snapshots]\nschedule = \"daily\"\n",
    );
    auto(laptop, &["on"]).ends_with(0).says(&["80pc-switcher", "pc-switcher-snapshot.timer"]);
    auto(laptop, &["on"]).ends_with(0).says(&["nothing to change"]);
    auto(laptop, &[]).ends_with(0).says(&["By the clock daily", "Before packages on"]);
    root(laptop, "systemd-analyze verify /etc/systemd/system/pc-switcher-snapshot.timer");
    assert!(
        root(laptop, "ls /etc/systemd/system/timers.target.wants").contains("pc-switcher-snapshot.timer")
    );

    let removed = root(laptop, "apt-get -y remove sqlite3 2>&1");
    assert!(removed.contains("autoupdate is taken"), "{removed}");
    assert_eq!(sets(laptop), [("auto-update".to_owned(), "before apt changed sqlite3".to_owned())]);
    assert!(root(laptop, "apt-get -y remove psmisc 2>&1").contains("was taken just before"));
    assert_eq!(sets(laptop).len(), 1);

    alice(laptop, "echo new >notes/by-the-clock");
    assert!(root(laptop, TAKE).contains("scheduled is taken"));
    assert!(root(laptop, TAKE).contains("nothing changed since the last set"));
    alice(laptop, "echo newer >notes/by-the-clock");
    let said = root(laptop, TAKE);
    assert!(said.contains("scheduled is taken") && said.contains("scheduled is removed"), "{said}");
    let kinds: Vec<String> = sets(laptop).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["auto-update", "scheduled"], "each kind is pruned by itself");

    configure(laptop, "[snapshots]\nauto_update = false\nauto_boot = false\n");
    auto(laptop, &[]).ends_with(0).says(&["say something else by now"]);
    auto(laptop, &["on", "--dry-run"])
        .ends_with(0)
        .says(&["would remove `/etc/apt/apt.conf.d/80pc-switcher`"]);
    auto(laptop, &["on"]).ends_with(0).says(&["removed `/etc/apt/apt.conf.d/80pc-switcher`"]);
    auto(laptop, &["on"]).ends_with(2).says(&["no set is to be taken by itself", "nothing is installed"]);
    auto(laptop, &["off"]).ends_with(0).says(&["nothing to change"]);
    let left = "ls -A /etc/pc-switcher /etc/systemd/system /etc/systemd/system/timers.target.wants | grep -c pc-switcher-snap || true";
    assert_eq!(root(laptop, left), "0\n");
    root(laptop, "apt-get -y remove lsof 2>&1 || true");
    assert_eq!(sets(laptop).len(), 2);

    configure(laptop, "[snapshots]\nauto_update = false\nauto_boot = false\nauto_good = true\n");
    auto(laptop, &["on"]).ends_with(0).says(&["pc-switcher-good.service", "pc-switcher-good.timer"]);
    auto(laptop, &[]).ends_with(0).says(&["After a start marked as good if all is well"]);
    root(laptop, "systemd-analyze verify /etc/systemd/system/pc-switcher-good.timer");
    let booted = TAKE.replace("auto take", "auto booted");
    assert!(
        root(laptop, &booted).contains("packages were changed since the start"),
        "another state has started"
    );
    root(laptop, "touch -d @0 /var/lib/dpkg/status");
    assert!(root(laptop, &booted).contains("autoboot is taken and marked as good"));
    let plan = Cmd::new("pc-switcher").args(["rollback", "good", "--plan"]).as_alice();
    run(laptop, &plan).says(&["marked by a start that went well"]);
    root(laptop, "echo Nonsense yes >>/etc/ssh/sshd_config");
    assert!(root(laptop, &booted).contains("no set is marked as good: sshd's configuration"));
    auto(laptop, &["off"]).ends_with(0).says(&["removed `/etc/systemd/system/pc-switcher-good.timer`"]);
}

#[test]
fn a_config_that_somebody_else_wrote_stays() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    root(laptop, "mkdir -p /etc/pc-switcher; echo '[disk]' >/etc/pc-switcher/config.toml");
    let said = ["`/etc/pc-switcher/config.toml` was not written by pc-switcher and stays as it is"];
    auto(laptop, &["on"]).ends_with(0).says(&said);
    assert_eq!(root(laptop, "cat /etc/pc-switcher/config.toml"), "[disk]\n");
    auto(laptop, &["off"]).ends_with(0).says(&said);
    assert_eq!(root(laptop, "cat /etc/pc-switcher/config.toml"), "[disk]\n");
}
