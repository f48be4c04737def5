//! The cases of one home, one after the other, on two machines.

use std::{fs, path::PathBuf, thread};

use pc_switcher_testkit::{
    lab::{Cmd, Lab},
    seed::{Changed, FullHome},
};

use super::{
    Outcome,
    case::{Case, Scene},
    cli::Plan,
    detection,
    figures::Figures,
    measure::{self, Run},
    peers,
    tool::Tool,
};

/// Where the image lies in the home.
const IMAGE: &str = "machine.img";
/// What each machine remembers of the other.
const PAIRS: &str = "/var/lib/pc-switcher/pairs";

/// The machines, what is to be measured on them, and what was.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    pub plan: &'a Plan,
    pub figures: Figures,
}

impl Stage<'_> {
    /// Writes each home once and keeps it for all rounds.
    pub fn seed(&self) -> Outcome {
        for scene in self.plan.scenes() {
            self.lab.reset(Lab::PRISTINE)?;
            eprintln!("writing the home `{}`", scene.saved());
            let threads = thread::available_parallelism().map_or(2, usize::from);
            let home = self.home()?;
            match scene {
                Scene::Home | Scene::Tiny => self.plan.home(scene).write(&home, threads)?,
                Scene::Image => self.plan.image().write(&home.join(IMAGE), threads)?,
            }
            self.lab.laptop().copy_in(&self.plan.program, "/usr/local/bin/pc-switcher", 0o755, "root")?;
            peers::prepare(self.lab, &self.plan.peers)?;
            if scene == Scene::Tiny {
                detection::prepare(self.lab)?;
            }
            self.lab.snapshot(scene.saved())?;
        }
        Ok(())
    }

    /// Measures all cases of one home once more.
    pub fn round(&mut self, scene: Scene, round: usize) -> Outcome {
        self.lab.reset(scene.saved())?;
        self.lab.trim()?;
        read_all(self.lab)?;
        let repeats = self.plan.repeats;
        if scene == Scene::Home && self.wants(Case::First) {
            self.measure(Case::First, round, None)?;
        } else if scene != Scene::Tiny || self.wants(Case::Memory) {
            self.bring_over(scene)?;
        }
        let home = self.home()?;
        for repeat in 0..repeats {
            let (turn, day) = (round + repeat, (round * repeats + repeat) as u64);
            match scene {
                Scene::Home => {
                    if self.wants(Case::NoChange) {
                        self.measure(Case::NoChange, turn, None)?;
                    }
                    if self.wants(Case::Changed) {
                        let changed = self.plan.home(scene).work(&home, day)?;
                        self.measure(Case::Changed, turn, Some(changed))?;
                    }
                }
                Scene::Image => {
                    let changed = self.plan.image().change(&home.join(IMAGE), day)?;
                    self.measure(Case::Image, turn, Some(changed))?;
                }
                Scene::Tiny => {
                    let cases = [Case::Detection, Case::Search].into_iter().filter(|case| self.wants(*case));
                    let cases: Vec<Case> = cases.collect();
                    if !cases.is_empty() {
                        detection::take(self.lab, &format!("before-{day}"))?;
                    }
                    let changed = self.plan.home(scene).work(&home, day)?;
                    if !cases.is_empty() {
                        detection::take(self.lab, &format!("after-{day}"))?;
                    }
                    for case in cases {
                        self.detect(case, turn, day)?;
                    }
                    if self.wants(Case::Memory) {
                        self.measure(Case::Memory, turn, Some(changed))?;
                    }
                }
            }
        }
        if scene == Scene::Home {
            self.rename_and_forget(round)?;
        }
        if scene == Scene::Tiny && !self.wants(Case::Memory) { Ok(()) } else { self.check(scene) }
    }

    fn rename_and_forget(&mut self, round: usize) -> Outcome {
        let home = self.home()?;
        if self.wants(Case::Renamed) {
            let mut name = home.join(FullHome::large_directory());
            for repeat in 0..self.plan.repeats {
                let next = name.with_extension(format!("day-{repeat}"));
                fs::rename(&name, &next)?;
                name = next;
                self.measure(Case::Renamed, round + repeat, None)?;
            }
        }
        if self.wants(Case::Fallback) {
            for repeat in 0..self.plan.repeats {
                for machine in [self.lab.laptop(), self.lab.desk()] {
                    machine.run(&Cmd::new("rm").args(["-r", PAIRS]))?;
                }
                self.measure(Case::Fallback, round + repeat, None)?;
            }
        }
        Ok(())
    }

    fn wants(&self, case: Case) -> bool {
        self.plan.cases.contains(&case)
    }

    fn home(&self) -> Outcome<PathBuf> {
        Ok(self.lab.laptop().root_path()?.join("home/alice"))
    }

    /// Returns ours and those of the peers that can be asked for this.
    fn tools(&self, case: Case) -> Vec<Tool> {
        let is_asked = |tool: &Tool| *tool == Tool::OwnWalk || self.plan.peers.contains(tool);
        [Tool::PcSwitcher].into_iter().chain(case.peers().iter().copied().filter(is_asked)).collect()
    }

    /// Lets all tools do their work unmeasured, before a case that begins from there.
    fn bring_over(&self, scene: Scene) -> Outcome {
        let cases = self.plan.cases.iter().filter(|case| case.scene() == scene);
        let mut tools: Vec<Tool> = cases.flat_map(|case| self.tools(*case)).collect();
        tools.sort_unstable();
        tools.dedup();
        // It has no copy of its own.
        tools.retain(|tool| *tool != Tool::RsyncOpen);
        for tool in tools {
            self.lab.laptop().run(&tool.command(Case::First))?;
        }
        Ok(())
    }

    /// Measures one case with all tools; which one begins changes with every turn.
    fn measure(&mut self, case: Case, turn: usize, changed: Option<Changed>) -> Outcome {
        if let Some(changed) = changed {
            eprintln!("{changed:?}");
        }
        let mut order = self.tools(case);
        let first = turn % order.len();
        order.rotate_left(first);
        for tool in order {
            let around = tool.around();
            if let Some([open, _]) = &around {
                self.lab.laptop().run(open)?;
            }
            self.settle()?;
            let mut run = measure::run(self.lab, &tool.command(case), tool.program())?;
            if let Some([_, close]) = &around {
                self.lab.laptop().run(close)?;
            }
            run.changed_bytes = changed.map(|changed| changed.block_bytes);
            let log = match tool {
                Tool::PcSwitcher => {
                    self.lab.laptop().run(&Cmd::script("pc-switcher logs --last --json").as_alice())?
                }
                _ => String::new(),
            };
            run.connected = measure::connected(&log);
            self.add(case, tool, run);
            if let (Tool::PcSwitcher, Some(dir)) = (tool, &self.plan.logs) {
                fs::create_dir_all(dir).map_err(|error| format!("`{}`: {error}", dir.display()))?;
                fs::write(dir.join(format!("{}-{turn}.jsonl", case.name().replace(' ', "-"))), log)?;
            }
        }
        Ok(())
    }

    fn detect(&mut self, case: Case, turn: usize, day: u64) -> Outcome {
        let names = [format!("before-{day}"), format!("after-{day}")];
        let mut order = self.tools(case);
        let first = turn % order.len();
        order.rotate_left(first);
        for tool in order {
            self.settle()?;
            let run = detection::run(self.lab, case, tool, &names)?;
            self.add(case, tool, run);
        }
        Ok(())
    }

    fn add(&mut self, case: Case, tool: Tool, run: Run) {
        eprintln!("{}, {}: {run}", case.name(), tool.name());
        self.figures.add(case, tool, run);
    }

    /// Lets nobody begin with what another left behind.
    fn settle(&self) -> Outcome {
        self.lab.laptop().sync_disk()?;
        self.lab.desk().sync_disk()?;
        if self.plan.is_cold {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        }
        Ok(())
    }

    /// Has rsync compare the home with what each tool made of it: a fast wrong copy is no figure.
    fn check(&self, scene: Scene) -> Outcome {
        let measured = |tool: &Tool| {
            let mut cases =
                self.plan.cases.iter().filter(|case| case.scene() == scene && !case.is_detection());
            // A case that a tool was not asked for changes nothing.
            cases.any(|case| self.tools(*case).contains(tool))
        };
        for tool in [Tool::PcSwitcher, Tool::Rsync, Tool::RsyncWhole, Tool::Send, Tool::Unison]
            .iter()
            .filter(|tool| measured(tool))
        {
            let differences = self.lab.laptop().run(&tool.check())?;
            if !differences.trim().is_empty() {
                return Err(format!("the copy of {} differs:\n{differences}", tool.name()).into());
            }
        }
        Ok(())
    }
}

/// Has the source's files in memory, and their times of access where no later run moves them: that would be a change.
fn read_all(lab: &Lab) -> Outcome {
    let read = "find /home -type f -exec cat {} + >/dev/null; find /home -printf '%s %T@\\n' >/dev/null";
    lab.laptop().run(&Cmd::script(read).timeout(super::LIMIT))?;
    Ok(())
}
