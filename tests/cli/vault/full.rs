//! Disks that are full: of the vault, and of what this machine keeps of it.
#![expect(unsafe_code, reason = "memory of a file has no safe form")]

use super::*;

const MIB: u64 = 1 << 20;

fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
}

/// A small disk, mounted in a home; unmounted when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes one of so many MiB; `None` without the rights for it.
    fn mount(home: &Home, at: &str, mib: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("LAB_REQUIRED").is_none(), "root is needed");
            eprintln!("skipped: root is needed");
            return None;
        }
        let (image, at) = (home.path("disk.img"), home.path(at));
        fs::File::create(&image).and_then(|file| file.set_len(mib * MIB)).unwrap();
        sh("mkfs.ext4", &["-q", "-m", "0", "-N", "2048", image.to_str().unwrap()]);
        fs::create_dir_all(&at).unwrap();
        sh("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Some(Self { at })
    }

    fn free(&self) -> u64 {
        let facts = rustix::fs::statvfs(&self.at).unwrap();
        facts.f_bavail * facts.f_frsize
    }

    /// Leaves so many bytes free.
    fn fill(&self, left: u64) {
        let file = fs::File::create(self.at.join("ballast")).unwrap();
        let room = self.free().saturating_sub(left) / 4096 * 4096;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room.max(1)).unwrap();
        file.sync_all().unwrap();
    }

    fn relieve(&self) {
        fs::remove_file(self.at.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.at).status().ok();
    }
}

/// Returns bytes that do not compress.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Proves that whatever lies in a vault is whole: packs are named by what they hold, and nothing is half.
fn is_whole(root: &Path) {
    for kind in ["data", "index", "snapshots", "keys"] {
        for path in walk(&root.join(kind)) {
            let sum = Command::new("sha256sum").arg(&path).output().unwrap().stdout;
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text(&sum).contains(&format!("{name}  ")), "{}", path.display());
        }
    }
    assert_eq!(walk(&root.join("locks")), [""; 0].map(PathBuf::from));
    assert_eq!(walk(&root.join("pc-switcher/tmp")), [""; 0].map(PathBuf::from));
}

#[test]
fn a_vault_that_fills_up_holds_nothing_half_and_the_rest_follows_when_there_is_room() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home, "disk", 160) else { return };
    let root = disk.at.join("vault");
    home.bt(&["config", "init", "--root", root.to_str().unwrap()]);
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    let whole = 24 * 3 * MIB;
    for number in 0..24 {
        fs::write(home.path("docs").join(number.to_string()), noise(3 << 20, number + 1)).unwrap();
    }
    home.bt(&["add"]);
    disk.fill(42 * MIB);
    let said = home.fails(6, &["backup"]);
    assert!(said.contains(root.join("data").to_str().unwrap()) && said.contains("No space left"), "{said}");
    is_whole(&root);
    assert_eq!(walk(&root.join("snapshots")).len(), 0);
    let there: u64 = walk(&root.join("data")).iter().map(|pack| fs::metadata(pack).unwrap().len()).sum();
    assert!(there > 16 * MIB, "{there} bytes arrived before there was no room");
    restic(&root, &["check", "--read-data", "--no-lock"]);
    assert!(home.bt(&["history", "-n", "1"]).contains("  error  "));
    assert!(home.bt(&["dir", "status"]).lines().all(|line| line.starts_with("S ")));
    // Still full: the same, and nothing is lost by trying.
    home.fails(6, &["backup"]);
    is_whole(&root);
    disk.relieve();
    let report = home.json(&["backup"]);
    let stored = report["vaults"][0]["stored_bytes"].as_u64().unwrap();
    assert!(stored + there < whole + whole / 20, "{there} bytes were there, and {stored} came");
    assert_eq!(report["versions"], 24, "{report}");
    is_whole(&root);
    restic(&root, &["check", "--read-data"]);
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; 1 snapshots"));
    let back = home.path("back");
    home.bt(&["restore", ".", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("23")).unwrap(), noise(3 << 20, 24));
}

