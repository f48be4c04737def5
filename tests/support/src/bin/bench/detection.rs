//! Change detection by the agent alone: what a sync asks first, beside the walk of everything that it saves.

use std::{
    fs,
    io::{Read, Write},
    time::{Duration, Instant},
};

use pc_switcher_agent::{
    data::younger,
    frame::{self, Frame, FrameKind},
    proto::{
        ChangedDir, ChangedRequest, FrontHello, ListWant, MAGIC, PROTOCOL, Request, RuleSet, Tree,
        WalkRequest, WalkSummary, decode, encode,
    },
};
use pc_switcher_testkit::lab::{Cmd, Lab, Talk};

use super::{
    Outcome,
    case::Case,
    measure::{Run, look, usage},
    tool::Tool,
};

/// Where snapshots for this lie.
const PLACE: &str = "/srv/detection";
/// Directories that are asked for at once.
const BATCH: usize = 1_000;

/// Makes room for snapshots.
pub fn prepare(lab: &Lab) -> Outcome {
    lab.laptop().run(&Cmd::new("btrfs").args(["subvolume", "create", PLACE]))?;
    Ok(())
}

/// Takes a read-only snapshot of the homes.
pub fn take(lab: &Lab, name: &str) -> Outcome {
    let path = format!("{PLACE}/{name}");
    lab.laptop().run(&Cmd::new("btrfs").args(["subvolume", "snapshot", "-r", "/home", &path]))?;
    Ok(())
}

/// Measures how long the agent takes to find out what is in the second snapshot: by what changed since the first, or by
/// looking at everything. Starting the agent is not part of it.
pub fn run(lab: &Lab, case: Case, tool: Tool, [base, now]: &[String; 2]) -> Outcome<Run> {
    if (case, tool) == (Case::Search, Tool::PcSwitcher) {
        return search(lab, base, now);
    }
    let mut agent = Agent::start(lab)?;
    let before = usage(lab)?;
    let start = Instant::now();
    let summary = match tool {
        Tool::OwnWalk => agent.walk(now)?,
        _ => agent.changes(base, now)?,
    };
    let wall = start.elapsed();
    let mut run = Run { wall, cpu: usage(lab)?.cpu.saturating_sub(before.cpu), ..Run::default() };
    look(lab, tool.program(), &mut run.memory);
    eprintln!("{} directories with {} entries were listed", summary.directories, summary.entries);
    Ok(run)
}

/// Measures the search of the tree for what is younger than the first snapshot, by the agent's own code in this process.
fn search(lab: &Lab, base: &str, now: &str) -> Outcome<Run> {
    let root = lab.laptop().root_path()?;
    let [base, now] =
        [base, now].map(|name| root.join(PLACE.trim_start_matches('/')).join(name).join("alice"));
    let (start, before) = (Instant::now(), process_time()?);
    let found = younger::count(&base, &now)?.ok_or("nobody knows what is younger")?;
    let (wall, cpu) = (start.elapsed(), process_time()?.saturating_sub(before));
    eprintln!("{found} inodes were written");
    Ok(Run { wall, cpu, ..Run::default() })
}

/// Returns how long this process has had processors, in steps of 10 ms: threads that ended are in it.
fn process_time() -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let words: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (user, kernel) = ticks(11).zip(ticks(12)).ok_or_else(|| format!("`{text}` says no time"))?;
    Ok(Duration::from_millis((user + kernel) * 10))
}

/// An agent on the laptop.
struct Agent {
    talk: Talk,
    calls: u32,
}

impl Agent {
    fn start(lab: &Lab) -> Outcome<Self> {
        let mut talk = lab.laptop().talk(&Cmd::new("pc-switcher").arg("agent"))?;
        let mut greeting = vec![0; MAGIC.len()];
        talk.output.read_exact(&mut greeting)?;
        match frame::read(&mut talk.output)? {
            Some(Frame { kind: FrameKind::Hello, .. }) if greeting == MAGIC => {}
            _ => return Err("the agent does not greet: is the program of this version?".into()),
        }
        let hello = FrontHello {
            protocol: PROTOCOL,
            version: "bench".to_owned(),
            silence_seconds: 600,
            is_elsewhere: false,
        };
        frame::write(&mut talk.input, 0, FrameKind::Hello, &encode(&hello))?;
        talk.input.flush()?;
        Ok(Self { talk, calls: 0 })
    }

