//! How changes are found: by comparing the directories that the trees of both machines name as changed since their last sync,
//! or all of them by a walk of both sides at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_agent::data::rules::Rules;
use pc_switcher_agent::proto::{ChangedDir, DirListing, FileTime, FolderPart, ListWant, ReadWant};
use pc_switcher_agent::typed::{Agent, WalkStream};
use pc_switcher_contract::{
    BytePath, ErrorKind, ExecError, Hostname, LogLevel, ModuleContext, ModuleError, PairRecord, PartRecord,
    Progress, Role,
};

use crate::attempts;
use crate::batches::batches;
use crate::change::{Change, Found, Judge, LeftAlone, Suspect, same_rights, settle};
use crate::compare::{Comparison, Pairing, WALKS, Walk};
use crate::digested;
use crate::lacking::{self, Lacked};
use crate::links;
use crate::moves::Moves;
use crate::moving::{self, Bases};
use crate::parts::PartPair;
use crate::patches::{self, Patches};
use crate::proven;
use crate::roots::{Listed, Roots, in_set, note_kept, place_of, tree};
use crate::rough;
use crate::ruled;
use crate::scope::Scope;
use crate::shares;
use crate::silent::Silent;
use crate::steps::{Steps, steps};
use crate::told::{Heard, Told};

/// Bytes of paths that one message asks for, about.
const ASKS: usize = 64 << 10;

/// So many paths at which nothing was to be done though both machines differ, and the next sync compares everything.
pub const APART: usize = 10_000;

/// What one part needs.
#[derive(Debug)]
pub struct Survey {
    /// The steps that make the target's part the source's.
    pub steps: Steps,
    /// What the steps patch files from: on the source, in the set of the last sync.
    pub source_base: Option<BytePath>,
    /// Paths changed on the target since the last sync that the steps would touch: size and time of both versions.
    pub conflicts: Vec<ConflictItem>,
    /// Names left alone though the other machine has them.
    pub left_alone: Vec<LeftAlone>,
    /// Directories that differ in nothing but their time, where that does not count.
    pub times: Vec<BytePath>,
    /// Attributes that the source cannot hold, and the target keeps.
    pub lacked: Lacked,
    /// Entries of the source's part; about, if not all of it was compared.
    pub source_entries: u64,
    /// Entries of the target's part; about, if not all of it was compared.
    pub target_entries: u64,
    /// What is moved on the target before all else.
    pub moves: Moves,
}

/// What is compared when not everything is.
struct Common {
    directories: Scope,
    /// Entries that both machines had after their last sync.
    entries: u64,
}

/// One path changed on the target that the source would overwrite or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictItem {
    /// Relative to the part's root.
    pub path: BytePath,
    /// Where the target's version stands now: elsewhere, if the source moved it or a directory above it.
    pub stands: BytePath,
    /// What the source has there.
    pub ours: Ours,
    /// The target's version: size and time; `None` if it was deleted there.
    pub theirs: Option<(u64, FileTime)>,
}

/// The source's side of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// A version: size and time.
    Version(u64, FileTime),
    /// Another name of this file.
    Link(BytePath),
    /// Nothing any more.
    Deleted,
    /// Nothing, and never had: it was made on the target.
    Never,
}

