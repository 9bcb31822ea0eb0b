//! Moving EDEKs to another key or zone.

use std::collections::BTreeSet;

use bytes::Bytes;
use cryptoki::session::Session;
use strongroom_proto::{
    Failure, KeyVersion, Reason,
    sealed::HeldIn,
    transfer::{Place, TransferRequest},
};

use super::{
    canary,
    remedy::Trouble,
    suite::{Spot, suite},
    vault::{Proven, Vault, edek_invalid, faulty, settle},
};
use crate::token::TransferReply;

impl Vault {
    /// The EDEKs of a request that was admitted, under version `to` of the other key; one result for each, in order. Where
    /// both keys are of a suite that wraps inside the token, no DEK leaves it.
    pub(super) fn transfer(
        &mut self,
        request: &TransferRequest,
        to: KeyVersion,
        left_out: &BTreeSet<usize>,
    ) -> Result<TransferReply, Trouble> {
        let (mut results, mut held_in) = (Vec::new(), None);
        let mut proven = Proven::default();
        for (at, (version, wrapped)) in request.edeks.iter().enumerate() {
            let outcome = if left_out.contains(&at) {
                Err(withheld(&request.from).into())
            } else {
                self.move_one(request, *version, wrapped, to, &mut proven)
            };
            let moved = settle(outcome)?;
            if let Ok((place, _)) = &moved {
                held_in = Some(*place);
            }
            results.push(moved.map(|(_, wrapped)| wrapped));
        }
        if held_in.is_some() {
            let spot = self.spot(&request.to.key, to, &request.to.zone)?;
            let key = self.zone_key(&spot)?;
            canary::check(&self.session, &spot, &key).map_err(faulty("to open an EDEK of its own"))?;
        }
        Ok(TransferReply { results, held_in })
    }

    fn move_one(
        &mut self,
        request: &TransferRequest,
        version: KeyVersion,
        wrapped: &[u8],
        to: KeyVersion,
        proven: &mut Proven,
    ) -> Result<(HeldIn, Bytes), Trouble> {
        let spot = self.spot(&request.from.key, version, &request.from.zone)?;
        let from_suite = suite(spot.suite);
        if !from_suite.has_length(wrapped.len()) {
            return Err(edek_invalid(&spot).into());
        }
        let to_spot = self.spot(&request.to.key, to, &request.to.zone)?;
        // The second cannot push out the first: only the key unused for longest makes room.
        let to = self.zone_key(&to_spot)?;
        let from = self.zone_key(&spot)?;
        if spot.suite == to_spot.suite {
            let again = |session: &Session| from_suite.rewrap(session, &from, &to, wrapped);
            let moved = self.opened(&spot, &from, proven, again)?;
            let place = if from_suite.rewraps_inside() {
                HeldIn::Token
            } else {
                HeldIn::Worker
            };
            return Ok((place, moved.into()));
        }
        let open = |session: &Session| from_suite.open(session, &from, wrapped);
        let dek = self.opened(&spot, &from, proven, open)?;
        let to_suite = suite(to_spot.suite);
        if !to_suite.has_dek_length(dek.bytes().len()) {
            return Err(misfit(dek.bytes().len(), &to_spot).into());
        }
        let moved = to_suite
            .wrap(&self.session, &to, &dek)
            .map_err(faulty("to wrap a DEK under another key"))?;
        Ok((HeldIn::Worker, moved.into()))
    }
}

fn misfit(dek_bytes: usize, to: &Spot<'_>) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!(
            "a DEK of {dek_bytes} bytes cannot be moved to key {}, whose suite {} wraps DEKs of 32; copy the file instead",
            to.name, to.suite
        ),
    )
}

fn withheld(from: &Place) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!("the key service refuses to move this EDEK of key {}", from.key),
    )
}
