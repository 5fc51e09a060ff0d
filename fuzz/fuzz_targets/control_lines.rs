//! Control lines mean the same however they are cut into reads, only sizes that a terminal can have come out, and
//! what one parser holds is bounded.

#![no_main]

use ferromon::supervise::control::{Dialect, Parser, Rejected, Request};
use libfuzzer_sys::fuzz_target;

fn parse<'a>(dialect: Dialect, reads: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Request, Rejected>> {
    let mut parser = Parser::new(dialect);
    let mut found = Vec::new();
    reads.for_each(|read| parser.feed(read, |result| found.push(result)));
    found
}

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    for dialect in [Dialect::Ctl, Dialect::Winsz] {
        let whole = parse(dialect, std::iter::once(text));
        assert_eq!(whole, parse(dialect, text.chunks(usize::from(*size).max(1))));
        assert_eq!(whole, parse(dialect, text.chunks(1)));
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        // An over-long line that has not ended yet is told as well.
        assert!(whole.len() >= lines && whole.len() <= lines + 1);
        for request in whole.iter().flatten() {
            match request {
                Request::Resize(size) => assert!(size.rows <= 1000 && size.columns <= 1000),
                Request::ReopenLogs => assert_eq!(dialect, Dialect::Ctl),
            }
        }
    }
});
