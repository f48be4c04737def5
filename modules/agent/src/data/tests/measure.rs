//! Figures, not tests: `cargo test --release -p pc-switcher-agent measure -- --ignored --nocapture`, as root.

use std::fs;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use super::drive::{Disk, assert_same, request, try_walk, uuid_of, walked};
use super::plan::{Plan, plan};
use super::wire::Agent;
use crate::frame::{FrameKind, WINDOW};
use crate::proto::{
    ApplyNews, ApplyReport, Request, Rule, RuleSet, StreamFrame, Tree, WalkRequest, WalkSummary, decode,
    encode,
};

/// Makes files like a home's: most are small, some are not.
fn fill(root: &Path, files: usize, bytes: usize) {
    let noise: Vec<u8> = (0..bytes * 3 + 8).map(|n| (n * 2_654_435_761 >> 7) as u8).collect();
    for dir in 0..files.div_ceil(12) {
        let dir_path = root.join(format!("d{}/e{}/f{dir}", dir % 10, dir % 97));
        fs::create_dir_all(&dir_path).unwrap();
        for file in (dir * 12..files).take(12) {
            let len = bytes * (file % 5) / 2;
            fs::write(dir_path.join(format!("file-{file}.txt")), &noise[file % 7..][..len]).unwrap();
        }
    }
}

/// Runs a call that uploads nothing and grants as it reads.
fn collect(request: &Request, mut upload: impl FnMut(&mut Agent)) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut agent = Agent::open(request);
    upload(&mut agent);
    let mut items = Vec::new();
    loop {
        let frame = agent.next().unwrap();
        match frame.kind {
            FrameKind::Item => {
                agent.send(FrameKind::Credit, &(frame.body.len() as u32).to_le_bytes());
                items.push(frame.body);
            }
            FrameKind::Done => {
                agent.hang_up();
                return (items, frame.body);
            }
            FrameKind::Error => panic!("{}", String::from_utf8_lossy(&frame.body)),
            _ => {}
        }
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let done = work();
    println!("{what}: {:.3} s", since.elapsed().as_secs_f64());
    done
}

fn walk(root: &Path, rules: RuleSet) -> WalkSummary {
    let tree = Tree { root: root.into(), prefix: "".into(), rules };
    let (_, done) = collect(&Request::Walk(WalkRequest { tree }), |_| ());
    decode(&done).unwrap()
}

fn read(root: &Path, plan: &Plan) -> usize {
    let (items, _) = collect(&Request::Read { root: root.into() }, |agent| {
        plan.wants.chunks(1000).for_each(|wants| agent.send(FrameKind::Up, &encode(&wants.to_vec())));
        agent.send(FrameKind::UpEnd, &[]);
    });
    items.iter().map(Vec::len).sum()
}

/// Reads from one agent, passes the frames on to another, as a front does.
fn push(source: &Path, target: &Path, plan: &Plan) -> ApplyReport {
    let mut reader = Agent::open(&Request::Read { root: source.into() });
    let mut writer = Agent::open(&Request::Apply(request(target, &uuid_of(target))));
    let window = (Mutex::new(WINDOW), Condvar::new());
    let since = Instant::now();
    std::thread::scope(|scope| {
        let (window, from) = (&window, writer.from.try_clone().unwrap());
        let answer = scope.spawn(move || {
            let mut from = from;
            loop {
                let frame = crate::frame::read(&mut from).unwrap().unwrap();
                match frame.kind {
                    FrameKind::Credit => {
                        let bytes = frame.body.as_slice().try_into().unwrap();
                        *window.0.lock().unwrap() += i64::from(u32::from_le_bytes(bytes));
                        window.1.notify_one();
                    }
                    FrameKind::Item if decode(&frame.body) == Ok(ApplyNews::Staged) => {
                        println!("  staged after {:.3} s", since.elapsed().as_secs_f64());
                    }
                    FrameKind::Done => return decode::<ApplyReport>(&frame.body).unwrap(),
                    FrameKind::Error => panic!("{}", String::from_utf8_lossy(&frame.body)),
                    _ => {}
                }
            }
        });
        let mut up = |body: &[u8]| {
            let open = window.0.lock().unwrap();
            *window.1.wait_while(open, |open| *open <= 0).unwrap() -= body.len() as i64;
            writer.send(FrameKind::Up, body);
        };
        for ops in plan.ops.chunks(500) {
            up(&encode(&StreamFrame::Ops { part: 0, ops: ops.to_vec() }));
        }
        plan.wants.chunks(1000).for_each(|wants| reader.send(FrameKind::Up, &encode(&wants.to_vec())));
        reader.send(FrameKind::UpEnd, &[]);
        loop {
            let frame = reader.next().unwrap();
            match frame.kind {
                FrameKind::Item => {
                    reader.send(FrameKind::Credit, &(frame.body.len() as u32).to_le_bytes());
                    up(&frame.body);
                }
                FrameKind::Done => break,
                _ => {}
            }
        }
        up(&encode(&StreamFrame::Commit { ops: plan.ops.len() as u64, contents: plan.wants.len() as u64 }));
        answer.join().unwrap()
    })
}

#[test]
#[ignore = "takes minutes and room; for figures in a release build"]
fn measure() {
    for (files, bytes) in [(100_000, 1500), (100_000, 20_000)] {
        let (Some(left), Some(right)) = (Disk::make("btrfs", 8 << 30), Disk::make("btrfs", 8 << 30)) else {
            return;
        };
        let (source, target) = (left.root.join("s"), right.root.join("t"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        println!("== {files} files, {bytes} bytes each");
        fill(&source, files, bytes);
        let summary = timed("walk, first", || walk(&source, RuleSet::default()));
        println!("  {summary:?}");
        for _ in 0..3 {
            timed("walk, warm", || walk(&source, RuleSet::default()));
        }
        let patterns = ["*.tmp", ".cache/", ".ssh/id_*", ".local/share/Trash/", "node_modules/.x", "**/y/z*"];
        let rule = |p: &str| Rule { pattern: p.into(), reason: String::new() };
        let layered = (0..60).map(|n| rule(&format!("{}{n}", patterns[n % 6]))).collect();
        let forced = patterns.iter().map(|p| rule(p)).collect();
        timed("walk, warm, 66 rules", || walk(&source, RuleSet { forced, layered }));
        let first = plan(&walked(&source), &walked(&target));
        let bytes = timed("read alone, warm", || read(&source, &first));
        println!("  {bytes} bytes");
        let report = timed("read and apply, first sync", || push(&source, &target, &first));
        println!("  {} steps, {} bytes", report.done, report.bytes);
        assert_same(&source, &target);
        for dir in
            fs::read_dir(source.join("d0")).unwrap().flat_map(|e| fs::read_dir(e.unwrap().path()).unwrap())
        {
            let file = fs::read_dir(dir.unwrap().path()).unwrap().next().unwrap().unwrap().path();
            fs::write(file, "changed").unwrap();
        }
        let second = plan(&walked(&source), &walked(&target));
        println!("  {} contents, {} steps", second.wants.len(), second.ops.len());
        timed("read and apply, some changed", || push(&source, &target, &second));
        assert_same(&source, &target);
    }
}

#[test]
#[ignore = "needs `WALK_ROOT`, a tree to walk"]
fn measure_walk_of_a_given_tree() {
    let root = std::env::var_os("WALK_ROOT").unwrap();
    for _ in 0..5 {
        let bare = timed("handler alone", || try_walk(Path::new(&root), RuleSet::default()).unwrap().0);
        let piped = timed("with pipes", || walk(Path::new(&root), RuleSet::default()));
        assert_eq!(bare, piped);
    }
}
