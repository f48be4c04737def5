//! `snapshots create` and `annotate`.

use pc_switcher_agent::proto::{AnnotateSet, CreateSet, CreatedSet, GoodBy, GoodMark, TakeSet, Words};
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_btrfs_snapshots::keep::Age;
use pc_switcher_contract::{BytePath, SessionId, SetId, SnapshotKind, UtcStamp};
use serde_json::json;

use super::{Found, Where, both, change, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// Longest name, in bytes: it stands in a column of a table.
const NAME_MAX: usize = 32;
/// Longest note, in bytes.
const NOTE_MAX: usize = 500;

/// Take a set of snapshots now, of one instant
///
/// It is of the subvolumes that `subvolumes` in [btrfs-snapshots] names. Where the snapshot directory lies on no btrfs it is one
/// of copies: of the directories of [snapshots.components] and root's home, but for `exclude`; what did not change since the
/// copy before takes no space again. With `backend = "lvm"` it is one of the thin volumes that hold those of [snapshots.components].
/// No rule of `keep` removes it: it stays until `snapshots delete`, or with --ttl until a prune after that time.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// What to call it, so that no session needs to be copied; two may have one name
    #[arg(value_parser = name)]
    name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    /// A word to find it by; may be given more than once
    #[arg(long = "tag", value_name = "WORD", value_parser = tag)]
    tags: Vec<String>,
    /// Of which kind it is: `manual`, or one of those that are taken by themselves, which the rules of `keep` remove
    #[arg(long, value_name = "KIND", value_parser = own_kind, default_value = "manual", conflicts_with = "pin")]
    kind: SnapshotKind,
    /// Keep it until it is unpinned
    #[arg(long)]
    pin: bool,
    /// Mark it as the last state that is known to be good, as `snapshots good` does
    #[arg(long, conflicts_with = "ttl")]
    good: bool,
    /// How long it stays, for example `30d`: a number with one of min h d w mo y
    #[arg(long, value_name = "AGE", conflicts_with = "pin")]
    ttl: Option<Age>,
    #[command(flatten)]
    place: Where,
}

/// Write what a set is for, or by which words it is found
///
/// An empty text takes the note away; without TEXT it stays.
#[derive(Debug, Clone, clap::Args)]
pub struct AnnotateArgs {
    /// A session, a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SESSION")]
    set: String,
    /// What it is for
    #[arg(value_name = "TEXT", value_parser = note, required_unless_present_any = ["tags", "untags"])]
    text: Option<String>,
    /// A word to find it by from now on; may be given more than once
    #[arg(long = "tag", value_name = "WORD", value_parser = tag)]
    tags: Vec<String>,
    /// A word to find it by no more
    #[arg(long = "untag", value_name = "WORD", value_parser = tag)]
    untags: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// Reads a name that cannot be taken for anything else on the command line.
fn name(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(why.to_owned());
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(format!("1 to {NAME_MAX} bytes are wanted"));
    }
    if text.chars().any(|c| c.is_control() || c == '/' || c.is_whitespace() && c != ' ')
        || text.contains("..")
    {
        return refuse("a name has no `/`, no `..` and no space but the usual one in it");
    }
    if text.trim() != text || text.contains("  ") {
        return refuse("a name neither begins nor ends with a space, and has no two in a row");
    }
    if text.parse::<SessionId>().is_ok() || text.parse::<SetId>().is_ok() {
        return refuse("a session could be called so");
    }
    match text {
        "now" | "good" => refuse("this word has a meaning of its own"),
        _ => Ok(text.to_owned()),
    }
}

fn tag(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.:+".contains(c);
    match !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("a tag is one word of at most {NAME_MAX} bytes: letters, digits and - _ . : +")),
    }
}

/// Reads a kind that people may give a set: those of syncs, runs and rollbacks mean something to the machine.
fn own_kind(text: &str) -> Result<SnapshotKind, String> {
    use SnapshotKind::{AutoBoot, AutoUpdate, Manual, Scheduled};
    let allowed = [Manual, Scheduled, AutoUpdate, AutoBoot];
    super::kind(text)
        .ok()
        .filter(|kind| allowed.contains(kind))
        .ok_or_else(|| format!("one of {} is wanted", allowed.map(render::word).join(", ")))
}

fn note(text: &str) -> Result<String, String> {
    match text.len() > NOTE_MAX || text.chars().any(char::is_control) {
        true => Err(format!("a note is one line of at most {NOTE_MAX} bytes")),
        false => Ok(text.trim().to_owned()),
    }
}

