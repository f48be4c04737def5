//! Sessions of the past, in SQLite.
