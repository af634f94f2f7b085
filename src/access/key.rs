//! One key: its secret, which only the client has, and its hash, which the server keeps.
//!
//! A secret is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess, and a slow hash
//! would only slow down every request. It reads no clock and no file.

use super::scope::Scope;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// What every secret begins with, so that scanners for leaked secrets find it.
const PREFIX: &str = "sk-serin-";

/// What the client sends. It is shown once and kept nowhere.
pub struct Secret(String);

impl Secret {
    /// A secret of these random bits.
    pub fn of(bits: [u8; 32]) -> Secret {
        Secret(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits)))
    }

    /// The text to hand to the client.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub(super) [u8; 32]);

impl SecretHash {
    /// The hash of what a client has sent.
    pub fn of(secret: &[u8]) -> SecretHash {
        SecretHash(Sha256::digest(secret).into())
    }

    /// Whether they are equal, in a time that does not tell how far.
    pub fn same(&self, other: &SecretHash) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// The hash that 64 hexadecimal digits give; `None` for other texts.
    pub fn parse(text: &str) -> Option<SecretHash> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(SecretHash(bytes))
    }

    /// The hash as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// How much a key may ask for; `None`: as much as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, of prompts and replies together.
    pub tokens_per_minute: Option<u32>,
    /// Requests under way at a time.
    pub concurrency: Option<u32>,
}

impl KeyLimits {
    /// Whether there is a limit.
    pub fn any(&self) -> bool {
        *self != KeyLimits::default()
    }
}

/// A key as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Names the key in logs, and for `serin key revoke`; no secret.
    pub id: Arc<str>,
    /// For people.
    pub name: String,
    /// Of the secret.
    pub hash: SecretHash,
    /// What it is for; at least one.
    pub scopes: Vec<Scope>,
    /// How much it may ask for.
    pub limits: KeyLimits,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is not valid.
    pub expires: Option<Timestamp>,
}

impl Key {
    /// Whether the key is for this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the key is no longer valid.
    pub fn expired(&self, unix_now: i64) -> bool {
        self.expires.is_some_and(|at| at.as_second() <= unix_now)
    }
}

/// What is asked of a new key.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// How much it may ask for.
    pub limits: KeyLimits,
    /// From when on it is not valid.
    pub expires: Option<Timestamp>,
}

impl NewKey {
    /// A key with an id and a secret of random bits.
    pub fn make(self, id: [u8; 4], bits: [u8; 32], created: Timestamp) -> (Key, Secret) {
        let secret = Secret::of(bits);
        let key = Key {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            name: self.name,
            hash: SecretHash::of(secret.reveal().as_bytes()),
            scopes: self.scopes,
            limits: self.limits,
            created,
            expires: self.expires,
        };
        (key, secret)
    }
}

/// A time from which a key is not valid: `2027-01-31` (its beginning, UTC), `2027-01-31T12:00:00Z`, or, from `now`
/// on, a duration such as `90d`. Fails if it is none of these.
pub fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(date) = text.parse::<Date>()
        && let Ok(at) = date.to_zoned(TimeZone::UTC)
    {
        return Ok(at.timestamp());
    }
    let later = humantime::parse_duration(text).ok();
    let later = later.and_then(|later| SignedDuration::try_from(later).ok());
    later.and_then(|later| now.checked_add(later).ok()).ok_or_else(|| {
        format!(
            "\"{text}\" is not a time: give 2027-01-31, 2027-01-31T12:00:00Z, or a duration such as 90d"
        )
    })
}
