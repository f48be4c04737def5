//! The restic repository format, version 2, as its public specification describes it: bytes in, values out, no I/O.

pub mod blob;
pub mod chunker;
pub mod code;
pub mod config;
pub mod crypto;
pub mod id;
pub mod index;
pub mod keyfile;
pub mod lock;
pub mod node;
pub mod polynomial;
pub mod quote;
pub mod snapshot;
pub mod tree;
pub mod unpacked;

pub use blob::{BlobKind, PackEntry};
pub use chunker::Chunker;
pub use config::RepoConfig;
pub use crypto::Key;
pub use id::Id;
pub use node::{Node, NodeKind, Xattr};
pub use snapshot::Snapshot;
pub use tree::Tree;
