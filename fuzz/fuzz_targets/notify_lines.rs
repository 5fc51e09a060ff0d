//! Of a container's notify message only harmless lines pass, unchanged and in order, and passing twice changes nothing.

#![no_main]

use ferromon::supervise::notify::filter::{Extent, allowed_lines};
use libfuzzer_sys::fuzz_target;

const NAMES: [&[u8]; 9] = [
    b"READY=1",
    b"RELOADING=1",
    b"STOPPING=1",
    b"WATCHDOG=1",
    b"WATCHDOG=trigger",
    b"STATUS=",
    b"ERRNO=",
    b"BUSERROR=",
    b"MONOTONIC_USEC=",
];

fuzz_target!(|data: &[u8]| {
    for extent in [Extent::Whole, Extent::Cut] {
        let passed = allowed_lines(data, extent);
        assert!(passed.len() <= data.len());
        assert_eq!(allowed_lines(&passed, Extent::Whole), passed);
        assert!(!passed.contains(&0) && !passed.contains(&b'\r') && !passed.ends_with(b"\n"));
        let mut lines = data.split(|byte| matches!(byte, b'\n' | b'\r' | 0));
        for line in passed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assert!(lines.any(|sent| sent == line), "made up: {line:?}");
            let harmless = NAMES.iter().any(|name| line.starts_with(name));
            assert!(harmless || line.starts_with(b"EXTEND_TIMEOUT_USEC="), "passes: {line:?}");
        }
    }
});
