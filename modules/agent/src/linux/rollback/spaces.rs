//! Where a tree is mounted, in all namespaces of mounts that can be seen, and whether it goes from all of them by one `umount`.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use pc_switcher_contract::BytePath;

use crate::linux::mounts::unescape;
use crate::proto::AgentError;

/// A line of a mount table, with all that a mount has to be made anew with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) device: String,
    pub(super) root: BytePath,
    pub(super) point: BytePath,
    /// Those of the mount alone.
    pub(super) options: String,
    /// The group of mounts that share what is mounted below.
    pub(super) shared: Option<u64>,
    /// The group that it hears from.
    pub(super) master: Option<u64>,
    pub(super) fs_type: String,
    pub(super) source: BytePath,
    /// Those of the whole file system.
    pub(super) wide: String,
}

/// A namespace of mounts.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) is_ours: bool,
    /// Who works in it.
    pub(super) pids: Vec<u32>,
    pub(super) lines: Vec<Line>,
}

/// A tree, as mount tables name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    /// The device of its file system there.
    pub(super) device: &'a str,
    /// Its name at the top level.
    pub(super) name: &'a str,
}

/// Why a tree cannot go where it is mounted without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stays {
    /// Not without harm, whoever uses it.
    For(String),
    /// These work in namespaces that keep it.
    In(Vec<u32>),
}

impl Tree<'_> {
    fn root(&self) -> BytePath {
        BytePath::from(format!("/{}", self.name).as_str())
    }

    /// Whether a mount shows it, or a part of it.
    pub(super) fn is_in(&self, line: &Line) -> bool {
        line.device == self.device && line.root.is_within(&self.root())
    }
}

/// Reads the mount tables of all namespaces that a process is in. What ends meanwhile is left out.
///
/// # Errors
/// If not even our own can be read.
pub(super) fn all() -> Result<Vec<Space>, AgentError> {
    let failed = |error: std::io::Error| AgentError::io("cannot read `/proc/self/mountinfo`", &error);
    let own = fs::read_link("/proc/self/ns/mnt").map_err(failed)?;
    let table = fs::read("/proc/self/mountinfo").map_err(failed)?;
    let mut found: Vec<(PathBuf, Space)> =
        vec![(own, Space { is_ours: true, pids: Vec::new(), lines: parse(&table) })];
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| pid(&entry)) {
        let Ok(name) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if let Some((_, space)) = found.iter_mut().find(|(known, _)| *known == name) {
            space.pids.push(pid);
            continue;
        }
        let Ok(table) = fs::read(format!("/proc/{pid}/mountinfo")) else { continue };
        found.push((name, Space { is_ours: false, pids: vec![pid], lines: parse(&table) }));
    }
    Ok(found.into_iter().map(|(_, space)| space).collect())
}

fn pid(entry: &fs::DirEntry) -> Option<u32> {
    entry.file_name().to_str()?.parse().ok()
}

/// Whether this process sees other mounts than the machine's first one does: what it unmounts is unmounted for itself alone.
pub(super) fn is_apart() -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of("1").is_some_and(|first| Some(first) != of("self"))
}

