//! The agent of a modelled machine.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use pc_switcher_agent::data::{
    self,
    apply::{Unwatched, redo},
};
use pc_switcher_agent::linux::lock::{Attempt, MachineLock};
use pc_switcher_agent::linux::snapshots::Needs;
use pc_switcher_agent::linux::state::StateDir;
use pc_switcher_agent::proto::{
    AgentError, AgentHello, Diagnosis, FolderPart, Layout, LayoutRequest, LockReply, LockRequest,
    MachineFacts, PROTOCOL, Request, SpaceReport, Standing, Strays, SubvolumeFact, UserFact, WalkRequest,
    Writer, encode,
};
use pc_switcher_agent::server::{Call, Services};
use pc_switcher_contract::{BytePath, SetId, SnapshotMember};

use super::disk::{Disk, holder};
use super::lock;

pub(super) struct ModelServices {
    disk: Arc<Disk>,
    state: StateDir,
    held: Mutex<Option<MachineLock>>,
    sent: data::sent::Sent,
    /// Dropped last: the lock is free before anybody hears that the agent is gone.
    _alive: Sender<()>,
}

impl ModelServices {
    pub(super) fn new(disk: Arc<Disk>, alive: Sender<()>) -> Self {
        Self {
            state: StateDir::new(disk.state_dir()),
            disk,
            held: Mutex::default(),
            sent: data::sent::Sent::default(),
            _alive: alive,
        }
    }

    fn real(&self, path: &BytePath) -> BytePath {
        BytePath::from(self.disk.real(path).as_path())
    }

    fn facts(&self) -> MachineFacts {
        let user = |name: &str, uid: u32, home: &str| UserFact {
            name: name.to_owned(),
            uid,
            gid: uid,
            home: BytePath::from(home),
        };
        MachineFacts {
            hostname: self.disk.hostname().clone(),
            machine_id: machine_id(&self.disk),
            boot_id: "boot".into(),
            arch: "x86_64".into(),
            kernel: "6.1".into(),
            users: vec![user("root", 0, "/root"), user("alice", 1000, "/home/alice")],
            clock_seconds: jiff::Timestamp::now().as_second(),
            elevated: true,
        }
    }

    fn take_lock(&self, request: &LockRequest) -> Result<LockReply, AgentError> {
        let mut held = lock(&self.held);
        Ok(match MachineLock::try_take(&self.disk.lock_path(), request)? {
            Attempt::Held(lock) => {
                *held = Some(lock);
                LockReply::Held
            }
            Attempt::Busy(holder) => LockReply::Busy(holder),
        })
    }

    fn layout(&self, request: &LayoutRequest) -> Layout {
        let all: Vec<_> = self.disk.subvolumes().collect();
        let is_there = |folder: &&BytePath| self.disk.real(folder).is_dir();
        let (there, missing): (Vec<&BytePath>, Vec<&BytePath>) = request.folders.iter().partition(is_there);
        let parts: Vec<FolderPart> = there.into_iter().map(|folder| self.part(folder)).collect();
        let fact = |(name, mount_point): &(pc_switcher_contract::SubvolumeName, BytePath)| SubvolumeFact {
            name: name.clone(),
            mount_point: mount_point.clone(),
            uuid: self.disk.uuid(name),
            id: 256,
            fs_uuid: self.fs_uuid(),
            generation: 1,
        };
        let wanted = |name| {
            request.subvolumes.contains(name)
                || parts.iter().any(|part| part.subvolume.as_ref() == Some(name))
        };
        let subvolumes = all.iter().filter(|(name, _)| wanted(name)).map(fact).collect();
        let known_subvolumes: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
        let unknown = request.subvolumes.iter().filter(|name| !known_subvolumes.contains(name));
        Layout {
            parts,
            missing_folders: missing.into_iter().cloned().collect(),
            unfit_folders: Vec::new(),
            foreign: Vec::new(),
            subvolumes,
            missing_subvolumes: unknown.cloned().collect(),
            known_subvolumes,
            snapshot_fs_uuid: if self.disk.is_plain() { String::new() } else { self.fs_uuid() },
            snapshot_dir_exists: true,
            snapshot_dir_own_subvolume: true,
            snapshot_dir_is_open: false,
            others: Vec::new(),
            doubled: Vec::new(),
        }
    }

