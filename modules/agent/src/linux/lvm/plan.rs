//! What is done with volumes, and what is refused: pure.

use std::io;

use pc_switcher_contract::{BytePath, SnapshotName};

use super::report::Volume;
use crate::data::trees::InVolume;
use crate::linux::mounts::{Mount, Mounts};
use crate::proto::{AgentError, AgentErrorKind};

/// The word that every volume of ours has.
const OURS: &str = "pc-switcher";
/// What the kernel reads back without a write to the volume once it was frozen.
const READABLE: [&str; 4] = ["ext4", "xfs", "ext3", "ext2"];
/// A pool that is used so far gets no snapshot more, in percent: whoever writes to a full one loses what he wrote.
const FULL: f64 = 90.0;
/// From here on it is said.
const NARROW: f64 = 80.0;
/// Longest name that the kernel's device mapper takes.
const LONGEST: usize = 127;
/// What else there is.
const CHOICES: &str = "`backend = \"hardlink\"` or `\"archive\"` in [snapshots] keeps copies instead; or leave it out of \
                       [snapshots.components]";

/// A volume that a snapshot can be taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Where it is mounted.
    pub(crate) place: BytePath,
    /// Its group.
    pub(crate) vg: String,
    /// The uuid of that.
    pub(crate) vg_uuid: String,
    /// Its name there.
    pub(crate) name: String,
    /// The pool it lies in.
    pub(crate) pool: String,
    /// The file system in it.
    pub(crate) fs_type: String,
}

/// Returns the tag by which the volume of a member is known, whatever its name.
pub(crate) fn tag_of(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{OURS}-{hex}")
}

/// Returns the volumes of which these folders are, and those that are mounted below them; and what is left out, a line each.
///
/// # Errors
/// Names the first folder of which no snapshot can be taken, why, and what to do.
pub(crate) fn origins(
    mounts: &Mounts,
    volumes: &[Volume],
    folders: &[BytePath],
) -> Result<(Vec<Origin>, Vec<String>), AgentError> {
    let (mut found, mut notes): (Vec<Origin>, Vec<String>) = (Vec::new(), Vec::new());
    let mut add = |origin: Origin| {
        let is_known = found
            .iter()
            .any(|one| (&one.vg, &one.vg_uuid, &one.name) == (&origin.vg, &origin.vg_uuid, &origin.name));
        if !is_known {
            found.push(origin);
        }
    };
    for folder in folders {
        let holder =
            mounts.holding(folder).ok_or_else(|| AgentError::failed(format!("no mount shows `{folder}`")))?;
        add(of_mount(volumes, holder).map_err(|why| {
            AgentError::failed(format!("cannot take a snapshot of `{folder}`: {why}; {CHOICES}"))
        })?);
    }
    let is_below = |mount: &&Mount| {
        mount.is_disk()
            && folders.iter().any(|folder| mount.point != *folder && mount.point.is_within(folder))
    };
    for mount in mounts.visible().filter(is_below) {
        match of_mount(volumes, mount) {
            Ok(origin) => add(origin),
            Err(why) => notes.push(format!("`{}` is not in it: {why}", mount.point)),
        }
    }
    found.sort_by(|a, b| a.place.cmp(&b.place));
    Ok((found, notes))
}

/// Returns the volume that is mounted at a place.
///
/// # Errors
/// If there is none any more, or no snapshot can be taken of it.
pub(crate) fn origin_at(mounts: &Mounts, volumes: &[Volume], place: &BytePath) -> Result<Origin, AgentError> {
    let mount = mounts.holding(place).filter(|mount| mount.point == *place);
    let mount =
        mount.ok_or_else(|| AgentError::failed(format!("nothing is mounted at `{place}` any more")))?;
    of_mount(volumes, mount)
        .map_err(|why| AgentError::failed(format!("cannot take a snapshot of `{place}`: {why}; {CHOICES}")))
}

fn of_mount(volumes: &[Volume], mount: &Mount) -> Result<Origin, String> {
    let (point, fs_type) = (&mount.point, &mount.fs_type);
    let device = mount.device.split_once(':');
    let device = device.and_then(|(major, minor)| major.parse().ok().zip(minor.parse().ok()));
    let volume = volumes.iter().find(|volume| volume.device.is_some() && volume.device == device);
    let Some(volume) = volume else {
        return Err(format!("`{point}` ({fs_type}) is no logical volume of LVM"));
    };
    let name = volume.full_name();
    let Some(pool) = volume.pool.clone().filter(|_| volume.is_thin()) else {
        let layout = volume.layout.join(", ");
        return Err(format!("volume `{name}` at `{point}` lies in no thin pool ({layout})"));
    };
    if !READABLE.contains(&fs_type.as_str()) {
        return Err(format!(
            "volume `{name}` at `{point}` holds {fs_type}, and only ext4 and XFS are read back"
        ));
    }
    if mount.root != BytePath::from("/") {
        return Err(format!("`{point}` shows only `{}` of volume `{name}`", mount.root));
    }
    let (vg, vg_uuid, name) = (volume.vg.clone(), volume.vg_uuid.clone(), volume.name.clone());
    Ok(Origin { place: point.clone(), vg, vg_uuid, name, pool, fs_type: fs_type.clone() })
}

