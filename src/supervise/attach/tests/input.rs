//! What clients send: order, ends, a container that does not take it.

use super::*;

#[test]
fn all_input_arrives_before_its_end_does() {
    for policy in [StdinPolicy::CloseWithClient, StdinPolicy::KeepOpen] {
        let (mut bench, mut pipe) = Bench::with_pipe(policy);
        let remote = bench.connect();
        let data = pattern(1_000_000);
        let (mut sent, mut seen) = (0, Vec::new());
        let deadline = Instant::now() + DEADLINE;
        let mut closed = false;
        while seen.len() < data.len() {
            assert!(Instant::now() < deadline);
            while sent < data.len() {
                match remote.send(&data[sent..(sent + 32768).min(data.len())]) {
                    Ok(len) => sent += len,
                    Err(_) => break,
                }
            }
            if sent == data.len() && !closed {
                remote.half_close();
                closed = true;
            }
            bench.turn(Duration::from_millis(1));
            seen.extend(read_now(&mut pipe));
        }
        bench.quiesce();
        assert!(seen == data);
        if policy == StdinPolicy::CloseWithClient {
            assert!(comes_to_its_end(&mut pipe));
        } else {
            assert_eq!(at_end(&mut pipe), Some(false));
        }
        bench.broadcast(Stream::Stdout, b"after half-close");
        assert_eq!(remote.recv().unwrap(), b"\x02after half-close");
        drop(remote);
        bench.until(|bench| bench.count() == 0);
    }
}

#[test]
fn a_client_that_is_gone_has_its_input_delivered_first() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::CloseWithClient);
    let remote = bench.connect();
    // Output that it never reads makes the kernel report a reset ahead of its input.
    bench.broadcast(Stream::Stdout, b"unread");
    remote.send(b"last words").unwrap();
    drop(remote);
    bench.until(|bench| bench.count() == 0);
    assert_eq!(read_now(&mut pipe), b"last words");
    assert!(comes_to_its_end(&mut pipe));
}

#[test]
fn an_empty_packet_is_the_end_of_input() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::CloseWithClient);
    let (first, other) = (bench.connect(), bench.connect());
    first.send(b"a").unwrap();
    first.send(b"").unwrap();
    bench.quiesce();
    assert_eq!(read_now(&mut pipe), b"a");
    assert!(comes_to_its_end(&mut pipe), "stdin is closed for all clients");
    assert_eq!(first.send(b"b"), Err(Errno::EPIPE));
    other.send(b"dropped").unwrap();
    bench.quiesce();
    assert_eq!(bench.count(), 2);
}

#[test]
fn a_packet_is_kept_up_to_32768_bytes() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let remote = bench.connect();
    let data = pattern(40_001);
    remote.send(&data).unwrap();
    remote.send(b"next").unwrap();
    bench.quiesce();
    assert!(read_now(&mut pipe) == [&data[..32768], b"next"].concat());
}

#[test]
fn packets_of_several_clients_are_never_mixed() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let remotes: Vec<Remote> = (0..5).map(|_| bench.connect()).collect();
    for (n, remote) in remotes.iter().enumerate() {
        for _ in 0..4 {
            remote.send(&[n as u8; 30_000]).unwrap();
        }
    }
    let (mut seen, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while seen.len() < 5 * 4 * 30_000 {
        assert!(Instant::now() < deadline);
        bench.turn(Duration::from_millis(1));
        seen.extend(read_now(&mut pipe));
    }
    assert!(seen.chunks(30_000).all(|packet| packet.iter().all(|byte| *byte == packet[0])));
}

#[test]
fn without_stdin_input_is_dropped_and_clients_stay() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    for stdin in [Stdin::none(STDIN), Stdin::pipe(writer, StdinPolicy::CloseWithClient, STDIN)] {
        let mut bench = Bench::new(stdin, None);
        let remote = bench.connect();
        for _ in 0..50 {
            remote.send(&[1; 32768]).unwrap();
            bench.quiesce();
        }
        assert_eq!(bench.count(), 1);
        bench.broadcast(Stream::Stdout, b"x");
        assert_eq!(remote.recv().unwrap(), b"\x02x");
        let before = bench.wakeups;
        bench.turn(Duration::from_millis(20));
        assert_eq!(bench.wakeups, before);
    }
}

#[test]
fn input_typed_before_the_terminal_exists_is_delivered() {
    let mut bench = Bench::new(Stdin::terminal(STDIN), None);
    let remote = bench.connect();
    for packet in [&b"one "[..], b"two ", b"three"] {
        remote.send(packet).unwrap();
    }
    remote.half_close();
    bench.quiesce();
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
    bench.stdin.on_console(writer, bench.poll.registry());
    bench.quiesce();
    let mut reader = File::from(reader);
    assert_eq!(read_now(&mut reader), b"one two three");
    let later = bench.connect();
    later.send(b"again").unwrap();
    bench.quiesce();
    assert_eq!(read_now(&mut reader), b"again", "a client that left does not end the terminal's input");
}
