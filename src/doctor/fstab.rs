//! Lines of `/etc/fstab`.

use pc_switcher_contract::BytePath;

/// A btrfs line whose options name a subvolume by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ById {
    /// The line's number, from 1.
    pub line: usize,
    /// Where it mounts.
    pub mount_point: String,
    /// The option, for example `subvolid=256`.
    pub option: String,
    /// Whether the options name the subvolume by its path too.
    pub has_name: bool,
}

/// Finds lines that name a subvolume by its id: after a rollback by renaming such a mount fails (facts/btrfs.md B45).
pub fn by_id(text: &str) -> Vec<ById> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        let [_, mount_point, "btrfs", options, ..] = fields[..] else { continue };
        let id = options.split(',').find(|option| option.starts_with("subvolid="));
        if let Some(option) = id.filter(|option| *option != "subvolid=5" && *option != "subvolid=0") {
            found.push(ById {
                line: number + 1,
                mount_point: mount_point.to_owned(),
                option: option.to_owned(),
                has_name: options.split(',').any(|option| option.starts_with("subvol=")),
            });
        }
    }
    found
}

/// Returns where something is to be mounted.
pub fn points(text: &str) -> Vec<BytePath> {
    let fields = text.lines().map(|line| line.split('#').next().unwrap_or("").split_whitespace());
    let points = fields.filter_map(|mut fields| fields.nth(1)).filter(|point| point.starts_with('/'));
    points.map(BytePath::from).collect()
}

/// Returns a path as it stands in a field.
pub(crate) fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_subvolume_named_by_its_id_is_found() {
        let text = "# UUID=1 / btrfs subvolid=256 0 0\n\
            UUID=1 / btrfs rw,subvolid=256,subvol=/@ 0 0\n\
            UUID=1 /home btrfs subvol=@home 0 0\n\
            UUID=1 /mnt btrfs subvolid=5 0 0\n\
            UUID=1\t/srv\tbtrfs\tsubvolid=300\n\
            UUID=2 /data ext4 subvolid=1 0 0\n";
        let found: Vec<_> =
            by_id(text).into_iter().map(|one| (one.line, one.mount_point, one.has_name)).collect();
        assert_eq!(found, [(2, "/".to_owned(), true), (5, "/srv".to_owned(), false)]);
    }

    #[test]
    fn a_path_with_blanks_is_one_field() {
        assert_eq!(escaped("/my snaps\\x"), "/my\\040snaps\\134x");
    }
}
