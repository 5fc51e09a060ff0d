//! A journal entry can be taken apart again by the native protocol's rules, and no field of it comes from the output.

#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use ferromon::log::journal_record::{Fields, Priority};
use ferromon::log::{Identity, Stream};
use libfuzzer_sys::fuzz_target;

/// Names and values, as journald reads them.
fn decode(mut entry: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').expect("a line end");
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.push((line[..equals].to_vec(), line[equals + 1..].to_vec()));
            entry = rest;
        } else {
            let (length, rest) = rest.split_first_chunk::<8>().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("a small length");
            fields.push((line.to_vec(), rest[..length].to_vec()));
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
    }
    fields
}

fuzz_target!(|data: &[u8]| {
    let Some((first, text)) = data.split_first() else { return };
    let (head, tail) = text.split_at(text.len().min(usize::from(first >> 2)));
    let label = OsString::from("LABEL=a\nb=c");
    let (id, name) = (OsStr::new("0123456789abcdef"), OsStr::from_bytes(b"na\nme"));
    let fields = Fields::new(&Identity { cid: id, name: Some(name) }, None, &[label], first & 1 == 1);
    let mut entry = Vec::new();
    let is_partial = first & 2 == 2;
    fields.encode(&mut entry, [head, tail], Priority::of(Stream::Stderr), is_partial);
    let fields = decode(&entry);
    let value = |name: &[u8]| -> Vec<&[u8]> {
        fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    };
    assert_eq!(value(b"MESSAGE"), [text]);
    assert_eq!(value(b"PRIORITY"), [b"3"]);
    assert_eq!(value(b"CONTAINER_ID_FULL"), [id.as_bytes()]);
    assert_eq!(value(b"CONTAINER_NAME"), [name.as_bytes()]);
    assert_eq!(value(b"LABEL"), [b"a\nb=c"]);
    assert_eq!(value(b"CONTAINER_PARTIAL_MESSAGE").len(), usize::from(is_partial && first & 1 == 0));
    assert!(fields.len() <= 8);
});
