//! One test, two programs.
//!
//! Without `CONMON_UNDER_TEST` a test runs on ours and must pass. With it the test runs on that program: it must pass
//! there as well, which proves that it tests conmon's behaviour; unless `known-differences` lists it for the version at
//! hand, then it must fail, so that a difference that has vanished does not stay on the list. The side-by-side tests
//! ([`crate::twin`]) list single sections of their transcripts in the same way, as `test/section`.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::deadline;

/// The list: `test | versions | reason` a line, `#` starts a comment.
const LIST: &str = include_str!("../known-differences");

/// Runs the rest of the test function on the program under test.
#[macro_export]
macro_rules! behaviour {
    ($body:expr) => {{
        fn here() {}
        $crate::differences::run(::std::any::type_name_of_val(&here), $body)
    }};
}

/// The original named by `CONMON_UNDER_TEST`.
#[must_use]
pub fn original() -> Option<PathBuf> {
    std::env::var_os("CONMON_UNDER_TEST").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Runs `body`; `place` is the path of an item inside the test function, as [`behaviour!`] passes it.
pub fn run(place: &str, body: impl FnOnce()) {
    let name = place.trim_end_matches("::here");
    let Some(program) = original() else { return body() };
    let Some(reason) = listed(LIST, name, version(&program)) else { return body() };
    deadline::expect_failure(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    deadline::expect_failure(false);
    match result {
        Ok(()) => panic!("a difference that vanished: {name} ({reason})"),
        Err(error) if error.is::<Broken>() => resume_unwind(error),
        Err(_) => eprintln!("known difference: {name} ({reason})"),
    }
}

/// Panic payload for "the fixture itself is at fault", which no known difference excuses.
#[derive(Clone, Copy, Debug)]
pub struct Broken;

/// Major, minor and patch level.
pub type Version = (u32, u32, u32);

/// The version of the original, which `program` is.
///
/// # Panics
/// When it says none.
pub fn version(program: &Path) -> Version {
    static VERSION: OnceLock<Version> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let output = Command::new(program).arg("--version").output().expect("conmon --version");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.strip_prefix("conmon version ").and_then(|rest| rest.lines().next());
        parse_version(number.unwrap_or_else(|| panic!("no version in {text:?}")))
    })
}

fn parse_version(text: &str) -> Version {
    let mut parts = text.trim().split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// The reason why `name` is expected to fail on `version`.
fn listed<'a>(list: &'a str, name: &str, version: Version) -> Option<&'a str> {
    entries(list).find(|entry| entry.0 == name && applies(entry.1, version)).map(|entry| entry.2)
}

fn entries(list: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let mut fields = line.splitn(3, '|').map(str::trim);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(versions), Some(reason)) if !reason.is_empty() => (name, versions, reason),
            _ => panic!("known-differences: not `test | versions | reason`: {line}"),
        }
    })
}

/// Whether `versions` (`*`, or conditions such as `>=2.0.19 <2.2`) covers `version`.
fn applies(versions: &str, version: Version) -> bool {
    versions.split_whitespace().all(|condition| match condition {
        "*" => true,
        _ => {
            let digit = condition.find(|c: char| c.is_ascii_digit()).unwrap_or(condition.len());
            let (operator, number) = condition.split_at(digit);
            let other = parse_version(number);
            match operator {
                "<" => version < other,
                "<=" => version <= other,
                ">" => version > other,
                ">=" => version >= other,
                "=" => version == other,
                _ => panic!("known-differences: unknown condition {condition}"),
            }
        }
    })
}

/// The sections in which the transcripts of the side-by-side test `name` are expected to differ from `version`'s:
/// entries are named `test/section` there.
pub(crate) fn listed_sections(name: &str, version: Version) -> Vec<&'static str> {
    let here = entries(LIST).filter(|entry| applies(entry.1, version));
    here.filter_map(|entry| entry.0.strip_prefix(name)?.strip_prefix('/')).collect()
}

/// Names of listed tests that no file of `folders` defines.
#[must_use]
pub fn orphans(folders: &[&Path]) -> Vec<String> {
    let exists = |name: &str| {
        let mut parts = name.split('/').next().unwrap_or_default().split("::");
        let file = parts.next().unwrap_or_default();
        let function = parts.last().unwrap_or_default();
        folders.iter().any(|folder| {
            let source = std::fs::read_to_string(folder.join(OsStr::new(file)).with_extension("rs"));
            source.is_ok_and(|text| text.contains(&format!("fn {function}()")))
        })
    };
    entries(LIST).map(|entry| entry.0).filter(|name| !exists(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (versions, version, expected) in [
            ("*", (2, 1, 6), true),
            ("<2.2", (2, 1, 6), true),
            ("<2.2", (2, 2, 0), false),
            (">=2.1.10", (2, 1, 6), false),
            (">=2.1.2 <2.2", (2, 1, 13), true),
            ("=2.1.6", (2, 1, 6), true),
        ] {
            assert_eq!(applies(versions, version), expected, "{versions} {version:?}");
        }
    }

    #[test]
    fn entries_are_found_by_name_and_version() {
        let list = "# comment\n\na::b | <2.2 | too old\na::c | * | always\n";
        assert_eq!(listed(list, "a::b", (2, 1, 6)), Some("too old"));
        assert_eq!(listed(list, "a::b", (2, 2, 1)), None);
        assert_eq!(listed(list, "a::c", (2, 2, 1)), Some("always"));
        assert_eq!(listed(list, "a", (2, 2, 1)), None);
    }

    #[test]
    fn every_listed_test_exists() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(orphans(&[&here.join("../tests"), &here.join("tests")]), Vec::<String>::new());
    }
}
