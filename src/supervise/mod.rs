//! TODO

pub mod oom;
