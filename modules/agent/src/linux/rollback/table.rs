//! What the `/etc/fstab` of a state would mount that is gone back to. It starts with that one: what it names and nobody has may hold up
//! the start, or lead to none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pc_switcher_contract::SetId;

/// Points that are named in one warning.
const NAMED: usize = 5;

/// Warns of a table that differs from that of now, or names what is not there. `digests` are those of the set and of now, for a table that
/// cannot be read.
pub(super) fn warnings(
    id: &SetId,
    then: Option<&str>,
    now: &str,
    digests: (Option<&str>, &str),
    root: &Path,
) -> Vec<String> {
    let Some(then) = then else {
        return match digests {
            (Some(then), now) if then != now => vec![format!(
                "`/etc/fstab` goes back too, and that of set {id} is another one than today's; it cannot be read"
            )],
            _ => Vec::new(),
        };
    };
    let mut said = Vec::new();
    for line in lines(then) {
        let is_awaited = line.options.iter().all(|option| !matches!(*option, "noauto" | "nofail"));
        if is_awaited && is_there(root, line.device) == Some(false) {
            said.push(format!(
                "`/etc/fstab` of set {id} mounts `{}` at `{}`, and that device is not there now: the start may wait for it in vain",
                line.device, line.point
            ));
        }
    }
    said.extend(difference(then, now).map(|what| {
        format!("`/etc/fstab` goes back too, and that of set {id} is another one than today's: {what}")
    }));
    said
}

/// A line that mounts something.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    device: &'a str,
    point: &'a str,
    fs_type: &'a str,
    options: Vec<&'a str>,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let device = words.next().filter(|word| !word.starts_with('#'))?;
        let (point, fs_type) = (words.next()?, words.next()?);
        Some(Line { device, point, fs_type, options: words.next().unwrap_or_default().split(',').collect() })
    })
}

/// Whether there is a device; `None` if that cannot be told.
fn is_there(root: &Path, device: &str) -> Option<bool> {
    if device.starts_with("/dev/") {
        // A device of another kind may be made when it is mounted.
        let is_disk = ["sd", "vd", "xvd", "nvme", "mmcblk", "disk/", "mapper/"].iter();
        let is_disk = is_disk.map(|name| format!("/dev/{name}")).any(|name| device.starts_with(&name));
        return is_disk.then(|| root.join(&device[1..]).exists());
    }
    let (kind, name) = device.split_once('=')?;
    let name = name.trim_matches('"');
    let dir = match kind {
        "UUID" => "by-uuid",
        "LABEL" => "by-label",
        "PARTUUID" => "by-partuuid",
        "PARTLABEL" => "by-partlabel",
        _ => return None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    if !name.chars().all(plain) {
        // udev writes these otherwise.
        return None;
    }
    let mut entries = fs::read_dir(root.join("dev/disk").join(dir)).ok()?.flatten().peekable();
    // Where nobody makes the links none says anything.
    entries.peek()?;
    Some(
        entries.any(|entry| entry.file_name().to_str().is_some_and(|found| found.eq_ignore_ascii_case(name))),
    )
}

/// Says how two tables differ, if they do.
fn difference(then: &str, now: &str) -> Option<String> {
    fn by_point(text: &str) -> BTreeMap<(&str, usize), Line<'_>> {
        let mut all = BTreeMap::new();
        for line in lines(text) {
            let count = all.keys().filter(|(point, _)| *point == line.point).count();
            all.insert((line.point, count), line);
        }
        all
    }
    let (then, now) = (by_point(then), by_point(now));
    let named = |points: Vec<&str>, what: &str| {
        let more = points.len().saturating_sub(NAMED);
        let list: Vec<String> = points.iter().take(NAMED).map(|point| format!("`{point}`")).collect();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        (!list.is_empty()).then(|| format!("{what} {}{more}", list.join(", ")))
    };
    let only = |one: &BTreeMap<(&'_ str, usize), Line<'_>>, other: &BTreeMap<(&'_ str, usize), Line<'_>>| {
        one.keys()
            .filter(|key| !other.contains_key(*key))
            .map(|(point, _)| (*point).to_owned())
            .collect::<Vec<_>>()
    };
    let (came, went) = (only(&now, &then), only(&then, &now));
    let other = then.iter().filter(|(key, line)| now.get(*key).is_some_and(|found| found != *line));
    let other: Vec<&str> = other.map(|((point, _), _)| *point).collect();
    let parts = [
        named(came.iter().map(String::as_str).collect(), "it does not mount"),
        named(went.iter().map(String::as_str).collect(), "it still mounts"),
        named(other, "it mounts otherwise"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "# today\nUUID=aaaa / btrfs subvol=@ 0 0\nUUID=aaaa /home btrfs subvol=@home 0 0\n\
        UUID=bbbb /data ext4 defaults 0 2\ntmpfs /tmp tmpfs defaults 0 0\n";

    /// A machine that has two disks.
    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["by-uuid/aaaa", "by-uuid/BBBB", "by-label/data"] {
            let path = dir.path().join("dev/disk").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    fn said(then: Option<&str>, digests: (Option<&str>, &str)) -> Vec<String> {
        let id = "20251115T120000Z-0a1b2c3d-manual".parse().unwrap();
        warnings(&id, then, NOW, digests, root().path())
    }

    #[test]
    fn a_table_that_mounts_the_same_says_nothing() {
        assert_eq!(said(Some(NOW), (None, "x")), [""; 0]);
        let spaced = NOW.replace("# today\n", "").replace(' ', "\t");
        assert_eq!(said(Some(&spaced), (Some("y"), "x")), [""; 0], "words count, not blanks");
    }

    #[test]
    fn what_nobody_has_and_what_differs_is_told() {
        let then = NOW.replace("UUID=bbbb /data ext4 defaults", "UUID=cccc /old ext4 defaults");
        let found = said(Some(&then), (None, "x"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("`UUID=cccc` at `/old`") && found[0].contains("not there now"),
            "{found:?}"
        );
        assert!(found[1].contains("it does not mount `/data`; it still mounts `/old`"), "{found:?}");
        let then = NOW.replace("subvol=@home", "subvol=@home,compress=zstd");
        assert!(said(Some(&then), (None, "x"))[0].ends_with("it mounts otherwise `/home`"));
    }

    #[test]
    fn what_is_not_waited_for_or_cannot_be_told_is_not_said_to_be_missing() {
        for line in [
            "UUID=cccc /data ext4 nofail 0 0",
            "UUID=cccc /data ext4 noauto,user 0 0",
            "LABEL=a\\x20b /data ext4 defaults 0 0",
            "PARTUUID=1-2 /data ext4 defaults 0 0",
            "nas:/export /data nfs defaults 0 0",
            "/dev/fuse /data fuse defaults 0 0",
            "LABEL=data /data ext4 defaults 0 0",
        ] {
            let found = said(Some(line), (None, "x"));
            assert!(found.len() == 1 && !found[0].contains("not there"), "{line}: {found:?}");
        }
        let found =
            said(Some("/dev/sdz9 /data ext4 defaults 0 0\nLABEL=no /x ext4 defaults 0 0"), (None, "x"));
        assert_eq!(found.iter().filter(|one| one.contains("not there now")).count(), 2, "{found:?}");
    }

    #[test]
    fn of_a_table_that_cannot_be_read_its_digest_tells() {
        assert_eq!(said(None, (Some("x"), "x")), [""; 0]);
        assert_eq!(said(None, (None, "x")), [""; 0]);
        assert!(said(None, (Some("y"), "x"))[0].contains("cannot be read"));
    }
}
