//! The one error type: what was tried, on what, and why it failed.
//!
//! Before the event loop an [`Error`] is fatal and [`crate::main`] prints it where conmon would. Inside the loop
//! it is something to warn about; the container goes on.

mod words;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    /// The command line can't be understood. conmon prints these before it knows a log level: `conmon: TEXT`.
    /// Bytes, because the text quotes words as they were typed.
    Usage(OsString),
    /// The options are understood and contradict each other, or something else is wrong that has no errno.
    Message(String),
    /// A system call failed; `tried` says what was attempted on what, in conmon's words where it has any.
    Os { tried: String, source: io::Error },
}

impl Error {
    pub fn usage(text: impl Into<OsString>) -> Self {
        Self::Usage(text.into())
    }

    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    pub fn os(tried: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { tried: tried.into(), source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => text.display().fmt(f),
            Self::Message(text) => f.write_str(text),
            // conmon: pexit() puts strerror behind the text with no colon.
            Self::Os { tried, source } => write!(f, "{tried} {}", strerror(source)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Usage(_) | Self::Message(_) => None,
            Self::Os { source, .. } => Some(source),
        }
    }
}

/// The system's text for `error`, without the `(os error N)` that the standard library adds.
pub fn strerror(error: &io::Error) -> Cow<'static, str> {
    match error.raw_os_error() {
        Some(number) => words::words(number),
        None => error.to_string().into(),
    }
}

/// Says what was being tried when an I/O error came up.
pub trait Context<T> {
    /// `tried` is built only on failure; see [`Error::Os`] for its wording.
    fn context(self, tried: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::os(tried(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_errors_read_like_conmons() {
        let failed: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let error = failed.context(|| "Runtime path /x is not valid".into()).unwrap_err();
        assert_eq!(error.to_string(), "Runtime path /x is not valid No such file or directory");
    }
}
