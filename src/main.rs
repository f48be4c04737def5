//! Entry point: parse, run, exit.

fn main() {}
