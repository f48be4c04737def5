//! The way to the target: OpenSSH master, executors, agent channels.
