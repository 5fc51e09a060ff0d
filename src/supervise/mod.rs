//! TODO

pub mod notify;
pub mod oom;
