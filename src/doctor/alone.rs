//! Judgements over one machine.

use pc_switcher_agent::proto::{RollbackLook, RollbackPhase, StrayJournal, Unnamed};
use pc_switcher_btrfs_snapshots::automatic::{Backend, SnapshotsConfig};
use pc_switcher_contract::{BytePath, human_bytes};
use pc_switcher_disk_monitor::parts::FREE_BYTES;
use semver::Version;
use serde::Deserialize as _;

use super::fstab;
use super::seen::Seen;
use super::{Finding, Gravity};

/// Below this an agent and a watched command cannot run side by side.
const SESSIONS_WANTED: u32 = 2;

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut found = refused(seen);
    found.extend(swap(seen));
    found.extend(mounted_by_id(seen));
    found.extend(snapshot_dir(seen));
    found.extend(others(seen));
    found.extend(rights(seen));
    found.extend(volumes(seen));
    found.extend(records(seen));
    found.extend(nested(seen));
    found.extend(layers(seen));
    found.extend(patterns(seen));
    found.extend(quotas(seen));
    found.extend(boot(seen));
    found.extend(room(seen));
    found.extend(clock(seen));
    found.extend(sudo(seen));
    found.extend(sshd(seen));
    found.extend(program(seen));
    found.extend(markers(seen));
    found.extend(rollback(seen));
    found.extend(strays(seen));
    found
}

/// Journals of rollbacks that nothing names: one of them may be all that knows of a rollback that is not over.
fn strays(seen: &Seen) -> Vec<Finding> {
    let Ok(RollbackLook { strays, problems, .. }) = &seen.rollback else { return Vec::new() };
    let dir = BytePath::from(seen.snapshot_dir.as_str());
    let gravity = |why| if why == Unnamed::Lost { Gravity::Warning } else { Gravity::Note };
    let finding = |stray: &StrayJournal| {
        Finding::new(seen.hostname(), gravity(stray.why), "rollback", stray.explain()).fix(stray.fix(&dir))
    };
    let unread = |why: &String| {
        let journal = format!("{dir}/.pc-switcher/rollback/journal.json");
        let found = |text| Finding::new(seen.hostname(), Gravity::Warning, "rollback", text);
        // Another one may be that of a rollback which is not over.
        match why.contains(&format!("`{journal}`")) {
            true => {
                found(format!("a journal of a rollback, which no start and no rollback gets past: {why}"))
                    .fix(format!("move it away: sudo mv {journal} /root/"))
            }
            false => found(format!(
                "whether journals of rollbacks lie there that nothing names cannot be told: {why}"
            )),
        }
    };
    strays.iter().map(finding).chain(problems.iter().map(unread)).collect()
}

/// A rollback that waits for a restart, for the other machine, or for somebody's word.
fn rollback(seen: &Seen) -> Option<Finding> {
    let finding = |gravity, text| Some(Finding::new(seen.hostname(), gravity, "rollback", text));
    let look = match &seen.rollback {
        Ok(look) => look,
        Err(why) => return finding(Gravity::Fault, format!("no sync starts: {why}")),
    };
    let state = look.state.as_ref()?;
    if let Some(why) = look.forbids_sync() {
        let found = finding(Gravity::Fault, format!("no sync starts: {why}"))?;
        return Some(match (look.in_use.is_empty(), state.waits_for()) {
            (false, _) => found.fix("start the machine anew"),
            (true, Some(partner)) => found.fix(format!("let the machines meet: pc-switcher sync {partner}")),
            (true, None) => found.fix("pc-switcher rollback status"),
        });
    }
    if state.phase == RollbackPhase::Confirmed {
        let text = format!("former trees of rollback {} are not removed yet", state.session);
        return finding(Gravity::Note, text).map(|found| found.fix("pc-switcher rollback confirm"));
    }
    let text = match state.explain_by_itself() {
        Some(said) => format!("{said}; the trees beside those in place take space"),
        None => format!("rollback {} is not confirmed: its former trees take space", state.session),
    };
    let reached = look.reached.iter().map(|reached| format!("; {}", reached.explain()));
    finding(Gravity::Note, text + &reached.collect::<String>())
        .map(|found| found.fix("pc-switcher rollback confirm, or pc-switcher rollback cancel"))
}

