//! Dates for chat templates: `strftime_now`, in UTC, from a time that the caller passes in.
//!
//! jiff formats them. Directives that it does not know stay as they are, as in the C library; names are English, as in
//! Python's default locale.

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::tz::TimeZone;
use std::time::SystemTime;

pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let time = Timestamp::try_from(now).unwrap_or_default();
    let time = BrokenDownTime::from(TimeZone::UTC.to_datetime(time));
    let written = time.to_string_with_config(&Config::new().lenient(true), without_zone(format));
    written.unwrap_or_else(|_| format.to_owned())
}

/// The format without `%Z` and `%z`: in Python a time without a zone writes nothing for them.
fn without_zone(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match (c, rest.as_str().chars().next()) {
            ('%', Some('Z' | 'z')) => {
                rest.next();
            }
            ('%', Some(directive)) => {
                rest.next();
                out.extend([c, directive]);
            }
            (c, _) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
