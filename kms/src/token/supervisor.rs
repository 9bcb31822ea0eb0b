//! Keeps one worker process running: restarts it after a crash or a hang, with back-off, and never after a rejected PIN
//! until the PIN file has changed or the mark of the rejection is gone.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_proto::{Failure, Reason};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    TokenConfig, TokenState,
    board::Board,
    limit::CALL_TIMEOUT,
    link::{End, Fault, Link, Worker},
    pb,
    pin_gate::PinGate,
    pin_mark::Fingerprint,
    worker::pin_rejected_by,
};

/// Pause before a restart, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A worker that served this long was sound: the next restart is quick again.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// How often a rejected PIN's file is looked at.
const PIN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Where the supervision stands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Starting,
    Ready(Link),
    Unavailable(String),
    PinRejected(Failure),
    Stopped,
}

/// What the supervisor works with.
pub(super) struct Supervisor {
    executable: PathBuf,
    config: TokenConfig,
    gate: Arc<PinGate>,
    phase: watch::Sender<Phase>,
    board: Arc<Board>,
    /// Which of the token's workers this one is.
    number: usize,
    generation: u64,
}

/// How the start of a worker went.
enum Started {
    Ready(Box<Worker>),
    PinRejected(Failure),
    Failed(String),
}

impl Supervisor {
    pub(super) fn new(
        executable: PathBuf,
        config: TokenConfig,
        gate: Arc<PinGate>,
        phase: watch::Sender<Phase>,
        board: Arc<Board>,
        number: usize,
    ) -> Self {
        Self {
            executable,
            config,
            gate,
            phase,
            board,
            number,
            generation: 0,
        }
    }

