//! Runs a sync: decides in pure functions, acts in one loop.
