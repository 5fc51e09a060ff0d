//! What the log options mean together: drivers add up, tags and labels need a driver that can hold them.
//!
//! conmon: `ctr_logging.c:configure_log_drivers`, whose order and texts these are.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::log_path::{self, Driver};
use crate::cli::Args;
use crate::diag;
use crate::error::{Error, Result};
use crate::sys::bytes;

/// journald needs a container id longer than the short form of it that goes into every record.
const SHORT_ID_LEN: usize = 12;

/// Where the container's output goes (contract 6.1), and how much of it is kept.
#[derive(Debug, Default)]
pub struct LogConfig {
    pub k8s_file: Option<PathBuf>,
    pub journald: bool,
    /// The container writes to the descriptors that the driver gave us; nothing passes through the monitor.
    pub passthrough: bool,
    /// Bytes; `None` is no limit.
    pub size_max: Option<u64>,
    /// Bytes; `None` is no limit.
    pub global_size_max: Option<u64>,
    pub rotate: bool,
    pub max_files: u32,
    pub allowlist: Vec<PathBuf>,
    /// `--no-sync-log`: no fsync at the end.
    pub no_sync: bool,
    pub tag: Option<OsString>,
    pub labels: Vec<OsString>,
    pub no_partial_message: bool,
}

impl LogConfig {
    /// Takes the log options out of `args`.
    ///
    /// # Errors
    /// No `--log-path`, one that can't be understood, or something that journald can't hold.
    pub(super) fn take(args: &mut Args, cid: &OsStr) -> Result<Self> {
        let mut log = Self {
            size_max: limit(args.log_size_max),
            global_size_max: limit(args.log_global_size_max),
            rotate: args.log_rotate,
            max_files: u32::try_from(args.log_max_files.unwrap_or(1)).unwrap_or(0),
            allowlist: std::mem::take(&mut args.log_allowlist_dir).into_iter().map(PathBuf::from).collect(),
            no_sync: args.no_sync_log,
            tag: args.log_tag.take(),
            labels: std::mem::take(&mut args.log_label),
            no_partial_message: args.no_container_partial_message,
            ..Self::default()
        };
        if args.log_path.is_empty() {
            return Err(Error::message("Log driver not provided. Use --log-path"));
        }
        for word in &args.log_path {
            log.add(log_path::parse(word)?);
        }
        if log.journald {
            log.check_journald(cid)?;
        }
        Ok(log)
    }

    fn add(&mut self, driver: Driver) {
        match driver {
            Driver::Nothing => {}
            Driver::Passthrough => self.passthrough = true,
            Driver::Journald => self.journald = true,
            Driver::K8sFile(path) => self.k8s_file = Some(path),
        }
    }

    fn check_journald(&self, cid: &OsStr) -> Result<()> {
        if cid.len() <= SHORT_ID_LEN {
            return Err(Error::message("Container ID must be longer than 12 characters"));
        }
        self.labels.iter().try_for_each(|label| check_label(label))
    }

    /// Refuses a tag or labels that no driver can hold, and warns of options without effect.
    ///
    /// To be called once the log is open: conmon does this so late that the log file is left behind.
    ///
    /// # Errors
    /// `--log-tag` or `--log-label` with a k8s file alone.
    pub fn check_tags(&self) -> Result<()> {
        if self.k8s_file.is_some() && !self.journald {
            if self.tag.is_some() {
                return Err(Error::message("k8s-file doesn't support --log-tag"));
            }
            if !self.labels.is_empty() {
                return Err(Error::message("k8s-file doesn't support --log-label"));
            }
        }
        if self.no_partial_message && !self.journald {
            diag::warn!("--no-container-partial-message has no effect without journald log driver");
        }
        Ok(())
    }
}

/// Limits of zero and below are none.
fn limit(bytes: Option<i64>) -> Option<u64> {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0)
}

