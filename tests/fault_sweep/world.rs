//! Two machines, and what a person does on one of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use pc_switcher_agent::linux::lock::{Attempt, MachineLock};
use pc_switcher_agent::proto::LockRequest;
use pc_switcher_contract::{Role, SessionId};
use pc_switcher_testkit::manifest::{ManifestOptions, TreeManifest};
use pc_switcher_testkit::model::Disk;

/// Both disks. They outlive the runs.
pub struct World {
    pub laptop: Arc<Disk>,
    pub desk: Arc<Disk>,
}

impl World {
    /// Makes two machines with something of a home each.
    pub fn new() -> World {
        let disk = |name: &str| Disk::new(name.parse().unwrap()).unwrap();
        World::of(disk("laptop"), disk("desk"))
    }

    /// As [`World::new`], on these disks.
    pub fn of(laptop: Disk, desk: Disk) -> World {
        let world = World { laptop: Arc::new(laptop), desk: Arc::new(desk) };
        let home = home(&world.laptop);
        for dir in ["alice/notes", "alice/src/old", "alice/music"] {
            fs::create_dir_all(home.join(dir)).unwrap();
        }
        for (path, text) in [
            ("alice/notes/today", "call the dentist\n"),
            ("alice/notes/same", "never changes\n"),
            ("alice/src/main.rs", "fn main() {}\n"),
            ("alice/src/old/a", "a\n"),
            ("alice/src/old/b", "b\n"),
            ("alice/music/song", "la la la\n"),
        ] {
            fs::write(home.join(path), text).unwrap();
        }
        fs::hard_link(home.join("alice/music/song"), home.join("alice/music/favourite")).unwrap();
        symlink("main.rs", home.join("alice/src/link")).unwrap();
        fs::create_dir(self::home(&world.desk).join("alice")).unwrap();
        world
    }

    /// Works on the laptop: something new, changed, gone, and of another kind.
    pub fn work(&self) {
        let home = home(&self.laptop).join("alice");
        fs::write(home.join("notes/today"), "call the dentist, and mother\n").unwrap();
        fs::create_dir(home.join("new")).unwrap();
        fs::write(home.join("new/plan"), vec![b'p'; 600_000]).unwrap();
        fs::write(home.join("new/empty"), "").unwrap();
        fs::remove_dir_all(home.join("src/old")).unwrap();
        fs::remove_file(home.join("src/link")).unwrap();
        fs::write(home.join("src/link"), "no link any more\n").unwrap();
        fs::set_permissions(home.join("src/main.rs"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Goes on working on the laptop, on the same files.
    pub fn work_on(&self) {
        let home = home(&self.laptop).join("alice");
        fs::write(home.join("notes/today"), "call mother again\n").unwrap();
        fs::write(home.join("new/empty"), "not empty any more\n").unwrap();
        fs::remove_file(home.join("src/link")).unwrap();
    }

    pub fn disks(&self) -> [&Arc<Disk>; 2] {
        [&self.laptop, &self.desk]
    }

    /// Returns the words for what each machine keeps of a session: `-`, `pre`, `pre+post`.
    pub fn sets_of(&self, session: &SessionId) -> [String; 2] {
        self.disks().map(|disk| {
            let sets = disk.sets();
            let kinds: Vec<_> = sets
                .iter()
                .filter(|set| set.session == *session)
                .map(|set| set.kind.in_name().trim_end_matches("sync"))
                .collect();
            if kinds.is_empty() { "-".to_owned() } else { kinds.join("+") }
        })
    }
}

/// Returns where the homes of a machine lie.
pub fn home(disk: &Disk) -> PathBuf {
    disk.real(&"/home".into())
}

/// Reads the homes of a machine. What was displaced is no part of them.
pub fn picture(disk: &Disk) -> TreeManifest {
    TreeManifest::read(home(disk), &ManifestOptions::new().exclude(".pc-switcher")).unwrap()
}

/// Whether nobody holds the machine's lock.
pub fn is_free(disk: &Disk) -> bool {
    let request = LockRequest {
        session: "ffffffff".parse().unwrap(),
        role: Role::Target,
        from: "tower".parse().unwrap(),
        user: "bob".into(),
    };
    matches!(MachineLock::try_take(&disk.lock_path(), &request), Ok(Attempt::Held(_)))
}

/// Returns what is left of staging on a machine.
pub fn staging(disk: &Disk) -> Vec<String> {
    let Ok(dir) = fs::read_dir(home(disk).join(".pc-switcher")) else { return Vec::new() };
    let names = dir.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with("undo-")).collect()
}
