//! What goes back: two machines after a sync, and what broke since on both.

use pc_switcher_testkit::lab::{Cmd, Lab, Machine, MachineName};
use pc_switcher_testkit::manifest::{Difference, Kind, ManifestOptions, TreeManifest};

use super::left::{MEMBERS, Uuids};
use super::point::{Ended, HALT, LIMIT};
use crate::hosts::{alice, first_sync, root, run, sync};

/// The state of both machines in which every point begins.
const READY: &str = "ready";

/// What is compared of the trees that go back, with the subvolume that it is in.
const PARTS: [(&str, &str); 4] =
    [("@", "/etc"), ("@", "/var/lib/dpkg"), ("@home", "/home/alice"), ("@root", "/root")];

/// Both machines, ready to go back together.
pub struct Scene<'a> {
    pub lab: &'a Lab,
    session: String,
    /// Those that each takes, as they are called.
    steps: [Vec<String>; 2],
    before: [Uuids; 2],
    old: [Picture; 2],
    new: [Picture; 2],
}

/// What is compared of a machine, part by part.
type Picture = [TreeManifest; PARTS.len()];

impl<'a> Scene<'a> {
    #[track_caller]
    pub fn make(lab: &'a Lab) -> Self {
        let machines = [lab.laptop(), lab.desk()];
        alice(lab.laptop(), "echo good >letter");
        root(lab.laptop(), "echo good >/root/tool");
        enable_units(lab.laptop());
        first_sync(lab);
        alice(lab.laptop(), "echo bad >letter; rm -r names");
        root(lab.laptop(), "echo bad >/root/tool");
        let said = sync(lab.laptop(), "desk", &[]).ends_with(0).stdout;
        let session = said.split_once("(session ").unwrap().1[..8].to_owned();
        alice(lab.laptop(), "echo worse >letter");
        root(lab.laptop(), "echo worse >/root/tool");
        machines.into_iter().for_each(spoil);
        lab.snapshot(READY).unwrap();
        let old = machines.map(|machine| picture(machine, |_, part| part.to_owned()));
        let new = machines.map(|machine| {
            let names = root(machine, &format!("cd /.snapshots; ls -d *-presync-*-{session}"));
            picture(machine, |subvolume, part| {
                let is_it = |name: &&str| name.starts_with(&format!("{subvolume}-presync-"));
                let set = names.lines().find(is_it).unwrap();
                let below = if subvolume == "@" { part } else { part.strip_prefix("/home").unwrap_or("") };
                format!("/.snapshots/{set}{below}")
            })
        });
        for (at, machine) in machines.iter().enumerate() {
            let same = (0..PARTS.len()).find(|part| old[at][*part] == new[at][*part]);
            assert_eq!(same.map(|part| PARTS[part]), None, "of {} it would not be seen", machine.hostname());
        }
        let before = machines.map(Uuids::of);
        let mut scene = Self { lab, session, steps: Default::default(), before, old, new };
        scene.steps = scene.walk_through();
        scene
    }

    /// Goes back without any trouble, and returns the steps that both machines take then.
    fn walk_through(&self) -> [Vec<String>; 2] {
        self.begin();
        run(self.lab.laptop(), &self.line()).ends_with(0);
        let steps = [self.lab.laptop(), self.lab.desk()].map(steps_of);
        for (steps, decides) in steps.iter().zip([true, false]) {
            let wanted = ["preparing", "snapshot", "prepared", "committed", "exchange", "rename", "done"];
            let is_taken = |step: &str| steps.iter().any(|one| one == step);
            assert!(
                wanted.into_iter().all(is_taken),
                "is it the program of `tests/build-program lab`? {steps:?}"
            );
            assert_eq!(is_taken("decided"), decides, "{steps:?}");
        }
        steps
    }

    /// Sets both machines back, and has them tell what they do.
    pub fn begin(&self) {
        self.lab.reset(READY).unwrap();
        for machine in [self.lab.laptop(), self.lab.desk()] {
            root(machine, &format!("mkdir -m 700 {HALT}"));
        }
    }

    /// What a person types on the laptop.
    pub fn line(&self) -> Cmd {
        Cmd::new("pc-switcher").args(["rollback", &self.session]).as_alice().timeout(LIMIT)
    }

    pub fn steps(&self, of: MachineName) -> &[String] {
        &self.steps[at(of)]
    }

