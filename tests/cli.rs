//! Every recorded invocation of `data/cli-cases.jsonl`, run on the built program.
//!
//! The rows were recorded from conmon 2.2.1 (contract 4.2). Where we differ on purpose, `cli/differences.rs` says
//! how and why, and an entry that no longer differs fails. With `CONMON_UNDER_TEST=/path/to/conmon` the rows run
//! on that program instead, which shows that they test conmon's behaviour and not ours.

#[cfg(test)]
#[path = "cli/bench.rs"]
mod bench;
#[cfg(test)]
#[path = "cli/differences.rs"]
mod differences;
#[cfg(test)]
#[path = "cli/rows.rs"]
mod rows;

use bench::{Bench, Program};
use differences::{OURS, in_older_conmon};
use rows::Outcome;

/// What these rows say is decided by the words alone.
#[test]
fn rows_that_end_at_the_command_line() {
    check(ends_at_the_command_line);
}

/// These rows need the log file, the driver's pipes or a runtime as well.
#[test]
fn rows_that_go_beyond_the_command_line() {
    check(|expected| !ends_at_the_command_line(expected));
}

#[test]
fn every_difference_names_recorded_rows() {
    let rows = rows::load();
    for difference in OURS {
        for name in difference.rows {
            assert!(rows.iter().any(|row| row.what == *name), "no row is called {name:?}");
        }
    }
}

/// Runs the rows whose expected outcome is `wanted` and reports all that differ at once.
fn check(wanted: fn(&Outcome) -> bool) {
    let bench = Bench::new();
    let mut wrong = Vec::new();
    for row in rows::load() {
        let recorded = bench.expected(&row);
        let known = OURS.iter().find(|known| known.rows.contains(&row.what.as_str()));
        let (expected, why) = match (bench.program(), known) {
            (Program::Ours, Some(difference)) => (difference.applied(&recorded), difference.why),
            (Program::Conmon { version }, _) if version < (2, 2, 0) => {
                (in_older_conmon(&row, &recorded, version), "conmon before 2.2")
            }
            (Program::Ours | Program::Conmon { .. }, _) => (recorded, "as recorded"),
        };
        if !wanted(&expected) {
            continue;
        }
        let actual = bench.run(&row);
        if actual != expected {
            wrong.push(format!(
                "{:?} ({why}): {}\n  expected {expected:?}\n  got      {actual:?}",
                row.what, row.args
            ));
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn ends_at_the_command_line(expected: &Outcome) -> bool {
    const LATER: [&str; 6] =
        ["_OCI_", "start-pipe", "LISTEN_PID", "console-socket", "open log file", "k8s-file doesn't support"];
    let refused = expected.stderr.starts_with(b"conmon: ") || expected.stderr.starts_with(b"[conmon:e]");
    let stderr = String::from_utf8_lossy(&expected.stderr);
    expected.exit == 0 || refused && !LATER.iter().any(|text| stderr.contains(text))
}
