//! An agent that keeps sets in memory and says of free space what a test wants.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pc_switcher_agent::proto::{
    Backend, CreatedSet, Gain, Request, SpaceReport, StoredSet, Strays, Words, decode, encode,
};
use pc_switcher_contract::{
    AgentCall, AgentLink, AgentSink, AgentStream, ExecError, Hostname, Reply, SetId, SnapshotMember,
    SnapshotSet,
};

use crate::config::BtrfsSnapshotsConfig;

/// When it is for whoever judges its sets.
pub(crate) const NOW: &str = "2026-06-01T00:00:00Z";
/// The size of its disk.
const SIZE: u64 = 100 << 30;

/// What is available when it is asked for the n-th time.
pub(crate) type Counters = fn(usize) -> u64;

/// The agent.
pub(crate) struct Fake {
    pub(crate) hostname: Hostname,
    pub(crate) sets: Mutex<Vec<StoredSet>>,
    /// What each session alone holds.
    pub(crate) each: u64,
    pub(crate) available: Counters,
    /// Whether what went is cleared away when it is waited for.
    pub(crate) clears: bool,
    /// With so many sets and more none is taken any more.
    pub(crate) room: usize,
    /// Whether the machine lives on its battery.
    pub(crate) on_battery: AtomicBool,
    pub(crate) asked: Mutex<usize>,
    pub(crate) said: Mutex<Vec<String>>,
}

impl Fake {
    /// Makes one with a set of each of so many syncs, of which each alone holds so much. Its counters never move.
    pub(crate) fn sessions(count: u64, each: u64) -> Self {
        Self {
            hostname: "laptop".parse().unwrap(),
            sets: Mutex::new((1..=count).map(stored).collect()),
            each,
            available: |_| 10 << 30,
            clears: true,
            room: usize::MAX,
            on_battery: AtomicBool::new(false),
            asked: Mutex::new(0),
            said: Mutex::default(),
        }
    }

    pub(crate) fn of_sessions(count: u64, each: u64) -> Arc<Self> {
        Arc::new(Self::sessions(count, each))
    }

    pub(crate) fn config(&self, keep: &str) -> BtrfsSnapshotsConfig {
        BtrfsSnapshotsConfig { keep: keep.parse().unwrap(), ..BtrfsSnapshotsConfig::default() }
    }

    pub(crate) fn sessions_left(&self) -> usize {
        self.sets.lock().unwrap().len()
    }

    /// What was removed and waited for.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    fn say(&self, text: String) {
        self.said.lock().unwrap().push(text);
    }

    fn space(&self) -> SpaceReport {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        SpaceReport {
            path: "/.snapshots".into(),
            fs_uuid: "f".into(),
            fs_type: "btrfs".into(),
            size_bytes: SIZE,
            data_free_bytes: 1 << 30,
            unallocated_bytes: 1 << 30,
            metadata_free_bytes: 1 << 30,
            metadata_copies: 2,
            available_bytes: (self.available)(*asked),
        }
    }

    fn answer(&self, request: Request) -> Result<Vec<Reply>, ExecError> {
        let done = |bytes| Ok(vec![Reply::Done(bytes)]);
        let mut sets = self.sets.lock().unwrap();
        match request {
            Request::Space(_) => done(encode(&vec![self.space()])),
            Request::Sets(_) => {
                let items = sets.iter().map(|set| Reply::Item(encode(set)));
                let on_battery = self.on_battery.load(Ordering::SeqCst);
                let strays = Strays { on_battery, ..Strays::default() };
                Ok(items.chain([Reply::Done(encode(&strays))]).collect())
            }
            Request::Gains(_) => {
                let gain = |set: &StoredSet| Gain {
                    session: set.set.session.clone(),
                    data_bytes: self.each,
                    elsewhere_bytes: 0,
                };
                let items = sets.iter().map(|set| Reply::Item(encode(&gain(set))));
                Ok(items.chain([Reply::Done(encode(&()))]).collect())
            }
            Request::CreateSet(request) => {
                self.say("create".into());
                if sets.len() >= self.room {
                    let hostname = self.hostname.to_string();
                    return Err(ExecError::NoSpace { hostname, what: "the pool is full".into() });
                }
                let mut taken = stored(1);
                (taken.set.session, taken.set.stamp) = (request.set.session, request.set.stamp);
                taken.set.kind = request.set.kind;
                sets.push(taken.clone());
                done(encode(&CreatedSet { set: taken.set, notes: vec!["the pool fills up".into()] }))
            }
            Request::DeleteSets(request) => {
                sets.retain(|set| !request.ids.contains(&set.set.id()));
                self.say(format!("delete {}", request.ids.len()));
                done(encode(
                    &request.ids.into_iter().map(|id| (id, None)).collect::<Vec<(SetId, Option<String>)>>(),
                ))
            }
            Request::Settle(..) => {
                self.say("settle".into());
                done(encode(&self.clears))
            }
            other => Err(ExecError::Failed {
                hostname: self.hostname.to_string(),
                what: other.name().into(),
                why: "it is not known here".into(),
            }),
        }
    }
}

fn stored(n: u64) -> StoredSet {
    let id: SetId = format!("202601{:02}T{:02}0000Z-{n:08x}-postsync", 1 + n / 24, n % 24).parse().unwrap();
    let name = format!("@home-postsync-{}-{}", id.stamp, id.session);
    let member = SnapshotMember {
        path: format!("/.snapshots/{name}").as_str().into(),
        name: name.parse().unwrap(),
        uuid: String::new(),
        source_uuid: String::new(),
        id: n,
        otransid: n,
        ctransid: n,
        first_taken: None,
        apart: None,
    };
    StoredSet {
        backend: Backend::Btrfs,
        set: SnapshotSet {
            hostname: "laptop".parse().unwrap(),
            kind: id.kind,
            stamp: id.stamp,
            session: id.session,
            consistent: true,
            members: vec![member],
        },
        pinned: false,
        hard: None,
        in_use: false,
        holders: Vec::new(),
        has_steps: true,
        needs: Vec::new(),
        missing: Vec::new(),
        away: Vec::new(),
        words: Words::default(),
        system: None,
    }
}

#[async_trait]
impl AgentLink for Fake {
    fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError> {
        let request: Request = decode(&request).expect("a request");
        let replies = self.answer(request)?.into();
        Ok(AgentCall { sink: Box::new(Nowhere), stream: Box::new(Replies(replies)) })
    }
}

/// Takes no uploads.
struct Nowhere;

#[async_trait]
impl AgentSink for Nowhere {
    async fn send(&mut self, _: Vec<u8>) -> Result<(), ExecError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExecError> {
        Ok(())
    }
}

struct Replies(VecDeque<Reply>);

#[async_trait]
impl AgentStream for Replies {
    async fn next(&mut self) -> Result<Reply, ExecError> {
        Ok(self.0.pop_front().expect("nothing is asked for after the answer"))
    }
}
