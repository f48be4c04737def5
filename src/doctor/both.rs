//! Judgements over a pair: the source first.

use pc_switcher_agent::proto::UserFact;
use serde_json::Value;

use super::seen::Seen;
use super::{Finding, Gravity};
use crate::orchestrator::topology::Stranger;

/// Clocks that differ by more make times of files and of syncs misleading.
const CLOCKS_APART_MS: i64 = 2_000;
/// Tables that must be alike for the way back to be the way there.
const SHARED_TABLES: [&str; 3] = ["sync_modules", "user-data", "btrfs-snapshots"];

pub(super) fn findings(source: &Seen, target: &Seen) -> Vec<Finding> {
    let mut found = ids(source, target);
    found.extend(clocks(source, target));
    found.extend(sessions(source, target));
    found.extend(configs(source, target));
    found.extend(way_back(source, target));
    found.extend(past(source, target));
    found
}

/// Users of synced homes must have the same numbers on both machines.
fn ids(source: &Seen, target: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for ours in source.facts.users.iter().filter(|user| is_synced(source, user)) {
        let Some(theirs) = target.facts.users.iter().find(|user| user.name == ours.name) else {
            found.extend(taken(ours, source, target));
            continue;
        };
        if (ours.uid, ours.gid) == (theirs.uid, theirs.gid) {
            continue;
        }
        let name = &ours.name;
        let text = format!(
            "{name} is {}:{} there and {}:{} on {}: files would belong to somebody else",
            theirs.uid,
            theirs.gid,
            ours.uid,
            ours.gid,
            source.hostname()
        );
        found.push(
            Finding::new(target.hostname(), Gravity::Fault, "users", text).fix(format!(
                "logged in as another user: sudo usermod -u {} {name}; sudo groupmod -g {} {name}; sudo chown -R {name}: {}",
                ours.uid, ours.gid, theirs.home
            )),
        );
    }
    found
}

/// A number that belongs to somebody else on the target.
fn taken(ours: &UserFact, source: &Seen, target: &Seen) -> Option<Finding> {
    let other = target.facts.users.iter().find(|user| user.uid == ours.uid)?;
    let (uid, name, here) = (ours.uid, &ours.name, source.hostname());
    let text =
        format!("{uid} is {} there and {name} on {here}: files would belong to somebody else", other.name);
    let fix = format!(
        "give {} another number: sudo usermod -u NUMBER {0}; sudo chown -R {0}: {1}",
        other.name, other.home
    );
    Some(Finding::new(target.hostname(), Gravity::Fault, "users", text).fix(fix))
}

fn is_synced(seen: &Seen, user: &UserFact) -> bool {
    seen.layout.parts.iter().any(|part| user.home.is_within(&part.root))
}

fn clocks(source: &Seen, target: &Seen) -> Option<Finding> {
    let apart = (target.clock_ms - source.clock_ms).abs() - target.clock_doubt_ms - source.clock_doubt_ms;
    let text =
        format!("its clock and the one of {} are {:.1} s apart", source.hostname(), apart as f64 / 1000.0);
    (apart > CLOCKS_APART_MS).then(|| {
        Finding::new(target.hostname(), Gravity::Warning, "clock", text)
            .fix("sudo timedatectl set-ntp true, on both machines")
    })
}

fn sessions(source: &Seen, target: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for session in &target.diagnosis.sessions {
        let user = target.facts.users.iter().find(|user| user.uid == session.uid);
        let Some(user) = user.filter(|user| is_synced(target, user)) else { continue };
        let text =
            format!("{} is logged in on a {} desktop: a sync to it is refused", user.name, session.kind);
        found.push(
            Finding::new(target.hostname(), Gravity::Warning, "sessions", text)
                .fix(format!("log out there before syncing from {}", source.hostname())),
        );
    }
    found
}

fn configs(source: &Seen, target: &Seen) -> Option<Finding> {
    let (ours, theirs) = (source.config.as_ref().ok()?, target.config.as_ref().ok()?);
    let table = |config: &Value, name: &str| config.get(name).cloned().unwrap_or(Value::Null);
    let differing: Vec<String> = SHARED_TABLES
        .into_iter()
        .filter(|name| table(ours, name) != table(theirs, name))
        .map(|name| format!("[{name}]"))
        .collect();
    if differing.is_empty() {
        return None;
    }
    let text = format!(
        "its config differs in {}: a sync from there does something else than one from {}",
        differing.join(", "),
        source.hostname()
    );
    Some(Finding::new(target.hostname(), Gravity::Warning, "config", text).fix(format!(
        "on {}: scp ~/.config/pc-switcher/config.toml {}:.config/pc-switcher/",
        source.hostname(),
        target.hostname()
    )))
}

fn way_back(source: &Seen, target: &Seen) -> Option<Finding> {
    let why = target.way_back.as_ref()?.as_ref().err()?;
    let text = format!(
        "`ssh {}` does not work from there, so no sync back can be started there: {why}",
        source.hostname()
    );
    Some(Finding::new(target.hostname(), Gravity::Warning, "way-back", text).fix(format!(
        "on {}: ssh-copy-id {}",
        target.hostname(),
        source.hostname()
    )))
}

/// Without a past a sync takes nothing for granted, and asks.
fn past(source: &Seen, target: &Seen) -> Option<Finding> {
    let why = target.stranger.as_ref()?;
    let (here, there) = (source.hostname(), target.hostname());
    let gravity = if *why == Stranger::NoRecord { Gravity::Note } else { Gravity::Warning };
    let text = format!("{}: the next sync compares everything and asks first", why.explain(here, there));
    let fix = format!("look at what it would do: pc-switcher sync {there} --dry-run");
    Some(Finding::new(there, gravity, "past", text).fix(fix))
}
