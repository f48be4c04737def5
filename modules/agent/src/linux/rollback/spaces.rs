//! Where a tree is mounted, in all namespaces of mounts that can be seen, and whether it goes from all of them by one `umount`.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use pc_switcher_contract::BytePath;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::linux::btrfs::relative;
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
    /// Whether it can be mounted nowhere else.
    pub(super) unbindable: bool,
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
    let mut read: HashSet<(PathBuf, Root)> =
        root_of("self").map(|root| (own.clone(), root)).into_iter().collect();
    let mut found: Vec<(PathBuf, Space)> =
        vec![(own, Space { is_ours: true, pids: Vec::new(), lines: parse(&table) })];
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| pid(&entry)) {
        let Ok(name) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        let known = found.iter().position(|(known, _)| *known == name);
        // Who was put into a part of the tree (`chroot`) sees what is mounted there and nothing else.
        let key = root_of(&pid.to_string()).map(|root| (name.clone(), root));
        let is_read = known.is_some() && key.as_ref().is_some_and(|key| read.contains(key));
        let table = if is_read { None } else { fs::read(format!("/proc/{pid}/mountinfo")).ok() };
        let lines = table.map(|table| parse(&table));
        read.extend(key.filter(|_| lines.is_some()));
        match (known, lines) {
            (Some(at), lines) => {
                let space = &mut found[at].1;
                space.pids.push(pid);
                unite(&mut space.lines, lines.unwrap_or_default());
            }
            (None, Some(lines)) => found.push((name, Space { is_ours: false, pids: vec![pid], lines })),
            (None, None) => {}
        }
    }
    Ok(found.into_iter().map(|(_, space)| space).collect())
}

/// The root of a process: mount, inode and device.
type Root = (u64, u64, u32, u32);

fn root_of(pid: &str) -> Option<Root> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, format!("/proc/{pid}/root"), flags, StatxFlags::MNT_ID | StatxFlags::INO).ok()?;
    Some((found.stx_mnt_id, found.stx_ino, found.stx_dev_major, found.stx_dev_minor))
}

/// Adds what another process of the same namespace sees. Of two views the one from further up has the longer paths.
fn unite(lines: &mut Vec<Line>, more: Vec<Line>) {
    for line in more {
        match lines.iter_mut().find(|known| known.id == line.id) {
            Some(known) if known.point.as_bytes().len() < line.point.as_bytes().len() => *known = line,
            Some(_) => {}
            None => lines.push(line),
        }
    }
}

/// Returns a mount that shows a tree and what is around it.
pub(super) fn above<'a>(spaces: &'a [Space], tree: &Tree<'_>) -> Option<&'a Line> {
    let root = tree.root();
    let holds = |line: &&Line| line.device == tree.device && line.root != root && root.is_within(&line.root);
    spaces.iter().flat_map(|space| &space.lines).find(holds)
}

fn pid(entry: &fs::DirEntry) -> Option<u32> {
    entry.file_name().to_str()?.parse().ok()
}

/// Whether this process sees other mounts than the machine's first one does: what it unmounts is unmounted for itself alone.
pub(super) fn is_apart() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    // Where the first process is not ours to look at (a container), this thread may have gone elsewhere than its process still.
    let first = of("1").or_else(|| of("self"));
    first.is_some_and(|first| Some(first) != of("thread-self"))
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
    if let Some(over) = hidden_by(lines, one) {
        return Err(Stays::For(format!("`{}` is hidden by what is mounted at `{}`", one.point, over.point)));
    }
    if let Some(inside) = lines.iter().find(|line| line.parent == one.id) {
        return Err(Stays::For(format!("`{}` is mounted in it", inside.point)));
    }
    let below = lines.iter().find(|line| line.id == one.parent);
    if below.is_some_and(|below| below.fs_type == "autofs") {
        return Err(Stays::For(format!("`{}` is mounted on demand", one.point)));
    }
    // A new mount is shared if the one below it is, and hears of nothing else.
    let is_plain = |below: &Line| one.shared.is_some() == below.shared.is_some();
    if one.master.is_some() || one.unbindable || !below.is_some_and(is_plain) {
        return Err(Stays::For(format!(
            "`{}` passes mounts on in a way of its own (`findmnt -o TARGET,PROPAGATION {}`)",
            one.point, one.point
        )));
    }
    if let Some(over) = layered(spaces, &one.point) {
        return Err(Stays::For(format!("the overlay at `{}` is made of what is in it", over.point)));
    }
    let keepers = elsewhere().filter(|space| keeps(space, tree, one, below));
    let keepers: Vec<u32> = keepers.flat_map(|space| space.pids.clone()).collect();
    match keepers.is_empty() {
        true => Ok(Some(one)),
        false => Err(Stays::In(keepers)),
    }
}

