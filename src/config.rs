//! What the command line means: every question that depends on more than one option is answered here, once.
//!
//! [`crate::cli::Args`] holds the options as typed. [`Config::try_from`] checks them in the order and with the
//! texts of conmon's `cli.c:process_cli` and yields a value that no later code has to doubt.

mod log;
pub mod log_path;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::log::LevelFilter;
use nix::unistd::{AccessFlags, access};

pub use self::log::LogConfig;
use crate::cli::Args;
use crate::diag;
use crate::error::{Context, Error, Result};

/// Where the symlinks to the attach directories go if nobody says otherwise.
const DEFAULT_SOCKET_DIR: &str = "/var/run/crio";

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

#[derive(Debug)]
pub struct ExitCommand {
    pub path: OsString,
    pub args: Vec<OsString>,
    pub delay: Duration,
}

/// Starts message output as `args` want it: with its level, and into the system log with `--syslog`.
///
/// An unknown level is [`Config::try_from`]'s to refuse; the refusal goes where messages go.
pub fn start_messages(args: &Args) {
    let level = level(args.log_level.as_deref()).unwrap_or(LevelFilter::Warn);
    let mut id = args.cid.clone().unwrap_or_default();
    if let Some(tag) = &args.log_tag {
        id.push(": ");
        id.push(tag);
    }
    diag::init(level, args.syslog.then_some(id.as_os_str()));
}

impl TryFrom<Args> for Config {
    type Error = Error;

    /// Checks `args` as conmon does, in its order, so that the first of several mistakes is the same one.
    ///
    /// Still to be done once the log is open: [`LogConfig::check_tags`].
    fn try_from(mut args: Args) -> Result<Self> {
        check_rotation(&args)?;
        let cid = args.cid.take().ok_or_else(|| Error::usage("Container ID not provided. Use --cid"))?;
        level(args.log_level.as_deref())?;
        check_exec(&args)?;
        let runtime =
            args.runtime.take().ok_or_else(|| Error::message("Runtime path not provided. Use --runtime"))?;
        let runtime = RuntimeOptions::take(&mut args, runtime.into());
        check_runtime(&runtime.path)?;
        let operation = Operation::take(&mut args)?;
        let cwd = std::env::current_dir().map_err(|_| Error::message("Failed to get working directory"))?;
        let exit_command = ExitCommand::take(&mut args)?;
        let log = LogConfig::take(&mut args, &cid)?;
        let is_exec = matches!(operation, Operation::Exec { .. });
        Ok(Self {
            api: if args.api_version { ApiVersion::V1 } else { ApiVersion::Legacy },
            bundle: args.bundle.map(PathBuf::from).or_else(|| (!is_exec).then(|| cwd.clone())),
            container_pidfile: args
                .container_pidfile
                .map_or_else(|| default_pidfile(&cwd, &cid), PathBuf::from),
            operation,
            cid,
            cuuid: args.cuuid,
            name: args.name,
            runtime,
            conmon_pidfile: args.conmon_pidfile.map(PathBuf::from),
            sync: args.sync,
            terminal: args.terminal,
            stdin: StdinPolicy::new(args.stdin, args.leave_stdin_open),
            log,
            exit_dir: args.exit_dir.map(PathBuf::from),
            persist_dir: args.persist_dir.map(PathBuf::from),
            exit_command,
            full_attach: args.full_attach,
            socket_dir: args.socket_dir_path.map_or_else(|| DEFAULT_SOCKET_DIR.into(), PathBuf::from),
            timeout: timeout(args.timeout),
            sdnotify_socket: args.sdnotify_socket.map(PathBuf::from),
        })
    }
}

impl RuntimeOptions {
    fn take(args: &mut Args, path: PathBuf) -> Self {
        Self {
            path,
            global_args: std::mem::take(&mut args.runtime_arg),
            subcommand_args: std::mem::take(&mut args.runtime_opt),
            systemd_cgroup: args.systemd_cgroup,
            no_pivot: args.no_pivot,
            no_new_keyring: args.no_new_keyring,
            replace_listen_pid: args.replace_listen_pid,
        }
    }
}

