//! What a model's steps on the CPU need: threads, the instruction set, and the model's own buffers.
//!
//! It is here and not next to the kernels, because the threads outlive the model that first needs them, so they have to
//! be started outside of its arena. It does not know about models.

use super::arena;
use serin_kernels::cpu::{AttendScratch, Isa, Pool, Scratch};
use std::sync::{Arc, OnceLock};

/// Environment variable with the number of threads of the shared pool; physical cores without it.
pub const THREADS_VARIABLE: &str = "SERIN_THREADS";

/// The process's pool: all models run on the one executor thread, so they share its helpers.
pub fn shared_pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let asked = std::env::var(THREADS_VARIABLE).ok().and_then(|v| v.parse().ok());
        let threads = asked.filter(|n| (1..=1024).contains(n));
        // It outlives the model that asks first.
        arena::outside(|| Arc::new(Pool::new(threads.unwrap_or_else(Pool::cores))))
    })
}

/// The buffers of one model's steps.
pub struct Workbench {
    /// For matrix products: the threads, the instruction set and the converted inputs.
    pub products: Scratch,
    /// For attention: the tasks of a step and their partial results.
    pub attention: AttendScratch,
}

impl Workbench {
    /// On the shared pool, with the best instruction set of this machine.
    pub fn shared() -> Workbench {
        let products = Scratch::new(shared_pool().clone(), Isa::best());
        Workbench { products, attention: AttendScratch::default() }
    }
}
