//! What `lvs` says of the logical volumes of this machine: pure.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

/// The fields that are asked for.
const FIELDS: &str = "vg_name,vg_uuid,lv_name,lv_uuid,lv_layout,pool_lv,lv_permissions,lv_active,lv_device_open,lv_kernel_major,\
                      lv_kernel_minor,lv_dm_path,data_percent,metadata_percent,lv_tags";

/// The command whose output [`parse`] reads.
pub(super) const LIST: [&str; 5] = ["lvs", "--reportformat", "json", "--options", FIELDS];

/// The command whose output [`groups`] reads.
pub(super) const GROUPS: [&str; 5] = ["vgs", "--reportformat", "json", "--options", "vg_name,vg_uuid"];

/// A logical volume.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Volume {
    /// The group it lies in.
    pub(crate) vg: String,
    /// The uuid of that: a copy of a group has another one, and volumes with the uuids of the first.
    pub(crate) vg_uuid: String,
    /// Its name there.
    pub(crate) name: String,
    /// Its uuid, as LVM writes it.
    pub(crate) uuid: String,
    /// What it is: `thin`, `pool`, `linear`, `raid`, …
    pub(crate) layout: Vec<String>,
    /// The thin pool that it lies in, of the same group.
    pub(crate) pool: Option<String>,
    /// Whether LVM lets nobody write to it.
    pub(crate) is_read_only: bool,
    /// Whether there is a device of it.
    pub(crate) is_active: bool,
    /// Whether somebody has it open, such as by a mount.
    pub(crate) is_open: bool,
    /// That device.
    pub(crate) device: Option<(u32, u32)>,
    /// The path of that device.
    pub(crate) node: PathBuf,
    /// Of a pool: how much of its data is used, in percent.
    pub(crate) data: Option<f64>,
    /// Of a pool: how much of its metadata is used, in percent.
    pub(crate) metadata: Option<f64>,
    /// Words that tools gave it.
    pub(crate) tags: Vec<String>,
}

impl Volume {
    /// Returns group and name, as the tools take it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.vg, self.name)
    }

    /// Whether it is one of a thin pool, and not the pool.
    pub(super) fn is_thin(&self) -> bool {
        let is = |what: &str| self.layout.iter().any(|word| word == what);
        is("thin") && !is("pool") && self.pool.is_some()
    }

    pub(super) fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|one| one == tag)
    }
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    lv: Vec<Line>,
    #[serde(default)]
    vg: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    vg_name: String,
    #[serde(default)]
    vg_uuid: String,
}

/// Every value is text, and empty if there is none.
#[derive(Deserialize)]
struct Line {
    vg_name: String,
    #[serde(default)]
    vg_uuid: String,
    lv_name: String,
    lv_uuid: String,
    #[serde(default)]
    lv_layout: String,
    #[serde(default)]
    pool_lv: String,
    #[serde(default)]
    lv_permissions: String,
    #[serde(default)]
    lv_active: String,
    #[serde(default)]
    lv_device_open: String,
    #[serde(default)]
    lv_kernel_major: String,
    #[serde(default)]
    lv_kernel_minor: String,
    #[serde(default)]
    lv_dm_path: String,
    #[serde(default)]
    data_percent: String,
    #[serde(default)]
    metadata_percent: String,
    #[serde(default)]
    lv_tags: String,
}

/// Reads the output of [`LIST`].
///
/// # Errors
/// If it is no such output.
pub(super) fn parse(text: &[u8]) -> io::Result<Vec<Volume>> {
    let mut seen = HashSet::new();
    let lines = read("lvs", text)?.report.into_iter().flat_map(|section| section.lv);
    Ok(lines.filter(|line| seen.insert((line.vg_uuid.clone(), line.lv_uuid.clone()))).map(volume).collect())
}

/// Reads the output of [`GROUPS`]: name and uuid of each.
///
/// # Errors
/// If it is no such output.
pub(super) fn groups(text: &[u8]) -> io::Result<Vec<(String, String)>> {
    let groups = read("vgs", text)?.report.into_iter().flat_map(|section| section.vg);
    Ok(groups.map(|group| (group.vg_name, group.vg_uuid)).collect())
}

