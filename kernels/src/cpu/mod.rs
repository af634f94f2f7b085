//! The CPU: what a decoder step is made of, on plain slices.
//!
//! Products of weights as stored (`quant`), the paged KV cache and attention over it (`cache`,
//! `attention`), the small operations between them (`ops`), the threads they run on (`pool`) and the
//! instruction set they use (`isa`, `simd`). Knows no model family; the caller passes shapes. Also the
//! reference that other devices are tested against: every vector kernel has a scalar twin here. Its speed
//! against llama.cpp is in `benches/runs/`.

pub mod attention;
pub mod cache;
pub mod half;
pub mod isa;
pub mod ops;
pub mod pool;
pub mod quant;
mod simd;

pub use attention::{AttendScratch, attend};
pub use cache::{KvCache, KvKind, KvShape};
pub use isa::Isa;
pub use ops::Activation;
pub use pool::Pool;
pub use quant::{QMatrix, Scratch, WeightStore, all_finite, dequantise, matmul_many};

use super::arena;
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

/// What a model's steps run with: threads, the instruction set, and buffers that are the model's own.
pub struct Workbench {
    pub products: Scratch,
    pub attention: AttendScratch,
}

impl Workbench {
    /// On the shared pool, with the best instruction set of this machine.
    pub fn shared() -> Workbench {
        let products = Scratch::new(shared_pool().clone(), Isa::best());
        Workbench { products, attention: AttendScratch::default() }
    }
}