/// `NAME=VALUE` with exactly one `=`; the name is a journal field's, the value may be empty.
fn check_label(label: &OsStr) -> Result<()> {
    let bytes = label.as_bytes();
    let shown = label.display();
    let wrong = |why: &str| {
        Err(Error::message(format!(
            "Container labels must be in format LABEL=VALUE ({why} present in '{shown}')"
        )))
    };
    let name = bytes.split(|byte| *byte == b'=').next().unwrap_or_default();
    if bytes.starts_with(b"=") {
        return wrong("no LABEL");
    }
    if bytes::count(b'=', bytes) != 1 {
        return wrong("none or more than one '='");
    }
    if !name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
        return Err(Error::message(format!(
            "Container label names must contain only uppercase letters, numbers and underscore (in '{shown}')"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(words: &[&str], change: impl FnOnce(&mut Args)) -> Result<LogConfig> {
        let mut args = Args { log_path: words.iter().map(OsString::from).collect(), ..Args::default() };
        change(&mut args);
        LogConfig::take(&mut args, OsStr::new("cid0123456789"))
    }

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn drivers_add_up_and_the_last_file_wins() {
        let log = taken(&["none", "x", "journald", "off", "y", "passthrough"], |_| ()).unwrap();
        assert_eq!((log.k8s_file, log.journald, log.passthrough), (Some("y".into()), true, true));
        assert_eq!(text(taken(&[], |_| ())), "Log driver not provided. Use --log-path");
        assert_eq!(text(taken(&["x", "", "y:z"], |_| ())), "log-path must not be empty");
    }

    #[test]
    fn limits_of_zero_and_below_are_off() {
        for (given, meant) in [(None, None), (Some(-1), None), (Some(0), None), (Some(1), Some(1))] {
            let log = taken(&["none"], |args| {
                args.log_size_max = given;
                args.log_global_size_max = given;
            });
            let log = log.unwrap();
            assert_eq!((log.size_max, log.global_size_max), (meant, meant));
        }
    }

    #[test]
    fn tags_need_a_driver_that_holds_them() {
        let tagged =
            |words: &[&str]| taken(words, |args| args.log_tag = Some("t".into())).unwrap().check_tags();
        assert_eq!(text(tagged(&["x"])), "k8s-file doesn't support --log-tag");
        for words in [&["none"][..], &["passthrough"], &["x", "journald"]] {
            assert!(tagged(words).is_ok(), "{words:?}");
        }
        let labelled = |words: &[&str]| {
            let log = taken(words, |args| args.log_label = vec!["not a label".into()]);
            log.and_then(|log| log.check_tags())
        };
        assert_eq!(text(labelled(&["x"])), "k8s-file doesn't support --log-label");
        assert!(labelled(&["none"]).is_ok());
        assert!(labelled(&["x", "journald"]).is_err());
    }

    #[test]
    fn labels_are_journal_fields() {
        let format = "Container labels must be in format LABEL=VALUE";
        let names = "Container label names must contain only uppercase letters, numbers and underscore";
        let cases = [
            ("A=b", String::new()),
            ("0_A=", String::new()),
            ("A", format!("{format} (none or more than one '=' present in 'A')")),
            ("", format!("{format} (none or more than one '=' present in '')")),
            ("A=B=C", format!("{format} (none or more than one '=' present in 'A=B=C')")),
            ("=b", format!("{format} (no LABEL present in '=b')")),
            ("a=b", format!("{names} (in 'a=b')")),
            ("A B=c", format!("{names} (in 'A B=c')")),
        ];
        for (label, expected) in cases {
            let result = taken(&["journald"], |args| args.log_label = vec![label.into()]);
            let got = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(got, expected, "{label}");
        }
    }

    #[test]
    fn journald_needs_a_long_id() {
        let take = |cid: &str| {
            let mut args = Args { log_path: vec!["journald".into()], ..Args::default() };
            LogConfig::take(&mut args, OsStr::new(cid))
        };
        assert_eq!(text(take("abcdefghijkl")), "Container ID must be longer than 12 characters");
        assert!(take("abcdefghijklm").is_ok());
    }
}
