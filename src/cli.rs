//! The options as typed: words in, [`Args`] out, no decision taken.
//!
//! clap holds the one table of options (`table.rs`), but can't read a line the way GLib's GOption does, so
//! `goption.rs` first rewrites the words into a form that both agree on. What the options mean together is
//! [`crate::config`]'s business.

pub mod goption;
mod help;
mod integer;
mod table;

use std::ffi::OsString;

use clap::ArgMatches;

pub use self::table::table;
use crate::error::{Error, Result};

/// The release of conmon whose interface this is. podman and CRI-O choose options by it.
pub const CONMON_VERSION: &str = "2.2.1";

/// Every option as typed, with no decision taken. `None` and empty lists: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub api_version: bool,
    pub bundle: Option<OsString>,
    pub cid: Option<OsString>,
    pub conmon_pidfile: Option<OsString>,
    /// `--container-pidfile` and its old name `--pidfile`, whichever came last.
    pub container_pidfile: Option<OsString>,
    pub cuuid: Option<OsString>,
    pub exec: bool,
    pub exec_attach: bool,
    pub exec_process_spec: Option<OsString>,
    pub exit_command: Option<OsString>,
    pub exit_command_arg: Vec<OsString>,
    /// Seconds.
    pub exit_delay: Option<i32>,
    pub exit_dir: Option<OsString>,
    pub leave_stdin_open: bool,
    pub log_level: Option<OsString>,
    pub log_path: Vec<OsString>,
    /// Bytes.
    pub log_size_max: Option<i64>,
    /// Bytes.
    pub log_global_size_max: Option<i64>,
    pub log_tag: Option<OsString>,
    pub log_label: Vec<OsString>,
    pub no_container_partial_message: bool,
    pub name: Option<OsString>,
    pub no_new_keyring: bool,
    pub no_pivot: bool,
    pub no_sync_log: bool,
    pub persist_dir: Option<OsString>,
    pub replace_listen_pid: bool,
    pub restore: Option<OsString>,
    pub runtime: Option<OsString>,
    pub runtime_arg: Vec<OsString>,
    /// `--runtime-opt` and its old name `--restore-arg`, in order of appearance across both.
    pub runtime_opt: Vec<OsString>,
    pub sdnotify_socket: Option<OsString>,
    pub socket_dir_path: Option<OsString>,
    pub stdin: bool,
    pub sync: bool,
    pub syslog: bool,
    pub systemd_cgroup: bool,
    pub terminal: bool,
    /// Seconds.
    pub timeout: Option<i32>,
    pub full_attach: bool,
    pub log_rotate: bool,
    pub log_max_files: Option<i32>,
    pub log_allowlist_dir: Vec<OsString>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Print this on stdout and exit with 0 (`--help`, `--version`).
    Print(String),
    Run(Box<Args>),
}

/// Reads the words after the program's name by GOption's rules (contract 4.2); any bytes are accepted as values.
///
/// # Errors
/// [`Error::Usage`] with GOption's text.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    let table = table();
    let words = match goption::scan(&table, words)? {
        goption::Scan::Help => return Ok(Parsed::Print(help::text(&table))),
        goption::Scan::Words(words) => words,
    };
    let mut given = table::table_for(&words)
        .try_get_matches_from(words)
        .map_err(|error| Error::usage(format!("option parsing failed: {error}")))?;
    if flag(&mut given, table::VERSION) {
        return Ok(Parsed::Print(version()));
    }
    Ok(Parsed::Run(Box::new(collect(&mut given))))
}

/// podman 4.3 and CRI-O take the first line apart, `podman info` shows both joined by a comma.
fn version() -> String {
    let commit = option_env!("FERROMON_COMMIT").unwrap_or_default();
    let own = env!("CARGO_PKG_VERSION");
    format!("conmon version {CONMON_VERSION}\ncommit: {commit} (ferromon {own})\n")
}

fn collect(given: &mut ArgMatches) -> Args {
    Args {
        api_version: flag(given, "api-version"),
        bundle: last(given, "bundle"),
        cid: last(given, "cid"),
        conmon_pidfile: last(given, "conmon-pidfile"),
        container_pidfile: last(given, "container-pidfile"),
        cuuid: last(given, "cuuid"),
        exec: flag(given, "exec"),
        exec_attach: flag(given, "exec-attach"),
        exec_process_spec: last(given, "exec-process-spec"),
        exit_command: last(given, "exit-command"),
        exit_command_arg: all(given, "exit-command-arg"),
        exit_delay: last(given, "exit-delay"),
        exit_dir: last(given, "exit-dir"),
        leave_stdin_open: flag(given, "leave-stdin-open"),
        log_level: last(given, "log-level"),
        log_path: all(given, "log-path"),
        log_size_max: last(given, "log-size-max"),
        log_global_size_max: last(given, "log-global-size-max"),
        log_tag: last(given, "log-tag"),
        log_label: all(given, "log-label"),
        no_container_partial_message: flag(given, "no-container-partial-message"),
        name: last(given, "name"),
        no_new_keyring: flag(given, "no-new-keyring"),
        no_pivot: flag(given, "no-pivot"),
        no_sync_log: flag(given, "no-sync-log"),
        persist_dir: last(given, "persist-dir"),
        replace_listen_pid: flag(given, "replace-listen-pid"),
        restore: last(given, "restore"),
        runtime: last(given, "runtime"),
        runtime_arg: all(given, "runtime-arg"),
        runtime_opt: all(given, "runtime-opt"),
        sdnotify_socket: last(given, "sdnotify-socket"),
        socket_dir_path: last(given, "socket-dir-path"),
        stdin: flag(given, "stdin"),
        sync: flag(given, "sync"),
        syslog: flag(given, "syslog"),
        systemd_cgroup: flag(given, "systemd-cgroup"),
        terminal: flag(given, "terminal"),
        timeout: last(given, "timeout"),
        full_attach: flag(given, "full-attach"),
        log_rotate: flag(given, "log-rotate"),
        log_max_files: last(given, "log-max-files"),
        log_allowlist_dir: all(given, "log-allowlist-dir"),
    }
}

// clap knows the options of this line only, and a name it does not know is one that was not given. A name or type that
// the table does not have would read the same; a test below checks every row.

fn flag(given: &mut ArgMatches, name: &str) -> bool {
    given.try_remove_one(name).ok().flatten().unwrap_or(false)
}

fn last<T: Clone + Send + Sync + 'static>(given: &mut ArgMatches, name: &str) -> Option<T> {
    given.try_remove_one(name).ok().flatten()
}

fn all(given: &mut ArgMatches, name: &str) -> Vec<OsString> {
    given.try_remove_many(name).ok().flatten().map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests;
