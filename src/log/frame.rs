//! Cuts a stream's bytes into the pieces that log records hold.
//!
//! A line of up to [`PIECE_MAX`] bytes that is available is one piece. A longer one is cut after every [`PIECE_MAX`]
//! bytes. What is left of an unfinished line at the end stays with the caller while more can be read at once, so that
//! it can still become one piece, and is a piece of its own when nothing more is there: a prompt has to show.

use crate::sys::bytes;

/// The payload of one record, without the newline: what conmon's readers, kubelet and fluent-bit are tuned to.
pub const PIECE_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The end of a line, with its newline.
    Full(&'a [u8]),
    /// A part of a line that goes on in the next piece.
    Partial(&'a [u8]),
}

/// The pieces of one chunk; see [`pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    rest: &'a [u8],
    more: bool,
}

/// Cuts `chunk`; with `more` an unfinished last line of at most [`PIECE_MAX`] bytes is left over.
#[inline]
pub fn pieces(chunk: &[u8], more: bool) -> Pieces<'_> {
    Pieces { rest: chunk, more }
}

impl<'a> Pieces<'a> {
    /// What has not been cut off yet; at the end, what is left to the caller.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn cut(&mut self, at: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.rest.split_at_checked(at)?;
        self.rest = rest;
        Some(piece)
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    #[inline]
    fn next(&mut self) -> Option<Piece<'a>> {
        let window = self.rest.get(..=PIECE_MAX).unwrap_or(self.rest);
        match bytes::find(b'\n', window) {
            Some(end) => self.cut(end + 1).map(Piece::Full),
            None if self.rest.len() > PIECE_MAX => self.cut(PIECE_MAX).map(Piece::Partial),
            None if self.more || self.rest.is_empty() => None,
            None => self.cut(self.rest.len()).map(Piece::Partial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Piece::{Full, Partial};
    use super::*;
    use proptest::prelude::*;

    fn cut(chunk: &[u8], more: bool) -> (Vec<Piece<'_>>, &[u8]) {
        let mut pieces = pieces(chunk, more);
        let found = pieces.by_ref().collect();
        (found, pieces.rest())
    }

    #[test]
    fn lines_are_cut_at_newlines() {
        type Case = (&'static [u8], bool, &'static [Piece<'static>], &'static [u8]);
        let cases: [Case; 6] = [
            (b"", false, &[], b""),
            (b"x\ny", false, &[Full(b"x\n"), Partial(b"y")], b""),
            (b"x\ny", true, &[Full(b"x\n")], b"y"),
            (b"\n\n", true, &[Full(b"\n"), Full(b"\n")], b""),
            (b"a\0\xff\r\n", false, &[Full(b"a\0\xff\r\n")], b""),
            (b"tail", true, &[], b"tail"),
        ];
        for (chunk, more, want, left) in cases {
            assert_eq!(cut(chunk, more), (want.to_vec(), left), "{chunk:?} {more}");
        }
    }

    #[test]
    fn a_line_of_8192_bytes_is_whole_and_one_of_8193_is_cut() {
        let mut line = vec![b'x'; PIECE_MAX];
        assert_eq!(cut(&line, true), (vec![], &line[..]));
        assert_eq!(cut(&line, false).0, [Partial(&line[..])]);
        line.push(b'\n');
        assert_eq!(cut(&line, true).0, [Full(&line[..])]);
        line.insert(0, b'y');
        assert_eq!(cut(&line, true).0, [Partial(&line[..PIECE_MAX]), Full(b"x\n")]);
        line.pop();
        assert_eq!(cut(&line, true), (vec![Partial(&line[..PIECE_MAX])], &b"x"[..]));
    }

    /// Feeds `stream` in reads of the given sizes the way the event loop does, and returns the pieces' bytes.
    fn feed(stream: &[u8], sizes: &[(usize, bool)]) -> Vec<(Vec<u8>, bool)> {
        let (mut out, mut held, mut at, mut sizes) = (Vec::new(), Vec::new(), 0, sizes.iter().cycle());
        while at < stream.len() {
            let &(size, more) = sizes.next().unwrap();
            let end = (at + size).min(stream.len());
            held.extend_from_slice(&stream[at..end]);
            at = end;
            let mut pieces = pieces(&held, more && at < stream.len());
            out.extend(pieces.by_ref().map(|piece| match piece {
                Full(bytes) => (bytes[..bytes.len() - 1].to_vec(), true),
                Partial(bytes) => (bytes.to_vec(), false),
            }));
            held = pieces.rest().to_vec();
            assert!(held.len() <= PIECE_MAX);
        }
        assert!(held.is_empty());
        out
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..60),
            1 => (8180usize..8210).prop_map(|n| vec![b'x'; n]),
            1 => (0usize..40_000).prop_map(|n| vec![0xfe; n]),
        ];
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        #[test]
        fn joined_over_partials_the_pieces_are_the_stream(
            stream in stream(),
            sizes in proptest::collection::vec((1usize..20_000, any::<bool>()), 1..6),
        ) {
            let mut joined = Vec::new();
            for (bytes, full) in feed(&stream, &sizes) {
                prop_assert!(bytes.len() <= PIECE_MAX && !bytes.contains(&b'\n'));
                joined.extend_from_slice(&bytes);
                if full {
                    joined.push(b'\n');
                }
            }
            prop_assert_eq!(joined, stream);
        }

        #[test]
        fn a_short_line_is_never_split_while_more_can_be_read(
            stream in stream(),
            size in 1usize..20_000,
        ) {
            let whole: Vec<_> = feed(&stream, &[(size, true)]);
            let at_once: Vec<_> = feed(&stream, &[(stream.len().max(1), true)]);
            prop_assert_eq!(whole, at_once);
        }
    }
}