/// Walks one part on both machines (and the target's base) at once and returns what it needs.
///
/// # Errors
/// If an agent fails, or anything could not be read: what was not read must not be taken for deleted.
pub async fn survey(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    content: bool,
    first_content: u32,
    heard: &Heard,
) -> Result<Survey, ModuleError> {
    let base_is_target = match (&roots.base, &roots.theirs) {
        (Some(Listed::Tree(base)), Listed::Tree(target)) => {
            Agent::new(&ctx.target.agent).unchanged(base.clone(), target.clone()).await?
        }
        _ => false,
    };
    let judge = Judge {
        has_base: roots.base.is_some(),
        base_is_target,
        has_before: roots.before.is_some() && !content,
        source_after: roots.source_after,
        content,
        ignore_dir_times: roots.ignore_dir_times,
    };
    note_kept(ctx, part, roots);
    let past = past(ctx, part, roots, content);
    let (moves, scope, silent) = match past {
        Ok(past) => {
            let mut told = heard.ask(ctx, part, roots, &past.bases).await?;
            let moves = moving::moves(ctx, part, roots, judge, &past.bases, told.moved.take()).await?;
            // The second look has no past to hold them against: they were compared, sent and read back.
            let is_first = judge.has_base || judge.has_before;
            let silent = std::mem::take(&mut told.silent);
            let silent = if is_first { Silent::of(silent, &moves) } else { Silent::default() };
            let scope = scope(part, past, told, &moves);
            (moves, scope, silent)
        }
        Err(why) => (Moves::default(), Err(why), Silent::ask(ctx, part, roots, judge).await?),
    };
    let scope = match scope {
        Ok(scope) => Some(scope),
        Err(why) => {
            full(ctx, part, why);
            None
        }
    };
    let mut common = scope.as_ref().map(|scope| scope.entries);
    let mut counted = None;
    let directories = match scope {
        Some(scope) => Some(scope.directories),
        None => digested::differing(ctx, part, roots, judge).await?.map(|digested| {
            counted = Some((digested.source_entries, digested.target_entries));
            digested.directories
        }),
    };
    let is_partial = directories.is_some();
    let mut comparison = compare(ctx, part, roots, judge, directories, (&moves, &silent)).await?;
    let doubt = comparison.doubt(part.is_torn).or_else(|| {
        // What is left alone on both is in neither's count.
        (counted.is_some() && !comparison.left_alone.is_empty()).then_some("a name is left alone")
    });
    if let Some(why) = doubt.filter(|_| is_partial) {
        full(ctx, part, why);
        (common, counted) = (None, None);
        comparison = compare(ctx, part, roots, judge, None, (&moves, &silent)).await?;
    }
    refuse_unreadable(ctx, part, &comparison)?;
    let Comparison { mut found, suspects, links, dir_meta, holding, left_alone, times, .. } = comparison;
    found.extend(settle_all(ctx, roots, suspects, &moves).await?);
    silent.touch(ctx, roots, &mut found, &moves).await?;
    let lacked = lacking::leave(ctx, part, &moves, judge.ignore_dir_times, &mut found);
    links::resolve(&mut found, links, part.is_torn);
    attempts::disown(ctx, part, roots, &moves, &mut found).await?;
    if roots.base.is_some() {
        mark_unsettled(ctx, part, &mut found);
        mark_alien(ctx, part, &mut found);
        if let Some(then) = other_rules_then(ctx, part) {
            ruled::mark(&then, &mut found);
        }
    }
    let patches = match content {
        false => patches::ask(ctx, part, roots, &found, &moves).await?,
        true => Patches::default(),
    };
    let mut conflicts = conflicts(&found, &moves);
    let mut steps = steps(found, &holding, &dir_meta, &patches.bytes, first_content, &moves);
    let changed_there: HashSet<BytePath> = conflicts.iter().map(|conflict| conflict.stands.clone()).collect();
    if !content {
        shares::arrange(ctx, part, roots, &changed_there, &mut steps).await?;
    }
    // Of what somebody works on there no clone is made: it would have to stand still until the end.
    let whole = patches.changed.iter().cloned().chain(changed_there).collect();
    rough::arrange(&mut steps, &whole, &moves);
    proven::arrange(&mut steps, &patches.proven);
    // Nothing is done there.
    conflicts.retain(|conflict| {
        let is_blocked = steps.blocked.iter().any(|blocked| conflict.path.is_within(blocked));
        !is_blocked && !steps.kept.contains(&conflict.path)
    });
    let (source_entries, target_entries) = match common {
        Some(before) => ((before + steps.stats.created).saturating_sub(steps.stats.deleted), before),
        None => counted.unwrap_or((comparison.source_entries, comparison.target_entries)),
    };
    Ok(Survey {
        steps,
        source_base: patches.base,
        conflicts,
        left_alone,
        times,
        lacked,
        source_entries,
        target_entries,
        moves,
    })
}

/// Says that everything is compared, and why.
fn full(ctx: &ModuleContext, part: &PartPair, why: &str) {
    let text = format!("everything below `{}` is compared: {why}", part.root);
    ctx.reporter.log(LogLevel::Full, &ctx.source.hostname, text);
}

/// Where somebody worked on a machine while the last sync ran, what it left says nothing of what both had in common: what
/// stands there counts as changed. On the machine that was the target that is what was not as planned in the end, on the
/// source what could not be read.
fn mark_unsettled(ctx: &ModuleContext, part: &PartPair, found: &mut [Found]) {
    let Some(pair) = ctx.board.pair() else { return };
    let was_target = pair.target.hostname.same_machine(&ctx.target.hostname);
    let unsettled: HashSet<BytePath> =
        if was_target { pair.unsettled } else { pair.unsent }.into_iter().collect();
    if !unsettled.is_empty() {
        for found in found {
            found.touched |= unsettled.contains(&part.root.join(found.path.as_bytes()));
        }
    }
}

