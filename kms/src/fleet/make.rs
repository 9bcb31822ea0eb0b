//! Brings a new version into every token, or into none.

use std::time::Duration;

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::time::{Instant, sleep};

use super::{Fleet, Redundancy, check::try_version, member::Member};
use crate::token::{NewVersion, TokenKeyVersion, TokenObjectId};

/// How long tokens that replicate by themselves may take to show a new version.
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(30);
const REPLICATION_POLL: Duration = Duration::from_millis(250);

impl Fleet {
    /// Makes a version in one token, has all others get it, and answers when every one was seen to hold the same key.
    ///
    /// All tokens have to serve: a version that one of them lacked could not be opened there when the others fail. What
    /// a failure leaves behind is found again by its id: a repeat goes on from there.
    pub(super) async fn make(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        let _making = self.0.making.lock().await;
        if let [single] = self.members() {
            return single.token.generate(new).await;
        }
        if let Some(missing) = self.members().iter().find(|member| !member.serves()) {
            let failure = self.not_serving(missing);
            let text = format!(
                "version {} of key {} is not made, since not every token could hold it: {failure}; mend it, or take it out of the \
                 configuration",
                new.version, new.key
            );
            return Err(Failure::new(failure.reason, text));
        }
        let first = self.maker(new);
        let made = if self.clones() {
            first.token.generate_clonable(new).await?
        } else {
            first.token.generate(new).await?
        };
        for other in self.members().iter().filter(|other| !std::ptr::eq(*other, first)) {
            match self.settings().mode {
                Redundancy::Clone => self.clone_to(first, other, &made).await?,
                Redundancy::ReplicatedByHsm => self.await_replica(first, other, &made).await?,
            };
        }
        for member in self.members() {
            member.change(|status| status.held.add(made.clone()));
        }
        Ok(made)
    }

    /// Destroys a version in every token, all of which have to serve: one that is away would bring it back.
    pub(super) async fn destroy_everywhere(
        &self,
        key: &KeyName,
        version: KeyVersion,
        id: TokenObjectId,
    ) -> Result<(), Failure> {
        let _making = self.0.making.lock().await;
        if self.members().len() > 1
            && let Some(missing) = self.members().iter().find(|member| !member.serves())
        {
            return Err(self.not_serving(missing));
        }
        for member in self.members() {
            member.token.destroy(key, version, id).await?;
            member.change(|status| status.held.remove(key, version));
        }
        Ok(())
    }

    /// The token that keys are brought into: only a single one takes any, since what was brought in cannot be cloned.
    pub(super) fn only_member(&self) -> Result<&Member, Failure> {
        match self.members() {
            [single] => Ok(single),
            _ => Err(Failure::new(
                Reason::InvalidArgument,
                "keys can be brought into a single token only; bring the key in before the second token is configured, then roll it",
            )),
        }
    }

    /// The token to make a version in: the one that an earlier attempt made it in, or the first.
    fn maker(&self, new: &NewVersion) -> &Member {
        let holds = |member: &&Member| {
            member.read(|status| {
                status
                    .held
                    .get(&new.key, new.version)
                    .is_some_and(|held| held.token_id == new.id)
            })
        };
        self.members().iter().find(holds).unwrap_or(&self.members()[0])
    }

    /// Clones a version from one token to another and holds them against each other.
    pub(super) async fn clone_to(
        &self,
        source: &Member,
        destination: &Member,
        original: &TokenKeyVersion,
    ) -> Result<TokenKeyVersion, Failure> {
        let key = destination.token.clone_key().await?;
        let wrapped = source.token.export_clone(original, &key).await?;
        let copy = destination.token.import_clone(original, &key, wrapped).await?;
        if copy.kcv != original.kcv {
            return Err(self.unequal(source, destination, original, &copy));
        }
        try_version(&destination.token, Some(&source.token), original).await?;
        destination.change(|status| status.held.add(copy.clone()));
        Ok(copy)
    }

    /// Waits until a version that was made in one token shows in another, and holds them against each other.
    async fn await_replica(
        &self,
        source: &Member,
        destination: &Member,
        original: &TokenKeyVersion,
    ) -> Result<TokenKeyVersion, Failure> {
        let deadline = Instant::now() + REPLICATION_TIMEOUT;
        let is_it = |found: &TokenKeyVersion| found.key == original.key && found.version == original.version;
        loop {
            let held = destination.token.list_versions().await?;
            match held.into_iter().find(is_it) {
                Some(copy) if copy.kcv == original.kcv => {
                    try_version(&destination.token, Some(&source.token), original).await?;
                    return Ok(copy);
                }
                Some(copy) => return Err(self.unequal(source, destination, original, &copy)),
                None if Instant::now() < deadline => sleep(REPLICATION_POLL).await,
                None => {
                    let (from, to, s) = (source.label(), destination.label(), REPLICATION_TIMEOUT.as_secs());
                    let text = format!(
                        "version {} of key {} was made in token {from:?} and has not reached {to:?} after {s} s; see to the HSM's own \
                         replication, or set redundancy.mode = \"clone\"",
                        original.version, original.key
                    );
                    return Err(Failure::new(Reason::TokenUnavailable, text));
                }
            }
        }
    }

    fn unequal(
        &self,
        source: &Member,
        destination: &Member,
        original: &TokenKeyVersion,
        copy: &TokenKeyVersion,
    ) -> Failure {
        let what = format!(
            "version {} of key {} has check value {} in token {:?} and {} in {:?}: they are not the same key",
            original.version,
            original.key,
            original.kcv,
            source.label(),
            copy.kcv,
            destination.label()
        );
        self.raise(destination.label(), what.clone());
        Failure::new(Reason::TokenRefused, what)
    }
}
