//! Looks whether and how a machine can be protected, while it runs.

use std::fs;
use std::path::Path;

use pc_switcher_contract::{BytePath, SubvolumeName, UtcStamp, Vital};

use super::decide::{chosen_otherwise, mounted_otherwise, subvolume_of};
use super::goal::{goal, wish};
use super::{boot_id, count, kernels, whole};
use crate::linux::btrfs::{Btrfs, KernelBtrfs, Uuid};
use crate::linux::install::BIN;
use crate::linux::mounts::{Mount, Mounts};
use crate::linux::rollback;
use crate::linux::state::{STATE_PATH, StateDir};
use crate::proto::{AgentError, BootLook, BootTree, Counted, RollbackOrder};

/// Makes the initramfs.
const UPDATE_INITRAMFS: &str = "/usr/sbin/update-initramfs";

/// Looks at everything.
pub(super) fn look(snapshot_dir: &BytePath, state: &StateDir) -> Result<BootLook, AgentError> {
    let counted = count::read(snapshot_dir.as_path())
        .map_err(|error| AgentError::io("cannot read the count of starts", &error))?;
    let mounts = Mounts::read()?;
    let uuid = |mount: &Mount| KernelBtrfs.fs_uuid(mount.point.as_path()).ok();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut look = BootLook { counted, ..lay(&mounts, &uuid, &command_line, snapshot_dir) };
    look.unfit.extend(initramfs(&|path| Path::new(path).exists()));
    look.boot_apart |= kernels::are_apart(Path::new("/"));
    if look.unfit.is_empty() {
        way_back(&mut look, snapshot_dir, state)?;
    }
    look.problems.extend(uncounted(&command_line));
    if look.counted != Counted::Off {
        look.problems.extend(match whole::lacks(Path::new("/")) {
            Some(missing) => Some(format!(
                "starts are not counted, since `{missing}` is not there; `pc-switcher snapshots auto on` puts it in place, `auto off` \
                 ends it"
            )),
            None => whole::never_says(Path::new("/"), snapshot_dir)
                .map(|why| format!("starts are not counted: {why}")),
        });
    }
    Ok(look)
}

/// Starts with another word than each day's are not counted; if that word is one of each day's, none is.
fn uncounted(command_line: &str) -> Option<String> {
    let flags = command_line.split_whitespace().filter_map(|word| word.strip_prefix("rootflags="));
    let word = chosen_otherwise(command_line).or_else(|| flags.filter_map(mounted_otherwise).next())?;
    Some(format!(
        "this start is not counted, and no other one is whose kernel's command line has `{word}`; if the boot loader says that each \
         day, have it leave that out"
    ))
}

/// What an early start would go back to, and what would keep it from that.
fn way_back(look: &mut BootLook, snapshot_dir: &BytePath, state: &StateDir) -> Result<(), AgentError> {
    let proven = match &look.counted {
        Counted::So(count) => count.proven,
        Counted::Off | Counted::Garbled => 0,
    };
    let Some((to, subvolumes)) = goal(snapshot_dir, &look.trees, proven)? else {
        look.problems.push("no set of these subvolumes is marked as good".into());
        return Ok(());
    };
    look.to = Some((to.id(), subvolumes.clone()));
    let stamp = UtcStamp::new(jiff::Timestamp::now());
    let wish = wish(snapshot_dir, to, subvolumes, &boot_id()?, stamp, 0)?;
    let found = rollback::run(&RollbackOrder::Check(wish), state, &crate::data::apply::Unwatched)?;
    look.problems.extend(found.problems);
    Ok(())
}

