//! Keeps the policies in step with their files while the service runs: it looks every second, and on SIGHUP reads them
//! also if they look unchanged. The audit log says which set is in force from when on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_proto::{Failure, Reason};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{Policy, live::Change};
use crate::audit::{AuditLog, Entry};

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Policy {
    /// Follows the files until the task is aborted.
    pub(crate) async fn follow(self: Arc<Self>, audit: AuditLog) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP does not reload the policies; their files are watched"))
            .ok();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = hangup(&mut hangups) => self.forget_look(Instant::now()),
            }
            if let Err(failure) = self.reload(&audit).await {
                tracing::error!(%failure, "cannot record a change of the policies: trying again");
                self.forget_look(Instant::now());
            }
        }
    }

    /// Looks at the files, and puts in force what they say if that is new, valid and recorded.
    ///
    /// # Errors
    /// As [`AuditLog::record`]; then nothing was put in force.
    pub(crate) async fn reload(self: &Arc<Self>, audit: &AuditLog) -> Result<(), Failure> {
        let policy = Arc::clone(self);
        let look = move || policy.look(Instant::now());
        // Reading and validating thousands of policies takes its time.
        match tokio::task::spawn_blocking(look).await.unwrap_or(Change::None) {
            Change::None => {}
            Change::Valid(rules) => {
                let fingerprint = rules.fingerprint().to_owned();
                audit.record(vec![reloaded(&fingerprint)]).await?;
                tracing::info!(policies = rules.policy_count(), %fingerprint, "the policies were reloaded");
                self.install(*rules);
            }
            Change::Mended => {
                tracing::info!("the policy and groups files are again what is in force");
                audit.record(vec![reloaded(self.rules().fingerprint())]).await?;
            }
            Change::Broken(why) => {
                tracing::error!(%why, "the policy or groups file cannot be used: the policies before it stay in force");
                audit.record(vec![broken(why)]).await?;
            }
        }
        Ok(())
    }
}

fn reloaded(fingerprint: &str) -> Entry {
    Entry::of_service("service kms", "policy-reloaded")
        .noted(format!("the policies of fingerprint {fingerprint} are in force"))
}

fn broken(why: String) -> Entry {
    let failure = Failure::new(Reason::InvalidArgument, why);
    Entry::of_service("service kms", "policy-broken").failed(&failure)
}

/// The next SIGHUP; never, if they cannot be heard.
async fn hangup(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => _ = hangups.recv().await,
        None => std::future::pending().await,
    }
}
