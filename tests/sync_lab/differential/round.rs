//! One round: changes on one machine, a sync, and the judgement of rsync and of a strict comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    ops::AddAssign,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    lab::{Cmd, Machine},
    manifest::{Difference, ManifestOptions, TreeManifest},
    seed::Random,
};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{
    SKIPPED, TREE,
    apart::{Apart, Why, is_skipped},
    changes::change,
    pick::{one_of, paths},
    subvolumes::is_subvolume,
    tally::Tally,
};
use crate::hosts::{Ran, configure, sync};

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub changing: Duration,
    pub syncing: Duration,
    pub judging: Duration,
}

/// Both machines in their roles of a round.
pub struct Round<'a> {
    /// How to find it again.
    pub name: String,
    pub source: &'a Machine,
    pub target: &'a Machine,
    ours: PathBuf,
    theirs: PathBuf,
    /// What happened, for whoever has to find out why.
    story: Vec<String>,
    pub spent: Spent,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.changing += other.changing;
        self.syncing += other.syncing;
        self.judging += other.judging;
    }
}

impl<'a> Round<'a> {
    pub fn new(name: String, [source, target]: [&'a Machine; 2]) -> Self {
        let [ours, theirs] = [source, target].map(|machine| machine.root_path().unwrap().join(TREE));
        let story = vec![format!("{} → {}", source.hostname(), target.hostname())];
        Self { name, source, target, ours, theirs, story, spent: Spent::default() }
    }

    /// Changes the source's tree, syncs and compares; returns how many changes that were.
    pub fn play(&mut self, number: u64, random: &mut Random, tally: &mut Tally) -> usize {
        let start = Instant::now();
        if random.below(8) == 0 {
            // Other rules than last time: everything is compared.
            self.rules(number, None);
            tally.count("rounds with other rules");
        }
        let excluded = if random.below(10) == 0 { self.to_exclude(random) } else { None };
        let frozen = if random.below(10) == 0 { self.freeze(random) } else { None };
        // Few and many: a batch of one finds what later changes would hide.
        let wanted = [1, 4, 40][usize::try_from(random.below(3)).unwrap()];
        let tried = (0..3 * wanted).filter_map(|_| change(&self.ours, random, tally));
        let done: Vec<String> = tried.take(wanted).collect();
        let count = done.len();
        self.story.extend(done);
        let mut apart = Apart::find(&self.ours, &self.theirs);
        if let Some(path) = &excluded {
            self.rules(number, Some(path));
            apart.0.insert(path.clone(), Why::Rule);
            tally.count("rounds with something excluded and included again");
        }
        for why in apart.0.values() {
            tally.count(match why {
                Why::SocketOrDevice => "left alone: socket or device",
                Why::Stub => "left alone: stub of a snapshot",
                Why::ReadOnly => "left alone: read-only subvolume",
                Why::NoText => "left alone: subvolume and directory, no text",
                Why::BehindLink => "left alone: behind a link",
                Why::Rule => "left alone: excluded",
                Why::NotHeld => "left alone: not held",
            });
        }
        let before = self.standing(&apart);
        self.spent.changing += start.elapsed();

        // To forbid changes is one to the file.
        let ran = self.sync(if frozen.is_some() { &["--allow-conflicts"] } else { &[] });
        if let Some(file) = &frozen {
            set_immutable(file, false);
            tally.count("rounds with chattr +i on the target");
            if ran.code == Some(1) {
                tally.count("rounds in which chattr +i was in the way");
                assert!(ran.text.contains("chattr"), "{}", self.told());
            } else {
                self.ended_well(&ran);
                self.judge(&apart);
            }
        } else {
            self.ended_well(&ran);
            self.judge(&apart);
        }
        let after = self.standing(&apart);
        for (path, before) in before {
            let after = after.get(&path);
            assert!(after == Some(&before), "{path:?} changed:\n{before:#?}\n{after:#?}\nin {}", self.told());
        }

        if excluded.is_some() {
            self.rules(number, None);
        }
        let to_settle =
            !apart.is_empty() || frozen.is_some() || paths(&self.ours).iter().any(|path| is_skipped(path));
        if to_settle {
            self.settle(&apart, tally);
        }
        count
    }

    /// Takes away the reasons to leave anything alone: then both machines must be the same.
    fn settle(&mut self, apart: &Apart, tally: &mut Tally) {
        apart.settle(&self.ours, &self.theirs);
        let left = apart.not_held(&self.ours, &self.theirs);
        let ran = self.sync(&["--allow-conflicts"]);
        self.ended_well(&ran);
        // Where the sync before failed, it is one before that that held them, or not.
        let left = left.standing(&self.theirs);
        if !left.is_empty() {
            tally.count("left alone: not held");
            assert!(ran.text.contains("is a nested subvolume and is not mirrored"), "{}", self.told());
            left.settle(&self.ours, &self.theirs);
            let ran = self.sync(&["--allow-conflicts"]);
            self.ended_well(&ran);
        }
        self.judge(&Apart::default());
    }

    fn sync(&mut self, more: &[&str]) -> Ran {
        let start = Instant::now();
        let flags = [&["--allow-mass-deletion"], more].concat();
        let ran = sync(self.source, self.target.hostname(), &flags);
        self.spent.syncing += start.elapsed();
        self.story.push(format!("sync {flags:?}:\n{}", ran.text));
        ran
    }

    #[track_caller]
    fn ended_well(&self, ran: &Ran) {
        assert_eq!(ran.code, Some(0), "{}", self.told());
    }

    #[track_caller]
    fn judge(&mut self, apart: &Apart) {
        let start = Instant::now();
        let went: Vec<_> = paths(&self.theirs).into_iter().filter(|path| is_skipped(path)).collect();
        assert!(went.is_empty(), "{went:?} went over\n{}", self.told());
        let options = apart.options();
        let [here, there] =
            [&self.ours, &self.theirs].map(|tree| TreeManifest::read(tree, &options).unwrap());
        // What one machine has in a subvolume, and the other in a directory, has no name of a file outside of it: there
        // these are two files (ADR 11).
        let torn = torn(&here, &[&self.ours, &self.theirs]);
        let is_torn = |difference: &&Difference| {
            matches!(difference, Difference::Changed { path, fields }
            if torn.contains(path) && fields.iter().all(|field| field.starts_with("hard link of")))
        };
        let differences = here.diff(&there);
        let differences: Vec<String> =
            differences.iter().filter(|difference| !is_torn(difference)).map(ToString::to_string).collect();
        let rsync = self.rsync(apart, if torn.is_empty() { "-naHAXc" } else { "-naAXc" });
        let words = format!("{differences:#?}\nrsync would do:\n{rsync}\napart: {apart:?}");
        assert!(differences.is_empty() && rsync.is_empty(), "{words}\nin {}", self.told());
        self.spent.judging += start.elapsed();
    }

    /// Returns what rsync would do to make the tree on the target like the one on the source.
    fn rsync(&self, apart: &Apart, flags: &str) -> String {
        let there = format!("{}:/{TREE}/", self.target.hostname());
        let output = self
            .source
            .exec(
                &Cmd::new("rsync")
                    .args([flags, "--numeric-ids", "--delete", "--itemize-changes"])
                    .args(["-e", "sudo -u alice ssh", "--rsync-path=sudo rsync"])
                    .args(["--from0", "--exclude-from=-", &format!("/{TREE}/"), &there])
                    .stdin(apart.patterns()),
            )
            .unwrap();
        let text = format!("{}{}", output.text(), output.error_text());
        assert!(output.status.success(), "{text}");
        text
    }

    /// Returns what the target has at each path that is left alone: it must stay. What a rule leaves out may lose a name of
    /// a file of several, and share its metadata with one that is synced.
    fn standing(&self, apart: &Apart) -> BTreeMap<PathBuf, Vec<String>> {
        let mut standing = BTreeMap::<_, Vec<_>>::new();
        // What lies where the source has a socket goes along with its directory.
        let stays = |why: &Why| !matches!(why, Why::SocketOrDevice | Why::Stub);
        let stay: Vec<&PathBuf> =
            apart.0.iter().filter(|(_, why)| stays(why)).map(|(path, _)| path).collect();
        if stay.is_empty() {
            return standing;
        }
        let tree = TreeManifest::read(&self.theirs, &ManifestOptions::new()).unwrap();
        for (path, entry) in tree.entries() {
            let here = Path::new(OsStr::from_bytes(path));
            for held in stay.iter().filter(|held| here.starts_with(held)) {
                let line = format!("{} {:?}", path.escape_ascii(), entry.kind);
                standing.entry(held.to_path_buf()).or_default().push(line);
            }
        }
        standing
    }

    /// Draws a path at the top of the tree to be excluded in this round; a subvolume rather than another.
    fn to_exclude(&self, random: &mut Random) -> Option<PathBuf> {
        let is_plain =
            |path: &PathBuf| path.to_str().is_some_and(|name| name.starts_with('n') && !name.contains('\n'));
        let top: Vec<PathBuf> =
            paths(&self.ours).into_iter().filter(|path| path.iter().count() == 1 && is_plain(path)).collect();
        let own: Vec<PathBuf> =
            top.iter().filter(|path| is_subvolume(&self.ours.join(path))).cloned().collect();
        one_of(random, if own.is_empty() { &top } else { &own })
    }

    /// Forbids every change to one file of the target.
    fn freeze(&mut self, random: &mut Random) -> Option<File> {
        let is_file =
            |path: &PathBuf| self.theirs.join(path).symlink_metadata().is_ok_and(|meta| meta.is_file());
        let files: Vec<PathBuf> = paths(&self.theirs).into_iter().filter(is_file).collect();
        let path = one_of(random, &files)?;
        let file = File::open(self.theirs.join(&path)).ok()?;
        set_immutable(&file, true);
        self.story.push(format!("chattr +i {path:?} on the target"));
        Some(file)
    }

    fn rules(&mut self, version: u64, more: Option<&Path>) {
        rules(self.source, version, more);
        self.story.push(format!("rules {version}, and {more:?}"));
    }

    pub fn told(&self) -> String {
        format!("{}: {}", self.name, self.story.join("\n"))
    }
}

/// Returns the names of files of which others lie in another subvolume on one of the machines.
fn torn(tree: &TreeManifest, trees: &[&Path]) -> BTreeSet<Vec<u8>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for (path, entry) in tree.entries() {
        if let Some(first) = &entry.hard_link_of {
            groups.entry(first.clone()).or_default().push(path.clone());
        }
    }
    let is_root = |dir: &Path| trees.iter().any(|tree| is_subvolume(&tree.join(dir)));
    let around = |path: &[u8]| {
        Path::new(OsStr::from_bytes(path)).ancestors().skip(1).find(|dir| is_root(dir)).map(PathBuf::from)
    };
    groups.retain(|_, paths| paths.iter().any(|path| around(path) != around(&paths[0])));
    groups.into_values().flatten().collect()
}

fn set_immutable(file: &File, yes: bool) {
    let mut flags = ioctl_getflags(file).unwrap();
    flags.set(IFlags::IMMUTABLE, yes);
    ioctl_setflags(file, flags).unwrap();
}

/// Writes the rules of a machine: other ones for each version.
pub fn rules(machine: &Machine, version: u64, more: Option<&Path>) {
    let below = Path::new(TREE).strip_prefix("home").unwrap();
    let more = more.map(|path| format!(", \"/{}\"", below.join(path).display())).unwrap_or_default();
    configure(
        machine,
        &format!("[user-data]\nexclude = [\"{SKIPPED}*\", \"never-there-{version}\"{more}]\n"),
    );
}