#[test]
fn a_full_disk_of_the_catalogue_ends_commands_with_its_own_code_and_loses_nothing() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home, ".local/state", 24) else { return };
    let root = home.path("vault");
    home.bt(&["config", "init", "--root", root.to_str().unwrap()]);
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    home.put("first", "1");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let catalogue = home.state().join("catalogue.db");
    let mut full = 0;
    for (round, left) in [0, 32 << 10, 96 << 10, 256 << 10, 1 << 20].into_iter().enumerate() {
        for number in 0..200 {
            home.put(format!("round-{round}/{number}"), &format!("{round} {number} ").repeat(200));
        }
        disk.fill(left);
        for args in [&["add"][..], &["backup"], &["backup", "--tracked"], &["prune"]] {
            let output = home.command(args).output().unwrap();
            let said = text(&output.stderr);
            let code = output.status.code();
            assert!(code == Some(0) || code == Some(6), "{left} {args:?}: {} {said}", output.status);
            if code == Some(6) {
                full += 1;
                let names_it =
                    said.contains(home.state().to_str().unwrap()) || said.contains("the stage for");
                assert!(names_it, "{left} {args:?}: {said}");
            }
        }
        disk.relieve();
        home.bt(&["backup", "--tracked"]);
        let status = home.bt(&["dir", "status"]);
        assert!(status.lines().all(|line| line.starts_with("B   ")), "{left}: {status}");
        restic(&root, &["check", "--read-data"]);
    }
    assert!(full >= 6, "{full} commands had no room");
    assert!(catalogue.exists());
    let history = home.bt(&["history"]);
    assert!(!history.contains("running"), "{history}");
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; "));
}

/// The file that [`maps_a_file_and_writes_to_all_of_it`] maps.
const MAPPED: &str = "PC_SWITCHER_TEST_MAPPED";

#[test]
#[ignore = "the other half of a test"]
fn maps_a_file_and_writes_to_all_of_it() {
    let path = std::env::var_os(MAPPED).expect("it is started by the other half");
    let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(MIB).unwrap();
    pc_switcher::bus_error::listen();
    // SAFETY: the memory is that of a file of this length that nobody else has, and is read by nobody.
    unsafe {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let memory =
            mmap(std::ptr::null_mut(), MIB as usize, protection, MapFlags::SHARED, &file, 0).unwrap();
        std::ptr::write_bytes(memory.cast::<u8>(), 1, MIB as usize);
    }
}

#[test]
fn memory_of_a_file_that_its_full_disk_does_not_take_ends_a_command_with_words() {
    use std::os::unix::process::ExitStatusExt;
    let home = Home::new();
    let Some(disk) = Disk::mount(&home, "disk", 24) else { return };
    let write = |name: &str| {
        let path = disk.at.join(name);
        let half = "vault::full::maps_a_file_and_writes_to_all_of_it";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", half, "--ignored", "--nocapture"])
            .env(MAPPED, &path)
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status, said, path.display().to_string())
    };
    let (status, said, _) = write("room.db-shm");
    assert!(status.success() && said.contains("1 passed"), "{said}");
    disk.fill(0);
    let (status, said, path) = write("full.db-shm");
    assert_eq!(status.code(), Some(6), "{status} {said}");
    assert!(said.contains(&format!("cannot write to {path}: No space left")), "{said}");
    assert!(said.contains("help: make room"), "{said}");
    // Any other file is none of ours to speak of.
    let (status, said, _) = write("full.else");
    assert_eq!(status.signal(), Some(7), "{status} {said}");
    assert!(!said.contains("No space left"), "{said}");
}

