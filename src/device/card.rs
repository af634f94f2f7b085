//! One model's memory on a GPU: its own pool, and the proof at the end that all of it was freed.
//!
//! It corresponds to `arena`, for devices with memory of their own. It does not know about models. The GPU is that of
//! `serin-kernels` (a real one, or in tests one emulated on the CPU).

use serde::{Deserialize, Serialize};
pub use serin_kernels::cuda::PoolUsage as CardUsage;
use serin_kernels::cuda::{Card, CardError, Pool};
use std::sync::Arc;

/// A card's memory around an unload, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardReport {
    /// In live allocations of the model's pool, before it was dropped.
    pub used_before: u64,
    /// The same afterwards: 0, or a leak.
    pub used_after: u64,
    /// Taken from the device by the pool, before.
    pub reserved_before: u64,
    /// The same afterwards: 0, or a leak.
    pub reserved_after: u64,
    /// Free on the card before the load, all programs counted.
    pub free_at_load: u64,
    /// Free on the card after the unload, all programs counted; 0 if the card does not answer.
    pub free_after: u64,
}

/// A model's pool.
#[derive(Debug)]
pub struct ModelPool {
    card: Arc<dyn Card>,
    pool: Pool,
    free_at_load: u64,
    closed: bool,
}

impl ModelPool {
    /// Creates the pool, and notes what the card has free before. Fails if the card does.
    pub fn open(card: Arc<dyn Card>) -> Result<ModelPool, CardError> {
        card.enter()?;
        let free_at_load = card.memory()?.free;
        let pool = card.create_pool()?;
        Ok(ModelPool { card, pool, free_at_load, closed: false })
    }

    /// The card that the pool is on.
    pub fn card(&self) -> &Arc<dyn Card> {
        &self.card
    }

    /// The pool, to allocate from.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// Bytes that were free on the card before the pool was opened.
    pub fn free_at_load(&self) -> u64 {
        self.free_at_load
    }

    /// What the pool holds now; zeros if the card does not answer.
    pub fn usage(&self) -> CardUsage {
        self.card.pool_usage(self.pool).unwrap_or_default()
    }

    /// Gives everything back, once all buffers have been dropped; `before` is what was held until then.
    pub fn close(mut self, before: CardUsage) -> CardReport {
        let after = self.give_back();
        let free_after = self.card.memory().map_or(0, |memory| memory.free);
        CardReport {
            used_before: before.used,
            used_after: after.used,
            reserved_before: before.reserved,
            reserved_after: after.reserved,
            free_at_load: self.free_at_load,
            free_after,
        }
    }

    fn give_back(&mut self) -> CardUsage {
        self.closed = true;
        let trimmed = self.card.trim_pool(self.pool);
        let left = self.usage();
        let done = trimmed.and_then(|()| match left.used {
            0 => self.card.destroy_pool(self.pool),
            used => Err(CardError::Other(format!("{used} bytes of it are still in use"))),
        });
        if let Err(error) = done {
            tracing::error!(%error, "a model's memory could not be given back to the device");
        }
        left
    }
}

impl Drop for ModelPool {
    /// A load that failed on its way: on a loader's thread, perhaps while the executor captures a graph.
    fn drop(&mut self) {
        if !self.closed && self.card.enter().is_ok() {
            self.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_kernels::cuda::Buffer;
    use serin_kernels::cuda::emulated::EmulatedCard;

    #[test]
    fn a_pool_is_closed_with_everything_given_back_or_says_what_is_left() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(1 << 20));
        let pool = ModelPool::open(card.clone()).unwrap();
        let buffer = Buffer::<f32>::new(&card, pool.pool(), 1000).unwrap();
        let before = pool.usage();
        assert!(before.used >= 4000 && card.memory().unwrap().free < 1 << 20);
        drop(buffer);
        let report = pool.close(before);
        assert_eq!((report.used_before, report.reserved_before), (before.used, before.reserved));
        assert_eq!((report.used_after, report.reserved_after), (0, 0));
        assert_eq!((report.free_at_load, report.free_after), (1 << 20, 1 << 20));

        let pool = ModelPool::open(card.clone()).unwrap();
        let kept = Buffer::<f32>::new(&card, pool.pool(), 1000).unwrap();
        let report = pool.close(CardUsage::default());
        assert!(report.used_after >= 4000, "a leak is reported");
        drop(kept);
    }
}
