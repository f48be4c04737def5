//! What is looked at before a set of volumes is taken, or anything of one is written back.

use std::io;

use pc_switcher_contract::BytePath;

use super::nearest;
use super::restore::Wanted;
use crate::linux::btrfs::Btrfs;
use crate::linux::lvm::{self, Origin};
use crate::linux::mounts::{DISKS, Mounts, is_plain, unescape};
use crate::proto::{AgentError, RestorePlace};

/// Where folders are named.
const TABLE: &str = "[snapshots.components]";

/// Checks that a folder is what its name says. Of copies one that is not there is left out; a volume that is not taken is missed
/// when it is wanted back.
///
/// # Errors
/// If it is not there, is no directory, or a symbolic link leads there.
pub(super) fn check_folder(folder: &BytePath) -> Result<(), AgentError> {
    let refused = |why: String| {
        AgentError::failed(format!("cannot take a snapshot of the volume that holds `{folder}`: {why}"))
    };
    if !is_plain(folder.as_path()) {
        return Err(refused("it is not a plain absolute path".into()));
    }
    let real = std::fs::canonicalize(folder.as_path()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(format!("it is not there; leave it out of {TABLE}, or make it")),
        _ => refused(error.to_string()),
    })?;
    if real != folder.as_path() {
        return Err(refused(format!(
            "symbolic links lead from it to `{}`; name that in {TABLE}",
            real.display()
        )));
    }
    match real.is_dir() {
        true => Ok(()),
        false => Err(refused(format!("it is no directory; name the one that it lies in in {TABLE}"))),
    }
}

/// Returns what is to be mounted below these folders by `/etc/fstab` and is not, a line each.
///
/// # Errors
/// If a folder itself is to show what is not mounted: the set would be of what lies beneath.
pub(super) fn unmounted(
    fstab: &[u8],
    mounts: &Mounts,
    folders: &[BytePath],
) -> Result<Vec<String>, AgentError> {
    let mut notes = Vec::new();
    for line in fstab.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let (Some(device), Some(point), Some(fs_type)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let mut options = fields.next().unwrap_or_default().split(|byte| *byte == b',');
        let is_disk = DISKS.iter().any(|disk| disk.as_bytes() == fs_type) || fs_type == b"auto";
        if device.starts_with(b"#") || !is_disk || options.any(|option| option == b"noauto") {
            continue;
        }
        let point = BytePath::new(unescape(point));
        let is_mounted = mounts.visible().any(|mount| mount.point == point && mount.is_disk());
        if is_mounted || point == BytePath::from("/") {
            continue;
        }
        if let Some(folder) = folders.iter().find(|folder| folder.is_within(&point)) {
            return Err(AgentError::failed(format!(
                "cannot take a snapshot of the volume that holds `{folder}`: by /etc/fstab `{point}` is to be mounted, and it \
                 is not (`mount {point}`)"
            )));
        }
        if folders.iter().any(|folder| point.is_within(folder)) {
            notes.push(format!("`{point}` is not in it: by /etc/fstab it is to be mounted, and it is not"));
        }
    }
    Ok(notes)
}

/// Checks that the records of sets lie in none of the volumes that are taken: whoever goes back to one by `lvconvert --merge` would have
/// records of then, and the volumes of all later sets would be nobody's.
///
/// # Errors
/// Names the volume.
pub(super) fn apart(mounts: &Mounts, origins: &[Origin], snapshot_dir: &BytePath) -> Result<(), AgentError> {
    let near = nearest(snapshot_dir.as_path());
    let near = std::fs::canonicalize(&near).unwrap_or(near);
    let device = |path: &BytePath| mounts.holding(path).map(|mount| mount.device.as_str());
    let here = device(&near.as_path().into());
    match origins.iter().find(|origin| here.is_some() && device(&origin.place) == here) {
        None => Ok(()),
        Some(Origin { vg, name, .. }) => Err(AgentError::failed(format!(
            "`{snapshot_dir}` lies in volume `{vg}/{name}`, of which the set would be: whoever goes back to it loses the \
             records of all later sets; name a directory on another file system as `snapshot_dir` in [btrfs-snapshots]"
        ))),
    }
}