impl Operation {
    /// [`check_exec`] has ruled out contradictions.
    fn take(args: &mut Args) -> Result<Self> {
        if args.exec {
            let spec = args.exec_process_spec.take().ok_or_else(|| {
                Error::message("Exec process spec path not provided. Use --exec-process-spec")
            })?;
            return Ok(Self::Exec { process_spec: spec.into(), attach: args.exec_attach });
        }
        Ok(args.restore.take().map_or(Self::Create, |image| Self::Restore { image: image.into() }))
    }
}

impl ExitCommand {
    /// A bad delay is refused even when there is no command to delay.
    fn take(args: &mut Args) -> Result<Option<Self>> {
        let delay = u64::try_from(args.exit_delay.unwrap_or(0)).map_err(|_| {
            Error::message("Delay before invoking exit command must be greater than or equal to 0")
        })?;
        let delay = Duration::from_secs(delay);
        let arguments = std::mem::take(&mut args.exit_command_arg);
        Ok(args.exit_command.take().map(|path| Self { path, args: arguments, delay }))
    }
}

impl StdinPolicy {
    fn new(stdin: bool, leave_open: bool) -> Self {
        match (stdin, leave_open) {
            (false, _) => Self::None,
            (true, false) => Self::CloseWithClient,
            (true, true) => Self::KeepOpen,
        }
    }
}

// conmon: these come before it knows a log level, so they are usage errors.
fn check_rotation(args: &Args) -> Result<()> {
    match args.log_max_files {
        Some(files) if files < 0 => {
            Err(Error::usage(format!("log-max-files must be non-negative, got {files}")))
        }
        Some(0) if args.log_rotate => {
            Err(Error::usage("log-max-files must be at least 1 when log-rotate is enabled, got 0"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_exec(args: &Args) -> Result<()> {
    if args.restore.is_some() && args.exec {
        return Err(Error::message("Cannot use 'exec' and 'restore' at the same time"));
    }
    if args.exec_attach && !args.exec {
        return Err(Error::message("Attach can only be specified with exec"));
    }
    if args.exec_attach && !args.api_version {
        return Err(Error::message("Attach can only be specified for a non-legacy exec session"));
    }
    let legacy_exec = args.exec && !args.api_version;
    if args.cuuid.is_none() && !legacy_exec {
        return Err(Error::message("Container UUID not provided. Use --cuuid"));
    }
    Ok(())
}

// conmon: access(2) alone, so a directory passes and fails later.
fn check_runtime(path: &Path) -> Result<()> {
    access(path, AccessFlags::X_OK).context(|| format!("Runtime path {} is not valid", path.display()))
}

/// Timeouts of zero and below are none.
fn timeout(seconds: Option<i32>) -> Option<Duration> {
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|s| *s > 0).map(Duration::from_secs)
}

fn default_pidfile(cwd: &Path, cid: &OsStr) -> PathBuf {
    let mut path = cwd.as_os_str().to_owned();
    path.push("/pidfile-");
    path.push(cid);
    path.into()
}

/// The log level called `name` in any case; the names are those of Go's logrus, which podman and CRI-O pass on.
fn level(name: Option<&OsStr>) -> Result<LevelFilter> {
    let Some(name) = name else { return Ok(LevelFilter::Warn) };
    let levels = [
        (LevelFilter::Error, &["error", "fatal", "panic"][..]),
        (LevelFilter::Warn, &["warn", "warning"]),
        (LevelFilter::Info, &["info"]),
        (LevelFilter::Debug, &["debug"]),
        (LevelFilter::Trace, &["trace"]),
    ];
    let found = levels.iter().find(|(_, names)| names.iter().any(|known| name.eq_ignore_ascii_case(known)));
    found
        .map(|(level, _)| *level)
        .ok_or_else(|| Error::message(format!("No such log level {}", name.display())))
}

impl Config {
    /// `--exec-attach`: the runtime waits until the parent has attached.
    pub fn waits_for_attach(&self) -> bool {
        matches!(self.operation, Operation::Exec { attach: true, .. })
    }

    /// Whose log it is.
    pub fn identity(&self) -> crate::log::Identity<'_> {
        crate::log::Identity { cid: &self.cid, name: self.name.as_deref() }
    }

    pub fn is_exec(&self) -> bool {
        matches!(self.operation, Operation::Exec { .. })
    }
}

#[cfg(test)]
mod tests;
