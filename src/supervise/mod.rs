//! TODO

pub mod attach;
pub mod stdin;
