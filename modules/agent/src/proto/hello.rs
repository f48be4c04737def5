//! The handshake.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::Hostname;

/// The agent's first bytes. Whatever a login shell prints before them is skipped.
pub const MAGIC: &[u8] = b"\npc-switcher-agent-ready\n";

/// Number of this protocol; both ends must say the same.
pub const PROTOCOL: u32 = 19;

/// The agent's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// Its protocol number.
    pub protocol: u32,
    /// Its version, for example `0.1.0`.
    pub version: String,
    /// The machine's own name.
    pub hostname: Hostname,
    /// The machine's id.
    pub machine_id: String,
    /// Its user id; 0 when elevated.
    pub uid: u32,
    /// Its process id, for messages.
    pub pid: u32,
    /// The BLAKE3 digest of the program that it runs; zeros if that could not be read.
    pub digest: [u8; 32],
}

/// The front's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontHello {
    /// Its protocol number.
    pub protocol: u32,
    /// Its version.
    pub version: String,
    /// After how many seconds without a byte the agent ends.
    pub silence_seconds: u32,
    /// Whether it runs on another machine: then both pack what they send but content.
    pub is_elsewhere: bool,
}
