use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

impl Zone {
    /// From 1970 on.
    pub(in crate::log) fn named_for_tests(name: &str) -> Self {
        Self::named(Some(OsStr::new(name)), OsStr::new(DIRECTORY), 0)
    }
}

/// A file of version 2 with nothing in its first block.
fn file(changes: &[(i64, u8)], types: &[(i32, u8)], footer: &str) -> Vec<u8> {
    let header = |changes: usize, types: usize, letters: u8| {
        let mut header = b"TZif2".to_vec();
        header.resize(32, 0);
        header.extend(u32::try_from(changes).unwrap().to_be_bytes());
        header.extend(u32::try_from(types).unwrap().to_be_bytes());
        header.extend([0, 0, 0, letters]);
        header
    };
    let mut file = header(0, 1, 1);
    file.extend([0; 7]);
    file.extend(header(changes.len(), types.len(), 4));
    file.extend(changes.iter().flat_map(|(at, _)| at.to_be_bytes()));
    file.extend(changes.iter().map(|(_, kind)| *kind));
    for (offset, summer) in types {
        file.extend(offset.to_be_bytes());
        file.extend([*summer, 0]);
    }
    file.extend(b"ABC\0");
    file.extend(format!("\n{footer}\n").bytes());
    file
}

#[test]
fn a_file_has_changes_and_then_a_rule() {
    let file = file(&[(1000, 1), (2000, 0), (3000, 2)], &[(60, 0), (120, 1), (180, 0)], "XYZ-1");
    let zone = Zone::parse(&file, 0).unwrap();
    let found: Vec<i32> = [0, 999, 1000, 1999, 2000, 2999, 3000].map(|moment| zone.offset(moment)).into();
    assert_eq!(found, [60, 60, 120, 120, 60, 60, 3600]);
}

#[test]
fn without_a_rule_the_last_change_holds() {
    let zone = Zone::parse(&file(&[(1000, 1)], &[(60, 1), (120, 0)], ""), 0).unwrap();
    assert_eq!([999, 1000, 1 << 40].map(|moment| zone.offset(moment)), [120, 120, 120]);
}

#[test]
fn only_what_is_ahead_is_kept() {
    let file = file(&[(1000, 1), (2000, 0), (3000, 1)], &[(60, 0), (120, 1)], "");
    let zone = Zone::parse(&file, 2500).unwrap();
    assert_eq!(zone.changes.len(), 2);
    assert_eq!([1999, 2000, 3000].map(|moment| zone.offset(moment)), [120, 60, 120]);
}

#[test]
fn a_broken_file_is_no_zone() {
    let whole = file(&[(1000, 1), (2000, 0)], &[(60, 0), (120, 1)], "XYZ-1");
    let footer = whole.len() - "\nXYZ-1\n".len();
    for length in 0..footer {
        // Cut off behind the types nothing that is needed is missing.
        assert!(Zone::parse(&whole[..length], 0).is_none() || length >= footer - 4, "{length}");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            // Whatever it says.
            let _ = Zone::parse(&broken, 0).map(|zone| zone.offset(1500));
        }
    }
}

#[test]
fn an_unknown_zone_is_utc() {
    for name in [
        "",
        ":",
        "Nowhere/Land",
        "bro ken",
        "ABC",
        "A5",
        "123",
        ".",
        "/",
        "/dev/null",
        "/dev/zero",
        "XY3",
        "<A",
    ] {
        assert_eq!(Zone::named_for_tests(name).offset(0), 0, "{name}");
    }
}

#[test]
fn a_summer_time_without_dates_is_that_of_the_united_states() {
    for zone in ["CET-1CEST", "CET-1CEST,"] {
        let zone = Zone::named_for_tests(zone);
        // 2027-03-14 and 2027-11-07, at two o'clock local time.
        let turns = [1_804_986_000, 1_825_545_600];
        let found = turns.map(|turn| [zone.offset(turn - 1), zone.offset(turn)]);
        assert_eq!(found, [[3600, 7200], [7200, 3600]]);
    }
}

/// Moments from 1970 to 2100, and the half hours of 2027, at which clocks are changed, each with the second before.
fn moments() -> impl Iterator<Item = i64> {
    let half_hours = (0..365 * 48).map(|half| 1_798_761_600 + half * 1800);
    (0..9500).map(|nth| nth * 5 * 86_400).chain(half_hours.flat_map(|moment| [moment - 1, moment]))
}

/// What glibc makes of `zone`, by date(1).
fn by_date(zone: &str, asked: &str) -> Vec<i32> {
    let mut date = Command::new("date")
        .args(["-f", "-", "+%::z"])
        .env("TZ", zone)
        .env_remove("TZDIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = date.stdin.take().unwrap();
    let asked = asked.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = date.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(seconds).collect()
}

/// `+05:30:00` in seconds.
fn seconds(offset: &str) -> i32 {
    let size = offset[1..].split(':').fold(0, |sum, part| sum * 60 + part.parse::<i32>().unwrap());
    if offset.starts_with('-') { -size } else { size }
}

#[test]
fn every_offset_is_that_of_date() {
    let asked: String = moments().map(|moment| format!("@{moment}\n")).collect();
    for name in [
        "",
        "UTC0",
        "Europe/Berlin",
        ":America/New_York",
        "Europe/Dublin",
        "Africa/Casablanca",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Antarctica/Troll",
        "EST5EDT",
        "../zoneinfo/Asia/Tokyo",
        "/usr/share/zoneinfo/Asia/Tokyo",
        "/etc/localtime",
        "IST-5:30",
        "<+0330>-3:30:15",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "LHST-10:30LHDT-11,M10.1.0,M4.1.0",
        "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
        "IST-2IDT,M3.4.4/26,M10.5.0",
        "ABC3DEF,J60/0,J300",
        "ABC3DEF,59/0,300/23:59:59",
        "ABC25",
        "EST5EDT,0,364",
        "Nowhere/Land",
    ] {
        let zone = Zone::named_for_tests(name);
        let theirs = by_date(name, &asked);
        assert_eq!(theirs.len(), moments().count(), "{name}");
        for (moment, theirs) in moments().zip(theirs) {
            assert_eq!(zone.offset(moment), theirs, "{name} at {moment}");
        }
    }
}
