//! Integers as strtol(3) reads them with base 0: leading blanks, a sign, `0x` for hexadecimal, `0` for octal.

use std::ops::RangeInclusive;

/// Why a text is no value for an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NotANumber,
    OutOfRange,
}

/// Reads the whole of `text`. Garbage anywhere is worse than being out of `range`, wherever it stands.
pub(super) fn parse(text: &[u8], range: &RangeInclusive<i64>) -> Result<i64, Unfit> {
    let start = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let text = text.get(start..).unwrap_or_default();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', ..] => (8, digits),
        _ => (10, digits),
    };
    let value = magnitude(digits, radix)?;
    let value = if negative { -value } else { value };
    i64::try_from(value).ok().filter(|value| range.contains(value)).ok_or(Unfit::OutOfRange)
}

/// Stops counting beyond 64 bits, where every range has ended, but still looks at each digit.
fn magnitude(digits: &[u8], radix: u32) -> Result<i128, Unfit> {
    if digits.is_empty() {
        return Err(Unfit::NotANumber);
    }
    digits.iter().try_fold(0_i128, |sum, &byte| {
        let digit = char::from(byte).to_digit(radix).ok_or(Unfit::NotANumber)?;
        Ok((sum * i128::from(radix) + i128::from(digit)).min(i128::from(u64::MAX)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_strtol_reads() {
        let cases: &[(&str, Result<i64, Unfit>)] = &[
            ("0", Ok(0)),
            ("-1", Ok(-1)),
            ("+5", Ok(5)),
            ("0x10", Ok(16)),
            ("-0XfF", Ok(-255)),
            ("010", Ok(8)),
            ("00", Ok(0)),
            (" \t\n\x0b\x0c\r7", Ok(7)),
            ("2147483647", Ok(2_147_483_647)),
            ("-2147483648", Ok(-2_147_483_648)),
            ("2147483648", Err(Unfit::OutOfRange)),
            ("-2147483649", Err(Unfit::OutOfRange)),
            ("99999999999999999999999999999999999999999999999", Err(Unfit::OutOfRange)),
            ("99999999999999999999999999999999999999999999999x", Err(Unfit::NotANumber)),
        ];
        let garbage = ["", " ", "+", "-", "+-1", "- 1", "08", "0x", "0xg", "0x-1", "5 ", "5s", "5\n", "1e3"];
        let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes(), &range), *expected, "{text:?}");
        }
        for text in garbage {
            assert_eq!(parse(text.as_bytes(), &range), Err(Unfit::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn the_full_range_of_64_bits_fits() {
        let range = i64::MIN..=i64::MAX;
        assert_eq!(parse(b"9223372036854775807", &range), Ok(i64::MAX));
        assert_eq!(parse(b"-9223372036854775808", &range), Ok(i64::MIN));
        assert_eq!(parse(b"9223372036854775808", &range), Err(Unfit::OutOfRange));
        assert_eq!(parse(b"-9223372036854775809", &range), Err(Unfit::OutOfRange));
    }
}
