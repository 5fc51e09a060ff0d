//! Attach: clients of the container's output and sources of its input, over one SEQPACKET socket.
//!
//! Three rules keep a client from hurting anybody else. Output that a client can't take now waits in a queue of its
//! own, and [`Attach::holds`] asks the loop not to read more of that stream while the queue is full: a pipe's
//! semantics. Input is read from one client at a time, and only while the container takes it. And whatever goes
//! wrong with a client ends that client's half of the conversation, nothing more.
//!
//! The end of input is only ever read behind all that came before it, so it counts as soon as it is seen.
//! conmon: `conn_sock.c`.

mod client;
mod queue;
mod slab;
mod socket;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

pub use socket::{AttachSocket, FileGuard, link, listen_in};

use self::client::{Client, Input, Stall};
use self::slab::Slab;
use super::event::Turn;
use super::stdin::{Intake, Stdin};
use crate::diag;
use crate::error::strerror;
use crate::log::Stream;
use crate::sys;

/// A stream is held while a client has this many bytes of it queued. A larger queue would gain nothing, and a
/// smaller one would let a client that is stuck on one stream hold the other with its first line.
const HOLD_AT: usize = 64 * 1024;

/// Clients at once; more wait in the listener's backlog.
const CLIENTS_MAX: usize = 1024;

/// Clients that are gone while the container has not yet taken what they sent. What more of them sent is dropped,
/// so that people who come, type and go while nobody reads do not use up the descriptors.
const DEPARTED_MAX: usize = 64;

/// Connections accepted in one turn.
const ACCEPT_BUDGET: usize = 64;

/// How long accepting pauses when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// After the container's end a client that takes nothing for so long is dropped, as the exit command waits for it.
const LINGER_LIMIT: Duration = Duration::from_secs(10);

/// What epoll says about a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    pub writable: bool,
    /// Both directions are at their end; what was sent before can still be read.
    pub hung_up: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        Self { writable: event.is_writable(), hung_up: event.is_write_closed() }
    }
}

/// The attach socket and its clients.
#[derive(Debug)]
pub struct Attach {
    /// `None` when there is none, or after the container's end.
    listener: Option<OwnedFd>,
    clients: Slab<Client>,
    /// Clients that may have input to read, each at most once, in the order of their turns.
    readable: VecDeque<Token>,
    /// `CONMON_ATTACH_STALL_TIMEOUT`; shorter at the end. `None`: a client may take nothing for ever.
    stall_limit: Option<Duration>,
    accepting: Accepting,
    lingering: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// No descriptors left: again at that time.
    PausedUntil(Instant),
    /// As many clients as there may be: again when one leaves.
    Full,
}

impl Attach {
    /// `listener` is `None` for a container without an attach socket. Clients get the tokens from `first_client` on,
    /// all of which must be free. `stall_limit` is `CONMON_ATTACH_STALL_TIMEOUT`; 0 is no limit.
    pub fn new(listener: Option<OwnedFd>, first_client: Token, stall_limit: Option<Duration>) -> Self {
        Self {
            listener,
            clients: Slab::new(first_client, CLIENTS_MAX),
            readable: VecDeque::new(),
            stall_limit: stall_limit.filter(|limit| !limit.is_zero()),
            accepting: Accepting::Yes,
            lingering: false,
        }
    }

