//! The lives that are walked through.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Life;
use crate::bench::Bench;
use crate::command::MonitorCommand;
use crate::mounts::Mounts;

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
};
pub const WITH_TERMINAL: Life =
    Life { name: "terminal", command: terminal, script: TERMINAL, control: "1 40 100\n", ..PODMAN };
pub const CRIO: Life = Life { name: "crio", command: crio, key: "pid", ..PODMAN };
/// The file is there too: it is what is looked at.
pub const JOURNALD: Life = Life { name: "journald", command: journald, control: "", ..PODMAN };
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

fn terminal(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(bench, bench.podman().arg("-t").env("TMPDIR", bench.path("t")))
}

fn crio(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(
        bench,
        bench.crio().args(["-i", "--log-size-max", "60", "--log-rotate", "--log-max-files", "9"]),
    )
}

fn journald(bench: &Bench) -> MonitorCommand<'_> {
    let command = cleaning_up(bench, bench.podman().arg("-i"));
    if own_journal() { command.args(["-l", "journald"]) } else { command }
}

/// Gives the calling thread a journal's socket that takes the few datagrams of a life, which is what its queue holds.
/// False, with a word why, without the right to.
fn own_journal() -> bool {
    thread_local! {
        static PLACE: OnceCell<Option<Mounts>> = const { OnceCell::new() };
    }
    let socket = Path::new("/run/systemd/journal/socket");
    let place = || {
        let mut mounts = Mounts::private()?;
        mounts.tmpfs(Path::new("/run/systemd"), "1m");
        std::fs::create_dir("/run/systemd/journal").expect("mkdir");
        Some(mounts)
    };
    let there = PLACE.with(|mounts| mounts.get_or_init(place).is_some());
    if there {
        let _ = std::fs::remove_file(socket);
        // It goes on taking datagrams while a descriptor of it is open, which is until the test ends.
        std::mem::forget(UnixDatagram::bind(socket).map(OwnedFd::from).expect("bind"));
    }
    there
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
