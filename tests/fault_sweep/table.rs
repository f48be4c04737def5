//! What a sync promises for each sort of call that goes wrong.
//!
//! One line per class of calls: in which phase, which call, of which machine, and when in the call. Then how the run ends
//! if the machine says no, if the call hangs, and if the machine is lost: the exit code, `!` for the one CRITICAL line, `^`
//! if it takes a Ctrl+C to end it; `.` if that cannot be. Then what each machine keeps of the session's snapshots (`pre?`: or
//! nothing, where sets are taken meanwhile), and which version the target's tree is (`whole`: old or new, but all of it). The
//! next sync heals all and asks nothing.
//!
//! | exit code | ending |
//! |---|---|
//! | 0 | COMPLETED |
//! | 130 | ABORTED |
//! | any other | FAILED |
//!
//! The first line that fits counts. A call that no line knows fails the sweep, and so does a line that no call needs.

use pc_switcher_contract::SessionState;
use pc_switcher_testkit::model::{At, Fault, How};

const TABLE: &str = "
phase                 call           machine  at      fail  hang   cut   laptop    desk      tree
start-agent           start          laptop   open    3!    130^   .     -         -         old
start-agent           facts          laptop   *       1!    130^   4!    -         -         old
start-agent           lock           laptop   *       1!    130^   4!    -         -         old
connect               connect        desk     open    4!    130^   4!    -         -         old
connect               facts          desk     *       1!    130^   4!    -         -         old
connect               lock           desk     *       1!    130^   4!    -         -         old
history               redo           *        *       1!    130^   4!    -         -         old
history               state-get      *        *       1!    130^   4!    -         -         old
history               state-list     desk     *       1!    130^   4!    -         -         old
history               check-set      *        *       1!    130^   4!    -         -         old
validating            layout         *        *       1!    130^   4!    -         -         old
validating            facts          *        *       1!    130^   4!    -         -         old
validating            space          *        *       1!    130^   4!    -         -         old
monitors              state-put      *        *       1!    130^   4!    -         -         old
monitors              space          *        *       0     0      .     pre+post  pre+post  new
monitors              space          *        *       .     .      4!    pre?      pre?      old
pre-snapshots         layout         *        *       1!    130^   4!    -         -         old
pre-snapshots         take-set       *        open    1!    130^   4!    -         -         old
pre-snapshots         take-set       laptop   answer  .     130^   4!    pre       -         old
pre-snapshots         take-set       desk     answer  .     130^   4!    -         pre       old
pre-snapshots         drop-set       laptop   open    1!    130^   1!    pre       -         old
pre-snapshots         state-put      laptop   *       1!    130^   4!    pre       pre       old
pre-snapshots         activate       desk     open    0     .      .     pre+post  pre+post  new
pre-snapshots         activate       desk     open    .     130^   4!    pre       pre       old
module:user-data      layout         *        *       1!    130^   4!    pre       pre       old
module:user-data      facts          *        *       1!    130^   4!    pre       pre       old
module:user-data      diagnose       desk     *       1!    130^   4!    pre       pre       old
compare               unchanged      desk     *       1!    130^   4!    pre       pre       old
compare               changed        *        *       1!    130^   4!    pre       pre       old
compare               moved          laptop   *       1!    130^   4!    pre       pre       old
compare               shares         laptop   *       1!    130^   4!    pre       pre       old
compare               walk           *        *       1!    130^   4!    pre       pre       old
compare               digest         *        *       1!    130^   4!    pre       pre       old
compare               facts          *        *       1!    130^   4!    pre       pre       old
compare               space          desk     *       1!    130^   4!    pre       pre       old
compare               diagnose       desk     *       1!    130^   4!    pre       pre       old
compare               writers        *        *       1!    130^   4!    pre       pre       old
compare               apply          desk     open    1!    130^   4!    pre       pre       old
compare               apply          desk     upload  1!    130^   4!    pre       pre       old
compare               apply          desk     commit  1!    130^   4!    pre       pre       whole
compare               apply          desk     *       1!    130^   4!    pre       pre       new
stage                 read           laptop   *       1!    130^   4!    pre       pre       old
module:dummy-success  spawn          *        open    1!    130^   4!    pre       pre       new
module:dummy-success  space          *        *       0     0      .     pre+post  pre+post  new
module:dummy-success  space          *        *       .     .      4!    pre       pre       new
post-snapshots        layout         desk     *       1!    130^   4!    pre       pre       new
post-snapshots        take-set       desk     open    1!    130^   4!    pre       pre       new
post-snapshots        take-set       desk     answer  .     130^   4!    pre       pre+post  new
verify                take-set       laptop   answer  .     130^   4!    pre+post  pre+post  new
verify                layout         *        *       1!    130^   4!    pre       pre+post  new
verify                facts          *        *       1!    130^   4!    pre       pre+post  new
verify                changed        *        *       1!    130^   4!    pre       pre+post  new
verify                digests        *        *       1!    130^   4!    pre       pre+post  new
verify                list           *        *       1!    130^   4!    pre       pre+post  new
verify                digest         *        *       1!    130^   4!    pre       pre+post  new
verify                check-set      *        *       1!    130^   4!    pre       pre+post  new
verify                take-set       laptop   open    1!    130^   4!    pre       pre+post  new
record                state-put      desk     open    1!    130^   4!    pre+post  pre+post  new
record                state-put      laptop   open    1!    130^   4!    pre+post  pre+post  new
record                state-put      desk     answer  .     130^   4!    pre+post  pre+post  new
record                state-put      laptop   answer  .     130^   4!    pre+post  pre+post  new
tidy                  sets           *        *       0     0      0     pre+post  pre+post  new
tidy                  delete-set     *        *       0     0      0     pre+post  pre+post  new
tidy                  space          *        *       0     0      0     pre+post  pre+post  new
tidy                  state-get      *        *       0     0      0     pre+post  pre+post  new
cleanup               terminate-all  *        open    .     0      0     pre+post  pre+post  new
cleanup               state-put      *        *       0     0      0     pre+post  pre+post  new
completed             history-put    desk     *       0     0      0     pre+post  pre+post  new
completed             close          desk     open    .     0      .     pre+post  pre+post  new
";

