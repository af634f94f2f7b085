//! The threads that compute one model of the compatibility lane: a rayon pool with as many threads as serin's own pool.
//! They work in the model's arena and end before the arena is closed.
//!
//! candle and its matrix products (gemm) use the pool of rayon that they are called in, and keep buffers for each
//! thread. On rayon's global pool, or on the executor's thread, these buffers would be in the arena of the model that
//! computed first, and outlive it. Here they are freed with their threads, and dropping the pool waits for that. candle
//! has one more pool, which is process-wide, for element-wise work on large tensors. Its threads keep no buffers, and
//! it is started outside of any arena. candle chooses its size: `CANDLE_NUM_THREADS`, otherwise the number of physical
//! cores.

use crate::device::{arena, shared_pool};
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A model's threads.
pub struct Threads {
    /// `None` only while it is dropped.
    pool: Option<ThreadPool>,
    started: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Threads {
    /// Starts them in the arena that the calling thread is in. Fails if the system refuses a thread.
    pub fn start() -> Result<Threads, String> {
        let here = arena::current();
        let threads = shared_pool().threads();
        arena::outside(|| {
            candle_core::utils::barrier_pool();
            let started = Arc::new(Mutex::new(Vec::with_capacity(threads)));
            let all = started.clone();
            let start = move |thread: rayon::ThreadBuilder| {
                let builder = std::thread::Builder::new().name("serin-compat".into());
                let handle = builder.spawn(move || {
                    let _in = here.enter();
                    thread.run();
                })?;
                all.lock().push(handle);
                Ok(())
            };
            let pool = ThreadPoolBuilder::new().num_threads(threads).spawn_handler(start).build();
            match pool {
                Ok(pool) => Ok(Threads { pool: Some(pool), started }),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Runs `work` on one of them; what it splits runs on all.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.pool.take());
        for thread in self.started.lock().drain(..) {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}