    /// Supervises until `stop` turns true or its sender goes. A worker that serves then is let go in good order.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = BACKOFF_MIN;
        while !*stop.borrow_and_update() {
            let started = tokio::select! {
                started = self.next_worker() => started,
                // Drops the worker that is being started, which kills its process.
                _ = stop.changed() => break,
            };
            let served = self.live_through(started, &mut stop).await;
            if served >= SOUND_AFTER {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                () = sleep(backoff) => {}
                _ = stop.changed() => break,
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.publish(Phase::Stopped);
    }

    /// Starts a worker as soon as there is a PIN worth trying.
    async fn next_worker(&mut self) -> Started {
        let gate = Arc::clone(&self.gate);
        let _turn = loop {
            self.wait_for_pin().await;
            let turn = gate.turn().await;
            // Another worker may have been refused meanwhile.
            if !gate.is_rejected() {
                break turn;
            }
        };
        // Taken before the worker reads the file: a change in between costs another look at it, and is never overlooked.
        let tried = self.gate.mark.fingerprint();
        let started = self.start().await;
        match &started {
            Started::Ready(_) => self.gate.forget(),
            Started::PinRejected(failure) => self.reject_pin(tried, failure.clone()),
            Started::Failed(_) => {}
        }
        started
    }

    /// Answers how long calls were served.
    async fn live_through(&mut self, started: Started, stop: &mut watch::Receiver<bool>) -> Duration {
        match started {
            Started::Ready(worker) => {
                let since = Instant::now();
                self.serve(worker, stop).await;
                since.elapsed()
            }
            Started::PinRejected(_) => Duration::ZERO,
            Started::Failed(why) => {
                tracing::warn!(token = self.config.label, why, "the token is not available");
                self.publish(Phase::Unavailable(why));
                Duration::ZERO
            }
        }
    }

    async fn serve(&mut self, mut worker: Box<Worker>, stop: &mut watch::Receiver<bool>) {
        tracing::info!(token = self.config.label, pid = worker.pid(), "the token is ready");
        self.publish(Phase::Ready(worker.link.clone()));
        let end = tokio::select! {
            end = worker.watch() => end,
            _ = stop.changed() => {
                // The link in the phase goes with this, so that the worker sees its connection close.
                self.publish(Phase::Stopped);
                return worker.end().await;
            }
        };
        match end {
            End::Exited(status) => {
                tracing::warn!(
                    token = self.config.label,
                    ?status,
                    "the token worker ended; starting another"
                );
                self.publish(Phase::Starting);
            }
            End::Fault(Fault::PinRejected) => {
                let failure = self.pin_failure();
                tracing::error!("{failure}");
                // The worker has marked which state of the file it tried; the file may have been corrected since.
                let marked = self.gate.mark.rejected().ok().flatten();
                let tried = marked.unwrap_or_else(|| self.gate.mark.fingerprint());
                self.reject_pin(tried, failure);
                worker.end().await;
            }
            End::Fault(fault) => {
                tracing::warn!(
                    token = self.config.label,
                    ?fault,
                    "the token worker is killed; starting another"
                );
                self.publish(Phase::Starting);
                worker.kill().await;
            }
        }
    }

    async fn start(&mut self) -> Started {
        self.generation += 1;
        if !matches!(&*self.phase.borrow(), Phase::Unavailable(_)) {
            self.publish(Phase::Starting);
        }
        let worker = match Worker::start(
            &self.executable,
            &self.config,
            self.gate.mark.directory(),
            self.generation,
        )
        .await
        {
            Ok(worker) => worker,
            Err(error) => {
                let executable = self.executable.display();
                return Started::Failed(format!("the token worker {executable} cannot be started: {error}"));
            }
        };
        match timeout(CALL_TIMEOUT, open(&worker)).await {
            Ok(Ok(())) => Started::Ready(Box::new(worker)),
            Ok(Err(failure)) => {
                worker.end().await;
                match failure.reason {
                    Reason::PinRejected => Started::PinRejected(failure),
                    _ => Started::Failed(failure.message),
                }
            }
            Err(_) => {
                worker.kill().await;
                Started::Failed(format!("the token gave no answer within {} s", CALL_TIMEOUT.as_secs()))
            }
        }
    }

    /// Returns at once unless the PIN file, as it is now, is known to be wrong. One that changed may still hold the same PIN:
    /// only a worker can tell.
    async fn wait_for_pin(&mut self) {
        while self.gate.is_rejected() {
            if self.gate.is_due_for_another_look() {
                tracing::info!(
                    token = self.config.label,
                    "the PIN file has changed or its mark is gone; looking at it"
                );
                self.gate.forget();
                return;
            }
            if !matches!(&*self.phase.borrow(), Phase::PinRejected(_)) {
                let failure = self.pin_failure();
                tracing::error!("{failure}");
                self.publish(Phase::PinRejected(failure));
            }
            sleep(PIN_POLL_INTERVAL).await;
        }
    }

    /// The mark being made, waits for another PIN.
    fn reject_pin(&mut self, tried: Fingerprint, failure: Failure) {
        self.gate.reject(tried);
        self.publish(Phase::PinRejected(failure));
    }

    fn pin_failure(&self) -> Failure {
        let marks = self.gate.mark.directory();
        pin_rejected_by(&self.config.label, &self.config.pin_file, marks)
    }

    fn publish(&self, phase: Phase) {
        let state = match &phase {
            Phase::Starting => TokenState::Starting,
            Phase::Ready(_) => TokenState::Ready,
            Phase::Unavailable(why) => TokenState::Unavailable { why: why.clone() },
            Phase::PinRejected(_) => TokenState::PinRejected,
            Phase::Stopped => TokenState::Unavailable {
                why: "the token was stopped".to_owned(),
            },
        };
        self.phase.send_replace(phase);
        self.board.set(self.number, state);
    }
}

/// Has the worker log in, once it has found the token. It keeps the marks of its logins itself, as it makes more of them
/// than this one: whenever its session is lost.
async fn open(worker: &Worker) -> Result<(), Failure> {
    let mut client = worker.link.client();
    client.inspect(pb::InspectRequest {}).await?;
    client.log_in(pb::LogInRequest {}).await?;
    Ok(())
}
