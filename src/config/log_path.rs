//! The words of `--log-path`: `DRIVER`, `DRIVER:PATH` or a path. Pure; contract 6.1.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::sys::bytes;

/// What one `--log-path` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Driver {
    /// `off`, `null`, `none`: takes nothing away from the other drivers.
    Nothing,
    Passthrough,
    Journald,
    K8sFile(PathBuf),
}

/// Reads one word. Only its first run of colons divides it, so that a path may contain colons.
///
/// # Errors
/// The word is empty, names no driver, or lacks the path that the driver needs.
pub fn parse(word: &OsStr) -> Result<Driver> {
    let body = trim_colons(word.as_bytes());
    let leading_colon = body.len() < word.len();
    if body.is_empty() {
        return Err(Error::message("log-path must not be empty"));
    }
    // conmon ends the path at the next colon, and takes a bare path with a colon for a driver's name.
    if body.starts_with(b"/") {
        return Ok(file(body));
    }
    let (driver, rest) = match bytes::find(b':', body) {
        Some(at) => {
            let (driver, rest) = body.split_at(at);
            (driver, Some(trim_colons(rest)))
        }
        None => (body, None),
    };
    let path = rest.filter(|path| !path.is_empty());
    match driver {
        // conmon: `:none` is a file of that name.
        _ if leading_colon && path.is_none() => Ok(file(driver)),
        b"off" | b"null" | b"none" => Ok(Driver::Nothing),
        b"passthrough" => Ok(Driver::Passthrough),
        b"journald" => Ok(Driver::Journald),
        b"k8s-file" => path.map(file).ok_or_else(|| Error::message("k8s-file requires a filename")),
        _ if rest.is_none() => Ok(file(driver)),
        _ => Err(Error::message(format!("No such log driver {}", OsStr::from_bytes(driver).display()))),
    }
}

fn file(path: &[u8]) -> Driver {
    Driver::K8sFile(OsString::from(OsStr::from_bytes(path)).into())
}

// conmon: strtok() takes a run of colons for one.
fn trim_colons(word: &[u8]) -> &[u8] {
    let colons = word.iter().take_while(|byte| **byte == b':').count();
    word.get(colons..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(word: &str) -> std::result::Result<Driver, String> {
        parse(OsStr::new(word)).map_err(|error| error.to_string())
    }

    #[test]
    fn words_name_drivers_or_files() {
        for word in ["off", "null", "none", "none:", "none:x", "off::x"] {
            assert_eq!(parsed(word), Ok(Driver::Nothing), "{word}");
        }
        for word in ["passthrough", "passthrough:", "passthrough:x"] {
            assert_eq!(parsed(word), Ok(Driver::Passthrough), "{word}");
        }
        for word in ["journald", "journald:", "journald:x"] {
            assert_eq!(parsed(word), Ok(Driver::Journald), "{word}");
        }
        let files = [
            ("x", "x"),
            ("NONE", "NONE"),
            (" none", " none"),
            ("./a/b", "./a/b"),
            (":x", "x"),
            ("::x", "x"),
            (":none", "none"),
            (":journald:", "journald"),
            ("k8s-file:a", "a"),
            ("k8s-file::a", "a"),
        ];
        for (word, path) in files {
            assert_eq!(parsed(word), Ok(Driver::K8sFile(path.into())), "{word}");
        }
    }

    #[test]
    fn paths_may_contain_colons() {
        let files = [
            ("k8s-file:/a:b.log", "/a:b.log"),
            ("k8s-file:a:b", "a:b"),
            ("k8s-file:a:", "a:"),
            ("/a:b.log", "/a:b.log"),
            ("/a:", "/a:"),
            (":/a:b", "/a:b"),
        ];
        for (word, path) in files {
            assert_eq!(parsed(word), Ok(Driver::K8sFile(path.into())), "{word}");
        }
    }

    #[test]
    fn wrong_words_are_refused_in_conmons_words() {
        let cases = [
            ("", "log-path must not be empty"),
            (":", "log-path must not be empty"),
            ("::", "log-path must not be empty"),
            ("k8s-file", "k8s-file requires a filename"),
            ("k8s-file:", "k8s-file requires a filename"),
            ("k8s-file::", "k8s-file requires a filename"),
            ("x:", "No such log driver x"),
            ("x:y", "No such log driver x"),
            (":x:y", "No such log driver x"),
            ("json-file:x", "No such log driver json-file"),
            ("a/b:c", "No such log driver a/b"),
        ];
        for (word, text) in cases {
            assert_eq!(parsed(word), Err(text.to_owned()), "{word}");
        }
    }

    #[test]
    fn paths_are_bytes() {
        let path = OsStr::from_bytes(b"/log\xff:\xfe");
        assert_eq!(parse(path).unwrap(), Driver::K8sFile(path.into()));
    }
}
