//! The one table of options: names, kinds and help texts, in the order in which `--help` shows them.
//!
//! Names, order and texts are conmon's (`cli.c:opt_entries`). Everything that has to know the options asks the
//! [`Command`] made here: the scanner, `--help`, the man page and the shell completions.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, value_parser};

pub(super) const HELP: &str = "help";
pub(super) const VERSION: &str = "version";

/// What an option takes; GOption's words.
#[derive(Clone, Copy)]
enum Kind {
    /// ARG_NONE
    Flag,
    /// ARG_STRING: the last one wins.
    Text,
    /// ARG_STRING_ARRAY: all of them, in order.
    List,
    /// ARG_INT: 32 bits.
    Int,
    /// ARG_INT64
    Int64,
}

use Kind::{Flag, Int, Int64, List, Text};

/// Long name, short name or a space, kind, help text.
type Row = (&'static str, char, Kind, &'static str);

#[rustfmt::skip]
const OPTIONS: &[Row] = &[
    ("api-version", ' ', Flag, "Conmon API version to use"),
    ("bundle", 'b', Text, "Location of the OCI Bundle path"),
    ("cid", 'c', Text, "Identification of Container"),
    ("conmon-pidfile", 'P', Text, "PID file for the conmon process"),
    ("container-pidfile", 'p', Text, "PID file for the initial pid inside of container"),
    ("cuuid", 'u', Text, "Container UUID"),
    ("exec", 'e', Flag, "Exec a command into a running container"),
    ("exec-attach", ' ', Flag, "Attach to an exec session"),
    ("exec-process-spec", ' ', Text, "Path to the process spec for execution"),
    ("exit-command", ' ', Text, "Path to the program to execute when the container terminates its execution"),
    ("exit-command-arg", ' ', List,
     "Additional arg to pass to the exit command.  Can be specified multiple times"),
    ("exit-delay", ' ', Int, "Delay before invoking the exit command (in seconds)"),
    ("exit-dir", ' ', Text, "Path to the directory where exit files are written"),
    ("leave-stdin-open", ' ', Flag, "Leave stdin open when attached client disconnects"),
    ("log-level", ' ', Text, "Print debug logs based on log level"),
    ("log-path", 'l', List, "Log file path"),
    ("log-size-max", ' ', Int64, "Maximum size of log file"),
    ("log-global-size-max", ' ', Int64, "Maximum size of all log files"),
    ("log-tag", ' ', Text, "Additional tag to use for logging"),
    ("log-label", ' ', List, "Additional label to include in logs. Can be specified multiple times"),
    ("no-container-partial-message", ' ', Flag,
     "Do not set CONTAINER_PARTIAL_MESSAGE=true for partial lines in journald logs (journald driver only)"),
    ("name", 'n', Text, "Container name"),
    ("no-new-keyring", ' ', Flag, "Do not create a new session keyring for the container"),
    ("no-pivot", ' ', Flag, "Do not use pivot_root"),
    ("no-sync-log", ' ', Flag, "Do not manually call sync on logs after container shutdown"),
    ("persist-dir", '0', Text,
     "Persistent directory for a container that can be used for storing container data"),
    ("replace-listen-pid", ' ', Flag, "Replace listen pid if set for oci-runtime pid"),
    ("restore", ' ', Text, "Restore a container from a checkpoint"),
    ("runtime", 'r', Text, "Path to store runtime data for the container"),
    ("runtime-arg", ' ', List, "Additional arg to pass to the runtime. Can be specified multiple times"),
    ("runtime-opt", ' ', List,
     "Additional opts to pass to the restore or exec command. Can be specified multiple times"),
    ("sdnotify-socket", ' ', Text, "Path to the host's sd-notify socket to relay messages to"),
    ("socket-dir-path", ' ', Text, "Location of container attach sockets"),
    ("stdin", 'i', Flag, "Open up a pipe to pass stdin to the container"),
    ("sync", ' ', Flag, "Keep the main conmon process as its child by only forking once"),
    ("syslog", ' ', Flag, "Log to syslog (use with cgroupfs cgroup manager)"),
    ("systemd-cgroup", 's', Flag, "Enable systemd cgroup manager, rather then use the cgroupfs directly"),
    ("terminal", 't', Flag, "Allocate a pseudo-TTY. The default is false"),
    ("timeout", 'T', Int, "Kill container after specified timeout in seconds."),
    (VERSION, ' ', Flag, "Print the version and exit"),
    ("full-attach", ' ', Flag,
     "Don't truncate the path to the attach socket. This option causes conmon to ignore --socket-dir-path"),
    ("log-rotate", ' ', Flag, "Enable log rotation instead of truncation when log-size-max is reached"),
    ("log-max-files", ' ', Int, "Number of backup log files to keep (default: 1)"),
    ("log-allowlist-dir", ' ', List, "Allowed log directory"),
    (HELP, 'h', Flag, "Show help options"),
];

/// Old names, still accepted and shown nowhere. An alias shares its option's variable, as conmon's do.
const ALIASES: &[(&str, &str)] =
    &[("pidfile", "container-pidfile"), ("restore-arg", "runtime-opt"), ("help-all", HELP)];

/// The table as clap holds it. Built on demand and dropped after parsing: the monitor lives long and stays small.
pub fn table() -> Command {
    command().args(OPTIONS.iter().map(option)).mut_arg(HELP, |help| help.short_alias('?'))
}

/// The rows that the canonical `words` name. clap prepares every row it has, and gives each flag that is not on the line
/// a default value to parse; most lines name a third of the rows, so this halves what reading one costs.
pub(super) fn table_for(words: &[OsString]) -> Command {
    let named = |row: &&Row| words.iter().any(|word| names(word.as_bytes(), row.0));
    command().args(OPTIONS.iter().filter(named).map(option))
}

/// Whether `word`, `--name` or `--name=value`, is about the option `name`.
fn names(word: &[u8], name: &str) -> bool {
    let rest = word.strip_prefix(b"--").and_then(|word| word.strip_prefix(name.as_bytes()));
    matches!(rest, Some([] | [b'=', ..]))
}

fn command() -> Command {
    Command::new("conmon")
        .about("conmon utility")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
}

fn option(&(name, short, kind, help): &Row) -> Arg {
    let arg = Arg::new(name).long(name).help(help);
    let arg = if short == ' ' { arg } else { arg.short(short) };
    let arg = arg.aliases(ALIASES.iter().filter(|(_, of)| *of == name).map(|(alias, _)| *alias));
    match kind {
        Flag => arg.action(ArgAction::SetTrue),
        Text => arg.action(ArgAction::Set).value_parser(ValueParser::os_string()),
        List => arg.action(ArgAction::Append).value_parser(ValueParser::os_string()),
        Int => arg.action(ArgAction::Set).value_parser(value_parser!(i32)),
        Int64 => arg.action(ArgAction::Set).value_parser(value_parser!(i64)),
    }
}
