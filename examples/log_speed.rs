//! How fast records get into a file: pushes 1 GB of lines through `Log::append`, in reads of a full pipe.
//!
//! Run with `cargo run --release --example log_speed [FILE] [MEGABYTES]`; the file should be on a tmpfs.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ferromon::config::LogConfig;
use ferromon::log::{Identity, Log, Stream};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

const READ: usize = 64 * 1024;

fn main() {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().unwrap_or_else(|| "/dev/shm/log_speed".into()));
    let megabytes: usize = args.next().and_then(|word| word.parse().ok()).unwrap_or(1000);
    for line in [200, 20, 1, 50_000] {
        let _ = fs::remove_file(&path);
        // The file is begun again now and then, as a memory file system is small.
        let config =
            LogConfig { k8s_file: Some(path.clone()), size_max: Some(1 << 29), ..LogConfig::default() };
        let identity = Identity { cid: OsStr::new("0123456789abcdef"), name: None };
        let mut log = Log::open(&config, &identity).expect("the log can be opened");
        let text = [vec![b'x'; line - 1], vec![b'\n']].concat().repeat(READ / line + 2);
        let mut pushed = 0;
        let (user, system) = cpu();
        let start = Instant::now();
        while pushed < megabytes << 20 {
            let end = (pushed % line) + READ;
            pushed += log.append(Stream::Stdout, &text[pushed % line..end], true);
        }
        let seconds = start.elapsed().as_secs_f64();
        let (user, system) = (cpu().0 - user, cpu().1 - system);
        let megabytes = pushed as f64 / 1e6;
        println!(
            "{line:6} bytes a line: {:6.0} MB/s, per GB {:5.2} s user {:5.2} s system",
            megabytes / seconds,
            user / megabytes * 1000.0,
            system / megabytes * 1000.0
        );
    }
    let _ = fs::remove_file(&path);
}

/// Seconds of processor time, in the program and in the kernel.
fn cpu() -> (f64, f64) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the usage can be read");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    (seconds(usage.user_time()), seconds(usage.system_time()))
}
