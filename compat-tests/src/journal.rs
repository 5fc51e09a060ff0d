//! A real systemd-journald for one test, read back with journalctl.
//!
//! It lives in a mount namespace of the calling thread, with `/run/systemd` and `/run/log` of its own: tests run side
//! by side without sharing a journal, may stop theirs at will, and the machine's journal is neither read nor written.
//! Rate limits are off, and it stays in memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bench::CID;
use crate::deadline;
use crate::mounts::Mounts;
use crate::session::run;

const SOCKET: &str = "/run/systemd/journal/socket";
const DAEMONS: [&str; 2] = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"];
const CONFIGURATION: &str = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n\
    RateLimitBurst=0\nRuntimeMaxUse=400M\nRuntimeMaxFileSize=200M\nRuntimeKeepFree=1M\nForwardToWall=no\n\
    ForwardToSyslog=no\nForwardToKMsg=no\nForwardToConsole=no\nMaxLevelStore=debug\n";

/// One entry of the journal: its fields, those of journald itself included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    fields: BTreeMap<String, Vec<Vec<u8>>>,
}

#[derive(Debug)]
pub struct Journal {
    /// `None` while it is stopped.
    daemon: Option<Child>,
    program: &'static str,
    /// Dropped after the daemon.
    mounts: Mounts,
}

impl Journal {
    /// Starts a journal. `None`, with a word why, where there is no systemd-journald or no right to make a namespace;
    /// with `CI=true` that is a failure.
    #[must_use]
    pub fn start() -> Option<Self> {
        let mut journal = Self::absent()?;
        journal.restart();
        Some(journal)
    }

    /// As [`Self::start`], but nothing listens until [`Self::restart`].
    #[must_use]
    pub fn absent() -> Option<Self> {
        let Some(program) = DAEMONS.into_iter().find(|path| Path::new(path).is_file()) else {
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "no systemd-journald");
            eprintln!("left out: systemd-journald is not installed; contrib/setup.sh test installs it");
            return None;
        };
        if !crate::twin::installed(&["journalctl"]) {
            return None;
        }
        let mut mounts = Mounts::private()?;
        for (target, size) in [("/run/systemd", "16m"), ("/run/log", "512m")] {
            mounts.tmpfs(Path::new(target), size);
        }
        for directory in ["journal", "journald.conf.d"] {
            fs::create_dir(Path::new("/run/systemd").join(directory)).expect("mkdir");
        }
        fs::write("/run/systemd/journald.conf.d/test.conf", CONFIGURATION).expect("configuration");
        Some(Self { daemon: None, program, mounts })
    }

    /// Starts the daemon and waits until it can be sent to.
    pub fn restart(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let mut command = Command::new(self.program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.daemon = Some(command.spawn().expect("systemd-journald"));
        deadline::until("the journal's socket", || UnixDatagram::unbound().ok()?.connect(SOCKET).ok());
    }

    /// Ends the daemon as an upgrade does. Here nobody else holds its socket, so what is sent meanwhile is refused.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a running journal");
        let _ = kill(pid(&daemon), Signal::SIGTERM);
        let ended = deadline::try_until(deadline::limit(), || daemon.try_wait().ok().flatten());
        if ended.is_none() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// `SIGSTOP` and `SIGCONT`: a journal that does not keep up.
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.daemon.as_ref().expect("a running journal")), signal).expect("signal");
    }

    /// The system log of the namespace, for what a monitor with `--syslog` has to say; not to be had beside a journal.
    ///
    /// # Panics
    /// When the journal runs.
    pub fn syslog(&mut self) -> UnixDatagram {
        assert!(self.daemon.is_none(), "the journal is the system log");
        let usual = Path::new("/dev/log");
        let path = match fs::read_link(usual) {
            // systemd's link, which leads into what is our own here.
            Ok(target) => usual.parent().expect("/dev").join(target),
            Err(_) if usual.exists() => Path::new("/run/systemd/log").to_owned(),
            Err(_) => {
                self.mounts.tmpfs(Path::new("/run"), "1m");
                Path::new("/run/syslog").to_owned()
            }
        };
        let socket = UnixDatagram::bind(&path).expect("system log");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
        if path.ends_with("systemd/log") {
            self.mounts.bind(&path, usual);
        }
        socket.set_nonblocking(true).expect("nonblocking");
        socket
    }

    /// All entries of the container so far, oldest first; what was sent before the call is among them.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        Self::sync();
        let container = format!("CONTAINER_ID_FULL={CID}");
        let outcome = run(journalctl(&["--no-pager", "--all", "-o", "json", &container])).exits(0);
        outcome
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(Entry::parse)
            .collect()
    }

    /// How many entries the container has, without taking them apart.
    #[must_use]
    pub fn count(&self) -> usize {
        Self::sync();
        let container = format!("CONTAINER_ID_FULL={CID}");
        let only = "--output-fields=PRIORITY";
        let outcome = run(journalctl(&["--no-pager", "-o", "json", only, &container])).exits(0);
        outcome.stdout.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Has everything written that was sent so far. A daemon that has just been started may not listen to this yet.
    fn sync() {
        deadline::until("the journal to be synced", || {
            (run(journalctl(&["--sync"])).code == 0).then_some(())
        });
    }

    /// Waits until there are `count` entries.
    pub fn wait_for(&self, count: usize) {
        self.until(&format!("{count} entries"), || self.count() == count);
    }

    /// Asks `condition` now and then: every look at the journal costs the time in which it could be written.
    pub fn until(&self, what: &str, condition: impl Fn() -> bool) {
        deadline::until(what, || {
            let met = condition();
            if !met {
                std::thread::sleep(Duration::from_millis(100));
            }
            met.then_some(())
        });
    }

    /// The messages of the container as `cat` shows them; for many short lines of text.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        Self::sync();
        let container = format!("CONTAINER_ID_FULL={CID}");
        let outcome = run(journalctl(&["--no-pager", "--all", "-o", "cat", &container])).exits(0);
        outcome.stdout_text().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon {
            // A stopped process does not see the end coming.
            let _ = kill(pid(daemon), Signal::SIGCONT);
            self.stop();
        }
    }
}