    /// Watches the listener under `token`.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match &self.listener {
            Some(listener) => {
                registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)
            }
            None => Ok(()),
        }
    }

    /// Clients wait to be accepted.
    pub fn on_listener(&mut self, registry: &Registry, now: Instant) -> Turn {
        if matches!(self.accepting, Accepting::PausedUntil(until) if now < until) {
            return Turn::Dry;
        }
        for _ in 0..ACCEPT_BUDGET {
            if self.accept_one(registry, now) == Turn::Dry {
                return Turn::Dry;
            }
        }
        Turn::More
    }

    /// Accepts everybody who waits, where there will be no later turn for it.
    pub fn accept_all(&mut self, registry: &Registry, now: Instant) {
        // Not for ever: they may come faster than they are accepted.
        for _ in 0..CLIENTS_MAX / ACCEPT_BUDGET {
            if self.on_listener(registry, now) == Turn::Dry {
                return;
            }
        }
    }

    fn accept_one(&mut self, registry: &Registry, now: Instant) -> Turn {
        let Some(listener) = &self.listener else { return Turn::Dry };
        let Some(token) = self.clients.vacant() else {
            self.accepting = Accepting::Full;
            return Turn::Dry;
        };
        let accepted = sys::socket::accept(listener.as_fd())
            .and_then(|socket| Client::new(socket, token, registry, now));
        match accepted {
            Ok(client) => {
                self.accepting = Accepting::Yes;
                self.clients.insert(token, client);
                Turn::More
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.accepting = Accepting::Yes;
                Turn::Dry
            }
            Err(error) => self.on_accept_failed(&error, now),
        }
    }

    fn on_accept_failed(&mut self, error: &io::Error, now: Instant) -> Turn {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::ECONNABORTED) => Turn::More,
            _ => {
                if self.accepting == Accepting::Yes {
                    diag::warn!("Failed to accept client connection on attach socket: {}", strerror(error));
                }
                // An edge-triggered listener stays silent about those who wait already, so a timer asks again.
                self.accepting = Accepting::PausedUntil(now + ACCEPT_PAUSE);
                Turn::Dry
            }
        }
    }

    /// Something happened to the client `token`. Its input waits for [`Self::read_input`].
    pub fn on_client(&mut self, token: Token, readiness: Readiness, registry: &Registry, now: Instant) {
        let stall = self.stall(now);
        let Some(client) = self.clients.get_mut(token) else { return };
        if readiness.hung_up {
            client.end_output(registry);
        } else if readiness.writable {
            client.flush(registry, stall);
        }
        self.mark_readable(token);
        self.settle(token, registry, now);
    }

    fn mark_readable(&mut self, token: Token) {
        if let Some(client) = self.clients.get_mut(token)
            && client.takes_input()
            && !client.in_read_list
        {
            client.in_read_list = true;
            self.readable.push_back(token);
        }
    }

    /// Gives everything `bytes` holds to every client: log first, then call this.
    pub fn broadcast(&mut self, stream: Stream, bytes: &[u8], registry: &Registry, now: Instant) {
        let stall = self.stall(now);
        let mut done = false;
        for client in self.clients.iter_mut() {
            client.send(stream, bytes, registry, stall);
            done |= client.is_done();
        }
        if done {
            self.sweep(registry, now);
        }
    }

    /// Whether some client has as much of `stream` queued as may be: then the loop does not read that stream until
    /// this changes, which only [`Self::on_client`] and [`Self::on_deadline`] can do.
    pub fn holds(&self, stream: Stream) -> bool {
        self.clients.iter().any(|client| client.held(stream) >= HOLD_AT)
    }

    /// Whether anybody is attached.
    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Whether [`Self::read_input`] would get anywhere: clients may have input, and `stdin` takes it or drops it.
    pub fn has_input(&self, stdin: &Stdin) -> bool {
        match stdin.intake() {
            Intake::Take | Intake::Drop => !self.readable.is_empty(),
            Intake::Hold => self.departed() > DEPARTED_MAX,
        }
    }

    /// Moves input from the clients to `stdin`, a packet of each in turn, as long as the container takes it and
    /// until about `budget` bytes were moved.
    pub fn read_input(
        &mut self,
        stdin: &mut Stdin,
        budget: usize,
        registry: &Registry,
        now: Instant,
    ) -> Turn {
        let mut moved = 0;
        while stdin.intake() != Intake::Hold {
            let Some(token) = self.readable.pop_front() else { break };
            moved += self.read_packet(token, stdin, registry, now);
            if moved >= budget {
                break;
            }
        }
        self.limit_departed(stdin, registry, now);
        if self.readable.is_empty() && self.clients.is_empty() {
            self.readable = VecDeque::new();
            stdin.shed();
        }
        if self.has_input(stdin) { Turn::More } else { Turn::Dry }
    }

    fn departed(&self) -> usize {
        // Only those who are to be read can have left something behind.
        if self.readable.len() <= DEPARTED_MAX {
            return 0;
        }
        self.clients.iter().filter(|client| client.has_departed()).count()
    }

    /// See [`DEPARTED_MAX`]; the last to come goes first.
    fn limit_departed(&mut self, stdin: &Stdin, registry: &Registry, now: Instant) {
        if stdin.intake() != Intake::Hold {
            return;
        }
        let excess = self.departed().saturating_sub(DEPARTED_MAX);
        if excess == 0 {
            return;
        }
        diag::warn!("The container does not take its input; dropping that of {excess} clients that are gone");
        let mut gone: Vec<Token> = Vec::new();
        for token in self.readable.iter().rev() {
            if gone.len() < excess && self.clients.get_mut(*token).is_some_and(|client| client.has_departed())
            {
                gone.push(*token);
            }
        }
        for token in gone {
            self.remove(token, registry, now);
        }
        self.readable.retain(|token| self.clients.get_mut(*token).is_some());
    }

    /// Reads one packet from the client `token` and returns its length.
    fn read_packet(&mut self, token: Token, stdin: &mut Stdin, registry: &Registry, now: Instant) -> usize {
        let Some(client) = self.clients.get_mut(token) else { return 0 };
        client.in_read_list = false;
        match client.receive(stdin.packet_buffer(), registry) {
            Input::Packet(len) => {
                if stdin.intake() == Intake::Take {
                    stdin.deliver(len, registry);
                }
                self.mark_readable(token);
                return len;
            }
            Input::Empty => {}
            Input::End => stdin.on_client_end(registry),
        }
        self.settle(token, registry, now);
        0
    }

    /// When to call [`Self::on_deadline`]; `None`: not by time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stall = self.stall_limit;
        let retry = match self.accepting {
            Accepting::PausedUntil(until) => Some(until),
            Accepting::Yes | Accepting::Full => None,
        };
        self.clients.iter().filter_map(|client| client.deadline(stall)).chain(retry).min()
    }

    /// Looks after what is due: clients that take nothing, and those that wait to be accepted.
    pub fn on_deadline(&mut self, registry: &Registry, now: Instant) -> Turn {
        let stall = self.stall(now);
        for token in self.clients.tokens() {
            let Some(client) = self.clients.get_mut(token) else { continue };
            if client.deadline(stall.limit).is_some_and(|deadline| deadline <= now) && client.is_stuck(stall)
            {
                diag::warn!("An attached client takes no output; disconnecting it");
                self.remove(token, registry, now);
            }
        }
        match self.accepting {
            Accepting::PausedUntil(until) if until <= now => self.on_listener(registry, now),
            Accepting::PausedUntil(_) | Accepting::Yes | Accepting::Full => Turn::Dry,
        }
    }

    /// The container is gone and its last output was broadcast: nobody is accepted any more, clients that have
    /// everything see the end now, the others when they have.
    pub fn begin_linger(&mut self, registry: &Registry, now: Instant) {
        if let Some(listener) = self.listener.take() {
            let _ = registry.deregister(&mut SourceFd(&listener.as_raw_fd()));
        }
        self.lingering = true;
        self.accepting = Accepting::Yes;
        self.stall_limit = Some(self.stall_limit.map_or(LINGER_LIMIT, |limit| limit.min(LINGER_LIMIT)));
        let stall = self.stall(now);
        for client in self.clients.iter_mut() {
            client.note_progress(stall);
        }
        self.sweep(registry, now);
    }

    /// Whether clients have yet to take what is queued for them.
    pub fn is_lingering(&self) -> bool {
        self.lingering && !self.clients.is_empty()
    }

    fn stall(&self, now: Instant) -> Stall {
        Stall { now, limit: self.stall_limit }
    }

    fn sweep(&mut self, registry: &Registry, now: Instant) {
        for token in self.clients.tokens() {
            self.settle(token, registry, now);
        }
    }

    /// Removes the client `token` if there is nothing left to do for it.
    fn settle(&mut self, token: Token, registry: &Registry, now: Instant) {
        let lingering = self.lingering;
        let over = |client: &Client| client.is_done() || lingering && !client.has_queued();
        if self.clients.get_mut(token).is_some_and(|client| over(client)) {
            self.remove(token, registry, now);
        }
    }

    fn remove(&mut self, token: Token, registry: &Registry, now: Instant) {
        if let Some(client) = self.clients.remove(token) {
            client.close(registry);
        }
        if self.accepting == Accepting::Full {
            self.accepting = Accepting::PausedUntil(now);
        }
    }
}
