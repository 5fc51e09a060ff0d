//! GOption's scanner: rewrites a command line into canonical words, which clap reads the same way.
//!
//! GLib's rules differ from clap's where drivers rely on them: a value option takes the next word whatever it
//! looks like, flags ignore `=anything`, short options bundle but never have a value attached, stray words are
//! accepted anywhere. Canonical words are `--name` for a flag and `--name=value` for the rest, with the name the
//! table gives it and integers in decimal. Pure; the table says which options there are and what they take.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow::{self, Break, Continue};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

use super::integer::{self, Unfit};
use super::table::HELP;
use crate::error::{Error, Result};
use crate::sys::bytes;

/// What a command line comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// Help was asked for before anything was wrong; the words after it have not been looked at.
    Help,
    /// The whole line, canonical.
    Words(Vec<OsString>),
}

/// `Break` when help is asked for.
type Step = Result<ControlFlow<()>>;

/// Scans `words`, the command line without the program's name.
///
/// # Errors
/// [`Error::Usage`] with GOption's text for the first word that is wrong.
pub fn scan(table: &Command, words: impl IntoIterator<Item = OsString>) -> Result<Scan> {
    let mut scanner = Scanner { table, words: words.into_iter(), canonical: Vec::new() };
    while let Some(word) = scanner.words.next() {
        let step = match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', body @ ..] => scanner.long(&word, body)?,
            [b'-', letters @ ..] if !letters.is_empty() => scanner.bundle(&word, letters)?,
            _stray => Continue(()),
        };
        if step.is_break() {
            return Ok(Scan::Help);
        }
    }
    Ok(Scan::Words(scanner.canonical))
}

struct Scanner<'t, I> {
    table: &'t Command,
    words: I,
    canonical: Vec<OsString>,
}

impl<I: Iterator<Item = OsString>> Scanner<'_, I> {
    /// `--name`, `--name=value` or `--name value`; `body` is `word` without its dashes.
    fn long(&mut self, word: &OsStr, body: &[u8]) -> Step {
        let (name, attached) = match bytes::find(b'=', body) {
            Some(at) => body.split_at(at),
            None => (body, &[][..]),
        };
        let Some(option) = self.table.get_arguments().find(|option| has_name(option, name)) else {
            return Err(unknown(word));
        };
        let typed = [b"--", name].concat();
        match (attached, takes(option)) {
            ([], _) if option.get_id() == HELP => return Ok(Break(())),
            (_, _) if option.get_id() == HELP => return Err(unknown(word)),
            (_, Takes::Nothing) => self.push_flag(option),
            ([_equals, value @ ..], takes) => self.push_value(option, &typed, &takes, value)?,
            ([], takes) => self.push_next(option, &typed, &takes)?,
        }
        Ok(Continue(()))
    }

    /// `-abc`: each letter is an option, and one of them may take the next word.
    fn bundle(&mut self, word: &OsStr, letters: &[u8]) -> Step {
        let mut took_value = false;
        for &letter in letters {
            let Some(option) = self.table.get_arguments().find(|option| has_letter(option, letter)) else {
                return Err(unknown(word));
            };
            match takes(option) {
                _ if option.get_id() == HELP => return Ok(Break(())),
                Takes::Nothing => self.push_flag(option),
                _ if took_value => return Err(failed(&[b"Error parsing option -", &[letter]])),
                takes @ (Takes::Text | Takes::Integer(_)) => {
                    self.push_next(option, &[b'-', letter], &takes)?;
                    took_value = true;
                }
            }
        }
        Ok(Continue(()))
    }

    fn push_flag(&mut self, option: &Arg) {
        self.canonical.push(canonical(option).into());
    }

    fn push_next(&mut self, option: &Arg, typed: &[u8], takes: &Takes) -> Result<()> {
        let Some(value) = self.words.next() else {
            return Err(failed(&[b"Missing argument for ", typed]));
        };
        self.push_value(option, typed, takes, value.as_bytes())
    }

    /// `typed` is the option as the user wrote it, for the message.
    fn push_value(&mut self, option: &Arg, typed: &[u8], takes: &Takes, value: &[u8]) -> Result<()> {
        let mut word = canonical(option).into_bytes();
        word.push(b'=');
        match takes {
            Takes::Nothing | Takes::Text => word.extend_from_slice(value),
            Takes::Integer(range) => {
                let number = integer::parse(value, range).map_err(|unfit| no_integer(unfit, typed, value))?;
                word.extend_from_slice(number.to_string().as_bytes());
            }
        }
        self.canonical.push(OsString::from_vec(word));
        Ok(())
    }
}

enum Takes {
    Nothing,
    Text,
    Integer(RangeInclusive<i64>),
}

fn takes(option: &Arg) -> Takes {
    if !option.get_action().takes_values() {
        return Takes::Nothing;
    }
    let value_type = option.get_value_parser().type_id();
    if value_type == TypeId::of::<i32>() {
        Takes::Integer(i64::from(i32::MIN)..=i64::from(i32::MAX))
    } else if value_type == TypeId::of::<i64>() {
        Takes::Integer(i64::MIN..=i64::MAX)
    } else {
        Takes::Text
    }
}

fn has_name(option: &Arg, name: &[u8]) -> bool {
    option.get_long().is_some_and(|long| long.as_bytes() == name)
        || option.get_all_aliases().is_some_and(|all| all.iter().any(|alias| alias.as_bytes() == name))
}

fn has_letter(option: &Arg, letter: u8) -> bool {
    let letter = char::from(letter);
    option.get_short() == Some(letter)
        || option.get_all_short_aliases().is_some_and(|all| all.contains(&letter))
}

