//! A zone written as a rule, such as `CET-1CEST,M3.5.0,M10.5.0/3`: in `TZ`, and at the end of a zone's file.
//!
//! As lenient as conmon's C library: numbers that are too large count as the largest, and who names a summer time but
//! not when it is has that of the United States. What can't be understood at all is no rule.

use time::{Date, Month, OffsetDateTime};

const HOUR: i32 = 3600;
const DAY: i64 = 24 * 3600;
/// 1970-01-01 by Date's count of days, and its day of the week, from Sunday on.
const EPOCH: i32 = 2_440_588;
const EPOCH_WEEKDAY: i32 = 4;

/// Offsets are seconds east of UTC.
#[derive(Debug)]
pub(super) struct Rule {
    standard: i32,
    summer: Option<Summer>,
}

#[derive(Debug)]
struct Summer {
    offset: i32,
    begin: Turn,
    end: Turn,
}

/// When the clocks are changed: a day of the year, and seconds from its midnight on.
#[derive(Clone, Copy, Debug)]
struct Turn {
    day: Day,
    time: i32,
}

#[derive(Clone, Copy, Debug)]
enum Day {
    /// From 0 on.
    OfYear(i32),
    /// From 1 on; there is no 29 February.
    OfShortYear(i32),
    /// The fifth is the last; weekdays from Sunday on.
    Weekday { month: Month, week: i32, weekday: i32 },
}

const UNITED_STATES: [Turn; 2] = [
    Turn { day: Day::Weekday { month: Month::March, week: 2, weekday: 0 }, time: 2 * HOUR },
    Turn { day: Day::Weekday { month: Month::November, week: 1, weekday: 0 }, time: 2 * HOUR },
];

impl Rule {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut text = Text(text);
        text.name()?;
        let standard = text.offset()?;
        let summer = text.name().and_then(|()| {
            let offset = text.offset().unwrap_or(standard + HOUR);
            let [begin, end] = if matches!(text.0, [] | [b',' | b'\n']) {
                UNITED_STATES
            } else {
                [text.turn()?, text.turn()?]
            };
            Some(Summer { offset, begin, end })
        });
        Some(Self { standard, summer })
    }

    pub(super) fn offset(&self, moment: i64) -> i32 {
        match &self.summer {
            Some(summer) if summer.holds(self.standard, moment).unwrap_or(false) => summer.offset,
            _ => self.standard,
        }
    }
}

impl Summer {
    /// `None` for years that are no real ones.
    fn holds(&self, standard: i32, moment: i64) -> Option<bool> {
        let year = OffsetDateTime::from_unix_timestamp(moment).ok()?.year();
        let begin = self.begin.at(year)? - i64::from(standard);
        let end = self.end.at(year)? - i64::from(self.offset);
        // South of the equator the year begins in summer.
        Some(if begin <= end { begin <= moment && moment < end } else { moment < end || begin <= moment })
    }
}

impl Turn {
    /// In local seconds since 1970.
    fn at(self, year: i32) -> Option<i64> {
        let first = Date::from_calendar_date(year, Month::January, 1).ok()?.to_julian_day() - EPOCH;
        let day = match self.day {
            Day::OfYear(day) => first + day,
            Day::OfShortYear(day) => first + day - 1 + i32::from(day >= 60 && time::util::is_leap_year(year)),
            Day::Weekday { month, week, weekday } => {
                let first = Date::from_calendar_date(year, month, 1).ok()?.to_julian_day() - EPOCH;
                let day = (weekday - first - EPOCH_WEEKDAY).rem_euclid(7) + 7 * (week - 1);
                first + if day < i32::from(month.length(year)) { day } else { day - 7 }
            }
        };
        Some(i64::from(day) * DAY + i64::from(self.time))
    }
}

/// What has not been read yet.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    /// Three letters or more, or `<+0330>`.
    fn name(&mut self) -> Option<()> {
        let (quoted, text) = match self.0.strip_prefix(b"<") {
            Some(rest) => (true, rest),
            None => (false, self.0),
        };
        let fits = |byte: &u8| {
            byte.is_ascii_alphabetic() || quoted && (byte.is_ascii_digit() || matches!(byte, b'+' | b'-'))
        };
        let length = text.iter().take_while(|byte| fits(byte)).count();
        let rest = text.get(length..)?;
        self.0 = if quoted { rest.strip_prefix(b">")? } else { rest };
        (length >= 3).then_some(())
    }

    /// Hours west of Greenwich, made seconds east of it.
    fn offset(&mut self) -> Option<i32> {
        let sign = self.sign();
        let [hours, minutes, seconds] = self.clock()?;
        Some(-sign * (hours.min(24) * HOUR + minutes.min(59) * 60 + seconds.min(59)))
    }

    /// `,M3.2.0/2:00:00`
    fn turn(&mut self) -> Option<Turn> {
        self.skip(b',');
        let day = self.day()?;
        let time = if self.skip(b'/') {
            let sign = self.sign();
            let [hours, minutes, seconds] = self.clock()?;
            sign * (hours * HOUR + minutes * 60 + seconds)
        } else {
            2 * HOUR
        };
        Some(Turn { day, time })
    }

    fn day(&mut self) -> Option<Day> {
        if self.skip(b'J') {
            return self.number().filter(|day| (1..=365).contains(day)).map(Day::OfShortYear);
        }
        if !self.skip(b'M') {
            return self.number().filter(|day| *day <= 365).map(Day::OfYear);
        }
        let month = Month::try_from(u8::try_from(self.number()?).ok()?).ok()?;
        let week = self.skip(b'.').then(|| self.number()).flatten().filter(|week| (1..=5).contains(week))?;
        let weekday = self.skip(b'.').then(|| self.number()).flatten().filter(|day| *day <= 6)?;
        Some(Day::Weekday { month, week, weekday })
    }

    /// `2`, `2:30` or `2:30:15`
    fn clock(&mut self) -> Option<[i32; 3]> {
        let mut clock = [self.number()?, 0, 0];
        for part in clock.iter_mut().skip(1) {
            if !(self.0.get(1).is_some_and(u8::is_ascii_digit) && self.skip(b':')) {
                break;
            }
            *part = self.number()?;
        }
        Some(clock)
    }

    fn sign(&mut self) -> i32 {
        if self.skip(b'-') {
            return -1;
        }
        self.skip(b'+');
        1
    }

    /// Up to four digits, so that nothing overflows.
    fn number(&mut self) -> Option<i32> {
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (1..=4)
            .contains(&length)
            .then(|| digits.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0')))
    }

    fn skip(&mut self, byte: u8) -> bool {
        let rest = self.0.strip_prefix(&[byte]);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}