/// Returns the one mount of a tree here, if one `umount` takes it from all namespaces; `None` if it is mounted nowhere.
pub(super) fn movable<'a>(spaces: &'a [Space], tree: &Tree<'_>) -> Result<Option<&'a Line>, Stays> {
    let of = |space: &'a Space| space.lines.iter().filter(|line| tree.is_in(line)).collect::<Vec<_>>();
    let ours = spaces.iter().filter(|space| space.is_ours).collect::<Vec<_>>();
    let lines: &[Line] = ours.first().map_or(&[][..], |space| &space.lines[..]);
    let here: Vec<&Line> = ours.first().map(|space| of(space)).unwrap_or_default();
    let elsewhere = || spaces.iter().filter(|space| !space.is_ours);
    let Some(one) = here.first() else {
        let keepers: Vec<u32> =
            elsewhere().filter(|space| !of(space).is_empty()).flat_map(|space| space.pids.clone()).collect();
        return if keepers.is_empty() { Ok(None) } else { Err(Stays::In(keepers)) };
    };
    if let Some(other) = here.get(1) {
        return Err(Stays::For(format!("it is mounted at `{}` and at `{}`", one.point, other.point)));
    }
    if one.root != tree.root() {
        return Err(Stays::For(format!("a part of it alone is mounted, at `{}`", one.point)));
    }
    if let Some(word) = one.options.split(',').find(|word| attribute(word).is_none()) {
        return Err(Stays::For(format!("`{}` is mounted with `{word}`", one.point)));
    }
    if let Some(inside) = lines.iter().find(|line| line.parent == one.id) {
        return Err(Stays::For(format!("`{}` is mounted in it", inside.point)));
    }
    let below = lines.iter().find(|line| line.id == one.parent);
    if below.is_some_and(|below| below.fs_type == "autofs") {
        return Err(Stays::For(format!("`{}` is mounted on demand", one.point)));
    }
    if let Some(over) = layered(spaces, &one.point) {
        return Err(Stays::For(format!("the overlay at `{}` is made of what is in it", over.point)));
    }
    let group = below.and_then(|below| below.shared);
    let keepers =
        elsewhere().filter(|space| of(space).iter().any(|line| !goes_along(space, line, one, group)));
    let keepers: Vec<u32> = keepers.flat_map(|space| space.pids.clone()).collect();
    match keepers.is_empty() {
        true => Ok(Some(one)),
        false => Err(Stays::In(keepers)),
    }
}

/// Whether a mount in another namespace goes with ours: it was made as a copy of it, below a mount that hears of what happens here,
/// and nothing is mounted in it. What covers it wholly (a service that sees no homes) stays and is in nobody's way.
fn goes_along(space: &Space, line: &Line, ours: &Line, group: Option<u64>) -> bool {
    let Some(below) = space.lines.iter().find(|other| other.id == line.parent) else { return false };
    let hears = group.is_some() && (below.shared == group || below.master == group);
    let mut on_it = space.lines.iter().filter(|other| other.parent == line.id);
    let is_covered = on_it.next().is_none_or(|first| first.point == line.point) && on_it.next().is_none();
    hears && line.root == ours.root && is_covered
}

/// Returns an overlay that has a layer below a path: the kernel holds those without mounting anything.
fn layered<'a>(spaces: &'a [Space], point: &BytePath) -> Option<&'a Line> {
    let is_inside = |line: &&Line| {
        let values = line.wide.split([',', ':']).map(|word| word.rsplit('=').next().unwrap_or_default());
        line.fs_type == "overlay" && values.into_iter().any(|path| BytePath::from(path).is_within(point))
    };
    spaces.iter().flat_map(|space| &space.lines).find(is_inside)
}

/// Returns where a namespace of mounts is kept that no process is in, such as snapd's: what is mounted there cannot be seen.
pub(super) fn kept_unseen(spaces: &[Space]) -> Option<BytePath> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| fs::read_link(entry.path().join("ns/mnt")).ok());
    let seen: HashSet<String> = numbers.map(|name| name.to_string_lossy().into_owned()).collect();
    let kept = spaces.iter().flat_map(|space| &space.lines).find(|line| {
        let root = String::from_utf8_lossy(line.root.as_bytes()).into_owned();
        line.fs_type == "nsfs" && root.starts_with("mnt:[") && !seen.contains(&root)
    });
    kept.map(|line| line.point.clone())
}

/// An option of a mount that a new one is given as well; `None` is one that we do not know, or would not give.
pub(super) fn attribute(word: &str) -> Option<rustix::mount::MountAttrFlags> {
    use rustix::mount::MountAttrFlags as Flags;
    Some(match word {
        "rw" | "relatime" => Flags::empty(),
        "nosuid" => Flags::MOUNT_ATTR_NOSUID,
        "nodev" => Flags::MOUNT_ATTR_NODEV,
        "noexec" => Flags::MOUNT_ATTR_NOEXEC,
        "noatime" => Flags::MOUNT_ATTR_NOATIME,
        "nodiratime" => Flags::MOUNT_ATTR_NODIRATIME,
        "nosymfollow" => Flags::MOUNT_ATTR_NOSYMFOLLOW,
        _ => return None,
    })
}

