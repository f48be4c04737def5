//! `snapshots restore`: brings back what a set holds.

use pc_switcher_agent::proto::{
    CopyOrder, CreateSet, RestorePlace, RestoreReply, RestoreRequest, Restored, TakeSet, Words,
};
use pc_switcher_contract::{BytePath, Hostname, SessionId, SetId, UtcStamp};
use serde_json::json;

use super::create::by_hand;
use super::{Found, Where, automatic, caller, component, lock, of, render, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;
use crate::paths;
use crate::session::text::{bytes, count};

/// How long the set stays that is taken before something is replaced.
const SAFETY: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);

/// Bring files and directories back from a set
///
/// Beside what is there now, as `NAME.restored-TIME`, unless told otherwise. Owner, modes, times, attributes, ACLs, hard
/// links and holes come back too, and content takes no space twice where the file system can share it. A path is either
/// restored as a whole or not at all. It is done with your own access rights: with `sudo`, with those of root. In place what
/// belongs to the machine itself stays as it is: its name and id, ssh host keys, who may log in.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreArgs {
    /// From which set: a session (then the set before its sync), a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SESSION")]
    set: String,
    /// What: paths as they are now on the machine, for example `/home/alice/notes`
    #[arg(required_unless_present = "components", value_name = "PATH")]
    paths: Vec<std::ffi::OsString>,
    /// All paths of a component in [snapshots.components] that the set has: `apps`, `config`, `home`; `self` is
    /// pc-switcher's own configuration
    #[arg(long = "component", value_name = "NAME")]
    components: Vec<String>,
    /// Into this directory, under the same name
    #[arg(long, value_name = "DIR", conflicts_with = "in_place")]
    to: Option<std::ffi::OsString>,
    /// In the place of what is there now, after a set was taken to come back to
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    place: Where,
}

/// Where our configuration lies below a home.
const OWN_CONFIG: &[u8] = b".config/pc-switcher";

/// What is to be restored.
struct Wanted {
    /// What was named: all of it, or nothing is done.
    named: Vec<BytePath>,
    /// What components mean: as far as the set has it.
    parts: Vec<BytePath>,
    /// What of that the set lacks.
    lacking: Vec<BytePath>,
}

impl Wanted {
    fn paths(&self) -> Vec<BytePath> {
        let parts = self.parts.iter().filter(|part| !self.named.contains(part));
        self.named.iter().chain(parts).cloned().collect()
    }

    /// Leaves a path out that the set lacks, if it may be and something is left.
    fn can_do_without(&mut self, path: &BytePath) -> bool {
        if self.named.contains(path) || self.paths().len() < 2 {
            return false;
        }
        let before = self.parts.len();
        self.parts.retain(|part| part != path);
        self.lacking.push(path.clone());
        self.parts.len() < before
    }
}

