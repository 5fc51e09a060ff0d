//! TODO

pub mod oom_files;