    /// Which trees a machine that runs has in place.
    #[track_caller]
    pub fn stand(&self, machine: &Machine) -> Ended {
        let (before, now) = (&self.before[at(machine.name())], Uuids::of(machine));
        let olds = MEMBERS.map(|name| before.of_name(name) == now.of_name(name));
        assert!(olds.iter().all(|old| *old == olds[0]), "{} is half old: {olds:?}", machine.hostname());
        if olds[0] { Ended::Old } else { Ended::New }
    }

    /// Checks the files of a machine: all old, or all new.
    #[track_caller]
    pub fn assert_files(&self, machine: &Machine, wanted: Ended) {
        let seen = picture(machine, |_, part| part.to_owned());
        let wanted_files = match wanted {
            Ended::Old => &self.old[at(machine.name())],
            Ended::New => &self.new[at(machine.name())],
        };
        for ((wanted_part, seen), (_, part)) in wanted_files.iter().zip(&seen).zip(PARTS) {
            let mut differences = wanted_part.diff(seen);
            // A directory in which something of the machine's own lies was written to when that was carried over.
            differences
                .retain(|difference| wanted == Ended::Old || !is_time_of_a_directory(difference, seen));
            assert!(
                differences.is_empty(),
                "`{part}` on {} is not {wanted:?}: {:#?}",
                machine.hostname(),
                differences.iter().map(ToString::to_string).take(20).collect::<Vec<_>>()
            );
        }
    }
}

fn is_time_of_a_directory(difference: &Difference, seen: &TreeManifest) -> bool {
    let Difference::Changed { path, fields } = difference else { return false };
    let is_dir = seen.entries().any(|(name, entry)| name == path && entry.kind == Kind::Directory);
    is_dir && fields.iter().all(|field| field.starts_with("modified"))
}

/// Where a machine stands in what there is of both.
fn at(name: MachineName) -> usize {
    usize::from(name == MachineName::Desk)
}

/// The steps that a machine has taken since it was set back.
pub fn steps_of(machine: &Machine) -> Vec<String> {
    let said = root(machine, &format!("cat {HALT}/steps 2>/dev/null || true"));
    said.lines().map(str::to_owned).collect()
}

/// Has each boot start the units, as on a machine that was installed; the desk gets them by its first sync.
fn enable_units(machine: &Machine) {
    for (unit, target) in [("redo", "multi-user"), ("rollback", "sysinit")] {
        let unit = format!("pc-switcher-{unit}.service");
        root(
            machine,
            &format!(
                "cd /etc/systemd/system; pc-switcher agent --print-unit {unit} >{unit}; mkdir -p {target}.target.wants; \
                 ln -s ../{unit} {target}.target.wants/"
            ),
        );
    }
}

/// What a bad day does to the system: sshd's configuration, files that are gone, and a package that is half installed. The desk still
/// takes logins, for otherwise nobody could tell it anything.
fn spoil(machine: &Machine) {
    root(
        machine,
        "echo 'DenyUsers bob carol' >>/etc/ssh/sshd_config; rm -r /etc/profile /etc/skel; mkdir -p /opt/bad/DEBIAN; cd /opt/bad; \
         printf 'Package: bad\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: bad\\n' >DEBIAN/control; \
         printf '#!/bin/sh\\nexit 1\\n' >DEBIAN/postinst; chmod 755 DEBIAN/postinst; \
         dpkg-deb --build . ../bad.deb; ! dpkg -i ../bad.deb; dpkg --audit | grep -q bad",
    );
}

/// Reads what is compared; `place` says where a part of a subvolume is.
fn picture(machine: &Machine, place: impl Fn(&str, &str) -> String) -> Picture {
    PARTS.map(|(subvolume, part)| {
        let options = ManifestOptions::new().exclude_if(move |path| is_own(part, &path.to_string_lossy()));
        machine.manifest(place(subvolume, part), &options).unwrap()
    })
}

/// Whether a path belongs to the machine, and so goes along: keys and logins, and what we remember.
fn is_own(part: &str, path: &str) -> bool {
    let (starts, names): (&[&str], &[&str]) = match part {
        "/etc" => (&["ssh/ssh_host_", "sudoers.d/pc-switcher-"], &["machine-id", "hostname"]),
        "/home/alice" => (&[".ssh/authorized_keys"], &[".local/state/pc-switcher"]),
        _ => (&[], &[]),
    };
    starts.iter().any(|start| path.starts_with(start)) || names.contains(&path)
}