impl Entry {
    fn parse(line: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(line).expect("JSON");
        let fields = value.as_object().expect("an object").iter();
        Self { fields: fields.map(|(name, value)| (name.clone(), values(value))).collect() }
    }

    /// The bytes of a field that occurs once; `None` when it is not there.
    ///
    /// # Panics
    /// When it occurs more than once.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let values = self.fields.get(name)?;
        assert_eq!(values.len(), 1, "{name} occurs {} times", values.len());
        values.first().map(Vec::as_slice)
    }

    /// The same as text; empty when it is not there.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.bytes(name).unwrap_or_default()).into_owned()
    }

    /// The names of the fields that the sender gave, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.fields.keys().map(String::as_str).filter(|name| !name.starts_with('_')).collect()
    }

    /// The container's bytes: without the newline that ends the message of a whole line.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        let message = self.bytes("MESSAGE").expect("MESSAGE");
        message.strip_suffix(b"\n").unwrap_or(message)
    }
}

/// A field that occurs several times is an array; one that is not text is an array of its bytes.
fn values(value: &Value) -> Vec<Vec<u8>> {
    match value {
        Value::Array(items) if items.iter().any(|item| !item.is_number()) => {
            items.iter().flat_map(values).collect()
        }
        Value::Array(items) => {
            let byte = |item: &Value| item.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte");
            vec![items.iter().map(byte).collect()]
        }
        Value::String(text) => vec![text.clone().into_bytes()],
        other => panic!("a field holds {other}"),
    }
}

fn journalctl(args: &[&str]) -> Command {
    let mut command = Command::new("journalctl");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    command.arg("--quiet").args(args);
    command
}

fn pid(daemon: &Child) -> Pid {
    Pid::from_raw(daemon.id().cast_signed())
}
