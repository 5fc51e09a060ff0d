//! A journal that is nothing but its socket: it takes what is sent to it and keeps that.
//!
//! For tests that need a journal at every start of a monitor and not journald's own behaviour (for which see
//! [`crate::journal`]). The kernel queues ten datagrams for it and no more, so whoever sends faster than it reads
//! meets a full socket.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSliceMut, Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The fields of one entry by their names.
pub type Entry = BTreeMap<String, Vec<u8>>;

const LARGEST: usize = 1 << 18;

/// One entry's field as text; empty when it is not there.
#[must_use]
pub fn field(entry: &Entry, name: &str) -> String {
    entry.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

#[derive(Debug)]
pub struct JournalSocket {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    reading: AtomicBool,
    enough: AtomicBool,
    entries: Mutex<Vec<Entry>>,
}

impl JournalSocket {
    /// Listens at `path` and reads all the time.
    ///
    /// # Panics
    /// When nothing can be bound there.
    #[must_use]
    pub fn bind(path: &Path) -> Self {
        let journal = Self::bind_asleep(path);
        journal.wake();
        journal
    }

    /// As [`Self::bind`], but nothing is read before [`Self::wake`] is called.
    ///
    /// # Panics
    /// When nothing can be bound there.
    #[must_use]
    pub fn bind_asleep(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the journal's socket");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        let shared = Arc::new(Shared::default());
        let of_reader = Arc::clone(&shared);
        let reader = std::thread::spawn(move || of_reader.read_all(&socket));
        Self { shared, reader: Some(reader) }
    }

    pub fn wake(&self) {
        self.shared.reading.store(true, Ordering::SeqCst);
    }

    /// Whether some entry so far has `text` in its message.
    #[must_use]
    pub fn has(&self, text: &str) -> bool {
        self.shared.entries().iter().any(|entry| field(entry, "MESSAGE").contains(text))
    }

    /// The entries that have been sent by now; nothing listens afterwards.
    #[must_use]
    pub fn entries(mut self) -> Vec<Entry> {
        self.stop();
        std::mem::take(&mut *self.shared.entries())
    }

    fn stop(&mut self) {
        self.wake();
        self.shared.enough.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            let ended = reader.join();
            assert!(ended.is_ok() || std::thread::panicking(), "what was sent is an entry");
        }
    }
}

impl Drop for JournalSocket {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, socket: &UnixDatagram) {
        while !self.reading.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        loop {
            // Looked at first: what was sent before that is read below.
            let is_last = self.enough.load(Ordering::SeqCst);
            while let Some(datagram) = receive(socket) {
                self.entries().push(parse(&datagram));
            }
            if is_last {
                return;
            }
        }
    }
}

/// The next entry, which a large one comes as a file of.
fn receive(socket: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; LARGEST];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    let fds: Vec<i32> = message
        .cmsgs()
        .into_iter()
        .flatten()
        .filter_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let count = message.bytes;
    // SAFETY: descriptors that have just been received belong to nobody else.
    let files = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if let Some(mut file) = files.map(File::from).next() {
        bytes.clear();
        file.rewind().expect("the start of the file");
        file.read_to_end(&mut bytes).expect("the file's content");
    } else {
        bytes.truncate(count);
    }
    Some(bytes)
}

/// journald's own protocol: `NAME=value` and a newline, or the name, a newline, a length, the value, a newline.
fn parse(datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a newline");
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            entry.insert(String::from_utf8(line[..at].to_vec()).expect("a name"), line[at + 1..].to_vec());
            continue;
        }
        let (length, after) = rest.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let length = usize::try_from(length).expect("a length");
        entry.insert(String::from_utf8(line.to_vec()).expect("a name"), after[..length].to_vec());
        assert_eq!(after[length], b'\n');
        rest = &after[length + 1..];
    }
    entry
}
