//! The task that has the log's head signed: after so many records or so much time if there are new ones, when a segment
//! ends, and at a stop. A token that cannot sign pauses the checkpoints and nothing else: records go on.

use std::{sync::Arc, time::Duration};

use strongroom_proto::Failure;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{AuditConfig, AuditLog, Checkpoint, Entry, verify::CHECKPOINT_LAG_MAX, writer::Tail};
use crate::hsm::Hsm;

/// The pause before a token that could not sign is asked again, at most.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the last checkpoint may take at a stop.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);

/// How signing goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signing {
    /// The last record that a signature of this run speaks of; 0 if none does.
    pub signed_seq: u64,
    /// Why checkpoints pause.
    pub paused: Option<Failure>,
}

/// The running task.
pub(crate) struct Checkpointer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts to have `log` signed by `hsm`.
    pub(crate) fn start<H: Hsm>(log: AuditLog, hsm: Arc<H>, config: &AuditConfig) -> Self {
        let (stop, stopped) = oneshot::channel();
        let signer = Signer {
            due: Due {
                records: config.checkpoint_records,
                every: config.checkpoint_every(),
            },
            log,
            hsm,
        };
        Self {
            stop,
            task: tokio::spawn(signer.run(stopped)),
        }
    }

    /// Makes the last checkpoint, if there is anything to sign and the token does it soon.
    pub(crate) async fn finish(self) {
        _ = self.stop.send(());
        _ = self.task.await;
    }
}

/// When a checkpoint is made.
#[derive(Debug, Clone, Copy)]
struct Due {
    records: u64,
    every: Duration,
}

struct Signer<H> {
    log: AuditLog,
    hsm: Arc<H>,
    due: Due,
}

impl<H: Hsm> Signer<H> {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let mut tail = self.log.tail.clone();
        let mut segment = tail.borrow().segment;
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = self.wait(&mut tail, segment, not_before) => {}
            }
            segment = tail.borrow().segment;
            let signed = tokio::select! {
                _ = &mut stopped => break,
                signed = self.sign() => signed,
            };
            not_before = Instant::now()
                + if signed {
                    Duration::ZERO
                } else {
                    self.due.every.min(RETRY_PAUSE_MAX)
                };
        }
        if tail.borrow().unsigned > 0 && timeout(LAST_TIMEOUT, self.sign()).await.is_err() {
            tracing::warn!("the token did not sign the end of the audit log in time; the next start has it signed");
        }
    }

    /// Returns when a checkpoint is due.
    async fn wait(&self, tail: &mut watch::Receiver<Tail>, segment: u64, not_before: Instant) {
        sleep_until(not_before).await;
        // An error means that the writer has ended; then there is nothing to sign, and a stop is near.
        if tail.wait_for(|tail| tail.unsigned > 0).await.is_err() {
            return std::future::pending().await;
        }
        let many = tail.wait_for(|tail| tail.unsigned >= self.due.records || tail.segment != segment);
        _ = timeout(self.due.every, many).await;
    }

    /// Has the head signed and recorded. Says whether that was done.
    async fn sign(&self) -> bool {
        match self.checkpoint().await {
            Ok(seq) => {
                let before = self.log.signing.send_replace(Signing {
                    signed_seq: seq,
                    paused: None,
                });
                if before.paused.is_some() {
                    tracing::info!(seq, "the audit log is signed again");
                }
                true
            }
            Err(failure) => {
                self.pause(failure).await;
                false
            }
        }
    }

    async fn checkpoint(&self) -> Result<u64, Failure> {
        let head = self.log.head();
        let signed = self.hsm.sign_audit(&head).await?;
        if self.log.head().seq - head.seq >= CHECKPOINT_LAG_MAX {
            // A verifier would not remember that record any more. The next try signs a newer one.
            return Ok(head.seq);
        }
        let entry = Entry {
            checkpoint: Some(Checkpoint::new(&head, &signed)),
            ..Entry::of_service("service kms", "checkpoint")
        };
        self.log.record(vec![entry]).await?;
        Ok(head.seq)
    }

    /// Says once, in the log and in the audit log, that checkpoints pause.
    async fn pause(&self, failure: Failure) {
        let mut news = false;
        self.log.signing.send_modify(|signing| {
            news = signing.paused.is_none();
            signing.paused = Some(failure.clone());
        });
        if news {
            tracing::warn!(reason = %failure.reason, %failure, "the audit log is not signed for now; records go on");
            let entry = Entry::of_service("service kms", "checkpoint").failed(&failure);
            // If this cannot be written either, calls say so.
            _ = self.log.record(vec![entry]).await;
        }
    }
}