/// One line of the table, for one way of going wrong.
#[derive(Debug, Clone)]
pub struct Promise {
    /// Which line, for messages and to find lines that nobody needs.
    pub line: usize,
    pub exit: u8,
    pub criticals: usize,
    pub needs_ctrl_c: bool,
    pub sets: [String; 2],
    pub tree: String,
}

impl Promise {
    /// Returns how such a run ends.
    pub fn state(&self) -> SessionState {
        match self.exit {
            0 => SessionState::Completed,
            130 => SessionState::Aborted,
            _ => SessionState::Failed,
        }
    }
}

/// Whether a word of the table fits.
fn fits(word: &str, wanted: &str) -> bool {
    word == "*" || word == wanted
}

/// Returns the word for when in a call.
fn when(at: At) -> &'static str {
    match at {
        At::Open => "open",
        At::FirstItem => "item",
        At::Upload(_) => "upload",
        At::Commit => "commit",
        At::Answer => "answer",
    }
}

/// Returns all lines, each with its number.
pub fn lines() -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    let words = |line: &'static str| line.split_whitespace().collect();
    TABLE.trim().lines().map(words).enumerate().skip(1)
}

/// Looks up what is promised if this goes wrong.
pub fn promise(fault: &Fault) -> Option<Promise> {
    let at = when(fault.at);
    let key = &fault.key;
    lines().find_map(|(line, words)| {
        let [phase, call, machine, when, fail, hang, cut, laptop, desk, tree] = words[..] else {
            panic!("line {line} of the table has {} words", words.len());
        };
        let ending = match fault.how {
            How::Fail => fail,
            How::Hang => hang,
            How::Cut => cut,
        };
        let is_it = phase == key.phase && call == key.call && fits(machine, &key.machine) && fits(when, at);
        (is_it && ending != ".").then(|| Promise {
            line,
            exit: ending.trim_end_matches(['!', '^']).parse().unwrap(),
            criticals: ending.matches('!').count(),
            needs_ctrl_c: ending.ends_with('^'),
            sets: [laptop.to_owned(), desk.to_owned()],
            tree: tree.to_owned(),
        })
    })
}
