//! One journal entry in journald's native protocol: lines of `NAME=VALUE`, and for a value with a newline in it
//! `NAME`, newline, its length in eight bytes, little endian, the value, newline.
//!
//! The order of the fields is conmon's. All but MESSAGE and PRIORITY are the same for every entry of a container and
//! are put together once. conmon: `ctr_logging.c:configure_log_drivers` and `write_journald`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{Identity, Stream};
use crate::sys::bytes;

/// What CONTAINER_ID holds of the container's id.
const SHORT_ID_LEN: usize = 12;

/// syslog's severity, 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(u8);

impl Priority {
    /// Information on stdout, errors on stderr.
    pub fn of(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Self(6),
            Stream::Stderr => Self(3),
        }
    }

    /// Takes `<0>` to `<7>` off the start of a line.
    pub fn split(line: &[u8]) -> Option<(Self, &[u8])> {
        match line {
            [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => Some((Self(digit - b'0'), text)),
            _ => None,
        }
    }

    fn digit(self) -> u8 {
        b'0' + self.0
    }
}

/// The bytes between and behind MESSAGE and PRIORITY.
#[derive(Debug, PartialEq, Eq)]
pub struct Fields {
    before_priority: Vec<u8>,
    after_priority: Vec<u8>,
    /// Empty with `--no-container-partial-message`.
    partial: &'static [u8],
    labels: Vec<u8>,
}

impl Fields {
    /// `labels` are `NAME=VALUE`, as [`LogConfig`](crate::config::LogConfig) has checked them, and the id is longer than
    /// its short form.
    pub fn new(
        identity: &Identity<'_>,
        tag: Option<&OsStr>,
        labels: &[OsString],
        no_partial_message: bool,
    ) -> Self {
        let id = identity.cid.as_bytes();
        let short = id.get(..SHORT_ID_LEN).unwrap_or(id);
        let mut fields = Self {
            before_priority: Vec::new(),
            after_priority: Vec::new(),
            partial: if no_partial_message { b"" } else { b"CONTAINER_PARTIAL_MESSAGE=true\n" },
            labels: Vec::new(),
        };
        put(&mut fields.before_priority, b"CONTAINER_ID_FULL", id);
        let after = &mut fields.after_priority;
        put(after, b"CONTAINER_ID", short);
        let (tag, name) = (tag.map(OsStr::as_bytes), identity.name.map(OsStr::as_bytes));
        if let Some(tag) = tag {
            put(after, b"CONTAINER_TAG", tag);
        }
        if let Some(name) = name {
            put(after, b"CONTAINER_NAME", name);
        }
        put(after, b"SYSLOG_IDENTIFIER", tag.or(name).unwrap_or(short));
        for label in labels {
            let mut halves = label.as_bytes().splitn(2, |&byte| byte == b'=');
            if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
                put(&mut fields.labels, name, value);
            }
        }
        fields
    }

    /// Appends an entry for `parts`, one after the other, to `out`. A `partial` one is continued by the next entry.
    pub fn encode(&self, out: &mut Vec<u8>, parts: [&[u8]; 2], priority: Priority, partial: bool) {
        put_message(out, parts);
        out.extend_from_slice(&self.before_priority);
        out.extend_from_slice(b"PRIORITY=");
        out.extend_from_slice(&[priority.digit(), b'\n']);
        out.extend_from_slice(&self.after_priority);
        if partial {
            out.extend_from_slice(self.partial);
        }
        out.extend_from_slice(&self.labels);
    }
}

fn put_message(out: &mut Vec<u8>, [head, tail]: [&[u8]; 2]) {
    // A newline can only be the last byte, unless a line is told apart by something else one day.
    if bytes::find(b'\n', tail).is_some() || bytes::find(b'\n', head).is_some() {
        out.extend_from_slice(b"MESSAGE\n");
        out.extend_from_slice(&((head.len() + tail.len()) as u64).to_le_bytes());
    } else {
        out.extend_from_slice(b"MESSAGE=");
    }
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    out.push(b'\n');
}

fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: Option<&str>) -> Identity<'_> {
        Identity { cid: OsStr::new("0123456789abcdef"), name: name.map(OsStr::new) }
    }

    fn encode(fields: &Fields, parts: [&[u8]; 2], partial: bool) -> String {
        let mut out = Vec::new();
        fields.encode(&mut out, parts, Priority(6), partial);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_fields_have_conmons_order() {
        let labels = [OsString::from("A=b"), OsString::from("0_C=")];
        let fields = Fields::new(&identity(Some("name")), Some(OsStr::new("tag")), &labels, false);
        assert_eq!(
            encode(&fields, [b"par", b"tial"], true),
            "MESSAGE=partial\nCONTAINER_ID_FULL=0123456789abcdef\nPRIORITY=6\nCONTAINER_ID=0123456789ab\n\
             CONTAINER_TAG=tag\nCONTAINER_NAME=name\nSYSLOG_IDENTIFIER=tag\nCONTAINER_PARTIAL_MESSAGE=true\nA=b\n0_C=\n"
        );
        assert_eq!(
            encode(&fields, [b"", b"x\n"], false),
            "MESSAGE\n\x02\0\0\0\0\0\0\0x\n\nCONTAINER_ID_FULL=0123456789abcdef\nPRIORITY=6\nCONTAINER_ID=0123456789ab\n\
             CONTAINER_TAG=tag\nCONTAINER_NAME=name\nSYSLOG_IDENTIFIER=tag\nA=b\n0_C=\n"
        );
    }

    #[test]
    fn the_identifier_is_the_tag_or_the_name_or_the_short_id() {
        for (tag, name, want) in [
            (None, None, "CONTAINER_ID=0123456789ab\nSYSLOG_IDENTIFIER=0123456789ab\n"),
            (None, Some("n"), "CONTAINER_ID=0123456789ab\nCONTAINER_NAME=n\nSYSLOG_IDENTIFIER=n\n"),
            (Some("t"), None, "CONTAINER_ID=0123456789ab\nCONTAINER_TAG=t\nSYSLOG_IDENTIFIER=t\n"),
        ] {
            let fields = Fields::new(&identity(name), tag.map(OsStr::new), &[], true);
            let want = format!("MESSAGE=x\nCONTAINER_ID_FULL=0123456789abcdef\nPRIORITY=6\n{want}");
            assert_eq!(encode(&fields, [b"x", b""], true), want);
        }
    }

    #[test]
    fn a_newline_can_not_add_a_field() {
        let label = OsString::from("L=v\nX=y");
        let fields = Fields::new(&identity(Some("n\nX=y")), None, &[label], false);
        let name = "CONTAINER_NAME\n\x05\0\0\0\0\0\0\0n\nX=y\nSYSLOG_IDENTIFIER\n\x05\0\0\0\0\0\0\0n\nX=y\nL\n\x05\0\0\0\0\0\0\0v\nX=y\n";
        assert!(encode(&fields, [b"", b""], false).ends_with(name));
    }

    #[test]
    fn only_a_digit_from_0_to_7_in_brackets_is_a_priority() {
        assert_eq!(Priority::split(b"<0>x"), Some((Priority(0), &b"x"[..])));
        assert_eq!(Priority::split(b"<7>"), Some((Priority(7), &b""[..])));
        for text in ["<8>", "<>", "<1", "1>", " <1>", "", "<a>", "<10>"] {
            assert_eq!(Priority::split(text.as_bytes()), None, "{text}");
        }
    }
}
