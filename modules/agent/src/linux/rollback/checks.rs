//! What would keep a rollback from working, or lose something by it. Each finding says what to do about it.

use std::fs;
use std::path::Path;

use pc_switcher_contract::{BytePath, SnapshotMember, SubvolumeName, Vital};

use super::inside::{self, Around};
use super::spaces::{self, Line, Space};
use super::table;
use crate::linux::boot::kernels;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::diagnose;
use crate::linux::finder::Finder;
use crate::linux::mounts::{Mount, Mounts};
use crate::linux::packages;
use crate::linux::snapshots::{check_set, fstab_digest, is_foreign};
use crate::proto::{AgentError, Inside, RollbackMember, RollbackWish, SubvolumeFact};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) members: Vec<RollbackMember>,
    pub(super) problems: Vec<String>,
    /// What is to be known, and keeps nobody from anything.
    pub(super) warnings: Vec<String>,
    /// Whether a subvolume holds what starts the machine or lets people in.
    pub(super) is_vital: bool,
    /// Why that state would not find the journal of a rollback when it starts, if so.
    pub(super) unattended: Option<String>,
    /// Subvolumes inside that come along, and how many more.
    pub(super) inside: Vec<Inside>,
    pub(super) inside_more: u64,
}

/// Checks a wish.
///
/// # Errors
/// If the machine cannot be looked at.
pub(super) fn check(wish: &RollbackWish) -> Result<Checked, AgentError> {
    let (mounts, btrfs) = (Mounts::read()?, &KernelBtrfs);
    let finder = Finder::new(btrfs, &mounts, &[&wish.snapshot_dir])?;
    let mut checked = Checked::default();
    let problems = &mut checked.problems;
    // Another disk need not be there: nothing on it goes back.
    if let Err(why) = check_set(&wish.to.at_home()) {
        problems.push(format!("set `{}` cannot be trusted: {why}", wish.to.id()));
    }
    if wish.to.members.iter().any(is_foreign) {
        problems.push(format!(
            "set `{}` was taken by another tool, which may remove it at any time; bring back what you need with `pc-switcher \
             snapshots restore`, or go back with that tool",
            wish.to.id()
        ));
    }
    let vital = Vital::of([]);
    // Nothing else is asked: in an early start there may be nobody to answer, and no list of users.
    let (swapfiles, fstab_now) = (diagnose::swap_files(&mounts), text_of("/etc/fstab"));
    let holder = KernelBtrfs.subvolume(wish.snapshot_dir.as_path());
    let units = inside::mount_units(Path::new("/etc/systemd/system"));
    let goes_back = root_of(wish, &finder);
    let fstab_of_then = goes_back.and_then(fstab_of);
    if goes_back.is_some() {
        let (id, dir) = (wish.to.id(), wish.snapshot_dir.as_path());
        let recorded = fstab_digest(dir, &id);
        let digests = (recorded.as_deref(), &*packages::digest(fstab_now.as_bytes()));
        checked.warnings =
            table::warnings(&id, fstab_of_then.as_deref(), &fstab_now, digests, Path::new("/"));
    }
    let fstab_then = fstab_of_then.unwrap_or_else(|| fstab_now.clone());
    let around = Around {
        finder: &finder,
        mounts: &mounts,
        swap_files: &swapfiles,
        tables: [
            ("`/etc/fstab`", &fstab_now),
            ("`/etc/fstab` of that state", &fstab_then),
            ("a unit in `/etc/systemd/system`", &units),
        ],
    };
    for name in &wish.subvolumes {
        let Some(member) = wish.to.member(name) else {
            problems.push(format!("set `{}` does not hold `{name}`", wish.to.id()));
            continue;
        };
        let Some(fact) = finder.by_name(name) else {
            problems.push(format!("`{name}` is not mounted, so it cannot be told what works on it"));
            continue;
        };
        if name.is_nested() {
            problems.push(format!(
                "`{}` is a subvolume inside of another one: bring back what you need of it with `pc-switcher snapshots restore`, \
                 and name the others with `--subvol`",
                fact.mount_point
            ));
            continue;
        }
        if member.apart.is_some() {
            problems.push(format!(
                "`{name}` lies on another file system than `{}`, where the journal of a rollback is: bring back what you need of it with \
                 `pc-switcher snapshots restore`, and name the others with `--subvol`",
                wish.snapshot_dir
            ));
            continue;
        }
        if holder.as_ref().is_ok_and(|holder| holder.uuid.hex() == fact.uuid) {
            problems.push(format!(
                "the snapshots in `{}` lie in `{name}` itself and would stay behind in the old tree; give them a top-level \
                 subvolume of their own (`pc-switcher doctor` prints the commands)",
                wish.snapshot_dir
            ));
            continue;
        }
        let inside::Judged { problems: kept_back, along, more } =
            inside::judge(&around, wish, &fact, member)?;
        problems.extend(kept_back);
        checked.inside.extend(along);
        checked.inside_more += more;
        problems.extend(swap(&swapfiles, &fact));
        problems.extend(fstab(&fstab_now, "/etc/fstab", &fact));
        problems.extend(command_line(&fact));
        checked.is_vital |= vital.area(&fact.mount_point, true).is_some();
        if fact.mount_point == BytePath::from("/") {
            problems.extend(of_the_system(wish, member, &fact, &mounts));
            checked.unattended = (!mounts_as(&fstab_now, &fstab_then, &wish.snapshot_dir)).then(|| {
                format!("`/etc/fstab` of that state does not mount the snapshots at `{}`", wish.snapshot_dir)
            });
        }
        checked.members.push(RollbackMember {
            name: name.clone(),
            point: fact.mount_point,
            fs_uuid: fact.fs_uuid,
            old_uuid: fact.uuid,
            new_uuid: String::new(),
            made_of: member.uuid.clone(),
        });
    }
    if let Some(why) = checked.unattended.as_ref().filter(|_| !checked.inside.is_empty()) {
        checked.problems.push(format!(
            "{why}, so it would not find the subvolumes inside of the trees of now, such as `{}`; mend that, or move them to the top \
             level and mount them",
            checked.inside[0].path
        ));
    }
    Ok(checked)
}

