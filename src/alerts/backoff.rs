//! What to do after one delivery attempt: done, give up, or try again and when.
//!
//! Pure: the random draw and the time are arguments. The rules are those of the Standard Webhooks
//! specification 1.0.0 ("Delivery success and failure", "Deliverability and reliability"), with one
//! difference. The specification retries after every error status. But a receiver that answers 400 or 404 will answer
//! the same tomorrow, so only errors that can resolve by themselves are retried. The delay uses full jitter (a draw
//! between nothing and the whole delay) and not a few percent, because that spreads many senders best after a common
//! outage. The crate `backon` (1.6) does not fit: it repeats a future within one task. Here the response to an attempt
//! decides (also by `Retry-After`), and a delivery waits in a queue in which others can overtake it.

use super::wire::{Reply, WireError};
use std::time::Duration;

/// When failed attempts are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The longest wait after the first, second, ... failed attempt; each wait is drawn between zero and
    /// this. There is one more attempt than delays.
    pub delays: Vec<Duration>,
    /// The longest `Retry-After` of a receiver that is honoured.
    pub longest_retry_after: Duration,
}

impl Default for Schedule {
    /// 1 s, 5 s, 30 s, 2 min, 10 min: six attempts.
    fn default() -> Schedule {
        Schedule {
            delays: [1, 5, 30, 120, 600].map(Duration::from_secs).to_vec(),
            longest_retry_after: Duration::from_secs(900),
        }
    }
}

