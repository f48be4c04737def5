//! A directory that another thread serves, over a line that breaks when a test wants it to.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use super::serve::{Served, serve};
use super::wire::MAGIC;
use super::*;
use crate::store::FsStore;
use crate::store::tests::{keeps_the_contract, tells_two_at_once_apart};

/// Where a line breaks.
#[derive(Clone, Copy)]
pub enum Cut {
    /// Behind so many bytes that come.
    Bytes(u64),
    /// Before the answer that comes after so many, though what it answers was done.
    Answer(u32),
    /// Nowhere: behind so many answers nothing is heard any more, and nothing taken.
    Hang(u32),
}

/// How the machine at the other end behaves.
#[derive(Clone, Default)]
pub struct Desk {
    /// The directory.
    pub root: PathBuf,
    pub append_only: bool,
    /// Where lines break, the last one first; those without a cut last.
    pub cuts: Arc<Mutex<Vec<Cut>>>,
    /// How often somebody logged in.
    pub logins: Arc<AtomicUsize>,
    /// Set: nobody can log in.
    pub is_away: Arc<Mutex<bool>>,
}

impl Desk {
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    pub fn dial(&self) -> Dial {
        let desk = self.clone();
        Arc::new(move |place, _| {
            if *desk.is_away.lock().unwrap() {
                return Err(ModuleError::new(ErrorKind::Unreachable, format!("`{}` is away", place.host)));
            }
            desk.logins.fetch_add(1, Ordering::SeqCst);
            let cut = desk.cuts.lock().unwrap().pop().unwrap_or(Cut::Bytes(u64::MAX));
            Ok(line(desk.clone(), cut))
        })
    }

    pub fn store(&self) -> SshStore {
        self.stopped_by(Stop::default())
    }

    fn stopped_by(&self, stop: Stop) -> SshStore {
        let hope = Hope { first: Duration::from_millis(1), ..Hope::default() };
        SshStore::at(SshPlace::parse("ssh://desk/vault").unwrap(), self.dial(), stop, hope)
    }
}

/// Says nothing any more after so many answers; where `is_held`, as long as the other side holds the line.
struct Until {
    to: UnixStream,
    answers: u32,
    is_held: bool,
}

impl io::Write for Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.answers {
            0 if self.is_held => {
                let mut ended = rustix::event::PollFd::new(&self.to, rustix::event::PollFlags::empty());
                rustix::event::poll(std::slice::from_mut(&mut ended), None)?;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            _ => self.to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.answers = self.answers.saturating_sub(1);
        self.to.flush()
    }
}

fn line(desk: Desk, cut: Cut) -> Line {
    let (bytes, answers) = match cut {
        Cut::Bytes(bytes) => (bytes, u32::MAX),
        // The word with which a server begins is one, too.
        Cut::Answer(count) | Cut::Hang(count) => (u64::MAX, count + 1),
    };
    let is_held = matches!(cut, Cut::Hang(_));
    let (stream, other) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let store = FsStore::at(&desk.root);
        let served = Served { store: &store, hostname: "desk", append_only: desk.append_only };
        let (from, mut to) = (other.try_clone().unwrap(), other.try_clone().unwrap());
        io::Write::write_all(&mut to, b"Welcome to desk!\n").unwrap();
        let _ = serve(&served, from.take(bytes), Until { to, answers, is_held });
        let _ = other.shutdown(std::net::Shutdown::Both);
    });
    Line {
        stream,
        why: Arc::new(|| Some((ErrorKind::Unreachable, "the cable is cut".into()))),
        end: Box::new(()),
    }
}

#[test]
fn the_store_of_another_machine_keeps_the_contract_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(&dir.path().join("vault"));
    let store = desk.store();
    keeps_the_contract(&store);
    tells_two_at_once_apart(&store);
    assert_eq!(desk.logins.load(Ordering::SeqCst), 1, "one login serves all");
    assert_eq!(desk.root.join("pc-switcher/tmp").read_dir().unwrap().count(), 0);
}

