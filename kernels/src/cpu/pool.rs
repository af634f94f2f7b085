//! A small, persistent thread pool for kernels: one job at a time, cut into numbered tasks.
//!
//! It does not know about kernels. A decoder step runs more than a hundred short jobs (tens of microseconds each), so
//! the overhead of a job must be about a microsecond: no allocation, no lock on the hot path, and workers that spin for
//! a while before they park. The calling thread works too. Decision: docs/decisions/034.
//!
//! A panic in a task is caught, the job's other tasks are skipped, and the panic is resumed in the caller. The pool
//! itself stays usable, so one model's fault does not affect the other model.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Empty looks for work, with a pause each, before a worker parks: 50 to 100 microseconds. Longer than
/// the gap between two kernels of one step, shorter than the gap between steps.
const SPINS: usize = 2_000;
/// Looks at unfinished tasks before the caller yields its core to whoever has them.
const WAIT_SPINS: usize = 20_000;
const MAX_TASKS: usize = u32::MAX as usize;

type Task<'a> = dyn Fn(usize) + Sync + 'a;
type Payload = Box<dyn Any + Send>;

thread_local! {
    /// Whether this thread is inside a task: a job started from there runs on this thread alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Worker threads and the caller, running one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, JoinHandle<()>)>,
    /// Held by the caller whose job runs.
    turn: Mutex<()>,
}

struct Shared {
    /// Next task in the high half, count of tasks in the low half.
    work: AtomicU64,
    finished: AtomicUsize,
    job: UnsafeCell<Option<*const Task<'static>>>,
    panicked: AtomicBool,
    payload: Mutex<Option<Payload>>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the caller that holds `turn`, while no task is claimed, and read only
// by holders of a claimed task of the job it belongs to; the claim's acquire pairs with the release that
// published the job.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is to a `Sync` closure.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller included (so 1 starts none). A thread that cannot be
    /// started is done without.
    pub fn new(threads: usize) -> Pool {
        let extra = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            work: AtomicU64::new(0),
            finished: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            payload: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            let builder = thread::Builder::new().name(format!("kernel-{index}"));
            let handle = builder.spawn(move || shared.serve(index)).ok()?;
            Some((handle.thread().clone(), handle))
        };
        let workers = (0..extra).map_while(start).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Physical cores that this process may run on.
    pub fn cores() -> usize {
        physical_cores()
    }

    /// Threads that work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// As `run` where that is worth waking others, else on this thread alone.
    pub fn run_if(&self, worth: bool, n_tasks: usize, task: &Task<'_>) {
        if worth { self.run(n_tasks, task) } else { (0..n_tasks).for_each(task) }
    }

    /// Calls `task(0) .. task(n_tasks - 1)`, each once, in any order, on all threads; returns when all are
    /// done. A panic in a task goes on here, after which the tasks not yet begun are skipped.
    pub fn run(&self, n_tasks: usize, task: &Task<'_>) {
        assert!(n_tasks <= MAX_TASKS, "a job has too many tasks");
        if n_tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..n_tasks).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        // SAFETY: only the lifetime changes. Tasks of this job are called between here and the end of
        // `wait`, which returns only when all have finished, and `task` outlives this call.
        let job = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: this thread holds `turn` and the last job's tasks have all finished, so nobody reads.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.finished.store(0, Ordering::Relaxed);
        self.shared.panicked.store(false, Ordering::Relaxed);
        self.shared.work.store(n_tasks as u64, Ordering::SeqCst);
        for (asleep, (worker, _)) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.unpark();
            }
        }
        while self.shared.step() {}
        self.shared.wait(n_tasks);
        let payload = match self.shared.panicked.load(Ordering::Relaxed) {
            true => lock(&self.shared.payload).take(),
            false => None,
        };
        drop(turn);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker cannot panic: tasks are caught.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn serve(&self, index: usize) {
        let mut idle = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.step() {
                idle = 0;
            } else if idle < SPINS {
                idle += 1;
                std::hint::spin_loop();
            } else {
                self.sleep(index);
                idle = 0;
            }
        }
    }

    /// Parks until there may be work. The flag goes up before the last look, and the caller publishes
    /// before it reads the flag, so one of the two sees the other.
    fn sleep(&self, index: usize) {
        self.asleep[index].store(true, Ordering::SeqCst);
        while self.asleep[index].load(Ordering::SeqCst)
            && !has_work(self.work.load(Ordering::SeqCst))
            && !self.stop.load(Ordering::SeqCst)
        {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
    }

    /// Claims and runs one task; false when none is left.
    fn step(&self) -> bool {
        let mut word = self.work.load(Ordering::Acquire);
        let index = loop {
            if !has_work(word) {
                return false;
            }
            let next = word + (1 << 32);
            match self.work.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break (word >> 32) as usize,
                Err(seen) => word = seen,
            }
        };
        self.call(index);
        self.finished.fetch_add(1, Ordering::Release);
        true
    }

    fn call(&self, index: usize) {
        if self.panicked.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: a task of the running job is claimed and not finished, so its caller is inside `run`:
        // the pointer is that job's and the closure is alive.
        let Some(task) = (unsafe { *self.job.get() }) else { return };
        INSIDE.set(true);
        // SAFETY: as above.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*task)(index) }));
        INSIDE.set(false);
        if let Err(payload) = result {
            lock(&self.payload).get_or_insert(payload);
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    fn wait(&self, n_tasks: usize) {
        let mut looks = 0;
        while self.finished.load(Ordering::Acquire) < n_tasks {
            looks += 1;
            if looks < WAIT_SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

/// A slice that tasks of one job write to in parts.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a `&mut [T]`, each to one task, as `split_at_mut` would.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows the slice for as long as parts of it are handed out.
    pub fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    /// `len` items from `at` on. Panics beyond the end.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[allow(clippy::mut_from_ref, reason = "parts are disjoint by the caller's promise")]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a part ends beyond its slice");
        // SAFETY: in bounds by the assertion, unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

fn has_work(word: u64) -> bool {
    (word >> 32) < (word & 0xffff_ffff)
}

/// A lock whose holder panicked is as good as any: what it guards is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Physical cores that this process may run on; hyper-threads of one core count once where the system
/// says which belong together.
pub fn physical_cores() -> usize {
    let logical = thread::available_parallelism().map_or(1, |n| n.get());
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    };
    let groups: std::collections::BTreeSet<String> = (0..logical).map_while(siblings).collect();
    if groups.is_empty() { logical } else { groups.len().min(logical) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for n in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} x {n}");
            }
        }
    }

    #[test]
    fn workers_that_slept_come_back() {
        let pool = Pool::new(3);
        for round in 0..40 {
            let ids = Mutex::new(std::collections::HashSet::new());
            pool.run(64, &|_| {
                ids.lock().unwrap().insert(thread::current().id());
                thread::sleep(std::time::Duration::from_micros(100));
            });
            assert!(ids.lock().unwrap().len() > 1, "round {round} ran on one thread");
            thread::sleep(std::time::Duration::from_millis(round % 4));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let job = || pool.run(50, &|i| assert!(i != 17, "task seventeen"));
            let payload = catch_unwind(AssertUnwindSafe(job)).unwrap_err();
            assert!(payload.downcast_ref::<&str>().unwrap().contains("seventeen"));
            let done = AtomicUsize::new(0);
            pool.run(50, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 50);
        }
    }

    #[test]
    fn a_job_inside_a_task_and_jobs_from_many_threads_finish() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, &|i| {
                            pool.run(3, &|j| {
                                sum.fetch_add(i * 3 + j, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3 * 200 * 66);
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!((1..=4096).contains(&physical_cores()));
    }
}
