//! What a container does and what is done to it.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::bench::Bench;
use crate::image;
use crate::session;

/// What runs the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Standin,
    Runc,
}

/// How a container ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// By itself.
    Exits(i32),
    /// By a signal to its process.
    Killed(Signal),
    /// By a TERM to the monitor, for which the container has a handler.
    Asked(i32),
}

/// What happens on the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Signal(Signal),
    /// A client comes, types, and reads what there is.
    Attach,
    /// The oldest client goes: it says that it will send no more, or just vanishes.
    Detach(bool),
    Reopen,
    Resize,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub ending: Ending,
    /// Milliseconds from its start to its end.
    pub life: u64,
    /// When, in milliseconds from its start, and what.
    pub trouble: Vec<(u64, Trouble)>,
    /// Lines that it writes when it starts and, if it ends by itself, when it ends.
    pub lines: u64,
    pub exit_command: bool,
    /// It leaves an orphan behind that the monitor has to reap.
    pub orphan: bool,
}

const HARMLESS: [Signal; 5] =
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE];

impl Plan {
    pub(super) fn draw(dice: &mut Dice, engine: Engine, width: usize) -> Self {
        // The more there are to be at once, the longer one of them lives.
        let life = 150 + dice.below(30 * width) as u64;
        let code = i32::try_from(dice.below(256)).expect("small");
        let ending = match dice.below(4) {
            0 => Ending::Killed(Signal::SIGKILL),
            // The first process of a pid namespace takes no signal that it has no handler for.
            1 if engine == Engine::Standin => {
                Ending::Killed([Signal::SIGTERM, Signal::SIGSEGV, Signal::SIGINT][dice.below(3)])
            }
            2 => Ending::Asked(code),
            _ => Ending::Exits(code),
        };
        let mut trouble: Vec<(u64, Trouble)> = Vec::new();
        for _ in 0..dice.below(8) {
            let at = dice.below(usize::try_from(life).expect("small")) as u64;
            let what = match dice.below(6) {
                0 => Trouble::Signal(HARMLESS[dice.below(HARMLESS.len())]),
                1 | 2 => Trouble::Attach,
                3 => Trouble::Detach(dice.below(2) == 0),
                4 => Trouble::Reopen,
                _ => Trouble::Resize,
            };
            trouble.push((at, what));
        }
        trouble.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let (lines, exit_command, orphan) =
            (dice.below(400) as u64, dice.below(3) == 0, dice.below(4) == 0 && engine == Engine::Standin);
        Self { ending, life, trouble, lines, exit_command, orphan }
    }

    /// The number in the exit file.
    pub(super) fn code(&self) -> i32 {
        match self.ending {
            Ending::Exits(code) | Ending::Asked(code) => code,
            Ending::Killed(signal) => 128 + signal as i32,
        }
    }

    /// Whether all output can still be found in the log: a reopened log begins anew.
    pub(super) fn keeps_log(&self) -> bool {
        !self.trouble.iter().any(|(_, what)| matches!(what, Trouble::Reopen))
    }

    /// For the stand-in; `ready` is touched when the container can be ended.
    pub(super) fn script(&self, ready: &str) -> String {
        let (life, lines) = (self.life, self.lines);
        let orphan = if self.orphan { "daemon\nsleep 100\nend\n" } else { "" };
        let begin = format!("lines {lines} 60\n{orphan}touch {ready}\n");
        match self.ending {
            Ending::Exits(code) => format!("payload\n{begin}sleep {life}\nlines {lines} 60\nexit {code}"),
            Ending::Killed(_) => format!("payload\n{begin}pause"),
            Ending::Asked(code) => format!("payload\ntrap TERM {code}\n{begin}pause"),
        }
    }

    /// The same for a shell in a real container.
    pub(super) fn shell(&self) -> String {
        let (seconds, lines) = (format!("{}.{:03}", self.life / 1000, self.life % 1000), self.lines);
        let begin = format!("seq {lines}; touch /dev/shm/ready");
        match self.ending {
            Ending::Exits(code) => format!("{begin}; sleep {seconds}; exit {code}"),
            Ending::Killed(_) => format!("{begin}; while :; do sleep 1; done"),
            Ending::Asked(code) => format!("trap 'exit {code}' TERM; {begin}; while :; do sleep 0.05; done"),
        }
    }
}

/// What all containers share.
pub(super) fn prepare(bench: &Bench, engine: Engine) {
    for folder in ["c", "shared"] {
        std::fs::create_dir(bench.path(folder)).expect("mkdir");
    }
    if engine == Engine::Runc {
        image::make(&bench.path("rootfs"));
        let mut spec = Command::new(image::program("runc"));
        spec.arg("spec").current_dir(bench.path("shared"));
        session::run(spec).exits(0);
    }
}

/// A sequence that is the same in every run (xorshift).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number less than `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("64 bits") % limit
    }
}
