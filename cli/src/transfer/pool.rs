//! Tasks side by side, no more than so many.

use tokio::task::{JoinError, JoinSet, spawn_blocking};

/// Runs tasks, at most `jobs` at once. Dropping it stops them.
pub(crate) struct Pool {
    jobs: usize,
    running: JoinSet<()>,
}

impl Pool {
    /// A pool for `jobs` tasks at once.
    pub(crate) fn new(jobs: u16) -> Self {
        Self {
            jobs: usize::from(jobs.max(1)),
            running: JoinSet::new(),
        }
    }

    /// Starts a task, once there is room for it.
    pub(crate) async fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.running.len() >= self.jobs {
            self.next().await;
        }
        self.running.spawn(task);
    }

    /// Waits until every task has ended.
    pub(crate) async fn finish(&mut self) {
        while !self.running.is_empty() {
            self.next().await;
        }
    }

    async fn next(&mut self) {
        if let Some(Err(error)) = self.running.join_next().await {
            rethrow(error);
        }
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => rethrow(error),
    }
}

/// A panic of a task is a panic of the whole: nobody cancels tasks while their pool is awaited.
fn rethrow(error: JoinError) -> ! {
    std::panic::resume_unwind(
        error
            .try_into_panic()
            .unwrap_or_else(|error| Box::new(error.to_string())),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn no_more_than_jobs_run_at_once() {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let mut pool = Pool::new(3);
        for _ in 0..20 {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            let task = async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
            };
            pool.spawn(task).await;
        }
        pool.finish().await;
        assert_eq!(running.load(Ordering::SeqCst), 0);
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }
}
