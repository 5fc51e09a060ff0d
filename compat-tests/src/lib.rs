//! Fixtures shared by all rings of tests.
//!
//! A [`Bench`] is one fresh directory and everything that is started in it; [`MonitorCommand`] builds a command line
//! the way podman or CRI-O does; [`Monitor`] is the running program seen from its driver. [`behaviour!`] runs one test
//! on ours, or on the original when `CONMON_UNDER_TEST` names it. Everything panics on failure: this is test code.

#![allow(
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::missing_panics_doc
)]

pub mod attach;
pub mod bench;
pub mod channel;
pub mod command;
pub mod crio;
pub mod deadline;
pub mod differences;
pub mod faults;
pub mod fifo;
pub mod image;
pub mod journal;
pub mod journal_socket;
pub mod log;
pub mod monitor;
pub mod mounts;
pub mod observe;
pub mod podman;
pub mod process;
pub mod pty;
pub mod runc;
pub mod session;
pub mod soak;
pub mod standin;
pub mod transcript;
pub mod twin;
pub mod user;
pub mod watch;

pub use attach::AttachClient;
pub use bench::Bench;
pub use channel::{End, Kind, Report};
pub use command::MonitorCommand;
pub use log::LogLine;
pub use monitor::{Ended, Monitor};
pub use process::Process;
pub use watch::Watch;
