//! The recorded rows, and their notation: output has one character a byte, words are quoted as for a shell, with
//! `b'…'` for bytes that are no text.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use serde_json::Value;

pub(crate) struct Row {
    pub(crate) what: String,
    /// As recorded, for messages.
    pub(crate) args: String,
    pub(crate) words: Vec<OsString>,
    /// Set, or unset with `None`, on top of the usual environment.
    pub(crate) env: Vec<(String, Option<String>)>,
    pub(crate) outcome: Outcome,
}

/// What can be seen of a run. `$CWD` stands for the directory it ran in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// -1 for a death by signal.
    pub(crate) exit: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Names left in the directory, sorted.
    pub(crate) files: Vec<String>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (self.stdout.escape_ascii(), self.stderr.escape_ascii());
        write!(f, "exit {}, stdout \"{stdout}\", stderr \"{stderr}\", files {:?}", self.exit, self.files)
    }
}

pub(crate) fn load() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cli-cases.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| row(&serde_json::from_str(line).unwrap())).collect()
}

fn row(value: &Value) -> Row {
    let text = |key: &str| value[key].as_str().unwrap().to_owned();
    let env = value["env"].as_object().into_iter().flatten();
    let files = value["files"].as_array().unwrap().iter();
    Row {
        what: text("what"),
        args: text("args"),
        words: words(&text("args")),
        env: env.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned))).collect(),
        outcome: Outcome {
            exit: i32::try_from(value["exit"].as_i64().unwrap()).unwrap(),
            stdout: bytes(&text("stdout")),
            stderr: bytes(&text("stderr")),
            files: files.map(|name| name.as_str().unwrap().to_owned()).collect(),
        },
    }
}

/// Output was recorded with one character a byte.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// Words are divided by blanks; `'…'` is one word as it stands, `b'…'` one with `\xNN` for a byte.
fn words(args: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut rest = args.trim_start_matches(' ');
    while !rest.is_empty() {
        let (word, tail) = if let Some(quoted) = rest.strip_prefix("b'") {
            let (raw, tail) = quoted.split_once('\'').unwrap();
            (unescaped(raw), tail)
        } else if let Some(quoted) = rest.strip_prefix('\'') {
            let (plain, tail) = quoted.split_once('\'').unwrap();
            (plain.as_bytes().to_vec(), tail)
        } else {
            let (plain, tail) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            (plain.as_bytes().to_vec(), tail)
        };
        assert!(tail.is_empty() || tail.starts_with(' '), "{args}");
        words.push(OsString::from_vec(word));
        rest = tail.trim_start_matches(' ');
    }
    words
}

fn unescaped(raw: &str) -> Vec<u8> {
    let mut parts = raw.split("\\x");
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, plain) = part.split_at(2);
        out.push(u8::from_str_radix(digits, 16).unwrap());
        out.extend_from_slice(plain.as_bytes());
    }
    out
}

#[test]
fn words_are_divided_as_recorded() {
    let expected = ["-c", "", "--x=5 ", "y"].map(OsString::from);
    assert_eq!(words("-c '' '--x=5 ' y"), expected);
    assert_eq!(words("b'a\\xffb' -l"), [OsString::from_vec(b"a\xffb".to_vec()), "-l".into()]);
    assert_eq!(words(""), Vec::<OsString>::new());
}