/// Returns the rules of the last sync, if they were others and are known.
fn other_rules_then(ctx: &ModuleContext, part: &PartPair) -> Option<Rules> {
    let pair = ctx.board.pair().filter(|pair| ctx.board.rule_hash().as_deref() != Some(&pair.rule_hash))?;
    ruled::then(&pair, part, &ctx.target.hostname)
}

/// What the last sync left alone has no common past: what the target has there counts as changed, whoever was its target then.
fn mark_alien(ctx: &ModuleContext, part: &PartPair, found: &mut [Found]) {
    let alien: HashSet<BytePath> =
        ctx.board.pair().map(|pair| pair.alien).unwrap_or_default().into_iter().collect();
    if alien.is_empty() {
        return;
    }
    for found in found.iter_mut() {
        let Some(theirs) = &found.theirs else { continue };
        if matches!(&found.change, Change::Meta(ours, _) if same_rights(ours, theirs)) {
            continue;
        }
        let mut at = Some(part.root.join(found.path.as_bytes()));
        while let Some(path) = at {
            if alien.contains(&path) {
                found.touched = true;
                break;
            }
            at = path.parent();
        }
    }
}

/// What both machines have in common.
struct Past {
    pair: PairRecord,
    bases: Bases,
    /// Entries that both had.
    entries: u64,
}

/// Returns what both machines had in common after their last sync, or why nobody can tell.
fn past(ctx: &ModuleContext, part: &PartPair, roots: &Roots, content: bool) -> Result<Past, &'static str> {
    if content {
        return Err("contents are compared");
    }
    if roots.ours.tree().is_none() || roots.theirs.tree().is_none() {
        return Err("without snapshots nothing tells what changed");
    }
    let Some(pair) = ctx.board.pair() else { return Err("there is no last sync") };
    if ctx.board.rule_hash().as_deref() != Some(pair.rule_hash.as_str()) {
        return Err("the rules are others than at the last sync");
    }
    if pair.apart.len() >= APART {
        return Err("too much was left alone by the last sync");
    }
    let root = part.root.to_string();
    let Some(then) = pair.parts.iter().find(|then| then.root == root) else {
        return Err("the last sync did not hold it");
    };
    let source = base_of(&pair, then, &ctx.source.hostname, &part.source);
    let target = base_of(&pair, then, &ctx.target.hostname, &part.target);
    let (Some(source), Some(target)) = (source, target) else {
        return Err("it lies elsewhere than at the last sync");
    };
    let entries = then.entries;
    Ok(Past { pair, bases: Bases { source, target }, entries })
}

/// Returns which directories have to be compared, or why everything has to. What both machines had in common after their last
/// sync is still the same where neither changed.
fn scope(part: &PartPair, past: Past, told: Told, moves: &Moves) -> Result<Common, &'static str> {
    let Past { pair, entries, .. } = past;
    let Told { ours: Some(ours), theirs: Some(theirs), .. } = told else {
        return Err("the trees do not tell what changed since the last sync");
    };
    // These were not the same then.
    let inside = |path: &BytePath| {
        let inside = path.as_bytes().get(part.root.as_bytes().len()..).unwrap_or_default();
        BytePath::new(inside.strip_prefix(b"/").unwrap_or(inside))
    };
    let is_here = |path: &&BytePath| path.is_within(&part.root);
    let different = pair.unsettled.iter().chain(&pair.apart).filter(is_here);
    let different = different.map(inside).map(|path| {
        let names = Some(path.name()).filter(|name| !name.is_empty()).map(BytePath::new);
        ChangedDir {
            path: path.parent().unwrap_or_default(),
            whole: false,
            names: Some(names.into_iter().collect()),
            silent: Vec::new(),
        }
    });
    let alien = pair.alien.iter().filter(is_here);
    let alien =
        alien.map(|path| ChangedDir { path: inside(path), whole: true, names: None, silent: Vec::new() });
    let ours = ours.into_iter().map(|dir| {
        let whole = dir.whole && !moves.is_settled(&dir.path, false);
        ChangedDir { whole, ..dir }
    });
    let theirs = theirs.into_iter().map(|dir| {
        let whole = dir.whole && !moves.is_settled(&dir.path, true);
        ChangedDir { path: moves.map(Walk::Target, &dir.path), whole, ..dir }
    });
    let mut named: Vec<ChangedDir> = ours.chain(theirs).chain(different).chain(alien).collect();
    if !named.is_empty() {
        // Staging lies in the root, whose time is set again after it.
        named.push(ChangedDir {
            path: BytePath::default(),
            whole: false,
            names: Some(Vec::new()),
            silent: Vec::new(),
        });
    }
    Ok(Common { directories: Scope::of(named), entries })
}