/// Restores, and prints where everything is.
///
/// # Errors
/// If there is no such set, it lacks a path, or the machine cannot be reached.
pub fn run(args: &RestoreArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let whole = context.load_config(&[], &[])?;
    let (config, own_settings) = (of(&whole)?, automatic(&whole)?);
    let (copies, components) = (own_settings.copies(), own_settings.components);
    let now = clock::system()();
    let named = args.paths.iter().map(|path| absolute(path, context)).collect::<Result<Vec<_>, _>>()?;
    let to = args.to.as_ref().map(|to| absolute(to, context)).transpose()?;
    let own_uid = context.env.uid;
    let own_dir = paths::config_file(&context.env).ok().and_then(|file| Some(BytePath::from(file.parent()?)));
    let (hostname, outcome) = with_agent(&args.place, context, async |agent, contact| {
        let found = Found::read(agent, &config).await?;
        let id = match found.first(&args.set) {
            Ok(stored) => stored.set.id(),
            Err(error) => return Ok((found.hostname, Err(error))),
        };
        let uid = caller(agent, contact, own_uid).await?;
        let users = agent.facts().await?.users;
        let own = match contact.reach.target_user() {
            None => own_dir,
            Some(name) => users.iter().find(|user| user.name == name).map(|user| user.home.join(OWN_CONFIG)),
        };
        let own = own.unwrap_or_else(|| BytePath::from("/etc/pc-switcher"));
        let parts = match component::paths(&args.components, &components, &own, &users) {
            Ok(parts) => parts,
            Err(error) => return Ok((found.hostname, Err(error))),
        };
        let mut wanted = Wanted { named, parts, lacking: Vec::new() };
        let place = match (&to, args.in_place) {
            (Some(dir), _) => RestorePlace::Into(dir.clone()),
            (None, true) => {
                lock(agent, contact).await?;
                let set = by_hand(&config, now);
                RestorePlace::InPlace(Box::new(safety(set, now, &id, &wanted.paths(), copies)))
            }
            (None, false) => RestorePlace::Beside,
        };
        let request = RestoreRequest {
            snapshot_dir: BytePath::from(config.snapshot_dir.as_path()),
            id: id.clone(),
            paths: wanted.paths(),
            place,
            stamp: UtcStamp::new(now),
            tag: SessionId::from_uuid(uuid::Uuid::new_v4()),
            uid,
        };
        let reply = loop {
            let reply = agent.restore(RestoreRequest { paths: wanted.paths(), ..request.clone() }).await?;
            match &reply {
                RestoreReply::Missing { path, .. } if wanted.can_do_without(path) => {}
                RestoreReply::Missing { .. } | RestoreReply::Done { .. } => break reply,
            }
        };
        Ok((found.hostname, Ok((id, wanted.lacking, reply))))
    })?;
    let (id, lacking, reply) = outcome?;
    let (restored, safety) = match reply {
        RestoreReply::Done { restored, safety } => (restored, safety),
        RestoreReply::Missing { path, nearest } => {
            return Err(missing(&hostname, &id, &path, nearest.as_ref()));
        }
    };
    for path in &lacking {
        writeln!(context.err, "note: {hostname}: the set has no `{path}`; it is left as it is")?;
    }
    for note in restored.iter().flat_map(|one| &one.notes) {
        writeln!(context.err, "warning: {hostname}: {note}")?;
    }
    if context.global.json {
        context.print_json(&as_json(&hostname, &id, &restored, safety.as_ref()))?;
        return Ok(Exit::Completed);
    }
    for line in restored.iter().flat_map(|one| lines(&hostname, one)) {
        writeln!(context.out, "{line}")?;
    }
    if let Some(safety) = safety {
        let day = &render::minute(UtcStamp::new(safety.stamp.timestamp() + SAFETY))[..10];
        let session = &safety.session;
        writeln!(context.out, "{hostname}: session {session} holds what was there before, until {day}")?;
    }
    Ok(Exit::Completed)
}

/// Returns a path of the command line as an absolute one without `.`.
pub(super) fn absolute(path: &std::ffi::OsStr, context: &Context<'_>) -> Result<BytePath, CliError> {
    use std::os::unix::ffi::OsStrExt;
    if path.is_empty() {
        return Err(CliError::Usage {
            message: "an empty path names nothing".into(),
            help: Some("is a variable of the command unset?".into()),
        });
    }
    let path = std::path::Path::new(path);
    let here = context.env.vars.iter().find(|(name, _)| *name == "PWD").map(|(_, value)| value.clone());
    let whole = match (path.is_absolute(), here) {
        (true, _) => path.to_owned(),
        (false, Some(here)) => std::path::Path::new(&here).join(path),
        (false, None) => path.to_owned(),
    };
    let is_plain =
        whole.is_absolute() && !whole.components().any(|one| one == std::path::Component::ParentDir);
    match is_plain {
        true => Ok(BytePath::new(whole.components().collect::<std::path::PathBuf>().as_os_str().as_bytes())),
        false => Err(CliError::Usage {
            message: format!("`{}` is not an absolute path", BytePath::from(path)),
            help: Some("name it from `/` on and without `..`, as it is on that machine".into()),
        }),
    }
}