/// Parses a mount table; lines that are none are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Line> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    let (before, after) = (words.get(..dash)?, words.get(dash + 1..)?);
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let number = |word: &[u8]| text(word).parse::<u64>().ok();
    let [id, parent, device, root, point, options, tags @ ..] = before else { return None };
    let tag = |name: &str| tags.iter().find_map(|tag| text(tag).strip_prefix(name)?.parse().ok());
    let path = |word: &[u8]| BytePath::new(unescape(word));
    Some(Line {
        id: number(id)?,
        parent: number(parent)?,
        device: text(device),
        root: path(root),
        point: path(point),
        options: text(options),
        shared: tag("shared:"),
        master: tag("master:"),
        fs_type: text(after.first()?),
        source: path(after.get(1)?),
        wide: text(&unescape(after.get(2)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "\
20 1 0:30 /@ / rw,relatime shared:1 - btrfs /dev/vda2 rw,subvol=/@
21 20 0:30 /@home /home rw,nosuid,noatime shared:2 - btrfs /dev/vda2 rw,subvol=/@home
";

    const SERVICE: &str = "\
40 39 0:30 /@ / rw,relatime shared:9 master:1 - btrfs /dev/vda2 rw,subvol=/@
41 40 0:30 /@home /home rw,nosuid,noatime shared:8 master:2 - btrfs /dev/vda2 rw,subvol=/@home
";

    const HOME: Tree<'_> = Tree { device: "0:30", name: "@home" };

    fn space(text: &str, is_ours: bool) -> Space {
        Space { is_ours, pids: vec![if is_ours { 1 } else { 7 }], lines: parse(text.as_bytes()) }
    }

    fn judged(here: &str, there: &str) -> Result<Option<u64>, Stays> {
        let spaces = [space(here, true), space(there, false)];
        movable(&spaces, &HOME).map(|line| line.map(|line| line.id))
    }

    #[test]
    fn a_mount_of_its_own_goes_and_so_do_copies_of_it_that_hear_of_that() {
        assert_eq!(judged(HERE, ""), Ok(Some(21)));
        assert_eq!(judged(HERE, SERVICE), Ok(Some(21)));
        let covered = format!("{SERVICE}42 41 0:40 / /home ro - tmpfs none ro\n");
        assert_eq!(judged(HERE, &covered), Ok(Some(21)), "a service that sees no homes");
        assert_eq!(judged("20 1 0:30 /@ / rw shared:1 - btrfs /dev/vda2 rw\n", ""), Ok(None));
    }

    #[test]
    fn what_another_namespace_keeps_is_in_use_there() {
        for there in [
            SERVICE.replace(" shared:9 master:1", ""),
            SERVICE.replace("master:1", "master:5"),
            format!("{SERVICE}42 41 0:40 / /home/alice/mnt rw - tmpfs none rw\n"),
            SERVICE.replace("/@home /home", "/@home/alice /home"),
        ] {
            assert_eq!(judged(HERE, &there), Err(Stays::In(vec![7])), "{there}");
        }
        assert_eq!(judged(&HERE.replace(" shared:1", ""), SERVICE), Err(Stays::In(vec![7])));
        assert_eq!(judged("", SERVICE), Err(Stays::In(vec![7])));
    }

    #[test]
    fn what_is_no_ordinary_mount_of_its_own_stays() {
        for (here, why) in [
            (format!("{HERE}22 20 0:30 /@home /mnt rw - btrfs /dev/vda2 rw\n"), "at `/home` and at `/mnt`"),
            (format!("{HERE}22 20 0:30 /@home/alice /mnt rw - btrfs /dev/vda2 rw\n"), "and at `/mnt`"),
            (HERE.replace("/@home /home", "/@home/alice /home"), "a part of it alone"),
            (HERE.replace("rw,nosuid", "ro,nosuid"), "mounted with `ro`"),
            (HERE.replace("rw,nosuid", "rw,idmapped"), "mounted with `idmapped`"),
            (format!("{HERE}22 21 0:40 / /home/a rw - tmpfs none rw\n"), "`/home/a` is mounted in it"),
            (
                HERE.replace("21 20", "19 20 0:9 / /home rw - autofs systemd-1 rw\n21 19"),
                "`/home` is mounted on demand",
            ),
            (
                format!("{HERE}22 20 0:41 / /mnt rw - overlay o rw,lowerdir=/usr:/home/a,upperdir=/x\n"),
                "the overlay at `/mnt`",
            ),
        ] {
            let Err(Stays::For(said)) = judged(&here, "") else { panic!("{here}") };
            assert!(said.contains(why), "{said}");
        }
    }
}
