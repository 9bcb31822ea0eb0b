//! Fills up a token that lacks versions, from those that hold them.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::time::timeout;

use super::{Fleet, Redundancy, Resynced, member::Member};
use crate::token::TokenKeyVersion;

/// How long a call compares the token, and how long it clones: together less than its caller waits for an answer.
const COMPARE_MAX: Duration = Duration::from_secs(2);
const FILL_MAX: Duration = Duration::from_secs(5);

/// How long a key that is to come into a token waits for this instance's lease, by which it knows what others do.
const LEASE_WAIT: Duration = Duration::from_secs(3);

/// A copy that is or may be in a token since a version was cloned into it, and may be one of a version destroyed meanwhile.
#[derive(Debug)]
pub(super) struct Copied {
    destination: String,
    original: TokenKeyVersion,
}

impl Fleet {
    /// Clones into the token `label` expected versions that it lacks, those behind `after`, for some seconds.
    ///
    /// # Errors
    /// If there is no such token, it is not up, or Strongroom does not clone here. What single versions failed with is
    /// in the answer.
    pub(super) async fn fill(&self, label: &str, after: Option<(KeyName, KeyVersion)>) -> Result<Resynced, Failure> {
        let place = self.place_of(label)?;
        if self.settings().mode == Redundancy::ReplicatedByHsm {
            return Err(Failure::new(
                Reason::InvalidArgument,
                "these tokens replicate by themselves (redundancy.mode = \"replicated-by-hsm\"); synchronise them with the HSM's own tools",
            ));
        }
        if after.is_none() {
            // Where that takes minutes, what the last comparison found out has to do.
            _ = timeout(COMPARE_MAX, self.compare_one(place)).await;
        }
        self.fill_until(&self.members()[place], after, Some(Instant::now() + FILL_MAX))
            .await
    }

    /// The same without comparing the token first, and until `until`, but one version at least.
    pub(super) async fn fill_until(
        &self,
        destination: &Member,
        after: Option<(KeyName, KeyVersion)>,
        until: Option<Instant>,
    ) -> Result<Resynced, Failure> {
        if !destination.serves() {
            return Err(self.not_serving(destination));
        }
        let mut done = Resynced::default();
        let lacked = self.lacked_by(destination).into_iter();
        let mut lacked = lacked
            .filter(|place| after.as_ref().is_none_or(|after| place > after))
            .peekable();
        let mut outcome = Ok(());
        while let (Ok(()), Some((key, version))) = (&outcome, lacked.next()) {
            outcome = self.fill_one(destination, &key, version, &mut done).await;
            if lacked.peek().is_some() && until.is_some_and(|until| Instant::now() >= until) {
                done.next = Some((key, version));
                break;
            }
        }
        self.expected(|expected| destination.change(|status| status.lacking = expected.lacking(&status.held)));
        outcome.map(|()| done)
    }

    async fn fill_one(
        &self,
        destination: &Member,
        key: &KeyName,
        version: KeyVersion,
        done: &mut Resynced,
    ) -> Result<(), Failure> {
        // Held for one version at a time: keys are made meanwhile, and destroyed.
        let mut copied = self.0.making.lock().await;
        self.see_to_copy(&mut copied).await?;
        if !self.lacks(destination, key, version) {
            return Ok(());
        }
        match self.refill(destination, key, version, &mut copied).await {
            Ok(true) => done.cloned.push((key.clone(), version)),
            Ok(false) => {}
            Err(failure) if failure.is_transient() || failure.reason == Reason::StoreFailed => return Err(failure),
            Err(failure) => done.left.push((key.clone(), version, failure.message)),
        }
        Ok(())
    }

