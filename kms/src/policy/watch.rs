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
/// Records that wait for a log that cannot be written, at most: one for each way in which the files were broken or mended.
const UNRECORDED_MAX: usize = 16;

/// What was found of the files and is not in the audit log yet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded(Vec<Entry>);

impl Unrecorded {
    /// Adds a record; of too many the oldest goes.
    fn push(&mut self, entry: Entry) {
        if self.0.len() == UNRECORDED_MAX {
            self.0.remove(0);
        }
        self.0.push(entry);
    }

    /// Records all of it, or keeps it for the next time.
    async fn record(&mut self, audit: &AuditLog) -> Result<(), Failure> {
        if !self.0.is_empty() {
            audit.record(self.0.clone()).await?;
            self.0.clear();
        }
        Ok(())
    }
}

impl Policy {
    /// Follows the files until the task is aborted.
    pub(crate) async fn follow(self: Arc<Self>, audit: AuditLog) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP does not reload the policies; their files are watched"))
            .ok();
        let mut unrecorded = Unrecorded::default();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = hangup(&mut hangups) => self.forget_look(Instant::now()),
            }
            if let Err(failure) = self.reload(&audit, &mut unrecorded, Instant::now()).await {
                tracing::error!(%failure, "cannot record a change of the policies: trying again");
                self.forget_look(Instant::now());
            }
        }
    }

    /// Looks at the files, at the time `now`, and puts in force what they say if that is new, valid and recorded.
    ///
    /// # Errors
    /// As [`AuditLog::record`]; then nothing was put in force, and what was found broken or mended is `unrecorded`.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        audit: &AuditLog,
        unrecorded: &mut Unrecorded,
        now: Instant,
    ) -> Result<(), Failure> {
        let policy = Arc::clone(self);
        let look = move || policy.look(now);
        // Reading and validating thousands of policies takes its time.
        match tokio::task::spawn_blocking(look).await.unwrap_or(Change::None) {
            Change::None => {}
            Change::Valid(rules) => {
                let fingerprint = rules.fingerprint().to_owned();
                unrecorded.record(audit).await?;
                audit.record(vec![reloaded(&fingerprint)]).await?;
                tracing::info!(policies = rules.policy_count(), %fingerprint, "the policies were reloaded");
                self.install(*rules);
            }
            Change::Mended => {
                tracing::info!("the policy and groups files are again what is in force");
                unrecorded.push(reloaded(self.rules().fingerprint()));
            }
            Change::Broken(why) => {
                tracing::error!(%why, "the policy or groups file cannot be used: the policies before it stay in force");
                unrecorded.push(broken(why));
            }
        }
        unrecorded.record(audit).await
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        audit::{AuditConfig, Record},
        policy::PolicyFiles,
    };

    const IN_FORCE: &str = "forbid (principal, action, resource);";
    const BROKEN: &str = "permit (principal, action);";

    /// The actions that the log in `dir` has records of.
    fn recorded(dir: &Path) -> Vec<String> {
        let mut segments: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        segments.sort();
        let text: String = segments
            .iter()
            .map(|path| fs::read_to_string(path).expect("text"))
            .collect();
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Record>(line).expect("a record"));
        records.map(|record| record.entry.action).collect()
    }

    #[tokio::test]
    async fn what_could_not_be_recorded_is_recorded_later_and_once() {
        let site = tempfile::tempdir().expect("a directory");
        let (log, away) = (site.path().join("audit"), site.path().join("away"));
        let policy_file = site.path().join("policy.cedar");
        fs::write(&policy_file, IN_FORCE).expect("written");
        let files = PolicyFiles {
            policy: policy_file.clone(),
            groups: None,
        };
        let policy = Arc::new(Policy::load(files).expect("valid"));
        // Each write begins a segment, which takes the directory.
        let config = AuditConfig {
            segment_bytes: 1,
            ..AuditConfig::default()
        };
        let (audit, _writer) = AuditLog::open(&log, &config).expect("opened");
        audit.record(vec![reloaded("at first")]).await.expect("written");

        let (mut unrecorded, mut now) = (Unrecorded::default(), Instant::now());
        let mut look = async |policy: &Arc<Policy>| {
            now += LOOK_INTERVAL;
            policy.reload(&audit, &mut unrecorded, now).await
        };
        fs::rename(&log, &away).expect("renamed");
        for text in [BROKEN, IN_FORCE] {
            fs::write(&policy_file, text).expect("written");
            _ = look(&policy).await;
            let failure = look(&policy).await.expect_err("the log cannot be written");
            assert_eq!(failure.reason, Reason::StoreFailed, "{failure}");
            assert_eq!(policy.status().borrow().broken.is_some(), text == BROKEN);
        }
        fs::rename(&away, &log).expect("renamed");
        for _ in 0..3 {
            look(&policy).await.expect("it can be written again");
        }
        assert_eq!(recorded(&log), ["policy-reloaded", "policy-broken", "policy-reloaded"]);
    }
}