/// Checks that the pools have room for snapshots; returns what is to be known of them, a line each.
///
/// # Errors
/// Of kind [`AgentErrorKind::NoSpace`] if one is nearly full, or it is not known how full it is.
pub(crate) fn room(volumes: &[Volume], origins: &[Origin]) -> Result<Vec<String>, AgentError> {
    let mut pools: Vec<(&str, &str, &str)> = origins
        .iter()
        .map(|origin| (origin.vg.as_str(), origin.vg_uuid.as_str(), origin.pool.as_str()))
        .collect();
    pools.sort_unstable();
    pools.dedup();
    let mut notes = Vec::new();
    for (vg, vg_uuid, pool) in pools {
        let is_it = |volume: &&Volume| (volume.vg_uuid.as_str(), volume.name.as_str()) == (vg_uuid, pool);
        let found = volumes.iter().find(is_it);
        let used = found.and_then(|pool| Some([(pool.data?, "data"), (pool.metadata?, "metadata")]));
        let Some(used) = used else {
            let text = format!("how full the thin pool `{vg}/{pool}` is, `lvs` does not say; is it active?");
            return Err(AgentError::failed(text));
        };
        for (percent, what) in used {
            let state = format!("{percent:.1} % of the {what} of thin pool `{vg}/{pool}` is used");
            if percent >= FULL {
                let message = format!(
                    "{state}, and from {FULL} % on no snapshot is taken, since nothing can be written any more when it \
                     is full; extend it (`lvextend`), remove sets or other snapshots in it, or let `fstrim` give \
                     back what was deleted"
                );
                return Err(AgentError { kind: AgentErrorKind::NoSpace, message });
            }
            if percent >= NARROW {
                notes.push(format!("{state}; from {FULL} % on no set is taken"));
            }
        }
    }
    Ok(notes)
}

/// Returns the name of a volume: what it is a snapshot of, and kind, time and session. Of a long one the middle is a digest.
pub(crate) fn name_of(origin: &Origin, member: &SnapshotName) -> String {
    let end = format!("-{}-{}-{}", member.kind.in_name(), member.stamp, member.session);
    // The device mapper has `GROUP-VOLUME`, and each hyphen in them twice.
    let doubled = |text: &str| text.len() + text.matches('-').count();
    let mut room = LONGEST.saturating_sub(doubled(&origin.vg) + 1 + doubled(&end));
    if doubled(&origin.name) <= room {
        return format!("{}{end}", origin.name);
    }
    let digest = &blake3::hash(origin.name.as_bytes()).to_hex()[..8];
    room = room.saturating_sub(digest.len() + 1);
    let mut start = String::new();
    for c in origin.name.chars() {
        if doubled(&start) + 2 > room {
            break;
        }
        start.push(c);
    }
    format!("{start}_{digest}{end}")
}

/// The command that takes a snapshot: read-only from the beginning, never activated by itself, and known by its tags. It freezes
/// the file system while it does.
pub(super) fn create(origin: &Origin, name: &str, tag: &str) -> Vec<String> {
    let of = format!("{}/{}", origin.vg, origin.name);
    let plain = ["lvcreate", "--yes", "--snapshot", "--permission", "r", "--setactivationskip", "y"];
    let more = ["--addtag", OURS, "--addtag", tag, "--name", name, &of];
    plain.iter().chain(&more).map(|word| (*word).to_owned()).collect()
}

/// What selects a volume: its uuid and that of its group, whatever has its name by then. A copy of the group has a volume of the same
/// uuid.
fn selection(volume: &Volume) -> String {
    format!("lv_uuid={} && vg_uuid={}", volume.uuid, volume.vg_uuid)
}

/// The command that removes a volume.
pub(super) fn remove(volume: &Volume) -> Vec<String> {
    ["lvremove", "--yes", "--force", "--select", &selection(volume), &volume.vg].map(str::to_owned).to_vec()
}

/// The command that makes a device of a volume.
pub(super) fn activate(volume: &Volume) -> Vec<String> {
    let which = selection(volume);
    ["lvchange", "--activate", "y", "--ignoreactivationskip", "--select", &which, &volume.vg]
        .map(str::to_owned)
        .to_vec()
}

