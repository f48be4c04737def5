//! Trees: the entries of one directory, ordered by name.

use serde::{Deserialize, Serialize};

use super::node::Node;

/// The entries of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Ordered by the bytes of their names.
    #[serde(deserialize_with = "nodes")]
    pub nodes: Vec<Node>,
}

fn nodes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Node>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Tree {
    /// Returns the blob of this tree.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_blob(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads a blob. Names that would lead out of their directory are refused.
    ///
    /// # Errors
    /// If it is no tree.
    pub fn from_blob(blob: &[u8]) -> Result<Self, String> {
        let tree: Self = serde_json::from_slice(blob).map_err(|error| error.to_string())?;
        let leads_out = |node: &&Node| {
            let name = node.name.as_encoded_bytes();
            matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0))
        };
        match tree.nodes.iter().find(leads_out) {
            Some(node) => Err(format!("an entry is called `{}`", node.name.display())),
            None => Ok(tree),
        }
    }

    /// Returns the entry of this name.
    pub fn find(&self, name: &std::ffi::OsStr) -> Option<&Node> {
        let found = self.nodes.binary_search_by(|node| node.name.as_os_str().cmp(name));
        // Other writers may order otherwise.
        found.ok().map(|at| &self.nodes[at]).or_else(|| self.nodes.iter().find(|node| node.name == name))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::super::node::{NodeKind, Xattr, go_mode};
    use super::*;

    #[test]
    fn a_tree_survives_its_blob_with_the_strangest_names() {
        let mut node = Node::new(OsString::from_vec(b"a\xff\n\"_%".to_vec()), NodeKind::CharDev);
        node.mode = go_mode(NodeKind::CharDev, 0o6755);
        node.set_target(b"\xfe");
        node.extended_attributes = vec![Xattr { name: "user.x".into(), value: vec![0, 255] }];
        let tree = Tree { nodes: vec![node] };
        let read = Tree::from_blob(&tree.to_blob().unwrap()).unwrap();
        assert_eq!(read, tree);
        assert_eq!(read.nodes[0].permissions(), 0o6755);
        assert_eq!(read.nodes[0].target(), OsString::from_vec(vec![0xfe]));
    }

    #[test]
    fn a_tree_whose_names_lead_out_of_it_is_refused() {
        for name in ["..", ".", "", "a/b", "a\\x00"] {
            let json =
                format!("{{\"nodes\":[{{\"name\":\"{}\",\"type\":\"file\"}}]}}", name.replace('\\', "\\\\"));
            assert!(Tree::from_blob(json.as_bytes()).is_err(), "{name}");
        }
        assert!(Tree::from_blob(b"{\"nodes\":null}").unwrap().nodes.is_empty());
    }
}
