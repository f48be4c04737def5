//! What several test programs share: a private sshd on loopback and a look at the process table.

pub mod processes;
pub mod sshd;