/// Returns what is taken before anything is replaced.
fn safety(
    set: TakeSet,
    now: jiff::Timestamp,
    id: &SetId,
    paths: &[BytePath],
    copies: CopyOrder,
) -> CreateSet {
    let more = match paths.len() {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let first = paths.first().map(ToString::to_string).unwrap_or_default();
    let words = Words {
        name: None,
        note: Some(format!("before {first}{more} was restored from {}", id.session)),
        until: now.checked_add(SAFETY).ok().map(UtcStamp::new),
        good: false,
        ..Words::default()
    };
    CreateSet { set, words, pinned: false, copies }
}

/// Returns why nothing was done, with the set that would do.
pub(super) fn missing(hostname: &Hostname, id: &SetId, path: &BytePath, nearest: Option<&SetId>) -> CliError {
    CliError::Usage {
        message: format!("`{path}` is not in the set `{id}` on {hostname}"),
        help: Some(match nearest {
            Some(nearest) => format!("the nearest that has it is `{nearest}`"),
            None => "no set on that machine has it".into(),
        }),
    }
}

fn lines(hostname: &Hostname, one: &Restored) -> Vec<String> {
    let amount = match one.entries {
        1 => bytes(one.bytes),
        n => format!("{}, {}", count(n, "entry").replace("entrys", "entries"), bytes(one.bytes)),
    };
    let mut said = vec![match one.to == one.path {
        true => format!("{hostname}: `{}` is restored ({amount})", one.path),
        false => format!("{hostname}: `{}` is restored as `{}` ({amount})", one.path, one.to),
    }];
    said.extend(one.kept.iter().map(|kept| {
        format!(
            "{hostname}: what was there may have changed meanwhile, or could not be removed: it is kept as `{kept}`"
        )
    }));
    said
}

fn as_json(
    hostname: &Hostname,
    id: &SetId,
    restored: &[Restored],
    safety: Option<&SetId>,
) -> serde_json::Value {
    let one = |one: &Restored| {
        json!({
            "path": one.path,
            "to": one.to,
            "entries": one.entries,
            "bytes": one.bytes,
            "kept": one.kept,
            "notes": one.notes,
        })
    };
    json!({
        "machine": hostname,
        "set": id,
        "restored": restored.iter().map(one).collect::<Vec<_>>(),
        "safety": safety,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_path_that_a_set_lacks_is_refused_with_the_nearest_set_that_has_it() {
        let id: SetId = "20251115T120000Z-abc12345-manual".parse().unwrap();
        let near: SetId = "20251114T120000Z-abc12346-presync".parse().unwrap();
        let error = missing(&"desk".parse().unwrap(), &id, &"/home/alice/x".into(), Some(&near));
        assert_eq!(error.exit(), Exit::Usage);
        let CliError::Usage { message, help } = error else { panic!() };
        assert!(
            message.contains("`/home/alice/x` is not in the set `20251115T120000Z-abc12345-manual` on desk")
        );
        assert!(help.unwrap().ends_with("`20251114T120000Z-abc12346-presync`"));
    }

    #[test]
    fn of_a_component_the_paths_that_the_set_lacks_are_left_out_and_a_named_one_never() {
        let all = |paths: &[&str]| paths.iter().map(|path| BytePath::from(*path)).collect::<Vec<_>>();
        let mut wanted =
            Wanted { named: all(&["/srv"]), parts: all(&["/opt", "/srv", "/usr/local"]), lacking: vec![] };
        assert_eq!(wanted.paths(), all(&["/srv", "/opt", "/usr/local"]));
        assert!(!wanted.can_do_without(&"/srv".into()));
        assert!(wanted.can_do_without(&"/opt".into()));
        assert!(!wanted.can_do_without(&"/opt".into()), "it was left out already");
        assert_eq!(
            (wanted.paths(), wanted.lacking[0].to_string()),
            (all(&["/srv", "/usr/local"]), "/opt".into())
        );
        let mut last = Wanted { named: vec![], parts: all(&["/opt"]), lacking: vec![] };
        assert!(!last.can_do_without(&"/opt".into()), "nothing would be left to do");
    }

    #[test]
    fn what_was_restored_is_said_with_its_place_and_size() {
        let one = |entries, to: &str| Restored {
            path: "/home/alice/x".into(),
            to: to.into(),
            entries,
            bytes: 2048,
            kept: None,
            notes: Vec::new(),
        };
        let desk = "desk".parse().unwrap();
        assert_eq!(lines(&desk, &one(1, "/home/alice/x")), ["desk: `/home/alice/x` is restored (2.0 KiB)"]);
        let beside = lines(&desk, &one(3, "/home/alice/x.restored-20251115T120000Z"));
        assert!(
            beside[0].ends_with("as `/home/alice/x.restored-20251115T120000Z` (3 entries, 2.0 KiB)"),
            "{beside:?}"
        );
    }
}
