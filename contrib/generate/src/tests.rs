//! The committed files are current, and what `conmon.8.in` adds to the table is what the monitor accepts.

use std::ffi::OsString;

use ferromon::cli::{self, Parsed};
use ferromon::config::{Config, log_path};

use super::*;
use crate::entry::{Entry, Words};

fn entries() -> Vec<Entry> {
    page::read(include_str!("../conmon.8.in"), &cli::table(), "0").unwrap().entries
}

#[test]
fn the_committed_files_are_current() {
    for (path, text) in files().unwrap() {
        let there = fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default();
        assert!(there == text, "{path} is out of date: run `make docs`");
    }
}

#[test]
fn a_template_that_does_not_fit_the_table_is_refused() {
    let template = include_str!("../conmon.8.in");
    let refusal = |template: &str| page::read(template, &cli::table(), "0").unwrap_err();
    assert_eq!(refusal(""), "0 lines for the option api-version");
    assert_eq!(refusal(&format!("{template}@option sync - none\n")), "2 lines for the option sync");
    assert_eq!(refusal("@option nonsense - none"), "the table has no option nonsense");
    assert_eq!(refusal("@option sync"), "not NAME VALUE WORDS: sync");
    assert!(refusal("@option sync FILE file").contains("takes a value, or it does not"));
}

/// A command line that is whole but for `words`.
fn config(words: &[&str]) -> Result<(), String> {
    let line = ["-c", "0123456789abc", "-u", "u", "-r", "/bin/sh", "-l", "none"];
    let words = line.iter().chain(words).map(OsString::from);
    match cli::parse(words).map_err(|error| error.to_string())? {
        Parsed::Run(args) => Config::try_from(*args).map(drop).map_err(|error| error.to_string()),
        Parsed::Print(text) => Err(text),
    }
}

#[test]
fn every_word_that_is_offered_is_accepted() {
    let mut checked = 0;
    for entry in entries() {
        if let Words::These(words) = &entry.words {
            for word in words {
                assert_eq!(config(&[&format!("--{}={word}", entry.long)]), Ok(()), "{} {word}", entry.long);
                checked += 1;
            }
        }
    }
    assert!(checked > 0 && config(&["--log-level=loud"]).is_err());
}

#[test]
fn every_log_driver_that_is_offered_is_one() {
    for driver in shells::DRIVERS {
        let word = if driver.ends_with(':') { format!("{driver}/x") } else { driver.to_owned() };
        let known = log_path::parse(word.as_ref()).unwrap();
        // Anything else than a driver is the name of a file.
        let file = matches!(&known, log_path::Driver::K8sFile(path) if path.as_os_str() == word.as_str());
        assert!(!file, "{driver}: {known:?}");
    }
}

#[test]
fn every_spelling_is_accepted() {
    let mut checked = 0;
    for entry in entries().into_iter().filter(|entry| !["help", "version"].contains(&entry.long.as_str())) {
        for spelling in entry.spellings() {
            let value = if entry.words == Words::Flag { None } else { Some("1".to_owned()) };
            let words: Vec<OsString> =
                [Some(spelling.clone()), value].into_iter().flatten().map(Into::into).collect();
            assert!(matches!(cli::parse(words), Ok(Parsed::Run(_))), "{spelling}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

/// What bash offers for each of `lines`, whose last word is being typed, with `=` and `:` as word breaks or not.
fn in_bash(breaks: &str, lines: &[&str]) -> Vec<String> {
    let script = r#"
        source "$1" && complete -p conmon >/dev/null || exit
        COMP_WORDBREAKS=$2
        shift 2
        for line; do
            COMP_LINE=$line COMP_POINT=${#line}
            _conmon
            echo "${COMPREPLY[*]}"
        done"#;
    let file = Path::new(ROOT).join("contrib/completions/conmon.bash");
    let mut bash = std::process::Command::new("bash");
    bash.args(["--noprofile", "--norc", "-c", script, "bash"]).arg(file).arg(breaks).args(lines);
    let output = bash.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_names_and_values() {
    let cases = [
        ("conmon --log-l", "--log-label --log-level"),
        ("conmon -i --nam", "--name"),
        ("conmon --log-level ", "panic fatal error warn warning info debug trace"),
        ("conmon --log-level=de", "debug"),
        ("conmon -l j", "journald"),
        ("conmon --log-path=k", "k8s-file:"),
        ("conmon -l k8s-file:Cargo", "Cargo.toml"),
        ("conmon --log-path=k8s-file:Cargo", "Cargo.toml"),
        ("conmon --pidfile Car", "Cargo.toml"),
        ("conmon -b s", "src"),
        ("conmon -b Car", ""),
        ("conmon -c ", ""),
        ("conmon --sync=x", ""),
    ];
    let (lines, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let mut found = in_bash(" \t\n\"'><=;|&(:", &lines);
    // Options are offered in the page's order.
    found
        .iter_mut()
        .take(1)
        .for_each(|words| assert!(words.contains("--log-level") && !words.contains("-i")));
    assert_eq!(found.split_off(1), expected[1..]);
    let whole = in_bash(" \t\n", &["conmon --log-path=k8s-file:Cargo", "conmon -l k8s-file:Cargo"]);
    assert_eq!(whole, ["--log-path=k8s-file:Cargo.toml", "k8s-file:Cargo.toml"]);
}
