//! EDEKs that a user has moved from one key or zone to another.

use std::collections::BTreeSet;

use bytes::Bytes;
use strongroom_proto::{
    EdekSuite, Failure, KeyVersion, Reason,
    sealed::HeldIn,
    transfer::{SignedTransfer, TransferRequest},
};

use super::Keys;
use crate::{
    batch::{Places, same_count},
    hsm::Hsm,
    token::TransferCall,
};

/// What became of a transfer.
#[derive(Debug)]
pub(crate) struct Transferred {
    /// The version of the other key that successes are wrapped under, and its suite.
    pub(crate) version: KeyVersion,
    pub(crate) suite: EdekSuite,
    /// One for each EDEK asked for, in order.
    pub(crate) results: Vec<Result<Bytes, Failure>>,
    /// Where DEKs were on the way; nothing if none was moved.
    pub(crate) held_in: Option<HeldIn>,
    /// The token whose worker verified the request; nothing if it was not asked.
    pub(crate) verified_by: Option<String>,
}

impl<H: Hsm> Keys<H> {
    /// Has a signed request carried out, less what the keys refuse. It is not repeated by itself, as each is carried out
    /// once: who signed it signs another.
    pub(crate) async fn transfer(
        &self,
        request: &TransferRequest,
        signed: SignedTransfer,
    ) -> Result<Transferred, Failure> {
        self.wait_ready().await?;
        self.wait_lease().await?;
        // As for `mint`: looking in the token comes before what a deletion waits for.
        self.minting_seen(&request.to.key).await?;
        let opened = request.edeks.iter().map(|(version, _)| (&request.from.key, *version));
        self.see(opened).await?;
        let _making = self.making.read().await;
        let done = self.transfer_once(request, signed).await?;
        if self.still_mints(&request.to.key, done.version) {
            return Ok(done);
        }
        Err(Failure::new(
            Reason::Overloaded,
            format!(
                "key {} was rolled while EDEKs were moved to it; sign the request anew",
                request.to.key
            ),
        ))
    }

    async fn transfer_once(&self, request: &TransferRequest, signed: SignedTransfer) -> Result<Transferred, Failure> {
        let (from, to) = (&request.from, &request.to);
        let (version, suite) = self.minting_seen(&to.key).await?;
        self.as_sealed_as(request)?;
        let opened = request.edeks.iter().map(|(version, _)| (&from.key, *version));
        self.see(opened).await?;
        let places: Places = self.with_key(&from.key, |key| {
            let opening = |version| key.opening(version).and_then(|()| self.doubt.check(&from.key, version));
            Ok(request
                .edeks
                .iter()
                .map(|(version, _)| opening(*version).err())
                .collect())
        })?;
        let left_out: BTreeSet<usize> = (0..)
            .zip(&places)
            .filter_map(|(at, place)| place.as_ref().map(|_| at))
            .collect();
        let mut done = Transferred {
            version,
            suite,
            results: Vec::new(),
            held_in: None,
            verified_by: None,
        };
        if left_out.len() == request.edeks.len() {
            done.results = places.into_iter().flatten().map(Err).collect();
            return Ok(done);
        }
        self.check_room(&to.key, &to.zone)?;
        let moving = request.edeks.len() - left_out.len();
        self.uses.charge(&self.ledger, &to.key, version, suite, moving).await?;
        let opened = request.edeks.iter().zip(&places).filter(|(_, place)| place.is_none());
        let opened = opened.map(|((version, _), _)| (&from.key, *version));
        self.note_uses(opened.chain([(&to.key, version)]));
        let call = TransferCall {
            signed,
            to: version,
            left_out,
        };
        let verified = self.hsm.transfer(call).await?;
        same_count(verified.done.results.len(), places.len())?;
        // Whoever has EDEKs moved to a zone holds some for it, also if it never minted here.
        if verified.done.results.iter().any(Result::is_ok) {
            self.register(&to.key, &to.zone).await?;
        }
        let results = places.into_iter().zip(verified.done.results);
        done.results = results.map(|(place, result)| place.map_or(result, Err)).collect();
        done.held_in = verified.done.held_in;
        done.verified_by = Some(verified.by);
        Ok(done)
    }

    /// DEKs that are given out sealed only stay so.
    fn as_sealed_as(&self, request: &TransferRequest) -> Result<(), Failure> {
        let (from, to) = (&request.from.key, &request.to.key);
        let demanded = |name| self.with_key(name, |key| Ok(key.attributes.sealed_required));
        if demanded(from)? && !demanded(to)? {
            return Err(Failure::new(
                Reason::SealedRequired,
                format!(
                    "key {from} demands sealed delivery and key {to} does not, so no EDEK is moved there; see: strongroom key \
                     update {to} --sealed-required true"
                ),
            ));
        }
        Ok(())
    }
}
