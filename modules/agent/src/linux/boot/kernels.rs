//! The kernels that start a machine: where they lie, and whether a state has the modules of the one that comes next.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use pc_switcher_contract::{BytePath, SetId};

use crate::linux::mounts::Mounts;

/// Whether the kernels that start this machine lie elsewhere than in `/boot`: on the system partition of EFI, where systemd-boot and
/// unified images have theirs, or nowhere that is known.
pub(in crate::linux) fn are_apart(root: &Path) -> bool {
    let is_kernel = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("vmlinuz") || name.starts_with("vmlinux") || name == "linux"
    };
    let at = |path: &str| root.join(path);
    let has_own = names(&at("boot")).iter().any(|name| is_kernel(name));
    // Looking there has what is mounted on demand mounted.
    let elsewhere = ["efi", "boot/efi"].iter().any(|dir| {
        let dir = at(dir);
        let is_image = |name: &String| name.to_ascii_lowercase().ends_with(".efi");
        let unified =
            ["EFI/Linux", "EFI/linux"].iter().any(|below| names(&dir.join(below)).iter().any(is_image));
        unified || holds(&dir, KERNEL_DEPTH, &is_kernel)
    });
    elsewhere || !has_own
}

/// systemd-boot has kernels in `TOKEN/VERSION/linux`, others in `EFI/NAME/vmlinuz.efi`.
const KERNEL_DEPTH: u32 = 3;

fn holds(dir: &Path, depth: u32, is_it: &dyn Fn(&str) -> bool) -> bool {
    names(dir).iter().any(|name| {
        let path = dir.join(name);
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => depth > 1 && holds(&path, depth - 1, is_it),
            Ok(found) => found.is_file() && is_it(name),
            Err(_) => false,
        }
    })
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the version of a kernel that starts the machine and of which a state has no modules, though the machine has them now: what
/// comes next is the newest one, and where nothing is known of any, the one that runs.
pub(in crate::linux) fn left_without_modules(root: &Path, state: &Path, running: &str) -> Option<String> {
    let has = |tree: &Path, version: &str| {
        ["lib/modules", "usr/lib/modules"].iter().any(|dir| tree.join(dir).join(version).is_dir())
    };
    // A kernel that brings all it needs has modules nowhere.
    let mut known: Vec<String> = versions(root).into_iter().filter(|version| has(root, version)).collect();
    known.sort_by(|a, b| by_version(a, b));
    let next = known.pop().or_else(|| has(root, running).then(|| running.to_owned()))?;
    (!has(state, &next)).then_some(next)
}

/// Returns the release of the kernel that the next start has, where that can be told: what GRUB was told to take once, what its menu was
/// told to take, otherwise the newest one. `None` where another loader or other settings may choose. What is mounted on demand stays as it
/// is.
pub(in crate::linux) fn next(root: &Path) -> Option<String> {
    if has_another_loader(root) {
        return None;
    }
    let plain = names(&root.join("boot"));
    let releases = plain.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
    // Names such as `vmlinuz-linux` and `vmlinuz-0-rescue-…` are no releases: of those there are modules.
    let has = |release: &&str| {
        ["lib/modules", "usr/lib/modules"].iter().any(|dir| root.join(dir).join(release).is_dir())
    };
    let mut known: Vec<&str> = releases.filter(has).collect();
    known.sort_by(|a, b| by_version(a, b));
    let read = |dir: &str| fs::read(root.join(dir).join("grubenv")).ok();
    let grubenv = ["boot/grub", "boot/grub2"].into_iter().find_map(read).unwrap_or_default();
    let grubenv = String::from_utf8_lossy(&grubenv).into_owned();
    let noted = |key: &str| {
        let mut values = grubenv.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next_back().filter(|entry| !entry.is_empty()).map(str::to_owned)
    };
    let chosen = match noted("next_entry") {
        Some(once) => Some(once),
        None if may_choose(&root.join("etc/default/grub.d")) => return None,
        None => {
            let settings = fs::read_to_string(root.join("etc/default/grub")).unwrap_or_default();
            let mut default = settings.lines().filter_map(|line| line.trim().strip_prefix("GRUB_DEFAULT="));
            let default = default.next_back().map_or("0", |value| value.trim_matches(['"', '\'']));
            if default == "saved" { noted("saved_entry") } else { Some(default.to_owned()) }
        }
    };
    match chosen.filter(|entry| !entry.is_empty() && entry != "0") {
        None => known.pop().map(str::to_owned),
        // An entry by its place in the menu, or by a name that tells no release, may be any.
        Some(entry) => {
            let mut named: Vec<&str> =
                known.into_iter().filter(|release| is_named(&entry, release)).collect();
            named.sort_by_key(|release| release.len());
            named.pop().map(str::to_owned)
        }
    }
}

