//! Whether a path is taken back: pure. Three states are compared, those of the sync's pre and post set and that of now.

use pc_switcher_contract::BytePath;

use crate::proto::{Body, Entry, Identity, Kind, Meta, Op};

/// What a sync meant a path to become, as far as its steps say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meant {
    /// Nothing.
    Gone,
    /// Another name of some file.
    Link,
    /// Of this kind, with this metadata and size.
    Made(Kind, u64, Meta),
    /// Whatever it was, with this metadata.
    Changed(Meta),
    /// A directory, whose time is that of the last change in it.
    Dir(Meta),
}

impl Meant {
    /// Reads a step and its path; `None` for one that moves what is there.
    pub(super) fn of(op: &Op) -> Option<(&BytePath, Self)> {
        Some(match op {
            Op::Put { path, body, meta, .. } => (path, Self::put(body, meta)),
            Op::SetMeta { path, meta, expect: None } | Op::SetDir { path, meta, .. } => {
                (path, Meant::Dir(meta.clone()))
            }
            Op::SetMeta { path, meta, .. } => (path, Meant::Changed(meta.clone())),
            Op::Link { path, .. } => (path, Meant::Link),
            Op::Remove { path, .. } | Op::RemoveDir { path } => (path, Meant::Gone),
            Op::Move { .. } | Op::Swap { .. } | Op::Aside { .. } => return None,
        })
    }

    fn put(body: &Body, meta: &Meta) -> Self {
        let meta = meta.clone();
        match body {
            Body::Dir | Body::Bare => Meant::Dir(meta),
            Body::File { size, .. }
            | Body::Patched { size, .. }
            | Body::Built { size, .. }
            | Body::Proven { size, .. } => Meant::Made(Kind::File, *size, meta),
            Body::Symlink(_) => Meant::Made(Kind::Symlink, 0, meta),
            Body::Fifo => Meant::Made(Kind::Fifo, 0, meta),
        }
    }

    /// What stays what it was when it is moved.
    pub(super) fn as_it_was(entry: &Entry) -> Self {
        match entry.kind {
            Kind::Dir => Meant::Dir(entry.meta.clone()),
            kind => Meant::Made(kind, entry.size, entry.meta.clone()),
        }
    }

    /// Whether the post set holds what was meant. If not, somebody came in between, and it holds his work.
    fn is(&self, post: Option<&Entry>) -> bool {
        let Some(post) = post else { return *self == Meant::Gone };
        match self {
            Meant::Gone => false,
            // A version that somebody saved in its place has one name.
            Meant::Link => post.kind != Kind::Dir && post.nlink > 1,
            Meant::Made(kind, size, meta) => {
                (post.kind, post.size) == (*kind, *size) && same_set(&post.meta, meta, true)
            }
            Meant::Changed(meta) => post.kind != Kind::Dir && same_set(&post.meta, meta, true),
            Meant::Dir(meta) => post.kind == Kind::Dir && same_set(&post.meta, meta, false),
        }
    }
}

