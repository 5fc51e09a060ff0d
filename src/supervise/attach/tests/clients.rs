//! Clients that come and go.

use super::*;

#[test]
fn people_who_type_and_go_while_nobody_reads_leave_nothing() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let big = bench.connect();
    for _ in 0..4 {
        big.send(&[b'x'; 32768]).unwrap();
    }
    bench.quiesce();
    for _ in 0..300 {
        let remote = bench.connect();
        remote.send(b"y").unwrap();
        drop(remote);
        bench.turn(Duration::ZERO);
    }
    bench.quiesce();
    assert!(bench.count() <= DEPARTED_MAX + 1, "{}", bench.count());
    let mut seen = Vec::new();
    while bench.count() > 1 {
        seen.extend(read_now(&mut pipe));
        bench.turn(Duration::from_millis(5));
    }
    bench.quiesce();
    seen.extend(read_now(&mut pipe));
    assert_eq!(seen.iter().filter(|byte| **byte == b'x').count(), 4 * 32768);
    assert_eq!(seen.iter().filter(|byte| **byte == b'y').count(), DEPARTED_MAX);
}

#[test]
fn clients_come_and_go_in_every_way_without_a_trace() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    for round in 0..500 {
        let remote = bench.connect();
        match round % 5 {
            0 => {}
            1 => remote.half_close(),
            2 => shutdown(remote.raw(), Shutdown::Both).unwrap(),
            3 => {
                shutdown(remote.raw(), Shutdown::Read).unwrap();
                bench.broadcast(Stream::Stdout, b"nobody reads this");
            }
            _ => _ = remote.send(b"bye").unwrap(),
        }
        if round % 2 == 0 {
            bench.turn(Duration::ZERO);
        }
        drop(remote);
        bench.until(|bench| bench.count() == 0);
    }
    assert!(bench.attach.readable.is_empty());
}

#[test]
fn many_clients_at_once() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let path = bench.dir.0.join("attach");
    // All of them before the first is accepted.
    let remotes: Vec<Remote> = (0..128).map(|_| Remote::connect(&path)).collect();
    bench.until(|bench| bench.count() == 128);
    bench.broadcast(Stream::Stdout, b"all");
    assert!(remotes.iter().all(|remote| remote.recv().unwrap() == b"\x02all"));
    drop(remotes);
    bench.until(|bench| bench.count() == 0);
}

#[test]
fn accepting_pauses_while_there_are_no_descriptors() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let now = Instant::now();
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        let failed = bench.attach.on_accept_failed(&io::Error::from_raw_os_error(errno), now);
        assert_eq!(failed, Turn::Dry);
    }
    assert_eq!(bench.attach.next_deadline(), Some(now + ACCEPT_PAUSE));
    let remote = Remote::connect(&bench.dir.0.join("attach"));
    assert_eq!(bench.attach.on_listener(bench.poll.registry(), now), Turn::Dry);
    assert_eq!(bench.count(), 0);
    bench.attach.on_deadline(bench.poll.registry(), now + ACCEPT_PAUSE);
    assert_eq!((bench.count(), bench.attach.next_deadline()), (1, None));
    drop(remote);
}
