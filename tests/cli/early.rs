//! The early part of a start, with the program itself: a disk that nobody has mounted, as the initramfs finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pc_switcher_agent::linux::boot;
use pc_switcher_agent::linux::snapshots::{mark_good, take_set};
use pc_switcher_agent::proto::{BootOrder, GoodBy, GoodMark, TakeSet};
use pc_switcher_contract::{BytePath, SetId, SnapshotKind};

use super::text;

fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

fn said(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk of a machine that is off, with a good state and a broken one in its place.
struct Disk {
    dir: tempfile::TempDir,
    device: String,
    /// The subvolumes of the system and of the snapshots: names that no other disk here has.
    names: [String; 2],
    good: Option<SetId>,
}

impl Disk {
    fn make() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("LAB_REQUIRED").is_none(), "root is needed");
            eprintln!("skipped: root is needed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(300 << 20)).unwrap();
        sh("mkfs.btrfs", &["-q", said(&image)]);
        let device = sh("losetup", &["-f", "--show", said(&image)]);
        let tag = dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        let names = ["sys", "snaps"].map(|name| format!("@{name}{tag}"));
        let mut disk = Self { dir, device, names, good: None };
        disk.furnish();
        Some(disk)
    }

    fn snaps(&self) -> PathBuf {
        self.dir.path().join("snaps")
    }

    fn mount(&self, options: &str, name: &str) -> PathBuf {
        let point = self.dir.path().join(name);
        fs::create_dir_all(&point).unwrap();
        sh("mount", &["-o", options, &self.device, said(&point)]);
        point
    }

    /// Works with the disk mounted: its top level, the system, the snapshots.
    fn mounted<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        let points = [
            self.mount(&format!("subvol={}", self.names[0]), "sys"),
            self.mount(&format!("subvol={}", self.names[1]), "snaps"),
        ];
        let done = work(&points[0]);
        points.iter().for_each(|point| drop(sh("umount", &[said(point)])));
        done
    }

    fn furnish(&mut self) {
        let top = self.mount("subvolid=5", "top");
        for name in &self.names {
            sh("btrfs", &["-q", "subvolume", "create", said(&top.join(name))]);
        }
        sh("umount", &[said(&top)]);
        let snaps = BytePath::from(self.snaps().as_path());
        let request = TakeSet {
            session: "0a1b2c3d".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            kind: SnapshotKind::Manual,
            snapshot_dir: snaps.clone(),
            subvolumes: vec![self.names[0].parse().unwrap()],
        };
        let good = self.mounted(|root| {
            let put = |path: &str, content: &str| {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            };
            put("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
            put("etc/machine-id", "of this machine\n");
            put("sbin/init", "good");
            for path in [
                "etc/pc-switcher/config.toml",
                "etc/systemd/system/pc-switcher-boot.service",
                "etc/systemd/system/multi-user.target.wants/pc-switcher-boot.service",
                "etc/systemd/system/pc-switcher-good.service",
                "etc/systemd/system/pc-switcher-good.timer",
                "etc/systemd/system/timers.target.wants/pc-switcher-good.timer",
                "usr/local/bin/pc-switcher",
            ] {
                put(path, "");
            }
            let id = take_set(&request).unwrap().0.id();
            let mark = GoodMark::Set { id: id.clone(), by: GoodBy::Hand, keep: 1 };
            mark_good(&self.snaps(), &mark).unwrap();
            boot::run(&snaps, &BootOrder::On).unwrap();
            // What says who the machine is and who its users are is gone as well.
            fs::remove_dir_all(root.join("etc")).unwrap();
            fs::remove_dir_all(root.join("sbin")).unwrap();
            put("root/.ssh/id", "since then");
            put("var/lib/pc-switcher/pairs/0123", "what is remembered");
            id
        });
        self.good = Some(good);
    }

    fn start(&self, number: u32, options: &str, command_line: &str) -> Vec<String> {
        self.start_with(number, options, command_line, &[])
    }

    fn start_with(&self, number: u32, options: &str, command_line: &str, more: &[&str]) -> Vec<String> {
        let [system, snaps] = &self.names;
        let output = Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
            .args(["agent", &format!("--before-root={}", self.device), &format!("--options={options}")])
            .arg(format!("--command-line={command_line}"))
            .arg(format!("--boot-id={number:08x}-1111-2222-3333-444444444444"))
            .args(["--limit=3", &format!("--snapshot-dir={}", said(&self.snaps()))])
            .args([format!("--tree={system}=/"), format!("--tree={snaps}={}", said(&self.snaps()))])
            .args(more)
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for name in ["snaps", "sys", "top"] {
            // Not mounted any more, if all went well.
            let _ = Command::new("umount").arg(self.dir.path().join(name)).output();
        }
        sh("losetup", &["-d", &self.device]);
    }
}

