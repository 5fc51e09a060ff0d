//! Where the program under test answers otherwise than the recorded conmon 2.2.1, and why.
//!
//! Ours: a table of rows, each group with its reason and with what is to be seen instead. conmon before 2.2: rules, since
//! those versions differ from 2.2 in every message of a kind. They were seen with 2.1.6 (Debian's) to 2.1.13.

use compat_tests::differences::Version;

use crate::rows::{Outcome, Row};

pub(crate) struct Difference {
    /// The `what` of each row concerned.
    pub(crate) rows: &'static [&'static str],
    pub(crate) why: &'static str,
    /// Turns the recorded outcome into the one to be seen.
    change: fn(&mut Outcome),
}

impl Difference {
    pub(crate) fn applied(&self, recorded: &Outcome) -> Outcome {
        let mut outcome = recorded.clone();
        (self.change)(&mut outcome);
        assert_ne!(outcome, *recorded, "this is no difference: {}", self.why);
        outcome
    }
}

const ANY_BYTES: &str = "values are bytes, whatever the locale (contract 4.2, rule 11)";
const ONE_QUOTE: &str = "messages quote the same way in every locale (contract 4.2, rules 10 and 12)";

/// What we do otherwise on purpose.
#[rustfmt::skip]
pub(crate) const OURS: &[Difference] = &[
    Difference {
        rows: &["--version=1 (arg given to flag)", "--version after missing", "version + bad max-files"],
        why: "the commit's line names this program as well",
        change: |outcome| {
            let commit = option_env!("FERROMON_COMMIT").unwrap_or_default();
            let own = env!("CARGO_PKG_VERSION");
            outcome.stdout = format!("conmon version 2.2.1\ncommit: {commit} (ferromon {own})\n").into_bytes();
        },
    },
    Difference {
        rows: &["log-path 'k8s-file:a:b'"],
        why: "a log path may contain colons (contract, appendix B)",
        change: |outcome| outcome.files[0] = "a:b".into(),
    },
    Difference {
        rows: &[
            "LC_ALL=C: utf8 é",
            "LC_ALL=POSIX: utf8 é",
            "LC_ALL=en_US.UTF-8: utf8 é",
        ],
        why: ANY_BYTES,
        change: |outcome| runs(outcome, "create --bundle $CWD --pid-file $CWD/pidfile-é é\n".as_bytes()),
    },
    Difference {
        rows: &[
            "C (LANG unset): bad byte \\xff in -c",
            "LC_ALL=C: bad byte \\xff in -c",
            "LC_ALL=POSIX: bad byte \\xff in -c",
            "LC_ALL=nosuch: bad byte \\xff in -c",
            "CHARSET=UTF-8: bad byte \\xff in -c",
        ],
        why: ANY_BYTES,
        change: |outcome| runs(outcome, b"create --bundle $CWD --pid-file $CWD/pidfile-a\xffb a\xffb\n"),
    },
    Difference {
        rows: &[
            "C (LANG unset): utf8 in -n only",
            "C (LANG unset): utf8 in exit-command-arg",
            "LC_ALL=C: utf8 in exit-command-arg",
            "LC_ALL=POSIX: utf8 in -n only",
            "LC_ALL=en_US.UTF-8: utf8 in -n only",
            "LC_ALL=en_US.UTF-8: utf8 in exit-command-arg",
            "LC_ALL=nosuch: utf8 in -n only",
            "LC_ALL=nosuch: utf8 in exit-command-arg",
        ],
        why: ANY_BYTES,
        change: |outcome| runs(outcome, b"create --bundle $CWD --pid-file $CWD/pidfile-abc abc\n"),
    },
    Difference {
        rows: &[
            "C.UTF-8: bad byte \\xff in array",
            "LC_ALL=C: bad byte \\xff in array",
            "LC_ALL=POSIX: bad byte \\xff in array",
            "LC_ALL=en_US.UTF-8: bad byte \\xff in array",
            "CHARSET=UTF-8: bad byte \\xff in array",
        ],
        why: ANY_BYTES,
        change: |outcome| runs(outcome, b"\xff create --bundle $CWD --pid-file $CWD/pidfile-abc abc\n"),
    },
    Difference {
        rows: &[
            "C (LANG unset): bad byte in unknown opt",
            "LC_ALL=C: bad byte in unknown opt",
            "LC_ALL=en_US.UTF-8: bad byte in unknown opt",
            "LC_ALL=nosuch: bad byte in unknown opt",
        ],
        why: ONE_QUOTE,
        change: |outcome| refuses(outcome, b"Unknown option --\xff"),
    },
    Difference {
        rows: &[
            "C (LANG unset): bad byte in int",
            "LC_ALL=C: bad byte in int",
            "LC_ALL=POSIX: bad byte in int",
            "LC_ALL=nosuch: bad byte in int",
        ],
        why: ONE_QUOTE,
        change: |outcome| refuses(outcome, b"Cannot parse integer value \xe2\x80\x9c\xff\xe2\x80\x9d for --timeout"),
    },
    Difference {
        rows: &[
            "LC_ALL=C: int parse err quotes",
            "LC_ALL=POSIX: int parse err quotes",
            "LC_ALL=en_US.UTF-8: int parse err quotes",
        ],
        why: ONE_QUOTE,
        change: |outcome| refuses(outcome, "Cannot parse integer value “zz” for --timeout".as_bytes()),
    },
];

