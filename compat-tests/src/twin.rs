//! One scenario, two monitors: it runs with the original and with ours, and both transcripts must be equal.
//!
//! `ORIGINAL_CONMON` names the original (otherwise it is the installed `conmon`), `OURS_UNDER_TEST` ours (otherwise
//! the program that was built beside this test). Deviations are entries in `known-differences`; an entry that no
//! longer differs fails its test. With `SHOW_TRANSCRIPTS` set both are printed (`--nocapture` shows them). With
//! `OURS_ALONE` set only ours runs, for machines too slow for both: then a scenario's own checks are the test.

use std::path::PathBuf;

use crate::bench::built;
use crate::differences::{listed_sections, version};
use crate::image::find_program;
use crate::transcript::{Transcript, differences};

/// One of the two programs of a scenario.
#[derive(Clone, Debug)]
pub struct Side {
    pub name: &'static str,
    /// Absolute.
    pub program: PathBuf,
}

/// Runs `scenario` with both programs. `name` is the test's: `file::function`.
pub fn compare(name: &str, scenario: impl Fn(&Side, &mut Transcript)) {
    if std::env::var_os("OURS_ALONE").is_some() {
        eprintln!("{name} with ours alone");
        return scenario(&Side { name: "ours", program: our_program() }, &mut Transcript::new());
    }
    let sides = [
        Side { name: "original", program: original_program() },
        Side { name: "ours", program: our_program() },
    ];
    let [original, ours] = sides.map(|side| {
        eprintln!("{name} with {}", side.program.display());
        let mut transcript = Transcript::new();
        transcript.mask(side.program.to_string_lossy(), "conmon");
        scenario(&side, &mut transcript);
        if std::env::var_os("SHOW_TRANSCRIPTS").is_some() {
            for section in transcript.sections() {
                eprintln!("{}: {name}: {} {:?}", side.name, section.name, section.text);
            }
        }
        transcript
    });
    let expected = listed_sections(name, version(&original_program()));
    let found = differences(&original, &ours);
    let vanished: Vec<&&str> =
        expected.iter().filter(|section| found.iter().all(|(name, _)| name != *section)).collect();
    assert!(vanished.is_empty(), "{name}: known differences that have vanished: {vanished:?}");
    let text: String = found
        .iter()
        .filter(|(section, _)| !expected.contains(&section.as_str()))
        .map(|(section, texts)| format!("{section}\n{texts}"))
        .collect();
    assert!(text.is_empty(), "{name}: ours differs from the original in\n{text}");
}

/// The program that ours is compared with.
pub fn original_program() -> PathBuf {
    let named = std::env::var_os("ORIGINAL_CONMON").filter(|path| !path.is_empty()).map(PathBuf::from);
    named
        .or_else(|| find_program("conmon"))
        .unwrap_or_else(|| panic!("no conmon to compare with; install it"))
}

/// Ours: `OURS_UNDER_TEST`, or the debug build beside the test executable.
pub fn our_program() -> PathBuf {
    let named = std::env::var_os("OURS_UNDER_TEST").filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = named.unwrap_or_else(|| built("conmon"));
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; build it first", path.display()))
}

/// Whether all `programs` are installed. With `CI=true` a missing one fails the test, so that nothing is left out.
pub fn installed(programs: &[&str]) -> bool {
    for name in programs {
        if find_program(name).is_none() {
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{name} is not installed");
            eprintln!("left out: {name} is not installed");
            return false;
        }
    }
    true
}

/// Runs one scenario in a bench with both programs; the test's name comes from the function it stands in. The first
/// argument lists programs that must be installed.
#[macro_export]
macro_rules! bench_twin {
    ($programs:expr, $scenario:expr) => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here).trim_end_matches("::here");
        if $crate::twin::installed($programs) {
            $crate::twin::compare(name, |side, transcript| {
                let bench = $crate::Bench::with_program(&side.program);
                transcript.mask(bench.dir().to_string_lossy(), "dir");
                // Coerces the closure, so that its parameters need no types.
                let scenario: fn(&$crate::Bench, &mut $crate::transcript::Transcript) = $scenario;
                scenario(&bench, transcript);
            });
        }
    }};
}

/// Runs one scenario of podman with both programs; the test's name comes from the function it stands in.
#[macro_export]
macro_rules! podman_twin {
    ($scenario:expr) => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here).trim_end_matches("::here");
        if $crate::twin::installed(&["podman", "runc", "conmon", "busybox"]) {
            $crate::twin::compare(name, |side, transcript| {
                let podman = $crate::podman::Podman::new(side, transcript);
                // Coerces the closure, so that its parameters need no types.
                let scenario: fn(&$crate::podman::Podman, &mut $crate::transcript::Transcript) = $scenario;
                scenario(&podman, transcript);
                podman.finish();
            });
        }
    }};
}

/// Runs one scenario of podman without root with both programs; the test's name comes from the function it stands in.
#[macro_export]
macro_rules! rootless_twin {
    ($scenario:expr) => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here).trim_end_matches("::here");
        if $crate::twin::installed(&["podman", "runc", "conmon", "busybox", "setpriv", "newuidmap"]) {
            $crate::twin::compare(name, |side, transcript| {
                let Some(podman) = $crate::podman::Podman::rootless(side, transcript) else { return };
                // Coerces the closure, so that its parameters need no types.
                let scenario: fn(&$crate::podman::Podman, &mut $crate::transcript::Transcript) = $scenario;
                scenario(&podman, transcript);
                podman.finish();
            });
        }
    }};
}
