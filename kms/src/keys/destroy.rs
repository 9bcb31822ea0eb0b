//! Carrying out deletions whose time has come.
//!
//! First the store says that a destruction has begun, which nobody can take back; once every instance knows that, so that none
//! fills up a token with what goes, the versions are destroyed in the token; then the audit log gets the receipts; then the store says that nothing is left. Whatever a crash cuts off is
//! done again from the second step on: destroying what is gone changes nothing, and a receipt that may be there twice has
//! the name that was stored in the first step, and says that it is a repeat.

use aws_lc_rs::digest::{Context, SHA256};
use strongroom_proto::{Failure, KeyName, KeyVersion, RequestId};

use super::{
    Keys,
    deletion::{Begun, Target, Zones},
    key::Key,
};
use crate::{
    audit::{RECEIPT_ZONES_MAX, Receipt, TokenReceipt, ZoneReceipt},
    hsm::Hsm,
    token::TokenName,
};

impl<H: Hsm> Keys<H> {
    /// What is to be destroyed now, while there is a token to destroy it in.
    pub(crate) fn destructions_due(&self) -> Vec<(KeyName, Target)> {
        if !*self.compared.borrow() {
            return Vec::new();
        }
        let now_ms = self.clock.now_ms();
        let table = self.table();
        let deleting = table.values().filter(|key| !key.deletions.is_empty());
        let due = deleting.flat_map(|key| {
            let zones = self.registry.zones_of(&key.name);
            let targets = key.deletions.keys().copied();
            let due = targets.filter(|&target| key.is_due(target, &zones, self.config.quorum(), now_ms));
            due.map(|target| (key.name.clone(), target)).collect::<Vec<_>>()
        });
        due.collect()
    }

    /// Destroys the target in the token if its time has come. Answers one receipt for each version, which are to be
    /// recorded before [`Self::bury`].
    pub(crate) async fn destroy(
        &self,
        name: &KeyName,
        target: Target,
    ) -> Result<Option<Vec<(KeyVersion, Receipt)>>, Failure> {
        let Some((zones, repeated)) = self.begin_to_destroy(name, target).await? else {
            return Ok(None);
        };
        self.seen_everywhere().await?;
        let _intents = self.changing(name).await?;
        self.learn_uses(name).await;
        let key = self.known(name)?;
        let mut receipts = Vec::new();
        for number in key.going(target) {
            let id = key.versions[&number].token_id;
            let absent_from = self.hsm.destroy(name, number, id).await?;
            tracing::warn!(key = %name, version = %number, "destroyed in the token");
            let absent_from = absent_from.into_iter().map(TokenReceipt::from).collect();
            let receipt = self.receipt(&key, target, number, &zones);
            let receipt = receipt.map(|receipt| Receipt {
                repeated,
                absent_from,
                ..receipt
            });
            receipts.extend(receipt.map(|receipt| (number, receipt)));
        }
        Ok(Some(receipts))
    }

    /// Stores that the destruction of the target has begun, if its time has come. Answers its zones, and whether it had begun before.
    async fn begin_to_destroy(&self, name: &KeyName, target: Target) -> Result<Option<(Zones, bool)>, Failure> {
        let _intents = self.changing(name).await?;
        // The store knows the zones of every instance.
        let zones = self.ledger.zones(name).await?;
        self.registry.put_zones(name, &zones);
        let now_ms = self.clock.now_ms();
        if !self.known(name)?.is_due(target, &zones, self.config.quorum(), now_ms) {
            return Ok(None);
        }
        let mut repeated = false;
        self.change(name, |key| {
            repeated = key.begin_destruction(target, begun(now_ms));
            Ok(!repeated)
        })
        .await?;
        Ok(Some((zones, repeated)))
    }

    /// Records that nothing of the target is left.
    pub(crate) async fn bury(&self, name: &KeyName, target: Target) -> Result<(), Failure> {
        let _intents = self.changing_store().await?;
        let now_ms = self.clock.now_ms();
        self.change(name, |key| {
            key.bury(target, now_ms);
            Ok(true)
        })
        .await
        .map(drop)
    }

    fn receipt(&self, key: &Key, target: Target, number: KeyVersion, zones: &Zones) -> Option<Receipt> {
        let (version, deletion) = (key.versions.get(&number)?, key.deletions.get(&target)?);
        let begun = deletion.begun?;
        let mut digest = Context::new(&SHA256);
        let mut proofs = Vec::new();
        for (zone, proven) in zones {
            let Some(proven) = proven else { continue };
            digest.update(zone.as_bytes());
            digest.update(&proven.hash);
            if proofs.len() < RECEIPT_ZONES_MAX {
                proofs.push(ZoneReceipt {
                    zone: zone.to_string(),
                    sha256: hex::encode(proven.hash),
                });
            }
        }
        Some(Receipt {
            id: format!("{}-{number}", hex::encode(begun.id)),
            repeated: false,
            absent_from: Vec::new(),
            token_id: version.token_id.to_string(),
            kcv: version.kcv.to_string(),
            requested_by: deletion.requested_by.clone(),
            retired_ms: deletion.retired_ms,
            last_used_ms: self.registry.uses_of(&key.name).get(&number).copied(),
            approved_by: deletion.approvals.keys().cloned().collect(),
            zones: zones.len(),
            proofs_sha256: hex::encode(digest.finish()),
            proofs,
        })
    }
}

impl From<TokenName> for TokenReceipt {
    fn from(TokenName { label, serial }: TokenName) -> Self {
        Self { label, serial }
    }
}

fn begun(at_ms: u64) -> Begun {
    Begun {
        at_ms,
        id: *RequestId::generate().as_bytes(),
    }
}
