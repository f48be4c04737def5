//! A thin pool in a directory, for tests: its commands are those of LVM, and a snapshot is a copy.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::json;

use super::*;

/// What LVM 2.03.16 says of a machine with a thin pool, a volume in it, a snapshot of that, and a volume of its own.
pub(crate) const RECORDED: &[u8] = br#"  {
      "report": [
          {
              "lv": [
                  {"vg_name":"vg0", "vg_uuid":"8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy", "lv_name":"home", "lv_uuid":"lKbEpU-JS3T-9cT1-xJn8-glkL-u0tu-dXzPQd", "lv_layout":"thin,sparse", "pool_lv":"pool", "lv_permissions":"writeable", "lv_active":"active", "lv_device_open":"open", "lv_kernel_major":"253", "lv_kernel_minor":"4", "lv_dm_path":"/dev/mapper/vg0-home", "data_percent":"1.85", "metadata_percent":"", "lv_tags":""},
                  {"vg_name":"vg0", "vg_uuid":"8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy", "lv_name":"home-manual-20251115T120000Z-abc12345", "lv_uuid":"J6Es6F-nytf-Inw6-JbYy-Vc1T-dros-KVMjf3", "lv_layout":"thin,sparse", "pool_lv":"pool", "lv_permissions":"read-only", "lv_active":"", "lv_device_open":"", "lv_kernel_major":"-1", "lv_kernel_minor":"-1", "lv_dm_path":"/dev/mapper/vg0-home--manual--20251115T120000Z--abc12345", "data_percent":"", "metadata_percent":"", "lv_tags":"pc-switcher,pc-switcher-abababababababababababababababab"},
                  {"vg_name":"vg0", "vg_uuid":"8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy", "lv_name":"pool", "lv_uuid":"zmR5zD-kPxh-e0qC-1fpt-UXNv-u07S-J9RlF3", "lv_layout":"thin,pool", "pool_lv":"", "lv_permissions":"writeable", "lv_active":"active", "lv_device_open":"open", "lv_kernel_major":"253", "lv_kernel_minor":"2", "lv_dm_path":"/dev/mapper/vg0-pool", "data_percent":"8.19", "metadata_percent":"10.79", "lv_tags":""},
                  {"vg_name":"vg0", "vg_uuid":"8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy", "lv_name":"swap", "lv_uuid":"A7hWzN-6B2i-dsUu-VtkC-pX0i-QkSR-JxR1dE", "lv_layout":"linear", "pool_lv":"", "lv_permissions":"writeable", "lv_active":"active", "lv_device_open":"open", "lv_kernel_major":"253", "lv_kernel_minor":"5", "lv_dm_path":"/dev/mapper/vg0-swap", "data_percent":"", "metadata_percent":"", "lv_tags":""}
              ]
          }
      ]
  }
"#;

/// A volume: a directory.
#[derive(Debug, Clone)]
struct One {
    /// The number of its group.
    group: usize,
    name: String,
    /// What its uuid is made of: copies of it have the same.
    number: u32,
    minor: u32,
    dir: PathBuf,
    tags: Vec<String>,
    is_read_only: bool,
    is_active: bool,
    is_held: bool,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    is_attached: bool,
}

#[derive(Debug, Default)]
struct State {
    groups: Vec<Group>,
    volumes: Vec<One>,
    commands: Vec<String>,
    numbers: u32,
    /// How full the pools are, in percent.
    used: f64,
    /// Whether taking a snapshot fails when it is there.
    is_failing: bool,
    /// Commands that do nothing and fail: the words that begin them.
    broken: Vec<String>,
    /// Whether removing a volume does nothing and says that all went well.
    is_idle: bool,
}

impl State {
    fn seen(&self) -> impl Iterator<Item = &One> {
        self.volumes.iter().filter(|one| self.groups[one.group].is_attached)
    }

    fn named(&mut self, name: &str) -> &mut One {
        self.volumes.iter_mut().find(|one| one.name == name).unwrap()
    }
}