/// Returns where a part lies in what the last sync left on this machine, if it lay there then.
pub(crate) fn base_of(
    pair: &PairRecord,
    then: &PartRecord,
    hostname: &Hostname,
    part: &FolderPart,
) -> Option<BytePath> {
    let ends = [(&pair.source, &then.source), (&pair.target, &then.target)];
    let (end, place) = ends.into_iter().find(|(end, _)| end.hostname.same_machine(hostname))?;
    let set = end.set.as_ref().filter(|_| *place == place_of(part))?;
    in_set(set, part.subvolume.as_ref(), &part.inside)
}

async fn compare(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    judge: Judge,
    scope: Option<Scope>,
    (moves, silent): (&Moves, &Silent),
) -> Result<Comparison, ModuleError> {
    let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
    let places = [
        Some((&source, &roots.ours)),
        Some((&target, &roots.theirs)),
        roots.base.as_ref().filter(|_| judge.walks_base()).map(|base| (&target, base)),
        roots.before.as_ref().filter(|_| judge.has_before).map(|before| (&source, before)),
    ];
    let mut sinks = [None, None, None, None];
    let mut streams = [None, None, None, None];
    let mut empty = Vec::new();
    for (at, (agent, listed)) in places.into_iter().enumerate().filter_map(|(at, place)| Some((at, place?))) {
        streams[at] = match (&scope, listed.tree()) {
            (Some(_), Some(root)) => {
                let (wants, listings) = agent.list(tree(part, root)).await?;
                sinks[at] = Some(wants);
                Some(listings)
            }
            _ => listed.walk(agent, part).await?,
        };
        if streams[at].is_none() {
            empty.push(WALKS[at]);
        }
    }
    let [mut ours, mut theirs, mut base, mut before] = streams;
    let mut pairing = match scope {
        Some(scope) => Pairing::within(scope, judge, moves),
        None => Pairing::new(judge, moves),
    };
    pairing.suspect(&silent.all);
    for walk in empty {
        pairing.add(walk, nothing());
    }
    let mut seen = 0_u64;
    loop {
        let ask = async {
            for (sink, asks) in sinks.iter_mut().zip(pairing.take_asks()) {
                let Some(sink) = sink else { continue };
                for asks in asks.chunk_by(in_one_message()) {
                    sink.send(asks).await?;
                }
            }
            if pairing.is_complete() {
                for sink in sinks.iter_mut().filter_map(Option::take) {
                    sink.finish().await?;
                }
            }
            Ok::<(), ExecError>(())
        };
        tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            asked = ask => asked?,
        }
        if ours.is_none() && theirs.is_none() && base.is_none() && before.is_none() {
            break;
        }
        let (walk, listing) = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            listing = next(&mut ours), if ours.is_some() => (Walk::Source, listing?),
            listing = next(&mut theirs), if theirs.is_some() => (Walk::Target, listing?),
            listing = next(&mut base), if base.is_some() => (Walk::Base, listing?),
            listing = next(&mut before), if before.is_some() => (Walk::Before, listing?),
        };
        let Some(mut listing) = listing else { continue };
        let elsewhere: &[BytePath] = match walk {
            Walk::Source => &part.coming,
            Walk::Target => &part.leaving,
            Walk::Base | Walk::Before => &[],
        };
        if !elsewhere.is_empty() {
            let DirListing { path, skipped, .. } = &mut listing;
            skipped.retain(|skip| !elsewhere.contains(&path.join(skip.name.as_bytes())));
        }
        if walk == Walk::Source {
            seen += listing.entries.len() as u64;
            report(ctx, &part.root, &listing.path, seen);
        }
        pairing.add(walk, listing);
    }
    pairing
        .finish()
        .map_err(|why| ModuleError::failed(format!("the walks of `{}` do not fit: {why}", part.root)))
}

/// Returns what a walk lists where there is no tree.
fn nothing() -> DirListing {
    DirListing {
        path: BytePath::default(),
        root: None,
        entries: Vec::new(),
        skipped: Vec::new(),
        more: false,
    }
}

/// Returns a judge of neighbours that says where a message is full.
pub(crate) fn in_one_message() -> impl FnMut(&ListWant, &ListWant) -> bool {
    let mut bytes = 0;
    move |want, _| {
        let names = want.names.iter().flatten().map(|name| name.as_bytes().len() + 2);
        bytes += want.path.as_bytes().len() + 16 + names.sum::<usize>();
        let fits = bytes < ASKS;
        if !fits {
            bytes = 0;
        }
        fits
    }
}

