//! What a person asks for, and what is made of it.

use std::{fmt, path::PathBuf};

use clap::Parser;
use pc_switcher_testkit::seed::{FullHome, Image};

use super::{
    case::{Case, Scene},
    needs::{Needs, bytes_of},
    peers,
    tool::Tool,
};

const SEED: u64 = 1;
/// Files of a home, unless told.
const FILES: usize = 100_000;
/// Files of the home of small ones, unless told.
const TINY_FILES: usize = 1_000_000;
/// The image that goals were set for, beside the home that belongs to it.
const IMAGE_BYTES: u64 = 4 << 30;
const IMAGE_FILES: u64 = 300_000;
const MIB: u64 = 1 << 20;

/// Measures pc-switcher beside other tools on two machines of this host
///
/// Two machines in namespaces get a home that is the same each time. All tools do the same work in turn; another one
/// begins each time. At the end of each round the copies are compared with the home. docs/benchmarks.md says what is
/// compared and what is not.
#[derive(Clone, Debug, Parser)]
#[command(name = "benches/run", bin_name = "benches/run", max_term_width = 100)]
pub struct Cli {
    /// The program to measure
    #[arg(hide = true, required_unless_present_any = ["clean", "plan"])]
    program: Option<PathBuf>,
    /// Files in the home [default: 100000, for `detection`, `search` and `memory` 1000000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1_000..=2_000_000))]
    files: Option<u64>,
    /// Size of the image in MiB [default: 4096 for 300000 files and more, fewer for fewer]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=65_536))]
    image: Option<u64>,
    /// How often all begin with an empty target
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// How often the other cases are measured in each round
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeats: usize,
    /// Measure these cases only [default: all but `detection`, `search` and `memory`]
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    only: Vec<Case>,
    /// Measure beside these [default: all that are installed; `unison` is installed if it is named]
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    peers: Vec<Tool>,
    /// Measure pc-switcher by itself, for a profile
    #[arg(long, conflicts_with = "peers")]
    alone: bool,
    /// Measure all that goals speak of, one after the other, each in a home of the size that its goals
    /// were set for
    #[arg(long, conflicts_with_all = ["only", "files", "image", "alone", "cold"])]
    goals: bool,
    /// Begin every run with cold caches: drops those of this host, before each run of each tool
    #[arg(long)]
    cold: bool,
    /// Print every run and the goals as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Keep the log of pc-switcher of each run in this directory, as lines of JSON
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Only say what would be measured, and whether the disk has room for it
    #[arg(long)]
    plan: bool,
    /// Only remove what a killed run left
    #[arg(long)]
    pub clean: bool,
}

impl Cli {
    /// Returns the parts of what is asked for: a part is measured on machines of its own.
    pub fn parts(self) -> Vec<Self> {
        if !self.goals {
            return vec![self];
        }
        let part = |files, only: &[Case], cold| Self {
            goals: false,
            files: Some(files),
            only: only.to_vec(),
            cold,
            ..self.clone()
        };
        let usual = [Case::NoChange, Case::Changed, Case::Image, Case::Renamed, Case::Fallback];
        vec![
            part(100_000, &[Case::First], false),
            part(300_000, &usual, false),
            part(300_000, &[Case::NoChange], true),
            part(1_000_000, &[Case::Detection, Case::Search, Case::Memory], false),
        ]
    }

    /// Tells whether nothing is to be measured.
    pub fn is_plan_only(&self) -> bool {
        self.plan
    }
}