/// What a sync itself would refuse.
fn refused(seen: &Seen) -> Vec<Finding> {
    let finding = |problem: &pc_switcher_contract::Problem| {
        let mut finding = Finding::new(seen.hostname(), Gravity::Fault, "modules", problem.message.clone());
        finding.fix.extend(problem.hint.clone());
        finding
    };
    seen.problems.iter().map(finding).collect()
}

/// An active swapfile makes a snapshot of its subvolume fail (facts/btrfs.md B30).
fn swap(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &seen.diagnosis.swapfiles {
        let holds = |one: &&pc_switcher_agent::proto::SubvolumeFact| one.mount_point == file.subvolume_root;
        let Some(subvolume) = seen.layout.subvolumes.iter().find(holds) else { continue };
        let text = format!(
            "the swapfile `{}` lies in `{}`: no snapshot of it can be taken while it is in use",
            file.path, subvolume.name
        );
        found.push(
            Finding::new(seen.hostname(), Gravity::Fault, "swap", text)
                .fix(format!("sudo swapoff {0} && sudo rm {0}", file.path))
                .fix("sudo btrfs subvolume create /swap")
                .fix(
                    "sudo btrfs filesystem mkswapfile --size 4g /swap/swapfile && sudo swapon /swap/swapfile",
                )
                .fix(format!("in /etc/fstab: /swap/swapfile instead of {}", file.path)),
        );
    }
    found
}

fn mounted_by_id(seen: &Seen) -> Vec<Finding> {
    let finding = |one: fstab::ById| {
        let text = format!(
            "/etc/fstab:{} mounts `{}` by `{}`: after a rollback that id is another subvolume's and the boot fails",
            one.line, one.mount_point, one.option
        );
        let finding = Finding::new(seen.hostname(), Gravity::Warning, "fstab", text);
        if one.has_name {
            finding
                .fix(format!("sudo sed -i -E '{}s/,subvolid=[0-9]+|subvolid=[0-9]+,//' /etc/fstab", one.line))
        } else {
            finding.fix(format!("write subvol=NAME instead of {} in line {}", one.option, one.line))
        }
    };
    fstab::by_id(&seen.diagnosis.fstab).into_iter().map(finding).collect()
}

/// Snapshots inside the root subvolume go away with it in a rollback.
fn snapshot_dir(seen: &Seen) -> Option<Finding> {
    let layout = &seen.layout;
    if layout.snapshot_dir_own_subvolume || layout.snapshot_fs_uuid.is_empty() {
        return None;
    }
    let dir = &seen.snapshot_dir;
    let exists = layout.snapshot_dir_exists;
    let text = match exists {
        true => format!(
            "`{dir}` is no subvolume of its own: after a rollback of `@` the snapshots are in the old root"
        ),
        false => format!(
            "`{dir}` is not there: the first set makes it a plain directory, and after a rollback of `@` the snapshots are in the old \
             root"
        ),
    };
    let uuid = &layout.snapshot_fs_uuid;
    let aside = if exists { format!("sudo mv {dir} {dir}-before && ") } else { String::new() };
    let found = Finding::new(seen.hostname(), Gravity::Warning, "layout", text)
        .fix(format!(
            "sudo mount -o subvolid=5 UUID={uuid} /mnt && sudo btrfs subvolume create /mnt/@snapshots && \
             sudo chmod 700 /mnt/@snapshots && sudo umount /mnt"
        ))
        .fix(format!("{aside}sudo mkdir -m 700 {dir}"))
        .fix(format!("echo 'UUID={uuid} {dir} btrfs subvol=@snapshots 0 0' | sudo tee -a /etc/fstab"))
        .fix(format!("sudo mount {dir}"))
        .fix("`pc-switcher init --make-snapshot-dir` on that machine does as much");
    if !exists {
        return Some(found);
    }
    Some(
        found.fix(format!("pc-switcher snapshots adopt --from orphan --dir {dir}-before")).fix(
            "what was taken before is listed again then, and `adopt` says how to remove what it came from",
        ),
    )
}