/// The line is accepted, and the stand-in runtime (/bin/echo) prints `stdout`.
fn runs(outcome: &mut Outcome, stdout: &[u8]) {
    outcome.stdout = stdout.to_vec();
    outcome.stderr.clear();
}

fn refuses(outcome: &mut Outcome, text: &[u8]) {
    outcome.stderr = [b"conmon: option parsing failed: ", text, b"\n"].concat();
}

/// Options that came with 2.2.0.
const NEW_OPTIONS: [&str; 5] = [
    "--log-label",
    "--log-rotate",
    "--log-max-files",
    "--log-allowlist-dir",
    "--no-container-partial-message",
];

/// Turns what was recorded for `row` into what a conmon before 2.2 does.
pub(crate) fn in_older_conmon(row: &Row, recorded: &Outcome, version: Version) -> Outcome {
    let mut outcome = recorded.clone();
    let new = row
        .words
        .iter()
        .filter_map(|word| word.to_str())
        .find(|word| NEW_OPTIONS.contains(&word.split('=').next().unwrap_or_default()));
    if let Some(word) = new {
        refuses(&mut outcome, format!("Unknown option {word}").as_bytes());
        outcome.exit = 1;
        outcome.stdout.clear();
        outcome.files.clear();
    }
    let is_refused = String::from_utf8_lossy(&outcome.stderr).contains("conmon: option parsing failed: ");
    if is_refused && version < (2, 1, 8) {
        outcome.stdout = std::mem::take(&mut outcome.stderr);
    }
    without_colon(&mut outcome);
    if version < (2, 1, 7) {
        link_left_behind(row, &mut outcome);
    }
    outcome
}

/// Messages that quote nothing had no colon.
fn without_colon(outcome: &mut Outcome) {
    let stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
    if let Some(text) = stderr.strip_prefix("[conmon:e]: ")
        && PLAIN.iter().any(|plain| text.starts_with(plain))
    {
        outcome.stderr = format!("[conmon:e] {text}").into_bytes();
    }
}

/// Beginnings of the messages that quote nothing.
const PLAIN: [&str; 9] = [
    "Attach can only",
    "Cannot use 'exec'",
    "Container ID must be",
    "Container UUID",
    "Delay before",
    "Exec process spec",
    "Log driver not",
    "Runtime path not",
    "k8s-file doesn't",
];

/// The symlink to the attach directory stayed behind when the container could not be created.
fn link_left_behind(row: &Row, outcome: &mut Outcome) {
    if outcome.files.iter().any(|name| name == "attach") || row.what == "bundle missing dir" {
        outcome.files.push("u".into());
        outcome.files.sort();
    }
}