    /// Answers whether the token has it: not if it was destroyed meanwhile.
    async fn refill(
        &self,
        destination: &Member,
        key: &KeyName,
        version: KeyVersion,
        copied: &mut Option<Copied>,
    ) -> Result<bool, Failure> {
        let holds = |member: &&Member| member.serves() && member.read(|status| status.held.has(key, version));
        let mut refused = None;
        for source in self.members().iter().filter(holds) {
            let original = source.read(|status| status.held.get(key, version).cloned());
            let original = original.ok_or_else(|| Failure::new(Reason::Internal, "the version went away"))?;
            *copied = Some(Copied {
                destination: destination.label().to_owned(),
                original: original.clone(),
            });
            match self.clone_to(source, destination, &original).await {
                Ok(_) => return self.see_to_copy(copied).await,
                // Not every token that holds it can send it.
                Err(failure) if failure.reason == Reason::TokenRefused => refused = refused.or(Some(failure)),
                Err(failure) => return Err(failure),
            }
        }
        let none = || {
            let text = format!("no token that serves holds version {version} of key {key}");
            Failure::new(Reason::KeyVersionUnusable, text)
        };
        Err(refused.unwrap_or_else(none))
    }

    /// Sees to a copy that could not be seen to when it was made.
    pub(super) async fn see_to_last_copy(&self) {
        let mut copied = self.0.making.lock().await;
        if copied.is_some()
            && let Err(failure) = self.see_to_copy(&mut copied).await
        {
            tracing::warn!("it is not known whether what was cloned last was destroyed meanwhile: {failure}");
        }
    }

    /// Sees that what another instance has begun to destroy since it was cloned does not come back by way of the copy. Answers
    /// whether that stays, if there is one.
    ///
    /// # Errors
    /// If this instance has lost touch with the store, by which it would know, or a token does not answer. It is to be called again then.
    async fn see_to_copy(&self, copied: &mut Option<Copied>) -> Result<bool, Failure> {
        self.wait_lease().await?;
        let Some(Copied { destination, original }) = &copied else {
            return Ok(true);
        };
        let (key, version) = (&original.key, original.version);
        // Looked at with the lease: whoever begins to destroy it from here on finds the copy.
        let stays = self.expected(|expected| expected.get(key, version)).is_some();
        if !stays {
            tracing::warn!(%key, %version, token = destination, "destroyed while it was cloned: the copy goes too");
            let destination = &self.members()[self.place_of(destination)?];
            destination.token.destroy(key, version, original.token_id).await?;
            destination.change(|status| status.held.remove(key, version));
        }
        *copied = None;
        Ok(stays)
    }

    /// Waits for this instance's lease: what it brings into a token without one may be what others have destroyed or given up.
    pub(super) async fn wait_lease(&self) -> Result<(), Failure> {
        let lease = self.0.lease.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(lease) = lease
            && !lease.is_held_within(LEASE_WAIT).await
        {
            return Err(Failure::new(
                Reason::StoreFailed,
                "this instance of the key service has lost touch with its store, so it brings no key into a token until it knows what \
                 others did",
            ));
        }
        Ok(())
    }

    /// Whether a version is still expected, and not in the token yet.
    fn lacks(&self, member: &Member, key: &KeyName, version: KeyVersion) -> bool {
        self.expected(|expected| expected.get(key, version)).is_some()
            && !member.read(|status| status.held.has(key, version))
    }

    fn lacked_by(&self, member: &Member) -> Vec<(KeyName, KeyVersion)> {
        let held = member.read(|status| status.held.clone());
        let mut lacked: Vec<_> = self.expected(|expected| {
            let lacking = expected.iter().filter(|(key, version, _)| !held.has(key, *version));
            lacking.map(|(key, version, _)| (key.clone(), version)).collect()
        });
        lacked.sort();
        lacked
    }

    fn place_of(&self, label: &str) -> Result<usize, Failure> {
        let place = self.members().iter().position(|member| member.label() == label);
        place.ok_or_else(|| {
            let labels: Vec<_> = self.members().iter().map(Member::label).collect();
            Failure::new(
                Reason::NotFound,
                format!(
                    "there is no token {label:?}; the configuration names: {}",
                    labels.join(", ")
                ),
            )
        })
    }

    pub(super) fn not_serving(&self, member: &Member) -> Failure {
        let (word, why) = member.read(|status| (status.health.as_str(), status.health.why().to_owned()));
        Failure::new(
            Reason::TokenUnavailable,
            format!(
                "token {:?} is {word}: {why}; see: strongroom token list",
                member.label()
            ),
        )
    }
}
