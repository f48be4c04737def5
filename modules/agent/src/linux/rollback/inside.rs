//! What keeps subvolumes inside of those that go back from moving along: looked for before anything is done (docs/adr/0024).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{BytePath, SnapshotMember, SubvolumeName, Vital};

use super::nested::TOLD;
use super::top::{Top, device_of};
use crate::data::along;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::finder::Finder;
use crate::linux::install::BIN;
use crate::linux::mounts::Mounts;
use crate::linux::state::STATE_PATH;
use crate::proto::{AgentError, Inside, RollbackWish, SubvolumeFact, SwapFile};

/// So many that stand in the way are named.
const NAMED: usize = 20;

/// Where units lie beside the places without which no machine starts, which are looked at apart.
const UNITS: &str = "/usr/local/lib/systemd/system";

/// What is known of the machine.
pub(super) struct Around<'a> {
    pub(super) finder: &'a Finder<'a>,
    pub(super) mounts: &'a Mounts,
    pub(super) swap_files: &'a [SwapFile],
    /// What mounts file systems by itself, and in which lines: `/etc/fstab` of now, that of the state that is gone back to, and units.
    pub(super) tables: [(&'a str, &'a str); 3],
}

/// What was found of one subvolume that goes back.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Why some cannot come along.
    pub(super) problems: Vec<String>,
    /// Those that come along.
    pub(super) along: Vec<Inside>,
    /// How many more there are.
    pub(super) more: u64,
}

/// One of them.
struct One<'a> {
    /// Where it is seen.
    point: BytePath,
    /// Its path in the subvolume that goes back.
    path: BytePath,
    /// Its id, and those of all inside of it.
    ids: Vec<u64>,
    of: &'a SubvolumeFact,
}

/// Looks at all that stand in a subvolume.
///
/// # Errors
/// If the machine cannot be looked at.
pub(super) fn judge(
    around: &Around<'_>,
    wish: &RollbackWish,
    fact: &SubvolumeFact,
    member: &SnapshotMember,
) -> Result<Judged, AgentError> {
    let uuid = KernelBtrfs.fs_uuid(fact.mount_point.as_path());
    let uuid = uuid.map_err(|error| AgentError::io(format!("`{}`", fact.mount_point), &error))?;
    let tree = &around.finder.system(uuid)?.tree;
    let mut judged = Judged::default();
    let inside = tree.directly_below(fact.id);
    if inside.is_empty() {
        return Ok(judged);
    }
    let all = tree.nested(fact.id, &BytePath::default());
    let failed =
        |error: io::Error| AgentError::io(format!("cannot look at `{}` and its set", fact.name), &error);
    let device = device_of(&fact.fs_uuid)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    // Past whatever is mounted on it.
    let top = Top::mount(&device).map_err(failed)?;
    let from = top.open(fact.name.as_str()).map_err(failed)?;
    let to = along::open_tree(&member.path).map_err(|error| failed(error.into()))?;
    let mut unnamed = 0_usize;
    for (path, id) in inside {
        let ids = all.iter().filter(|(other, _)| other.is_within(&path)).map(|(_, id)| *id).collect();
        let one = One { point: fact.mount_point.join(path.as_bytes()), path, ids, of: fact };
        match in_the_way(&one, around, wish, (&from, &to)).map_err(failed)? {
            Some(_) if judged.problems.len() == NAMED => unnamed += 1,
            Some(why) => judged.problems.push(why),
            None if judged.along.len() == TOLD => judged.more += 1,
            None => {
                let name = tree.name(id);
                let is_it = |held: &SubvolumeName| Some(held) == name.as_ref();
                let is_held = wish.to.members.iter().any(|member| is_it(&member.name.subvolume));
                judged.along.push(Inside { path: one.point, is_held, stays: None });
            }
        }
    }
    if unnamed > 0 {
        judged.problems.push(format!(
            "{unnamed} more subvolumes inside of `{}` cannot come along (`sudo btrfs subvolume list -o {}` lists all)",
            fact.name, fact.mount_point
        ));
    }
    Ok(judged)
}

fn in_the_way(
    one: &One<'_>,
    around: &Around<'_>,
    wish: &RollbackWish,
    (from, to): (&OwnedFd, &OwnedFd),
) -> io::Result<Option<String>> {
    let One { point, path, of: SubvolumeFact { name, fs_uuid, .. }, .. } = one;
    let what = format!("`{point}` is a subvolume inside of `{name}` that cannot come along");
    let is_inside = |dir: &BytePath| {
        let fs = KernelBtrfs.fs_uuid(dir.as_path());
        let id = KernelBtrfs.subvolume(dir.as_path());
        fs.is_ok_and(|fs| fs.dashed() == *fs_uuid) && id.is_ok_and(|info| one.ids.contains(&info.id))
    };
    if is_inside(&wish.snapshot_dir) {
        return Ok(Some(format!(
            "{what}: the snapshots in `{}` lie in it; give them a top-level subvolume of their own (`pc-switcher doctor` prints the \
             commands)",
            wish.snapshot_dir
        )));
    }
    let out = "move it to the top level and mount it, or remove it";
    if let Some(ours) = [STATE_PATH, BIN].into_iter().find(|ours| BytePath::from(*ours).is_within(point)) {
        return Ok(Some(format!(
            "{what}: `{ours}` lies in it, which has to be there before it could come; {out}"
        )));
    }
    if let Some(area) = Vital::of([]).area(point, true) {
        return Ok(Some(format!(
            "{what}: the machine needs what is in it ({area}) before it could come, and of one state with the rest; {out}"
        )));
    }
    if BytePath::from(UNITS).is_within(point) && fs::read_dir(UNITS).is_ok_and(|mut all| all.next().is_some())
    {
        return Ok(Some(format!(
            "{what}: units in `{UNITS}` lie in it, which the start reads before it could come; {out}"
        )));
    }
    if around.mounts.all().any(|mount| mount.point == *point) {
        return Ok(Some(format!("{what}: it is a mount point; unmount it, or {out}")));
    }
    let needed =
        |(by, text): &(&str, &str)| needed_by(text, one).map(|place| format!("{by} mounts `{place}`"));
    if let Some(needed) = around.tables.iter().find_map(needed) {
        return Ok(Some(format!("{what}: {needed} before it could come; {out}")));
    }
    if let Some(file) = around.swap_files.iter().find(|file| is_inside(&file.subvolume_root)) {
        return Ok(Some(format!(
            "{what}: the swap file `{}` in it is in use; `swapoff` it first",
            file.path
        )));
    }
    if let Some(why) = along::held_back(from, path)? {
        return Ok(Some(format!("{what}: {why}")));
    }
    Ok(along::obstacle(to, path)?.map(|why| {
        format!("{what}: in set `{}`, {why}; move it out of the way of that, or remove it", wish.to.id())
    }))
}