#[test]
fn a_restore_onto_a_disk_that_fills_up_ends_with_whole_files_and_the_next_one_goes_on() {
    let home = Home::ready();
    let Some(disk) = Disk::mount(&home, "small", 72) else { return };
    fs::create_dir(home.path("docs/sub")).unwrap();
    for number in 0..12 {
        let name = if number % 2 == 0 { format!("{number}") } else { format!("sub/{number}") };
        fs::write(home.path("docs").join(name), noise(3 << 20, number + 1)).unwrap();
    }
    fs::hard_link(home.path("docs/0"), home.path("docs/sub/0-again")).unwrap();
    symlink("nowhere", home.path("docs/sub/link")).unwrap();
    fs::set_permissions(home.path("docs/sub"), fs::Permissions::from_mode(0o555)).unwrap();
    home.bt(&["backup", "--tracked"]);
    let id = home.json(&["list", "--snapshots"])[0]["id"].as_str().unwrap().to_owned();
    let docs = home.path("docs").display().to_string();
    let files = |back: &Path| if back.exists() { walk(back) } else { Vec::new() };
    let links = |back: &Path| files(back).iter().filter(|path| path.is_symlink()).count();
    for given in [&["restore", "."][..], &["restore", "--snapshot", &id, &docs]] {
        let back = disk.at.join("back");
        let to = back.to_str().unwrap();
        let all = [given, &["--to", to]].concat();
        disk.fill(11 * MIB);
        for _ in 0..2 {
            let said = home.fails(6, &all);
            for part in
                ["No space left", to, "are restored", "are still wanted", "are free there", "make room"]
            {
                assert!(said.contains(part), "{part}: {said}");
            }
            let whole = files(&back).iter().filter(|path| !path.is_symlink()).cloned().collect::<Vec<_>>();
            assert!((1..13).contains(&whole.len()), "{whole:?}");
            for path in whole {
                let original = home.path("docs").join(path.strip_prefix(&back).unwrap());
                assert!(fs::read(&path).unwrap() == fs::read(&original).unwrap(), "{}", path.display());
            }
            assert!(disk.free() > 0, "what found no room is gone");
        }
        // One that somebody put there is named, and is none that room would bring.
        fs::remove_file(back.join("10")).ok();
        fs::write(back.join("10"), "mine").unwrap();
        let output = home.command(&[&all[..], &["--json"]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
        let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        let said = report["troubles"].to_string();
        assert!(said.contains("/10\"") && said.contains("exists already"), "{report}");
        // A link takes no room that a snapshot counts.
        let counts_links = given[1] == ".";
        let there = files(&back).into_iter().filter(|path| counts_links || !path.is_symlink()).count() as u64;
        let counted = report["full"]["files_left"].as_u64().unwrap() + there;
        assert_eq!(counted, if counts_links { 14 } else { 13 }, "{report}");
        assert!(report["full"]["bytes_left"].as_u64() > Some(17 << 20), "{report}");
        fs::remove_file(back.join("10")).unwrap();
        assert!(home.bt(&["history", "-n", "1"]).contains("no room for"));
        disk.relieve();
        let output = home.command(&all).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains("more are there already"), "{said}");
        let regular = || files(&back).into_iter().filter(|path| !path.is_symlink());
        assert_eq!((regular().count(), links(&back)), (13, 1), "{said}");
        for path in regular() {
            let original = home.path("docs").join(path.strip_prefix(&back).unwrap());
            assert!(fs::read(&path).unwrap() == fs::read(&original).unwrap(), "{}", path.display());
            let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
            assert_eq!(modified(&path), modified(&original), "{}", path.display());
        }
        let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(back.join(name)).unwrap());
        assert_eq!(inode("0"), inode("sub/0-again"));
        let rights = fs::metadata(back.join("sub")).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o555);
        // Once more, with nothing to do; what somebody changed meanwhile is neither replaced nor taken for restored.
        assert!(home.bt(&all).lines().all(|line| line.ends_with("/link")));
        for name in ["0", "2"] {
            fs::remove_file(back.join(name)).unwrap();
            fs::write(back.join(name), noise(3 << 20, 99)).unwrap();
        }
        fs::set_permissions(back.join("sub"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(back.join("sub/0-again")).unwrap();
        assert!(home.fails(1, &all).contains("exists already"));
        // A further name is never given what took the place of the first.
        let further = fs::read(back.join("sub/0-again")).ok();
        assert!(further.is_none_or(|found| found == fs::read(home.path("docs/0")).unwrap()), "{said}");
        assert!(fs::read(back.join("0")).unwrap() == noise(3 << 20, 99));
        fs::remove_dir_all(&back).unwrap();
    }
    // One that finds no room leaves nothing.
    disk.fill(MIB);
    let to = disk.at.join("one");
    let said = home.fails(6, &["restore", "0", "--to", to.to_str().unwrap()]);
    assert!(said.contains("1 with 3.0 MiB are still wanted") && files(&to).is_empty(), "{said}");
}
