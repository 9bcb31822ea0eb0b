//! Destroying keys and versions: scheduled, proved or approved, and taken back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_proto::{
    Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1 as pb,
    proof::{SignedProof, ZoneProof},
    transport::TlsIdentity,
};

use super::{
    Keys,
    deletion::{Proven, Target},
};
use crate::hsm::Hsm;

/// The oldest proof that is read at all; what counts is that it is younger than the retirement.
const PROOF_AGE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What checks the proofs of zones.
#[derive(Debug, Clone)]
pub(crate) struct ProofChecker {
    /// Knows the CA that issued the metadata service's certificate.
    own: TlsIdentity,
}

/// A proof that was checked.
#[derive(Debug)]
pub(crate) struct CheckedProof {
    zone: ZoneId,
    key: KeyName,
    proven: Proven,
}

impl ProofChecker {
    /// Goes by the CA that `own` trusts at the time, also when its file is replaced.
    pub(crate) const fn new(own: TlsIdentity) -> Self {
        Self { own }
    }

    /// What a signed proof says, if it is the metadata service's.
    pub(crate) fn check(&self, bytes: &[u8], now_ms: u64) -> Result<CheckedProof, Failure> {
        let now: SystemTime = UNIX_EPOCH + Duration::from_millis(now_ms);
        let signed = SignedProof::from_bytes(bytes)?;
        let ZoneProof {
            zone,
            key,
            through,
            issued_ms,
            known,
            ..
        } = signed.verify(&self.own.trust(), now, PROOF_AGE_MAX)?;
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        let proven = Proven {
            through,
            issued_ms,
            known,
            hash,
        };
        Ok(CheckedProof { zone, key, proven })
    }
}

impl<H: Hsm> Keys<H> {
    /// Retires the target, takes proofs in, and starts the pending time if nothing but approvals is missing.
    pub(crate) async fn schedule_deletion(
        &self,
        name: &KeyName,
        target: Target,
        who: &str,
        pending_ms: u64,
        proofs: &[CheckedProof],
    ) -> Result<pb::Key, Failure> {
        // What was begun and cannot be settled now, a token being away, is before it is destroyed.
        let _intents = self.changing_store().await?;
        self.change(name, |key| key.schedule(target, who, pending_ms).map(|()| true))
            .await?;
        self.drained().await?;
        let now_ms = self.clock.now_ms();
        self.take_proofs(name, proofs).await?;
        let zones = self.ledger.zones(name).await?;
        let wire = self
            .change(name, |key| {
                key.retired(target, now_ms);
                key.make_pending(target, &zones, now_ms);
                Ok(true)
            })
            .await?;
        let key = self.known(name)?;
        let obstacles = key.obstacles(target, &zones, self.config.quorum()).unwrap_or_default();
        if obstacles.zones.is_empty() {
            Ok(wire)
        } else {
            Err(key.waits_for_proofs(target, &obstacles))
        }
    }

    /// Takes a deletion back.
    pub(crate) async fn cancel_deletion(&self, name: &KeyName, target: Target) -> Result<pb::Key, Failure> {
        let _intents = self.changing_store().await?;
        self.change(name, |key| key.cancel(target).map(|()| true)).await
    }

    /// Records that a user agrees to a deletion.
    pub(crate) async fn approve_deletion(&self, name: &KeyName, target: Target, who: &str) -> Result<pb::Key, Failure> {
        let _intents = self.changing_store().await?;
        let now_ms = self.clock.now_ms();
        self.change(name, |key| key.approve(target, who, now_ms)).await
    }

    /// Waits until nothing is being made any more under what was current before. This service keeps no EDEKs in stock:
    /// what is handed out is in the hands of the metadata service, whose proof is to be younger than this.
    async fn drained(&self) -> Result<(), Failure> {
        drop(self.making.write().await);
        // Other instances hand nothing out any more that was not made before they saw the change.
        self.seen_everywhere().await
    }

    async fn take_proofs(&self, name: &KeyName, proofs: &[CheckedProof]) -> Result<(), Failure> {
        let known = self.ledger.zones(name).await?;
        let mut fresh: Vec<(ZoneId, Proven)> = Vec::new();
        for proof in proofs {
            if proof.key != *name {
                return Err(Failure::new(
                    Reason::InvalidArgument,
                    format!("a proof is about key {}, not {name}", proof.key),
                ));
            }
            let before = known.get(&proof.zone).and_then(Option::as_ref);
            if before.is_none_or(|before| before.issued_ms < proof.proven.issued_ms) {
                fresh.push((proof.zone, proof.proven.clone()));
            }
        }
        // One proof for each zone: the last one given.
        self.ledger.save_proofs(name, &fresh).await?;
        for (zone, proven) in fresh {
            self.registry.put_zone(name, zone, Some(proven));
        }
        Ok(())
    }
}

/// The target that a request names.
pub(crate) fn target(version: Option<u32>) -> Target {
    version.map_or(Target::Key, |number| Target::Version(KeyVersion(number)))
}
