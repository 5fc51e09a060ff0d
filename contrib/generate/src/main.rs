//! Writes `docs/man/conmon.8` and `contrib/completions/` from the monitor's own option table (`make docs`).
//!
//! What is written is committed, so that installing and packaging need neither this program nor the network. A test
//! fails when a file is not what would be written now.

mod entry;
mod page;
mod shells;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Path from the root of the project, content.
fn files() -> Result<Vec<(&'static str, String)>, String> {
    let version = env!("CARGO_PKG_VERSION");
    let page = page::read(include_str!("../conmon.8.in"), &ferromon::cli::table(), version)?;
    Ok(vec![
        ("docs/man/conmon.8", page.text),
        ("contrib/completions/conmon.bash", shells::bash(&page.entries)),
        ("contrib/completions/_conmon", shells::zsh(&page.entries)),
        ("contrib/completions/conmon.fish", shells::fish(&page.entries)),
    ])
}

fn write() -> Result<(), String> {
    for (path, text) in files()? {
        fs::write(Path::new(ROOT).join(path), text).map_err(|error| format!("{path}: {error}"))?;
        println!("{path}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("generate: {text}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
