//! Contract 5.11: the relay of sd-notify messages from the container to the host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use compat_tests::{Bench, Monitor, behaviour, deadline};

/// The container's end.
struct Container(UnixDatagram);

impl Container {
    fn send(&self, message: &[u8]) {
        self.0.send(message).expect("a message to the monitor");
    }

    /// Waits until the monitor has taken all that was sent.
    fn wait_until_taken(&self) {
        deadline::until("the monitor to take the message", || {
            let mut unread: libc::c_int = 0;
            // SAFETY: the kernel stores one int through the pointer, which leads to a local.
            let asked = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
            (asked == 0 && unread == 0).then_some(())
        });
    }
}

/// A container that runs until `go`, relayed to `host`.
fn running<'b>(bench: &'b Bench, host: &str) -> (Monitor<'b>, Container) {
    std::fs::create_dir(bench.bundle().join("notify")).unwrap();
    bench.script("payload\nwait go\nexit 3");
    let mut monitor = bench.podman().arg(format!("--sdnotify-socket={host}")).run();
    monitor.report();
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(bench.bundle().join("notify/notify.sock")).expect("the container's notify socket");
    (monitor, Container(socket))
}

fn finish(bench: &Bench, monitor: Monitor<'_>) {
    bench.touch("go");
    assert_eq!(monitor.finish_rest(), "3");
}

fn host(path: &Path) -> UnixDatagram {
    with_deadline(UnixDatagram::bind(path).unwrap())
}

fn with_deadline(socket: UnixDatagram) -> UnixDatagram {
    socket.set_read_timeout(Some(deadline::limit())).unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 65536];
    let count = socket.recv(&mut buffer).expect("a message from the monitor");
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

#[test]
fn ready_is_passed_on() {
    behaviour!(|| {
        let bench = Bench::new();
        let host = host(&bench.path("host"));
        let (monitor, container) = running(&bench, bench.path("host").to_str().unwrap());
        let socket = std::fs::metadata(bench.bundle().join("notify/notify.sock")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o777, "any user of the container may write");
        container.send(b"READY=1");
        assert_eq!(receive(&host), "READY=1");
        finish(&bench, monitor);
    });
}

#[test]
fn lines_of_one_message_stay_together_and_others_are_left_out() {
    behaviour!(|| {
        let bench = Bench::new();
        let host = host(&bench.path("host"));
        let (monitor, container) = running(&bench, bench.path("host").to_str().unwrap());
        container.send(b"MAINPID=1\nREADY=0\nFDSTORE=1\nBARRIER=1");
        container.send(b"READY=1\nMAINPID=1\nSTATUS=all is well\nERRNO=2\nX=y\nWATCHDOG=1\nSTOPPING=1\n");
        assert_eq!(receive(&host), "READY=1\nSTATUS=all is well\nERRNO=2\nWATCHDOG=1\nSTOPPING=1");
        finish(&bench, monitor);
    });
}

#[test]
fn a_longer_timeout_can_be_asked_for() {
    behaviour!(|| {
        let bench = Bench::new();
        let host = host(&bench.path("host"));
        let (monitor, container) = running(&bench, bench.path("host").to_str().unwrap());
        container.send(b"EXTEND_TIMEOUT_USEC=5000000");
        assert_eq!(receive(&host), "EXTEND_TIMEOUT_USEC=5000000");
        finish(&bench, monitor);
    });
}

#[test]
fn a_missing_host_socket_costs_the_message_only() {
    behaviour!(|| {
        let bench = Bench::new();
        let (monitor, container) = running(&bench, bench.path("host").to_str().unwrap());
        container.send(b"READY=1");
        // The monitor reads on, whether it could pass the message on or not.
        container.wait_until_taken();
        monitor.pid().expect_idle();
        let host = host(&bench.path("host"));
        container.send(b"READY=1");
        assert_eq!(receive(&host), "READY=1");
        finish(&bench, monitor);
    });
}

#[test]
fn an_empty_message_costs_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        let host = host(&bench.path("host"));
        let (monitor, container) = running(&bench, bench.path("host").to_str().unwrap());
        container.send(b"");
        container.send(b"READY=1");
        assert_eq!(receive(&host), "READY=1");
        finish(&bench, monitor);
    });
}

#[test]
fn the_host_may_have_an_abstract_name() {
    behaviour!(|| {
        let bench = Bench::new();
        let name = bench.path("host").to_str().unwrap().to_owned();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let host = with_deadline(UnixDatagram::bind_addr(&address).unwrap());
        let (monitor, container) = running(&bench, &format!("@{name}"));
        container.send(b"READY=1");
        assert_eq!(receive(&host), "READY=1");
        finish(&bench, monitor);
    });
}

#[test]
fn the_hosts_path_may_be_long() {
    behaviour!(|| {
        let bench = Bench::new();
        let host = host(&bench.path("host"));
        let folder = bench.path("h".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        std::fs::rename(bench.path("host"), folder.join("host")).unwrap();
        let (monitor, container) = running(&bench, folder.join("host").to_str().unwrap());
        container.send(b"READY=1");
        assert_eq!(receive(&host), "READY=1");
        finish(&bench, monitor);
    });
}

#[test]
fn without_its_directory_nothing_is_started() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch started\npayload\nexit 3");
        let command = bench.podman().arg(format!("--sdnotify-socket={}", bench.path("host").display()));
        let monitor = command.arg("--sync").run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        assert!(monitor.stderr().contains("No such file or directory"), "{}", monitor.stderr());
        assert!(!bench.path("started").exists());
    });
}
