//! A person works on the desk while a sync brings the laptop's version: no edit is lost, and each is named.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pc_switcher_testkit::{
    lab::{Cmd, Lab, Machine},
    manifest::{ManifestOptions, TreeManifest, assert_same_tree},
    seed::Random,
};

use super::{
    DIRS, FILES, lab,
    person::{Person, judge},
    rewrite, rounds,
};
use crate::hosts::{BY_THEN, Ran, alice, configure, first_sync, line, root, sync};

const TREE: &str = "/home/alice/work";
/// So much may happen in one round.
const EDITS: u32 = 400;

/// What a round came to.
#[derive(Debug, Default)]
struct Score {
    edits: u32,
    paths: usize,
    aside: usize,
    failed: u32,
}

#[test]
fn no_edit_on_the_desk_is_lost_whenever_it_falls_into_a_sync() {
    let Some(lab) = lab() else { return };
    configure(lab.laptop(), "log_cli_level = \"FULL\"\n[user-data]\nmass_deletion_share = 1.0\n");
    alice(lab.laptop(), "echo kept >canary; mkdir work");
    alice(lab.laptop(), &rewrite("first"));
    alice(lab.laptop(), "cd work; cp -r d00 q0; cp -r d00 q1");
    first_sync(&lab);
    let mut total = Score::default();
    let rounds = rounds(4);
    for round in rounds.clone() {
        let score = one_round(&lab, round);
        println!("round {round}: {score:?}");
        total.edits += score.edits;
        total.paths += score.paths;
        total.aside += score.aside;
        total.failed += score.failed;
    }
    println!("rounds {rounds:?}, none lost: {total:?}");
    assert!(total.paths > 0, "nobody edited anything");
}

fn one_round(lab: &Lab, round: u64) -> Score {
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let mut random = Random::new(round);
    // Every third time the person keeps away from all that the sync brings.
    let is_apart = round % 3 == 2;
    alice(laptop, &rewrite(&format!("round-{round}")));
    let before = paths(desk);
    let tree = desk.root_path().unwrap().join(&TREE[1..]);
    let name = format!("desk-{round}");
    let mut person = Person::new(tree.clone(), name, round);

    let running = laptop.spawn(&line("desk", &[])).unwrap();
    let mark = ["snapshots: desk presync", "stage: stage", "stage: committing"];
    let mark = mark[usize::try_from(random.below(3)).unwrap()];
    running.expect(mark, BY_THEN).unwrap();
    thread::sleep(Duration::from_millis(random.below(40)));
    let has_ended = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| work(&mut person, &mut random, is_apart, round, &has_ended));
        let output = running.wait();
        has_ended.store(true, Ordering::Relaxed);
        output
    })
    .unwrap();
    let first = Ran {
        code: output.code(),
        text: format!("{}{}", output.error_text(), output.text()),
        stdout: output.text(),
    };
    assert!(matches!(first.code, Some(0 | 1)), "{}", first.text);
    assert!(!is_apart || first.code == Some(0), "{}", first.text);

    let kept = kept(desk);
    let aside = judge(&person.left, &tree, |path| before.contains(path), &kept)
        .unwrap_or_else(|lost| panic!("round {round} from `{mark}`: {lost:#?}\n{}", first.text));
    // A second sync asks about everything that is not as on the laptop, and touches nothing.
    let options = ManifestOptions::new;
    let left = desk.manifest(TREE, &options()).unwrap();
    let second = sync(laptop, "desk", &[]);
    assert!(matches!(second.code, Some(0 | 7)), "{}", second.text);
    if second.code == Some(7) {
        assert_same_tree(&left, &desk.manifest(TREE, &options()).unwrap());
    }
    let said = format!("{} {}", first.text, second.text);
    let said: BTreeSet<&str> = said.split(['`', ' ', '\n']).collect();
    let ours = laptop.manifest(TREE, &options()).unwrap();
    // Equal content is no conflict, whoever moved it there.
    let content = |tree: &TreeManifest, path: &PathBuf| tree.get(path).map(|entry| entry.kind.clone());
    // A file that the sync itself brought and that went again may come again.
    let is_back_where_it_was = |path: &PathBuf| !before.contains(path) && content(&left, path).is_none();
    for path in person.left.keys().filter(|path| content(&left, path) != content(&ours, path)) {
        if is_back_where_it_was(path) {
            continue;
        }
        let whole = Path::new(TREE).join(path);
        assert!(
            said.contains(&*whole.to_string_lossy()),
            "round {round} from `{mark}`: nobody named `{}` ({:?}): {:?} there, {:?} here\n{}\n{}",
            whole.display(),
            person.left[path],
            left.get(path),
            ours.get(path),
            first.text,
            second.text
        );
    }
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_same_tree(&ours, &desk.manifest(TREE, &options()).unwrap());
    assert_eq!(alice(desk, "cat canary"), "kept\n");
    root(desk, "rm -rf /home/.pc-switcher/kept-*");
    assert_eq!(root(desk, "ls -A /home/.pc-switcher 2>/dev/null || true"), "");
    Score { edits: person.edits, paths: person.left.len(), aside, failed: u32::from(first.code != Some(0)) }
}

