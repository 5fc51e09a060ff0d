//! No command line breaks the scanner or clap behind it, and what the scanner makes of one is a fixed point: scanning
//! the canonical words again changes nothing.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ferromon::cli::goption::{Scan, scan};
use ferromon::cli::{Parsed, parse, table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<OsString> =
        data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    let table = table();
    let scanned = scan(&table, words.iter().cloned());
    let parsed = parse(words.iter().cloned());
    match scanned {
        Ok(Scan::Words(canonical)) => {
            assert!(canonical.len() <= words.len() * words.iter().map(|word| word.len()).max().unwrap_or(1));
            let again = scan(&table, canonical.iter().cloned());
            assert_eq!(again.ok(), Some(Scan::Words(canonical.clone())));
            let from_canonical = parse(canonical);
            assert_eq!(
                format!("{:?}", parsed.expect("clap takes what the scanner gives")),
                format!("{:?}", from_canonical.expect("the same"))
            );
        }
        Ok(Scan::Help) => assert!(matches!(parsed, Ok(Parsed::Print(_)))),
        Err(error) => {
            assert!(error.to_string().len() > "option parsing failed: ".len());
            assert!(parsed.is_err());
        }
    }
});
