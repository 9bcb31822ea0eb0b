//! The audit key of a token, by way of its worker.

use strongroom_proto::Failure;

use super::{Token, limit::Limit, pb, wire::malformed};
use crate::audit::{AuditHead, AuditKey, AuditSignature, checkpoint::verifies};

impl Token {
    /// The public half of the token's audit key, which is made if there is none.
    ///
    /// # Errors
    /// `token-unavailable`, `pin-rejected`; `token-refused` if the token makes no such key, or has another under its label.
    pub async fn audit_key(&self) -> Result<AuditKey, Failure> {
        let key = self
            .call_within(Limit::KeyPair, |mut client| async move {
                client.get_audit_key(pb::GetAuditKeyRequest {}).await
            })
            .await?;
        Ok(of_wire(key))
    }

    /// Has a head signed by the token's audit key, which is made if there is none.
    ///
    /// # Errors
    /// As [`Self::audit_key`].
    pub async fn sign_audit(&self, head: &AuditHead) -> Result<AuditSignature, Failure> {
        let request = pb::SignAuditRequest {
            log: head.log.as_bytes().to_vec().into(),
            seq: head.seq,
            head: head.hash.to_vec().into(),
        };
        let signed = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.sign_audit(request).await }
            })
            .await?;
        let key = of_wire(
            signed
                .key
                .ok_or_else(|| malformed("an audit signature without a key"))?,
        );
        if verifies(&key.public_key, head, &signed.signature) {
            let signature = signed.signature;
            Ok(AuditSignature { key, signature })
        } else {
            Err(malformed("an audit signature"))
        }
    }
}

fn of_wire(key: pb::AuditKey) -> AuditKey {
    AuditKey {
        token: key.token,
        public_key: key.public_key,
    }
}