/// Edits in bursts until the sync is over.
fn work(person: &mut Person, random: &mut Random, is_apart: bool, round: u64, has_ended: &AtomicBool) {
    let mut path = || match random.below(10) {
        n if is_apart => PathBuf::from(format!("q{}/f{:02}", n % 2, random.below(FILES))),
        0 => PathBuf::from(format!("new-round-{round}/f{:02}", random.below(FILES))),
        1 => PathBuf::from(format!("d18/f{:02}", random.below(FILES))),
        _ => PathBuf::from(format!("d{:02}/f{:02}", random.below(DIRS), random.below(FILES))),
    };
    let mut pause = Random::new(round + 1);
    while person.edits < EDITS && !has_ended.load(Ordering::Relaxed) {
        let (one, other) = (path(), path());
        person.act(&one, &other);
        let pauses = [0, 0, 100, 1000, 20_000];
        thread::sleep(Duration::from_micros(pauses[usize::try_from(pause.below(5)).unwrap()]));
    }
}

fn paths(machine: &Machine) -> BTreeSet<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let tree: TreeManifest = machine.manifest(TREE, &ManifestOptions::new()).unwrap();
    tree.entries().map(|(path, _)| PathBuf::from(std::ffi::OsString::from_vec(path.clone()))).collect()
}

/// Returns the versions that were put aside.
fn kept(machine: &Machine) -> Vec<String> {
    let home = machine.root_path().unwrap().join("home/.pc-switcher");
    let dirs = fs::read_dir(home).into_iter().flatten().flatten();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten());
    files
        .filter_map(|file| fs::read(file.path()).ok())
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .collect()
}

#[test]
fn what_a_program_writes_to_files_that_it_holds_open_is_there_or_kept_or_the_program_is_named() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir work");
    alice(laptop, &rewrite("first"));
    first_sync(&lab);
    let mut total = [0; 2];
    for round in rounds(2) {
        alice(laptop, &rewrite(&format!("round-{round}")));
        let running = laptop.spawn(&line("desk", &[])).unwrap();
        // Opened after the look for programs that write, or before it.
        let mark = ["stage: stage", "snapshots: desk presync"][usize::from(round % 2 == 1)];
        running.expect(mark, BY_THEN).unwrap();
        let writer = desk.spawn(&Cmd::script(HOLD).as_alice()).unwrap();
        let output = running.wait().unwrap();
        let text = format!("{}{}", output.error_text(), output.text());
        assert!(matches!(output.code(), Some(0 | 1)), "{text}");
        let written = String::from_utf8_lossy(&writer.stdout()).into_owned();
        drop(writer);
        let kept = kept(desk);
        let mut seen: HashMap<&str, String> = HashMap::new();
        for line in written.lines() {
            let (file, word) = line.split_once(' ').unwrap();
            let live = seen.entry(file).or_insert_with(|| alice(desk, &format!("cat work/{file}")));
            let is_named = text.contains(&format!("`{TREE}/{file}` was replaced while `bash`"));
            let is_kept = kept.iter().any(|kept| kept.lines().any(|line| line == word));
            if !live.lines().any(|line| line == word) {
                total[0] += u32::from(is_kept);
                total[1] += u32::from(!is_kept);
                assert!(is_kept || is_named, "`{word}` of `{file}` is lost in round {round}:\n{text}");
                assert!(text.contains(&format!("`{TREE}/{file}`")), "nobody named `{file}`:\n{text}");
            }
        }
        sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
        root(desk, "rm -rf /home/.pc-switcher/kept-*");
    }
    let [kept, gone] = total;
    println!("{kept} words kept aside, {gone} written after the end to files whose writer was named");
    assert!(kept > 0, "no write ever came too late");
}

/// Opens a file of each directory and writes to them, to one after the other for the first time; says which word went into
/// which file, and goes on holding them.
const HOLD: &str = "cd work
    for n in {00..17}; do exec {fd}>>d$n/f00; fds[10#$n]=$fd; done
    for step in {1..3000}; do
        for n in {00..17}; do
            ((step < 10#$n * 2)) && continue
            echo word-$n-$step >&${fds[10#$n]}; echo d$n/f00 word-$n-$step
        done
        read -rt 0.02 _ <> <(:) || true
    done
    sleep 60";
