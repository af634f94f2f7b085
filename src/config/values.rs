//! Values as they are typed: times with a unit, sizes with a unit, counts and times that must not be zero.
//!
//! Each error names the key and says what to write. It does not know which keys exist.

use super::ConfigError;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::time::Duration;

/// A duration such as "15m", "30s", "1h 30m".
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let hint = "give a time with its unit, such as \"15m\" or \"30s\"";
        let text = String::deserialize(from).map_err(|_| D::Error::custom(hint))?;
        let time = humantime::parse_duration(&text);
        time.map(Time).map_err(|e| D::Error::custom(format!("\"{text}\": {e}; {hint}")))
    }
}

/// A size such as "512MiB", "2GB" or a plain number of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Typed {
            Number(u64),
            Text(String),
        }
        let hint = "give a size such as \"512MiB\" or \"2GB\"";
        match Typed::deserialize(from).map_err(|_| D::Error::custom(hint))? {
            Typed::Number(bytes) => Ok(Bytes(bytes)),
            Typed::Text(text) => parse_bytes(&text)
                .map(Bytes)
                .ok_or_else(|| D::Error::custom(format!("\"{text}\" is not a size; {hint}"))),
        }
    }
}

/// Bytes in a text such as "1.5GiB": decimal units for kB, MB, GB, binary ones for KiB, MiB, GiB.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

pub(super) fn value(key: &'static str, what: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, what: what.into() }
}

/// The most that any count may be; beyond, it is a slip of the keyboard.
const MOST: usize = 1 << 20;

pub(super) fn positive(
    key: &'static str,
    given: Option<usize>,
    default: usize,
) -> Result<usize, ConfigError> {
    match given.unwrap_or(default) {
        n @ 1..=MOST => Ok(n),
        n => Err(value(key, format!("must be from 1 to {MOST}, not {n}"))),
    }
}

/// A time that must not be zero.
pub(super) fn time(
    key: &'static str,
    given: Option<Time>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match given.map_or(default, |t| t.0) {
        Duration::ZERO => Err(value(key, "must be longer than zero")),
        t => Ok(t),
    }
}