    fn part(&self, folder: &BytePath) -> FolderPart {
        let (name, inside) = holder(folder);
        let subvolume = name.parse().ok().filter(|_| !self.disk.is_plain());
        let mount = self.disk.subvolumes().find(|(known, _)| Some(known) == subvolume.as_ref());
        let is_empty = std::fs::read_dir(self.disk.real(folder)).is_ok_and(|mut dir| dir.next().is_none());
        FolderPart {
            folder: folder.clone(),
            root: folder.clone(),
            subvolume_uuid: subvolume.as_ref().map(|name| self.disk.uuid(name)).unwrap_or_default(),
            subvolume,
            inside,
            fs_uuid: self.fs_uuid(),
            fs_type: self.fs_type(),
            mount_point: mount.map(|(_, mount)| mount).unwrap_or_default(),
            nested: Vec::new(),
            closed: Vec::new(),
            standing: Standing::Folder,
            is_empty,
            leftovers: Vec::new(),
        }
    }

    fn fs_type(&self) -> String {
        if self.disk.is_plain() { "ext4" } else { "btrfs" }.into()
    }

    fn fs_uuid(&self) -> String {
        format!("file-system-of-{}", self.disk.hostname())
    }

    fn space(&self, paths: &[BytePath]) -> Vec<SpaceReport> {
        let available_bytes = self.disk.available();
        let report = |path: &BytePath| SpaceReport {
            path: path.clone(),
            fs_uuid: self.fs_uuid(),
            fs_type: self.fs_type(),
            size_bytes: Disk::SIZE,
            data_free_bytes: available_bytes,
            unallocated_bytes: available_bytes,
            metadata_free_bytes: available_bytes,
            metadata_copies: 1,
            available_bytes,
        };
        paths.first().map(report).into_iter().collect()
    }
}

fn machine_id(disk: &Disk) -> String {
    blake3::hash(disk.hostname().as_str().as_bytes()).to_hex()[..32].to_owned()
}

