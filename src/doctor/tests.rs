//! Every finding, from what is seen to what is said.

use pc_switcher_agent::proto::{
    ApplyReport, BootCount, BootLook, Conflict, Counted, Diagnosis, FolderPart, Holdings, Layers, Layout,
    MachineFacts, Redone, RedoneHow, RollbackLook, RollbackPhase, RollbackState, Session, SpaceReport,
    Standing, StrayJournal, SubvolumeFact, SwapFile, Together, Unnamed, UserFact,
};
use pc_switcher_contract::Problem;
use pc_switcher_disk_monitor::parts::Parts;
use serde_json::json;

use super::*;
use crate::orchestrator::topology::Stranger;

const HELD: Holdings = Holdings { source_bytes: Some(50 << 30), snapshot_bytes: 10 << 30 };

fn disk(size_gib: u64, available_gib: u64) -> SpaceReport {
    SpaceReport {
        path: "/.snapshots".into(),
        fs_uuid: "f".into(),
        fs_type: "btrfs".into(),
        size_bytes: size_gib << 30,
        data_free_bytes: 0,
        unallocated_bytes: 0,
        metadata_free_bytes: 0,
        metadata_copies: 2,
        available_bytes: available_gib << 30,
    }
}

pub(super) fn healthy(name: &str) -> Seen {
    let part = FolderPart {
        folder: "/home".into(),
        root: "/home".into(),
        subvolume: Some("@home".parse().unwrap()),
        inside: "".into(),
        subvolume_uuid: "u".into(),
        fs_uuid: "f".into(),
        fs_type: "btrfs".into(),
        mount_point: "/home".into(),
        nested: Vec::new(),
        closed: Vec::new(),
        standing: Standing::Folder,
        is_empty: false,
        leftovers: Vec::new(),
    };
    let subvolume = SubvolumeFact {
        name: "@".parse().unwrap(),
        mount_point: "/".into(),
        uuid: "r".into(),
        id: 256,
        fs_uuid: "f".into(),
        generation: 1,
    };
    Seen {
        facts: MachineFacts {
            hostname: name.parse().unwrap(),
            machine_id: name.into(),
            boot_id: "b".into(),
            arch: "x86_64".into(),
            kernel: "6".into(),
            users: vec![UserFact { name: "alice".into(), uid: 1000, gid: 1000, home: "/home/alice".into() }],
            clock_seconds: 0,
            elevated: true,
        },
        layout: Layout {
            parts: vec![part],
            missing_folders: Vec::new(),
            unfit_folders: Vec::new(),
            foreign: Vec::new(),
            subvolumes: vec![subvolume],
            missing_subvolumes: Vec::new(),
            known_subvolumes: Vec::new(),
            snapshot_fs_uuid: "f".into(),
            snapshot_dir_exists: true,
            snapshot_dir_own_subvolume: true,
            snapshot_dir_is_open: false,
            others: Vec::new(),
            doubled: Vec::new(),
        },
        diagnosis: Diagnosis { clock_follows: true, ..Diagnosis::default() },
        problems: Vec::new(),
        user: "alice".into(),
        sudo_asked: false,
        sshd: Ok("port 22\nmaxsessions 10\n".into()),
        installed: Ok("1.2.0".into()),
        own_version: "1.2.0".into(),
        markers: Vec::new(),
        redone: Vec::new(),
        rollback: Ok(RollbackLook::default()),
        boot: Ok(BootLook::default()),
        room: Ok((disk(1000, 900), Parts::of(&disk(1000, 900), &HELD))),
        good: Ok(Vec::new()),
        is_busy: false,
        config: Ok(json!({"user-data": {"exclude": []}})),
        clock_ms: 0,
        clock_doubt_ms: 1000,
        way_back: None,
        stranger: None,
        snapshot_dir: "/.snapshots".into(),
    }
}

/// Changes one of two healthy machines and returns what is found: machine, gravity, check.
fn found(change: impl FnOnce(&mut Seen, &mut Seen)) -> Vec<Finding> {
    let (mut source, mut target) = (healthy("laptop"), healthy("desk"));
    change(&mut source, &mut target);
    judge(&[source, target])
}

