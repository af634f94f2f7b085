//! Who may use the server: API keys, their scopes, and their limits.
//!
//! Reading order: `scope` (what a key is for), `key` (one key; secrets and their hashes), `file` (the keys file as
//! text), `store` (the only part that touches the disk), `bucket` and `limiter` (limits, pure), and [`Access`], which
//! holds the keys in force and the usage of each. Time is passed in. It does not know HTTP.

mod bucket;
mod file;
mod key;
mod limiter;
mod scope;
mod store;

pub use file::{FileError, Keyring};
pub use key::{Key, KeyLimits, NewKey, Secret, parse_expiry};
pub use limiter::{Allowance, Exceeded, Share};
pub use scope::Scope;
pub use store::{KeysFile, StoreError};

use limiter::Limiter;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// The keys in force and what they have used. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None`: nobody is asked for a key.
    keys: Option<RwLock<Arc<Keyring>>>,
    /// Why the keys file, as it is now, is not in force.
    problem: Mutex<Option<String>>,
    /// By key id: what has been used.
    used: Mutex<HashMap<Arc<str>, Limiter>>,
}

/// The keys, as an operator's status shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessStatus {
    /// Keys in force, expired ones included.
    pub keys: usize,
    /// Why the keys file, as it is now, is not in force; the keys from before are.
    pub problem: Option<String>,
}

impl Access {
    /// Nobody is asked for a key.
    pub fn open() -> Access {
        Access::new(None)
    }

    /// Keys are asked for, and these are in force.
    pub fn with(keys: Keyring) -> Access {
        Access::new(Some(RwLock::new(Arc::new(keys))))
    }

    fn new(keys: Option<RwLock<Arc<Keyring>>>) -> Access {
        Access {
            shared: Arc::new(Shared { keys, problem: Mutex::default(), used: Mutex::default() }),
        }
    }

    /// Whether keys are asked for.
    pub fn asks(&self) -> bool {
        self.shared.keys.is_some()
    }

    /// The key with this secret, unless it has expired; `unix_now` in seconds.
    pub fn identify(&self, secret: &[u8], unix_now: i64) -> Option<Arc<Key>> {
        let keys = self.shared.keys.as_ref()?.read().clone();
        keys.find(secret).filter(|key| !key.expired(unix_now))
    }

    /// Puts other keys in force, or says why those in the file cannot be. What a key has used stays.
    pub fn take_up(&self, read: Result<Keyring, String>) {
        let Some(keys) = &self.shared.keys else { return };
        let keyring = match read {
            Ok(keyring) => keyring,
            Err(problem) => return *self.shared.problem.lock() = Some(problem),
        };
        *self.shared.problem.lock() = None;
        self.shared.used.lock().retain(|id, _| keyring.by_id(id).is_some());
        *keys.write() = Arc::new(keyring);
    }

    /// What operators are shown of the keys; `None` if no keys are asked for.
    pub fn status(&self) -> Option<AccessStatus> {
        let keys = self.shared.keys.as_ref()?.read().len();
        Some(AccessStatus { keys, problem: self.shared.problem.lock().clone() })
    }

    /// Counts one more request of this key. Fails if that would exceed one of its limits. Whoever gets `Ok` calls
    /// [`Access::end`] once, or [`Access::undo`].
    pub fn admit(&self, key: &Key, now: Instant) -> Result<(), Exceeded> {
        match key.limits.any() {
            true => self.limiter(key, now, |used| used.admit(&key.limits, now)),
            false => Ok(()),
        }
    }

    /// An admitted request has ended and used this many tokens, prompt and reply together.
    pub fn end(&self, key: &Key, tokens: u64) {
        if let Some(used) = self.shared.used.lock().get_mut(&key.id) {
            used.end(tokens);
        }
    }

    /// An admitted request was refused for a reason that is not the client's: it counts for nothing.
    pub fn undo(&self, key: &Key) {
        if let Some(used) = self.shared.used.lock().get_mut(&key.id) {
            used.undo();
        }
    }

    /// What is left of this key's limits.
    pub fn allowance(&self, key: &Key, now: Instant) -> Allowance {
        match key.limits.any() {
            true => self.limiter(key, now, |used| used.allowance(&key.limits, now)),
            false => Allowance::default(),
        }
    }

    fn limiter<T>(&self, key: &Key, now: Instant, ask: impl FnOnce(&mut Limiter) -> T) -> T {
        let mut used = self.shared.used.lock();
        ask(used.entry(key.id.clone()).or_insert_with(|| Limiter::new(&key.limits, now)))
    }
}

#[cfg(test)]
mod tests;