/// Returns the state of `/` that is gone back to, if it goes back.
fn root_of<'a>(wish: &'a RollbackWish, finder: &Finder<'_>) -> Option<&'a SnapshotMember> {
    let is_root = |name: &&SubvolumeName| {
        finder.by_name(name).is_some_and(|fact| fact.mount_point == BytePath::from("/"))
    };
    wish.to.member(wish.subvolumes.iter().find(is_root)?)
}

fn fstab_of(root: &SnapshotMember) -> Option<String> {
    fs::read_to_string(root.path.as_path().join("etc/fstab")).ok()
}

fn text_of(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn swap(files: &[crate::proto::SwapFile], fact: &SubvolumeFact) -> Option<String> {
    let is_here = |file: &&crate::proto::SwapFile| {
        KernelBtrfs.subvolume(file.subvolume_root.as_path()).is_ok_and(|info| info.uuid.hex() == fact.uuid)
    };
    let file = files.iter().find(is_here)?;
    Some(format!("the swap file `{}` in `{}` is in use; `swapoff` it first", file.path, fact.name))
}

/// A mount that names the old tree by its number would come back to it, or fail (facts/btrfs.md B45).
fn fstab(text: &str, path: &str, fact: &SubvolumeFact) -> Option<String> {
    let by_number = |line: &&str| {
        let mut words = line.split_whitespace();
        let is_btrfs = !line.trim_start().starts_with('#') && words.nth(2) == Some("btrfs");
        is_btrfs && words.next().is_some_and(|options| has_number(options, fact.id))
    };
    let line = text.lines().find(by_number)?;
    let point = line.split_whitespace().nth(1).unwrap_or_default();
    Some(format!(
        "`{path}` mounts `{point}` by the number of the present tree (`subvolid={}`); remove that and keep `subvol={}`",
        fact.id, fact.name
    ))
}

/// Whether a state mounts the snapshots if the present one does.
fn mounts_as(now: &str, then: &str, snapshot_dir: &BytePath) -> bool {
    let mounts = |text: &str| {
        let points = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut points = points.filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_by_hand =
                words.get(3).is_some_and(|options| options.split(',').any(|option| option == "noauto"));
            Some(BytePath::from(*words.get(1)?)).filter(|_| !is_by_hand)
        });
        points.any(|point| point != BytePath::from("/") && snapshot_dir.is_within(&point))
    };
    mounts(then) || !mounts(now)
}

fn command_line(fact: &SubvolumeFact) -> Option<String> {
    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let flags = text.split_whitespace().find_map(|word| word.strip_prefix("rootflags="))?;
    has_number(flags, fact.id).then(|| {
        format!(
            "the kernel's command line mounts the present tree of `{}` by its number (`subvolid={}`); have the boot loader \
             name `subvol={}`",
            fact.name, fact.id, fact.name
        )
    })
}

fn has_number(options: &str, id: u64) -> bool {
    options
        .split(',')
        .filter_map(|option| option.strip_prefix("subvolid="))
        .any(|number| number.parse() == Ok(id))
}

