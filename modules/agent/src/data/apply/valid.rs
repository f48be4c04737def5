//! What a step may say. The agent is root: a step that could leave its root or touch our own state is refused outright.

use pc_switcher_contract::BytePath;

use crate::data::{HOME, xattr};
use crate::proto::{AgentError, Body, Meta, Op};

/// Checks one step by itself.
///
/// # Errors
/// [`crate::proto::AgentErrorKind::Protocol`] with what is wrong.
pub(super) fn check(op: &Op) -> Result<(), AgentError> {
    let wrong = match op {
        Op::Put { path, body, meta, replaces } => {
            name(path.as_bytes()).or_else(|| about(meta)).or(match body {
                Body::Patched { .. } if replaces.is_none() => Some("patch of nothing"),
                Body::Symlink(target) if target.is_empty() || target.as_bytes().contains(&0) => {
                    Some("link target")
                }
                _ => None,
            })
        }
        Op::Link { path, to, .. } => name(path.as_bytes()).or_else(|| name(to.as_bytes())),
        Op::Remove { path, .. } | Op::RemoveDir { path } => name(path.as_bytes()),
        Op::SetMeta { path, meta, .. } | Op::SetDir { path, meta, .. } if path.is_empty() => about(meta),
        Op::SetMeta { path, meta, .. } | Op::SetDir { path, meta, .. } => {
            name(path.as_bytes()).or_else(|| about(meta))
        }
        Op::Move { path, from: other, .. } | Op::Swap { path, with: other, .. } => {
            let both = name(path.as_bytes()).or_else(|| name(other.as_bytes()));
            both.or_else(|| (path == other).then_some("place for a move"))
        }
        Op::Aside { path, .. } => name(path.as_bytes()),
    };
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(AgentError::protocol(format!("a step has an invalid {wrong}: {op:?}"))),
    }
}

/// Checks a path by itself.
///
/// # Errors
/// As [`check`].
pub(super) fn check_path(path: &BytePath) -> Result<(), AgentError> {
    match name(path.as_bytes()) {
        None => Ok(()),
        Some(wrong) => Err(AgentError::protocol(format!("`{path}` is an invalid {wrong}"))),
    }
}

fn name(path: &[u8]) -> Option<&'static str> {
    let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.len() > 255 || part.contains(&0);
    if path.split(|b| *b == b'/').any(bad) || path.split(|b| *b == b'/').next() == Some(HOME.as_bytes()) {
        return Some("path");
    }
    None
}

/// Says what of this metadata no other machine may bring along, if anything.
pub(in crate::data) fn about(meta: &Meta) -> Option<&'static str> {
    if meta.mode & !0o7777 != 0 {
        Some("mode")
    } else if meta.uid == u32::MAX || meta.gid == u32::MAX {
        Some("owner")
    } else if meta.mtime.nanos >= 1_000_000_000 {
        Some("time")
    } else if meta.xattrs.iter().any(|(name, _)| !xattr::is_mirrored(name) || name.contains(&0)) {
        Some("attribute")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_would_leave_the_root_are_refused() {
        for bad in ["", "/etc", "a/../b", "a//b", "./a", "a/", "..", ".pc-switcher/stage", "a\0b"] {
            assert!(check(&Op::RemoveDir { path: bad.into() }).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b c/..d", "x/.pc-switcher", "...", ".pc-switcher-other"] {
            assert_eq!(check(&Op::RemoveDir { path: good.into() }), Ok(()));
        }
    }

    #[test]
    fn metadata_with_a_special_meaning_to_the_kernel_is_refused() {
        let set = |change: fn(&mut Meta)| {
            let mut meta = Meta::default();
            change(&mut meta);
            check(&Op::SetMeta { path: "a".into(), meta, expect: None })
        };
        assert_eq!(set(|_| ()), Ok(()));
        assert!(set(|meta| meta.uid = u32::MAX).is_err());
        assert!(set(|meta| meta.mode = 0o100_644).is_err());
        assert!(set(|meta| meta.mtime.nanos = 1_000_000_000).is_err());
        assert!(set(|meta| meta.xattrs = vec![(b"security.ima".to_vec(), Vec::new())]).is_err());
    }
}
