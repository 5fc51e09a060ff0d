//! A terminal with a program on it, driven by a test: keys go in, and what appears on the screen is waited for.
//!
//! The screen is everything that was ever written; each text is looked for behind the one that was found last, so
//! that the echo of a command is not taken for its output. podman makes its terminal raw before it passes keys on.
//! Keys that come earlier would be echoed twice, so [`Pty::attached`] waits for that.

use std::process::Command;
use std::time::Duration;

use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::deadline;
use crate::session::{Input, Outcome, Session};

/// podman's default detach keys, ctrl-p and ctrl-q.
pub const DETACH: &str = "\x10\x11";
pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";

/// dash's prompt for root.
const PROMPT: &str = "# ";

#[derive(Debug)]
pub struct Pty {
    session: Session,
    /// The screen up to here has been waited for.
    at: usize,
}

impl Pty {
    /// Starts `command` on a terminal of 24 rows and 80 columns, its controlling terminal.
    pub fn start(command: Command) -> Self {
        Self { session: Session::start(command, Input::Terminal(24, 80)), at: 0 }
    }

    /// As [`Self::start`], and waits until keys reach the container.
    pub fn attached(command: Command) -> Self {
        let pty = Self::start(command);
        pty.wait_until_raw();
        pty
    }

    /// As [`Self::attached`] with a shell in the container: waits for its first prompt.
    pub fn shell(command: Command) -> Self {
        let mut pty = Self::attached(command);
        pty.expect(PROMPT);
        pty
    }

    fn wait_until_raw(&self) {
        deadline::until("the terminal to be raw", || {
            let settings = tcgetattr(self.session.terminal().unwrap()).unwrap();
            (!settings.local_flags.contains(LocalFlags::ICANON)).then_some(())
        });
    }

    /// Types `text` in one go.
    pub fn keys(&mut self, text: &str) {
        self.session.send(text.as_bytes());
    }

    /// Presses keys one after the other: podman knows its detach keys only when it reads them one by one.
    pub fn press(&mut self, keys: &str) {
        for key in keys.bytes() {
            self.session.send(&[key]);
            deadline::until("the key to be read", || {
                (!deadline::readable(self.session.terminal().unwrap(), Duration::ZERO)).then_some(())
            });
        }
    }

    /// Types a line and the enter key.
    pub fn enter(&mut self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    /// Waits for `text` behind what was waited for before.
    pub fn expect(&mut self, text: &str) {
        let from = self.at;
        let find = |screen: &[u8]| {
            let new = screen.get(from..).unwrap_or_default();
            new.windows(text.len()).position(|window| window == text.as_bytes())
        };
        self.session.wait_until(&format!("showing {text:?}"), |screen, _| find(screen).is_some());
        self.at = from + find(self.session.stdout()).unwrap() + text.len();
    }

    /// Types a command into the shell, waits for its whole output and for the next prompt.
    pub fn command(&mut self, line: &str, output: &str) {
        self.enter(line);
        self.expect(&format!("{line}\r\n{output}{PROMPT}"));
    }

    /// Changes the size of the terminal, as a user who drags a window does.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.session.resize(rows, columns);
    }

    /// Waits for the program to end; its screen is the outcome's stdout.
    pub fn finish(self) -> Outcome {
        self.session.finish()
    }
}