/// What will boot must find its mounts and its modules in the old system.
fn of_the_system(
    wish: &RollbackWish,
    member: &SnapshotMember,
    fact: &SubvolumeFact,
    mounts: &Mounts,
) -> Vec<String> {
    let then = |path: &str| member.path.as_path().join(path);
    let mut problems = Vec::new();
    let text = fs::read_to_string(then("etc/fstab")).unwrap_or_default();
    problems.extend(fstab(&text, "/etc/fstab` of that state, which `", fact));
    let boot_holder = mounts.holding(&"/boot".into());
    let is_apart = boot_holder.is_some_and(|mount| mount.point != BytePath::from("/"))
        || kernels::are_apart(Path::new("/"));
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let missing = kernels::left_without_modules(Path::new("/"), member.path.as_path(), running.trim());
    problems.extend(missing.filter(|_| is_apart).map(|kernel| {
        format!(
            "{}: remove that kernel, so that an older one starts (on Debian and Ubuntu `sudo apt remove linux-image-{kernel}`), or go \
             back to a younger set",
            kernels::lacking(&wish.to.id(), &kernel)
        )
    }));
    problems
}

/// A tree at the top level of a file system.
pub(super) struct Place<'a> {
    /// Of which subvolume it is, or was.
    pub(super) of: &'a SubvolumeName,
    /// Its name at the top level.
    pub(super) name: String,
    /// The uuid of its file system.
    pub(super) fs_uuid: &'a str,
}

/// Returns those of which a tree is mounted anywhere on this machine; all, if that cannot be told.
pub(super) fn mounted(places: &[Place<'_>]) -> Vec<SubvolumeName> {
    let Ok(spaces) = spaces::all() else { return places.iter().map(|place| place.of.clone()).collect() };
    let is_it = |place: &&Place<'_>| is_mounted(&spaces, place, device_of(place.fs_uuid).as_deref());
    places.iter().filter(is_it).map(|place| place.of.clone()).collect()
}

fn is_mounted(spaces: &[Space], place: &Place<'_>, device: Option<&str>) -> bool {
    let root = BytePath::from(format!("/{}", place.name).as_str());
    // A file system that we do not see ourselves is told by the names alone.
    let is_it =
        |line: &Line| device.is_none_or(|device| line.device == *device) && line.root.is_within(&root);
    spaces.iter().any(|space| space.lines.iter().any(is_it))
}

/// Returns how mount tables call a btrfs; it has one number however many of its subvolumes are mounted. `None` if we do not see it.
pub(super) fn device_of(fs_uuid: &str) -> Option<String> {
    let table = Mounts::read().ok()?;
    let is_it = |mount: &&Mount| {
        mount.is_btrfs()
            && KernelBtrfs.fs_uuid(mount.point.as_path()).is_ok_and(|uuid| uuid.dashed() == fs_uuid)
    };
    table.visible().find(is_it).map(|mount| mount.device.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_mounts_no_snapshots_finds_no_journal() {
        let (with, without) = (
            "UUID=x / btrfs subvol=@ 0 0\nUUID=x /.snapshots btrfs subvol=@snapshots 0 0\n",
            "UUID=x / btrfs subvol=@ 0 0\n#UUID=x /.snapshots btrfs subvol=@snapshots 0 0\n",
        );
        let dir = "/.snapshots".into();
        assert!(mounts_as(with, with, &dir) && mounts_as(without, with, &dir));
        assert!(!mounts_as(with, without, &dir));
        assert!(mounts_as(without, without, &dir), "something else mounts them");
    }

    fn fact(id: u64) -> SubvolumeFact {
        SubvolumeFact {
            name: "@home".parse().unwrap(),
            mount_point: "/home".into(),
            uuid: String::new(),
            id,
            fs_uuid: String::new(),
            generation: 0,
        }
    }

    #[test]
    fn a_mount_by_the_number_of_the_present_tree_is_found_and_others_are_not() {
        let text = "# UUID=x /home btrfs subvolid=257 0 0\n\
            UUID=x / btrfs subvol=@,subvolid=256 0 0\n\
            UUID=x /home btrfs defaults,subvol=@home,subvolid=257 0 0\n\
            UUID=y /other ext4 subvolid=258 0 0\n";
        let said = fstab(text, "/etc/fstab", &fact(257)).unwrap();
        assert!(said.contains("`/home`") && said.contains("subvol=@home"), "{said}");
        assert_eq!(fstab(text, "/etc/fstab", &fact(258)), None);
        assert_eq!(fstab(text, "/etc/fstab", &fact(25)), None);
    }
}