/// Whether systemd-boot, or a loader with settings as it has them, chooses what is started. Its partition is looked at only where that is
/// mounted: of the one that started this machine the firmware says it as well.
fn has_another_loader(root: &Path) -> bool {
    let told = fs::read(root.join("sys/firmware/efi/efivars").join(LOADER_INFO)).unwrap_or_default();
    // UTF-16, of letters that have a byte each.
    let told: String =
        told.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    let mounts = Mounts::read().unwrap_or_default();
    let is_on_demand = |dir: &Path| {
        let dir = BytePath::from(dir);
        mounts.holding(&dir).is_some_and(|mount| mount.point == dir && mount.fs_type == "autofs")
    };
    let dirs = ["boot", "boot/efi", "efi"].map(|dir| root.join(dir));
    told.contains("systemd-boot")
        || dirs.iter().any(|dir| !is_on_demand(dir) && dir.join("loader/loader.conf").exists())
}

/// The variable of EFI by which a loader says its name.
const LOADER_INFO: &str = "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Whether settings in a directory beside those of GRUB may choose what is started; what cannot be read may.
fn may_choose(dir: &Path) -> bool {
    let chooses = |text: String| {
        text.lines()
            .any(|line| !line.trim_start().starts_with('#') && CHOOSING.iter().any(|key| line.contains(key)))
    };
    let files = names(dir).into_iter().filter(|name| name.ends_with(".cfg"));
    files.into_iter().any(|name| fs::read_to_string(dir.join(name)).map_or(true, chooses))
}

/// The settings of GRUB that change which entry is taken, or which comes first.
const CHOOSING: [&str; 3] = ["GRUB_DEFAULT", "GRUB_FLAVOUR_ORDER", "GRUB_TOP_LEVEL"];

/// Whether a name has a release in it that nothing continues but what stands behind a dash or a blank.
fn is_named(entry: &str, release: &str) -> bool {
    entry.match_indices(release).any(|(at, _)| {
        let rest = &entry[at + release.len()..];
        let before = entry[..at].chars().next_back();
        before.is_none_or(|c| matches!(c, '-' | ' ' | '>'))
            && rest.chars().next().is_none_or(|c| matches!(c, '-' | ' ' | '>'))
    })
}

/// Says what a set lacks.
pub(in crate::linux) fn lacking(set: &SetId, kernel: &str) -> String {
    format!("set {set} has no modules for kernel {kernel}, and kernels do not go back with it")
}

/// Returns the versions of the kernels that a boot loader finds, as far as their names tell them.
fn versions(root: &Path) -> Vec<String> {
    let plain = names(&root.join("boot"));
    let plain = plain.iter().filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
    let mut found: Vec<String> = plain.collect();
    for partition in ["efi", "boot/efi", "boot"].map(|dir| root.join(dir)) {
        for entry in names(&partition) {
            let entry = partition.join(entry);
            found.extend(
                names(&entry).into_iter().filter(|version| entry.join(version).join("linux").is_file()),
            );
        }
    }
    found
}

