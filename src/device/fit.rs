//! Does a model fit on a GPU, and how large can its KV cache be? Answered before anything is loaded.
//!
//! It uses the memory that is free now, not a share of the total, and leaves a reserve for the driver and other
//! programs. A model that is loaded later can only take what is left: its KV cache shrinks, down to the smallest useful
//! size, before the model is refused. Models that are already loaded are never changed. Pure.

use std::fmt;

/// What a model wants. Bytes, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitRequest {
    /// The model's weights on the card.
    pub weights: u64,
    /// All that a step needs beside weights and cache.
    pub scratch: u64,
    /// One KV block, all layers.
    pub block: u64,
    /// KV blocks.
    pub blocks_wanted: u64,
    /// KV blocks below which the model is refused; 0 counts as 1.
    pub blocks_least: u64,
    /// Free on the card now.
    pub free: u64,
    /// The card's whole memory, free or not.
    pub total: u64,
}

/// How it fits. Bytes, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitPlan {
    /// What was asked for.
    pub request: FitRequest,
    /// KV blocks granted.
    pub blocks: u64,
    /// Left free for the driver and for other programs.
    pub reserve: u64,
}

/// The plan with the smallest KV cache, which does not fit either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "weights {} MiB + least KV cache {} MiB + scratch {} MiB + reserve {} MiB are {} MiB more than the {} MiB free; lower engine.max_batch_tokens or engine.max_running, free memory on the device, or take a smaller or quantised model",
    mib(.0.request.weights), mib(.0.least_cache()), mib(.0.request.scratch), mib(.0.reserve), mib(.0.missing()),
    mib(.0.request.free)
)]
pub struct NoFit(FitPlan);

/// Kept free at least, and as a share of the card's memory.
const LEAST_RESERVE: u64 = 256 << 20;
const RESERVE_SHARE: u64 = 32;

impl FitRequest {
    /// Grants as many of the wanted blocks as there is room for. Fails if that is fewer than the least.
    pub fn plan(self) -> Result<FitPlan, NoFit> {
        // A tiny card (an emulated one) would otherwise be all reserve.
        let reserve = (self.total / RESERVE_SHARE).max(LEAST_RESERVE.min(self.total / 8));
        let room = self.free.checked_sub(reserve).and_then(|rest| rest.checked_sub(self.weights));
        let room = room.and_then(|rest| rest.checked_sub(self.scratch));
        let blocks = room.map_or(0, |room| room / self.block.max(1)).min(self.blocks_wanted);
        let plan = FitPlan { request: self, blocks, reserve };
        match room.is_some() && blocks >= self.blocks_least.max(1) {
            true => Ok(plan),
            false => Err(NoFit(plan)),
        }
    }
}

impl FitPlan {
    /// Bytes of the KV blocks granted.
    pub fn cache(&self) -> u64 {
        self.blocks.saturating_mul(self.request.block)
    }

    /// Bytes that are free once the model is loaded.
    pub fn free_after(&self) -> u64 {
        self.request.free - self.request.weights - self.cache() - self.request.scratch
    }

    /// Whether the cache is smaller than was asked for.
    pub fn shrunk(&self) -> bool {
        self.blocks < self.request.blocks_wanted
    }

    fn least_cache(&self) -> u64 {
        self.request.blocks_least.max(1).saturating_mul(self.request.block)
    }

    fn missing(&self) -> u64 {
        let parts = [self.request.weights, self.least_cache(), self.request.scratch, self.reserve];
        parts
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(*part))
            .saturating_sub(self.request.free)
    }
}

impl fmt::Display for FitPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {} MiB + KV cache {} MiB ({} blocks{}) + scratch {} MiB of {} MiB free; {} MiB stay free",
            mib(self.request.weights),
            mib(self.cache()),
            self.blocks,
            match self.shrunk() {
                true => format!(" of {} asked for", self.request.blocks_wanted),
                false => String::new(),
            },
            mib(self.request.scratch),
            mib(self.request.free),
            mib(self.free_after())
        )
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = FitRequest> {
        let size = || prop_oneof![0..1u64 << 20, 0..1u64 << 36, 0..=u64::MAX];
        (size(), size(), 1..1u64 << 24, 0..1u64 << 40, 0..64u64, size(), size()).prop_map(
            |(weights, scratch, block, wanted, least, a, b)| FitRequest {
                weights,
                scratch,
                block,
                blocks_wanted: wanted.max(least),
                blocks_least: least,
                free: a.min(b),
                total: a.max(b),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_granted_is_there_and_no_less_than_the_least(request in request(), more in 0..1u64 << 40) {
            match request.plan() {
                Ok(plan) => {
                    let all = request.weights + plan.cache() + request.scratch + plan.reserve;
                    prop_assert!(all <= request.free);
                    prop_assert!(plan.free_after() >= plan.reserve);
                    prop_assert!((request.blocks_least.max(1)..=request.blocks_wanted).contains(&plan.blocks));
                    let room = plan.free_after() - plan.reserve;
                    prop_assert!(!plan.shrunk() || room < request.block, "another block would fit");
                    let wider = FitRequest { free: request.free.saturating_add(more), ..request };
                    prop_assert!(wider.plan().is_ok_and(|wider| wider.blocks >= plan.blocks));
                    prop_assert!(plan.to_string().contains("MiB free"));
                }
                Err(no) => {
                    let text = no.to_string();
                    prop_assert!(text.contains("weights") && text.contains("max_running"), "{}", text);
                    let least = request.blocks_least.max(1) as u128 * u128::from(request.block);
                    let needed = u128::from(request.weights) + u128::from(request.scratch) + least;
                    prop_assert!(needed + u128::from(no.0.reserve) > u128::from(request.free)
                        || request.blocks_wanted == 0);
                }
            }
        }
    }

    #[test]
    fn a_later_models_cache_shrinks_before_it_is_refused() {
        let gib = 1 << 30;
        let request = FitRequest {
            weights: 5 * gib,
            scratch: gib / 2,
            block: 2 << 20,
            blocks_wanted: 1024,
            blocks_least: 1,
            free: 20 * gib,
            total: 24 * gib,
        };
        assert!(!request.plan().unwrap().shrunk());
        let tight = FitRequest { free: 7 * gib, ..request }.plan().unwrap();
        assert!(tight.shrunk() && tight.blocks >= 300, "{tight}");
        let text = FitRequest { free: 6 * gib, ..request }.plan().unwrap_err().to_string();
        assert!(
            text.contains("weights 5120 MiB") && text.contains("more than the 6144 MiB"),
            "{text}"
        );
    }
}
