//! The language of the control fifos: what bytes mean, whatever pieces they come in. Pure.
//!
//! A line is what `sscanf("%d %d %d")` makes of it: numbers with any white space or none between them, an optional
//! sign, decimal; what follows the last number needed is ignored. A line that means nothing is skipped alone, and
//! one too long to mean anything is dropped up to its newline. conmon: `ctrl.c`.

use crate::sys::bytes;
use std::fmt;

/// Bytes of a line without its newline; conmon's buffer holds as many.
const LINE_MAX: usize = 199;

/// The largest height and width accepted.
const SIZE_MAX: i64 = 1000;

/// A window size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Resize(WindowSize),
    ReopenLogs,
}

/// Why a line is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    TooLong,
    /// Too few numbers.
    Format,
    Type(i64),
    Size(i64, i64),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("Could not find newline in entire buffer"),
            Self::Format => f.write_str("Invalid control message format"),
            Self::Type(number) => write!(f, "Invalid control message type: {number}"),
            Self::Size(rows, columns) => {
                write!(f, "Invalid window size: {rows}x{columns} (must be between 0 and {SIZE_MAX})")
            }
        }
    }
}

/// Which of the two fifos a line came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `1 ROWS COLUMNS` or `2 x y`.
    Ctl,
    /// `ROWS COLUMNS`.
    Winsz,
}

impl Dialect {
    /// Understands one line, given without its newline.
    ///
    /// # Errors
    /// Says why it can't.
    pub fn parse(self, line: &[u8]) -> Result<Request, Rejected> {
        let mut numbers = Numbers(line);
        let kind = match self {
            Self::Ctl => numbers.next().ok_or(Rejected::Format)?,
            Self::Winsz => 1,
        };
        let (Some(rows), Some(columns)) = (numbers.next(), numbers.next()) else {
            return Err(Rejected::Format);
        };
        if !matches!(kind, 1 | 2) {
            return Err(Rejected::Type(kind));
        }
        let (Some(checked_rows), Some(checked_columns)) = (dimension(rows), dimension(columns)) else {
            return Err(Rejected::Size(rows, columns));
        };
        Ok(match kind {
            1 => Request::Resize(WindowSize { rows: checked_rows, columns: checked_columns }),
            _ => Request::ReopenLogs,
        })
    }
}

fn dimension(number: i64) -> Option<u16> {
    if number > SIZE_MAX { None } else { u16::try_from(number).ok() }
}

/// Reads numbers as scanf's `%d` does. One that is too large for any type stays too large here.
struct Numbers<'a>(&'a [u8]);

impl Iterator for Numbers<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        let spaces = self.0.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
        let (_, word) = self.0.split_at_checked(spaces)?;
        let (sign, digits) = match word {
            [b'-', rest @ ..] => (-1, rest),
            [b'+', rest @ ..] => (1, rest),
            _ => (1, word),
        };
        let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = digits.split_at_checked(len).filter(|_| len > 0)?;
        self.0 = rest;
        let value = digits.iter().fold(0i64, |value, digit| {
            value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
        });
        Some(sign * value)
    }
}

/// Puts lines together from pieces.
#[derive(Debug)]
pub struct Parser {
    dialect: Dialect,
    /// The beginning of a line whose newline has not come yet.
    partial: Vec<u8>,
    /// Within a line that was too long.
    skipping: bool,
}

