//! Keys that come from elsewhere: all their versions are brought into the token, or none.
//!
//! One intent names the ids of all versions before the token gets the first, so that whatever a crash or a wrong version
//! leaves in the token is found again: if all versions are there the key is finished, otherwise what is there is destroyed.
//! Whoever imports still has the keys.

use bytes::Bytes;
use strongroom_proto::{EdekSuite, Failure, KeyVersion, Reason, RequestId, kms::v1 as pb};

use super::{
    Keys, KeysError,
    key::Key,
    manage::{Intents, NewKey, is_of, key_bits, looked_everywhere, taken},
    records::Intent,
    rotation::Rotation,
};
use crate::{
    hsm::{Held, Hsm},
    token::{Origin, TokenKeyVersion, TokenObjectId},
};

/// Versions that one key may be imported with.
pub(crate) const VERSIONS_MAX: usize = 1000;

/// What is imported.
#[derive(Debug)]
pub(crate) struct Material {
    /// The import key that the versions are wrapped to.
    pub(crate) import_key: TokenObjectId,
    /// The raw AES keys of the versions from 0 on, each wrapped; at least one.
    pub(crate) wrapped: Vec<Bytes>,
}

impl<H: Hsm> Keys<H> {
    /// Makes a key of versions that are brought in. The last one mints, unless its suite counts uses, which nobody knows.
    pub(crate) async fn import(&self, new: NewKey, material: Material, request: RequestId) -> Result<pb::Key, Failure> {
        let suite = self.choose_suite(new.suite).await?;
        let key_bits = key_bits(suite, new.key_bits)?;
        let what = format!("import {} {suite}", new.name);
        let mut intents = self.changing(&new.name).await?;
        if let Some(answer) = self.answered(&request, &what).await? {
            return Ok(answer);
        }
        self.name_is_free(&new.name)?;
        let mut key = Key::new(new.name.clone(), suite, self.clock.now_ms());
        key.key_bits = key_bits;
        let intent = import_intent(key, new, material.wrapped.len(), request, what);
        self.begin(&mut intents, &intent, 0).await?;
        match self.bring_in(&intent, &material).await {
            Ok(made) => self.finish_import(&mut intents, &intent, &made).await,
            // It may have come in all the same: the next change of the key, or the token when it comes up, settles it.
            Err(failure) if failure.is_transient() => Err(failure),
            Err(failure) => {
                self.undo_import(&mut intents, &intent).await?;
                Err(failure)
            }
        }
    }

    /// Has the token take and prove every version, in order.
    async fn bring_in(&self, intent: &Intent, material: &Material) -> Result<Vec<TokenKeyVersion>, Failure> {
        let mut made = Vec::new();
        for (part, wrapped) in parts(intent).iter().zip(&material.wrapped) {
            let new = part.new_version();
            self.wait_lease().await?;
            let import = self.hsm.import(&new, material.import_key, wrapped.clone()).await;
            made.push(import.map_err(|failure| of_version(part, failure))?);
            self.prove(part).await?;
        }
        Ok(made)
    }

    /// Makes the key of what is in the token.
    async fn finish_import(
        &self,
        intents: &mut Intents,
        intent: &Intent,
        made: &[TokenKeyVersion],
    ) -> Result<pb::Key, Failure> {
        let new = || Key::new(intent.key.clone(), intent.suite, intent.created_ms);
        let mut key = intent.new_key.clone().unwrap_or_else(new);
        for version in made {
            key.add(version, self.hsm.clones(), intent.created_ms);
        }
        if let Some(last) = made.last().filter(|_| intent.suite != EdekSuite::Gcm) {
            key.activate(last, self.hsm.clones(), intent.created_ms);
        }
        let answer = self.wire(&key);
        key.revision = match self.ledger.complete(intent, None, &key, &answer).await {
            Ok(revision) => revision,
            Err(KeysError::Lost { .. }) => return self.ended_elsewhere(intents, intent).await,
            Err(error) => return Err(error.into()),
        };
        intents.remove(&intent.key);
        self.put(key);
        Ok(answer)
    }

    /// Destroys what came into the token, and forgets the intent. That is stored first: another instance that takes it over, because
    /// this one stands still meanwhile, must not make a live key of what is being destroyed.
    async fn undo_import(&self, intents: &mut Intents, intent: &Intent) -> Result<(), Failure> {
        self.ledger.undo(intent).await?;
        for part in parts(intent) {
            match self.hsm.destroy(&part.key, part.version, part.token_id).await {
                // Somebody else's is left alone.
                Err(failure) if failure.reason != Reason::KeyVersionUnusable => return Err(failure),
                _ => {}
            }
        }
        self.give_way(intents, intent).await
    }

    /// Finishes an import that was cut off, or undoes it.
    pub(super) async fn settle_import(
        &self,
        intents: &mut Intents,
        intent: &Intent,
        held: &Held,
    ) -> Result<(), Failure> {
        if intent.undone {
            return self.undo_import(intents, intent).await;
        }
        let mut made = Vec::new();
        for part in parts(intent) {
            let Some(found) = held.versions.iter().find(|found| is_of(found, &part)) else {
                looked_everywhere(intent, held)?;
                tracing::warn!(key = %intent.key, "undoing an import of which not every version reached the token");
                return self.undo_import(intents, intent).await;
            };
            match self.complete(&part, found).await {
                Ok(version) => made.push(version),
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(_) => return self.undo_import(intents, intent).await,
            }
        }
        tracing::warn!(key = %intent.key, "finishing an import that was begun before");
        self.finish_import(intents, intent, &made).await.map(drop)
    }

    /// Sees that a version which came into one token is in all of them, and is what was found.
    async fn complete(&self, part: &Intent, found: &TokenKeyVersion) -> Result<TokenKeyVersion, Failure> {
        let version = self.hsm.generate(&part.new_version()).await?;
        if version.kcv != found.kcv {
            let text = "another key was made in the place of one that was brought in";
            return Err(Failure::new(Reason::TokenRefused, text));
        }
        self.prove(part).await?;
        let origin = Origin::Imported;
        Ok(TokenKeyVersion { origin, ..version })
    }
}

/// An intent for each version, from 0 on.
fn parts(intent: &Intent) -> Vec<Intent> {
    let part = |(version, token_id)| Intent {
        version,
        token_id,
        new_key: None,
        imports: None,
        ..intent.clone()
    };
    intent.objects().map(part).collect()
}

/// Says which version it was that the token did not take.
fn of_version(part: &Intent, failure: Failure) -> Failure {
    if failure.reason == Reason::AlreadyExists {
        return taken(part);
    }
    let Failure { reason, message, .. } = failure;
    Failure::new(
        reason,
        format!("version {} of key {}: {message}", part.version, part.key),
    )
}

/// What is begun: `key` with that many versions, whose ids are drawn here.
fn import_intent(mut key: Key, new: NewKey, versions: usize, request: RequestId, what: String) -> Intent {
    key.attributes = new.attributes;
    let starting = |period_ms| Rotation::starting(period_ms, key.created_ms);
    key.rotation = new.rotation_period_ms.map(starting);
    let earlier = versions.saturating_sub(1);
    Intent {
        key: new.name,
        version: KeyVersion(u32::try_from(earlier).unwrap_or(u32::MAX)),
        suite: key.suite,
        created_ms: key.created_ms,
        request,
        what,
        key_bits: key.key_bits,
        token_id: TokenObjectId::generate(),
        new_key: Some(key),
        imports: Some((0..earlier).map(|_| TokenObjectId::generate()).collect()),
        undone: false,
    }
}
