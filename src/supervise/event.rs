//! Everything that can wake the monitor, and its number in mio.

use mio::Token;

use crate::log::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal that the monitor acts on.
    Signals,
    /// The container's pidfd: it has ended.
    Container,
    Output(Stream),
    /// The container can take input again.
    Stdin,
    /// Somebody wants to attach.
    Accept,
    /// An attached client: several tokens, one kind.
    Client,
    /// Lines in the ctl or the winsz fifo.
    Ctl,
    Winsz,
    /// The runtime brings the pty leader.
    Console,
    /// A datagram from the container for the service manager.
    Notify,
    OutOfMemory,
    /// The log can take records again.
    Log,
}

/// Whether a source may have more to do than its budget allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more until the next event.
    Dry,
    /// Call again after the other sources have had their turn: no event will tell.
    More,
}

/// Tokens from here up are attached clients.
pub const FIRST_CLIENT: usize = 16;

impl Event {
    pub fn token(self) -> Token {
        Token(match self {
            Self::Signals => 0,
            Self::Container => 1,
            Self::Output(Stream::Stdout) => 2,
            Self::Output(Stream::Stderr) => 3,
            Self::Stdin => 4,
            Self::Accept => 5,
            Self::Ctl => 6,
            Self::Winsz => 7,
            Self::Console => 8,
            Self::Notify => 9,
            Self::OutOfMemory => 10,
            Self::Log => 11,
            Self::Client => FIRST_CLIENT,
        })
    }

    /// What `token` stands for; `None` for a number that nothing has.
    pub fn from_token(token: Token) -> Option<Self> {
        Some(match token.0 {
            0 => Self::Signals,
            1 => Self::Container,
            2 => Self::Output(Stream::Stdout),
            3 => Self::Output(Stream::Stderr),
            4 => Self::Stdin,
            5 => Self::Accept,
            6 => Self::Ctl,
            7 => Self::Winsz,
            8 => Self::Console,
            9 => Self::Notify,
            10 => Self::OutOfMemory,
            11 => Self::Log,
            FIRST_CLIENT.. => Self::Client,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_distinct_and_come_back() {
        let known = |n| Event::from_token(Token(n)).map(|event| (n, event));
        let all: Vec<_> = (0..=FIRST_CLIENT).filter_map(known).collect();
        assert_eq!(all.len(), 13);
        all.into_iter().for_each(|(number, event)| assert_eq!(event.token(), Token(number)));
        assert_eq!(Event::from_token(Token(FIRST_CLIENT + 5)), Some(Event::Client));
    }
}
