//! Mirrors the configured folders from a snapshot.
