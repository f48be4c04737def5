//! Brings pc-switcher onto a machine and keeps it current.
