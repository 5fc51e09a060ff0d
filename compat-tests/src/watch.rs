//! What happened in a directory, in order: proves that a file appeared whole.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
}

/// One event of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The name came to be: `open` with `O_CREAT`, `link`, `symlink`, `mkfifo`.
    Created,
    /// Something was renamed to this name.
    MovedHere,
    Modified,
    Deleted,
    Other,
}

impl Watch {
    /// Watches `folder` from now on.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(folder, events).expect("watch");
        Self { inotify }
    }

    /// Everything since the last call.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => all.extend(events.into_iter().map(|event| Event {
                    kind: EventKind::of(event.mask),
                    name: event.name.unwrap_or_default().to_string_lossy().into_owned(),
                })),
                Err(Errno::EAGAIN) => return all,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }

    /// Checks that `name` came into being by renaming a complete file, and was not touched afterwards.
    pub fn expect_atomic(&self, name: &str) {
        let events: Vec<Event> = self.events().into_iter().filter(|event| event.name == name).collect();
        let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::MovedHere], "what happened to {name}");
    }
}

impl EventKind {
    fn of(mask: AddWatchFlags) -> Self {
        let table = [
            (AddWatchFlags::IN_CREATE, Self::Created),
            (AddWatchFlags::IN_MOVED_TO, Self::MovedHere),
            (AddWatchFlags::IN_MODIFY, Self::Modified),
            (AddWatchFlags::IN_DELETE, Self::Deleted),
        ];
        table.iter().find(|(flag, _)| mask.contains(*flag)).map_or(Self::Other, |(_, kind)| *kind)
    }
}