/// The snapshots of another disk lie on that disk.
fn others(seen: &Seen) -> Vec<Finding> {
    let layout = &seen.layout;
    let mut found = Vec::new();
    for place in &layout.others {
        let Some(first) = layout.subvolumes.iter().find(|fact| fact.fs_uuid == place.fs_uuid) else {
            continue;
        };
        let uuid = &place.fs_uuid;
        if let Some(dir) = &place.dir {
            if place.is_open {
                let text = format!(
                    "others than root may go into `{dir}`: what they could read when a set was taken they can read there"
                );
                let finding = Finding::new(seen.hostname(), Gravity::Note, "rights", text);
                found.push(finding.fix(format!("sudo chmod 700 {}", quoted(dir))));
            }
            continue;
        }
        let point = first.mount_point.to_string().trim_matches('/').replace('/', "-");
        let dir = format!("{}-{point}", seen.snapshot_dir);
        let (dir, entry) = (quoted(&BytePath::from(dir.as_str())), fstab::escaped(&dir));
        let text = format!(
            "`{}` lies on another file system than `{}`, and its snapshots have no place there: a set with it is refused",
            first.name.shown(),
            seen.snapshot_dir
        );
        let mut finding = Finding::new(seen.hostname(), Gravity::Fault, "layout", text);
        if !place.has_subvolume {
            finding = finding.fix(format!(
                "sudo mount -o subvolid=5 UUID={uuid} /mnt && sudo btrfs subvolume create /mnt/@snapshots && \
                 sudo chmod 700 /mnt/@snapshots && sudo umount /mnt"
            ));
        }
        found.push(
            finding
                .fix(format!("sudo mkdir -m 700 {dir}"))
                .fix(format!(
                    "echo 'UUID={uuid} {entry} btrfs subvol=@snapshots 0 0' | sudo tee -a /etc/fstab"
                ))
                .fix(format!("sudo mount {dir}"))
                .fix("or leave it out of subvolumes in [btrfs-snapshots] and of folders in [user-data]"),
        );
    }
    found
}

/// Whoever may go into the directory of snapshots reads there what he could read when they were taken.
fn rights(seen: &Seen) -> Option<Finding> {
    let dir = &seen.snapshot_dir;
    let text = format!(
        "others than root may go into `{dir}`: what they could read when a set was taken they can read there, and programs of then that run as \
         root they can start"
    );
    seen.layout.snapshot_dir_is_open.then(|| {
        Finding::new(seen.hostname(), Gravity::Note, "rights", text)
            .fix(format!("sudo chmod 700 {}", quoted(&BytePath::from(dir.as_str()))))
            .fix("unless another tool keeps its snapshots there for those who may see them")
    })
}

/// What is to be left out of copies is left out of no snapshot.
fn patterns(seen: &Seen) -> Option<Finding> {
    let table = seen.config.as_ref().ok()?.get("snapshots")?;
    let config = SnapshotsConfig::deserialize(table).ok()?;
    let why = config.idle_patterns(|| !seen.layout.snapshot_fs_uuid.is_empty())?;
    Some(Finding::new(seen.hostname(), Gravity::Note, "config", why))
}

/// Without btrfs sets are copies, unless the config says that they are to be of volumes.
fn volumes(seen: &Seen) -> Option<Finding> {
    let backend = seen.config.as_ref().ok().map(|config| config["snapshots"]["backend"].clone());
    let is_auto = backend.is_some_and(|backend| backend == "auto" || backend.is_null());
    if !seen.layout.snapshot_fs_uuid.is_empty() || !is_auto || seen.diagnosis.thin.is_empty() {
        return None;
    }
    let places: Vec<String> = seen.diagnosis.thin.iter().map(|place| format!("`{place}`")).collect();
    let text = format!(
        "sets are copies here, and {} lie in thin volumes of LVM: of those snapshots can be taken instead, at once and whole",
        places.join(", ")
    );
    Some(
        Finding::new(seen.hostname(), Gravity::Note, "layout", text)
            .fix("backend = \"lvm\" in [snapshots], and in [snapshots.components] only what lies in them"),
    )
}

