use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

impl Zone {
    /// From 1970 on.
    pub(in crate::log) fn named_for_tests(name: &str) -> Self {
        Self::named(Some(OsStr::new(name)), DIRECTORY, 0)
    }
}

#[test]
fn an_unknown_zone_is_utc() {
    for name in ["", ":", "Nowhere/Land", "bro ken", "ABC", "123", ".", "/", "/dev/null", "/dev/zero", "<A"] {
        assert_eq!(Zone::named_for_tests(name).offset(0), 0, "{name}");
    }
}

#[test]
fn a_broken_file_does_no_harm() {
    let whole = file("CET-1CEST,M3.5.0,M10.5.0/3");
    for length in 0..whole.len() {
        let _ = TimeZone::from_tz_data(&whole[..length]);
    }
    let real = read("/usr/share/zoneinfo/Europe/Berlin").unwrap();
    for at in 0..real.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut broken = real.clone();
            broken[at] = value;
            // Whatever it says.
            let zone = TimeZone::from_tz_data(&broken).ok();
            let _ = zone.and_then(|zone| kind(&ahead(&zone, 1500)?, 1500).map(LocalTimeType::ut_offset));
        }
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
