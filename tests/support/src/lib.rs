//! Test support: modelling fakes and the two-machine lab.

pub mod lab;
pub mod manifest;
pub mod model;
pub mod seed;