fn read(program: &str, text: &[u8]) -> io::Result<Report> {
    serde_json::from_slice(text)
        .map_err(|error| io::Error::other(format!("what `{program}` says cannot be read: {error}")))
}

fn volume(line: Line) -> Volume {
    let words = |text: &str| -> Vec<String> {
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    // What is hidden stands in brackets.
    let pool = line.pool_lv.trim_matches(['[', ']']);
    // A volume without a device has -1 for both.
    let device = line.lv_kernel_major.parse().ok().zip(line.lv_kernel_minor.parse().ok());
    Volume {
        layout: words(&line.lv_layout),
        pool: Some(pool.to_owned()).filter(|pool| !pool.is_empty()),
        is_read_only: line.lv_permissions == "read-only",
        is_active: !line.lv_active.is_empty() && line.lv_active != "unknown",
        is_open: line.lv_device_open == "open",
        device,
        node: line.lv_dm_path.into(),
        data: line.data_percent.parse().ok(),
        metadata: line.metadata_percent.parse().ok(),
        tags: words(&line.lv_tags),
        vg: line.vg_name,
        vg_uuid: line.vg_uuid,
        name: line.lv_name,
        uuid: line.lv_uuid,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::RECORDED;
    use super::*;

    #[test]
    fn what_lvs_says_is_read_volume_by_volume() {
        let volumes = parse(RECORDED).unwrap();
        let names: Vec<String> = volumes.iter().map(Volume::full_name).collect();
        assert_eq!(names, ["vg0/home", "vg0/home-manual-20251115T120000Z-abc12345", "vg0/pool", "vg0/swap"]);
        let [home, taken, pool, swap] = &volumes[..] else { panic!("{names:?}") };
        assert!(home.is_thin() && home.is_active && home.is_open && !home.is_read_only);
        assert_eq!(home.vg_uuid, "8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy");
        assert_eq!((home.device, home.pool.as_deref()), (Some((253, 4)), Some("pool")));
        assert_eq!(home.node, PathBuf::from("/dev/mapper/vg0-home"));
        assert!(taken.is_thin() && taken.is_read_only && !taken.is_active && !taken.is_open);
        assert_eq!((taken.device, taken.data), (None, None));
        assert!(taken.has_tag("pc-switcher") && !taken.has_tag("pc"));
        assert!(!pool.is_thin() && !swap.is_thin());
        assert_eq!((pool.data, pool.metadata), (Some(8.19), Some(10.79)));
        assert_eq!(swap.layout, ["linear"]);
    }

    #[test]
    fn volumes_of_a_copied_group_are_others_though_their_uuids_are_the_same() {
        let line = |group: &str, name: &str| {
            format!(r#"{{"vg_name":"{group}","vg_uuid":"of {group}","lv_name":"{name}","lv_uuid":"x"}}"#)
        };
        let lines = [line("vg0", "home"), line("copy", "home"), line("vg0", "home")].join(",");
        let volumes = parse(format!(r#"{{"report":[{{"lv":[{lines}]}}]}}"#).as_bytes()).unwrap();
        let names: Vec<String> = volumes.iter().map(Volume::full_name).collect();
        assert_eq!(names, ["vg0/home", "copy/home"]);
        let said = br#"{"report":[{"vg":[{"vg_name":"vg0", "vg_uuid":"of vg0"}]}]}"#;
        assert_eq!(groups(said).unwrap(), [("vg0".to_owned(), "of vg0".to_owned())]);
    }

    #[test]
    fn a_machine_without_volumes_has_none_and_other_text_is_an_error() {
        assert_eq!(parse(br#"{"report":[{"lv":[]}],"log":[]}"#).unwrap(), []);
        assert!(parse(b"  No volume groups found").unwrap_err().to_string().contains("`lvs`"));
    }
}
