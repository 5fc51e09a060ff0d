//! TODO

pub mod attach;
pub mod console;
pub mod control;
pub mod stdin;