/// Whether metadata was set; attributes may have been refused.
fn same_set(found: &Meta, meant: &Meta, with_time: bool) -> bool {
    (found.mode, found.uid, found.gid) == (meant.mode, meant.uid, meant.gid)
        && (!with_time || found.mtime == meant.mtime)
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The sync changed nothing there.
    Nothing,
    /// It is taken back.
    Back,
    /// It is as it was before the sync.
    Already,
    /// Somebody changed it after the sync.
    Touched(&'static str),
}

/// Judges a path.
pub(super) fn judge(
    meant: &Meant,
    pre: Option<&Entry>,
    post: Option<&Entry>,
    now: Option<&Entry>,
) -> Verdict {
    if is_same(pre, post) {
        return Verdict::Nothing;
    }
    let untouched = is_same(post, now);
    if untouched && meant.is(post) {
        return Verdict::Back;
    }
    if is_alike(pre, now) {
        return Verdict::Already;
    }
    Verdict::Touched(match (post, now) {
        _ if untouched => "it was changed while the sync ran",
        (_, None) => "it was removed after the sync",
        (None, Some(_)) => "it was made anew after the sync",
        (Some(_), Some(_)) => "it was changed after the sync",
    })
}

/// The identity of an entry, for a plan.
pub(super) fn identity(entry: &Entry) -> Identity {
    Identity { ino: entry.ino, ctime: entry.ctime, mtime: entry.meta.mtime, size: entry.size }
}

/// Whether two machines' users would see the same rights.
pub(super) fn same_rights(one: &Meta, other: &Meta) -> bool {
    (one.mode, one.uid, one.gid, &one.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
}

/// Whether nobody touched an entry from one state of its subvolume to the next. The times of a directory tell of its entries,
/// which are looked at by themselves.
pub(super) fn is_same(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => match (one.kind, other.kind) {
            (Kind::Dir, Kind::Dir) => one.ino == other.ino && same_rights(&one.meta, &other.meta),
            (Kind::Dir, _) | (_, Kind::Dir) => false,
            _ => identity(one) == identity(other),
        },
        _ => false,
    }
}

/// Whether there is nothing to do to bring `now` to `pre`: the same, or a copy of it.
pub(super) fn is_alike(pre: Option<&Entry>, now: Option<&Entry>) -> bool {
    match (pre, now) {
        (None, None) => true,
        (Some(pre), Some(now)) if pre.kind == Kind::Dir => {
            now.kind == Kind::Dir && same_rights(&pre.meta, &now.meta)
        }
        (Some(pre), Some(now)) => {
            (pre.kind, &pre.meta, pre.size, &pre.target) == (now.kind, &now.meta, now.size, &now.target)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FileTime;

    fn meta(mtime: i64) -> Meta {
        Meta { mode: 0o644, mtime: FileTime { seconds: mtime, nanos: 0 }, ..Meta::default() }
    }

    fn file(ino: u64, ctime: i64, mtime: i64, size: u64) -> Entry {
        Entry {
            name: "a".into(),
            kind: Kind::File,
            meta: meta(mtime),
            size,
            allocated: 0,
            ctime: FileTime { seconds: ctime, nanos: 0 },
            ino,
            nlink: 1,
            target: Default::default(),
        }
    }

    fn dir(ino: u64, mtime: i64) -> Entry {
        Entry { kind: Kind::Dir, size: 0, ..file(ino, mtime, mtime, 0) }
    }

    fn made(size: u64, mtime: i64) -> Meant {
        Meant::Made(Kind::File, size, meta(mtime))
    }

    #[test]
    fn what_nobody_touched_since_the_sync_is_taken_back() {
        let (old, new) = (file(1, 1, 1, 5), file(2, 9, 7, 6));
        let (old, new) = (Some(&old), Some(&new));
        assert_eq!(judge(&made(6, 7), old, new, new), Verdict::Back);
        assert_eq!(judge(&made(6, 7), None, new, new), Verdict::Back);
        assert_eq!(judge(&Meant::Gone, old, None, None), Verdict::Back);
    }

    #[test]
    fn what_somebody_touched_since_stays() {
        let (old, new, edited) = (file(1, 1, 1, 5), file(2, 9, 7, 6), file(2, 10, 7, 6));
        let is_touched = |verdict| matches!(verdict, Verdict::Touched(_));
        assert!(is_touched(judge(&made(6, 7), Some(&old), Some(&new), Some(&edited))));
        assert!(is_touched(judge(&made(6, 7), Some(&old), Some(&new), None)));
        assert!(is_touched(judge(&Meant::Gone, Some(&old), None, Some(&edited))));
    }

    #[test]
    fn what_the_post_set_holds_otherwise_than_meant_is_somebodys_work() {
        let (old, edited) = (file(1, 1, 1, 5), file(2, 9, 8, 6));
        let verdict = judge(&made(6, 7), Some(&old), Some(&edited), Some(&edited));
        assert!(matches!(verdict, Verdict::Touched(_)), "{verdict:?}");
        let verdict = judge(&Meant::Gone, Some(&old), Some(&edited), Some(&edited));
        assert!(matches!(verdict, Verdict::Touched(_)), "{verdict:?}");
    }

    #[test]
    fn a_second_undo_finds_nothing_and_what_the_sync_left_alone_is_not_its_business() {
        let (old, new, back) = (file(1, 1, 1, 5), file(2, 9, 7, 6), file(3, 11, 1, 5));
        assert_eq!(judge(&made(6, 7), Some(&old), Some(&new), Some(&back)), Verdict::Already);
        assert_eq!(judge(&made(6, 7), None, Some(&new), None), Verdict::Already);
        assert_eq!(judge(&made(6, 7), Some(&old), Some(&old), Some(&back)), Verdict::Nothing);
    }

    #[test]
    fn entries_that_come_and_go_do_not_make_a_directory_a_changed_one() {
        let (post, now) = (dir(5, 7), dir(5, 20));
        assert_eq!(judge(&Meant::Dir(meta(7)), None, Some(&post), Some(&now)), Verdict::Back);
        let other = dir(6, 20);
        assert!(matches!(judge(&Meant::Dir(meta(7)), None, Some(&post), Some(&other)), Verdict::Touched(_)));
    }
}
