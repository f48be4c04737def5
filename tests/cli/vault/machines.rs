//! Several machines that back up into one vault.

use std::fs;
use std::path::PathBuf;

use super::*;

/// A home on a machine of this name; without the rights for that, and so on this one, `None`.
struct Named {
    home: Home,
    hostname: &'static str,
}

impl Named {
    fn new(hostname: &'static str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a name of its own takes root");
            return None;
        }
        Some(Self { home: Home::new(), hostname })
    }

    fn bt(&self, args: &[&str]) -> String {
        let given = self.home.command(args);
        let script = "echo \"$1\" >/proc/sys/kernel/hostname && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", script, "sh", self.hostname]).arg(self.home.path("bt")).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(self.home.path("docs"));
        command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        assert!(output.status.success(), "bt {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn set_up(&self, root: &str) {
        self.bt(&["config", "init", "--root", root]);
        self.bt(&["config", "vault", "init"]);
        self.bt(&["dir", "init"]);
    }
}

#[test]
fn two_machines_share_what_they_store_in_one_vault() {
    let (one, other) = (Home::ready(), Home::new());
    let content: String =
        (0..200_000_u64).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    one.put("large", &content);
    other.put("the same", &content);
    one.bt(&["add"]);
    let first = one.json(&["backup"])["vaults"][0]["stored_bytes"].as_u64().unwrap();
    other.bt(&["config", "init", "--root", one.state().join("local").to_str().unwrap()]);
    other.bt(&["config", "vault", "init"]);
    other.bt(&["dir", "init"]);
    other.bt(&["add"]);
    let second = other.json(&["backup"])["vaults"][0]["stored_bytes"].as_u64().unwrap();
    assert!(first > 1_000_000 && second < 10_000, "{first} {second}");
    assert_eq!(one.json(&["list", "--snapshots"]).as_array().unwrap().len(), 2);
    assert!(other.fails(2, &["log", "large"]).contains("no version"), "no view into the other's history");
}

#[test]
fn restic_alone_brings_back_each_of_two_machines_by_its_name() {
    let (Some(laptop), Some(desk)) = (Named::new("laptop"), Named::new("desk")) else { return };
    let root = laptop.home.path("vault");
    for machine in [&laptop, &desk] {
        machine.set_up(root.to_str().unwrap());
        machine.home.put("letter", &format!("of {}", machine.hostname));
        machine.bt(&["backup", "--tracked"]);
    }
    let Some(listed) = restic(&root, &["snapshots", "--json"]) else { return };
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let hosts: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["hostname"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["laptop", "desk"]);
    let back = |machine: &Named, args: &[&str]| -> Option<String> {
        let target = tempfile::tempdir().unwrap();
        restic(&root, &[&["restore", "latest", "--target", target.path().to_str().unwrap()], args].concat());
        let docs: PathBuf = target.path().join(machine.home.path("docs").strip_prefix("/").unwrap());
        fs::read_to_string(docs.join("letter")).ok()
    };
    for machine in [&laptop, &desk] {
        assert_eq!(back(machine, &["--host", machine.hostname]).unwrap(), format!("of {}", machine.hostname));
    }
    assert_eq!(back(&laptop, &[]), None, "`latest` is that of whoever wrote last");
}