#[test]
fn a_ruin_that_nobody_has_mounted_is_counted_three_times_and_replaced_by_the_good_state() {
    let Some(disk) = Disk::make() else { return };
    let options = format!("-o subvol={}", disk.names[0]);
    assert!(disk.start(1, "-o subvol=@other", "ro quiet")[0].contains("is not counted"));
    assert!(disk.start(1, &options, "ro single")[0].contains("is not counted"));
    for number in 1..=3 {
        assert_eq!(disk.start(number, &options, "ro quiet"), [""; 0]);
    }
    let told = disk.start_with(4, &options, "ro quiet", &["--patience=0"]);
    assert!(
        told.last().unwrap().ends_with("it took longer than 0 s; the machine is started as it is"),
        "{told:?}"
    );
    disk.mounted(|root| assert!(!root.join("sbin/init").exists(), "nothing is exchanged"));
    // No console is there, so nobody is asked.
    let told = disk.start_with(5, &options, "ro quiet", &["--console=/dev/null"]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains(&disk.good.as_ref().unwrap().to_string()), "{told:?}");
    disk.mounted(|root| {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        assert_eq!(read("sbin/init"), "good");
        assert_eq!(read("etc/machine-id"), "of this machine\n", "what the ruin had lost is not lost again");
        assert!(!read("var/lib/pc-switcher/rollback").is_empty(), "it knows that it went back");
        assert_eq!(read("var/lib/pc-switcher/pairs/0123"), "what is remembered");
    });
    let top = disk.mount("subvolid=5", "top");
    let replaced = top.join(format!("{}.replaced-00000005", disk.names[0]));
    assert_eq!(fs::read_to_string(replaced.join("root/.ssh/id")).unwrap(), "since then", "nothing is lost");
    sh("umount", &[said(&top)]);
    assert_eq!(disk.start(6, &options, "ro quiet"), [""; 0]);
    // Somebody removed the program, and left the rest.
    disk.mounted(|root| fs::remove_file(root.join("usr/local/bin/pc-switcher")).unwrap());
    for number in 7..=12 {
        let told = disk.start(number, &options, "ro quiet");
        assert!(
            told[0].contains("is not counted") && told[0].contains("/usr/local/bin/pc-switcher"),
            "{told:?}"
        );
    }
}

#[test]
fn a_disk_that_is_not_there_or_holds_something_else_keeps_no_start_from_going_on() {
    let Some(disk) = Disk::make() else { return };
    let mut gone = Command::new(env!("CARGO_BIN_EXE_pc-switcher"));
    gone.args(["agent", "--before-root=/dev/nowhere", "--options=subvol=@", "--tree=@=/", "--limit=3"]);
    let output = gone.env_clear().output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).ends_with("the machine is started as it is\n"), "{}", text(&output.stdout));
    disk.mounted(|_| boot::run(&BytePath::from(disk.snaps().as_path()), &BootOrder::Off).unwrap());
    let options = format!("subvol={}", disk.names[0]);
    for number in 1..=5 {
        assert_eq!(disk.start(number, &options, ""), [""; 0], "switched off");
    }
    disk.mounted(|root| assert!(!root.join("sbin/init").exists()));
}