/// Returns the units of a directory that mount something, as lines of an fstab.
pub(super) fn mount_units(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let units = entries.filter(|path| path.extension().is_some_and(|kind| kind == "mount" || kind == "swap"));
    let line = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
        let what = value("What=")?;
        let place = value("Where=").unwrap_or("none");
        let has_blank = |word: &str| word.contains(char::is_whitespace);
        let words = [what, place, value("Type=").unwrap_or("auto"), value("Options=").unwrap_or("defaults")];
        (!words.iter().any(|word| has_blank(word))).then(|| words.join(" ") + "\n")
    };
    units.filter_map(line).collect()
}

/// Returns where the first line mounts something that needs the subvolume: at a place in it, or it itself.
fn needed_by(fstab: &str, one: &One<'_>) -> Option<String> {
    let own = BytePath::from(one.of.name.as_str()).join(one.path.as_bytes());
    fstab.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
        let mut words = line.split_whitespace();
        let (source, place, kind) = (words.next()?, words.next()?, words.next()?);
        let options = words.next().unwrap_or_default();
        let is_it = |option: &str| {
            let path = option.strip_prefix("subvol=").map(|path| path.trim_start_matches('/'));
            let number = option.strip_prefix("subvolid=").and_then(|number| number.parse().ok());
            path.is_some_and(|path| BytePath::from(path).is_within(&own))
                || number.is_some_and(|number: u64| one.ids.contains(&number))
        };
        let is_inside = |path: &str| BytePath::from(path).is_within(&one.point);
        let is_of_it = kind == "btrfs" && options.split(',').any(is_it);
        let is_by_hand = options.split(',').any(|option| option == "noauto");
        // A bind mount, an image, a swap file.
        let named = if is_inside(source) { source } else { place };
        ((is_inside(source) || is_inside(place) || is_of_it) && !is_by_hand).then(|| named.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_mount_something_are_lines_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(
            "snap-x-1.mount",
            "[Mount]\nWhat=/var/lib/snapd/snaps/x_1.snap\nWhere=/snap/x/1\nType=squashfs\n",
        );
        put("mine.service", "[Service]\nExecStart=/bin/true\n");
        put("odd.mount", "[Mount]\nWhat=/with blank\nWhere=/odd\n");
        assert_eq!(mount_units(dir.path()), "/var/lib/snapd/snaps/x_1.snap /snap/x/1 squashfs defaults\n");
        put("swap.swap", "[Swap]\nWhat=/swap/file\n");
        assert!(mount_units(dir.path()).contains("/swap/file none auto defaults\n"));
        assert_eq!(mount_units(&dir.path().join("nowhere")), "");
    }

    #[test]
    fn what_fstab_mounts_in_one_or_of_one_is_found_and_nothing_else() {
        let of = SubvolumeFact {
            name: "@".parse().unwrap(),
            mount_point: "/".into(),
            uuid: String::new(),
            id: 256,
            fs_uuid: String::new(),
            generation: 7,
        };
        let one = One { point: "/srv/data".into(), path: "srv/data".into(), ids: vec![300], of: &of };
        for (line, wanted) in [
            ("tmpfs /srv/data/tmp tmpfs defaults 0 0", Some("/srv/data/tmp")),
            ("UUID=x /mnt/data btrfs rw,subvol=/@/srv/data 0 0", Some("/mnt/data")),
            ("UUID=x /mnt/data btrfs subvol=@/srv/data/deep", Some("/mnt/data")),
            ("UUID=x /mnt/data btrfs rw,subvolid=300 0 0", Some("/mnt/data")),
            ("UUID=x /mnt/data btrfs rw,subvolid=30 0 0", None),
            ("/srv/data/home /home none bind 0 0", Some("/srv/data/home")),
            ("/srv/data/x.img /mnt/x ext4 loop", Some("/srv/data/x.img")),
            ("/srv/data/swapfile none swap sw 0 0", Some("/srv/data/swapfile")),
            ("UUID=x /srv/data btrfs defaults,noauto 0 0", None),
            ("#UUID=x /srv/data btrfs defaults 0 0", None),
            ("UUID=x /srv/database btrfs subvol=@/srv/dat 0 0", None),
            ("UUID=x / btrfs subvol=@ 0 1", None),
            ("garbage", None),
        ] {
            assert_eq!(needed_by(line, &one).as_deref(), wanted, "{line}");
        }
    }
}
