//! pc-switcher moves a person from one Linux machine to another.

pub mod bus_error;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod events;
pub mod health;
pub mod history;
pub mod lock;
pub mod memory;
pub mod orchestrator;
pub mod paths;
pub mod registry;
pub mod remote;
pub mod session;
pub mod signal;
pub mod ui;
pub mod vault;