/// Group `vg0` with its pool, and what a test adds.
#[derive(Debug)]
pub(crate) struct FakeLvm {
    dir: PathBuf,
    state: Mutex<State>,
}

impl FakeLvm {
    /// Makes one below a directory; it is never given back, as the one of the machine.
    pub(crate) fn make(dir: PathBuf) -> &'static Self {
        let groups = vec![Group { name: "vg0".into(), is_attached: true }];
        Box::leak(Box::new(Self { dir, state: Mutex::new(State { groups, ..State::default() }) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a volume that holds what a directory holds, and shows there; returns its device.
    pub(crate) fn add(&self, name: &str, dir: PathBuf) -> String {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        state.volumes.push(One {
            group: 0,
            name: name.to_owned(),
            number,
            minor: number,
            dir,
            tags: Vec::new(),
            is_read_only: false,
            is_active: true,
            is_held: false,
        });
        format!("253:{number}")
    }

    /// Makes a copy of `vg0` as a copy of its disk is one: another uuid, and all that is in it with the same uuids and tags.
    pub(crate) fn copy_group(&self, name: &str) {
        let mut state = self.state();
        state.groups.push(Group { name: name.to_owned(), is_attached: true });
        let group = state.groups.len() - 1;
        let copies: Vec<One> = state.volumes.iter().filter(|one| one.group == 0).cloned().collect();
        for one in copies {
            let minor = 100 + one.minor;
            state.volumes.push(One { group, minor, is_active: false, ..one });
        }
    }

    /// Attaches a group, or takes away what it lies on.
    pub(crate) fn attach(&self, name: &str, is_attached: bool) {
        let mut state = self.state();
        state.groups.iter_mut().find(|group| group.name == name).unwrap().is_attached = is_attached;
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
        self.state().named(name).is_read_only = !is_open;
    }

    /// Has somebody mount a volume, or unmount it again.
    pub(crate) fn hold(&self, name: &str, is_held: bool) {
        let mut state = self.state();
        let one = state.named(name);
        (one.is_held, one.is_active) = (is_held, one.is_active || is_held);
    }

    /// Gives a volume the tags of another.
    pub(crate) fn tag_as(&self, name: &str, other: &str) {
        let mut state = self.state();
        let tags = state.named(other).tags.clone();
        state.named(name).tags = tags;
    }

    /// Gives a volume a device, as one has who dies while it reads.
    pub(crate) fn wake(&self, name: &str) {
        self.state().named(name).is_active = true;
    }

    pub(crate) fn fail_at_the_end(&self, is_failing: bool) {
        self.state().is_failing = is_failing;
    }

    /// Has commands that begin so fail, and do nothing.
    pub(crate) fn fail_all(&self, words: &[&str]) {
        self.state().broken = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// Has `lvremove` do nothing and say that all went well.
    pub(crate) fn remove_nothing(&self, is_idle: bool) {
        self.state().is_idle = is_idle;
    }
}

fn uuid(number: u32) -> String {
    format!("uuid-{number}")
}

fn group_uuid(group: usize) -> String {
    format!("group-{group}")
}

/// What LVM says of a volume.
fn line(state: &State, one: &One) -> serde_json::Value {
    let word = |is: bool, word: &'static str| if is { word } else { "" };
    json!({
        "vg_name": state.groups[one.group].name, "vg_uuid": group_uuid(one.group),
        "lv_name": one.name, "lv_uuid": uuid(one.number), "lv_layout": "thin,sparse", "pool_lv": "pool",
        "lv_permissions": if one.is_read_only { "read-only" } else { "writeable" },
        "lv_active": word(one.is_active, "active"),
        "lv_device_open": word(one.is_held, "open"),
        "lv_kernel_major": if one.is_active { "253" } else { "-1" },
        "lv_kernel_minor": if one.is_active { i64::from(one.minor) } else { -1 }.to_string(),
        "lv_dm_path": one.dir, "lv_tags": one.tags.join(","),
    })
}

/// What LVM says of all.
fn list(state: &State) -> Vec<u8> {
    let mut lines: Vec<_> = state.seen().map(|one| line(state, one)).collect();
    for (n, group) in state.groups.iter().enumerate().filter(|(_, group)| group.is_attached) {
        lines.push(json!({
            "vg_name": group.name, "vg_uuid": group_uuid(n), "lv_name": "pool",
            "lv_uuid": "of the pool", "lv_layout": "thin,pool",
            "data_percent": state.used.to_string(), "metadata_percent": "1.00",
        }));
    }
    json!({ "report": [{ "lv": lines }] }).to_string().into_bytes()
}

impl Lvm for FakeLvm {
    fn run(&self, argv: &[&str], held: Option<&File>, _: &dyn Fn() -> bool) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let said = argv.join(" ");
        if state.broken.iter().any(|words| said.starts_with(words)) {
            return Err(io::Error::other(format!("`{}` says: it is broken", argv[0])));
        }
        if !matches!(argv[0], "lvs" | "vgs") {
            state.commands.push(said);
        }
        let after = |word: &str| -> Vec<&str> {
            argv.windows(2).filter(|pair| pair[0] == word).map(|pair| pair[1]).collect()
        };
        let last = *argv.last().unwrap();
        // Of the group that is named last, as LVM has it.
        let selected = |state: &State, one: &One| {
            let which = format!("lv_uuid={} && vg_uuid={}", uuid(one.number), group_uuid(one.group));
            let group = &state.groups[one.group];
            after("--select") == [which] && group.is_attached && group.name == last
        };
        match argv[0] {
            "lvs" => return Ok(list(&state)),
            "vgs" => {
                let groups = state.groups.iter().enumerate().filter(|(_, group)| group.is_attached);
                let groups =
                    groups.map(|(n, group)| json!({ "vg_name": group.name, "vg_uuid": group_uuid(n) }));
                let groups: Vec<_> = groups.collect();
                return Ok(json!({ "report": [{ "vg": groups }] }).to_string().into_bytes());
            }
            "lvcreate" => {
                assert!(held.is_some(), "a lock is held while it runs");
                let full_name = |one: &&One| format!("{}/{}", state.groups[one.group].name, one.name);
                let of = state.volumes.iter().find(|one| full_name(one) == last).unwrap().clone();
                let name = after("--name")[0].to_owned();
                assert!(!state.volumes.iter().any(|one| one.name == name), "{name} is there");
                state.numbers += 1;
                let number = state.numbers;
                let dir = self.dir.join(format!("of-{number}"));
                fs::create_dir_all(&self.dir)?;
                assert!(Command::new("cp").arg("-a").arg(&of.dir).arg(&dir).status()?.success());
                let tags = after("--addtag").into_iter().map(str::to_owned).collect();
                state.volumes.push(One {
                    group: of.group,
                    name,
                    number,
                    minor: number,
                    dir,
                    tags,
                    is_read_only: true,
                    is_active: false,
                    is_held: false,
                });
                if state.is_failing {
                    return Err(io::Error::other("`lvcreate` says: it failed at the end"));
                }
            }
            "lvremove" => {
                let gone: Vec<bool> = state.volumes.iter().map(|one| selected(&state, one)).collect();
                let is_held = |(one, gone): (&One, &bool)| *gone && one.is_held;
                if state.volumes.iter().zip(&gone).any(is_held) {
                    return Err(io::Error::other("`lvremove` says: it contains a filesystem in use"));
                }
                let mut gone = gone.into_iter();
                if !state.is_idle {
                    state.volumes.retain(|_| !gone.next().unwrap());
                }
            }
            "lvchange" => {
                let is_active = after("--activate") == ["y"];
                let at = state.volumes.iter().position(|one| selected(&state, one));
                let at = at.ok_or_else(|| io::Error::other("no such volume"))?;
                state.volumes[at].is_active = is_active;
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

    fn has_pools(&self) -> bool {
        self.state().groups.iter().any(|group| group.is_attached)
    }

    fn glance(&self) -> Duration {
        Duration::ZERO
    }
}
