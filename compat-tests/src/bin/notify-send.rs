//! Sends each argument as one datagram to `NOTIFY_SOCKET`, as a service in a container does with sd_notify(3).
//!
//! The argument `fill:N` stands for a status of N letters. It is static like everything built here, so it runs in any
//! container.

use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        eprintln!("notify-send: NOTIFY_SOCKET is not set");
        return ExitCode::FAILURE;
    };
    let send = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        for message in std::env::args().skip(1) {
            let filled = message.strip_prefix("fill:").and_then(|size| size.parse().ok());
            let text = filled.map_or(message, |size| format!("STATUS={}", "x".repeat(size)));
            socket.send(text.as_bytes())?;
        }
        Ok(())
    };
    match send() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("notify-send: {error}");
            ExitCode::FAILURE
        }
    }
}