impl Services for ModelServices {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0".into(),
            hostname: self.disk.hostname().clone(),
            machine_id: machine_id(&self.disk),
            uid: 0,
            pid: std::process::id(),
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        Ok(match request {
            Request::Facts => encode(&self.facts()),
            Request::Lock(request) => encode(&self.take_lock(&request)?),
            Request::Layout(request) => encode(&self.layout(&request)),
            Request::Space(paths) => encode(&self.space(&paths)),
            Request::TakeSet(wanted) => encode(&self.disk.take(&wanted)?),
            Request::CheckSet(set) => encode(&self.disk.check(&set)),
            Request::DropSet(set) => encode(&self.disk.drop_set(&set)?),
            Request::Sets(_) => {
                let needs = Needs::read(&self.state, &machine_id(&self.disk))?;
                self.disk.stored(&needs).iter().try_for_each(|stored| call.item(stored))?;
                encode(&Strays::default())
            }
            Request::DeleteSet(request) => match lock(&self.held).as_ref() {
                Some(_) => {
                    let needs = Needs::read(&self.state, &machine_id(&self.disk))?;
                    self.disk.delete(&request.set.id, &needs)?;
                    encode(&Vec::<SnapshotMember>::new())
                }
                None => return Err(AgentError::protocol("removing a set needs the machine's lock")),
            },
            Request::DeleteSets(request) => match lock(&self.held).as_ref() {
                Some(_) => {
                    let needs = Needs::read(&self.state, &machine_id(&self.disk))?;
                    let remove = |id: SetId| {
                        let left = self.disk.delete(&id, &needs).err().map(|error| error.to_string());
                        (id, left)
                    };
                    encode(&request.ids.into_iter().map(remove).collect::<Vec<_>>())
                }
                None => return Err(AgentError::protocol("removing sets needs the machine's lock")),
            },
            Request::Walk(mut request) => {
                request.tree.root = self.real(&request.tree.root);
                encode(&data::walk::run(&request, call)?)
            }
            Request::Digests(mut request) => {
                request.tree.root = self.real(&request.tree.root);
                encode(&data::walk::run_digests(&request, call)?)
            }
            Request::Read { root } => encode(&data::read::run(&self.real(&root), call, &self.sent)?),
            Request::Delta { root, base } => {
                encode(&data::delta::run(&self.real(&root), &self.real(&base), call)?)
            }
            Request::ReadDelta { root, base } => {
                encode(&data::read::run_delta(&self.real(&root), &self.real(&base), call, &self.sent)?)
            }
            Request::Since { root, base } => {
                encode(&data::since::run(&self.real(&root), &self.real(&base), call)?)
            }
            Request::Ranges { root, base } => {
                encode(&data::since::run_ranges(&self.real(&root), &self.real(&base), call)?)
            }
            Request::Reread { root, base } => {
                encode(&data::since::run_reread(&self.real(&root), &self.real(&base), call)?)
            }
            Request::ReadRanges { root, base } => {
                encode(&data::read::run_ranges(&self.real(&root), &self.real(&base), call)?)
            }
            Request::Shares(mut request) => {
                request.tree.root = self.real(&request.tree.root);
                encode(&data::shares::run(&request, None, call)?)
            }
            Request::ReadRest { root } => encode(&data::read::run_rest(&self.real(&root), call, &self.sent)?),
            Request::Blocks { root } => encode(&data::blocks::run(&self.real(&root), call)?),
            Request::ReadBlocks { root } => {
                encode(&data::read::run_blocks(&self.real(&root), call, &self.sent)?)
            }
            Request::Digest { root } => encode(&data::digest::run(&self.real(&root), call, &self.sent)?),
            Request::Apply(mut request) => {
                for part in &mut request.parts {
                    part.root = self.real(&part.root);
                    // The directory lies on no subvolume of that name.
                    part.subvolume_uuid.clear();
                }
                request.pre_set = request.pre_set.map(|set| self.disk.really(set));
                encode(&data::apply::run(&request, call, &self.state, &Unwatched)?)
            }
            Request::Redo { patience, .. } => match lock(&self.held).as_ref() {
                Some(_) => encode(&redo(&self.state, patience, &Unwatched)?),
                None => return Err(AgentError::protocol("a redo needs the machine's lock")),
            },
            Request::StateGet(key) => encode(&self.state.get(&key)?),
            Request::StateList(prefix) => encode(&self.state.list(&prefix)?),
            Request::StatePut(key, value) => encode(&self.state.put(&key, value.as_deref())?),
            Request::HistoryPut(row) => encode(&self.disk.add_history(row)),
            Request::Diagnose => encode(&Diagnosis { clock_follows: true, ..Diagnosis::default() }),
            Request::List(mut request) => {
                request.tree.root = self.real(&request.tree.root);
                encode(&data::walk::list(&request, call)?)
            }
            Request::WalkKept { mut tree, key } => {
                tree.root = self.real(&tree.root);
                encode(&data::walk::run_kept(&WalkRequest { tree }, &key, call, &self.state)?)
            }
            Request::Kept(key) => encode(&data::manifest::run(&key, call, &self.state)?),
            Request::CheckKept(key) => encode(&data::manifest::check(&key, &self.state)?),
            Request::ReadLive { root } => encode(&data::read::run_live(&self.real(&root), call, &self.sent)?),
            // What is not known is looked at.
            Request::Unchanged { .. } | Request::Changed(_) | Request::Moved(_) => encode(&false),
            Request::Writers(_) => encode(&Vec::<Writer>::new()),
            Request::Gains(_) => encode(&()),
            Request::Settle(..) => encode(&true),
            Request::HistoryList(_)
            | Request::Exec(_)
            | Request::PutFile(_)
            | Request::Activate(_)
            | Request::PinSet(_)
            | Request::CreateSet(_)
            | Request::Export(_)
            | Request::Import(_)
            | Request::HasAll(_)
            | Request::AnnotateSet(_)
            | Request::Adopt(_)
            | Request::Held(_)
            | Request::Holdings(_)
            | Request::DeleteVolume(_)
            | Request::Boot { .. }
            | Request::GoodSet { .. }
            | Request::Verify(_)
            | Request::Nested(_)
            | Request::Restore(_)
            | Request::Versions(_)
            | Request::Diff(_)
            | Request::Undo(_)
            | Request::Deadman(_)
            | Request::Rollback(_) => {
                return Err(AgentError::failed(format!("`{}` is not modelled", request.name())));
            }
        })
    }

    fn shut_down(&self) {}
}
