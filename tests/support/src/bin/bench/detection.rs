//! Change detection by the agent alone: what a sync asks first, beside the walk of everything that it saves.

use std::{
    io::{Read, Write},
    time::Instant,
};

use pc_switcher_agent::{
    frame::{self, Frame, FrameKind},
    proto::{
        ChangedRequest, FrontHello, ListWant, MAGIC, PROTOCOL, Request, RuleSet, Tree, WalkRequest,
        WalkSummary, decode, encode,
    },
};
use pc_switcher_testkit::lab::{Cmd, Lab, Talk};

use super::{
    Outcome,
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
pub fn run(lab: &Lab, tool: Tool, [base, now]: &[String; 2]) -> Outcome<Run> {
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
        let known = self.call(&Request::Changed(question.clone()), &[], |item| {
            // A directory that changed is told in the form in which its listing is asked for.
            wants.extend(decode::<Vec<ListWant>>(item)?);
            Ok(())
        })?;
        if !decode::<bool>(&known)? {
            return Err("the agent does not know what changed".into());
        }
        self.call(&Request::Moved(question), &[], |_| Ok(()))?;
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
        self.calls += 1;
        let call = self.calls;
        let Talk { input, output, .. } = &mut self.talk;
        frame::write(input, call, FrameKind::Open, &encode(request))?;
        uploads.iter().try_for_each(|body| frame::write(input, call, FrameKind::Up, body))?;
        frame::write(input, call, FrameKind::UpEnd, &[])?;
        input.flush()?;
        while let Some(Frame { kind, body, .. }) = frame::read(output)? {
            match kind {
                FrameKind::Item => {
                    frame::write(input, call, FrameKind::Credit, &(body.len() as u32).to_le_bytes())?;
                    input.flush()?;
                    each(&body)?;
                }
                FrameKind::Done => return Ok(body),
                FrameKind::Error => {
                    return Err(format!("`{}`: {}", request.name(), String::from_utf8_lossy(&body)).into());
                }
                _ => {}
            }
        }
        Err(format!("the agent ended during `{}`", request.name()).into())
    }
}

fn tree(name: &str) -> Tree {
    let root = format!("{PLACE}/{name}/alice").as_str().into();
    Tree { root, prefix: "alice".into(), rules: RuleSet::default() }
}
