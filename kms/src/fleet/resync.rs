//! Fills up a token that lacks versions, from those that hold them.

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};

use super::{Fleet, Redundancy, Resynced, member::Member};

impl Fleet {
    /// Clones into the token `label` every expected version that it lacks.
    ///
    /// # Errors
    /// If there is no such token, it is not up, or Strongroom does not clone here. What single versions failed with is
    /// in the answer.
    pub(super) async fn fill(&self, label: &str) -> Result<Resynced, Failure> {
        let place = self.place_of(label)?;
        if self.settings().mode == Redundancy::ReplicatedByHsm {
            return Err(Failure::new(
                Reason::InvalidArgument,
                "these tokens replicate by themselves (redundancy.mode = \"replicated-by-hsm\"); synchronise them with the HSM's own tools",
            ));
        }
        self.compare_one(place).await;
        let destination = &self.members()[place];
        if !destination.serves() {
            return Err(self.not_serving(destination));
        }
        let mut done = Resynced::default();
        for (key, version) in self.lacked_by(destination) {
            // Held for one version at a time: keys are made meanwhile, and destroyed.
            let _making = self.0.making.lock().await;
            if !self.lacks(destination, &key, version) {
                continue;
            }
            match self.refill(destination, &key, version).await {
                Ok(()) => done.cloned.push((key, version)),
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(failure) => done.left.push((key, version, failure.message)),
            }
        }
        self.compare_one(place).await;
        Ok(done)
    }

    async fn refill(&self, destination: &Member, key: &KeyName, version: KeyVersion) -> Result<(), Failure> {
        let holds = |member: &&Member| member.serves() && member.read(|status| status.held.has(key, version));
        let mut refused = None;
        for source in self.members().iter().filter(holds) {
            let original = source.read(|status| status.held.get(key, version).cloned());
            let original = original.ok_or_else(|| Failure::new(Reason::Internal, "the version went away"))?;
            match self.clone_to(source, destination, &original).await {
                Ok(_) => return Ok(()),
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