/// The command that takes it away again.
pub(super) fn deactivate(volume: &Volume) -> Vec<String> {
    ["lvchange", "--activate", "n", "--select", &selection(volume), &volume.vg].map(str::to_owned).to_vec()
}

/// Whether a volume is marked as one of ours: by the word and by the tag of a label.
pub(super) fn is_marked(volume: &Volume) -> bool {
    let is_of_a_label = |tag: &String| tag.strip_prefix(OURS).is_some_and(|rest| rest.starts_with('-'));
    volume.has_tag(OURS) && volume.tags.iter().any(is_of_a_label)
}

/// Whether a group, by name and uuid, is that of a label. Labels from before there was a uuid in them know its name.
pub(super) fn is_in((name, uuid): &(String, String), label: &InVolume) -> bool {
    match &label.vg_uuid {
        Some(known) => known == uuid,
        None => name == group_of(label),
    }
}

fn group_of(label: &InVolume) -> &str {
    label.name.split_once('/').map_or(label.name.as_str(), |(group, _)| group)
}

/// Returns the volume that a label names: in its group the one that has its tag and its uuid. A label that does not know the uuid yet,
/// or is from before there was one in it, knows the name. So whatever else somebody gave the tag is nobody's.
pub(super) fn pick<'a>(volumes: &'a [Volume], label: &InVolume) -> Option<&'a Volume> {
    let name = label.name.rsplit('/').next().unwrap_or_default();
    let is_it = |volume: &&Volume| match &label.lv_uuid {
        Some(uuid) => volume.uuid == *uuid,
        None => volume.name == name,
    };
    let is_ours = |volume: &&Volume| {
        volume.has_tag(&label.tag) && is_in(&(volume.vg.clone(), volume.vg_uuid.clone()), label)
    };
    volumes.iter().filter(is_ours).find(is_it)
}

/// The error of a member whose volume is not there.
pub(super) fn gone(label: &InVolume) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("its volume `{}` is gone", label.name))
}

/// The error of one whose group is not there.
pub(super) fn away(label: &InVolume) -> io::Error {
    let group = group_of(label);
    let text = format!("volume group `{group}` is not attached; unlock or plug in what it lies on");
    io::Error::new(io::ErrorKind::NotConnected, text)
}

#[cfg(test)]
mod tests {
    use super::super::fake::RECORDED;
    use super::super::report::parse;
    use super::*;

    const TABLE: &[u8] = b"\
20 1 8:1 / / rw - ext4 /dev/vda1 rw\n\
21 20 253:4 / /home rw - ext4 /dev/mapper/vg0-home rw\n\
22 21 0:40 / /home/ann/mem rw - tmpfs tmpfs rw\n\
23 21 8:2 / /home/ann/usb rw - ext4 /dev/sdb2 rw\n\
24 20 253:5 / /swapped rw - ext4 /dev/mapper/vg0-swap rw\n\
25 20 253:4 /ann /mnt/ann rw - ext4 /dev/mapper/vg0-home rw\n\
26 20 253:4 / /mnt/odd rw - vfat /dev/mapper/vg0-home rw\n";

    const GROUP: &str = "8Wd8bK-QxWx-2x6d-d4Sv-pA8V-3cnz-0aTqXy";

    fn of(folders: &[&str]) -> Result<(Vec<Origin>, Vec<String>), String> {
        let folders: Vec<BytePath> = folders.iter().map(|path| BytePath::from(*path)).collect();
        let found = origins(&Mounts::parse(TABLE), &parse(RECORDED).unwrap(), &folders);
        found.map_err(|error| error.message)
    }

    fn home() -> Origin {
        Origin {
            place: "/home".into(),
            vg: "vg0".into(),
            vg_uuid: GROUP.into(),
            name: "home".into(),
            pool: "pool".into(),
            fs_type: "ext4".into(),
        }
    }

    #[test]
    fn a_set_is_of_the_volumes_that_hold_its_folders_once_each() {
        let (found, notes) = of(&["/home/ann", "/home"]).unwrap();
        assert_eq!(found, [home()]);
        assert_eq!(
            notes,
            ["`/home/ann/usb` is not in it: `/home/ann/usb` (ext4) is no logical volume of LVM"]
        );
    }

    #[test]
    fn what_is_no_thin_volume_is_refused_by_name_with_what_else_there_is() {
        for (folder, why) in [
            ("/etc", "`/` (ext4) is no logical volume of LVM"),
            ("/swapped", "volume `vg0/swap` at `/swapped` lies in no thin pool (linear)"),
            ("/mnt/ann", "`/mnt/ann` shows only `/ann` of volume `vg0/home`"),
            ("/mnt/odd", "holds vfat, and only ext4 and XFS are read back"),
        ] {
            let error = of(&["/home", folder]).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(error.contains(&format!("`{folder}`")) && error.contains("\"hardlink\""), "{error}");
        }
    }