#[track_caller]
fn assert_found(
    change: impl FnOnce(&mut Seen, &mut Seen),
    host: &str,
    gravity: Gravity,
    check: &str,
    words: &str,
) {
    let found = found(change);
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = &found[0];
    assert_eq!((finding.hostname.as_str(), finding.gravity, finding.check), (host, gravity, check));
    let whole = format!("{} {}", finding.text, finding.fix.join(" "));
    assert!(whole.contains(words), "`{words}` is not in `{whole}`");
}

#[test]
fn two_healthy_machines_have_nothing_to_mend() {
    assert_eq!(found(|_, _| {}), []);
}

#[test]
fn what_stands_on_one_machine_is_found_there_with_its_fix() {
    use Gravity::{Fault, Note, Warning};
    let swap = SwapFile { path: "/swapfile".into(), subvolume_root: "/".into() };
    assert_found(
        |_, desk| desk.diagnosis.swapfiles = vec![swap],
        "desk",
        Fault,
        "swap",
        "sudo swapoff /swapfile",
    );
    let elsewhere = SwapFile { path: "/swap/file".into(), subvolume_root: "/swap".into() };
    assert_eq!(found(|_, desk| desk.diagnosis.swapfiles = vec![elsewhere]), []);
    let fstab = "UUID=1 / btrfs rw,subvolid=256,subvol=/@ 0 0\n";
    assert_found(
        |laptop, _| laptop.diagnosis.fstab = fstab.into(),
        "laptop",
        Warning,
        "fstab",
        "/etc/fstab:1",
    );
    let inside = |_: &mut Seen, desk: &mut Seen| desk.layout.snapshot_dir_own_subvolume = false;
    assert_found(
        inside,
        "desk",
        Warning,
        "layout",
        "btrfs subvolume create /mnt/@snapshots && sudo chmod 700",
    );
    let open = |_: &mut Seen, desk: &mut Seen| desk.layout.snapshot_dir_is_open = true;
    assert_found(open, "desk", Note, "rights", "sudo chmod 700 /.snapshots");
    let missing = |_: &mut Seen, desk: &mut Seen| {
        (desk.layout.snapshot_dir_own_subvolume, desk.layout.snapshot_dir_exists) = (false, false);
    };
    assert_found(
        missing,
        "desk",
        Warning,
        "layout",
        "is not there: the first set makes it a plain directory",
    );
    let inner = |laptop: &mut Seen, _: &mut Seen| laptop.layout.parts[0].nested = vec!["alice/vm".into()];
    assert_eq!(found(inner), []);
    let nested = |laptop: &mut Seen, desk: &mut Seen| {
        inner(laptop, desk);
        for seen in [laptop, desk] {
            seen.config = Ok(json!({"user-data": {"nested": "skip"}}));
        }
    };
    assert_found(nested, "laptop", Warning, "layout", "`/home/alice/vm` is a nested subvolume");
    let layers = |root: &'static str| {
        move |_: &mut Seen, desk: &mut Seen| {
            desk.diagnosis.layers =
                vec![Layers { path: "/var/lib/docker/btrfs/subvolumes".into(), subvolume_root: root.into() }];
        }
    };
    assert_found(layers("/"), "desk", Warning, "containers", "are subvolumes inside of `@`");
    assert_eq!(found(layers("/var/lib/docker")), [], "what lists them stays with them");
    let quotas = |_: &mut Seen, desk: &mut Seen| desk.diagnosis.quotas = vec!["/".into()];
    assert_found(quotas, "desk", Warning, "quotas", "sudo btrfs quota disable /");
    let thin = |_: &mut Seen, desk: &mut Seen| {
        desk.diagnosis.thin = vec!["/srv".into()];
        desk.layout.snapshot_fs_uuid.clear();
    };
    assert_found(thin, "desk", Note, "layout", "`/srv` lie in thin volumes of LVM");
    let chosen = |laptop: &mut Seen, desk: &mut Seen| {
        thin(laptop, desk);
        for seen in [laptop, desk] {
            seen.config = Ok(json!({"snapshots": {"backend": "lvm"}}));
        }
    };
    assert_eq!(found(chosen), []);
    let inside = |fstab: &'static str| {
        move |laptop: &mut Seen, desk: &mut Seen| {
            chosen(laptop, desk);
            desk.diagnosis.thin = vec!["/".into(), "/srv".into()];
            desk.diagnosis.fstab = fstab.into();
        }
    };
    let words = "`/.snapshots` lies in the volume at `/`";
    assert_found(inside("UUID=1 / ext4 defaults 0 1\n"), "desk", Fault, "layout", words);
    assert_eq!(found(inside("UUID=1 / ext4 rw 0 1\nUUID=2 /.snapshots ext4 rw 0 2 # apart\n")), []);
    let boot = |_: &mut Seen, desk: &mut Seen| desk.diagnosis.boot = Some(("/boot".into(), "ext4".into()));
    assert_found(boot, "desk", Note, "boot", "ext4");
    let patterns = |laptop: &mut Seen, desk: &mut Seen| {
        for seen in [&mut *laptop, desk] {
            seen.config = Ok(json!({"snapshots": {"exclude": ["*.iso"], "backend": "auto"}}));
        }
        laptop.layout.snapshot_fs_uuid.clear();
    };
    assert_found(patterns, "desk", Note, "config", "`exclude` in [snapshots] mean nothing here");
    let room = |_: &mut Seen, desk: &mut Seen| {
        desk.room = Ok((disk(100, 40), Parts::of(&disk(100, 40), &HELD)));
    };
    assert_found(room, "desk", Note, "room", "has 100.0 GiB, and 110.0 GiB are advised: twice the 50.0 GiB");
    let unknown = |laptop: &mut Seen, _: &mut Seen| laptop.room = Err("no root".into());
    assert_found(unknown, "laptop", Note, "room", "no root");
    assert_found(|_, desk| desk.diagnosis.clock_follows = false, "desk", Warning, "clock", "set-ntp");
    let line = "alice ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent";
    assert_found(|_, desk| desk.sudo_asked = true, "desk", Warning, "sudo", line);
    assert_found(
        |_, desk| desk.sshd = Ok("maxsessions 1\n".into()),
        "desk",
        Warning,
        "sshd",
        "MaxSessions 10",
    );
    assert_found(
        |_, desk| desk.markers = vec!["a run died".into()],
        "desk",
        Warning,
        "markers",
        "a run died",
    );
    let refused = |_: &mut Seen, desk: &mut Seen| {
        desk.problems = vec![Problem::general("there is no subvolume `@`").hint("name it")];
    };
    assert_found(refused, "desk", Fault, "modules", "there is no subvolume `@` name it");
}

