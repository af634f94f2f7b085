//! Dates for chat templates: `strftime_now`, in UTC, from a time that the caller passes in.
//!
//! It is written here because it is one page of arithmetic, and a calendar crate would add time zones and a
//! clock. It supports the directives that templates use; others are left as they are, as in the C library.
//! Names are English, as in Python's default locale.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SECONDS_PER_DAY: i64 = 86_400;

/// The parts of a point in time.
struct Moment {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// From 0, Sunday.
    weekday: usize,
    /// From 1.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Formats `now` according to `format`.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let moment = Moment::at(now);
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = rest.as_str().chars().next();
        let flagged = directive == Some('-');
        if flagged {
            rest.next();
        }
        match rest.next() {
            Some(d) => moment.write(&mut out, d, flagged),
            None => out.push_str(if flagged { "%-" } else { "%" }),
        }
    }
    out
}

impl Moment {
    fn at(now: SystemTime) -> Self {
        let seconds = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_secs() as i64,
            Err(before) => -(before.duration().as_secs_f64().ceil() as i64),
        };
        let (days, second) =
            (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let (year, month, day) = civil(days);
        Self {
            year,
            month,
            day,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year: days - days_before_year(year) + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Appends one directive; `flagged` is `%-d` and the like: no leading zeros.
    fn write(&self, out: &mut String, directive: char, flagged: bool) {
        let mut number = |value: i64, width: usize| {
            let width = if flagged { 0 } else { width };
            // Writing to a string cannot fail.
            let _ = write!(out, "{value:0width$}");
        };
        let twelve = (self.hour + 11) % 12 + 1;
        match directive {
            'Y' => number(self.year, 4),
            'm' => number(self.month as i64 + 1, 2),
            'd' => number(self.day, 2),
            'H' => number(self.hour, 2),
            'I' => number(twelve, 2),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'y' => number(self.year.rem_euclid(100), 2),
            'j' => number(self.day_of_year, 3),
            'e' => out.push_str(&format!("{:>2}", self.day)),
            'B' => out.push_str(MONTHS[self.month]),
            'b' | 'h' => out.push_str(&MONTHS[self.month][..3]),
            'A' => out.push_str(DAYS[self.weekday]),
            'a' => out.push_str(&DAYS[self.weekday][..3]),
            'p' => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
            'F' => self.compose(out, &[('Y', "-"), ('m', "-"), ('d', "")]),
            'T' => self.compose(out, &[('H', ":"), ('M', ":"), ('S', "")]),
            'R' => self.compose(out, &[('H', ":"), ('M', "")]),
            'D' => self.compose(out, &[('m', "/"), ('d', "/"), ('y', "")]),
            '%' => out.push('%'),
            // A time without a zone, as in Python: both are empty.
            'Z' | 'z' => {}
            other => {
                out.push_str(if flagged { "%-" } else { "%" });
                out.push(other);
            }
        }
    }

    fn compose(&self, out: &mut String, parts: &[(char, &str)]) {
        for (directive, separator) in parts {
            self.write(out, *directive, false);
            out.push_str(separator);
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1 January 1970 to 1 January of `year`.
fn days_before_year(year: i64) -> i64 {
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

/// Year, month from 0 and day from 1, of a day counted from 1 January 1970.
fn civil(days: i64) -> (i64, usize, i64) {
    // A Gregorian year is 365.2425 days long; the estimate is off by at most one.
    let mut year = 1970 + (days * 400).div_euclid(146_097);
    while days_before_year(year) > days {
        year -= 1;
    }
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_before_year(year);
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests;