    #[test]
    fn a_pool_that_is_nearly_full_gets_no_snapshot_and_one_that_fills_up_is_named() {
        let mut volumes = parse(RECORDED).unwrap();
        let mut with = |data: Option<f64>, metadata: f64| {
            let pool = volumes.iter_mut().find(|volume| volume.name == "pool").unwrap();
            (pool.data, pool.metadata) = (data, Some(metadata));
            room(&volumes, &[home()])
        };
        assert_eq!(with(Some(79.9), 10.0).unwrap(), Vec::<String>::new());
        assert!(
            with(Some(10.0), 85.0).unwrap()[0].starts_with("85.0 % of the metadata of thin pool `vg0/pool`")
        );
        for (data, metadata) in [(90.0, 10.0), (100.0, 10.0), (10.0, 95.0)] {
            let error = with(Some(data), metadata).unwrap_err();
            assert_eq!(error.kind, AgentErrorKind::NoSpace);
            assert!(error.message.contains("lvextend"), "{error}");
        }
        assert!(with(None, 10.0).unwrap_err().message.contains("is it active?"));
    }

    #[test]
    fn names_are_such_as_lvm_takes_however_long_the_volume_is_called() {
        let member: SnapshotName = "%2Fhome-manual-20251115T120000Z-abc12345".parse().unwrap();
        assert_eq!(name_of(&home(), &member), "home-manual-20251115T120000Z-abc12345");
        for (vg, name) in [("vg0".repeat(20), "x-".repeat(60)), ("a-".repeat(10), "y".repeat(127))] {
            let long = Origin { vg, name, ..home() };
            let made = name_of(&long, &member);
            let hyphens = |text: &str| text.matches('-').count();
            assert!(made.len() + hyphens(&made) + long.vg.len() + hyphens(&long.vg) < 127, "{made}");
            assert!(made.chars().all(|c| c.is_ascii_alphanumeric() || "+_.-".contains(c)), "{made}");
            let other = Origin { name: format!("{}z", long.name), ..long.clone() };
            assert_ne!(name_of(&other, &member), made);
        }
    }

    #[test]
    fn a_snapshot_is_read_only_from_the_beginning_and_never_activated_by_itself() {
        let tag = tag_of(&[0xab; 16]);
        assert_eq!(tag, format!("pc-switcher-{}", "ab".repeat(16)));
        assert_eq!(
            create(&home(), "home-manual", &tag).join(" "),
            format!(
                "lvcreate --yes --snapshot --permission r --setactivationskip y --addtag pc-switcher --addtag {tag} \
                 --name home-manual vg0/home"
            )
        );
        let taken = &parse(RECORDED).unwrap()[1];
        assert_eq!(
            remove(taken).join(" "),
            format!(
                "lvremove --yes --force --select lv_uuid=J6Es6F-nytf-Inw6-JbYy-Vc1T-dros-KVMjf3 && vg_uuid={GROUP} vg0"
            )
        );
    }

    #[test]
    fn a_label_names_the_volume_of_its_own_group_and_none_that_was_given_its_tag() {
        let volumes = parse(RECORDED).unwrap();
        let taken = &volumes[1];
        let label = InVolume {
            name: taken.full_name(),
            tag: tag_of(&[0xab; 16]),
            fs_type: "ext4".into(),
            vg_uuid: Some(GROUP.into()),
            lv_uuid: Some(taken.uuid.clone()),
        };
        let copy = |name: &str, vg: &str, vg_uuid: &str| Volume {
            name: name.into(),
            vg: vg.into(),
            vg_uuid: vg_uuid.into(),
            ..taken.clone()
        };
        let in_copy = [copy(&taken.name, "copy", "other")];
        let tagged = [Volume { uuid: "mine".into(), ..copy("mine", "vg0", GROUP) }];
        let half_made = InVolume { lv_uuid: None, ..label.clone() };
        let before = InVolume { vg_uuid: None, ..half_made.clone() };
        for label in [&label, &half_made, &before] {
            for others in [&in_copy, &tagged] {
                let all = [&others[..], &volumes[..]].concat();
                assert_eq!(pick(&all, label), Some(taken), "{label:?}");
                assert_eq!(pick(others, label), None, "{label:?}");
            }
        }
        // A volume or a group that was renamed has its uuid still.
        let renamed = [copy("x", "vg1", GROUP)];
        assert_eq!(pick(&renamed, &label), Some(&renamed[0]));
        assert_eq!((pick(&renamed, &half_made), pick(&renamed, &before)), (None, None));
        assert!(is_marked(taken) && !is_marked(&volumes[0]));
    }
}
