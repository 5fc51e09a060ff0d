//! How fast records get into a file: pushes 1 GB of lines through `Log::append`, in reads of a full pipe.
//!
//! Run with `cargo run --release --example log_speed [FILE] [MEGABYTES]`; the file should be on a tmpfs.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ferromon::config::LogConfig;
use ferromon::log::{Identity, Log, Stream};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

const READ: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().unwrap_or_else(|| "/dev/shm/log_speed".into()));
    let megabytes: usize = args.next().and_then(|word| word.parse().ok()).unwrap_or(1000);
    for line in [200, 20, 1, 50_000] {
        let _ = fs::remove_file(&path);
        // The file is begun again now and then, as a memory file system is small.
        let config =
            LogConfig { k8s_file: Some(path.clone()), size_max: Some(1 << 29), ..LogConfig::default() };
        let identity = Identity { cid: OsStr::new("0123456789abcdef"), name: None };
        let mut log = Log::open(&config, &identity)?;
        let text = [vec![b'x'; line - 1], vec![b'\n']].concat().repeat(READ / line + 2);
        let mut pushed = 0;
        let before = cpu()?;
        let start = Instant::now();
        while pushed < megabytes << 20 {
            let read =
                text.get(pushed % line..).and_then(|text| text.get(..READ)).ok_or("the text is too short")?;
            pushed += log.append(Stream::Stdout, read, true);
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = cpu()?;
        let (user, system) = (after.0 - before.0, after.1 - before.1);
        let megabytes = pushed as f64 / 1e6;
        println!(
            "{line:6} bytes a line: {:6.0} MB/s, per GB {:5.2} s user {:5.2} s system",
            megabytes / seconds,
            user / megabytes * 1000.0,
            system / megabytes * 1000.0
        );
    }
    fs::remove_file(&path)?;
    Ok(())
}

/// Seconds of processor time, in the program and in the kernel.
fn cpu() -> Result<(f64, f64), Errno> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}