/// Checks before anything is staged that the pools of the volumes have room where it is to come.
///
/// # Errors
/// Of kind `NoSpace` if one is nearly full.
pub(super) fn has_room(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    wanted: &[Wanted],
    place: &RestorePlace,
) -> Result<(), AgentError> {
    let target = |one: &Wanted| match place {
        RestorePlace::Into(dir) => dir.clone(),
        RestorePlace::Beside => one.spot.parent.clone(),
        RestorePlace::InPlace(_) => one.spot.real.clone(),
    };
    let volumes = super::copies::volumes(kernel)?;
    for one in wanted {
        let target = target(one);
        let point = mounts.holding(&target).map(|mount| mount.point.clone()).unwrap_or_default();
        // What is no thin volume has no pool.
        let Ok(origin) = lvm::origin_at(mounts, &volumes, &point) else { continue };
        lvm::room(&volumes, &[origin]).map_err(|error| AgentError {
            message: format!(
                "nothing is restored to `{target}` (to another disk it can be, with `--to DIR`): {}",
                error.message
            ),
            ..error
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_missing_or_a_link_or_a_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(top.join("home")).unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        std::os::unix::fs::symlink(top.join("home"), top.join("link")).unwrap();
        let checked = |name: &str| {
            let path = BytePath::from(top.join(name).as_path());
            check_folder(&path).map_err(|error| error.message.replace(&path.to_string(), "FOLDER"))
        };
        checked("home").unwrap();
        for (name, why) in [
            ("nowhere", "`FOLDER`: it is not there"),
            ("link", "`FOLDER`: symbolic links lead from it to"),
            ("file", "`FOLDER`: it is no directory"),
            ("home/../home", "`FOLDER`: it is not a plain absolute path"),
        ] {
            let error = checked(name).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_fstab_wants_mounted_and_is_not_is_told_below_a_folder_and_refused_as_one() {
        let table = b"20 1 8:1 / / rw - ext4 x rw\n21 20 253:1 / /home rw - ext4 x rw\n22 20 0:40 / /srv/auto rw - autofs x rw\n";
        let mounts = Mounts::parse(table);
        let fstab = b"# /dev/x /home/comment ext4 defaults 0 0\n\
            UUID=a / ext4 defaults 0 1\n\
            UUID=b /home ext4 defaults 0 2\n\
            UUID=c /home/ann/my\\040disk xfs nofail 0 2\n\
            UUID=d /home/ann/usb ext4 noauto,user 0 0\n\
            server:/x /home/net nfs defaults 0 0\n\
            UUID=e none swap sw 0 0\n\
            UUID=f /srv/auto ext4 x-systemd.automount 0 2\n\
            UUID=g /data auto defaults 0 2\n";
        let of = |folders: &[&str]| {
            let folders: Vec<BytePath> = folders.iter().map(|path| BytePath::from(*path)).collect();
            unmounted(fstab, &mounts, &folders).map_err(|error| error.message)
        };
        assert_eq!(
            of(&["/home"]).unwrap(),
            ["`/home/ann/my disk` is not in it: by /etc/fstab it is to be mounted, and it is not"]
        );
        assert_eq!(of(&["/etc", "/home/bob"]).unwrap(), Vec::<String>::new());
        assert_eq!(of(&["/srv"]).unwrap().len(), 1, "it shows nothing until somebody goes there");
        for folder in ["/data", "/data/box"] {
            let error = of(&["/home", folder]).unwrap_err();
            assert!(error.contains(&format!("`{folder}`")) && error.contains("`mount /data`"), "{error}");
        }
    }
}
