//! A runtime of low priority for large request bodies.
//!
//! Receiving megabytes, parsing them, and closing a socket with megabytes unread take milliseconds of CPU time. On the
//! server's own threads, requests that wait for a token would wait for these. So a connection is driven here, at low
//! priority, while it sends a large body, and on the server's runtime at all other times. This file does not know HTTP.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Niceness of the runtime's threads: about a tenth of the processor time of a thread of normal priority.
const NICENESS: i32 = 10;

/// One thread for sockets, and one for parsing; started on first use. `None`: they could not be started, and
/// the work is done at normal priority.
static RUNTIME: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let lower = || {
        // If this fails, the thread runs at normal priority.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
    };
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(1).thread_name("serin-bulk");
    builder.on_thread_start(lower).enable_all().build().ok()
});

/// Whether a connection is sending a large body at the moment.
#[derive(Debug, Default)]
pub(super) struct Bulky(AtomicBool);

impl Bulky {
    /// Notes whether the connection is sending a large body.
    pub fn set(&self, bulky: bool) {
        self.0.store(bulky, Ordering::Relaxed);
    }

    /// Whether the connection is sending a large body.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs `work` to its end: on the runtime of low priority while `bulky` says so, else on the caller's.
pub(super) async fn drive<F>(work: F, bulky: Arc<Bulky>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut work = Box::pin(work);
    while !run_while(&mut work, &bulky, false).await {
        let Some(runtime) = RUNTIME.as_ref() else { return work.await };
        let bulky = bulky.clone();
        let mut part = Abort(runtime.spawn(async move {
            let ended = run_while(&mut work, &bulky, true).await;
            // What has ended is dropped here: closing its socket may be most of the work.
            (!ended).then_some(work)
        }));
        match (&mut part.0).await {
            Ok(Some(rest)) => work = rest,
            Ok(None) => return,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return,
            },
        }
    }
}

/// Runs `work` until it ends (true) or `bulky` changes (false).
async fn run_while<F: Future<Output = ()>>(
    work: &mut Pin<Box<F>>,
    bulky: &Bulky,
    expected: bool,
) -> bool {
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending if bulky.get() != expected => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Runs blocking work at low priority, one piece after the other. If the caller is dropped first, work that
/// has not begun is not done. `None`: it panicked.
pub(super) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let task = match RUNTIME.as_ref() {
        Some(runtime) => runtime.spawn_blocking(work),
        None => tokio::task::spawn_blocking(work),
    };
    let mut task = Abort(task);
    (&mut task.0).await.ok()
}

/// A task that ends with its owner.
struct Abort<T>(JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::sync::oneshot;

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    /// Tells the thread on which it is dropped.
    struct Last(Option<oneshot::Sender<String>>);

    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.0.take().map(|last| last.send(thread()));
        }
    }

    #[tokio::test]
    async fn work_is_at_low_priority_exactly_while_it_is_bulky() {
        let (flag, own) = (Arc::<Bulky>::default(), thread());
        let (inner, (last, closed)) = (flag.clone(), oneshot::channel());
        let (sender, threads) = mpsc::channel();
        let work = async move {
            let _last = Last(Some(last));
            for bulky in [false, true, true, false, true] {
                inner.set(bulky);
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.send(thread()).unwrap();
            }
        };
        drive(work, flag).await;
        let low = || "serin-bulk".to_owned();
        assert_eq!(threads.iter().collect::<Vec<_>>(), [own.clone(), low(), low(), own, low()]);
        assert_eq!(closed.await.unwrap(), low());
    }

    #[tokio::test]
    async fn work_that_is_given_up_ends() {
        let (flag, (last, closed)) = (Arc::<Bulky>::default(), oneshot::channel());
        flag.set(true);
        let work = async move {
            let _last = Last(Some(last));
            std::future::pending::<()>().await;
        };
        let limit = Duration::from_millis(20);
        assert!(tokio::time::timeout(limit, drive(work, flag)).await.is_err());
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn work_in_the_queue_is_not_done_for_those_who_have_left() {
        let (release, released) = mpsc::channel::<()>();
        let first = tokio::spawn(compute(move || released.recv().is_ok()));
        let (done, was_done) = mpsc::channel();
        tokio::task::yield_now().await;
        let second = compute(move || done.send(()));
        assert!(tokio::time::timeout(Duration::from_millis(20), second).await.is_err());
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Some(true));
        assert_eq!(compute(|| 7).await, Some(7));
        assert!(was_done.recv().is_err(), "its sender was dropped unused");
    }
}
