//! `Mint`: EDEKs are made, wrapped again and moved. Nothing in an answer opens a file.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use strongroom_proto::{
    Edek, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{
        ItemFailure, MintRequest, MintResponse, RewrapRequest, RewrapResponse, RewrapResult, TransferRequest,
        TransferResponse, WrappedDek, mint_server::Mint, rewrap_result,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, edek_count, to_its_end, transfer::Asked};
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    keys::{Minted, Rewrapped},
    policy::{Action, Context},
};

pub(super) struct MintFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> Mint for MintFace<H> {
    async fn mint(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let (name, zone) = key_and_zone(&wire.key_name, &wire.zone_id)?;
        let count = match wire.count as usize {
            0 => 0,
            count => edek_count(count)?,
        };
        let desk = Arc::clone(&self.0);
        let minted = to_its_end(self.0.places.take(&caller.identity)?, async move {
            desk.mint(&caller, name, &zone, count).await
        })
        .await?;
        Ok(Response::new(MintResponse {
            key_version: minted.version.0,
            suite: minted.suite.as_str().to_owned(),
            wrapped: minted.edeks,
            key_name: minted.key.to_string(),
        }))
    }

    async fn rewrap(&self, request: Request<RewrapRequest>) -> Result<Response<RewrapResponse>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let (name, zone) = key_and_zone(&wire.key_name, &wire.zone_id)?;
        edek_count(wire.edeks.len())?;
        let items = wire.edeks.into_iter().map(wrapped).collect::<Result<Vec<_>, _>>()?;
        let desk = Arc::clone(&self.0);
        let rewrapped = to_its_end(self.0.places.take(&caller.identity)?, async move {
            desk.rewrap(&caller, name, &zone, items).await
        })
        .await?;
        Ok(Response::new(RewrapResponse {
            key_version: rewrapped.version.0,
            results: rewrapped.results.into_iter().map(to_wire).collect(),
        }))
    }

    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<TransferResponse>, Status> {
        let caller = caller(&request)?;
        let asked = Asked::try_from(request.into_inner())?;
        let desk = Arc::clone(&self.0);
        let done = to_its_end(self.0.places.take(&caller.identity)?, async move {
            desk.transfer(&caller, asked).await
        })
        .await?;
        Ok(Response::new(done.into()))
    }
}

impl<H: Hsm> Desk<H> {
    /// Makes EDEKs; with a `count` of 0 it tells what they would be made under. `name` may be an alias, here and in
    /// [`Self::rewrap`]. What it names, and what policies know of that, is looked at when this instance is known to work with what
    /// the others changed.
    async fn mint(&self, caller: &Caller, name: KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        let entry = Entry::new(caller, "mint").edeks(zone, count);
        let lease = self.keys.wait_lease().await;
        let name = &self.keys.resolve(name);
        let (facts, context) = (self.keys.facts(name), Context::of("mint").zone(*zone));
        let entry = self.authorize(caller, Action::Mint, &facts, &context, entry).await?;
        let outcome = match lease {
            Ok(()) => self.keys.mint(name, zone, count).await,
            Err(failure) => Err(failure),
        };
        let entry = entry.version(outcome.as_ref().ok().map(|minted| minted.version));
        self.recorded(entry, outcome).await
    }

    async fn rewrap(
        &self,
        caller: &Caller,
        name: KeyName,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Rewrapped, Failure> {
        let entry = Entry::new(caller, "rewrap").edeks(zone, items.len());
        let lease = self.keys.wait_lease().await;
        let name = &self.keys.resolve(name);
        let (facts, context) = (self.keys.facts(name), Context::of("rewrap").zone(*zone));
        let entry = self.authorize(caller, Action::Rewrap, &facts, &context, entry).await?;
        let outcome = match lease {
            Ok(()) => self.keys.rewrap(name, zone, items).await,
            Err(failure) => Err(failure),
        };
        let entries = match &outcome {
            Ok(rewrapped) => entries(&entry, zone, rewrapped),
            Err(failure) => vec![entry.failed(failure)],
        };
        self.record(entries).await?;
        outcome
    }
}

/// One record for what was wrapped again, and one for each reason why something was not.
fn entries(entry: &Entry, zone: &ZoneId, rewrapped: &Rewrapped) -> Vec<Entry> {
    let entry = entry.clone().version(Some(rewrapped.version));
    let mut done = 0;
    let mut failed: BTreeMap<&str, (&Failure, usize)> = BTreeMap::new();
    for result in &rewrapped.results {
        match result {
            Ok(_) => done += 1,
            Err(failure) => failed.entry(failure.reason.as_str()).or_insert((failure, 0)).1 += 1,
        }
    }
    let allowed = (done > 0).then(|| entry.clone().edeks(zone, done));
    let failed = failed
        .into_values()
        .map(|(failure, count)| entry.clone().edeks(zone, count).failed(failure));
    allowed.into_iter().chain(failed).collect()
}

fn key_and_zone(name: &str, zone: &[u8]) -> Result<(KeyName, ZoneId), Failure> {
    Ok((name.parse()?, zone.try_into()?))
}

fn wrapped(wire: WrappedDek) -> Result<(KeyVersion, Bytes), Failure> {
    if (1..=Edek::WRAPPED_BYTES_MAX).contains(&wire.wrapped.len()) {
        Ok((KeyVersion(wire.key_version), wire.wrapped))
    } else {
        Err(Failure::new(
            Reason::InvalidArgument,
            format!(
                "an EDEK has 1 to {} bytes, not {}",
                Edek::WRAPPED_BYTES_MAX,
                wire.wrapped.len()
            ),
        ))
    }
}

pub(super) fn to_wire(result: Result<Bytes, Failure>) -> RewrapResult {
    let result = match result {
        Ok(wrapped) => rewrap_result::Result::Wrapped(wrapped),
        Err(failure) => rewrap_result::Result::Failure(ItemFailure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
        }),
    };
    RewrapResult { result: Some(result) }
}
