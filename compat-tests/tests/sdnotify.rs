//! Readiness of a service in a container of real podman, passed on by the monitor to the host's socket; contract 5.11
//! and its row in appendix B.
//!
//! The test plays systemd: podman gets its socket as `NOTIFY_SOCKET` and hands it to the monitor. podman itself tells
//! it the main process; what a container says about that must not get through.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use compat_tests::bench::built;
use compat_tests::deadline::{self, readable};
use compat_tests::podman::{IMAGE, Podman};
use compat_tests::podman_twin;
use compat_tests::session::run;
use compat_tests::transcript::Transcript;

/// The last datagram of each script.
const LAST: &str = "READY=1";

/// Runs `script` in a container with the relay to `host`; `/send` sends, and `/sync` is the directory `sync` here.
fn start(podman: &Podman, host: &OsStr, script: &str) {
    let sync = podman.dir().join("sync");
    fs::create_dir(&sync).unwrap();
    let volumes =
        [format!("{}:/sync", sync.display()), format!("{}:/send:ro", built("notify-send").display())];
    let script =
        format!("wait_for() {{ while [ ! -e /sync/$1 ]; do sleep 0.05; done; }}; {script}; sleep 100");
    let options =
        ["run", "-d", "--name", "c", "--sdnotify", "container", "-v", &volumes[0], "-v", &volumes[1]];
    let mut command = podman.command(&[&options[..], &[IMAGE, "sh", "-c", &script]].concat());
    command.env("NOTIFY_SOCKET", host);
    run(command).exits(0);
}

/// What arrived up to [`LAST`]; without what podman says itself. With the original that may never come.
fn received(podman: &Podman, socket: &UnixDatagram) -> Vec<String> {
    let limit = if podman.is_ours() { deadline::limit() } else { deadline::scaled(Duration::from_secs(8)) };
    let end = Instant::now() + limit;
    let mut all: Vec<String> = Vec::new();
    let mut buffer = vec![0; 65536];
    while all.last().is_none_or(|text| text != LAST) {
        if !readable(socket.as_fd(), end.saturating_duration_since(Instant::now())) {
            break;
        }
        let length = socket.recv(&mut buffer).unwrap();
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    all.retain(|text| text.lines().all(|line| line == "MAINPID=1" || !line.starts_with("MAINPID=")));
    all
}

/// Records what arrived; a long status by its length.
fn record(name: &str, received: &[String], seen: &mut Transcript) {
    let short = received.iter().map(|text| match text.len() {
        0..=100 => format!("{text:?}"),
        length => format!("{:?}… of {length} bytes", &text[..10]),
    });
    seen.add(name, short.collect::<Vec<_>>().join("\n"));
}

/// Waits until the script in the container has made the file `name` in `/sync`.
fn wait_for(podman: &Podman, name: &str) {
    let path = podman.dir().join("sync").join(name);
    podman.until(name, || path.exists().then_some(()));
}

fn touch(podman: &Podman, name: &str) {
    fs::write(podman.dir().join("sync").join(name), "").unwrap();
}

#[test]
fn only_what_a_service_may_say_is_passed_on() {
    podman_twin!(|podman, seen| {
        let path = podman.dir().join("host");
        let socket = UnixDatagram::bind(&path).unwrap();
        let script = "/send 'MAINPID=1' 'STATUS=a\nMAINPID=1\nSTOPPING=1' '' 'FDSTORE=1' 'EXTEND_TIMEOUT_USEC=5' \
                      fill:30000 READY=1";
        start(podman, path.as_os_str(), script);
        let received = received(podman, &socket);
        record("received", &received, seen);
        if podman.is_ours() {
            let big = format!("STATUS={}", "x".repeat(30000));
            assert_eq!(received, ["STATUS=a\nSTOPPING=1", "EXTEND_TIMEOUT_USEC=5", &big, LAST]);
        }
    });
}

#[test]
fn the_hosts_socket_may_be_abstract() {
    podman_twin!(|podman, seen| {
        let name = format!("ferromon{}", podman.dir().display());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        start(podman, OsStr::new(&format!("@{name}")), "/send READY=1");
        let received = received(podman, &socket);
        record("received", &received, seen);
        if podman.is_ours() {
            assert_eq!(received, [LAST]);
        }
    });
}

/// podman's own client of the socket can't reach it, which podman only logs.
#[test]
fn the_path_of_the_hosts_socket_may_be_long() {
    podman_twin!(|podman, seen| {
        let folder = podman.dir().join("long".repeat(40));
        fs::create_dir(&folder).unwrap();
        let open = File::open(&folder).unwrap();
        let near = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join("host");
        let socket = UnixDatagram::bind(near).unwrap();
        start(podman, folder.join("host").as_os_str(), "/send READY=1");
        let received = received(podman, &socket);
        record("received", &received, seen);
        if podman.is_ours() {
            assert_eq!(received, [LAST]);
        }
    });
}

#[test]
fn a_host_that_is_away_for_a_while_costs_what_was_sent_meanwhile() {
    podman_twin!(|podman, seen| {
        let path = podman.dir().join("host");
        let socket = UnixDatagram::bind(&path).unwrap();
        let script = "/send READY=1; wait_for away; /send READY=1 'STATUS=lost'; touch /sync/sent; \
                      wait_for back; /send READY=1";
        start(podman, path.as_os_str(), script);
        record("before", &received(podman, &socket), seen);
        drop(socket);
        fs::remove_file(&path).unwrap();
        touch(podman, "away");
        wait_for(podman, "sent");
        // What was sent is in the monitor's hands only once it has slept again; then nothing of it may come late.
        podman.monitor_at_rest();
        let socket = UnixDatagram::bind(&path).unwrap();
        touch(podman, "back");
        let after = received(podman, &socket);
        record("after", &after, seen);
        if podman.is_ours() {
            assert_eq!(after, [LAST]);
            assert!(!readable(socket.as_fd(), Duration::from_millis(50)));
        }
    });
}
