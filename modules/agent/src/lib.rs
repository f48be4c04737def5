//! The elevated half of pc-switcher: one per machine, on stdin and stdout.