/// Returns when a set that is taken now need not stay any more.
fn end(now: jiff::Timestamp, ttl: Age) -> Result<UtcStamp, CliError> {
    let end = now.checked_add(ttl.length()).map_err(|_| CliError::Usage {
        message: "`--ttl` is longer than the calendar".into(),
        help: Some("without it the set stays until it is deleted".into()),
    })?;
    Ok(UtcStamp::new(end))
}

/// Returns a set of all subvolumes of the config, of a session of its own.
pub(super) fn by_hand(config: &BtrfsSnapshotsConfig, now: jiff::Timestamp) -> TakeSet {
    TakeSet {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        stamp: UtcStamp::new(now),
        kind: SnapshotKind::Manual,
        snapshot_dir: BytePath::from(config.snapshot_dir.as_path()),
        subvolumes: config.subvolumes.clone(),
    }
}

/// Takes a set, and prints what it is called.
///
/// # Errors
/// If a subvolume cannot be snapshotted, or the machine cannot be reached.
pub fn create(args: &CreateArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (config, copies) = both(context)?;
    let now = clock::system()();
    let words = Words {
        name: args.name.clone(),
        note: args.note.clone().filter(|note| !note.is_empty()),
        tags: args.tags.iter().cloned().collect(),
        until: args.ttl.map(|ttl| end(now, ttl)).transpose()?,
        ..Words::default()
    };
    let set = TakeSet { kind: args.kind, ..by_hand(&config, now) };
    let snapshot_dir = set.snapshot_dir.clone();
    let (found, id, notes) = with_agent(&args.place, context, async |agent, _| {
        let request = CreateSet { set, words, pinned: args.pin, copies };
        let CreatedSet { set, mut notes } = agent.create_set(request).await?;
        let id = set.id();
        if args.good {
            let mark = GoodMark::Set { id: id.clone(), by: GoodBy::Hand, keep: 1 };
            notes.extend(agent.mark_good(snapshot_dir, mark).await?);
        }
        Ok((Found::read(agent, &config).await?, id, notes))
    })?;
    for note in &notes {
        writeln!(context.err, "warning: {}: {note}", found.hostname)?;
    }
    let Some(stored) = found.sets.iter().find(|stored| stored.set.id() == id) else {
        return Err(CliError::Failed(format!("set `{id}` on {} is gone again", found.hostname)));
    };
    if context.global.json {
        let mut value = render::set_json(stored);
        value["machine"] = json!(found.hostname);
        value["notes"] = json!(notes);
        context.print_json(&value)?;
        return Ok(Exit::Completed);
    }
    let members = render::subvolumes(stored).join(" ");
    let called = args.name.as_ref().map(|name| format!(" (`{name}`)")).unwrap_or_default();
    let session = &stored.set.session;
    writeln!(context.out, "{}: session {session}{called} is taken of {members}", found.hostname)?;
    let is_copies = stored.set.members.iter().any(|member| member.name.subvolume.directory().is_some());
    if !stored.set.consistent && !is_copies {
        writeln!(
            context.err,
            "warning: {}: its members are not proven to be of one instant",
            found.hostname
        )?;
    }
    Ok(Exit::Completed)
}

/// Writes a note.
///
/// # Errors
/// If there is no such set, or the machine cannot be reached.
pub fn annotate(args: &AnnotateArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let note = args.text.clone().map(|text| Some(text).filter(|text| !text.is_empty()));
    let done = if note == Some(None) { "without a note" } else { "annotated" };
    let (found, ids) = with_agent(&args.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let ids = found.chosen(std::slice::from_ref(&args.set)).map(change::ids_of);
        for id in ids.as_deref().unwrap_or_default() {
            let request = AnnotateSet {
                set: change::request(&config, id),
                note: note.clone(),
                tags: args.tags.iter().cloned().collect(),
                untags: args.untags.iter().cloned().collect(),
            };
            agent.annotate_set(request).await?;
        }
        Ok((found, ids))
    })?;
    change::say(context, &found, done, &ids?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_be_taken_for_a_session_a_path_or_a_range() {
        for good in ["before-upgrade", "Before Major Update", "é", "26.04", "-1", "deadbee"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in
            ["", " a", "a ", "a  b", "a\tb", "a/b", "a..b", "deadbeef", "now", "good", "a\n", &"x".repeat(33)]
        {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert!(name("20251115T120000Z-abc12345-manual").is_err());
    }

    #[test]
    fn a_bare_m_is_no_time_to_live() {
        assert!("30m".parse::<Age>().unwrap_err().to_string().contains("min"));
        let end = end("2026-01-01T00:00:00Z".parse().unwrap(), "2mo".parse().unwrap()).unwrap();
        assert_eq!(end.to_string(), "20260302T000000Z");
    }
}
