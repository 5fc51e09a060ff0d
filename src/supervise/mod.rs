//! TODO

pub mod notify;
pub mod oom;
pub mod privileges;
