//! How other tools lay out their snapshots: where to look, and which names are theirs. Nothing here writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use crate::linux::mounts::Mounts;
use crate::proto::Maker;

/// What one tool took at one moment: the snapshots, each with the name of its subvolume if the layout says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Find {
    pub(super) members: Vec<(PathBuf, Option<String>)>,
    /// What the tool says of it.
    pub(super) note: Option<String>,
}

/// Returns the directories that a tool uses as a rule, of those that are there.
pub(super) fn usual_dirs(maker: Maker, snapshot_dir: &Path, mounts: &Mounts) -> Vec<PathBuf> {
    let below: &[&str] = match maker {
        Maker::Snapper | Maker::Yabsnap => &[".snapshots"],
        Maker::Btrbk => &["btrbk_snapshots", "_btrbk_snap", ".snapshots"],
        Maker::Timeshift => &["timeshift-btrfs/snapshots"],
        Maker::Orphan => &[],
    };
    let points =
        mounts.visible().filter(|mount| mount.is_btrfs()).map(|mount| mount.point.as_path().to_owned());
    let mut dirs: Vec<PathBuf> =
        points.flat_map(|point| below.iter().map(move |name| point.join(name))).collect();
    dirs.push(snapshot_dir.to_owned());
    dirs.sort();
    dirs.dedup();
    dirs.retain(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir()));
    dirs
}

/// Returns what a tool has in one of its directories, by name.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn finds(maker: Maker, dir: &Path) -> io::Result<Vec<Find>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    names.retain(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()));
    names.sort();
    Ok(names.into_iter().filter_map(|path| find(maker, path)).collect())
}

fn find(maker: Maker, path: PathBuf) -> Option<Find> {
    let name = path.file_name()?.to_str()?.to_owned();
    let is_there = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let one = |path: PathBuf, note| Some(Find { members: vec![(path, None)], note });
    match maker {
        Maker::Snapper if is_number(&name) && is_there(&path.join("info.xml")) => {
            let note = fs::read_to_string(path.join("info.xml")).ok();
            let note =
                note.as_deref().and_then(|text| element(text, "description")).filter(|it| !it.is_empty());
            let snapshot = path.join("snapshot");
            is_dir(&snapshot).then(|| one(snapshot, note))?
        }
        Maker::Btrbk if is_btrbk(&name) => one(path, None),
        Maker::Timeshift if is_date(&name) && is_there(&path.join("info.json")) => {
            let member = |name: &str| {
                let member = path.join(name);
                is_dir(&member).then(|| (member, Some(name.to_owned())))
            };
            let members: Vec<_> = ["@", "@home"].into_iter().filter_map(member).collect();
            (!members.is_empty()).then_some(Find { members, note: None })
        }
        Maker::Yabsnap if is_yabsnap(&name) => {
            let meta = path.with_file_name(format!("{name}-meta.json"));
            is_there(&meta).then(|| one(path, None))?
        }
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `home.20251115`, `home.20251115T1200`, `home.20251115T120000+0100`, each with `_2` behind it if there was one.
fn is_btrbk(name: &str) -> bool {
    let Some((base, stamp)) = name.rsplit_once('.') else { return false };
    let (stamp, again) = stamp.split_once('_').unwrap_or((stamp, "1"));
    let (day, time) = stamp.split_once('T').map_or((stamp, None), |(day, time)| (day, Some(time)));
    let is_time = |time: &str| {
        let (clock, zone) = match time.find(['+', '-', 'Z']) {
            Some(at) => time.split_at(at),
            None => (time, ""),
        };
        let is_zone = matches!(zone, "" | "Z") || zone.len() == 5 && is_number(&zone[1..]);
        matches!(clock.len(), 4 | 6) && is_number(clock) && is_zone
    };
    !base.is_empty() && day.len() == 8 && is_number(day) && is_number(again) && time.is_none_or(is_time)
}

/// `2025-11-15_12-00-01`.
fn is_date(name: &str) -> bool {
    let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    name.bytes().map(shape).eq(*b"0000-00-00_00-00-00")
}

/// `home-20251115120000`, or with nothing between.
fn is_yabsnap(name: &str) -> bool {
    name.len() > 14 && name.is_char_boundary(name.len() - 14) && is_number(&name[name.len() - 14..])
}

/// Returns the text of an element that holds nothing but text.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = inner.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    let line: String = plain.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(line.trim().to_owned())
}

/// Returns the subvolume's directory that a snapper directory belongs to: the one that `.snapshots` lies in.
pub(super) fn place_of(maker: Maker, dir: &Path) -> Option<BytePath> {
    let is_its = maker == Maker::Snapper && dir.file_name().is_some_and(|name| name == ".snapshots");
    is_its.then(|| dir.parent().map(BytePath::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_tools_are_told_from_all_else() {
        for good in ["home.20251115", "home.20251115_2", "@.20251115T1200", "a.b.20251115T120000+0100_10"] {
            assert!(is_btrbk(good), "{good}");
        }
        for bad in [
            "home",
            ".20251115",
            "home.2025111",
            "home.20251115T12",
            "home.20251115_",
            "x.txt",
            "a.20251115T1200+1",
        ] {
            assert!(!is_btrbk(bad), "{bad}");
        }
        assert!(is_date("2025-11-15_12-00-01") && !is_date("2025-11-15") && !is_date("2025-11-15_12-00-0a"));
        assert!(is_yabsnap("home-20251115120000") && !is_yabsnap("20251115120000") && !is_yabsnap("home"));
        assert!(!is_yabsnap("é0251115120000"));
    }

    #[test]
    fn what_snapper_says_of_a_snapshot_is_one_plain_line() {
        let text = "<snapshot>\n <description>a &lt;b&gt; &amp;\u{7} c</description></snapshot>";
        assert_eq!(element(text, "description").unwrap(), "a <b> & c");
        assert_eq!(element(text, "date"), None);
    }
}
