//! Sets for people and for programs: pure.

use std::collections::HashMap;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use pc_switcher_agent::proto::{Backend, Gain, GoodBy, Holder, Maker, Need, StoredSet};
use pc_switcher_btrfs_snapshots::retention::Verdict;
use pc_switcher_contract::{SessionId, SetId, SnapshotKind, SnapshotName, UtcStamp, human_bytes};
use serde_json::{Value, json};

use super::Found;

const WIDTH: u16 = 80;

/// Room for the names of what a set is of, in a table.
const OF: usize = 16;

/// Returns a kind as people write it, for example `pre-sync`.
pub(super) fn word(kind: SnapshotKind) -> String {
    json!(kind).as_str().unwrap_or_default().to_owned()
}

/// Returns why a set cannot be removed, if so.
pub(in crate::cli) fn protection(stored: &StoredSet) -> Option<String> {
    let pinned = if stored.is_pinned_hard() { "it is pinned hard" } else { "it is pinned" };
    let plain = [(stored.pinned, pinned), (stored.in_use, "it is in use")];
    let why: Vec<String> = plain
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| word.to_owned())
        .chain(goodness(stored))
        .chain(stored.needs.iter().map(ToString::to_string))
        .collect();
    (!why.is_empty()).then(|| why.join(", "))
}

/// Returns what makes a set a good one, if so.
pub(in crate::cli) fn goodness(stored: &StoredSet) -> Option<String> {
    let by = stored.words.good_by;
    stored.words.good.then(|| match by {
        GoodBy::Hand => "it is the last known good one".to_owned(),
        _ => format!("it is known to be good, marked {by}"),
    })
}

/// Returns the tool that took a set, if we did not.
fn maker(stored: &StoredSet) -> Option<Maker> {
    stored.needs.iter().find_map(|need| match need {
        Need::Foreign(maker) => Some(*maker),
        _ => None,
    })
}

/// Returns why a member is not to be had right now.
fn away<'a>(stored: &'a StoredSet, name: &SnapshotName) -> Option<&'a str> {
    stored.away.iter().find(|(member, _)| member == name).map(|(_, why)| why.as_str())
}

fn state(stored: &StoredSet) -> String {
    let foreign = maker(stored).map(|maker| format!("foreign: {maker}"));
    let is_copies = stored.set.members.iter().any(|member| member.name.subvolume.directory().is_some());
    let is_needed = stored.needs.iter().any(|need| !matches!(need, Need::Foreign(_)));
    let words = [
        (stored.words.good, "good"),
        (
            stored.pinned || stored.hard.is_some(),
            if stored.hard.is_some() { "pinned hard" } else { "pinned" },
        ),
        (stored.hard.as_ref().is_some_and(|pin| pin.is_open), "its pin is open"),
        (stored.in_use, "in use"),
        (is_needed, "needed"),
        (stored.lost().next().is_some(), "incomplete"),
        (!stored.away.is_empty(), "not attached"),
        (is_copies, if stored.backend == Backend::Lvm { "volumes" } else { "copies" }),
        (!stored.set.consistent && !is_copies, "not one instant"),
    ];
    let until = stored.words.until.map(|until| format!("until {}", &minute(until)[..10]));
    let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned());
    foreign.into_iter().chain(words).chain(until).collect::<Vec<_>>().join(", ")
}

pub(super) fn subvolumes(stored: &StoredSet) -> Vec<String> {
    stored.set.members.iter().map(|member| member.name.subvolume.shown()).collect()
}

/// Returns names for a column: as many as have room, and how many there are besides.
fn short(names: &[String]) -> String {
    let whole = names.join(" ");
    let fits = |count: &usize| names[..*count].join(" ").len() <= OF;
    match (1..names.len()).rev().find(fits) {
        Some(count) if whole.len() > OF + 4 => {
            format!("{} +{}", names[..count].join(" "), names.len() - count)
        }
        _ => whole,
    }
}

fn when(stored: &StoredSet) -> String {
    minute(stored.set.stamp)
}

/// Returns a stamp for people, in UTC.
pub(super) fn minute(stamp: UtcStamp) -> String {
    stamp.timestamp().strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns what people called a set, and what they said of it.
fn spoken(stored: &StoredSet) -> String {
    let words = [&stored.words.name, &stored.words.note];
    let said = words.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(": ");
    let tags = stored.words.tags.iter().map(|tag| format!("#{tag}"));
    Some(said).filter(|said| !said.is_empty()).into_iter().chain(tags).collect::<Vec<_>>().join(" ")
}

pub(super) fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(header);
    table
}

pub(super) fn lines(table: &Table) -> Vec<String> {
    table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
}

