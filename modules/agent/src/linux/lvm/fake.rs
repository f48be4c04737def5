//! A thin pool in a directory, for tests: its commands are those of LVM, and a snapshot is a copy.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use rustix::fs::CWD;
use serde_json::json;

use super::*;

/// What LVM 2.03.16 says of a machine with a thin pool, a volume in it, a snapshot of that, and a volume of its own.
pub(crate) const RECORDED: &[u8] = br#"  {
      "report": [
          {
              "lv": [
                  {"vg_name":"vg0", "lv_name":"home", "lv_uuid":"lKbEpU-JS3T-9cT1-xJn8-glkL-u0tu-dXzPQd", "lv_layout":"thin,sparse", "pool_lv":"pool", "lv_permissions":"writeable", "lv_active":"active", "lv_kernel_major":"253", "lv_kernel_minor":"4", "lv_dm_path":"/dev/mapper/vg0-home", "data_percent":"1.85", "metadata_percent":"", "lv_tags":""},
                  {"vg_name":"vg0", "lv_name":"home-manual-20251115T120000Z-abc12345", "lv_uuid":"J6Es6F-nytf-Inw6-JbYy-Vc1T-dros-KVMjf3", "lv_layout":"thin,sparse", "pool_lv":"pool", "lv_permissions":"read-only", "lv_active":"", "lv_kernel_major":"-1", "lv_kernel_minor":"-1", "lv_dm_path":"/dev/mapper/vg0-home--manual--20251115T120000Z--abc12345", "data_percent":"", "metadata_percent":"", "lv_tags":"pc-switcher,pc-switcher-abababababababababababababababab"},
                  {"vg_name":"vg0", "lv_name":"pool", "lv_uuid":"zmR5zD-kPxh-e0qC-1fpt-UXNv-u07S-J9RlF3", "lv_layout":"thin,pool", "pool_lv":"", "lv_permissions":"writeable", "lv_active":"active", "lv_kernel_major":"253", "lv_kernel_minor":"2", "lv_dm_path":"/dev/mapper/vg0-pool", "data_percent":"8.19", "metadata_percent":"10.79", "lv_tags":""},
                  {"vg_name":"vg0", "lv_name":"swap", "lv_uuid":"A7hWzN-6B2i-dsUu-VtkC-pX0i-QkSR-JxR1dE", "lv_layout":"linear", "pool_lv":"", "lv_permissions":"writeable", "lv_active":"active", "lv_kernel_major":"253", "lv_kernel_minor":"5", "lv_dm_path":"/dev/mapper/vg0-swap", "data_percent":"", "metadata_percent":"", "lv_tags":""}
              ]
          }
      ]
  }
"#;

/// A volume: a directory.
#[derive(Debug, Clone)]
struct One {
    name: String,
    minor: u32,
    dir: PathBuf,
    tags: Vec<String>,
    is_read_only: bool,
    is_active: bool,
}

#[derive(Debug, Default)]
struct State {
    volumes: Vec<One>,
    commands: Vec<String>,
    numbers: u32,
    /// How full the pool is, in percent.
    used: f64,
    /// Whether taking a snapshot fails when it is there.
    is_failing: bool,
}

/// Group `vg0` with its pool.
#[derive(Debug)]
pub(crate) struct FakeLvm {
    dir: PathBuf,
    state: Mutex<State>,
}

