//! What one attach client has yet to take, in the order in which the container wrote it.
//!
//! Bytes of one stream that follow each other are one run, however they were written, so that a container that
//! writes single bytes costs no more memory than their number. Packets are cut when they are sent.

use std::collections::VecDeque;

use crate::log::Stream;

/// A buffer larger than this is given back once it is empty.
const KEEP: usize = 64 * 1024;

/// The empty part in front is closed up when it is at least this large and the larger part.
const COMPACT_AT: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    runs: VecDeque<Run>,
    /// The payload of all runs one after the other, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// Bytes held of stdout and of stderr.
    held: [usize; 2],
}

#[derive(Debug)]
struct Run {
    stream: Stream,
    len: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes held of `stream`.
    pub(super) fn held(&self, stream: Stream) -> usize {
        let [stdout, stderr] = self.held;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn held_mut(&mut self, stream: Stream) -> &mut usize {
        let [stdout, stderr] = &mut self.held;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.start >= COMPACT_AT && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        *self.held_mut(stream) += bytes.len();
        match self.runs.back_mut() {
            Some(last) if last.stream == stream => last.len += bytes.len(),
            Some(_) | None => self.runs.push_back(Run { stream, len: bytes.len() }),
        }
    }

    /// The first run; `None` when all is sent.
    pub(super) fn front(&self) -> Option<(Stream, &[u8])> {
        let run = self.runs.front()?;
        Some((run.stream, self.bytes.get(self.start..self.start + run.len)?))
    }

    /// The first `len` bytes of the first run are sent.
    pub(super) fn advance(&mut self, len: usize) {
        let Some(run) = self.runs.front_mut() else { return };
        let len = len.min(run.len);
        let stream = run.stream;
        run.len -= len;
        if run.len == 0 {
            self.runs.pop_front();
        }
        let held = self.held_mut(stream);
        *held = held.saturating_sub(len);
        self.start += len;
        if self.runs.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.start = 0;
        self.held = [0; 2];
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_of_one_stream_join_and_streams_keep_their_order() {
        let mut queue = Queue::default();
        for (stream, bytes) in
            [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")]
        {
            queue.push(stream, bytes.as_bytes());
        }
        assert_eq!((queue.held(Stream::Stdout), queue.held(Stream::Stderr)), (3, 1));
        assert_eq!(queue.front(), Some((Stream::Stdout, &b"ab"[..])));
        queue.advance(1);
        assert_eq!(queue.front(), Some((Stream::Stdout, &b"b"[..])));
        queue.advance(1);
        assert_eq!(queue.front(), Some((Stream::Stderr, &b"c"[..])));
        queue.advance(1);
        queue.advance(9);
        assert!(queue.is_empty());
        assert_eq!((queue.held(Stream::Stdout), queue.held(Stream::Stderr)), (0, 0));
    }

    #[test]
    fn a_large_buffer_is_given_back_when_all_is_sent() {
        let mut queue = Queue::default();
        queue.push(Stream::Stdout, &vec![0; 1 << 20]);
        queue.advance(1 << 20);
        assert!(queue.bytes.capacity() <= KEEP);
    }

    #[test]
    fn a_queue_that_is_never_empty_does_not_grow() {
        let mut queue = Queue::default();
        queue.push(Stream::Stdout, &[0; 60_000]);
        for _ in 0..1000 {
            queue.push(Stream::Stdout, &[0; 60_000]);
            queue.advance(60_000);
        }
        assert!(queue.bytes.capacity() < 1 << 20, "{}", queue.bytes.capacity());
    }

    proptest! {
        #[test]
        fn each_stream_comes_out_as_it_went_in(pushes in vec((any::<bool>(), vec(any::<u8>(), 0..40)), 0..40),
                                               steps in vec(1usize..50, 0..400)) {
            let stream = |stderr: bool| if stderr { Stream::Stderr } else { Stream::Stdout };
            let mut queue = Queue::default();
            let (mut expected, mut seen) = (Vec::new(), Vec::new());
            for (stderr, bytes) in &pushes {
                queue.push(stream(*stderr), bytes);
                expected.extend(bytes.iter().map(|byte| (*stderr, *byte)));
            }
            for step in steps.into_iter().chain(std::iter::repeat(7)) {
                let Some((stream, run)) = queue.front() else { break };
                let step = step.min(run.len());
                seen.extend(run[..step].iter().map(|byte| (stream == Stream::Stderr, *byte)));
                queue.advance(step);
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