/// What else is said of each set, if it was asked for.
#[derive(Debug, Default)]
pub(super) struct More<'a> {
    judged: Option<HashMap<&'a SetId, &'a Verdict>>,
    /// Bytes on the disk of the snapshot directory, and on others.
    gains: Option<HashMap<&'a SessionId, (u64, u64)>>,
}

impl<'a> More<'a> {
    /// Of why they stay or go, and of what removing a session would free.
    pub(super) fn new(judged: Option<&'a [Verdict]>, gains: Option<&'a [Gain]>) -> Self {
        Self {
            judged: judged.map(|all| all.iter().map(|verdict| (&verdict.id, verdict)).collect()),
            gains: gains.map(|all| {
                all.iter().map(|gain| (&gain.session, (gain.data_bytes, gain.elsewhere_bytes))).collect()
            }),
        }
    }

    fn verdict(&self, stored: &StoredSet) -> Option<&Verdict> {
        self.judged.as_ref()?.get(&stored.set.id()).copied()
    }

    /// Of volumes nobody says it.
    fn gain(&self, stored: &StoredSet) -> Option<(u64, u64)> {
        let gains = self.gains.as_ref().filter(|_| stored.backend != Backend::Lvm)?;
        Some(gains.get(&stored.set.session).copied().unwrap_or_default())
    }
}

/// Returns the list as lines of 80 columns.
pub(super) fn table(found: &Found, more: &More<'_>) -> Vec<String> {
    let mut said = Vec::new();
    if found.sets.is_empty() {
        said.push(format!("{}: no sets of snapshots", found.hostname));
    } else {
        let has_words = found.sets.iter().any(|stored| !spoken(stored).is_empty());
        let is_plain = more.judged.is_none();
        let has_words = has_words && is_plain;
        let mut header = vec!["SESSION", "TAKEN (UTC)", "KIND"];
        // A reason needs the room.
        header.extend(is_plain.then_some("OF"));
        header.push("STATE");
        header.extend(more.gains.as_ref().map(|_| "FREES"));
        header.extend(more.judged.as_ref().map(|_| "WHY"));
        header.extend(has_words.then_some("NAME: NOTE"));
        let mut table = plain_table(&header);
        // Only what people wrote and reasons are wrapped.
        for column in table.column_iter_mut().take(if is_plain { 4 } else { 3 }) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        for stored in &found.sets {
            let mut row = vec![stored.set.session.to_string(), when(stored), word(stored.set.kind)];
            row.extend(is_plain.then(|| short(&subvolumes(stored))));
            row.push(state(stored));
            row.extend(more.gains.as_ref().map(|_| {
                more.gain(stored).map_or("?".into(), |(here, elsewhere)| human_bytes(here + elsewhere))
            }));
            row.extend(more.judged.as_ref().map(|_| more.verdict(stored).map(why).unwrap_or_default()));
            row.extend(has_words.then(|| spoken(stored)));
            table.add_row(row);
        }
        said.extend(lines(&table));
    }
    let strays = &found.strays;
    said.extend(strays.damaged.iter().map(|(id, why)| format!("damaged: {id}: {why}")));
    said.extend(strays.orphans.iter().map(|path| format!("orphan: {path}")));
    said.extend(strays.pins.iter().map(|path| format!("pin of no set: {path}")));
    said.extend(strays.volumes.iter().map(|name| format!("volume of no set here: {name}")));
    said.extend(
        strays.untold_volumes.iter().map(|why| format!("volumes of no set here: cannot be told: {why}")),
    );
    said.extend(strays.foreign.iter().map(|path| format!("foreign: {path}")));
    said
}

