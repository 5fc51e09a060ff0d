//! A stream that is read in pieces of any size comes out of the framing as it went in, and no piece is too long.

#![no_main]

use ferromon::log::frame::{PIECE_MAX, Piece, pieces};
use libfuzzer_sys::fuzz_target;

/// The first byte of each read says how much it brings and whether more can be read at once.
fn feed(mut plan: &[u8], stream: &[u8]) {
    let (mut held, mut joined, mut at) = (Vec::new(), Vec::new(), 0);
    while at < stream.len() || !held.is_empty() {
        let (size, more) = match plan.split_first() {
            Some((byte, rest)) => {
                plan = rest;
                (usize::from(byte >> 1) * 97 + 1, byte & 1 == 1 && at < stream.len())
            }
            None => (stream.len(), false),
        };
        let end = (at + size).min(stream.len());
        held.extend_from_slice(&stream[at..end]);
        at = end;
        let mut cut = pieces(&held, more);
        for piece in cut.by_ref() {
            let (Piece::Full(bytes) | Piece::Partial(bytes)) = piece;
            assert_eq!(matches!(piece, Piece::Full(_)), bytes.ends_with(b"\n"));
            assert_eq!(
                bytes.iter().filter(|byte| **byte == b'\n').count(),
                usize::from(bytes.ends_with(b"\n"))
            );
            assert!(!bytes.is_empty() && bytes.len() <= PIECE_MAX + 1);
            joined.extend_from_slice(bytes);
        }
        assert!(cut.rest().len() <= PIECE_MAX && (more || cut.rest().is_empty()));
        held = cut.rest().to_vec();
    }
    assert_eq!(joined, stream);
}

fuzz_target!(|data: &[u8]| {
    let (plan, stream) = data.split_at(data.len().min(16));
    feed(plan, stream);
    // Long lines are what the cutting is about, and a fuzzer seldom makes them.
    let long: Vec<u8> = stream.iter().flat_map(|byte| [*byte; 300]).collect();
    feed(plan, &long);
});