    /// Lists everything.
    fn walk(&mut self, name: &str) -> Outcome<WalkSummary> {
        let done = self.call(&Request::Walk(WalkRequest { tree: tree(name) }), &[], |_| Ok(()))?;
        Ok(decode(&done)?)
    }

    /// Asks what changed and what was moved, and lists those directories.
    fn changes(&mut self, base: &str, now: &str) -> Outcome<WalkSummary> {
        let question = ChangedRequest { base: tree(base).root, tree: tree(now) };
        let mut wants: Vec<ListWant> = Vec::new();
        // Both at once, as a sync asks.
        let asked = [Request::Changed(question.clone()), Request::Moved(question)];
        let known = self.calls(&asked, &[], |at, item| {
            if at == 0 {
                let changed = decode::<Vec<ChangedDir>>(item)?.into_iter();
                wants.extend(changed.map(|ChangedDir { path, whole, names, .. }| ListWant {
                    path,
                    whole,
                    names,
                }));
            }
            Ok(())
        })?;
        for known in known {
            if !decode::<bool>(&known)? {
                return Err("the agent does not know what changed".into());
            }
        }
        let wants: Vec<Vec<u8>> = wants.chunks(BATCH).map(|some| encode(&some)).collect();
        let done = self.call(&Request::List(WalkRequest { tree: tree(now) }), &wants, |_| Ok(()))?;
        Ok(decode(&done)?)
    }

    /// Makes a call and returns its answer; `each` is given what comes before it.
    fn call(
        &mut self,
        request: &Request,
        uploads: &[Vec<u8>],
        mut each: impl FnMut(&[u8]) -> Outcome,
    ) -> Outcome<Vec<u8>> {
        let answers = self.calls(std::slice::from_ref(request), uploads, |_, item| each(item))?;
        answers.into_iter().next().ok_or_else(|| "no call was made".into())
    }

    /// Makes calls at once and returns their answers; `each` is given what comes before them, and of which call it is.
    fn calls(
        &mut self,
        requests: &[Request],
        uploads: &[Vec<u8>],
        mut each: impl FnMut(usize, &[u8]) -> Outcome,
    ) -> Outcome<Vec<Vec<u8>>> {
        let first = self.calls + 1;
        let Talk { input, output, .. } = &mut self.talk;
        for request in requests {
            self.calls += 1;
            frame::write(input, self.calls, FrameKind::Open, &encode(request))?;
            uploads.iter().try_for_each(|body| frame::write(input, self.calls, FrameKind::Up, body))?;
            frame::write(input, self.calls, FrameKind::UpEnd, &[])?;
        }
        input.flush()?;
        let mut answers: Vec<Option<Vec<u8>>> = vec![None; requests.len()];
        while answers.iter().any(Option::is_none) {
            let Some(Frame { kind, body, call }) = frame::read(output)? else {
                return Err(format!("the agent ended during `{}`", requests[0].name()).into());
            };
            let at = call.checked_sub(first).map(|at| at as usize).filter(|at| *at < requests.len());
            let Some(at) = at else { continue };
            match kind {
                FrameKind::Item => {
                    frame::write(input, call, FrameKind::Credit, &(body.len() as u32).to_le_bytes())?;
                    input.flush()?;
                    each(at, &body)?;
                }
                FrameKind::Done => answers[at] = Some(body),
                FrameKind::Error => {
                    let what = requests[at].name();
                    return Err(format!("`{what}`: {}", String::from_utf8_lossy(&body)).into());
                }
                _ => {}
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

fn tree(name: &str) -> Tree {
    let root = format!("{PLACE}/{name}/alice").as_str().into();
    Tree { root, prefix: "alice".into(), rules: RuleSet::default() }
}