/// Returns all that is known of a set, line by line.
pub(super) fn details(stored: &StoredSet) -> Vec<String> {
    let set = &stored.set;
    let mut said = vec![
        format!("Set       {}", set.id()),
        format!("Machine   {}", set.hostname),
        format!("Taken     {} UTC, {}", when(stored), word(set.kind)),
        format!(
            "Instant   {}",
            match set.consistent {
                true if set.is_spread() => "one for all members on a disk, and none for two disks",
                true => "one for all members",
                false => match stored.backend {
                    Backend::Hardlink | Backend::Archive => "none, files were copied one after the other",
                    Backend::Lvm => "none, the volumes were taken one after the other",
                    Backend::Btrfs | Backend::Auto => "not proven",
                },
            }
        ),
    ];
    said.extend(stored.words.name.iter().map(|name| format!("Name      {name}")));
    said.extend(stored.words.note.iter().map(|note| format!("Note      {note}")));
    if !stored.words.tags.is_empty() {
        let tags: Vec<&str> = stored.words.tags.iter().map(String::as_str).collect();
        said.push(format!("Tags      {}", tags.join(" ")));
    }
    said.extend(stored.words.until.map(|until| format!("Stays     until {} UTC", minute(until))));
    if stored.words.good {
        said.push(format!("Good      yes, marked {}", stored.words.good_by));
    }
    said.extend(system_lines(stored));
    said.extend(pin_lines(stored));
    if stored.in_use && stored.holders.is_empty() {
        said.push("In use    yes".into());
    }
    said.extend(stored.holders.iter().map(|holder| format!("In use    by {holder}")));
    said.extend(stored.needs.iter().map(|need| format!("Needed    {need}")));
    for member in &set.members {
        let gone = match stored.missing.contains(&member.name) {
            true if stored.lost().any(|name| *name == member.name) => " (gone)",
            true => " (gone, its pin has it)",
            false => "",
        };
        let gone = match away(stored, &member.name) {
            Some(why) => format!(" ({why})"),
            None => gone.to_owned(),
        };
        said.push(match member.name.subvolume.directory() {
            Some(place) if stored.backend == Backend::Lvm => {
                format!("Volume    {}{gone}, of {place}", member.path)
            }
            Some(place) => format!("Copy      {}{gone}, of {place}", member.path),
            None => match &member.apart {
                Some(apart) => format!("Snapshot  {}{gone}, on the disk {}", member.path, apart.fs_uuid),
                None => format!("Snapshot  {}{gone}", member.path),
            },
        });
    }
    said
}

/// Returns the members by the instants that are proven, that of the snapshot directory's file system first; nothing of copies.
fn instants(stored: &StoredSet) -> Vec<Vec<String>> {
    let is_proven = matches!(stored.backend, Backend::Btrfs | Backend::Auto);
    let groups = stored.set.by_file_system();
    let mut all = Vec::new();
    for group in groups.into_iter().filter(|_| is_proven) {
        let mut instants: std::collections::BTreeMap<u64, Vec<String>> = std::collections::BTreeMap::new();
        for member in group {
            instants.entry(member.order()).or_default().push(member.name.subvolume.shown());
        }
        all.extend(instants.into_values());
    }
    all
}

/// Returns how a set is kept, as the config says it.
fn backend(stored: &StoredSet) -> &'static str {
    match stored.backend {
        Backend::Auto | Backend::Btrfs => "btrfs",
        Backend::Hardlink => "hardlink",
        Backend::Archive => "archive",
        Backend::Lvm => "lvm",
    }
}

/// Returns which system a set is of, as far as that was recorded.
fn system_lines(stored: &StoredSet) -> Vec<String> {
    let Some(system) = &stored.system else { return Vec::new() };
    let packages = system.packages.as_ref().map(|packages| {
        let count = packages.count.map_or("of".to_owned(), |count| format!("{count} of"));
        format!("Packages  {count} {}, state {}", packages.manager, &packages.digest)
    });
    let next = system.boot_kernel.as_ref().filter(|next| **next != system.kernel);
    let next = next.map(|next| format!("          {next} at the next start"));
    let fstab = system.fstab.as_ref().map(|digest| format!("fstab     state {digest}"));
    let kernel = format!("Kernel    {}", system.kernel);
    std::iter::once(kernel).chain(next).chain(packages).chain(fstab).collect()
}

/// Returns what is to be known of how a set is pinned.
fn pin_lines(stored: &StoredSet) -> Vec<String> {
    let Some(pin) = &stored.hard else {
        return stored.pinned.then(|| "Pinned    yes".to_owned()).into_iter().collect();
    };
    let with = if pin.is_for_mark { " as long as it is marked as good" } else { "" };
    let mut said = vec![format!("Pinned    hard{with}, in {}", pin.dir)];
    if pin.is_open {
        said.push("          which is not immutable any more: pin it again".into());
    }
    let is_elsewhere = |name: &SnapshotName| {
        stored.set.members.iter().any(|member| member.name == *name && member.apart.is_some())
    };
    said.extend(pin.lacks.iter().map(|name| match is_elsewhere(name) {
        true => format!("          which has no {name}: that lies on another disk"),
        false => format!("          which has no {name} any more"),
    }));
    said
}