/// Finds what the early part of a start has to mount, and what cannot be.
fn lay(
    mounts: &Mounts,
    uuid: &dyn Fn(&Mount) -> Option<Uuid>,
    command_line: &str,
    snapshot_dir: &BytePath,
) -> BootLook {
    let mut look = BootLook::default();
    let root_path = BytePath::from("/");
    let Some(root) = mounts.holding(&root_path).filter(|mount| mount.is_btrfs()) else {
        look.unfit.push("`/` does not lie on btrfs".into());
        return look;
    };
    let Some(system) = uuid(root) else {
        look.unfit.push("it cannot be told on which btrfs `/` lies".into());
        return look;
    };
    let Some(name) = top_level(root) else {
        look.unfit.push("`/` is no subvolume at the top level of its disk, such as `@`".into());
        return look;
    };
    let flags =
        command_line.split_whitespace().filter_map(|word| word.strip_prefix("rootflags=")).next_back();
    if flags.and_then(subvolume_of) != Some(name.as_str()) {
        look.unfit.push(format!(
            "the kernel's command line does not name the subvolume of `/`; have the boot loader say `rootflags=subvol={name}`"
        ));
    }
    let mut add = |point: &BytePath, name: SubvolumeName| {
        if !look.trees.iter().any(|tree| tree.name == name) {
            look.trees.push(BootTree { name, point: point.clone() });
        }
    };
    add(&root_path, name.clone());
    let vital = Vital::of([]);
    let is_vital = |mount: &&Mount| vital.area(&mount.point, true).is_some();
    for mount in mounts.visible().filter(|mount| mount.is_btrfs()).filter(is_vital) {
        if let Some(name) = top_level(mount).filter(|_| uuid(mount) == Some(system)) {
            add(&mount.point, name);
        }
    }
    let holder = |path: &BytePath| {
        let mount = mounts.holding(path).filter(|mount| mount.is_btrfs() && uuid(mount) == Some(system))?;
        Some((mount.point.clone(), top_level(mount)?))
    };
    let unfit = match (holder(snapshot_dir), holder(&STATE_PATH.into())) {
        (None, _) => Some(format!(
            "`{snapshot_dir}` is no subvolume at the top level of the disk that `/` lies on (`pc-switcher doctor` prints the commands)"
        )),
        (Some((_, holder)), _) if holder == name => Some(format!(
            "the snapshots in `{snapshot_dir}` lie in `{name}` itself (`pc-switcher doctor` prints the commands)"
        )),
        (_, None) => Some(format!("`{STATE_PATH}` does not lie on the disk of `/`")),
        (Some((point, snapshots)), Some((state_point, state))) => {
            add(&point, snapshots);
            add(&state_point, state);
            None
        }
    };
    look.unfit.extend(unfit);
    // Whether the program is there is looked at before a start is counted.
    match holder(&BIN.into()) {
        Some((point, program)) => add(&point, program),
        None => look.unfit.push(format!(
            "`{BIN}` does not lie on the disk of `/`, so that it could not be seen before `/` is mounted whether it is there"
        )),
    }
    // One inside of another is mounted after it.
    look.trees.sort_by(|one, other| one.point.cmp(&other.point));
    let boot = mounts.holding(&"/boot".into()).map(|mount| &mount.point);
    look.boot_apart = !look.trees.iter().any(|tree| Some(&tree.point) == boot);
    // They become words of a shell.
    let is_odd = |text: &str| !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._/-".contains(&b));
    let points = look.trees.iter().map(|tree| tree.point.to_string());
    let mut words =
        look.trees.iter().map(|tree| tree.name.to_string()).chain(points).chain([snapshot_dir.to_string()]);
    if let Some(odd) = words.find(|word| is_odd(word)) {
        look.unfit.push(format!("`{odd}` has other signs than letters, digits and `@ . _ / -`"));
    }
    look
}

/// Returns the name of a subvolume at the top level that a mount shows whole.
fn top_level(mount: &Mount) -> Option<SubvolumeName> {
    let root = mount.root.to_string();
    let name = root.strip_prefix('/').filter(|name| !name.is_empty() && !name.contains('/'))?;
    name.parse().ok()
}

