//! The mount table, read from mountinfo. Pure but for [`Mounts::read`].

use std::path::Path;

use pc_switcher_contract::BytePath;

use crate::proto::AgentError;

/// How often the table is read anew at most until it is twice the same.
const LOOKS: usize = 10;

/// File systems of disks.
pub(super) const DISKS: [&str; 11] =
    ["ext2", "ext3", "ext4", "xfs", "f2fs", "btrfs", "bcachefs", "jfs", "nilfs2", "reiserfs", "zfs"];

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: u64,
    /// The id of the mount it stands on.
    pub parent: u64,
    /// The device, `major:minor`. Each btrfs has one of its own, which all its mounts share and no disk has.
    pub device: String,
    /// The part of the file system that it shows, from the file system's top level.
    pub root: BytePath,
    /// Where it is mounted.
    pub point: BytePath,
    /// The file system's type.
    pub fs_type: String,
}

impl Mount {
    /// Whether it shows what lies on a disk, not in memory or elsewhere.
    pub(crate) fn is_disk(&self) -> bool {
        DISKS.contains(&self.fs_type.as_str())
    }

    /// Whether it shows btrfs.
    pub fn is_btrfs(&self) -> bool {
        self.fs_type == "btrfs"
    }
}

/// All mounts of this mount namespace, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the table of this process.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn read() -> Result<Self, AgentError> {
        let path = "/proc/self/mountinfo";
        let read =
            || std::fs::read(path).map_err(|error| AgentError::io(format!("cannot read `{path}`"), &error));
        // It comes page by page: of mounts that come and go in between a line may be lost of one that stays.
        let mut text = read()?;
        for _ in 0..LOOKS {
            let again = read()?;
            if again == text {
                break;
            }
            text = again;
        }
        Ok(Self::parse(&text))
    }

    /// Parses mountinfo; lines that are none are left out.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Makes a table of the given mounts.
    #[cfg(test)]
    pub(crate) fn of(mounts: Vec<Mount>) -> Self {
        Self(mounts)
    }

    /// Returns all mounts, those that are hidden under a later one as well.
    pub fn all(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// Returns all mounts that a path can reach: those not hidden under a later mount.
    pub fn visible(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|mount| self.holding(&mount.point).is_some_and(|top| top.id == mount.id))
    }

    /// Returns the mount that an absolute, plain path leads into.
    pub fn holding(&self, path: &BytePath) -> Option<&Mount> {
        let is_root =
            |mount: &&Mount| mount.parent == mount.id || !self.0.iter().any(|one| one.id == mount.parent);
        let mut at =
            self.0.iter().filter(is_root).filter(|mount| covers(&mount.point, path)).max_by_key(depth)?;
        // Each step goes to another mount; the bound guards against a table that loops.
        for _ in 0..self.0.len() {
            let next = self
                .0
                .iter()
                .filter(|mount| mount.parent == at.id && mount.id != at.id && covers(&mount.point, path))
                .min_by_key(depth);
            match next {
                Some(mount) => at = mount,
                None => break,
            }
        }
        Some(at)
    }
}

fn depth(mount: &&Mount) -> usize {
    mount.point.as_bytes().len()
}

fn covers(point: &BytePath, path: &BytePath) -> bool {
    path.is_within(point)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (id, parent, device) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?.to_owned());
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let _options = fields.next()?;
    fields.find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(Mount { id, parent, device, root: BytePath::new(root), point: BytePath::new(point), fs_type })
}

/// Undoes the kernel's octal escapes; anything else stays as it is.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = digits
            .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .map(|digits| digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0')))
            .and_then(|value| u8::try_from(value).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Whether `path` is absolute and free of `.`, `..` and doubled slashes.
pub fn is_plain(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    bytes == b"/"
        || (bytes.starts_with(b"/")
            && bytes[1..].split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"\
20 1 0:30 /@ / rw,relatime shared:1 - btrfs /dev/vda2 rw,subvol=/@
21 20 0:30 /@home /home rw,relatime shared:2 master:7 - btrfs /dev/vda2 rw,subvol=/@home
22 21 0:31 / /home/a\\040b/mnt rw - fuse.sshfs host:/ rw
23 20 0:5 / /proc rw - proc proc rw
24 21 0:32 / /home/hidden rw - tmpfs none rw
25 20 0:33 / /srv rw - tmpfs none rw
26 25 0:34 / /srv rw - ext4 /dev/vdb rw
27 21 0:35 / /home rw - tmpfs over rw
garbage
";

    fn mounts() -> Mounts {
        Mounts::parse(TABLE)
    }

    #[test]
    fn optional_fields_and_escapes_are_read() {
        let mounts = mounts();
        assert_eq!(mounts.0.len(), 8);
        assert_eq!(mounts.0[2].point, "/home/a b/mnt".into());
        assert_eq!(mounts.0[1].root, "/@home".into());
        assert_eq!(mounts.0[2].fs_type, "fuse.sshfs");
    }

    #[test]
    fn a_mount_over_another_hides_it_and_all_below() {
        let mounts = mounts();
        let holder = |path: &str| mounts.holding(&path.into()).unwrap().id;
        assert_eq!((holder("/"), holder("/etc"), holder("/srv/x")), (20, 20, 26));
        assert_eq!(holder("/home/hidden"), 27, "the tmpfs over /home hides what was there");
        let visible: Vec<_> = mounts.visible().map(|mount| mount.id).collect();
        assert_eq!(visible, [20, 23, 26, 27]);
    }

    #[test]
    fn plain_paths_are_told_from_others() {
        for good in ["/", "/home", "/home/a b"] {
            assert!(is_plain(Path::new(good)), "{good}");
        }
        for bad in ["", "home", "/home/", "//home", "/home/../etc", "/./home"] {
            assert!(!is_plain(Path::new(bad)), "{bad}");
        }
    }

    fn escape(path: &[u8]) -> Vec<u8> {
        let odd = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#');
        path.iter()
            .flat_map(|byte| if odd(byte) { format!("\\{byte:03o}").into_bytes() } else { vec![*byte] })
            .collect()
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in prop::collection::vec(1_u8..=255, 1..40)) {
            let point = [b"/".as_slice(), &name].concat();
            let line = [b"1 0 0:1 / ".as_slice(), &escape(&point), b" rw - btrfs none rw"].concat();
            let mounts = Mounts::parse(&line);
            prop_assert_eq!(mounts.0[0].point.as_bytes(), point.as_slice());
        }

        #[test]
        fn nothing_makes_the_parser_fail(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let mounts = Mounts::parse(&text);
            let _ = mounts.visible().count();
        }

        #[test]
        fn every_path_lies_in_the_mount_that_holds_it(parents in prop::collection::vec((0_u64..8, "[ab]{1}(/[ab]{1}){0,2}"), 1..8)) {
            let mut text = b"100 1 0:1 / / rw - btrfs none rw\n".to_vec();
            for (n, (parent, path)) in parents.iter().enumerate() {
                text.extend(format!("{} {} 0:2 / /{path} rw - tmpfs none rw\n", 101 + n, 100 + parent).bytes());
            }
            let mounts = Mounts::parse(&text);
            let path = BytePath::from("/a/b/a/x");
            let holder = mounts.holding(&path).unwrap();
            prop_assert!(path.is_within(&holder.point));
        }
    }
}
