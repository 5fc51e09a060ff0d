//! What the command line means: every question that depends on more than one option is answered here, once.
//!
//! [`crate::cli::Args`] holds the options as typed. [`Config::try_from`] checks them in the order and with the
//! texts of conmon's `cli.c:process_cli` and yields a value that no later code has to doubt.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug)]
pub struct Config {
    pub operation: Operation,
    pub api: ApiVersion,
    pub cid: OsString,
    /// Names the symlink to the attach directory; `None` only for a legacy exec, which has none.
    pub cuuid: Option<OsString>,
    pub name: Option<OsString>,
    /// `None` only for an exec without `--bundle`: no attach socket, no ctl, no winsz.
    pub bundle: Option<PathBuf>,
    pub runtime: RuntimeOptions,
    pub container_pidfile: PathBuf,
    pub conmon_pidfile: Option<PathBuf>,
    /// Stay in the foreground: no fork, exit with the container's status.
    pub sync: bool,
    pub terminal: bool,
    pub stdin: StdinPolicy,
    pub log: LogConfig,
    pub exit_dir: Option<PathBuf>,
    pub persist_dir: Option<PathBuf>,
    pub exit_command: Option<ExitCommand>,
    /// The attach socket lies in the bundle itself; otherwise `<socket_dir>/<cuuid>` is a symlink to the bundle.
    pub full_attach: bool,
    pub socket_dir: PathBuf,
    pub timeout: Option<Duration>,
    /// The host's sd-notify socket to relay to.
    pub sdnotify_socket: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Restore {
        image: PathBuf,
    },
    Exec {
        process_spec: PathBuf,
        /// `--exec-attach`: the runtime waits until the parent has attached.
        attach: bool,
    },
}

/// `--api-version` was given or not; it changes the keys of the sync-pipe reports and what exec reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    Legacy,
    V1,
}

#[derive(Debug)]
pub struct RuntimeOptions {
    pub path: PathBuf,
    /// Placed before the subcommand.
    pub global_args: Vec<OsString>,
    /// Placed after the subcommand: `--runtime-opt` and `--restore-arg`, in order of appearance.
    pub subcommand_args: Vec<OsString>,
    pub systemd_cgroup: bool,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub replace_listen_pid: bool,
}

/// What happens to the container's stdin when the last of a client's input is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinPolicy {
    /// No `-i`: the container reads /dev/null.
    None,
    /// `-i`: closed when a client ends its input.
    CloseWithClient,
    /// `-i --leave-stdin-open`.
    KeepOpen,
}

/// Where the container's output goes (contract 6.1), and how much of it is kept.
#[derive(Debug, Default)]
pub struct LogConfig {
    pub k8s_file: Option<PathBuf>,
    pub journald: bool,
    /// The container writes to the descriptors that the driver gave us; nothing passes through the monitor.
    pub passthrough: bool,
    /// Bytes; `None` is no limit.
    pub size_max: Option<u64>,
    pub global_size_max: Option<u64>,
    pub rotate: bool,
    pub max_files: u32,
    pub allowlist: Vec<PathBuf>,
    /// `--no-sync-log`: no fsync at the end.
    pub no_sync: bool,
    pub tag: Option<OsString>,
    pub labels: Vec<OsString>,
    pub no_partial_message: bool,
}

#[derive(Debug)]
pub struct ExitCommand {
    pub path: OsString,
    pub args: Vec<OsString>,
    pub delay: Duration,
}