/// Records of sets of volumes lie in none of these: no such set is taken.
fn records(seen: &Seen) -> Option<Finding> {
    let config = seen.config.as_ref().ok()?;
    let settings = SnapshotsConfig::deserialize(config.get("snapshots")?).ok()?;
    if settings.backend != Backend::Lvm {
        return None;
    }
    let dir = BytePath::from(seen.snapshot_dir.as_str());
    // What holds a path is the nearest of all that is mounted above it, as far as that is known here.
    let fstab = fstab::points(&seen.diagnosis.fstab);
    let holder = |path: &BytePath| {
        let all = seen.diagnosis.thin.iter().chain(&fstab).filter(|point| path.is_within(point));
        all.max_by_key(|point| point.as_bytes().len()).cloned()
    };
    let place = holder(&dir).filter(|point| seen.diagnosis.thin.contains(point))?;
    let is_taken = |folder: &BytePath| holder(folder).as_ref() == Some(&place) || place.is_within(folder);
    settings.copies().folders.iter().any(is_taken).then(|| {
        let text = format!(
            "`{dir}` lies in the volume at `{place}`, of which sets are to be: none is taken, since the records would go back with it"
        );
        Finding::new(seen.hostname(), Gravity::Fault, "layout", text)
            .fix("snapshot_dir in [btrfs-snapshots]: a directory on another file system")
    })
}

/// Nested subvolumes are followed unless the config says otherwise.
fn nested(seen: &Seen) -> Vec<Finding> {
    let is_skipped = seen.config.as_ref().is_ok_and(|config| config["user-data"]["nested"] == "skip");
    let parts = seen.layout.parts.iter().filter(|_| is_skipped);
    let paths = parts.flat_map(|part| part.nested.iter().map(|nested| part.root.join(nested.as_bytes())));
    let finding = |path: BytePath| {
        let text = format!("`{path}` is a nested subvolume: it is in no snapshot and not synced");
        Finding::new(seen.hostname(), Gravity::Warning, "layout", text)
            .fix("to sync it: nested = \"follow\" in [user-data]")
    };
    paths.map(finding).collect()
}

/// Layers that are subvolumes stay as they are in a rollback, and the list of them in the tree around them goes back.
fn layers(seen: &Seen) -> Vec<Finding> {
    let goes_back = |layers: &&pc_switcher_agent::proto::Layers| {
        seen.layout.subvolumes.iter().find(|one| one.mount_point == layers.subvolume_root)
    };
    let finding = |layers: &pc_switcher_agent::proto::Layers| {
        let holder = goes_back(&layers)?;
        let text = format!(
            "the layers of containers in `{}` are subvolumes inside of `{}`: a rollback of that takes the list of images and containers \
             back and leaves the layers as they are",
            layers.path, holder.name
        );
        Some(
            Finding::new(seen.hostname(), Gravity::Warning, "containers", text)
                .fix("make the directory that holds both one subvolume: then neither goes back")
                .fix("or docker: \"storage-driver\": \"overlay2\" in /etc/docker/daemon.json, and pull the images again"),
        )
    };
    seen.diagnosis.layers.iter().filter_map(finding).collect()
}

