//! How much of its limits one key has used. Pure; time is passed in.
//!
//! A refused request costs nothing. Tokens are charged at the end of a request, when their number is known; concurrent
//! requests may overdraw the limit.

use super::bucket::Bucket;
use super::key::KeyLimits;
use std::time::{Duration, Instant};

/// How long a client waits that has too many requests under way: nobody knows when one of them ends.
const SOME_TIME: Duration = Duration::from_secs(1);

/// What one key has used. Units of limits that it does not have are not counted.
#[derive(Debug)]
pub struct Limiter {
    requests: Bucket,
    tokens: Bucket,
    running: u32,
}

/// Which limit a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// Requests per minute.
    Requests {
        /// The limit.
        limit: u32,
        /// After this time a request is allowed.
        wait: Duration,
    },
    /// Tokens per minute.
    Tokens {
        /// The limit.
        limit: u32,
        /// After this time a request is allowed.
        wait: Duration,
    },
    /// Requests under way at a time.
    Concurrency {
        /// The limit.
        limit: u32,
    },
}

impl Exceeded {
    /// When the client should ask again.
    pub fn wait(&self) -> Duration {
        match self {
            Exceeded::Requests { wait, .. } | Exceeded::Tokens { wait, .. } => *wait,
            Exceeded::Concurrency { .. } => SOME_TIME,
        }
    }
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The limit.
    pub limit: u32,
    /// What is left now.
    pub remaining: u64,
    /// Time until all of it is there again.
    pub reset: Duration,
}

/// What is left of a key's limits; `None`: not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Requests per minute.
    pub requests: Option<Share>,
    /// Tokens per minute.
    pub tokens: Option<Share>,
}

impl Limiter {
    /// A limiter of a key that has used nothing yet.
    pub fn new(limits: &KeyLimits, now: Instant) -> Limiter {
        let bucket = |limit: Option<u32>| Bucket::full(limit.unwrap_or(0), now);
        Limiter {
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            running: 0,
        }
    }

    /// Counts a request. Fails if it would exceed a limit; it is not counted then.
    pub fn admit(&mut self, limits: &KeyLimits, now: Instant) -> Result<(), Exceeded> {
        self.refill(limits, now);
        if let Some(limit) = limits.concurrency.filter(|limit| self.running >= *limit) {
            return Err(Exceeded::Concurrency { limit });
        }
        if let Some(limit) = limits.tokens_per_minute.filter(|_| !self.tokens.has_one()) {
            return Err(Exceeded::Tokens { limit, wait: self.tokens.until_one(limit) });
        }
        if let Some(limit) = limits.requests_per_minute {
            if !self.requests.has_one() {
                return Err(Exceeded::Requests { limit, wait: self.requests.until_one(limit) });
            }
            self.requests.take(1.0);
        }
        self.running += 1;
        Ok(())
    }

    /// A request has ended, and used this many tokens.
    pub fn end(&mut self, tokens: u64) {
        self.running = self.running.saturating_sub(1);
        self.tokens.take(tokens as f64);
    }

    /// A request has ended, and counts for nothing.
    pub fn undo(&mut self) {
        self.running = self.running.saturating_sub(1);
        self.requests.give_back(1.0);
    }

    /// How many requests and tokens are left of each limit.
    pub fn allowance(&mut self, limits: &KeyLimits, now: Instant) -> Allowance {
        self.refill(limits, now);
        let share = |bucket: &Bucket, limit: u32| Share {
            limit,
            remaining: bucket.left(),
            reset: bucket.until_full(limit),
        };
        Allowance {
            requests: limits.requests_per_minute.map(|limit| share(&self.requests, limit)),
            tokens: limits.tokens_per_minute.map(|limit| share(&self.tokens, limit)),
        }
    }

    /// What is not limited leaves no debt for a limit that is set later.
    fn refill(&mut self, limits: &KeyLimits, now: Instant) {
        let refill = |bucket: &mut Bucket, limit: Option<u32>| match limit {
            Some(limit) => bucket.refill(limit, now),
            None => *bucket = Bucket::full(0, now),
        };
        refill(&mut self.requests, limits.requests_per_minute);
        refill(&mut self.tokens, limits.tokens_per_minute);
    }
}
