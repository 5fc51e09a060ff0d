//! Any text of a runtime makes one valid JSON line that fits a reader's buffer and ends as the text does.

#![no_main]

use ferromon::report::sync_pipe::{Key, REPORT_MAX, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, message)) = data.split_first() else { return };
    let (key, name) =
        [(Key::Data, "data"), (Key::Pid, "pid"), (Key::ExitCode, "exit_code")][usize::from(first % 3)];
    let number = i32::from(*first) - 100;
    // The interesting length is beyond what a fuzzer makes.
    let message = message.repeat(1 + usize::from(first >> 2));
    let report = render(key, number, &message);
    assert!(report.len() <= REPORT_MAX);
    assert_eq!(report.iter().position(|byte| *byte == b'\n'), Some(report.len() - 1));
    let parsed: serde_json::Value = serde_json::from_slice(&report).expect("valid JSON");
    assert_eq!(parsed[name], number);
    let whole = String::from_utf8_lossy(&message);
    let sent = parsed["message"].as_str().unwrap_or_default();
    assert!(whole.ends_with(sent));
    assert!(sent.len() == whole.len() || report.len() > REPORT_MAX - 6, "cut more than it had to");
});
