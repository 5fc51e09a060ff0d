//! Fixtures for the tests.

#![allow(
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::missing_panics_doc
)]

pub mod image;
pub mod podman;
pub mod session;
pub mod transcript;
pub mod twin;