/// Writes a path as a word of a shell; bytes that cannot be shown make one that matches nothing else.
pub(crate) fn quoted(path: &BytePath) -> String {
    let text = path.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@+,:=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Quotas make snapshots slow and their removal freeze the machine (facts/btrfs.md B39).
fn quotas(seen: &Seen) -> Vec<Finding> {
    let finding = |point: &BytePath| {
        let text = format!(
            "quotas are on for the file system of `{point}`: removing snapshots may freeze the machine"
        );
        Finding::new(seen.hostname(), Gravity::Warning, "quotas", text)
            .fix(format!("sudo btrfs quota disable {}", quoted(point)))
    };
    seen.diagnosis.quotas.iter().map(finding).collect()
}

fn boot(seen: &Seen) -> Option<Finding> {
    let (point, fs_type) = seen.diagnosis.boot.as_ref()?;
    let text = format!("`{point}` is a file system of its own ({fs_type}): kernels do not go back with `@`");
    Some(Finding::new(seen.hostname(), Gravity::Note, "boot", text))
}

/// While all that is in sets is written anew, they hold as much again (facts/archive-loop.md A40).
fn room(seen: &Seen) -> Option<Finding> {
    let finding = |text: String| Some(Finding::new(seen.hostname(), Gravity::Note, "room", text));
    let (report, parts) = match &seen.room {
        Ok(room) => room,
        Err(why) => return finding(format!("it cannot be told what lies beside snapshots: {why}")),
    };
    parts.lacks(report)?;
    finding(format!(
        "the disk of `{}` has {}, and {} are advised: twice the {} that sets are taken of, {} of all else and {} free; with less, \
         sets have to go sooner",
        seen.snapshot_dir,
        human_bytes(report.size_bytes),
        human_bytes(parts.advised_bytes()),
        human_bytes(parts.source_bytes),
        human_bytes(parts.other_bytes),
        human_bytes(FREE_BYTES),
    ))
}

fn clock(seen: &Seen) -> Option<Finding> {
    let text = "its clock follows no time server";
    (!seen.diagnosis.clock_follows).then(|| {
        Finding::new(seen.hostname(), Gravity::Warning, "clock", text).fix("sudo timedatectl set-ntp true")
    })
}

fn sudo(seen: &Seen) -> Option<Finding> {
    let line = pc_switcher_installer::sudoers_line(&seen.user);
    let file = pc_switcher_installer::sudoers_file(&seen.user);
    let text = format!("sudo asks {} for a password: no sync without a terminal", seen.user);
    seen.sudo_asked.then(|| {
        Finding::new(seen.hostname(), Gravity::Warning, "sudo", text)
            .fix(format!("echo '{line}' | sudo EDITOR='tee' visudo -f {file}"))
    })
}

fn sshd(seen: &Seen) -> Option<Finding> {
    let said = seen.sshd.as_ref().ok()?;
    let sessions =
        said.lines().find_map(|line| line.strip_prefix("maxsessions "))?.trim().parse::<u32>().ok()?;
    let text =
        format!("its sshd allows {sessions} session in a connection (MaxSessions), syncs to it want more");
    (sessions < SESSIONS_WANTED).then(|| {
        Finding::new(seen.hostname(), Gravity::Warning, "sshd", text)
            .fix("echo 'MaxSessions 10' | sudo tee /etc/ssh/sshd_config.d/00-sessions.conf && sudo systemctl reload ssh")
    })
}

fn program(seen: &Seen) -> Option<Finding> {
    let installed = match &seen.installed {
        Ok(installed) => installed,
        Err(why) => {
            let text = format!("pc-switcher is not installed: {why}; a sync brings it");
            return Some(Finding::new(seen.hostname(), Gravity::Note, "program", text));
        }
    };
    let (theirs, own) = (Version::parse(installed).ok()?, Version::parse(&seen.own_version).ok()?);
    match theirs.cmp_precedence(&own) {
        std::cmp::Ordering::Less => {
            let text = format!("pc-switcher {theirs} is installed; a sync brings {own}");
            Some(Finding::new(seen.hostname(), Gravity::Note, "program", text))
        }
        std::cmp::Ordering::Greater => {
            let text =
                format!("pc-switcher {theirs} is installed, newer than {own}: a sync to it is refused");
            Some(
                Finding::new(seen.hostname(), Gravity::Fault, "program", text)
                    .fix(format!("install pc-switcher {theirs} here too, or sync from {}", seen.hostname())),
            )
        }
        std::cmp::Ordering::Equal => None,
    }
}

fn markers(seen: &Seen) -> Vec<Finding> {
    let finding = |marker: &String| {
        Finding::new(seen.hostname(), Gravity::Warning, "markers", marker.clone())
            .fix("the same sync again plans anew and brings what is missing")
    };
    seen.markers.iter().map(finding).collect()
}
