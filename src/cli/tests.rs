//! Every option arrives, byte for byte, and no line of words upsets the parser.
//! The scanner's own tables are beside it, in `goption.rs`; recorded runs of conmon are in `tests/cli.rs`.

use std::os::unix::ffi::OsStringExt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::goption::{Scan, scan};
use super::*;

fn parsed(words: &[&str]) -> Args {
    match parse(words.iter().map(OsString::from)).unwrap() {
        Parsed::Run(args) => *args,
        Parsed::Print(text) => panic!("{words:?} prints {text}"),
    }
}

#[test]
fn the_table_is_sound() {
    table().debug_assert();
}

/// Guards `collect` against names that the table lacks: with each option given alone, exactly one field changes.
#[test]
fn every_row_of_the_table_reaches_its_field() {
    for option in table().get_arguments() {
        let name = option.get_id().as_str();
        if [table::HELP, table::VERSION].contains(&name) {
            continue;
        }
        let args = parsed(&[&format!("--{name}=7")]);
        let wanted = format!("{}: ", name.replace('-', "_"));
        let before = format!("{:#?}", Args::default());
        let after = format!("{args:#?}");
        let changed: Vec<_> =
            after.lines().filter(|line| !before.lines().any(|old| old == *line)).map(str::trim).collect();
        assert!(changed.first().is_some_and(|line| line.starts_with(&wanted)), "--{name} gives {changed:?}");
        assert!(after.contains('7') || after.contains("true"), "--{name} gives {after}");
    }
}

#[test]
fn repeats_follow_the_kind_of_the_option() {
    let args = parsed(&[
        "-c",
        "first",
        "-c",
        "second",
        "-i",
        "-i",
        "-T",
        "1",
        "--timeout=2",
        "-p",
        "a",
        "--pidfile",
        "b",
        "-l",
        "x",
        "-l",
        "",
        "--runtime-opt",
        "1",
        "--restore-arg",
        "2",
        "--runtime-opt",
        "3",
    ]);
    assert_eq!(args.cid, Some("second".into()));
    assert!(args.stdin);
    assert_eq!(args.timeout, Some(2));
    assert_eq!(args.container_pidfile, Some("b".into()));
    assert_eq!(args.log_path, ["x", ""]);
    assert_eq!(args.runtime_opt, ["1", "2", "3"]);
}

#[test]
fn integers_keep_their_width() {
    let args =
        parsed(&["--log-size-max=-9223372036854775808", "--exit-delay=-2147483648", "-T", " 0x7fffffff"]);
    assert_eq!(args.log_size_max, Some(i64::MIN));
    assert_eq!(args.exit_delay, Some(i32::MIN));
    assert_eq!(args.timeout, Some(i32::MAX));
}

#[test]
fn version_waits_for_the_end_of_the_line_and_help_does_not() {
    let print = |words: &[&str]| match parse(words.iter().map(OsString::from)) {
        Ok(Parsed::Print(text)) => Some(text),
        _ => None,
    };
    assert!(
        print(&["--version", "-c", "x"])
            .is_some_and(|text| text.starts_with("conmon version 2.2.1\ncommit: "))
    );
    assert_eq!(print(&["--version", "--nope"]), None);
    assert!(print(&["--version", "--help", "--nope"]).is_some_and(|text| text.starts_with("Usage:\n")));
}

/// Names of the options that take text, by whether they are lists.
fn text_options() -> Vec<(String, bool)> {
    let takes_text = |o: &&clap::Arg| o.get_value_parser().type_id() == std::any::TypeId::of::<OsString>();
    let takes_value = |o: &&clap::Arg| o.get_action().takes_values();
    let is_list = |o: &clap::Arg| matches!(o.get_action(), clap::ArgAction::Append);
    let table = table();
    let found = table.get_arguments().filter(takes_value).filter(takes_text);
    found.map(|o| (o.get_id().to_string(), is_list(o))).collect()
}

fn bytes() -> impl Strategy<Value = OsString> {
    vec(any::<u8>(), 0..12).prop_map(OsString::from_vec)
}

/// Words that look like options often enough to get past the first one.
fn word() -> impl Strategy<Value = OsString> {
    let names: Vec<String> = table().get_arguments().map(|option| option.get_id().to_string()).collect();
    let long = (select(names), any::<bool>(), bytes()).prop_map(|(name, attach, value)| {
        let mut word = OsString::from(format!("--{name}"));
        if attach {
            word.push("=");
            word.push(value);
        }
        word
    });
    let bundle = vec(select(b"bcPpuelniOr0isttT-?hz\xe9".to_vec()), 1..4)
        .prop_map(|letters| OsString::from_vec([b"-".as_slice(), &letters].concat()));
    let number = select(vec!["-1", "0x10", "08", "", "99999999999999999999", "--"]).prop_map(OsString::from);
    prop_oneof![3 => long, 2 => bundle, 1 => number, 1 => bytes()]
}

proptest! {
    #[test]
    fn no_words_upset_the_parser(words in vec(word(), 0..10)) {
        match parse(words) {
            Ok(_) => {}
            Err(Error::Usage(text)) => prop_assert!(text.as_encoded_bytes().starts_with(b"option parsing failed: ")),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn clap_agrees_with_the_scanner(words in vec(word(), 0..10)) {
        if let Ok(Scan::Words(canonical)) = scan(&table(), words) {
            prop_assert!(table().try_get_matches_from(canonical).is_ok());
        }
    }

    #[test]
    fn canonical_words_scan_to_themselves(words in vec(word(), 0..10)) {
        if let Ok(Scan::Words(canonical)) = scan(&table(), words) {
            prop_assert_eq!(scan(&table(), canonical.clone()).unwrap(), Scan::Words(canonical));
        }
    }

    #[test]
    fn a_value_arrives_byte_for_byte(option in select(text_options()), attach in any::<bool>(), value in bytes()) {
        let (name, is_list) = option;
        let mut words = vec![OsString::from(format!("--{name}"))];
        if attach {
            words[0].push("=");
            words[0].push(&value);
        } else {
            words.push(value.clone());
        }
        let Scan::Words(canonical) = scan(&table(), words).unwrap() else { panic!("help") };
        let mut given = table().try_get_matches_from(canonical).unwrap();
        let got = if is_list { all(&mut given, &name) } else { Vec::from_iter(last::<OsString>(&mut given, &name)) };
        prop_assert_eq!(got, [value]);
    }
}