/// Compares versions: numbers by their value, all else as text.
fn by_version(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let mut parts = vec![(0, String::new())];
        for c in text.chars() {
            let is_number = c.is_ascii_digit();
            let last = parts.len() - 1;
            let was_number = parts[last].1.chars().next_back().is_some_and(|c| c.is_ascii_digit());
            match is_number == was_number {
                true => parts[last].1.push(c),
                false => parts.push((0, c.to_string())),
            }
        }
        parts.into_iter().map(|(_, text)| (text.parse().unwrap_or(0), text)).collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "").unwrap();
    }

    #[test]
    fn the_next_kernel_is_the_newest_unless_the_menu_was_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(next(root), None);
        for release in ["6.1.0-9-amd64", "6.1.0-26-amd64"] {
            put(root, &format!("boot/vmlinuz-{release}"));
            fs::create_dir_all(root.join("usr/lib/modules").join(release)).unwrap();
        }
        put(root, "boot/vmlinuz-6.12.1-gone");
        put(root, "boot/vmlinuz-linux");
        assert_eq!(next(root).as_deref(), Some("6.1.0-26-amd64"), "of the others there are no modules");
        let told = |default: &str, saved: &str| {
            put(root, "etc/default/grub");
            put(root, "boot/grub/grubenv");
            fs::write(root.join("etc/default/grub"), format!("GRUB_TIMEOUT=5\nGRUB_DEFAULT={default}\n"))
                .unwrap();
            fs::write(root.join("boot/grub/grubenv"), format!("# GRUB\nsaved_entry={saved}\n####")).unwrap();
            next(root)
        };
        let old = "gnulinux-advanced-1f>gnulinux-6.1.0-9-amd64-advanced-1f";
        assert_eq!(told("saved", old).as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(told("0", old).as_deref(), Some("6.1.0-26-amd64"), "what was saved counts only then");
        assert_eq!(told("saved", "").as_deref(), Some("6.1.0-26-amd64"));
        assert_eq!(told(&format!("\"{old}\""), "").as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(told("saved", "1>2"), None, "a place in a menu that nobody has read");
        assert_eq!(told("saved", "x-6.1.0-9-amd64v3"), None);
    }

    #[test]
    fn the_next_kernel_is_the_one_for_once_and_none_where_something_else_may_choose() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &[u8]| {
            put(root, path);
            fs::write(root.join(path), text).unwrap();
        };
        for release in ["6.1.0-9-amd64", "6.1.0-26-amd64"] {
            write(&format!("boot/vmlinuz-{release}"), b"");
            fs::create_dir_all(root.join("usr/lib/modules").join(release)).unwrap();
        }
        let newest = Some("6.1.0-26-amd64".to_owned());
        write(
            "boot/grub/grubenv",
            b"# GRUB\nsaved_entry=x\nnext_entry=gnulinux-6.1.0-9-amd64-advanced-1f\n####",
        );
        assert_eq!(next(root).as_deref(), Some("6.1.0-9-amd64"), "`grub-reboot`, whatever the settings say");
        write("boot/grub/grubenv", b"# GRUB\nnext_entry=2\n####");
        assert_eq!(next(root), None, "a place in a menu that nobody has read");
        write("boot/grub/grubenv", b"# GRUB\nnext_entry=\n####");
        assert_eq!(next(root), newest, "it was taken");
        write("etc/default/grub.d/50-theme.cfg", b"# GRUB_DEFAULT=2\nGRUB_TIMEOUT=1\n");
        write("etc/default/grub.d/README", b"GRUB_DEFAULT=2\n");
        assert_eq!(next(root), newest, "neither of them chooses");
        for text in
            ["GRUB_DEFAULT=2", "GRUB_FLAVOUR_ORDER=\"cloud\"", "export GRUB_TOP_LEVEL=/boot/vmlinuz-x"]
        {
            write("etc/default/grub.d/60-mine.cfg", text.as_bytes());
            assert_eq!(next(root), None, "{text}");
        }
        fs::remove_file(root.join("etc/default/grub.d/60-mine.cfg")).unwrap();
        for path in ["boot", "boot/efi", "efi"].map(|dir| format!("{dir}/loader/loader.conf")) {
            write(&path, b"default x.conf\n");
            assert_eq!(next(root), None, "{path}");
            fs::remove_file(root.join(path)).unwrap();
        }
        let info = format!("sys/firmware/efi/efivars/{LOADER_INFO}");
        for (name, wanted) in [("GRUB 2.12", newest.clone()), ("systemd-boot 257", None)] {
            let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            write(&info, &[&[6, 0, 0, 0], wide.as_slice()].concat());
            assert_eq!(next(root), wanted, "{name}");
        }
    }

    #[test]
    fn kernels_on_a_partition_of_efi_do_not_go_back_with_a_boot_that_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str| put(root, path);
        assert!(are_apart(root), "nobody knows where they are");
        put("boot/vmlinuz-6.1.0-1-amd64");
        put("boot/efi/EFI/debian/grubx64.efi");
        put("boot/efi/EFI/BOOT/BOOTX64.EFI");
        assert!(!are_apart(root), "GRUB reads them where they are");
        for path in [
            "efi/0123456789abcdef/6.1.0-1-amd64/linux",
            "boot/efi/0123456789abcdef/6.1.0-1-amd64/linux",
            "boot/efi/EFI/Pop_OS-1/vmlinuz.efi",
            "boot/efi/EFI/Linux/debian-6.1.efi",
            "efi/VMLINUZ-LINUX",
        ] {
            put(path);
            assert!(are_apart(root), "{path}");
            fs::remove_file(root.join(path)).unwrap();
            assert!(!are_apart(root), "{path}");
        }
    }

    #[test]
    fn the_newest_kernel_is_the_one_that_a_state_needs_modules_for() {
        let (now, then) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (now, then) = (now.path(), then.path());
        let missing = || left_without_modules(now, then, "6.1.0-9-amd64");
        assert_eq!(missing(), None, "a kernel without modules");
        fs::create_dir_all(now.join("lib/modules/6.1.0-9-amd64")).unwrap();
        assert_eq!(missing().as_deref(), Some("6.1.0-9-amd64"), "nobody knows of another one");
        fs::create_dir_all(then.join("lib/modules/6.1.0-9-amd64")).unwrap();
        assert_eq!(missing(), None);
        for version in ["6.1.0-9-amd64", "6.1.0-18-amd64"] {
            put(now, &format!("boot/vmlinuz-{version}"));
        }
        assert_eq!(missing(), None, "what has no modules now misses none then");
        fs::create_dir_all(now.join("usr/lib/modules/6.1.0-18-amd64")).unwrap();
        assert_eq!(missing().as_deref(), Some("6.1.0-18-amd64"));
        fs::create_dir_all(then.join("lib/modules/6.1.0-18-amd64")).unwrap();
        assert_eq!(missing(), None);
        put(now, "boot/efi/0123456789abcdef/6.12.3+deb13-amd64/linux");
        fs::create_dir_all(now.join("lib/modules/6.12.3+deb13-amd64")).unwrap();
        assert_eq!(missing().as_deref(), Some("6.12.3+deb13-amd64"));
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-18-amd64"),
            ("6.9.1-1-amd64", "6.12.0-1-amd64"),
            ("6.12.0", "6.12.0-1"),
            ("5.15.0-generic", "6.0.0-generic"),
        ] {
            assert_eq!(
                (by_version(older, newer), by_version(newer, older)),
                (Ordering::Less, Ordering::Greater)
            );
        }
        assert_eq!(by_version("6.1.0-9-amd64", "6.1.0-9-amd64"), Ordering::Equal);
    }
}