/// Returns the next listing; the stream goes when it has ended.
async fn next(walk: &mut Option<WalkStream>) -> Result<Option<DirListing>, ExecError> {
    let Some(running) = walk else { return Ok(None) };
    let listing = running.next().await?;
    if listing.is_none() {
        *walk = None;
    }
    Ok(listing)
}

/// Progress while comparing: the share cannot be told, the count can.
fn report(ctx: &ModuleContext, root: &BytePath, path: &BytePath, seen: u64) {
    let item = format!("comparing {} ({seen} entries)", root.join(path.as_bytes()));
    ctx.reporter.progress(Progress { fraction: None, item, eta: None, bytes: None });
}

fn refuse_unreadable(
    ctx: &ModuleContext,
    part: &PartPair,
    comparison: &Comparison,
) -> Result<(), ModuleError> {
    let Some((path, on_source, why)) = comparison.unreadable.first() else { return Ok(()) };
    for (path, on_source, why) in &comparison.unreadable {
        let role = if *on_source { Role::Source } else { Role::Target };
        let text = format!("cannot read `{}`: {why}", part.root.join(path.as_bytes()));
        ctx.reporter.log(LogLevel::Warning, ctx.hostname(role), text);
    }
    let hostname = ctx.hostname(if *on_source { Role::Source } else { Role::Target });
    let others = comparison.unreadable.len() - 1;
    let more = if others == 0 { String::new() } else { format!(" and {others} more") };
    let text = format!("{hostname}: cannot read `{}`{more}: {why}", part.root.join(path.as_bytes()));
    Err(ModuleError::new(ErrorKind::Failed, text)
        .hint("what cannot be read could be taken for deleted; mend it or exclude it"))
}

/// Compares suspects by content, on both machines at once.
async fn settle_all(
    ctx: &ModuleContext,
    roots: &Roots,
    suspects: Vec<Suspect>,
    moves: &Moves,
) -> Result<Vec<Found>, ModuleError> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let wants = |walk| -> Vec<ReadWant> {
        let want = |(at, suspect): (usize, &Suspect)| ReadWant {
            content: at as u32,
            path: moves.stands(walk, &suspect.path),
        };
        suspects.iter().enumerate().map(want).collect()
    };
    let (here, there) = (wants(Walk::Source), wants(Walk::Target));
    let (ours, theirs) = tokio::try_join!(
        digests(ctx, Role::Source, &roots.source, &here),
        digests(ctx, Role::Target, &roots.target, &there)
    )?;
    let mut found = Vec::new();
    for (index, suspect) in suspects.into_iter().enumerate() {
        let at = index as u32;
        let equal = match (ours.get(&at), theirs.get(&at)) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => false,
        };
        found.extend(settle(suspect, equal));
    }
    Ok(found)
}

pub(crate) async fn digests(
    ctx: &ModuleContext,
    role: Role,
    root: &BytePath,
    wants: &[ReadWant],
) -> Result<HashMap<u32, [u8; 32]>, ModuleError> {
    let (mut up, mut down) = Agent::new(ctx.agent(role)).digest(root.clone()).await?;
    let send = async {
        for batch in batches(wants, 1000, |want| &want.path) {
            up.send(batch).await?;
        }
        up.finish().await
    };
    let receive = async {
        let mut digests = HashMap::new();
        while let Some(read) = down.next().await? {
            digests.extend(read.into_iter().filter_map(|(content, digest)| Some((content, digest?))));
        }
        Ok(digests)
    };
    let both = async { tokio::try_join!(send, receive).map(|((), digests)| digests) };
    tokio::select! {
        () = ctx.cancel.cancelled() => Err(ModuleError::cancelled()),
        digests = both => Ok(digests?),
    }
}

/// Returns what the target changed and the plan would touch.
fn conflicts(found: &[Found], moves: &Moves) -> Vec<ConflictItem> {
    let ours = |found: &Found| match &found.change {
        Change::Create(entry) | Change::Replace(entry, ..) | Change::Meta(entry, _) => {
            Ours::Version(entry.size, entry.meta.mtime)
        }
        Change::Link(to, _) => Ours::Link(to.clone()),
        Change::Delete(..) if found.was_there => Ours::Deleted,
        Change::Delete(..) => Ours::Never,
    };
    let touched: BTreeMap<&BytePath, &Found> =
        found.iter().filter(|found| found.touched).map(|found| (&found.path, found)).collect();
    let item = |found: &Found| ConflictItem {
        path: found.path.clone(),
        stands: moves.stands(Walk::Target, &found.path),
        ours: ours(found),
        theirs: found.theirs.as_ref().map(|entry| (entry.size, entry.meta.mtime)),
    };
    touched.into_values().map(item).collect()
}