#[test]
fn what_became_of_a_sync_that_was_cut_off_is_said_and_what_it_left_is_named() {
    use Gravity::{Note, Warning};
    let redone = |how| Redone { session: "0a1b2c3d".parse().unwrap(), how, report: ApplyReport::default() };
    let finished = redone(RedoneHow::Finished);
    assert_found(|_, desk| desk.redone = vec![finished], "desk", Note, "syncs", "is finished now");
    let pending = redone(RedoneHow::Pending("`/home` is not mounted".into()));
    let with_staging = |_: &mut Seen, desk: &mut Seen| {
        desk.redone = vec![pending];
        desk.layout.parts[0].leftovers = vec!["stage-0a1b2c3d".into(), "undo-0a1b2c3d".into()];
    };
    assert_found(with_staging, "desk", Warning, "syncs", "`/home` is not mounted");
    let conflict = Conflict { path: "/home/a".into(), why: "somebody changed it".into() };
    let report = ApplyReport { conflicts: vec![conflict], ..ApplyReport::default() };
    let with_conflict = Redone { report, ..redone(RedoneHow::Finished) };
    let found = found(|_, desk| desk.redone = vec![with_conflict]);
    assert!(is_ill(&found) && found.iter().any(|finding| finding.text.contains("`/home/a` was left")));
}