/// What is measured, beside whom, in which homes.
#[derive(Debug)]
pub struct Plan {
    pub program: PathBuf,
    pub cases: Vec<Case>,
    pub peers: Vec<Tool>,
    /// Peers that nobody asked for and that are not there, with the reason.
    pub left_out: Vec<(Tool, String)>,
    pub rounds: usize,
    pub repeats: usize,
    pub is_cold: bool,
    pub is_json: bool,
    pub logs: Option<PathBuf>,
    files: Option<usize>,
    image_bytes: u64,
}

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    /// If a peer was asked for that is not installed.
    pub fn of(cli: Cli) -> Result<Self, String> {
        Self::with(cli, peers::check)
    }

    fn with(cli: Cli, check: impl Fn(Tool) -> Result<(), String>) -> Result<Self, String> {
        let is_default = |case: &Case| case.scene() != Scene::Tiny;
        let mut cases =
            if cli.only.is_empty() { Case::ALL.into_iter().filter(is_default).collect() } else { cli.only };
        cases.sort_unstable();
        cases.dedup();
        let (mut peers, mut left_out) = (Vec::new(), Vec::new());
        for tool in [Tool::Rsync, Tool::Send, Tool::Unison] {
            match check(tool) {
                _ if !cases.iter().any(|case| case.peers().contains(&tool)) => {
                    left_out.push((tool, "these cases cannot be asked of it".to_owned()));
                }
                Ok(()) if !cli.alone && (cli.peers.is_empty() || cli.peers.contains(&tool)) => {
                    peers.push(tool)
                }
                Ok(()) => left_out.push((tool, "not asked for".to_owned())),
                Err(why) if cli.peers.contains(&tool) => return Err(format!("no {}: {why}", tool.name())),
                Err(why) => left_out.push((tool, why)),
            }
        }
        if peers.contains(&Tool::Rsync) {
            let ways = [(Case::Image, Tool::RsyncWhole), (Case::NoChange, Tool::RsyncOpen)];
            for (_, way) in ways.into_iter().filter(|(case, _)| cases.contains(case)) {
                peers.insert(1, way);
            }
        }
        let files = cli.files.map(|files| files as usize);
        let beside = (files.unwrap_or(FILES) as u64 * (IMAGE_BYTES / MIB) / IMAGE_FILES).max(16) * MIB;
        Ok(Self {
            program: cli.program.unwrap_or_default(),
            cases,
            peers,
            left_out,
            rounds: cli.rounds,
            repeats: cli.repeats,
            is_cold: cli.cold,
            is_json: cli.json,
            logs: cli.logs,
            files,
            image_bytes: cli.image.map_or(beside.min(IMAGE_BYTES), |mib| mib * MIB),
        })
    }

    /// Returns the homes that the cases take.
    pub fn scenes(&self) -> Vec<Scene> {
        let wanted = |scene: &Scene| self.cases.iter().any(|case| case.scene() == *scene);
        Scene::ALL.into_iter().filter(wanted).collect()
    }

    /// Describes a home of files.
    pub fn home(&self, scene: Scene) -> FullHome {
        match scene {
            Scene::Tiny => FullHome::tiny(SEED, self.files.unwrap_or(TINY_FILES)),
            Scene::Home | Scene::Image => FullHome::new(SEED, self.files.unwrap_or(FILES)),
        }
    }

    /// Describes the image.
    pub fn image(&self) -> Image {
        Image::new(SEED, self.image_bytes)
    }

    /// Returns what it takes.
    pub fn needs(&self) -> Needs {
        let need = |scene: Scene| {
            let cases: Vec<Case> = self.cases.iter().copied().filter(|case| case.scene() == scene).collect();
            let has_copy = |peer: &&Tool| {
                **peer != Tool::RsyncOpen && cases.iter().any(|case| case.peers().contains(peer))
            };
            let peers = self.peers.iter().filter(has_copy);
            let copies = if cases.iter().all(|case| case.is_detection()) { 0 } else { 1 + peers.count() };
            (scene, bytes_of(scene, &self.home(scene), &self.image()), copies)
        };
        Needs::of(&self.scenes().into_iter().map(need).collect::<Vec<_>>())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: Vec<&str>| names.join(", ");
        writeln!(f, "cases:    {}", names(self.cases.iter().map(|case| case.name()).collect()))?;
        for scene in self.scenes() {
            let (home, image) = (self.home(scene), self.image());
            let mb = bytes_of(scene, &home, &image) / 1_000_000;
            match scene {
                Scene::Image => writeln!(f, "home:     one image of {} MiB", image.bytes() / MIB)?,
                Scene::Home => writeln!(f, "home:     {} files of all sorts, about {mb} MB", home.files())?,
                Scene::Tiny => writeln!(f, "home:     {} small files, about {mb} MB", home.files())?,
            }
        }
        let peers: Vec<&str> = self.peers.iter().map(|peer| peer.name()).collect();
        writeln!(f, "peers:    {}", if peers.is_empty() { "none".to_owned() } else { names(peers) })?;
        for (tool, why) in &self.left_out {
            writeln!(f, "left out: {}: {why}", tool.name())?;
        }
        let caches =
            if self.is_cold { "cold: those of this host are dropped before every run" } else { "warm" };
        writeln!(f, "caches:   {caches}")?;
        write!(f, "runs:     {} rounds, {} repeats in each", self.rounds, self.repeats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["benches/run", "program"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Plan::with(cli, |tool| if tool == Tool::Unison { Err("it is away".to_owned()) } else { Ok(()) })
    }

    #[test]
    fn without_options_a_hundred_thousand_files_beside_all_that_is_there() {
        let plan = plan("").unwrap();
        assert_eq!(plan.cases, Case::ALL[..6]);
        assert_eq!(plan.scenes(), [Scene::Home, Scene::Image]);
        assert_eq!(plan.peers, [Tool::Rsync, Tool::RsyncOpen, Tool::RsyncWhole, Tool::Send]);
        assert_eq!(plan.left_out, [(Tool::Unison, "it is away".to_owned())]);
        assert_eq!((plan.home(Scene::Home).files(), plan.home(Scene::Tiny).files()), (100_000, 1_000_000));
        assert!(plan.to_string().contains("left out: unison: it is away"), "{plan}");
    }

    #[test]
    fn the_image_grows_with_the_home_up_to_what_goals_were_set_for() {
        let mib = |line| plan(line).unwrap().image().bytes() / MIB;
        assert_eq!(mib("--files 3000"), 40);
        assert_eq!((mib("--files 300000"), mib("--files 1000000")), (4096, 4096));
        assert_eq!(mib("--files 1000000 --image 64"), 64);
    }

    #[test]
    fn what_was_asked_for_and_is_not_there_is_an_error() {
        assert!(plan("--peers unison").unwrap_err().contains("no unison: it is away"));
        let plan = plan("--peers send --only memory,detection,memory").unwrap();
        assert_eq!((&plan.cases[..], &plan.peers[..]), (&[Case::Detection, Case::Memory][..], &[][..]));
        assert_eq!(plan.left_out[0], (Tool::Rsync, "not asked for".to_owned()));
        assert_eq!(plan.left_out[1], (Tool::Send, "these cases cannot be asked of it".to_owned()));
        assert_eq!(plan.scenes(), [Scene::Tiny]);
    }

    #[test]
    fn all_goals_are_judged_in_homes_of_their_size() {
        let line = ["benches/run", "program", "--goals", "--rounds", "1"];
        let parts = Cli::try_parse_from(line).unwrap().parts();
        let plans: Vec<Plan> = parts.into_iter().map(|part| Plan::with(part, |_| Ok(())).unwrap()).collect();
        for goal in super::super::goals::GOALS {
            let judged = plans.iter().filter(|plan| plan.cases.contains(&goal.case) && !plan.is_cold);
            for plan in judged {
                let files = plan.home(goal.scene()).files();
                assert!(goal.is_at_scale(files, plan.image().bytes()), "{goal:?}");
            }
            assert!(plans.iter().any(|plan| plan.cases.contains(&goal.case)), "{goal:?}");
        }
        assert!(plans.iter().any(|plan| plan.is_cold) && plans.iter().all(|plan| plan.rounds == 1));
        assert!(Cli::try_parse_from(["benches/run", "program", "--goals", "--cold"]).is_err());
    }

    #[test]
    fn each_peer_takes_room_and_detection_none_on_the_desk() {
        let desk = |line| plan(line).unwrap().needs().desk;
        assert!(desk("--only first") > desk("--only first --peers rsync"));
        assert_eq!(desk("--only detection"), 0);
        let default = plan("").unwrap().needs().host_bytes() / 1_000_000_000;
        assert!((15..25).contains(&default), "{default} GB");
    }
}