impl Schedule {
    /// How long to wait after the `tries`-th failed attempt, or `None` if that was the last. `draw` is
    /// uniform in [0, 1); a delay requested by the receiver is a lower bound.
    fn wait(&self, tries: u32, lower_bound: Option<Duration>, draw: f64) -> Option<Duration> {
        let longest = self.delays.get(tries.checked_sub(1)? as usize)?;
        let drawn = longest.mul_f64(draw.clamp(0.0, 1.0));
        Some(drawn.max(lower_bound.unwrap_or_default().min(self.longest_retry_after)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttemptResult {
    /// The receiver accepted it.
    Delivered,
    /// No further attempt would help, or none is left.
    Failed { why: String },
    /// The receiver wants neither this nor any other alert.
    Gone,
    /// Try again after `after`. If the receiver asked for quiet, send nothing else before that either.
    Again { after: Duration, quiet: bool, why: String },
}

/// Judges the `tries`-th attempt. `now_unix` is the wall clock, for a `Retry-After` that contains a date.
pub(super) fn judge(
    result: &Result<Reply, WireError>,
    tries: u32,
    schedule: &Schedule,
    draw: f64,
    now_unix: u64,
) -> AttemptResult {
    let (why, lower_bound) = match result {
        Ok(reply) => match reply.status {
            200..=299 => return AttemptResult::Delivered,
            410 => return AttemptResult::Gone,
            408 | 425 | 429 | 500.. => {
                let lower_bound =
                    reply.retry_after.as_deref().and_then(|at| retry_after(at, now_unix));
                (said(reply), lower_bound)
            }
            300..=399 => {
                let advice = "redirects are not followed; put the address it leads to into `url`";
                return AttemptResult::Failed { why: format!("{}; {advice}", said(reply)) };
            }
            _ => return AttemptResult::Failed { why: said(reply) },
        },
        Err(error) => (error.to_string(), None),
    };
    match schedule.wait(tries, lower_bound, draw) {
        Some(after) => AttemptResult::Again { after, quiet: lower_bound.is_some(), why },
        None => AttemptResult::Failed { why },
    }
}

/// A reply as shown in a log line. Its text comes from outside, so it is quoted; it was cut to a short length
/// when read.
fn said(reply: &Reply) -> String {
    match reply.text.trim() {
        "" => format!("status {}", reply.status),
        text => format!("status {}, saying {text:?}", reply.status),
    }
}

/// A `Retry-After` value: seconds or an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(value: &str, now_unix: u64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    let now = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(now_unix))?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn reply(status: u16, retry_after: Option<&str>) -> Result<Reply, WireError> {
        Ok(Reply { status, retry_after: retry_after.map(str::to_owned), text: String::new() })
    }

    fn result(status: u16, tries: u32, draw: f64) -> AttemptResult {
        judge(&reply(status, None), tries, &Schedule::default(), draw, NOW)
    }

    fn wait(result: AttemptResult) -> Duration {
        let AttemptResult::Again { after, .. } = result else { panic!("{result:?} is no retry") };
        after
    }

    #[test]
    fn statuses_are_told_apart() {
        for status in [200, 201, 204, 299] {
            assert_eq!(result(status, 1, 0.5), AttemptResult::Delivered, "{status}");
        }
        assert_eq!(result(410, 1, 0.5), AttemptResult::Gone);
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(result(status, 1, 0.5), AttemptResult::Again { .. }), "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 409, 413, 422] {
            assert!(matches!(result(status, 1, 0.5), AttemptResult::Failed { .. }), "{status}");
        }
        let AttemptResult::Failed { why } = result(302, 1, 0.5) else {
            panic!("a redirect is a failure")
        };
        assert!(why.contains("status 302") && why.contains("`url`"), "{why}");
    }

    #[test]
    fn waits_are_drawn_below_a_growing_bound_and_end() {
        let bounds = [1, 5, 30, 120, 600];
        for (tries, bound) in (1..).zip(bounds) {
            assert_eq!(wait(result(500, tries, 0.0)), Duration::ZERO);
            assert_eq!(wait(result(500, tries, 0.5)), Duration::from_millis(bound * 500));
            assert!(wait(result(500, tries, 0.999)) < Duration::from_secs(bound));
        }
        assert!(
            matches!(result(500, 6, 0.0), AttemptResult::Failed { .. }),
            "the sixth is the last"
        );
    }

    #[test]
    fn a_broken_connection_is_retried() {
        let lost = Err(WireError::Connection("reset".to_owned()));
        let again = judge(&lost, 1, &Schedule::default(), 0.5, NOW);
        let why = "reset".to_owned();
        assert_eq!(
            again,
            AttemptResult::Again { after: Duration::from_millis(500), quiet: false, why }
        );
        let last = judge(&lost, 6, &Schedule::default(), 0.5, NOW);
        assert_eq!(last, AttemptResult::Failed { why: "reset".to_owned() });
    }

    #[test]
    fn retry_after_is_a_lower_bound_with_a_cap() {
        let schedule = Schedule::default();
        let after = |value| wait(judge(&reply(429, Some(value)), 1, &schedule, 0.5, NOW));
        assert_eq!(after("40"), Duration::from_secs(40));
        assert_eq!(after("0"), Duration::from_millis(500), "the draw is longer");
        assert_eq!(after("86400"), schedule.longest_retry_after);
        assert_eq!(after("Tue, 14 Nov 2023 22:14:20 GMT"), Duration::from_secs(60));
        assert_eq!(after("Tue, 14 Nov 2023 22:00:00 GMT"), Duration::from_millis(500), "past");
        assert_eq!(after("soon"), Duration::from_millis(500));
        let result = judge(&reply(503, Some("7")), 1, &schedule, 0.0, NOW);
        assert!(matches!(result, AttemptResult::Again { quiet: true, .. }));
        assert!(matches!(
            super::tests::result(503, 1, 0.0),
            AttemptResult::Again { quiet: false, .. }
        ));
    }

    #[test]
    fn the_receivers_words_are_quoted() {
        let text = " bad\nline ".to_owned();
        let reply = Ok(Reply { status: 400, retry_after: None, text });
        let result = judge(&reply, 1, &Schedule::default(), 0.0, NOW);
        assert_eq!(
            result,
            AttemptResult::Failed { why: r#"status 400, saying "bad\nline""#.to_owned() }
        );
    }
}
