//! Which lines of a container's sd-notify message may reach the host's service manager.
//!
//! Whatever is passed on speaks for the unit that the monitor is in, so only state that can't be abused is: no main
//! pid, no descriptors, no watchdog settings, nothing unknown. conmon: `conn_sock.c`, `read_remote_sock`.

use crate::sys::bytes;

/// Lines that are passed on as they are.
const ALLOWED_LINES: [&[u8]; 5] =
    [b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger"];

/// Lines that are passed on whatever their value is. The last one is not conmon's: a service that is slow to start
/// asks for more time with it.
const ALLOWED_NAMES: [&[u8]; 5] =
    [b"STATUS=", b"ERRNO=", b"BUSERROR=", b"MONOTONIC_USEC=", b"EXTEND_TIMEOUT_USEC="];

/// Whether the end of a message is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// The message was longer than the buffer: its last line is cut somewhere, so it may look like another one.
    Cut,
}

/// The lines of `message` that may pass, joined by newlines; empty when there are none.
///
/// The message ends at its first NUL. `\r` ends a line as `\n` does.
pub fn allowed_lines(message: &[u8], extent: Extent) -> Vec<u8> {
    let end = bytes::find(0, message);
    let text = message.get(..end.unwrap_or(message.len())).unwrap_or(message);
    let text = match extent {
        Extent::Cut if end.is_none() => whole_lines(text),
        Extent::Cut | Extent::Whole => text,
    };
    let mut passed = Vec::new();
    for line in text.split(|byte| is_line_end(*byte)).filter(|line| is_allowed(line)) {
        if !passed.is_empty() {
            passed.push(b'\n');
        }
        passed.extend_from_slice(line);
    }
    passed
}

fn is_allowed(line: &[u8]) -> bool {
    ALLOWED_LINES.contains(&line) || ALLOWED_NAMES.iter().any(|name| line.starts_with(name))
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// `text` up to its last line end.
fn whole_lines(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| is_line_end(*byte)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_passes_and_what_does_not() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"READY=1", b"READY=1"),
            (b"READY=1\n", b"READY=1"),
            (b"READY=0\nREADY=11\nREADY=1 \n READY=1\nXREADY=1", b""),
            (b"RELOADING=1\nMONOTONIC_USEC=12", b"RELOADING=1\nMONOTONIC_USEC=12"),
            (b"WATCHDOG=1\rWATCHDOG=trigger\r\nWATCHDOG=2", b"WATCHDOG=1\nWATCHDOG=trigger"),
            (b"STATUS=\nERRNO=2\nBUSERROR=org.x", b"STATUS=\nERRNO=2\nBUSERROR=org.x"),
            (
                b"MAINPID=1\nREADY=1\nFDSTORE=1\nBARRIER=1\nNOTIFYACCESS=all\nSTOPPING=1",
                b"READY=1\nSTOPPING=1",
            ),
            (b"WATCHDOG_USEC=1\nMAINPIDFDID=1\nFDNAME=STATUS=\nERRNO", b""),
            (b"EXTEND_TIMEOUT_USEC=5000000", b"EXTEND_TIMEOUT_USEC=5000000"),
            (b"STATUS=a\0\nREADY=1", b"STATUS=a"),
            (b"\0READY=1", b""),
            (b"STATUS=\xff\xfe", b"STATUS=\xff\xfe"),
            (b"\n\r\n\n", b""),
            (b"", b""),
        ];
        for (message, wanted) in cases {
            assert_eq!(allowed_lines(message, Extent::Whole), *wanted, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn the_line_that_is_cut_is_dropped() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"READY=1\nSTATUS=aaaa", b"READY=1"),
            (b"STATUS=a\rWATCHDOG=1", b"STATUS=a"),
            (b"READY=1\n", b"READY=1"),
            (b"STATUS=aaaa", b""),
            // The cut is behind the message's end then.
            (b"STATUS=a\0aaaa", b"STATUS=a"),
        ];
        for (message, wanted) in cases {
            assert_eq!(allowed_lines(message, Extent::Cut), *wanted, "{}", message.escape_ascii());
        }
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            3 => proptest::sample::select([ALLOWED_LINES, ALLOWED_NAMES].concat()).prop_map(<[u8]>::to_vec),
            1 => "(MAINPID|READY|STATUS|FDSTORE|WATCHDOG)=?[0-9a-z]{0,3}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..9),
        ]
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        (proptest::collection::vec(line(), 0..9), proptest::sample::select(vec![&b"\n"[..], b"\r", b"\r\n"]))
            .prop_map(|(lines, end)| lines.join(end))
    }

    fn is_subsequence(lines: &[&[u8]], of: &[&[u8]]) -> bool {
        let mut rest = of.iter();
        lines.iter().all(|line| rest.any(|other| other == line))
    }

    proptest! {
        #[test]
        fn only_allowed_lines_of_the_message_come_out_in_order(message in message(), cut: bool) {
            let extent = if cut { Extent::Cut } else { Extent::Whole };
            let passed = allowed_lines(&message, extent);
            prop_assert!(passed.len() <= message.len());
            prop_assert!(!passed.iter().any(|byte| matches!(byte, 0 | b'\r')));
            let until_nul = message.split(|byte| *byte == 0).next().unwrap();
            let lines: Vec<&[u8]> = until_nul.split(|byte| is_line_end(*byte)).collect();
            let passed_lines: Vec<&[u8]> = passed.split(|byte| *byte == b'\n').filter(|_| !passed.is_empty()).collect();
            prop_assert!(passed_lines.iter().all(|line| is_allowed(line)));
            prop_assert!(is_subsequence(&passed_lines, &lines));
            if extent == Extent::Whole {
                prop_assert_eq!(passed_lines.len(), lines.iter().filter(|line| is_allowed(line)).count());
            }
        }

        #[test]
        fn filtering_again_changes_nothing(message in message()) {
            let passed = allowed_lines(&message, Extent::Whole);
            prop_assert_eq!(allowed_lines(&passed, Extent::Whole), passed);
        }

        #[test]
        fn a_cut_adds_no_line(message in message(), at: prop::sample::Index) {
            let whole = allowed_lines(&message, Extent::Whole);
            let start = &message[..at.index(message.len() + 1)];
            let cut = allowed_lines(start, Extent::Cut);
            prop_assert!(whole.starts_with(&cut));
        }
    }
}