impl FakeLvm {
    /// Makes one below a directory; it is never given back, as the one of the machine.
    pub(crate) fn make(dir: PathBuf) -> &'static Self {
        Box::leak(Box::new(Self { dir, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a volume that holds what a directory holds, and shows there; returns its device.
    pub(crate) fn add(&self, name: &str, dir: PathBuf) -> String {
        let mut state = self.state();
        state.numbers += 1;
        let minor = state.numbers;
        let one =
            One { name: name.to_owned(), minor, dir, tags: Vec::new(), is_read_only: false, is_active: true };
        state.volumes.push(one);
        format!("253:{minor}")
    }

    /// Returns the names of all volumes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().volumes.iter().map(|one| one.name.clone()).collect()
    }

    /// Returns the names of those that have a device.
    pub(crate) fn active(&self) -> Vec<String> {
        let state = self.state();
        let active = state.volumes.iter().filter(|one| one.is_active);
        active.map(|one| one.name.clone()).collect()
    }

    /// Returns the commands since it was asked last.
    pub(crate) fn commands(&self) -> Vec<String> {
        std::mem::take(&mut self.state().commands)
    }

    pub(crate) fn fill(&self, used: f64) {
        self.state().used = used;
    }

    /// Removes a volume behind everybody's back.
    pub(crate) fn lose(&self, name: &str) {
        self.state().volumes.retain(|one| one.name != name);
    }

    /// Makes a volume writable, or read-only again.
    pub(crate) fn open(&self, name: &str, is_open: bool) {
        let mut state = self.state();
        let one = state.volumes.iter_mut().find(|one| one.name == name).unwrap();
        one.is_read_only = !is_open;
    }

    /// Gives a volume a device, as one has who dies while it reads.
    pub(crate) fn wake(&self, name: &str) {
        let mut state = self.state();
        state.volumes.iter_mut().find(|one| one.name == name).unwrap().is_active = true;
    }

    pub(crate) fn fail_at_the_end(&self, is_failing: bool) {
        self.state().is_failing = is_failing;
    }
}

fn uuid(minor: u32) -> String {
    format!("uuid-{minor}")
}

impl Lvm for FakeLvm {
    fn run(&self, argv: &[&str], held: Option<&File>) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        if argv[0] != "lvs" {
            state.commands.push(argv.join(" "));
        }
        let after = |word: &str| -> Vec<&str> {
            argv.windows(2).filter(|pair| pair[0] == word).map(|pair| pair[1]).collect()
        };
        let last = argv.last().unwrap().trim_start_matches("vg0/");
        match argv[0] {
            "lvs" => {
                let percent = state.used.to_string();
                let mut lines: Vec<_> = state
                    .volumes
                    .iter()
                    .map(|one| {
                        let minor = if one.is_active { i64::from(one.minor) } else { -1 };
                        json!({
                            "vg_name": "vg0", "lv_name": one.name, "lv_uuid": uuid(one.minor),
                            "lv_layout": "thin,sparse", "pool_lv": "pool",
                            "lv_permissions": if one.is_read_only { "read-only" } else { "writeable" },
                            "lv_active": if one.is_active { "active" } else { "" },
                            "lv_kernel_major": if one.is_active { "253" } else { "-1" },
                            "lv_kernel_minor": minor.to_string(),
                            "lv_dm_path": one.dir, "lv_tags": one.tags.join(","),
                        })
                    })
                    .collect();
                lines.push(json!({
                    "vg_name": "vg0", "lv_name": "pool", "lv_uuid": "of the pool", "lv_layout": "thin,pool",
                    "data_percent": percent, "metadata_percent": "1.00",
                }));
                return Ok(json!({ "report": [{ "lv": lines }] }).to_string().into_bytes());
            }
            "lvcreate" => {
                assert!(held.is_some(), "a lock is held while it runs");
                let of = state.volumes.iter().find(|one| one.name == last).unwrap().clone();
                let name = after("--name")[0].to_owned();
                assert!(!state.volumes.iter().any(|one| one.name == name), "{name} is there");
                state.numbers += 1;
                let minor = state.numbers;
                let dir = self.dir.join(format!("of-{minor}"));
                fs::create_dir_all(&self.dir)?;
                assert!(Command::new("cp").arg("-a").arg(&of.dir).arg(&dir).status()?.success());
                let tags = after("--addtag").into_iter().map(str::to_owned).collect();
                state.volumes.push(One { name, minor, dir, tags, is_read_only: true, is_active: false });
                if state.is_failing {
                    return Err(io::Error::other("`lvcreate` says: it failed at the end"));
                }
            }
            "lvremove" => {
                let wanted = after("--select")[0].trim_start_matches("lv_uuid=").to_owned();
                state.volumes.retain(|one| uuid(one.minor) != wanted);
            }
            "lvchange" => {
                let is_active = after("--activate") == ["y"];
                let one = state.volumes.iter_mut().find(|one| one.name == last);
                one.ok_or_else(|| io::Error::other("no such volume"))?.is_active = is_active;
            }
            other => panic!("{other}"),
        }
        Ok(Vec::new())
    }

    fn mount(&self, node: &Path, fs_type: &str) -> io::Result<Mounted> {
        assert_eq!(fs_type, "ext4");
        let is_active = self.state().volumes.iter().any(|one| one.dir == node && one.is_active);
        assert!(is_active, "it is activated first");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Mounted { root: openat(CWD, node, flags, Mode::empty())?, _mount: None })
    }
}
