//! Whole syncs between two real machines: what a person types, what comes back, what is there afterwards.
//!
//! The program under test is named by `PC_SWITCHER_BIN` (`tests/run` builds it); it must be one static file.

mod endings;
mod first_contact;
mod gates;
mod hosts;
mod layouts;
mod moving;
mod unplugged;