fn canonical(option: &Arg) -> String {
    format!("--{}", option.get_id())
}

fn unknown(word: &OsStr) -> Error {
    failed(&[b"Unknown option ", word.as_bytes()])
}

// conmon: the quotes are question marks in the C locale; drivers don't read them, so they are the same everywhere.
fn no_integer(unfit: Unfit, typed: &[u8], value: &[u8]) -> Error {
    let (open, close) = ("“".as_bytes(), "”".as_bytes());
    match unfit {
        Unfit::NotANumber => failed(&[b"Cannot parse integer value ", open, value, close, b" for ", typed]),
        Unfit::OutOfRange => {
            failed(&[b"Integer value ", open, value, close, b" for ", typed, b" out of range"])
        }
    }
}

/// The text is bytes because it quotes words that need not be UTF-8.
fn failed(text: &[&[u8]]) -> Error {
    Error::usage(OsString::from_vec([b"option parsing failed: ", text.concat().as_slice()].concat()))
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    fn scanned(words: &[&str]) -> std::result::Result<Vec<String>, String> {
        match scan(&table(), words.iter().map(OsString::from)) {
            Ok(Scan::Help) => Ok(vec!["HELP".into()]),
            Ok(Scan::Words(words)) => Ok(words.into_iter().map(|w| w.into_string().unwrap()).collect()),
            Err(Error::Usage(text)) => {
                let text = text.into_string().unwrap();
                Err(text.strip_prefix("option parsing failed: ").unwrap().to_owned())
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn accepted_lines_become_canonical() {
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["", "-", "foo"], &[]),
            (&["-c", "x"], &["--cid=x"]),
            (&["--cid=x"], &["--cid=x"]),
            (&["--cid="], &["--cid="]),
            (&["--cid", ""], &["--cid="]),
            (&["--cid==="], &["--cid==="]),
            (&["-c", "--exec"], &["--cid=--exec"]),
            (&["-c", "--", "-e"], &["--cid=--", "--exec"]),
            (&["--cid", "--help"], &["--cid=--help"]),
            (&["-T", "-1"], &["--timeout=-1"]),
            (&["--timeout= 0x10"], &["--timeout=16"]),
            (&["--log-size-max", "010"], &["--log-size-max=8"]),
            (&["--exec=false", "--sync="], &["--exec", "--sync"]),
            (&["--api-version", "1", "-c", "x"], &["--api-version", "--cid=x"]),
            (&["-itsc", "foo"], &["--stdin", "--terminal", "--systemd-cgroup", "--cid=foo"]),
            (&["-ci", "foo"], &["--cid=foo", "--stdin"]),
            (&["-0", "d"], &["--persist-dir=d"]),
            (&["--pidfile", "a", "-p", "b"], &["--container-pidfile=a", "--container-pidfile=b"]),
            (&["--restore-arg=a", "--runtime-opt", "b"], &["--runtime-opt=a", "--runtime-opt=b"]),
            (&["a", "-e", "--", "--nope", "-z", "--help"], &["--exec"]),
            (&["--version", "--version=1"], &["--version", "--version"]),
        ];
        for (words, expected) in cases {
            let expected = expected.iter().map(ToString::to_string).collect();
            assert_eq!(scanned(words), Ok(expected), "{words:?}");
        }
    }

    #[test]
    fn the_first_wrong_word_is_named_as_goption_names_it() {
        let cases: &[(&[&str], &str)] = &[
            (&["--nope=1"], "Unknown option --nope=1"),
            (&["--", "-z"][1..], "Unknown option -z"),
            (&["-ez"], "Unknown option -ez"),
            (&["-cid", "x"], "Unknown option -cid"),
            (&["-cx", "foo"], "Unknown option -cx"),
            (&["-cx"], "Missing argument for -c"),
            (&["-c=x"], "Missing argument for -c"),
            (&["--cid"], "Missing argument for --cid"),
            (&["--pidfile"], "Missing argument for --pidfile"),
            (&["-cb", "foo", "bar"], "Error parsing option -b"),
            (&["-T5", "-c", "x"], "Cannot parse integer value “-c” for -T"),
            (&["-Tz", "x"], "Cannot parse integer value “x” for -T"),
            (&["--timeout="], "Cannot parse integer value “” for --timeout"),
            (&["--timeout=2147483648"], "Integer value “2147483648” for --timeout out of range"),
            (&["--vers"], "Unknown option --vers"),
            (&["--CID", "x"], "Unknown option --CID"),
            (&["--log_path", "x"], "Unknown option --log_path"),
            (&["--=x"], "Unknown option --=x"),
            (&["---"], "Unknown option ---"),
            (&["-é"], "Unknown option -é"),
            (&["--help=x"], "Unknown option --help=x"),
            (&["--help-conmon"], "Unknown option --help-conmon"),
            (&["--nope", "--help"], "Unknown option --nope"),
            (&["--timeout=a", "--nope"], "Cannot parse integer value “a” for --timeout"),
        ];
        for (words, expected) in cases {
            assert_eq!(scanned(words), Err((*expected).to_owned()), "{words:?}");
        }
    }

    #[test]
    fn help_acts_where_it_stands() {
        let cases: &[&[&str]] =
            &[&["--help", "--nope"], &["-h"], &["-?"], &["-ih"], &["-ch", "x"], &["--help-all"], &["-i?z"]];
        for words in cases {
            assert_eq!(scanned(words), Ok(vec!["HELP".into()]), "{words:?}");
        }
    }
}
