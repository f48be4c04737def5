//! Attributes that a target's file system does not hold: what they are called, and what people are told.

use std::fmt::Display;

use pc_switcher_contract::BytePath;
use serde::{Deserialize, Serialize};

/// One attribute of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedAttribute {
    /// The absolute path, which is there without it.
    pub path: BytePath,
    /// The attribute's name.
    pub name: BytePath,
    /// The system's word.
    pub why: String,
}

impl RefusedAttribute {
    /// Returns what it means on the machine of that name, and what to do.
    pub fn explain(&self, hostname: impl Display) -> String {
        let Self { path, name, why } = self;
        let means = match name.as_bytes() {
            b"system.posix_acl_access" => "only owner, group and mode say there who may open it",
            b"system.posix_acl_default" => "what is made in it there inherits no ACL",
            b"security.capability" => "it runs there without that privilege",
            _ => "it is there without it",
        };
        format!(
            "{hostname} cannot keep attribute `{name}` of `{path}` (its file system says: {why}): {means}; keep it on btrfs there, \
             or exclude it"
        )
    }
}

/// Those of one commit, as many as fit into one message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    named: Vec<RefusedAttribute>,
    /// How many more there were.
    more: u64,
    /// Bytes of those that are named.
    bytes: u64,
}

impl Refusals {
    /// So many are named.
    pub const MOST: usize = 10_000;
    /// So many bytes of them.
    const BYTES: u64 = 1 << 20;

    /// Adds one.
    pub fn add(&mut self, refused: RefusedAttribute) {
        let bytes = refused.path.as_bytes().len() + refused.name.as_bytes().len() + refused.why.len();
        let (bytes, is_full) = (self.bytes + bytes as u64, self.named.len() >= Self::MOST);
        if is_full || bytes > Self::BYTES {
            self.more += 1;
        } else {
            self.bytes = bytes;
            self.named.push(refused);
        }
    }

    /// Adds others, to be told before these.
    pub fn put_first(&mut self, first: Refusals) {
        let rest = std::mem::replace(self, first);
        self.more += rest.more;
        rest.named.into_iter().for_each(|refused| self.add(refused));
    }

    /// Returns those that are named.
    pub fn named(&self) -> &[RefusedAttribute] {
        &self.named
    }

    /// Returns what to say about those that are not named, if there are any.
    pub fn others(&self, hostname: impl Display) -> Option<String> {
        (self.more > 0).then(|| {
            format!(
                "{hostname} cannot keep {} more attributes: its file system holds none of that kind, or none of that size; keep \
                 the folder on btrfs there, mount it with ACLs, or exclude what has them",
                self.more
            )
        })
    }

    /// Returns a line for each, for people.
    pub fn lines<'a>(&'a self, hostname: impl Display + Copy + 'a) -> impl Iterator<Item = String> + 'a {
        self.named.iter().map(move |refused| refused.explain(hostname)).chain(self.others(hostname))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, name: &str) -> RefusedAttribute {
        RefusedAttribute { path: path.into(), name: name.into(), why: "no".into() }
    }

    #[test]
    fn one_says_what_it_means_and_what_to_do() {
        let said = refused("/home/a/f", "user.x").explain("desk");
        let wanted = "desk cannot keep attribute `user.x` of `/home/a/f` (its file system says: no): it is there without it; keep \
                      it on btrfs there, or exclude it";
        assert_eq!(said, wanted);
        assert!(refused("/f", "system.posix_acl_access").explain("desk").contains("who may open it"));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut all = Refusals::default();
        all.add(refused("/second", "user.x"));
        let mut first = Refusals::default();
        (0..Refusals::MOST + 5).for_each(|at| first.add(refused(&format!("/{at}"), "user.x")));
        all.put_first(first);
        assert_eq!((all.named.len(), all.more), (Refusals::MOST, 6));
        assert_eq!(all.lines("desk").count(), Refusals::MOST + 1);
        let mut long = Refusals::default();
        (0..1000).for_each(|_| long.add(refused(&"d/".repeat(2000), "user.x")));
        assert!(long.more > 0 && long.bytes <= Refusals::BYTES);
    }
}