#[test]
fn a_line_that_breaks_is_made_anew_and_nothing_is_half_or_taken_for_somebody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(dir.path());
    desk.store().make_ready().unwrap();
    let pack = vec![3; 3 << 20];
    // In the greeting, in the middle of the object, and right behind it, before its answer.
    let cuts = [Cut::Bytes(5), Cut::Bytes(200), Cut::Bytes(1 << 20), Cut::Answer(1)];
    for (at, cut) in cuts.into_iter().enumerate() {
        *desk.cuts.lock().unwrap() = vec![cut];
        let (store, name) = (desk.store(), format!("{at:064x}"));
        if at == 0 {
            assert_eq!(store.put(Kind::Pack, &name, &pack).unwrap_err().kind, ErrorKind::Unreachable);
            continue;
        }
        assert!(store.put(Kind::Pack, &name, &pack).unwrap(), "what is there is what was written");
        assert!(desk.cuts.lock().unwrap().is_empty());
        assert_eq!(store.get(Kind::Pack, &name).unwrap().unwrap(), pack);
        assert!(!store.put(Kind::Pack, &name, b"other").unwrap());
    }
    assert_eq!(dir.path().join("pc-switcher/tmp").read_dir().unwrap().count(), 0);
}

#[test]
fn hope_ends_and_is_not_begun_anew_by_each_thread() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(dir.path());
    let store = desk.store();
    store.make_ready().unwrap();
    *desk.is_away.lock().unwrap() = true;
    store.state().wire = None;
    for _ in 0..3 {
        assert_eq!(store.list(Kind::Pack).unwrap_err().kind, ErrorKind::Unreachable);
    }
    let fresh = desk.store();
    let error = fresh.get(Kind::Marker, "").unwrap_err();
    assert!(error.to_string().contains("`desk` is away"), "{error}");
    *desk.is_away.lock().unwrap() = false;
    assert_eq!(fresh.get(Kind::Marker, "").unwrap(), None, "who was never reached is tried each time");
    assert_eq!(store.list(Kind::Pack).unwrap_err().kind, ErrorKind::Unreachable, "given up");
}

#[test]
fn an_append_only_vault_lets_nothing_go_but_locks() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk { append_only: true, ..Desk::at(dir.path()) };
    let (store, name) = (desk.store(), "ab".repeat(32));
    store.make_ready().unwrap();
    for kind in [Kind::Pack, Kind::Lock, Kind::Snapshot] {
        store.put(kind, &name, b"x").unwrap();
    }
    store.delete(Kind::Lock, &name).unwrap();
    for kind in [Kind::Pack, Kind::Snapshot] {
        let error = store.delete(kind, &name).unwrap_err();
        assert!(
            error.to_string().starts_with("desk: ") && error.to_string().contains("append-only"),
            "{error}"
        );
        assert!(!store.put(kind, &name, b"other").unwrap(), "nor is anything written over");
    }
    assert!(!store.removes_freely() && Desk::at(dir.path()).store().removes_freely());
}

#[test]
fn names_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(&dir.path().join("vault"));
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let store = desk.store();
    store.make_ready().unwrap();
    for (kind, name) in [
        (Kind::Lock, "../../secret"),
        (Kind::Pack, "../../secret"),
        (Kind::Meta, "../secret"),
        (Kind::Meta, "a/../../../secret"),
        (Kind::Meta, "/etc/passwd"),
        (Kind::Config, "../secret"),
        (Kind::Snapshot, ""),
    ] {
        let error = store.get(kind, name).unwrap_err();
        assert!(error.to_string().contains("is no name of"), "{error}");
        assert!(store.put(kind, name, b"y").is_err() && store.delete(kind, name).is_err());
    }
    assert!(store.get_range(Kind::Pack, &"ab".repeat(32), 0, usize::MAX).is_err());
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"x");
}

#[test]
fn who_is_no_server_of_vaults_is_named_with_what_it_says() {
    let says = |why: (ErrorKind, &'static str), bytes: &'static [u8]| {
        let dial: Dial = Arc::new(move |_, _| {
            let (stream, mut other) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut other, bytes).unwrap();
            Ok(Line { stream, why: Arc::new(move || Some((why.0, why.1.into()))), end: Box::new(()) })
        });
        let place = SshPlace::parse("ssh://desk/vault").unwrap();
        SshStore::at(place, dial, Stop::default(), Hope::default()).list(Kind::Pack).unwrap_err()
    };
    let missing = says((ErrorKind::Invalid, "sh: pc-switcher: not found"), b"");
    assert_eq!(missing.kind, ErrorKind::Invalid);
    assert!(missing.message.contains("`desk` serves no vault: sh: pc-switcher: not found"), "{missing}");
    let other = says((ErrorKind::Unreachable, "Connection reset"), MAGIC);
    assert_eq!(other.kind, ErrorKind::Unreachable);
    assert!(other.message.contains("Connection reset"), "{other}");
}