impl Parser {
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, partial: Vec::new(), skipping: false }
    }

    /// Takes the next `bytes` and calls `on_line` for what each line that they complete means.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(Result<Request, Rejected>)) {
        while let Some(end) = bytes::find(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            self.take(line, &mut on_line);
            if !self.skipping {
                on_line(self.dialect.parse(&self.partial));
            }
            self.partial.clear();
            self.skipping = false;
        }
        self.take(bytes, &mut on_line);
    }

    /// Appends a piece of a line, or gives the line up.
    fn take(&mut self, piece: &[u8], on_line: &mut impl FnMut(Result<Request, Rejected>)) {
        if self.skipping {
            return;
        }
        if self.partial.len() + piece.len() > LINE_MAX {
            self.skipping = true;
            self.partial.clear();
            return on_line(Err(Rejected::TooLong));
        }
        self.partial.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn resize(rows: u16, columns: u16) -> Result<Request, Rejected> {
        Ok(Request::Resize(WindowSize { rows, columns }))
    }

    #[test]
    fn lines_mean_what_sscanf_makes_of_them() {
        for (line, expected) in [
            ("1 24 80", resize(24, 80)),
            ("1 0 0", resize(0, 0)),
            ("1 1000 1000", resize(1000, 1000)),
            ("  1\t24\r80 \r", resize(24, 80)),
            ("001 024 080", resize(24, 80)),
            ("+1 +24 +80", resize(24, 80)),
            ("1+24+80", resize(24, 80)),
            ("1 24 80 more 7", resize(24, 80)),
            ("1 24 80x", resize(24, 80)),
            ("1 24 80\0\x01", resize(24, 80)),
            ("1 -0 80", resize(0, 80)),
            ("2 0 0", Ok(Request::ReopenLogs)),
            ("2 5 1000", Ok(Request::ReopenLogs)),
            ("2 0 1001", Err(Rejected::Size(0, 1001))),
            ("2 0", Err(Rejected::Format)),
            ("1 1001 80", Err(Rejected::Size(1001, 80))),
            ("1 24 -1", Err(Rejected::Size(24, -1))),
            ("1 24-1", Err(Rejected::Size(24, -1))),
            ("1 4294967297 1", Err(Rejected::Size(4_294_967_297, 1))),
            ("1 99999999999999999999999 1", Err(Rejected::Size(i64::MAX, 1))),
            ("0 1 1", Err(Rejected::Type(0))),
            ("3 1 1", Err(Rejected::Type(3))),
            ("-1 1 1", Err(Rejected::Type(-1))),
            ("", Err(Rejected::Format)),
            ("1", Err(Rejected::Format)),
            ("0x1 1 1", Err(Rejected::Format)),
            ("1 2.5 3", Err(Rejected::Format)),
            ("1 - 3", Err(Rejected::Format)),
            ("1 \x002 3", Err(Rejected::Format)),
            ("garbage", Err(Rejected::Format)),
        ] {
            assert_eq!(Dialect::Ctl.parse(line.as_bytes()), expected, "{line:?}");
        }
        for (line, expected) in [
            ("24 80", resize(24, 80)),
            ("24 80 5", resize(24, 80)),
            ("24", Err(Rejected::Format)),
            ("24 1001", Err(Rejected::Size(24, 1001))),
        ] {
            assert_eq!(Dialect::Winsz.parse(line.as_bytes()), expected, "{line:?}");
        }
    }

    fn feed_all(pieces: &[&[u8]]) -> Vec<Result<Request, Rejected>> {
        let (mut parser, mut seen) = (Parser::new(Dialect::Ctl), Vec::new());
        for piece in pieces {
            parser.feed(piece, |line| seen.push(line));
        }
        assert!(parser.partial.capacity() <= 2 * LINE_MAX, "bounded whatever comes");
        seen
    }

    #[test]
    fn a_bad_line_is_skipped_alone() {
        let seen = feed_all(&[b"1 1 1\nbad\n1 2", b" 2\n\n2 0 0\n"]);
        assert_eq!(
            seen,
            [
                resize(1, 1),
                Err(Rejected::Format),
                resize(2, 2),
                Err(Rejected::Format),
                Ok(Request::ReopenLogs)
            ]
        );
    }

    #[test]
    fn a_line_without_end_costs_one_message_and_is_dropped_to_its_newline() {
        let mut pieces: Vec<&[u8]> = vec![b"1 1 1\n"];
        let piece = [b'7'; 4096];
        pieces.extend((0..1000).map(|_| &piece[..]));
        pieces.push(b"1 3 3\n1 4 4\n");
        assert_eq!(feed_all(&pieces), [resize(1, 1), Err(Rejected::TooLong), resize(4, 4)]);
    }

    #[test]
    fn the_longest_line_has_199_bytes() {
        for (len, expected) in [(199, resize(1, 1)), (200, Err(Rejected::TooLong))] {
            let line = format!("{:<len$}\n", "1 1 1");
            assert_eq!(feed_all(&[line.as_bytes()]), [expected]);
            let (a, b) = line.as_bytes().split_at(150);
            assert_eq!(feed_all(&[a, b]), [expected]);
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(lines in vec("[12 +-]{0,6}[0-9 ]{0,9}|[ -~]{190,210}|[\\x00-\\xff]{0,5}", 0..20),
                                cuts in vec(any::<prop::sample::Index>(), 0..20)) {
            let bytes = lines.join("\n").into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(feed_all(&pieces), feed_all(&[&bytes]));
        }

        #[test]
        fn every_line_gets_one_answer(bytes in vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..500)) {
            let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
            let answers = feed_all(&[&bytes]).len();
            prop_assert!(answers == newlines || answers == newlines + 1);
        }

        #[test]
        fn good_sizes_are_understood_and_others_not(rows in -2000i64..2000, columns in -2000i64..2000) {
            let good = (0..=1000).contains(&rows) && (0..=1000).contains(&columns);
            let parsed = Dialect::Ctl.parse(format!("1 {rows} {columns}").as_bytes());
            prop_assert_eq!(parsed.is_ok(), good);
        }
    }
}