/// Returns what is mounted over a mount, or over a directory on the way to it: its path leads there then.
fn hidden_by<'a>(lines: &'a [Line], one: &Line) -> Option<&'a Line> {
    let mut at = one;
    // Each step goes down by a mount; the bound guards against a table that loops.
    for _ in 0..lines.len() {
        let over = |line: &&Line| {
            line.id != at.id
                && line.id != line.parent
                && line.parent == at.parent
                && at.point.is_within(&line.point)
        };
        if let Some(over) = lines.iter().find(over) {
            return Some(over);
        }
        at = lines.iter().find(|line| line.id == at.parent && line.id != at.id)?;
    }
    None
}

/// Whether another namespace has a tree in a mount that would not go with ours, or has something else where ours would go.
fn keeps(space: &Space, tree: &Tree<'_>, ours: &Line, below: Option<&Line>) -> bool {
    let is_kept = |line: &Line| match tree.is_in(line) {
        true => !goes_along(space, line, ours, below),
        false => is_there(space, line, ours, below),
    };
    space.lines.iter().any(is_kept)
}

/// Whether a mount in another namespace goes with ours: it was made as a copy of it, at the same place of a mount that hears of what
/// happens here, with the same options, and nothing is mounted in it. What covers it wholly (a service that sees no homes) stays and
/// is in nobody's way, nor do its options matter then.
fn goes_along(space: &Space, line: &Line, ours: &Line, below: Option<&Line>) -> bool {
    let mut on_it = space.lines.iter().filter(|other| other.parent == line.id);
    let is_as_ours = match (on_it.next(), on_it.next()) {
        (None, _) => {
            let around = space.lines.iter().find(|other| other.id == line.parent);
            let passes_on = |around: &Line| {
                (line.shared.is_some(), line.master.is_some())
                    == (around.shared.is_some(), around.master.is_some())
            };
            let is_of_ours = line.shared == ours.shared || line.master == ours.shared;
            words(&line.options) == words(&ours.options)
                && is_of_ours
                && !line.unbindable
                && around.is_some_and(passes_on)
        }
        (Some(cover), None) => cover.point == line.point,
        _ => false,
    };
    line.root == ours.root && is_as_ours && is_there(space, line, ours, below)
}

/// Whether a mount in another namespace is where ours goes from, so that it is unmounted with it: at the same place of a mount that
/// hears of what happens here.
fn is_there(space: &Space, line: &Line, ours: &Line, below: Option<&Line>) -> bool {
    let around = space.lines.iter().find(|other| other.id == line.parent && other.id != line.id);
    let (Some(around), Some(below)) = (around, below) else { return false };
    let hears = below.shared.is_some() && (around.shared == below.shared || around.master == below.shared);
    hears && place_in(around, line).is_some_and(|place| Some(place) == place_in(below, ours))
}

/// Returns where a mount stands in the file system that it is mounted on.
fn place_in(below: &Line, line: &Line) -> Option<BytePath> {
    let is_within = line.point.is_within(&below.point);
    is_within.then(|| below.root.join(relative(&line.point, &below.point).as_bytes()))
}