#[test]
fn a_stop_ends_what_waits_and_what_tidies_up_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(dir.path());
    let (stop, asked) = (Stop::default(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = Arc::clone(&asked);
    stop.when(move || seen.load(Ordering::SeqCst));
    let store = desk.stopped_by(stop);
    store.make_ready().unwrap();
    let name = "cd".repeat(32);
    store.put(Kind::Lock, &name, b"x").unwrap();
    asked.store(true, Ordering::SeqCst);
    assert_eq!(store.put(Kind::Pack, &name, &[0; 9]).unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(store.list(Kind::Pack).unwrap_err().kind, ErrorKind::Cancelled);
    assert!(store.put(Kind::Index, &name, b"x").unwrap());
    store.delete(Kind::Lock, &name).unwrap();

    // One that waits for a machine that says nothing.
    let (send, dialled) = channel();
    let silent: Dial = Arc::new(move |_, _| {
        let (stream, other) = UnixStream::pair().unwrap();
        send.send(other).unwrap();
        Ok(Line { stream, why: Arc::new(|| None), end: Box::new(()) })
    });
    let (stop, begun) = (Stop::default(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = Arc::clone(&begun);
    stop.when(move || seen.load(Ordering::SeqCst));
    let place = SshPlace::parse("ssh://desk/vault").unwrap();
    let store = SshStore::at(place, silent, stop, Hope::default());
    let waits = std::thread::spawn(move || store.list(Kind::Pack).unwrap_err().kind);
    let _other = dialled.recv().unwrap();
    begun.store(true, Ordering::SeqCst);
    assert_eq!(waits.join().unwrap(), ErrorKind::Cancelled);
}

#[test]
fn a_stop_makes_what_tidies_up_hurry_where_nothing_is_heard_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::at(dir.path());
    desk.store().make_ready().unwrap();
    // The greeting, and the lock.
    *desk.cuts.lock().unwrap() = vec![Cut::Hang(2)];
    let (stop, asked) = (Stop::default(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = Arc::clone(&asked);
    stop.when(move || seen.load(Ordering::SeqCst));
    let hope = Hope { silence_at_the_end: Duration::from_millis(200), ..Hope::default() };
    let place = SshPlace::parse("ssh://desk/vault").unwrap();
    let store = SshStore::at(place, desk.dial(), stop, hope);
    let name = "ab".repeat(32);
    assert!(store.put(Kind::Lock, &name, b"x").unwrap());
    *desk.is_away.lock().unwrap() = true;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let orders: [Box<dyn Fn() -> Result<()> + Send + Sync + '_>; 5] = [
            Box::new(|| store.put(Kind::Pack, &name, &[0; 9]).map(drop)),
            Box::new(|| store.list(Kind::Index).map(drop)),
            Box::new(|| store.put(Kind::Index, &name, &[0; 9]).map(drop)),
            Box::new(|| store.delete(Kind::Lock, &name)),
            Box::new(|| store.make_ready()),
        ];
        let waiting: Vec<_> = orders.into_iter().map(|order| scope.spawn(order)).collect();
        asked.store(true, Ordering::SeqCst);
        for order in waiting {
            assert_eq!(order.join().unwrap().unwrap_err().kind, ErrorKind::Cancelled);
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(300), "nobody waited for the ten minutes");
}

#[test]
fn a_machine_that_answers_nothing_is_given_up() {
    let dial: Dial = Arc::new(|_, _| {
        let (stream, other) = UnixStream::pair().unwrap();
        Ok(Line { stream, why: Arc::new(|| None), end: Box::new(Mutex::new(other)) })
    });
    let hope =
        Hope { silence: Duration::from_millis(100), first: Duration::from_millis(1), ..Hope::default() };
    let place = SshPlace::parse("ssh://desk/vault").unwrap();
    let store = SshStore::at(place, dial, Stop::default(), hope);
    assert_eq!(store.list(Kind::Pack).unwrap_err().kind, ErrorKind::Unreachable);
}
