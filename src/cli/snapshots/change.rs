//! `snapshots pin`, `unpin`, `good` and `delete`.

use pc_switcher_agent::proto::{
    CreateSet, CreatedSet, DeleteRequest, GoodBy, GoodMark, PinOrder, SetRequest, StoredSet, VolumeRequest,
    Words,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{BytePath, ExecError, ModuleError, SetId, SnapshotMember, SnapshotSet};
use serde_json::json;

use super::{Found, SetArgs, Where, both, create, lock, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

pub(super) fn request(config: &BtrfsSnapshotsConfig, id: &SetId) -> SetRequest {
    SetRequest { snapshot_dir: BytePath::from(config.snapshot_dir.as_path()), id: id.clone() }
}

/// Prints what was done to which sets.
pub(super) fn say(
    context: &mut Context<'_>,
    found: &Found,
    done: &str,
    ids: &[SetId],
) -> Result<Exit, CliError> {
    if context.global.json {
        context.print_json(&json!({ "machine": found.hostname, done: ids }))?;
        return Ok(Exit::Completed);
    }
    for id in ids {
        writeln!(context.out, "{}: {id} is {done}", found.hostname)?;
    }
    Ok(Exit::Completed)
}

/// Keep a set whatever the rules say
///
/// With --hard no other tool removes it either, root's among them: there is one more snapshot of each of its members then, in a
/// directory that is immutable. They take no space as long as the members are there, and stand in for those that are not.
#[derive(Debug, Clone, clap::Args)]
pub struct PinArgs {
    /// Sessions (then all their sets), names, or sets as `snapshots list --json` names them; without any a set is taken now
    #[arg(value_name = "SET")]
    sets: Vec<String>,
    /// Against every tool; on btrfs
    #[arg(long)]
    hard: bool,
    #[command(flatten)]
    place: Where,
}

/// Let the rules decide again over a set that was pinned
#[derive(Debug, Clone, clap::Args)]
pub struct UnpinArgs {
    /// Also if its hard pin is all that is left of it
    #[arg(long)]
    allow_loss: bool,
    #[command(flatten)]
    sets: SetArgs,
}

/// Pins sets, one that is taken now if none is named.
///
/// # Errors
/// If there are none of that name, they cannot be pinned so, or the machine cannot be reached.
pub fn pin(args: &PinArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (config, copies) = both(context)?;
    let (order, done) = match args.hard {
        true => (PinOrder::Hard, "pinned hard"),
        false => (PinOrder::Soft, "pinned"),
    };
    let set = create::by_hand(&config, clock::system()());
    let (found, ids, notes) = with_agent(&args.place, context, async |agent, _| {
        let mut found = Found::read(agent, &config).await?;
        let ids = match args.sets.is_empty() {
            false => found.chosen(&args.sets).map(ids_of),
            true => {
                let words = Words { note: Some("taken to be pinned".into()), ..Words::default() };
                let wanted = CreateSet { set, words, pinned: !args.hard, copies };
                let CreatedSet { set: taken, notes } = agent.create_set(wanted).await?;
                if args.hard
                    && let Err(error) = agent.pin_set(request(&config, &taken.id()), order).await
                {
                    // It was taken for that alone.
                    return Err(take_away(agent, taken, error).await);
                }
                found = Found::read(agent, &config).await?;
                return Ok((found, Ok(vec![taken.id()]), notes));
            }
        };
        for id in ids.as_deref().unwrap_or_default() {
            agent.pin_set(request(&config, id), order).await?;
        }
        Ok((found, ids, Vec::new()))
    })?;
    let ids = ids?;
    for note in &notes {
        writeln!(context.err, "warning: {}: {note}", found.hostname)?;
    }
    if context.global.json {
        context.print_json(&json!({ "machine": found.hostname, "pinned": ids, "hard": args.hard }))?;
        return Ok(Exit::Completed);
    }
    say(context, &found, done, &ids)
}

/// Removes a set that was taken to be pinned and could not be; returns what is to be said.
async fn take_away(agent: &Agent, set: SnapshotSet, error: ExecError) -> ModuleError {
    let id = set.id();
    match agent.drop_set(set).await {
        Ok(()) => error.into(),
        Err(left) => ModuleError::from(error).hint(format!(
            "set `{id}` was taken for it and cannot be removed: {left}; `pc-switcher snapshots delete {id}` tries again"
        )),
    }
}

/// Frees sets that were pinned.
///
/// # Errors
/// If there are none of that name, a pin is all that is left of one, or the machine cannot be reached.
pub fn unpin(args: &UnpinArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let order = PinOrder::Off { allow_loss: args.allow_loss };
    let (found, ids) = with_agent(&args.sets.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let ids = found.chosen(&args.sets.sets).and_then(|chosen| match args.allow_loss {
            true => Ok(ids_of(chosen)),
            false => replaceable(&found, chosen),
        });
        for id in ids.as_deref().unwrap_or_default() {
            agent.pin_set(request(&config, id), order).await?;
        }
        Ok((found, ids))
    })?;
    say(context, &found, "unpinned", &ids?)
}

/// Returns the names of sets of which something is left without their pins; all others are named.
fn replaceable(found: &Found, chosen: Vec<&StoredSet>) -> Result<Vec<SetId>, CliError> {
    let is_all = |stored: &&&StoredSet| stored.hard.is_some() && !stored.missing.is_empty();
    let lost: Vec<String> = chosen
        .iter()
        .filter(is_all)
        .map(|stored| {
            let gone: Vec<String> = stored.missing.iter().map(|name| format!("`{name}`")).collect();
            let (id, gone) = (stored.set.id(), gone.join(", "));
            format!("the pin of set `{id}` on {} is all that is left of {gone}", found.hostname)
        })
        .collect();
    match lost.is_empty() {
        true => Ok(ids_of(chosen)),
        false => Err(CliError::Refused {
            message: lost.join("; "),
            help: Some(
                "`pc-switcher snapshots restore` brings back what you need; `--allow-loss` removes the pin all the same".into(),
            ),
        }),
    }
}

/// Mark the last state that is known to be good; no prune and no delete removes it
///
/// Without SESSION a set is taken now and marked. One set of a machine at most has a mark that was made so; `snapshots list`
/// shows which. Besides those count that a guarded command, a confirmed sync or a start has marked, the newest of each; `keep_good`
/// in [btrfs-snapshots] says how many. `rollback good` goes back to the newest of all. That one and the one that you mark are pinned
/// hard as long as they are marked: no other tool removes what is in them.
#[derive(Debug, Clone, clap::Args)]
pub struct GoodArgs {
    /// A session (then the set after its sync), a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SESSION")]
    set: Option<String>,
    /// Take the mark away from that set; without SESSION from all, whoever marked them
    #[arg(long)]
    none: bool,
    #[command(flatten)]
    place: Where,
}

/// Marks a set as good, one that is taken now if none is named, or takes the mark away.
///
/// # Errors
/// If there is no such set, none can be taken, or the machine cannot be reached.
pub fn good(args: &GoodArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (config, copies) = both(context)?;
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let set = create::by_hand(&config, clock::system()());
    let (hostname, id, notes) = with_agent(&args.place, context, async |agent, _| {
        let mut notes = Vec::new();
        let id = match &args.set {
            Some(word) => {
                let found = Found::read(agent, &config).await?;
                found.last(word).map(|stored| Some(stored.set.id()))
            }
            None if args.none => Ok(None),
            None => {
                let words = Words { note: Some("taken to be marked as good".into()), ..Words::default() };
                let request = CreateSet { set, words, pinned: false, copies };
                let created = agent.create_set(request).await?;
                notes = created.notes;
                Ok(Some(created.set.id()))
            }
        };
        if let Ok(id) = &id {
            let mark = match id.clone().filter(|_| !args.none) {
                Some(id) => GoodMark::Set { id, by: GoodBy::Hand, keep: 1 },
                None => GoodMark::None(id.clone()),
            };
            notes.extend(agent.mark_good(snapshot_dir, mark).await?);
        }
        Ok((agent.hostname().clone(), id, notes))
    })?;
    let id = id?;
    for note in &notes {
        writeln!(context.err, "warning: {hostname}: {note}")?;
    }
    if context.global.json {
        let (good, unmarked) = if args.none { (None, id) } else { (id, None) };
        context.print_json(
            &json!({ "machine": hostname, "good": good, "unmarked": unmarked, "notes": notes }),
        )?;
        return Ok(Exit::Completed);
    }
    match id {
        Some(id) if args.none => writeln!(context.out, "{hostname}: {id} is not marked as good any more")?,
        Some(id) => writeln!(context.out, "{hostname}: {id} is the last known good one")?,
        None => writeln!(context.out, "{hostname}: no set is marked as good")?,
    }
    Ok(Exit::Completed)
}

/// Which sets, and what else
#[derive(Debug, Clone, clap::Args)]
pub struct DeleteArgs {
    /// Also volumes of no set here: another directory or system that names one loses it; and sets of which snapshots lie on a disk that
    /// is not attached: these stay there, and nothing names them any more
    #[arg(long)]
    allow_loss: bool,
    #[command(flatten)]
    sets: SetArgs,
}

/// Removes sets, all or none if one of them is protected, and volumes of no set that are named.
///
/// # Errors
/// If one is protected, there are none of that name, a sync runs, somebody says no, or the machine cannot be reached.
pub fn delete(args: &DeleteArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (found, done) = with_agent(&args.sets.place, context, async |agent, contact| {
        lock(agent, contact).await?;
        let found = Found::read(agent, &config).await?;
        let (volumes, words) = of_no_set(&found, &args.sets.sets);
        let ids = told(&found, &words).and_then(|()| found.chosen(&words));
        let ids = ids.and_then(|chosen| unprotected(&found, chosen));
        let Ok(ids) = ids else { return Ok((found, ids.map(|ids| (ids, volumes, (Vec::new(), None))))) };
        // No harmless questions: `--yes` does not answer them.
        let away = given_up(&found, &ids);
        let questions = [question(&found, &volumes, &config), away];
        for question in questions.into_iter().flatten().filter(|_| !args.allow_loss) {
            let can_ask = contact.prompter.can_ask();
            if !(can_ask && contact.prompter.confirm(&question).await?) {
                let message = format!("nothing is removed on {}: {question}", found.hostname);
                let help = Some("add `--allow-loss` if that is what you want".into());
                return Ok((found, Err(CliError::Refused { message, help })));
            }
        }
        let (mut lost, mut failed) = (Vec::new(), None);
        for id in &ids {
            // A set stays whose disk leaves after that was asked, if all of it was there then.
            let allow_loss = args.allow_loss || given_up(&found, std::slice::from_ref(id)).is_some();
            match agent.delete_set(DeleteRequest { set: request(&config, id), allow_loss }).await {
                Ok(given_up) => lost.extend(given_up),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        for name in &volumes {
            if failed.is_none() {
                let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
                failed = agent.delete_volume(VolumeRequest { snapshot_dir, name: name.clone() }).await.err();
            }
        }
        Ok((found, Ok((ids, volumes, (lost, failed)))))
    })?;
    let (ids, volumes, (lost, failed)) = done?;
    if let Some(error) = failed {
        // Nobody else ever names these.
        warn_of(&lost, &found, context)?;
        return Err(ModuleError::from(error).into());
    }
    if context.global.json {
        let lost: Vec<_> = lost.iter().map(|member| (&member.path, disk_of(member))).collect();
        let lost: Vec<_> = lost.iter().map(|(path, disk)| json!({ "path": path, "disk": disk })).collect();
        context.print_json(
            &json!({ "machine": found.hostname, "removed": ids, "volumes": volumes, "given_up": lost }),
        )?;
        return Ok(Exit::Completed);
    }
    say(context, &found, "removed", &ids)?;
    for name in &volumes {
        writeln!(context.out, "{}: volume {name} is removed", found.hostname)?;
    }
    warn_of(&lost, &found, context)?;
    Ok(Exit::Completed)
}

/// Names snapshots that stay where they are and that nothing names any more.
fn warn_of(lost: &[SnapshotMember], found: &Found, context: &mut Context<'_>) -> Result<(), CliError> {
    for member in lost {
        let (host, path, disk) = (&found.hostname, &member.path, disk_of(member));
        writeln!(
            context.err,
            "warning: {host}: `{path}` stays on the file system {disk}, which is not attached, and nothing names it any more"
        )?;
    }
    Ok(())
}

/// Tells volumes that belong to no set apart from words that mean sets.
fn of_no_set(found: &Found, words: &[String]) -> (Vec<String>, Vec<String>) {
    let mut volumes: Vec<String> = Vec::new();
    let mut others = Vec::new();
    for word in words {
        match found.strays.volumes.contains(word) {
            true if volumes.contains(word) => {}
            true => volumes.push(word.clone()),
            false => others.push(word.clone()),
        }
    }
    (volumes, others)
}

/// Refuses words that look like volumes where nobody can tell which are of no set.
fn told(found: &Found, words: &[String]) -> Result<(), CliError> {
    let of = |why: &String| {
        let word = words.iter().find(|word| word.contains('/'))?;
        let message = format!(
            "`{word}` stays on {}: whether a set has that volume cannot be told: {why}",
            found.hostname
        );
        Some(CliError::Refused { message, help: None })
    };
    found.strays.untold_volumes.as_ref().and_then(of).map_or(Ok(()), Err)
}

/// Returns what somebody has to agree to before volumes of no set go, if any are to.
fn question(found: &Found, volumes: &[String], config: &BtrfsSnapshotsConfig) -> Option<String> {
    let names = volumes.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (dir, hostname) = (config.snapshot_dir.as_path().display(), &found.hostname);
    (!volumes.is_empty()).then(|| {
        format!(
            "remove {names} on {hostname}? Nothing in `{dir}` names what is removed so; if another directory or system does, it \
             loses it"
        )
    })
}

/// Returns what somebody has to agree to before sets go of which snapshots lie on a disk that is not attached, if any do.
fn given_up(found: &Found, ids: &[SetId]) -> Option<String> {
    let going = found.sets.iter().filter(|stored| ids.contains(&stored.set.id()));
    let away = going.flat_map(|stored| {
        let is_away = |name| stored.away.iter().any(|(away, _)| away == name);
        stored.set.members.iter().filter(move |member| member.apart.is_some() && is_away(&member.name))
    });
    let named: Vec<String> =
        away.map(|member| format!("`{}` on the file system {}", member.path, disk_of(member))).collect();
    (!named.is_empty()).then(|| {
        format!(
            "give up {} on {}? What lies there is not attached: it stays there, and nothing names it any more; mounted again it \
             would go with its set",
            named.join(", "),
            found.hostname
        )
    })
}

/// Returns the uuid of the file system that a member lies on, if that is another one than that of its set's directory.
fn disk_of(member: &SnapshotMember) -> &str {
    member.apart.as_ref().map_or("", |apart| &apart.fs_uuid)
}

pub(super) fn ids_of(chosen: Vec<&StoredSet>) -> Vec<SetId> {
    chosen.into_iter().map(|stored| stored.set.id()).collect()
}

/// Returns the names of sets that may go; all that are protected are named, with the reason.
fn unprotected(found: &Found, chosen: Vec<&StoredSet>) -> Result<Vec<SetId>, CliError> {
    let protected: Vec<String> = chosen
        .iter()
        .filter_map(|stored| Some((stored.set.id(), render::protection(stored)?)))
        .map(|(id, why)| format!("set `{id}` on {} stays: {why}", found.hostname))
        .collect();
    if protected.is_empty() {
        return Ok(ids_of(chosen));
    }
    let is_pinned = chosen.iter().any(|stored| stored.pinned);
    let help = is_pinned.then(|| "`pc-switcher snapshots unpin SET` frees a pinned one".to_owned());
    Err(CliError::Refused { message: protected.join("; "), help })
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::{HardPin, Strays};
    use pc_switcher_contract::Apart;

    use super::super::tests::stored;
    use super::*;

    #[test]
    fn a_volume_of_no_set_goes_by_the_name_that_the_list_has_for_it_and_is_asked_about() {
        let strays = Strays { volumes: vec!["vg0/home-manual".into()], ..Strays::default() };
        let found = Found { hostname: "desk".parse().unwrap(), sets: Vec::new(), strays };
        let words = ["vg0/home-manual", "abc12345", "vg0/home-manual", "vg0/home"].map(str::to_owned);
        let (volumes, others) = of_no_set(&found, &words);
        assert_eq!(
            (volumes.join(" "), others.join(" ")),
            ("vg0/home-manual".into(), "abc12345 vg0/home".into())
        );
        let config = BtrfsSnapshotsConfig::default();
        let asked = question(&found, &volumes, &config).unwrap();
        assert!(
            asked.starts_with("remove `vg0/home-manual` on desk?") && asked.contains("`/.snapshots`"),
            "{asked}"
        );
        assert_eq!(question(&found, &[], &config), None);
    }

    #[test]
    fn no_volume_is_named_where_nobody_can_tell_which_are_of_no_set() {
        let mut found =
            Found { hostname: "desk".parse().unwrap(), sets: Vec::new(), strays: Strays::default() };
        let words = ["abc12345".to_owned(), "vg0/home-manual".to_owned()];
        assert!(told(&found, &words).is_ok());
        found.strays.untold_volumes = Some("`/mnt/records` is not mounted".into());
        let refused = told(&found, &words).unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        let said = refused.to_string();
        assert!(said.contains("`vg0/home-manual` stays") && said.contains("is not mounted"), "{said}");
        assert!(told(&found, &words[..1]).is_ok(), "a set is told by its record");
    }

    #[test]
    fn what_lies_on_a_disk_that_is_not_attached_is_given_up_by_name_only() {
        let mut set = stored("20251115T120000Z-abc12345-manual", 7);
        let name = set.set.members[0].name.clone();
        let asked = |set: &StoredSet| {
            let hostname = "desk".parse().unwrap();
            let found = Found { hostname, sets: vec![set.clone()], strays: Strays::default() };
            assert_eq!(given_up(&found, &[]), None, "others are not asked about");
            given_up(&found, &[set.set.id()])
        };
        set.away = vec![(name.clone(), "its volume group is not attached".into())];
        assert_eq!(asked(&set), None, "a volume of LVM is never given up so");
        let member = &mut set.set.members[0];
        member.apart =
            Some(Apart { fs_uuid: "f00d".into(), place_uuid: "b".into(), dir: "/.snapshots".into(), at: 7 });
        let said = asked(&set).unwrap();
        assert!(said.contains(&format!("`/.snapshots/{name}` on the file system f00d")), "{said}");
        set.away.clear();
        assert_eq!(asked(&set), None, "it is there");
    }

    #[test]
    fn a_set_of_which_only_the_pin_is_left_is_not_let_go_unasked() {
        let mut set = stored("20251115T120000Z-abc12345-manual", 7);
        set.pinned = true;
        set.hard =
            Some(HardPin { dir: "/pins".into(), lacks: Vec::new(), is_open: false, is_for_mark: false });
        let found = |set: &StoredSet| Found {
            hostname: "desk".parse().unwrap(),
            sets: vec![set.clone()],
            strays: Strays::default(),
        };
        assert_eq!(replaceable(&found(&set), vec![&set]).unwrap(), [set.set.id()]);
        set.missing = vec![set.set.members[0].name.clone()];
        let refused = replaceable(&found(&set), vec![&set]).unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        assert!(refused.to_string().contains("all that is left of `@home-manual"), "{refused}");
        set.hard = None;
        assert!(replaceable(&found(&set), vec![&set]).is_ok(), "it is incomplete with a pin and without");
    }
}
