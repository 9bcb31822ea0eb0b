//! Brings a new version into every token, or into none.

use std::time::Duration;

use bytes::Bytes;
use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::time::{Instant, sleep};

use super::{
    Fleet, Redundancy,
    check::try_version,
    member::{Member, Status},
};
use crate::token::{ImportKey, NewVersion, Origin, Token, TokenKeyVersion, TokenName, TokenObjectId};

/// Pause between two looks for a new version in a token that replicates by itself.
const REPLICATION_POLL: Duration = Duration::from_millis(250);

/// Where the key of a new version comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Material<'a> {
    /// The token draws it.
    Fresh,
    /// It is brought in, wrapped to that import key.
    Wrapped {
        import_key: TokenObjectId,
        wrapped: &'a Bytes,
    },
}

impl Fleet {
    /// Makes a version in one token, or brings it in there, has all others get it, and answers when every one was seen to hold
    /// the same key.
    ///
    /// All tokens have to serve: a version that one of them lacked could not be opened there when the others fail. What
    /// a failure leaves behind is found again by its id: a repeat goes on from there.
    pub(super) async fn make(&self, new: &NewVersion, material: Material<'_>) -> Result<TokenKeyVersion, Failure> {
        let _making = self.0.making.lock().await;
        let holds = |member: &&Member| {
            let held = |status: &Status| status.held.get(&new.key, new.version).map(|held| held.token_id);
            member.read(held) == Some(new.id)
        };
        let first = self.maker(holds).await.map_err(|failure| {
            let text = format!("version {} of key {} is not made: {failure}", new.version, new.key);
            Failure::new(failure.reason, text)
        })?;
        // Others may have been at the tokens for long.
        self.wait_lease().await?;
        let made = self.make_in(&first.token, new, material).await?;
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

    /// Destroys a version in every token, all of which have to serve: one that is away would bring it back. Answers the tokens.
    pub(super) async fn destroy_everywhere(
        &self,
        key: &KeyName,
        version: KeyVersion,
        id: TokenObjectId,
    ) -> Result<Vec<TokenName>, Failure> {
        let _making = self.0.making.lock().await;
        if self.members().len() > 1
            && let Some(missing) = self.members().iter().find(|member| !member.serves())
        {
            return Err(self.not_serving(missing));
        }
        let mut gone = Vec::new();
        for member in self.members() {
            gone.push(member.token.destroy(key, version, id).await?);
            member.change(|status| status.held.remove(key, version));
        }
        Ok(gone)
    }

    /// The key to wrap keys to that are to be brought in: that of the token which new versions are made in.
    pub(super) async fn key_to_import_under(&self, renew: bool) -> Result<ImportKey, Failure> {
        self.maker(|_| false).await?.token.import_key(renew).await
    }

    /// The token to make a version in: one that an earlier attempt made it in, or the first that can have all others get it.
    async fn maker(&self, holds: impl Fn(&&Member) -> bool) -> Result<&Member, Failure> {
        if let [single] = self.members() {
            return Ok(single);
        }
        if let Some(missing) = self.members().iter().find(|member| !member.serves()) {
            let failure = self.not_serving(missing);
            let text =
                format!("not every token could hold it: {failure}; mend it, or take it out of the configuration");
            return Err(Failure::new(failure.reason, text));
        }
        let mut candidates: Vec<_> = self.members().iter().filter(holds).collect();
        if candidates.is_empty() {
            candidates = self.members().iter().collect();
        }
        if self.clones() {
            self.sender(&candidates).await
        } else {
            Ok(candidates[0])
        }
    }

    /// The first of some tokens that can send clones to all others, as each is seen to by a trial.
    async fn sender<'a>(&'a self, candidates: &[&'a Member]) -> Result<&'a Member, Failure> {
        let mut reasons = Vec::new();
        for candidate in candidates {
            match self.try_sending(candidate).await {
                Ok(()) => return Ok(candidate),
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(failure) => reasons.push(format!("{:?}: {failure}", candidate.label())),
            }
        }
        Err(Failure::new(
            Reason::TokenRefused,
            format!(
                "no token can send clones of it to all others ({}); have one of them trust the others with strongroom token link, \
                 or add one that can be told so",
                reasons.join("; ")
            ),
        ))
    }

    async fn try_sending(&self, source: &Member) -> Result<(), Failure> {
        for other in self.members().iter().filter(|other| !std::ptr::eq(*other, source)) {
            let key = other.token.clone_key().await?;
            source.token.try_clone(&key).await?;
        }
        Ok(())
    }

    async fn make_in(
        &self,
        token: &Token,
        new: &NewVersion,
        material: Material<'_>,
    ) -> Result<TokenKeyVersion, Failure> {
        match (material, self.clones()) {
            (Material::Fresh, false) => token.generate(new).await,
            (Material::Fresh, true) => token.generate_clonable(new).await,
            (Material::Wrapped { import_key, wrapped }, false) => token.import(new, import_key, wrapped.clone()).await,
            (Material::Wrapped { import_key, wrapped }, true) => {
                let made = token.import_clonable(new, import_key, wrapped.clone()).await?;
                // The token vouches for no origin of what can leave it.
                let origin = Origin::Imported;
                Ok(TokenKeyVersion { origin, ..made })
            }
        }
    }

    /// Clones a version from one token to another and holds them against each other.
    pub(super) async fn clone_to(
        &self,
        source: &Member,
        destination: &Member,
        original: &TokenKeyVersion,
    ) -> Result<TokenKeyVersion, Failure> {
        let key = destination.token.clone_key().await?;
        let clone = source.token.export_clone(original, &key).await?;
        let copy = destination.token.import_clone(original, &key, clone).await?;
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
        let deadline = Instant::now() + self.settings().replication_wait();
        let place = [(original.key.clone(), original.version)];
        loop {
            let held = destination.token.look_for(&place).await?;
            match held.versions.into_iter().next() {
                Some(copy) if (copy.kcv, copy.token_id) == (original.kcv, original.token_id) => {
                    try_version(&destination.token, Some(&source.token), original).await?;
                    return Ok(copy);
                }
                Some(copy) => return Err(self.unequal(source, destination, original, &copy)),
                None if Instant::now() < deadline => sleep(REPLICATION_POLL).await,
                None => {
                    let (from, to, s) = (source.label(), destination.label(), self.settings().replication_wait_s);
                    let text = format!(
                        "version {} of key {} was made in token {from:?} and has not reached {to:?} after {s} s; see to the HSM's own \
                         replication and repeat the call, raise redundancy.replication_wait_s, or set redundancy.mode = \"clone\"",
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
            "version {} of key {} has check value {} and CKA_ID {} in token {:?}, {} and {} in {:?}: they are not the same key",
            original.version,
            original.key,
            original.kcv,
            original.token_id,
            source.label(),
            copy.kcv,
            copy.token_id,
            destination.label()
        );
        self.raise(destination.label(), what.clone());
        Failure::new(Reason::TokenRefused, what)
    }
}
