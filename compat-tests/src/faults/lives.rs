//! The lives that are walked through.

use super::Life;
use crate::bench::Bench;
use crate::command::MonitorCommand;

const SCRIPT: &str = "payload\nbackground\ncat got\nend\nwait go1\nprint hello\\n\nwait go2\nprint bye\\n\neprint oops\\n\nexit 7";
const TERMINAL: &str = "console\npayload\nraw\nbackground\ncat got\nend\nwait go1\nprint hello\\n\nwait go2\nprint bye\\n\nexit 7";
const FAILING: &str = "eprint no such thing\\n\nexit 3";

pub const PODMAN: Life = Life {
    name: "podman",
    command: podman,
    script: SCRIPT,
    exec: false,
    sync: false,
    key: "data",
    code: Some(7),
    attach: true,
    control: "2 0 0\n",
    journal: false,
};
pub const WITH_TERMINAL: Life =
    Life { name: "terminal", command: terminal, script: TERMINAL, control: "1 40 100\n", ..PODMAN };
pub const CRIO: Life = Life { name: "crio", command: crio, key: "pid", ..PODMAN };
pub const JOURNAL: Life = Life { name: "journald", command: journald, control: "", journal: true, ..PODMAN };
/// The driver's stdio is the container's, so that the monitor lets go of it when there may be a container already.
pub const PASSTHROUGH: Life =
    Life { name: "passthrough", command: passthrough, attach: false, control: "", ..PODMAN };
/// Everything that the monitor has to say goes to the system log.
pub const TOLD: Life = Life { name: "syslog", command: told, ..PODMAN };
pub const FAILED: Life = Life { name: "failed", script: FAILING, code: None, ..PODMAN };
pub const EXEC: Life = Life { name: "exec", command: exec, exec: true, control: "", ..PODMAN };
pub const EXEC_SYNC: Life = Life {
    name: "exec-sync",
    command: exec_sync,
    exec: true,
    sync: true,
    key: "exit_code",
    attach: false,
    control: "",
    ..PODMAN
};

fn podman(bench: &Bench) -> MonitorCommand<'_> {
    let command = bench.podman().arg("-i").option("--sdnotify-socket", bench.notify_host());
    cleaning_up(bench, command)
}

fn journald(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(bench, bench.podman().replace("-l", "journald:").args(["-i", "--log-tag", "a tag"]))
}

fn passthrough(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(bench, bench.podman().replace("-l", "passthrough"))
}

fn told(bench: &Bench) -> MonitorCommand<'_> {
    podman(bench).arg("--syslog").replace("--log-level", "debug")
}

fn terminal(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(bench, bench.podman().arg("-t").env("TMPDIR", bench.path("t")))
}

fn crio(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(
        bench,
        bench.crio().args(["-i", "--log-size-max", "60", "--log-rotate", "--log-max-files", "9"]),
    )
}

fn exec(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman_exec().arg("-i")
}

fn exec_sync(bench: &Bench) -> MonitorCommand<'_> {
    bench.crio_exec()
}

fn cleaning_up<'b>(bench: &'b Bench, command: MonitorCommand<'b>) -> MonitorCommand<'b> {
    command.option("--exit-command", "/usr/bin/touch").option("--exit-command-arg", bench.path("cleaned"))
}
