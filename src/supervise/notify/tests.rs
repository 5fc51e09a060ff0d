//! The relay between real sockets.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

use mio::{Events, Poll};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A bundle with its `notify` directory, removed with the value.
struct Bundle(PathBuf);

impl Bundle {
    fn new() -> Self {
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("ferromon-notify.XXXXXX")).unwrap();
        fs::create_dir_all(path.join("notify")).unwrap();
        Self(path)
    }

    /// A directory whose name alone leaves no room in a socket address.
    fn long(&self) -> PathBuf {
        let path = self.0.join("d".repeat(200));
        fs::create_dir_all(path.join("notify")).unwrap();
        path
    }

    fn relay(&self, host: &Path) -> NotifyRelay {
        NotifyRelay::bind(&self.0, host).unwrap()
    }

    fn client(&self) -> UnixDatagram {
        let client = UnixDatagram::unbound().unwrap();
        client.connect(self.0.join(SOCKET)).unwrap();
        client
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn listen(path: &Path) -> UnixDatagram {
    let host = UnixDatagram::bind(path).unwrap();
    host.set_read_timeout(Some(DEADLINE)).unwrap();
    host
}

fn next(host: &UnixDatagram) -> String {
    let mut buffer = vec![0; 2 * MESSAGE_MAX];
    let length = host.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn assert_empty(host: &UnixDatagram) {
    host.set_nonblocking(true).unwrap();
    assert_eq!(host.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    host.set_nonblocking(false).unwrap();
}

#[test]
fn a_message_arrives_filtered_as_one_datagram() {
    let bundle = Bundle::new();
    let host = listen(&bundle.0.join("host"));
    let mut relay = bundle.relay(&bundle.0.join("host"));
    let client = bundle.client();
    client.send(b"MAINPID=7\nSTATUS=up\r\nREADY=1\n").unwrap();
    client.send(b"MAINPID=7").unwrap();
    client.send(b"STOPPING=1").unwrap();
    assert_eq!(relay.on_readable(), Turn::Dry);
    assert_eq!(next(&host), "STATUS=up\nREADY=1");
    assert_eq!(next(&host), "STOPPING=1");
    assert_empty(&host);
}

#[test]
fn the_socket_replaces_a_stale_one_and_anybody_may_write() {
    let bundle = Bundle::new();
    let path = bundle.0.join(SOCKET);
    for _ in 0..2 {
        let _relay = bundle.relay(Path::new("/nonexistent"));
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o777);
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(bundle.0.join("elsewhere"), &path).unwrap();
    let _relay = bundle.relay(Path::new("/nonexistent"));
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert!(!bundle.0.join("elsewhere").exists());
}

#[test]
fn failures_at_the_start_have_conmons_words() {
    let bundle = Bundle::new();
    fs::create_dir(bundle.0.join(SOCKET)).unwrap();
    let blocked = format!("Failed to remove existing socket: {} ", bundle.0.join(SOCKET).display());
    let missing = Bundle::new();
    fs::remove_dir(missing.0.join("notify")).unwrap();
    let cases = [
        (missing.0.clone(), "Failed to bind to console-socket No such file or directory".to_owned()),
        (
            "/nonexistent".into(),
            "failed to open socket path parent dir /nonexistent No such file or directory".into(),
        ),
        (bundle.0.clone(), blocked),
    ];
    for (path, wanted) in cases {
        let error = NotifyRelay::bind(&path, Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with(&wanted), "{error}");
    }
}

#[test]
fn long_paths_on_both_sides_and_abstract_names_work() {
    let bundle = Bundle::new();
    let long = bundle.long();
    // Bound by another name, as these are too long for bind as well.
    let by_directory = listen(&bundle.0.join("h1"));
    fs::rename(bundle.0.join("h1"), long.join("host")).unwrap();
    let by_name = listen(&bundle.0.join("h2"));
    let long_name = bundle.0.join("n".repeat(255));
    fs::rename(bundle.0.join("h2"), &long_name).unwrap();
    let name = format!("ferromon-test-{}", std::process::id());
    let abstract_host = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    abstract_host.set_read_timeout(Some(DEADLINE)).unwrap();
    let hosts = [
        (long.join("host"), &by_directory),
        (long_name, &by_name),
        (format!("@{name}").into(), &abstract_host),
    ];
    for (path, host) in hosts {
        let mut relay = NotifyRelay::bind(&long, &path).unwrap();
        let socket = open(&long.join(SOCKET), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"READY=1", format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        assert_eq!(relay.on_readable(), Turn::Dry);
        assert_eq!(next(host), "READY=1", "{}", path.display());
    }
}

#[test]
fn a_missing_host_and_empty_datagrams_cost_nothing_but_themselves() {
    for path in ["host".to_owned(), format!("{}/host", "d".repeat(200))] {
        let bundle = Bundle::new();
        bundle.long();
        let mut relay = bundle.relay(&bundle.0.join(&path));
        let client = bundle.client();
        client.send(b"STATUS=lost").unwrap();
        client.send(b"").unwrap();
        client.send(b"\0").unwrap();
        assert_eq!(relay.on_readable(), Turn::Dry);
        assert_eq!(relay.delivery, Delivery::Fails);
        let host = listen(&bundle.0.join("bound"));
        fs::rename(bundle.0.join("bound"), bundle.0.join(&path)).unwrap();
        client.send(b"").unwrap();
        client.send(b"READY=1").unwrap();
        assert_eq!(relay.on_readable(), Turn::Dry);
        assert_eq!(next(&host), "READY=1");
        assert_eq!(relay.delivery, Delivery::Works);
        assert_empty(&host);
    }
}

#[test]
fn a_full_host_blocks_nobody_and_later_messages_arrive() {
    let bundle = Bundle::new();
    let host = listen(&bundle.0.join("host"));
    let mut relay = bundle.relay(&bundle.0.join("host"));
    let client = bundle.client();
    let filler = UnixDatagram::unbound().unwrap();
    filler.connect(bundle.0.join("host")).unwrap();
    filler.set_nonblocking(true).unwrap();
    let mut filled = 0;
    while filler.send(b"STATUS=fill").is_ok() {
        filled += 1;
    }
    client.send(b"STATUS=lost").unwrap();
    assert_eq!(relay.on_readable(), Turn::Dry);
    assert_eq!(relay.delivery, Delivery::Overrun);
    for _ in 0..filled {
        assert_eq!(next(&host), "STATUS=fill");
    }
    client.send(b"READY=1").unwrap();
    assert_eq!(relay.on_readable(), Turn::Dry);
    assert_eq!(next(&host), "READY=1");
}

#[test]
fn big_datagrams_lose_their_cut_line_and_nothing_else() {
    let bundle = Bundle::new();
    let host = listen(&bundle.0.join("host"));
    let mut relay = bundle.relay(&bundle.0.join("host"));
    let client = bundle.client();
    let status = format!("STATUS={}", "s".repeat(MESSAGE_MAX - 7));
    client.send(status.as_bytes()).unwrap();
    client.send(format!("READY=1\n{status}\nSTOPPING=1").as_bytes()).unwrap();
    client.send(b"STATUS=after").unwrap();
    assert_eq!(relay.on_readable(), Turn::Dry);
    assert_eq!(next(&host), status);
    assert_eq!(next(&host), "READY=1");
    assert_eq!(next(&host), "STATUS=after");
}

#[test]
fn a_flood_is_taken_in_turns_under_an_edge_triggered_poll() {
    let bundle = Bundle::new();
    let host = listen(&bundle.0.join("host"));
    let mut relay = bundle.relay(&bundle.0.join("host"));
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    relay.register(poll.registry(), Token(5)).unwrap();
    let path = bundle.0.join(SOCKET);
    let count = 20 * TURN_MAX;
    let flood = std::thread::spawn(move || {
        let client = UnixDatagram::unbound().unwrap();
        client.set_write_timeout(Some(DEADLINE)).unwrap();
        client.connect(path).unwrap();
        for number in 0..count {
            client.send(format!("STATUS={number}").as_bytes()).unwrap();
        }
    });
    let mut received = 0;
    while received < count {
        poll.poll(&mut events, Some(DEADLINE)).unwrap();
        assert!(!events.is_empty(), "no event after {received} datagrams");
        loop {
            let turn = relay.on_readable();
            host.set_nonblocking(true).unwrap();
            let mut buffer = [0; 64];
            while let Ok(length) = host.recv(&mut buffer) {
                // Dropped ones leave gaps; the order stays.
                let number: usize = std::str::from_utf8(&buffer[7..length]).unwrap().parse().unwrap();
                assert!(number >= received);
                received = number + 1;
            }
            if turn == Turn::Dry {
                break;
            }
        }
    }
    flood.join().unwrap();
}

#[test]
fn descriptors_from_the_container_are_closed_unseen() {
    use nix::sys::socket::{ControlMessage, sendmsg};
    let bundle = Bundle::new();
    let host = listen(&bundle.0.join("host"));
    let mut relay = bundle.relay(&bundle.0.join("host"));
    let client = bundle.client();
    let (kept, sent) = UnixDatagram::pair().unwrap();
    let rights = [sent.as_raw_fd()];
    let message = [io::IoSlice::new(b"FDSTORE=1\nREADY=1")];
    sendmsg::<()>(
        client.as_raw_fd(),
        &message,
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    drop(sent);
    assert_eq!(relay.on_readable(), Turn::Dry);
    assert_eq!(next(&host), "READY=1");
    // Nobody holds the other end any more, but for a child that another test may be starting at this moment.
    kept.set_nonblocking(true).unwrap();
    let start = std::time::Instant::now();
    while kept.send(b"x").map_err(|error| error.kind()) != Err(io::ErrorKind::ConnectionRefused) {
        assert!(start.elapsed() < DEADLINE, "the other end is open");
        std::thread::yield_now();
    }
}
