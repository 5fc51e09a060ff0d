//! What clients receive: packets, order, slow and stuck ones, the end.

use super::*;

#[test]
fn output_comes_in_packets_of_a_stream_byte_and_8192_bytes() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let remote = bench.connect();
    let data = pattern(20_000);
    bench.broadcast(Stream::Stdout, &data);
    bench.broadcast(Stream::Stderr, b"e");
    bench.broadcast(Stream::Stdout, b"");
    let sizes: Vec<(u8, usize)> =
        std::iter::from_fn(|| remote.recv().ok()).map(|p| (p[0], p.len() - 1)).collect();
    assert_eq!(sizes, [(2, 8192), (2, 8192), (2, 3616), (3, 1)]);
    assert_eq!(remote.recv(), Err(Errno::EAGAIN), "an empty output is no packet, which would mean the end");
}

#[test]
fn a_slow_client_gets_every_byte_and_holds_the_stream_meanwhile() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let (slow, quick) = (bench.connect(), bench.connect());
    let data = pattern(3_000_000);
    let (mut seen, mut quick_seen, mut written) = (<[Vec<u8>; 2]>::default(), <[Vec<u8>; 2]>::default(), 0);
    let deadline = Instant::now() + DEADLINE;
    let mut holds = 0;
    while seen[0].len() < data.len() {
        assert!(Instant::now() < deadline);
        if bench.attach.holds(Stream::Stdout) {
            holds += 1;
            slow.take(&mut seen);
        } else if written < data.len() {
            let end = (written + 65536).min(data.len());
            bench.broadcast(Stream::Stdout, &data[written..end]);
            written = end;
        } else {
            slow.take(&mut seen);
        }
        quick.take(&mut quick_seen);
        bench.turn(Duration::ZERO);
    }
    assert!(holds > 3);
    assert!(seen[0] == data && quick_seen[0] == data);
}

#[test]
fn a_stuck_client_costs_no_wakeups_and_only_its_stream() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let stuck = bench.connect();
    while !bench.attach.holds(Stream::Stdout) {
        bench.broadcast(Stream::Stdout, &[7; 65536]);
    }
    bench.quiesce();
    let before = bench.wakeups;
    for _ in 0..20 {
        bench.turn(Duration::from_millis(5));
    }
    assert_eq!(bench.wakeups, before);
    for _ in 0..100 {
        bench.broadcast(Stream::Stderr, b"still going on\n");
    }
    assert!(!bench.attach.holds(Stream::Stderr));
    let mut seen = <[Vec<u8>; 2]>::default();
    while bench.attach.clients.iter().any(Client::has_queued) {
        stuck.take(&mut seen);
        bench.turn(Duration::from_millis(10));
    }
    stuck.take(&mut seen);
    assert_eq!(seen[1], b"still going on\n".repeat(100));
    assert!(!bench.attach.holds(Stream::Stdout));
}

#[test]
fn a_client_that_takes_nothing_is_disconnected_after_the_timeout_a_slow_one_is_not() {
    let mut bench = Bench::new(Stdin::none(STDIN), Some(Duration::from_millis(800)));
    let (stuck, slow) = (bench.connect(), bench.connect());
    let start = Instant::now();
    bench.clock = Some(start);
    while !bench.attach.holds(Stream::Stdout) {
        bench.broadcast(Stream::Stdout, &[7; 65536]);
    }
    for step in 1..=16 {
        let now = start + Duration::from_millis(100) * step;
        bench.clock = Some(now);
        bench.turn(Duration::ZERO);
        assert_eq!(bench.count(), if step < 8 { 2 } else { 1 }, "at step {step}");
        // One packet now and then: too little for the kernel to report any room.
        slow.recv().unwrap();
    }
    assert_eq!(bench.count(), 1);
    while !stuck.recv().unwrap().is_empty() {}
    // From now on the other one takes nothing either.
    for second in 3..8 {
        bench.clock = Some(start + Duration::from_secs(second));
        bench.turn(Duration::ZERO);
    }
    assert_eq!(bench.count(), 0);
}

#[test]
fn what_is_queued_at_the_end_is_still_delivered() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let (behind, idle, stuck) = (bench.connect(), bench.connect(), bench.connect());
    behind.send(b"input that nobody read").unwrap();
    let data = pattern(1_000_000);
    let mut seen = <[Vec<u8>; 2]>::default();
    for part in data.chunks(65536) {
        bench.broadcast(Stream::Stdout, part);
        idle.take(&mut seen);
        bench.turn(Duration::ZERO);
    }
    bench.quiesce();
    bench.attach.begin_linger(bench.poll.registry(), Instant::now());
    idle.take(&mut seen);
    assert_eq!(idle.recv().unwrap(), b"", "one that has everything sees the end at once");
    assert!(seen[0] == data && bench.attach.is_lingering());
    let mut seen = <[Vec<u8>; 2]>::default();
    let deadline = Instant::now() + DEADLINE;
    while bench.count() == 2 {
        assert!(Instant::now() < deadline);
        behind.take(&mut seen);
        bench.turn(Duration::from_millis(5));
    }
    behind.take(&mut seen);
    assert!(seen[0] == data);
    assert_eq!(behind.recv().unwrap(), b"", "unread input must not turn the end into a reset");
    let due = bench.attach.next_deadline().unwrap();
    assert!(due <= Instant::now() + Duration::from_secs(10));
    bench.attach.on_deadline(bench.poll.registry(), Instant::now() + Duration::from_secs(11));
    assert!(!bench.attach.is_lingering());
    drop(stuck);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn output_cut_into_any_pieces_rejoins_at_every_client(
        pieces in vec((any::<bool>(), 1usize..70_000), 1..24), eager in any::<bool>())
    {
        let mut bench = Bench::new(Stdin::none(STDIN), None);
        let (remote, mut seen) = (bench.connect(), <[Vec<u8>; 2]>::default());
        let mut expected = <[Vec<u8>; 2]>::default();
        for (stderr, len) in pieces {
            let (stream, piece) = (if stderr { Stream::Stderr } else { Stream::Stdout }, pattern(len));
            while bench.attach.holds(stream) {
                remote.take(&mut seen);
                bench.turn(Duration::from_millis(1));
            }
            bench.broadcast(stream, &piece);
            expected[usize::from(stderr)].extend(piece);
            if eager {
                remote.take(&mut seen);
                bench.turn(Duration::ZERO);
            }
        }
        bench.attach.begin_linger(bench.poll.registry(), Instant::now());
        while bench.attach.is_lingering() {
            remote.take(&mut seen);
            bench.turn(Duration::from_millis(1));
        }
        remote.take(&mut seen);
        prop_assert!(seen == expected);
    }
}
