//! Test support: modelling fakes and the two-machine lab.

pub mod lab;