fn initramfs(exists: &dyn Fn(&str) -> bool) -> Option<String> {
    match (exists(UPDATE_INITRAMFS) && exists("/etc/initramfs-tools"), exists("/usr/bin/dracut")) {
        (true, _) => None,
        (false, true) => {
            Some("its initramfs is made by dracut; boot protection works with initramfs-tools alone".into())
        }
        (false, false) => Some("it has no initramfs-tools, and boot protection works with that alone".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
20 1 0:30 /@ / rw - btrfs /dev/vda2 rw
21 20 0:30 /@home /home rw - btrfs /dev/vda2 rw
22 20 0:30 /@snapshots /.snapshots rw - btrfs /dev/vda2 rw
23 20 0:30 /@var /var rw - btrfs /dev/vda2 rw
24 20 0:31 / /boot/efi rw - vfat /dev/vda1 rw
";

    fn laid(table: &str, command_line: &str, snapshot_dir: &str) -> BootLook {
        let uuid = |mount: &Mount| Some(Uuid([u8::from(mount.device != "0:30"); 16]));
        lay(&Mounts::parse(table.as_bytes()), &uuid, command_line, &snapshot_dir.into())
    }

    #[test]
    fn a_machine_with_flat_subvolumes_can_be_protected_and_its_home_is_not_touched() {
        let look = laid(TABLE, "root=UUID=1 ro rootflags=subvol=@ quiet", "/.snapshots");
        assert_eq!((look.unfit, look.boot_apart), (Vec::<String>::new(), false));
        let trees: Vec<String> =
            look.trees.iter().map(|tree| format!("{}={}", tree.name, tree.point)).collect();
        assert_eq!(
            trees,
            ["@=/", "@snapshots=/.snapshots", "@var=/var"],
            "packages and our state lie in `@var`"
        );
    }

    #[test]
    fn what_cannot_be_found_again_before_the_root_is_mounted_is_named() {
        let named = |table: &str, line: &str, dir: &str| laid(table, line, dir).unfit.join("; ");
        let line = "root=UUID=1 rootflags=subvol=@";
        assert!(named(TABLE, "root=UUID=1", "/.snapshots").contains("`rootflags=subvol=@`"));
        assert!(named(TABLE, line, "/home/snaps").is_empty(), "any subvolume but the one of `/` will do");
        assert!(named(TABLE, line, "/snaps").contains("lie in `@` itself"));
        assert!(named(TABLE, line, "/boot/efi/snaps").contains("is no subvolume at the top level"));
        let ext4 = TABLE.replace("/@ / rw - btrfs", "/ / rw - ext4");
        assert_eq!(named(&ext4, line, "/.snapshots"), "`/` does not lie on btrfs");
        let nested = TABLE.replace("/@ /", "/os/@ /");
        assert!(named(&nested, line, "/.snapshots").contains("no subvolume at the top level"));
        let odd = TABLE.replace("@snapshots", "it's");
        assert!(named(&odd, line, "/.snapshots").contains("other signs than letters"));
    }

    #[test]
    fn a_program_in_a_subvolume_of_its_own_is_seen_and_on_another_disk_it_is_not() {
        let line = "root=UUID=1 ro rootflags=subvol=@";
        let own = format!("{TABLE}25 20 0:30 /@local /usr/local rw - btrfs /dev/vda2 rw\n");
        let look = laid(&own, line, "/.snapshots");
        let tree = BootTree { name: "@local".parse().unwrap(), point: "/usr/local".into() };
        assert!(look.unfit.is_empty() && look.trees.contains(&tree), "{look:?}");
        let apart = format!("{TABLE}25 20 0:33 / /usr/local rw - ext4 /dev/vdb rw\n");
        let unfit = laid(&apart, line, "/.snapshots").unfit;
        assert!(unfit.join("; ").contains("`/usr/local/bin/pc-switcher` does not lie"), "{unfit:?}");
    }

    #[test]
    fn a_kernels_command_line_by_which_no_start_counts_is_told() {
        assert_eq!(uncounted("root=UUID=1 rootflags=subvol=@ quiet init=/sbin/init"), None);
        assert!(uncounted("root=UUID=1 rootflags=subvol=@,degraded quiet").unwrap().contains("`degraded`"));
        let said = uncounted("root=UUID=1 rootflags=subvol=@ init=/opt/mine quiet").unwrap();
        assert!(said.contains("`init=/opt/mine`"), "{said}");
    }

    #[test]
    fn a_kernel_on_a_disk_of_its_own_does_not_go_back() {
        let apart = format!("{TABLE}25 20 0:32 / /boot rw - ext4 /dev/vda3 rw\n");
        assert!(laid(&apart, "rootflags=subvol=@", "/.snapshots").boot_apart);
    }

    #[test]
    fn another_maker_of_an_initramfs_is_named() {
        assert_eq!(initramfs(&|_| true), None);
        assert!(initramfs(&|path| path.contains("dracut")).unwrap().contains("dracut"));
        assert!(initramfs(&|_| false).unwrap().contains("no initramfs-tools"));
    }
}