#[test]
fn a_rollback_that_is_not_over_is_named_with_what_ends_it() {
    use Gravity::{Fault, Note};
    let look = |phase, in_use: &[&str], partner: Option<&str>| RollbackLook {
        state: Some(RollbackState {
            session: "0a1b2c3d".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            to: "20251114T120000Z-0a1b2c3d-presync".parse().unwrap(),
            phase,
            members: Vec::new(),
            together: partner.map(|name| Together { partner: name.parse().unwrap(), leads: false }),
            records: Vec::new(),
            trial: None,
            fallback: None,
        }),
        in_use: in_use.iter().map(|name| name.parse().unwrap()).collect(),
        ..RollbackLook::default()
    };
    let desk = |look: RollbackLook| move |_: &mut Seen, desk: &mut Seen| desk.rollback = Ok(look);
    let done = RollbackPhase::Done;
    assert_found(desk(look(done, &["@home"], None)), "desk", Fault, "rollback", "start the machine anew");
    assert_found(desk(look(done, &[], None)), "desk", Note, "rollback", "pc-switcher rollback confirm");
    let waits = look(RollbackPhase::Prepared, &[], Some("laptop"));
    assert_found(desk(waits), "desk", Fault, "rollback", "pc-switcher sync laptop");
    let stray = |why| StrayJournal {
        session: "feedbeef".parse().unwrap(),
        place: "/.snapshots/.pc-switcher/rollback/journal.json".into(),
        why,
        beside: vec!["@.replaced-feedbeef".into()],
    };
    let with = |why| desk(RollbackLook { strays: vec![stray(why)], ..RollbackLook::default() });
    assert_found(with(Unnamed::Lost), "desk", Gravity::Warning, "rollback", "sudo tee /var/lib/pc-switcher");
    assert_found(with(Unnamed::Replaced), "desk", Note, "rollback", "subvolume delete");
    assert_found(with(Unnamed::Aside), "desk", Note, "rollback", "@.replaced-feedbeef");
    let unread = |why: &str| desk(RollbackLook { problems: vec![why.into()], ..RollbackLook::default() });
    let journal = "the journal `/.snapshots/.pc-switcher/rollback/journal.json` cannot be read: it ends";
    assert_found(unread(journal), "desk", Gravity::Warning, "rollback", "sudo mv /.snapshots/.pc-switcher");
    // Who moves the journal of another rollback away could never take that back.
    assert_found(
        unread("the disk fails"),
        "desk",
        Gravity::Warning,
        "rollback",
        "cannot be told: the disk fails",
    );
    let lost = |_: &mut Seen, desk: &mut Seen| desk.rollback = Err("mount the snapshots".into());
    assert_found(lost, "desk", Fault, "rollback", "no sync starts: mount the snapshots");
}

#[test]
fn staging_that_nobody_knows_is_named_unless_a_sync_is_under_way() {
    use Gravity::Warning;
    let left = |name: &'static str| {
        move |_: &mut Seen, desk: &mut Seen| desk.layout.parts[0].leftovers = vec![name.into()]
    };
    let remove = "sudo rm -r /home/.pc-switcher/stage-0a1b2c3d";
    assert_found(left("stage-0a1b2c3d"), "desk", Warning, "staging", remove);
    assert_found(left("kept-0a1b2c3d"), "desk", Warning, "staging", "take what you need");
    assert_found(left("undo-0a1b2c3d"), "desk", Warning, "staging", "the next sync to this machine");
    let found = found(|source, desk| {
        left("stage-0a1b2c3d")(source, desk);
        desk.is_busy = true;
    });
    assert!(!is_ill(&found), "{found:#?}");
}

#[test]
fn the_program_may_be_missing_or_old_but_not_newer() {
    use Gravity::{Fault, Note};
    assert_found(
        |_, desk| desk.installed = Err("no file".into()),
        "desk",
        Note,
        "program",
        "a sync brings it",
    );
    assert_found(
        |_, desk| desk.installed = Ok("1.1.9".into()),
        "desk",
        Note,
        "program",
        "a sync brings 1.2.0",
    );
    assert_found(|_, desk| desk.installed = Ok("1.3.0".into()), "desk", Fault, "program", "is refused");
}

