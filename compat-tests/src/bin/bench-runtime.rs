//! Runtime and payload of `contrib/bench`: does what it is told with as little work of its own as possible.
//!
//! As runtime (`create`, `exec` or `restore` among its words) it forks the payload named in `<bundle>/payload`, writes
//! the pid file and exits. As `bench-runtime payload WORDS…` it is the payload itself, without a monitor.
//!
//! A payload is one step, or several with the word `then` between them:
//!
//! | step | effect |
//! |--|--|
//! | `idle` | waits for a signal |
//! | `exit N` | |
//! | `lines COUNT LENGTH CHUNK [both]` | lines of LENGTH bytes with their newline, written CHUNK bytes at a time (0: each line alone), with `both` to stdout and stderr in turn |
//! | `echo` | stdin to stdout |
//! | `drip RATE SECONDS` | RATE lines a second |
//! | `input` | waits for something on stdin |
//!
//! At its end the payload leaves the processor time that it used, in seconds, in `<bundle>/payload-cpu`.

#![allow(clippy::exit)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{ForkResult, fork, pause, setsid};

/// Exit code for words that make no sense.
const BROKEN: u8 = 99;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        ["payload", steps @ ..] => play(steps),
        _ => run(&words),
    };
    ExitCode::from(code.unwrap_or(BROKEN))
}

/// The runtime's part. `None` when something is missing or can't be written.
fn run(words: &[&str]) -> Option<u8> {
    let verb = words.iter().position(|word| matches!(*word, "create" | "exec" | "restore"))?;
    let value = |name: &str| {
        let at = words.iter().skip(verb).position(|word| *word == name)?;
        words.get(verb + at + 1).map(PathBuf::from)
    };
    let bundle = match value("--process") {
        Some(spec) => spec.parent()?.to_owned(),
        None => value("--bundle")?,
    };
    let payload = std::fs::read_to_string(bundle.join("payload")).ok()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.ok()? {
        ForkResult::Parent { child } => {
            std::fs::write(value("--pid-file")?, child.to_string()).ok()?;
            Some(0)
        }
        ForkResult::Child => {
            setsid().ok()?;
            let code = play(&payload.split_whitespace().collect::<Vec<_>>());
            leave_usage(&bundle);
            code
        }
    }
}

/// The exit status of the payload.
fn play(words: &[&str]) -> Option<u8> {
    for step in words.split(|word| *word == "then") {
        match step {
            ["idle"] => loop {
                pause();
            },
            ["exit", code] => return code.parse().ok(),
            ["lines", sizes @ .., "both"] => lines(sizes, &[1, 2])?,
            ["lines", sizes @ ..] => lines(sizes, &[1])?,
            ["echo"] => echo()?,
            ["drip", rate, seconds] => drip(rate.parse().ok()?, seconds.parse().ok()?)?,
            ["input"] => drop(nix::unistd::read(std::io::stdin(), &mut [0; 64]).ok()?),
            _ => return None,
        }
    }
    Some(0)
}

/// `sizes`: number of lines, length of a line, bytes a write, whole lines of them. The streams take turns.
fn lines(sizes: &[&str], streams: &[u8]) -> Option<()> {
    let sizes: Vec<usize> = sizes.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [count, length, chunk] = *sizes.as_slice() else { return None };
    let text = (b'a'..=b'z').cycle().take(length.checked_sub(1)?);
    let line: Vec<u8> = text.chain([b'\n']).collect();
    let per_write = (chunk / length).max(1);
    let block = line.repeat(per_write.min(count.max(1)));
    let mut left = count;
    let mut turn = streams.iter().cycle();
    while left > 0 {
        let now = per_write.min(left);
        write_all(*turn.next()?, block.get(..now * length)?)?;
        left -= now;
    }
    Some(())
}

fn echo() -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match nix::unistd::read(std::io::stdin(), &mut buffer) {
            Ok(0) => return Some(()),
            Ok(count) => write_all(1, buffer.get(..count)?)?,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Lines at fixed times, so that late ones don't make the next ones later.
fn drip(rate: u32, seconds: u32) -> Option<()> {
    let step = Duration::from_secs(1).checked_div(rate)?;
    let start = Instant::now();
    for index in 0..rate * seconds {
        write_all(1, b"a line that a quiet service writes to tell that all is well\n")?;
        std::thread::sleep((step * (index + 1)).saturating_sub(start.elapsed()));
    }
    Some(())
}

/// Writes without a buffer between, as each write counts here.
fn write_all(stream: u8, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let written = match stream {
            1 => nix::unistd::write(std::io::stdout(), bytes),
            _ => nix::unistd::write(std::io::stderr(), bytes),
        };
        match written {
            Ok(count) => bytes = bytes.get(count..)?,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

fn leave_usage(bundle: &Path) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return };
    let (user, system) = (usage.user_time(), usage.system_time());
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), u32::try_from(time.tv_usec()).unwrap_or(0) * 1000)
    };
    let total = seconds(user) + seconds(system);
    let _ = std::fs::write(bundle.join("payload-cpu"), total.as_secs_f64().to_string());
}