/// Returns a set for programs.
pub(super) fn set_json(stored: &StoredSet) -> Value {
    let set = &stored.set;
    let member = |member: &pc_switcher_contract::SnapshotMember| {
        json!({
            "subvolume": member.name.subvolume,
            "directory": member.name.subvolume.directory().map(|path| path.to_string()),
            "path": member.path.to_string(),
            "uuid": member.uuid,
            "other_file_system": member.apart.as_ref().map(|apart| &apart.fs_uuid),
            "missing": stored.missing.contains(&member.name),
            "away": away(stored, &member.name),
        })
    };
    json!({
        "set": set.id(),
        "session": set.session,
        "kind": set.kind,
        "taken": set.stamp.timestamp().to_string(),
        "consistent": set.consistent && !set.is_spread(),
        "instants": instants(stored),
        "backend": backend(stored),
        "name": stored.words.name,
        "note": stored.words.note,
        "tags": stored.words.tags,
        "until": stored.words.until.map(|until| until.timestamp().to_string()),
        "good": stored.words.good,
        "pinned": stored.pinned,
        "pinned_hard": stored.hard.as_ref().map(|pin| {
            json!({
                "directory": pin.dir.to_string(),
                "immutable": !pin.is_open,
                "missing": pin.lacks,
                "with_mark": pin.is_for_mark,
            })
        }),
        "kernel": stored.system.as_ref().map(|system| &system.kernel),
        "boot_kernel": stored.system.as_ref().and_then(|system| system.boot_kernel.as_ref()),
        "fstab": stored.system.as_ref().and_then(|system| system.fstab.as_ref()),
        "packages": stored.system.as_ref().and_then(|system| system.packages.as_ref()),
        "in_use": stored.in_use,
        "foreign": maker(stored).map(Maker::as_str),
        "state": if stored.in_use { "archiving" } else { "ready" },
        "holders": holders_json(stored),
        "needed": stored.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "members": set.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// Returns everything that keeps a set from being removed, for programs.
fn holders_json(stored: &StoredSet) -> Vec<Value> {
    let of_need = |need: &Need| {
        let mut value = match need {
            Need::Pair(other) => json!({ "kind": "pair", "with": other }),
            Need::Attempt(other) => json!({ "kind": "attempt", "with": other }),
            Need::Commit => json!({ "kind": "commit" }),
            Need::Foreign(maker) => json!({ "kind": "foreign", "tool": maker.as_str() }),
        };
        value["why"] = json!(need.to_string());
        value
    };
    let of_process = |holder: &Holder| {
        let why = format!("{holder} works with it");
        json!({ "kind": "process", "pid": holder.pid, "program": holder.program, "why": why })
    };
    let is_hard = stored.is_pinned_hard();
    let why = if is_hard { "it is pinned hard" } else { "it is pinned" };
    let pin = stored.pinned.then(|| json!({ "kind": "pin", "hard": is_hard, "why": why }));
    let good = goodness(stored).map(|why| json!({ "kind": "good", "by": stored.words.good_by, "why": why }));
    let unseen = (stored.in_use && stored.holders.is_empty()).then(
        || json!({ "kind": "process", "why": "a process that cannot be seen from here works with it" }),
    );
    let plain = pin.into_iter().chain(good).chain(stored.needs.iter().map(of_need));
    plain.chain(stored.holders.iter().map(of_process)).chain(unseen).collect()
}

fn why(verdict: &Verdict) -> String {
    format!("{}: {}", if verdict.stays { "stays" } else { "goes" }, verdict.reason)
}

/// Returns the list for programs.
pub(super) fn json(found: &Found, more: &More<'_>) -> Value {
    let strays = &found.strays;
    let paths =
        |paths: &[pc_switcher_contract::BytePath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let set = |stored: &StoredSet| {
        let mut value = set_json(stored);
        if let Some(verdict) = more.verdict(stored) {
            value["stays"] = json!(verdict.stays);
            value["reason"] = json!(verdict.reason.to_string());
        }
        if let Some((here, elsewhere)) = more.gain(stored) {
            value["frees_bytes"] = json!(here);
            value["frees_elsewhere_bytes"] = json!(elsewhere);
        }
        value
    };
    json!({
        "machine": found.hostname,
        "sets": found.sets.iter().map(set).collect::<Vec<_>>(),
        "damaged": strays.damaged.iter().map(|(id, why)| json!({ "set": id, "why": why })).collect::<Vec<_>>(),
        "orphans": paths(&strays.orphans),
        "pins": paths(&strays.pins),
        "volumes": strays.volumes,
        "untold_volumes": strays.untold_volumes,
        "foreign": paths(&strays.foreign),
        "doubt": strays.doubt,
    })
}

/// Returns why each set stays or goes, as lines of 80 columns.
pub(super) fn verdicts(verdicts: &[Verdict]) -> Vec<String> {
    let mut table = plain_table(&["SET", "", "WHY"]);
    for verdict in verdicts {
        let word = if verdict.stays { "stays" } else { "goes" };
        table.add_row([verdict.id.to_string(), word.to_owned(), verdict.reason.to_string()]);
    }
    lines(&table)
}

#[cfg(test)]
mod tests;
