//! Executors, the ssh connection and the start of agents, on this machine and over a private sshd on loopback.
//!
//! Tests over ssh need root and sshd; elsewhere they say so and pass, unless `LAB_REQUIRED` is set.

mod ciphers;
mod connection;
mod executor_contract;
mod processes;
mod sshd;
mod through_agent;
mod vault_line;