fn words(options: &str) -> HashSet<&str> {
    options.split(',').collect()
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
        unbindable: tags.contains(&&b"unbindable"[..]),
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
    fn what_is_not_as_the_machine_has_it_in_another_namespace_is_in_use_there() {
        for (there, what) in [
            (SERVICE.replace("/@home /home", "/@home /data"), "at another place"),
            (SERVICE.replace("rw,nosuid", "ro,nosuid"), "read-only"),
            (SERVICE.replace("rw,nosuid", "rw,nosuid,nodev"), "with more options"),
            (SERVICE.replace("rw,nosuid,noatime", "rw,noatime"), "with fewer"),
            (SERVICE.replace("shared:8 master:2", "master:2"), "that passes nothing on"),
            (SERVICE.replace("shared:8 master:2", "shared:8 master:7"), "of another mount"),
            (SERVICE.replace("shared:8 master:2", "shared:8 master:2 unbindable"), "that cannot be bound"),
            (SERVICE.replace("0:30 /@home /home", "0:77 / /home"), "another file system in its place"),
        ] {
            assert_eq!(judged(HERE, &there), Err(Stays::In(vec![7])), "{what}: {there}");
        }
        let at_home = |there: &str| judged(HERE, there);
        assert_eq!(
            at_home(&SERVICE.replace("nosuid,noatime", "noatime,nosuid")),
            Ok(Some(21)),
            "the same in words"
        );
        let peer = SERVICE.replace("shared:9 master:1", "shared:1").replace("shared:8 master:2", "shared:2");
        assert_eq!(at_home(&peer), Ok(Some(21)), "it passes on what it hears");
        let covered = SERVICE.replace("rw,nosuid", "ro,nosuid");
        let covered = format!("{covered}42 41 0:40 / /home ro - tmpfs none ro\n");
        assert_eq!(at_home(&covered), Ok(Some(21)), "nobody comes there");
        // Bound at another place, the same place of the file system is below another path.
        let bound = "\
40 39 0:31 / / rw - ext4 /dev/vda1 rw
43 40 0:30 /@ /host rw shared:9 master:1 - btrfs /dev/vda2 rw,subvol=/@
41 43 0:30 /@home /host/home rw,nosuid,noatime shared:8 master:2 - btrfs /dev/vda2 rw,subvol=/@home
";
        assert_eq!(at_home(bound), Ok(Some(21)));
    }

    #[test]
    fn of_two_views_of_a_namespace_all_is_taken_and_the_longer_path() {
        let mut lines = parse(b"41 40 0:30 /@home /home rw - btrfs x rw\n");
        let more = "40 39 0:30 /@ /box rw - btrfs x rw\n41 40 0:30 /@home /box/home rw - btrfs x rw\n";
        unite(&mut lines, parse(more.as_bytes()));
        unite(&mut lines, parse(b"41 40 0:30 /@home /home rw - btrfs x rw\n"));
        let found: Vec<(u64, String)> = lines.iter().map(|line| (line.id, line.point.to_string())).collect();
        assert_eq!(found, [(41, "/box/home".into()), (40, "/box".into())]);
    }

    #[test]
    fn a_mount_of_what_holds_a_tree_is_found_and_no_other() {
        let is_above = |text: &str| above(&[space(HERE, true), space(text, false)], &HOME).is_some();
        assert!(is_above("50 40 0:30 / /mnt/pool rw - btrfs /dev/vda2 rw,subvolid=5\n"));
        assert!(!is_above("50 40 0:77 / /mnt/pool rw - btrfs /dev/vda3 rw,subvolid=5\n"), "another disk");
        assert!(!is_above(SERVICE) && !is_above("50 40 0:30 /@home/alice /mnt rw - btrfs /dev/vda2 rw\n"));
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
        let deaf = HERE.replace(" shared:1", "").replace(" shared:2", "");
        assert_eq!(judged(&deaf, SERVICE), Err(Stays::In(vec![7])));
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
            (HERE.replace(" shared:2", ""), "passes mounts on in a way of its own"),
            (HERE.replace(" shared:1", ""), "passes mounts on in a way of its own"),
            (HERE.replace("shared:2", "shared:2 master:5"), "passes mounts on in a way of its own"),
            (HERE.replace("shared:2", "shared:2 unbindable"), "passes mounts on in a way of its own"),
            (format!("{HERE}22 20 0:40 / / rw - tmpfs none rw\n"), "hidden by what is mounted at `/`"),
            (
                // Another disk was mounted over the directory in which it stands.
                HERE.replace("/@home /home", "/@home /srv/data")
                    + "22 20 0:40 / /srv rw - ext4 x rw\n23 22 0:41 / /srv/data rw - ext4 y rw\n",
                "hidden by what is mounted at `/srv`",
            ),
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
