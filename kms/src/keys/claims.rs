//! Who settles a version that an instance began: that one itself, or another once its lease has lapsed.
//!
//! A token is asked to make a version with a lease that held right before, and its calls have an end. So what an instance began
//! that says nothing is finished by another one after its lease if all of it is in the token, and given up only after the
//! longest call besides: what is not there by then does not come any more. Should a call have gone on for longer in spite of that,
//! whoever began it finds its claim gone, and destroys what came of it, the ids of which are those of that attempt alone.
//! (`docs/adr/0013`)

use strongroom_proto::{Failure, KeyName, Reason, kms::v1 as pb};

use super::{
    Keys, KeysError,
    instances::Member,
    lease::{InstanceId, LEASE, RENEWAL},
    manage::Intents,
    records::Intent,
};
use crate::hsm::Hsm;

impl<H: Hsm> Keys<H> {
    /// Makes sure that nobody else is making a version of `name`. What was left by an instance whose lease lapsed comes
    /// into `intents`, and what another one has ended goes out of them.
    pub(super) async fn adopt(&self, name: &KeyName, intents: &mut Intents) -> Result<(), Failure> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        self.catch_up(member).await?;
        let claimed = self.ledger.claimed(name).await?;
        if let Some(own) = intents.get(name)
            && claimed.as_ref().is_none_or(|(_, begun)| begun.token_id != own.token_id)
        {
            self.disown(own).await?;
            intents.remove(name);
        }
        let Some((owner, intent)) = claimed else {
            return Ok(());
        };
        if owner != member.id {
            self.may_take_over(member, &owner, &intent).await?;
            self.ledger.take_over(name, &owner).await?;
            tracing::warn!(key = %name, "taking over a version that a lapsed instance began");
        }
        intents.insert(name.clone(), intent);
        Ok(())
    }

    /// What comes of a version that this instance made and whose claim it has lost: the answer if another one has finished it.
    pub(super) async fn ended_elsewhere(&self, intents: &mut Intents, intent: &Intent) -> Result<pb::Key, Failure> {
        let name = &intent.key;
        tracing::warn!(key = %name, version = %intent.version, "another instance took over what this one began");
        self.adopt(name, intents).await?;
        let answer = self.answered(&intent.request, &intent.what).await?;
        answer.ok_or_else(|| KeysError::Lost { key: name.clone() }.into())
    }

    /// Settles what instances began that are not there any more, and what they ended.
    pub(super) async fn settle_for_others(&self, member: &Member) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            self.forget_destroyed(member).await;
            for name in self.left_behind(member).await.unwrap_or_default() {
                if !*self.compared.borrow() {
                    break;
                }
                match self.changing(&name).await {
                    Ok(_) => {}
                    Err(failure) if failure.reason == Reason::Overloaded => {
                        tracing::debug!(key = %name, "what a lapsed instance began is not settled yet: {failure}");
                    }
                    Err(failure) => {
                        tracing::warn!(key = %name, "cannot settle what a lapsed instance began: {failure}");
                    }
                }
            }
        }
    }

    /// Keys of which a lapsed instance was making a version, or this one, and others have ended that.
    async fn left_behind(&self, member: &Member) -> Result<Vec<KeyName>, KeysError> {
        // While this instance makes something it is not at an end with it.
        let mut own: Vec<_> = match self.changes.try_lock() {
            Ok(intents) => intents.keys().cloned().collect(),
            Err(_) => Vec::new(),
        };
        let claims = self.ledger.claims().await?;
        own.retain(|name| !claims.contains_key(name));
        if claims.is_empty() {
            return Ok(own);
        }
        let alive = member.unlapsed(self.ledger.instances().await?);
        let left = claims
            .into_iter()
            .filter(|(_, owner)| *owner != member.id && !alive.contains_key(owner));
        Ok(left.map(|(name, _)| name).chain(own).collect())
    }

    /// Refuses to take over what its owner may still be making.
    async fn may_take_over(&self, member: &Member, owner: &InstanceId, begun: &Intent) -> Result<(), Failure> {
        let records = self.ledger.instances().await?;
        let over = match member.silent_for(owner, &records) {
            Some(silent) if silent < LEASE => false,
            Some(silent) if silent < LEASE + self.hsm.call_limit() => self.is_all_made(begun).await?,
            // It has left, or has been silent for long enough.
            _ => true,
        };
        if over {
            return Ok(());
        }
        let key = begun.key.clone();
        Err(KeysError::Claimed { key }.into())
    }

    async fn is_all_made(&self, begun: &Intent) -> Result<bool, Failure> {
        let held = self.hsm.look_for(&begun.places()).await?.versions;
        let is_made = |(version, id)| held.iter().any(|held| (held.version, held.token_id) == (version, id));
        Ok(begun.objects().all(is_made))
    }

    /// Destroys what came into the token of a version that this instance began and another one has given up. What has become a
    /// version, or is still being made, stays.
    async fn disown(&self, begun: &Intent) -> Result<(), Failure> {
        let name = &begun.key;
        for (version, id) in self.ledger.unknown_objects(begun).await? {
            match self.hsm.destroy(name, version, id).await {
                Ok(_) => tracing::warn!(key = %name, %version, "what came of a version that was given up is destroyed"),
                // Destroying by the id alone is not offered; if it is there, neither of the two is used.
                Err(failure) if failure.reason == Reason::KeyVersionUnusable => {
                    tracing::error!(key = %name, %version, object = %id, "the place of a version that was given up is taken: {failure}");
                }
                Err(failure) => return Err(failure),
            }
        }
        self.note_touched(name);
        Ok(())
    }
}
