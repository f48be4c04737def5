//! A rollback for people and for programs: pure.

use pc_switcher_agent::proto::{
    Reached, RollbackLook, RollbackPhase, RollbackState, TreeUsers, Trial, TrialFor, Waits, Way,
    explain_on_another_disk,
};
use pc_switcher_contract::{BytePath, Hostname, SetId, SubvolumeName};
use serde_json::{Value, json};

use super::Done;

pub(super) fn names(names: &[SubvolumeName]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn members(state: &RollbackState) -> String {
    names(&state.members.iter().map(|member| member.name.clone()).collect::<Vec<_>>())
}

/// Returns what would be done.
pub(super) fn plan(done: &Done) -> Vec<String> {
    let Some((to, subvolumes)) = &done.to else { return Vec::new() };
    let way = format!(
        "{}: nothing stands in the way of a rollback of {} to set {to}",
        done.hostname,
        names(subvolumes)
    );
    let kept = "the state of now would be kept as a set, the former trees until `rollback confirm`".into();
    let ways = done.look.ways.iter().map(|way| match &way.waits {
        None => format!("`{}` goes back at once: nobody uses it", way.name),
        Some(waits) => format!("`{}` needs a restart: {}", way.name, reason(waits, done)),
    });
    let restart = (!all_at_once(done)).then(|| format!("{} would have to be started anew", done.hostname));
    let lines = std::iter::once(way)
        .chain(goodness(done))
        .chain(apart(done))
        .chain([kept])
        .chain(ways)
        .chain(restart);
    let warnings = done.look.warnings.iter().map(|why| format!("warning: {}: {why}", done.hostname));
    lines.chain(done.trial.clone()).chain(along(done, to)).chain(warnings).collect()
}

/// Says what of the set does not go back with it.
fn apart(done: &Done) -> Option<String> {
    explain_on_another_disk(&done.on_another_disk)
}

/// Whether all that would go back does so without a restart.
fn all_at_once(done: &Done) -> bool {
    !done.look.ways.is_empty() && done.look.ways.iter().all(|way| way.waits.is_none())
}

fn reason(waits: &Waits, done: &Done) -> String {
    match waits {
        Waits::For(why) => why.clone(),
        Waits::Users(users) => match own_login(users, done) {
            Some(login) => format!("used by {users}; {login}"),
            None => format!("used by {users}"),
        },
    }
}

/// Says that it is the very login of this command that uses a subvolume, if so: then nobody could log out to change that.
fn own_login(users: &TreeUsers, done: &Done) -> Option<String> {
    let (user, host) = (users.own_login.as_ref()?, &done.hostname);
    Some(format!(
        "systemd starts that for each login of {user}, that of this command too: come as root from another machine (`--machine \
         root@{host}`) while {user} is logged out there, or start {host} anew"
    ))
}

/// Returns what would spare the restart, where people are all that a subvolume waits for.
fn instead(done: &Done) -> Vec<String> {
    let used = |way: &Way| match &way.waits {
        Some(waits @ Waits::Users(_)) => Some(format!("`{}` is {}", way.name, reason(waits, done))),
        Some(Waits::For(why)) => Some(format!("`{}` waits for the restart: {why}", way.name)),
        None => None,
    };
    let mut said: Vec<String> = done.look.ways.iter().filter_map(used).collect();
    let users = done.look.ways.iter().filter_map(|way| match &way.waits {
        Some(Waits::Users(users)) if users.own_login.is_none() => Some(users),
        _ => None,
    });
    let users: Vec<&TreeUsers> = users.collect();
    let host = &done.hostname;
    let mut services: Vec<(&str, &str)> = users
        .iter()
        .flat_map(|users| &users.named)
        .filter_map(|user| Some((user.user.as_str(), user.service.as_deref()?)))
        .collect();
    services.sort_unstable();
    services.dedup();
    said.extend(services.into_iter().map(|(user, service)| ends(user, service, host)));
    let can_end =
        |users: &&TreeUsers| users.more > 0 || users.named.iter().any(|user| user.service.is_none());
    if users.iter().any(can_end) {
        said.push(format!(
            "or end that on {host} (log out there, or stop the service) and give the same command again: what nobody uses goes back without a restart",
        ));
    }
    said
}

/// Says what ends a service that runs without a login of its user: to log out does not.
fn ends(user: &str, service: &str, host: &Hostname) -> String {
    let stop = match service.starts_with("user@") {
        // All of that user's.
        true => format!("sudo systemctl stop {service}"),
        false => format!("sudo systemctl --user --machine={user}@ stop {service}"),
    };
    format!(
        "or end `{service}` of {user} on {host}, which runs without a login: `{stop}` (`sudo loginctl disable-linger {user}` keeps such from \
         running on), and give the same command again"
    )
}

/// Returns what becomes of subvolumes inside of those that would go back.
fn along(done: &Done, to: &SetId) -> Vec<String> {
    let look = &done.look;
    if look.inside.is_empty() {
        return Vec::new();
    }
    let mut said = vec![format!(
        "{} inside of them come along as they are: no snapshot of what is around them holds them, so each keeps what it has {}",
        subvolumes(look),
        match all_at_once(done) {
            true => "now".into(),
            false => format!("when {} is started anew", done.hostname),
        }
    )];
    said.extend(look.inside.iter().map(|inside| match inside.is_held {
        false => format!("  `{}` comes along and does not go back", inside.path),
        true => format!(
            "  `{}` comes along and does not go back; set {to} holds it by itself: `pc-switcher snapshots restore` brings back what \
             you need of it",
            inside.path
        ),
    }));
    said.extend(
        (look.inside_more > 0).then(|| format!("  {} more come along and do not go back", look.inside_more)),
    );
    said.extend(look.inside.iter().find_map(|inside| layers(&inside.path)).map(|place| {
        format!(
            "warning: the layers of containers in `{place}` stay as they are, and the list of images and containers beside them goes \
             back: what is newer than set {to} is not listed any more, and of what was removed since the layers are gone"
        )
    }));
    said.extend(look.late.as_ref().filter(|_| !all_at_once(done)).map(|why| {
        format!("{why}: they come along when pc-switcher is next used on {} after the restart", done.hostname)
    }));
    said
}

/// Returns where the layers of containers lie, if this subvolume is one: docker's driver `btrfs` makes one of each.
fn layers(path: &BytePath) -> Option<BytePath> {
    let name = path.name();
    let digits = name.strip_suffix(b"-init").unwrap_or(name);
    let is_id = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let place = path.parent()?;
    let is_of_the_driver = place.as_bytes().ends_with(b"/btrfs/subvolumes");
    (is_id && is_of_the_driver).then_some(place)
}

fn subvolumes(look: &RollbackLook) -> String {
    match look.inside.len() as u64 + look.inside_more {
        1 => "1 subvolume".into(),
        count => format!("{count} subvolumes"),
    }
}

/// Returns how the subvolumes inside stand that are still in trees that are not in place.
fn left(done: &Done) -> Vec<String> {
    let look = &done.look;
    let (waits, stays): (Vec<_>, Vec<_>) = look.inside.iter().partition(|inside| inside.stays.is_none());
    let mut said = Vec::new();
    if let Some(first) = waits.first() {
        said.push(format!(
            "{} inside, such as `{}`, come along when {} is started anew, with what is in them then",
            subvolumes(look),
            first.path,
            done.hostname
        ));
    }
    said.extend(stays.iter().map(|inside| {
        format!(
            "`{}` is still in the tree that is not in place: {}",
            inside.path,
            inside.stays.as_deref().unwrap_or_default()
        )
    }));
    said
}

/// Returns what is said of how long a rollback would hold.
pub(super) fn trial(trial: Option<TrialFor>, unattended: Option<&str>) -> Option<String> {
    match unattended {
        Some(why) => Some(format!("{why}: nobody would take it back by itself, so it need not be confirmed")),
        None => trial.map(|holds| Trial::new(holds).explain(None)),
    }
}

/// Returns why it is that set, if the good one was asked for.
fn goodness(done: &Done) -> Option<String> {
    let (to, _) = done.to.as_ref()?;
    done.good.map(|by| format!("set {to} is the newest that is known to be good: it was marked {by}"))
}

/// Returns how a rollback stands.
pub(super) fn status(done: &Done) -> Vec<String> {
    let host = &done.hostname;
    let Some(state) = &done.look.state else { return vec![format!("{host}: there is no rollback")] };
    let mut said = vec![match state.phase {
        RollbackPhase::Cancelled if state.explain_returned().is_some() => {
            format!("{host}: {}", state.explain_returned().unwrap_or_default())
        }
        RollbackPhase::Done if state.explain_fallback().is_some() => {
            format!("{host}: {}", state.explain_fallback().unwrap_or_default())
        }
        RollbackPhase::Done => {
            format!("{host}: {} went back to set {} (rollback {})", members(state), state.to, state.session)
        }
        RollbackPhase::Cancelled => {
            format!("{host}: rollback {} of {} was taken back", state.session, members(state))
        }
        _ if state.waits_for().is_some() => format!(
            "{host}: rollback {} of {} is prepared and waits for what {} decided; a sync or a rollback that reaches both \
             machines tells",
            state.session,
            members(state),
            state.waits_for().map(ToString::to_string).unwrap_or_default()
        ),
        _ => format!(
            "{host}: rollback {} of {} was cut off; the next boot, sync or `rollback` brings it to its end",
            state.session,
            members(state)
        ),
    }];
    if let (RollbackPhase::Cancelling, Some(Trial { failed: Some(why), .. })) = (state.phase, &state.trial) {
        said.push(format!(
            "the trees from before could not be put back so far: {why}; it is tried again and again"
        ));
    }
    said.extend(done.look.explain_not_mounted());
    if let Some(how) = &done.look.moved {
        // Neither of the two states is in place, so there is nothing to keep.
        said.push(how.clone());
        return said;
    }
    said.extend(goodness(done));
    said.extend(apart(done));
    if let Some(safety) = &done.safety {
        said.push(format!("the state before it is kept: set {safety}"));
    }
    if done.look.may_come_again() {
        said.push(format!(
            "start {host} anew: until then what runs works on the trees of the rollback, and `pc-switcher rollback confirm` keeps \
             them after all"
        ));
    } else if !done.look.in_use.is_empty() {
        said.push(format!(
            "start {host} anew: until then what runs works on the former tree of {}, and what is written there does not come \
             along",
            names(&done.look.in_use)
        ));
        said.extend(instead(done));
    } else if state.phase == RollbackPhase::Done && done.look.not_mounted.is_empty() {
        said.push("it is in place now: no restart is needed".into());
    }
    if done.look.in_use.is_empty() {
        said.extend(beside(state));
    }
    said.extend(stays(done));
    if state.phase == RollbackPhase::Done {
        match state.on_trial() {
            None => said.extend(done.trial.clone()),
            Some(trial) => {
                said.push(trial.explain(done.look.left_seconds));
                said.push(
                    "`pc-switcher rollback confirm --keep-former` is enough, before the restart as well as after it"
                        .into(),
                );
            }
        }
        said.push(
            "`pc-switcher rollback cancel` takes it back, `pc-switcher rollback confirm` keeps it for good"
                .into(),
        );
        said.push(format!(
            "the former trees stand at the top level of the disk as `….replaced-{}`, with all that was written to them",
            state.session
        ));
        said.push("the next sync with any machine asks as the first one did".into());
    }
    said.extend(left(done));
    said
}

/// Says who keeps trees from being removed that the machine does not work on.
fn stays(done: &Done) -> impl Iterator<Item = String> {
    let until = |reached: &Reached| format!("{}: it is not removed before that ends", reached.explain());
    done.look.reached.iter().map(until)
}

/// Says where the trees of a rollback are that was taken back.
fn beside(state: &RollbackState) -> Option<String> {
    (state.phase == RollbackPhase::Cancelled).then(|| {
        format!(
            "what was worked on meanwhile stands at the top level of the disk as `….cancelled-{}`; `pc-switcher rollback confirm` \
             removes it",
            state.session
        )
    })
}

/// Returns what is said of a rollback that was taken back.
pub(super) fn cancelled(done: &Done) -> Vec<String> {
    let mut said = vec![format!("{}: the rollback is taken back", done.hostname)];
    if let Some(safety) = &done.safety {
        said.push(format!("what was done since it is kept: set {safety}"));
    }
    if !done.look.in_use.is_empty() {
        said.push(format!(
            "start {} anew: until then what runs works on the tree of the rollback of {}",
            done.hostname,
            names(&done.look.in_use)
        ));
        said.extend(instead(done));
    } else {
        said.push("what was before it is in place now: no restart is needed".into());
        said.extend(done.look.state.as_ref().and_then(beside));
    }
    said.extend(stays(done));
    said.extend(left(done));
    said
}

/// Returns how each subvolume goes back, for a program.
fn ways(look: &RollbackLook) -> Value {
    let way = |way: &Way| {
        let (why, users) = match &way.waits {
            None => (None, TreeUsers::default()),
            Some(Waits::For(why)) => (Some(why), TreeUsers::default()),
            Some(Waits::Users(users)) => (None, users.clone()),
        };
        json!({
            "subvolume": way.name,
            "at_once": way.waits.is_none(),
            "why_not": why,
            "used_by": users.named,
            "used_by_more": users.more,
            "used_by_own_login": users.own_login,
        })
    };
    look.ways.iter().map(way).collect()
}

/// Returns all of it for a program.
pub(super) fn json(done: &Done) -> Value {
    let state = done.look.state.as_ref();
    let trial = state.and_then(|state| state.on_trial());
    let returned = state.filter(|state| state.explain_returned().is_some());
    let returned = returned.and_then(|state| state.trial.as_ref()?.returned.as_ref());
    json!({
        "machine": done.hostname,
        "session": state.map(|state| &state.session),
        "phase": state.map(|state| state.phase),
        "to": state.map(|state| &state.to).or(done.to.as_ref().map(|(to, _)| to)),
        "subvolumes": state.map(|state| state.members.iter().map(|member| &member.name).collect::<Vec<_>>()),
        "on_another_disk": done.on_another_disk,
        "good_by": done.good,
        "safety_set": done.safety,
        "kept_set": done.look.kept,
        "needs_restart": done.look.in_use,
        "reached": done.look.reached.iter().map(|reached| json!({
            "subvolume": reached.name,
            "at": reached.at.to_string(),
            "used_by": reached.users.named,
            "used_by_more": reached.users.more,
        })).collect::<Vec<_>>(),
        "ways": ways(&done.look),
        "warnings": done.look.warnings,
        "holds": trial.map(|trial| trial.holds),
        "left_seconds": done.look.left_seconds,
        "inside": done.look.inside.iter().map(|inside| json!({
            "path": inside.path.to_string(),
            "held_by_set": inside.is_held,
            "stays": inside.stays,
        })).collect::<Vec<_>>(),
        "inside_more": done.look.inside_more,
        "strays": super::stray::json(&done.look.strays),
        "partly_by_hand": done.look.moved,
        "not_mounted": done.look.not_mounted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "taken_back_by_itself": returned,
        "went_back_by_itself": state.and_then(|state| state.fallback.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::TreeUser;

    use super::*;

    fn done(phase: Option<RollbackPhase>, in_use: &[&str], ways: Vec<Way>) -> Done {
        let to: SetId = "20251115T120000Z-0a1b2c3d-presync".parse().unwrap();
        let state = phase.map(|phase| RollbackState {
            session: "feedbeef".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            to: to.clone(),
            phase,
            members: Vec::new(),
            together: None,
            records: Vec::new(),
            trial: None,
            fallback: None,
        });
        let in_use = in_use.iter().map(|name| name.parse().unwrap()).collect();
        Done {
            hostname: "desk".parse().unwrap(),
            to: Some((to, vec!["@home".parse().unwrap(), "@srv".parse().unwrap()])),
            good: None,
            on_another_disk: Vec::new(),
            trial: None,
            safety: None,
            look: RollbackLook { state, in_use, ways, ..RollbackLook::default() },
        }
    }

    fn way(name: &str, waits: Option<Waits>) -> Way {
        Way { name: name.parse().unwrap(), waits }
    }

    fn used() -> Waits {
        let user = TreeUser { pid: 12, program: "bash".into(), user: "alice".into(), service: None };
        Waits::Users(TreeUsers { named: vec![user], more: 2, own_login: None })
    }

    #[test]
    fn whom_the_own_login_of_a_command_keeps_from_it_is_not_told_to_log_out() {
        let Waits::Users(users) = used() else { unreachable!() };
        let own = || Waits::Users(TreeUsers { own_login: Some("alice".into()), ..users.clone() });
        let waits = status(&done(Some(RollbackPhase::Done), &["@home"], vec![way("@home", Some(own()))]));
        let waits = waits.join("\n");
        for text in ["`@home` is used by `bash`", "systemd starts that for each login of alice", "root@desk"]
        {
            assert!(waits.contains(text), "{text}: {waits}");
        }
        assert!(!waits.contains("log out there"), "{waits}");
        let planned = plan(&done(None, &[], vec![way("@home", Some(own()))])).join("\n");
        assert!(
            planned.contains("`@home` needs a restart: used by") && planned.contains("root@desk"),
            "{planned}"
        );
        let both = vec![way("@home", Some(own())), way("@srv", Some(used()))];
        let both = status(&done(Some(RollbackPhase::Done), &["@home", "@srv"], both)).join("\n");
        assert!(both.contains("root@desk") && both.contains("log out there"), "{both}");
    }

    #[test]
    fn who_runs_a_service_without_a_login_is_told_how_to_stop_it_and_not_to_log_out() {
        let service = |name: &str| {
            let Waits::Users(mut users) = used() else { unreachable!() };
            users.named[0].service = Some(name.into());
            Waits::Users(TreeUsers { more: 0, ..users })
        };
        let told = |waits| {
            status(&done(Some(RollbackPhase::Done), &["@home"], vec![way("@home", Some(waits))])).join("\n")
        };
        let said = told(service("syncthing.service"));
        for text in [
            "used by `bash` (pid 12, `syncthing.service` of alice)",
            "sudo systemctl --user --machine=alice@ stop syncthing.service",
            "loginctl disable-linger alice",
        ] {
            assert!(said.contains(text), "{text}: {said}");
        }
        assert!(!said.contains("log out there"), "{said}");
        assert!(told(service("user@1000.service")).contains("`sudo systemctl stop user@1000.service`"));
    }

    #[test]
    fn what_lies_on_another_disk_is_said_to_stay_before_and_after() {
        let wanted = "`@home` lies on another disk and stays as it is";
        let mut to_do = done(None, &[], vec![way("@", None)]);
        let mut is_done = done(Some(RollbackPhase::Done), &[], Vec::new());
        assert!(!plan(&to_do).iter().chain(&status(&is_done)).any(|line| line.contains("another disk")));
        for done in [&mut to_do, &mut is_done] {
            done.on_another_disk = vec!["@home".parse().unwrap()];
            assert_eq!(json(done)["on_another_disk"], json!(["@home"]));
        }
        assert!(plan(&to_do).iter().any(|line| line == wanted));
        assert!(status(&is_done).iter().any(|line| line == wanted));
    }

    #[test]
    fn what_is_not_mounted_is_told_and_not_said_to_be_in_place() {
        let mut cut_off = done(Some(RollbackPhase::Done), &[], Vec::new());
        cut_off.look.not_mounted = vec!["/home".into()];
        let said = status(&cut_off).join("\n");
        assert!(said.contains("`/home` is not mounted") && said.contains("sudo mount /home"), "{said}");
        assert!(!said.contains("in place now"), "{said}");
        assert!(cut_off.look.forbids_sync().unwrap().contains("`/home` is not mounted"));
        assert_eq!(json(&cut_off)["not_mounted"], json!(["/home"]));
    }

    #[test]
    fn a_plan_says_of_each_what_it_waits_for_and_of_a_restart_only_where_one_is_needed() {
        let all = plan(&done(None, &[], vec![way("@home", None), way("@srv", None)])).join("\n");
        assert!(all.contains("`@srv` goes back at once: nobody uses it"), "{all}");
        assert!(!all.contains("restart") && !all.contains("anew"), "{all}");
        let some = plan(&done(None, &[], vec![way("@home", Some(used())), way("@srv", None)])).join("\n");
        assert!(
            some.contains("`@home` needs a restart: used by `bash` (pid 12, alice) and 2 more"),
            "{some}"
        );
        assert!(some.contains("`@srv` goes back at once") && some.contains("started anew"), "{some}");
        let unknown = plan(&done(None, &[], Vec::new())).join("\n");
        assert!(unknown.contains("started anew"), "{unknown}");
    }

    #[test]
    fn what_is_done_says_who_keeps_it_from_being_in_place_or_that_it_is() {
        let phase = Some(RollbackPhase::Done);
        let here = status(&done(phase, &[], Vec::new())).join("\n");
        assert!(here.contains("in place now") && !here.contains("anew"), "{here}");
        let waits = status(&done(phase, &["@home"], vec![way("@home", Some(used()))])).join("\n");
        for text in
            ["start desk anew", "`@home` is used by `bash` (pid 12, alice) and 2 more", "log out there"]
        {
            assert!(waits.contains(text), "{waits}");
        }
        let because = vec![way("@home", Some(Waits::For("it is on trial".into())))];
        let waits = status(&done(phase, &["@home"], because)).join("\n");
        assert!(
            waits.contains("waits for the restart: it is on trial") && !waits.contains("log out"),
            "{waits}"
        );
    }

    #[test]
    fn who_works_in_a_tree_by_another_mount_is_named_and_nobody_is_told_to_start_anew() {
        let Waits::Users(users) = used() else { unreachable!() };
        let mut reached = done(Some(RollbackPhase::Done), &[], Vec::new());
        let at = BytePath::from("/mnt/pool/@home.replaced-feedbeef");
        reached.look.reached = vec![Reached { name: "@home".parse().unwrap(), at, users }];
        let said = status(&reached).join("\n");
        let wanted = "`/mnt/pool/@home.replaced-feedbeef` is a tree of `@home` that is not in place, and used by `bash` (pid 12, alice)";
        assert!(said.contains(wanted) && said.contains("in place now") && !said.contains("anew"), "{said}");
        assert_eq!(reached.look.forbids_sync(), None);
        assert_eq!(json(&reached)["reached"][0]["used_by"][0]["pid"], json!(12));
    }

    #[test]
    fn programs_are_told_the_same() {
        let value = json(&done(Some(RollbackPhase::Done), &["@home"], vec![way("@home", Some(used()))]));
        let way = &value["ways"][0];
        assert_eq!((&way["at_once"], &way["used_by_more"]), (&json!(false), &json!(2)));
        assert_eq!(
            way["used_by"][0],
            json!({ "pid": 12, "program": "bash", "user": "alice", "service": null })
        );
    }

    #[test]
    fn layers_of_containers_are_told_from_other_subvolumes() {
        let id = "0f".repeat(32);
        let of = |path: &str| layers(&path.into()).map(|place| place.to_string());
        let docker = "/var/lib/docker/btrfs/subvolumes";
        assert_eq!(of(&format!("{docker}/{id}")).as_deref(), Some(docker));
        assert_eq!(of(&format!("{docker}/{id}-init")).as_deref(), Some(docker));
        for other in ["/home/alice/vm".to_owned(), format!("{docker}/mine"), format!("/srv/{id}")] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