#[test]
fn what_differs_between_two_machines_is_found_on_the_target() {
    use Gravity::{Fault, Warning};
    assert_found(
        |_, desk| desk.facts.users[0].uid = 1001,
        "desk",
        Fault,
        "users",
        "sudo usermod -u 1000 alice",
    );
    assert_found(
        |_, desk| desk.facts.users[0].name = "carol".into(),
        "desk",
        Fault,
        "users",
        "1000 is carol there and alice on laptop",
    );
    assert_found(|_, desk| desk.clock_ms = 172_800_000, "desk", Warning, "clock", "172798.0 s apart");
    assert_eq!(found(|_, desk| desk.clock_ms = -3_900), []);
    let desktop = |_: &mut Seen, desk: &mut Seen| {
        desk.diagnosis.sessions = vec![Session { uid: 1000, kind: "wayland".into() }];
    };
    assert_found(desktop, "desk", Warning, "sessions", "log out there");
    let other = |_: &mut Seen, desk: &mut Seen| desk.config = Ok(json!({"user-data": {"exclude": ["x"]}}));
    assert_found(other, "desk", Warning, "config", "[user-data]");
    let closed = |_: &mut Seen, desk: &mut Seen| desk.way_back = Some(Err("Permission denied".into()));
    assert_found(closed, "desk", Warning, "way-back", "ssh-copy-id laptop");
    let strange = |why| move |_: &mut Seen, desk: &mut Seen| desk.stranger = Some(why);
    let lost = Stranger::Broken("desk: a snapshot is gone".into());
    assert_found(strange(lost), "desk", Warning, "past", "desk: a snapshot is gone");
    assert_found(strange(Stranger::NoRecord), "desk", Gravity::Note, "past", "never been synced");
}

#[test]
fn a_person_reads_machine_by_machine_and_a_program_reads_json() {
    let (mut source, mut target) = (healthy("laptop"), healthy("desk"));
    target.diagnosis.clock_follows = false;
    target.facts.users[0].uid = 1001;
    target.installed = Err("no such file".into());
    source.way_back = None;
    let machines = [source, target];
    let findings = judge(&machines);
    assert!(is_ill(&findings));
    insta::assert_snapshot!(text(&machines, &findings).join("\n"));
    let json = json(&machines, &findings);
    assert_eq!((json["ill"].as_bool(), json["findings"][0]["gravity"].as_str()), (Some(true), Some("fault")));
}

#[test]
fn boot_protection_is_told_where_it_is_on_and_what_keeps_it_from_working() {
    let look = |starts, problems: &[&str]| {
        let counted = Counted::So(BootCount { starts, ..BootCount::default() });
        let problems = problems.iter().map(ToString::to_string).collect();
        BootLook { counted, problems, ..BootLook::default() }
    };
    let check = "boot-protection";
    let desk = |look: BootLook| move |_: &mut Seen, desk: &mut Seen| desk.boot = Ok(look);
    assert_found(desk(look(1, &[])), "desk", Gravity::Note, check, "1 start was not found healthy yet");
    assert_found(desk(look(2, &[])), "desk", Gravity::Warning, check, "pc-switcher rollback status");
    let stopped = found(desk(look(0, &["a swap file is in use"])));
    assert!(stopped.iter().any(|finding| finding.text.ends_with("a swap file is in use")), "{stopped:#?}");
    let wanted = |_: &mut Seen, desk: &mut Seen| {
        desk.config = Ok(json!({"user-data": {"exclude": []}, "boot-protection": {"enabled": true}}));
    };
    assert_found(wanted, "desk", Gravity::Warning, check, "pc-switcher snapshots auto on");
    assert_found(|_, desk| desk.boot = Err("no".into()), "desk", Gravity::Warning, check, "cannot be told");
}
