//! Unwrapping for sealed delivery.

use std::collections::BTreeSet;

use bytes::Bytes;
use cryptoki::session::Session;
use strongroom_proto::{
    Edek, Failure, Reason,
    sealed::{HeldIn, RecipientKey, SealedDek, SealedRequest, TransportKey},
};

use super::{
    kw,
    remedy::Trouble,
    suite::{ZoneKey, suite},
    vault::{Proven, UnwrapItem, Vault, edek_invalid, settle},
};

/// What goes into the answer.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    pub(super) transport_keys: Vec<TransportKey>,
    pub(super) results: Vec<Result<SealedDek, Failure>>,
}

impl Vault {
    /// The DEKs of a request that was admitted, sealed to its public key; one result for each EDEK, in order.
    pub(super) fn unwrap_sealed(
        &mut self,
        request: &SealedRequest,
        left_out: &BTreeSet<usize>,
    ) -> Result<Sealed, Trouble> {
        let mut sealed = Sealed::default();
        let mut proven = Proven::default();
        for (at, edek) in request.edeks.iter().enumerate() {
            let outcome = if left_out.contains(&at) {
                Err(withheld(edek).into())
            } else {
                self.seal_one(edek, &request.recipient, &mut sealed.transport_keys, &mut proven)
            };
            sealed.results.push(settle(outcome)?);
        }
        Ok(sealed)
    }

    fn seal_one(
        &mut self,
        edek: &Edek,
        recipient: &RecipientKey,
        used: &mut Vec<TransportKey>,
        proven: &mut Proven,
    ) -> Result<SealedDek, Trouble> {
        let found = self.spot(&edek.key, edek.version, &edek.zone)?.suite;
        if edek.suite != found {
            return Err(other_suite(edek).into());
        }
        let in_token = if suite(found).rewraps_inside() {
            self.transport.in_token(&self.session, recipient)?
        } else {
            None
        };
        let (sealed_in, wrapped) = match in_token {
            Some((transport, key)) => {
                let wrapped = self.seal_in_token(edek, &kw::ready(transport), proven)?;
                note(used, key);
                (HeldIn::Token, wrapped)
            }
            None => (HeldIn::Worker, self.seal_in_worker(edek, recipient, used, proven)?),
        };
        Ok(SealedDek { sealed_in, wrapped })
    }

    /// To the token this is wrapping again, under the transport key.
    fn seal_in_token(&mut self, edek: &Edek, transport: &ZoneKey, proven: &mut Proven) -> Result<Bytes, Trouble> {
        let spot = self.spot(&edek.key, edek.version, &edek.zone)?;
        let suite = suite(spot.suite);
        if !suite.has_length(edek.wrapped.len()) {
            return Err(edek_invalid(&spot).into());
        }
        let key = self.zone_key(&spot)?;
        let seal = |session: &Session| suite.rewrap(session, &key, transport, &edek.wrapped);
        let sealed = self.opened(&spot, &key, proven, seal)?;
        Ok(Bytes::from(kw::without_check(sealed)))
    }

    fn seal_in_worker(
        &mut self,
        edek: &Edek,
        recipient: &RecipientKey,
        used: &mut Vec<TransportKey>,
        proven: &mut Proven,
    ) -> Result<Bytes, Trouble> {
        let item = UnwrapItem {
            name: edek.key.clone(),
            version: edek.version,
            zone: edek.zone,
            wrapped: edek.wrapped.clone(),
        };
        let dek = self.unwrap_one(&item, proven)?;
        let (transport, key) = self.transport.in_worker(&self.session, recipient)?;
        let wrapped = transport.wrap(&dek)?;
        note(used, key);
        Ok(wrapped)
    }
}

/// The answer carries each transport key once.
fn note(used: &mut Vec<TransportKey>, key: TransportKey) {
    if !used.contains(&key) {
        used.push(key);
    }
}

fn other_suite(edek: &Edek) -> Failure {
    Failure::new(
        Reason::EdekInvalid,
        format!(
            "key {} version {} does not wrap with suite {}",
            edek.key, edek.version, edek.suite
        ),
    )
}

fn withheld(edek: &Edek) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!("the key service refuses this EDEK of key {}", edek.key),
    )
}
