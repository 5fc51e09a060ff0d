//! Every log path is understood the same with more colons, names no path that was not typed, and fails with a reason.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ferromon::config::log_path::{Driver, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.contains(&0) {
        return;
    }
    match parse(OsStr::from_bytes(data)) {
        Ok(Driver::K8sFile(path)) => {
            let path = path.as_os_str().as_bytes();
            assert!(!path.is_empty() && !path.starts_with(b":"));
            assert!(data.windows(path.len()).any(|part| part == path));
            // A path can always be given behind the driver's name, whatever is in it.
            let named = [b"k8s-file:", path].concat();
            assert_eq!(
                parse(OsStr::from_bytes(&named)).ok(),
                Some(Driver::K8sFile(OsStr::from_bytes(path).into()))
            );
        }
        Ok(driver) => {
            let words: &[&[u8]] = match driver {
                Driver::Nothing => &[b"off", b"null", b"none"],
                Driver::Passthrough => &[b"passthrough"],
                Driver::Journald => &[b"journald"],
                Driver::K8sFile(_) => unreachable!("above"),
            };
            let typed = data.iter().position(|byte| *byte != b':').unwrap_or(0);
            assert!(words.iter().any(|word| data[typed..].starts_with(word)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
