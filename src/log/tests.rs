//! All drivers together, on real files, devices and FIFOs.

use std::path::PathBuf;
use std::process::Command;

use super::scratch::Scratch;
use super::*;

fn identity() -> Identity<'static> {
    Identity { cid: OsStr::new("0123456789abcdef"), name: None }
}

fn config(path: PathBuf) -> LogConfig {
    LogConfig { k8s_file: Some(path), max_files: 1, ..LogConfig::default() }
}

#[test]
fn what_cant_be_opened_is_named() {
    let dir = Scratch::new();
    let fifo = dir.fifo("fifo");
    let unread = format!("Failed to open log file {}: nobody reads this FIFO", fifo.display());
    let socket = dir.path("socket");
    drop(std::os::unix::net::UnixDatagram::bind(&socket).unwrap());
    let cases = [
        (config(socket), "Failed to open log file No such device or address"),
        (config(dir.path("none/c")), "Failed to open log file No such file or directory"),
        (config(fifo), unread.as_str()),
    ];
    for (config, text) in cases {
        assert_eq!(Log::open(&config, &identity()).unwrap_err().to_string(), text);
    }
    assert_eq!(dir.names(), ["fifo", "socket"]);
    let none = LogConfig { tag: Some("t".into()), ..LogConfig::default() };
    assert_eq!(Log::open(&none, &identity()).unwrap().append(Stream::Stdout, b"x", true), 1);
}

#[test]
fn a_full_device_costs_output_and_nothing_else() {
    let mut log = Log::open(&config("/dev/full".into()), &identity()).unwrap();
    assert_eq!(log.append(Stream::Stdout, b"a\nb\n", false), 4);
    log.reopen();
    assert!(log.blocked().is_none());
    log.finish();
    log.sync();
    assert!(!std::fs::metadata("/dev/full").unwrap().is_file());
}

#[test]
fn a_slow_reader_of_a_fifo_is_waited_for() {
    let dir = Scratch::new();
    let fifo = dir.fifo("log");
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK;
    let reader = nix::fcntl::open(&fifo, flags, nix::sys::stat::Mode::empty()).unwrap();
    let mut log = Log::open(&config(fifo), &identity()).unwrap();
    assert!(log.may_lag() && !Log::open(&config(dir.path("file")), &identity()).unwrap().may_lag());
    let (mut sent, mut got) = (0, Vec::new());
    while sent < 2000 {
        sent += usize::from(log.append(Stream::Stdout, &[b'x'; 1000], false) > 0);
        if log.blocked().is_some() {
            let mut buffer = [0; 5000];
            let count = nix::unistd::read(&reader, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        }
    }
    log.finish();
    drop(log);
    let mut buffer = vec![0; 1 << 20];
    let count = nix::unistd::read(&reader, &mut buffer).unwrap();
    got.extend_from_slice(&buffer[..count]);
    let complete = got.split(|&byte| byte == b'\n').filter(|line| line.len() == 1045).count();
    assert!(complete >= 1990, "{complete}");
}

#[test]
fn a_log_survives_being_copied_and_emptied() {
    let dir = Scratch::new();
    let limited = LogConfig { size_max: Some(100), ..config(dir.path("log")) };
    let mut log = Log::open(&limited, &identity()).unwrap();
    for _ in 0..10 {
        log.append(Stream::Stdout, b"1234\n1234\n", false);
        assert_eq!(dir.read("log").len(), 100);
        std::fs::write(dir.path("log"), "").unwrap();
    }
    assert_eq!(dir.names(), ["log"]);
    log.sync();
}

#[test]
fn rotation_under_load_loses_no_line() {
    let dir = Scratch::new();
    let limited =
        LogConfig { size_max: Some(100_000), rotate: true, max_files: 1000, ..config(dir.path("log")) };
    let mut log = Log::open(&limited, &identity()).unwrap();
    let input: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
    let mut at = 0;
    while at < input.len() {
        let end = (at + 65_536).min(input.len());
        at += log.append(Stream::Stdout, &input.as_bytes()[at..end], end < input.len());
    }
    log.finish();
    let files = dir.names().len();
    assert!(files > 50);
    let names = (1..files).rev().map(|i| format!("log.{i}")).chain(["log".into()]);
    let all: String =
        names.map(|name| dir.read(&name)).inspect(|text| assert!(text.len() <= 100_000)).collect();
    assert!(all.lines().enumerate().all(|(i, line)| line.ends_with(&format!(" stdout F line {i}"))));
    assert_eq!(all.lines().count(), 100_000);
}

/// A tmpfs of its own with room for `kib`; gone when dropped.
struct Small<'a>(&'a Scratch);

impl<'a> Small<'a> {
    /// `None` where mounting is not allowed.
    fn mount(dir: &'a Scratch, kib: usize) -> Option<Self> {
        let size = format!("size={kib}k");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.dir())
            .output()
            .unwrap();
        mount.status.success().then_some(Self(dir))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.dir()).status();
    }
}

#[test]
fn a_full_file_system_costs_whole_lines_and_a_marker_counts_them() {
    let dir = Scratch::new();
    // Without the right to mount the sink's tests over a failing disk have to do.
    let Some(_small) = Small::mount(&dir, 256) else { return };
    std::fs::write(dir.path("filler"), vec![0; 128 * 1024]).unwrap();
    let mut log = Log::open(&config(dir.path("log")), &identity()).unwrap();
    let input: String =
        (0..4000).map(|i| format!("line {i} of quite some length, so that it fills up\n")).collect();
    let mut at = 0;
    for piece in 0.. {
        if at == input.len() {
            break;
        }
        if piece == 6 {
            assert!(dir.read("log").ends_with('\n'));
            std::fs::remove_file(dir.path("filler")).unwrap();
        }
        let end = (at + input.len() / 8 + 1).min(input.len());
        at += log.append(Stream::Stdout, &input.as_bytes()[at..end], end < input.len());
    }
    log.finish();
    let text = dir.read("log");
    let markers: Vec<&str> = text.lines().filter(|line| line.contains("conmon: log incomplete")).collect();
    assert!(!markers.is_empty() && markers.iter().all(|line| line.ends_with("No space left on device")));
    let lost: usize = markers
        .iter()
        .map(|marker| {
            let words: Vec<&str> = marker.split(' ').collect();
            let at = words.iter().position(|word| *word == "lines").unwrap();
            words[at - 1].parse::<usize>().unwrap()
        })
        .sum();
    assert_eq!(text.lines().count() - markers.len() + lost, 4000);
    assert!(text.lines().all(|line| line.ends_with("fills up") || line.contains(" stderr F conmon: ")));
}
