//! The worker's gRPC service: parses requests and hands them to the token's thread.

use std::time::SystemTime;

use strongroom_proto::{
    Failure, KeyName, KeyVersion, Reason,
    limits::EDEKS_PER_CALL_MAX,
    sealed::{RequestDigest, SealedAnswer, SealedRequest},
    transfer::TransferRequest,
};
use tonic::{Request, Response, Status};

use super::{
    engine::Engine,
    gate::Delivery,
    queue::Queue,
    taken::Moment,
    vault::{RewrapItem, UnwrapItem, Vault},
};
use crate::{
    audit::{AuditHead, AuditKey, LogId},
    batch::{merge, split},
    token::{
        ClonePublicKey, NewVersion, SealedCall, TransferCall, WrappedClone,
        listing::PLACES_MAX,
        pb::{self, token_worker_server::TokenWorker},
        sealed::optional_signature,
        wire::{item_to_wire, malformed, parse_clone, parse_id, parse_key_ref, parse_place, place},
    },
};

/// Serves `strongroom.kms.worker.v1.TokenWorker`.
#[derive(Debug)]
pub(super) struct Service {
    queue: Queue,
    delivery: Delivery,
}

impl Service {
    pub(super) const fn new(queue: Queue, delivery: Delivery) -> Self {
        Self { queue, delivery }
    }
}

#[tonic::async_trait]
impl TokenWorker for Service {
    async fn inspect(&self, _: Request<pb::InspectRequest>) -> Result<Response<pb::TokenProfile>, Status> {
        let profile = self.queue.call(Engine::inspect).await?;
        Ok(Response::new(profile.into()))
    }

    async fn log_in(&self, _: Request<pb::LogInRequest>) -> Result<Response<pb::LogInResponse>, Status> {
        self.queue.call(Engine::log_in).await?;
        Ok(Response::new(pb::LogInResponse {}))
    }

    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        let pb::ListVersionsRequest { anew, after } = request.into_inner();
        let after = after.as_ref().map(parse_place).transpose()?;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.list(anew, after.clone()));
        let listing = self.queue.call(call).await?;
        Ok(Response::new(pb::ListVersionsResponse {
            versions: listing.versions.into_iter().map(Into::into).collect(),
            unfit: listing.unfit.into_iter().map(Into::into).collect(),
            last: listing.last.map(|(key, version)| place(&key, version)),
            more: listing.more,
        }))
    }

    async fn look_for(&self, request: Request<pb::LookForRequest>) -> Result<Response<pb::LookForResponse>, Status> {
        let pb::LookForRequest { places, suite } = request.into_inner();
        let suite = Some(suite).filter(|suite| !suite.is_empty());
        let suite = suite.map(|suite| suite.parse().map_err(Failure::from)).transpose()?;
        if places.is_empty() || places.len() > PLACES_MAX {
            return Err(malformed("a number of places").into());
        }
        let places: Vec<_> = places.iter().map(parse_place).collect::<Result<_, _>>()?;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.look_for_all(&places, suite));
        let (listing, looked) = self.queue.call(call).await?;
        Ok(Response::new(pb::LookForResponse {
            versions: listing.versions.into_iter().map(Into::into).collect(),
            unfit: listing.unfit.into_iter().map(Into::into).collect(),
            looked: u32::try_from(looked).unwrap_or(u32::MAX),
        }))
    }

    async fn generate_version(
        &self,
        request: Request<pb::GenerateVersionRequest>,
    ) -> Result<Response<pb::TokenKeyVersion>, Status> {
        let request = request.into_inner();
        let clonable = request.clonable;
        let new = NewVersion::try_from(request)?;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.generate(&new, clonable));
        let version = self.queue.call(call).await?;
        Ok(Response::new(version.into()))
    }

    async fn destroy_version(
        &self,
        request: Request<pb::DestroyVersionRequest>,
    ) -> Result<Response<pb::DestroyVersionResponse>, Status> {
        let request = request.into_inner();
        let name: KeyName = request.key_name.parse().map_err(Failure::from)?;
        let (version, id) = (KeyVersion(request.version), parse_id(&request.token_id)?);
        let call = move |engine: &mut Engine| engine.run(|vault| vault.destroy(&name, version, id));
        self.queue.call(call).await?;
        Ok(Response::new(pb::DestroyVersionResponse {}))
    }

    async fn get_import_key(
        &self,
        request: Request<pb::GetImportKeyRequest>,
    ) -> Result<Response<pb::ImportKey>, Status> {
        let renew = request.into_inner().renew;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.import_key(renew));
        Ok(Response::new(self.queue.call(call).await?.into()))
    }

    async fn import_version(
        &self,
        request: Request<pb::ImportVersionRequest>,
    ) -> Result<Response<pb::TokenKeyVersion>, Status> {
        let request = request.into_inner();
        let version = request.version.ok_or_else(|| {
            Failure::new(
                Reason::InvalidArgument,
                "the request says no version to import a key as",
            )
        })?;
        let clonable = version.clonable;
        let (new, import_key) = (NewVersion::try_from(version)?, parse_id(&request.import_key)?);
        self.delivery.check_import(&new.key)?;
        let wrapped = request.wrapped;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.import(&new, import_key, &wrapped, clonable));
        Ok(Response::new(self.queue.call(call).await?.into()))
    }

    async fn mint(&self, request: Request<pb::MintRequest>) -> Result<Response<pb::MintResponse>, Status> {
        let request = request.into_inner();
        let (name, version, zone) = parse_key_ref(request.key)?;
        let count = usize::try_from(request.count).unwrap_or(usize::MAX);
        check_count(count)?;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.mint(&name, version, &zone, count));
        let wrapped = self.queue.call(call).await?;
        Ok(Response::new(pb::MintResponse { wrapped }))
    }

    async fn rewrap(&self, request: Request<pb::RewrapRequest>) -> Result<Response<pb::RewrapResponse>, Status> {
        let request = request.into_inner();
        let (name, to, zone) = parse_key_ref(request.to)?;
        check_count(request.items.len())?;
        let items: Vec<_> = request
            .items
            .into_iter()
            .map(|item| RewrapItem {
                from: KeyVersion(item.from_version),
                wrapped: item.wrapped,
            })
            .collect();
        let call = move |engine: &mut Engine| engine.run(|vault| vault.rewrap(&name, to, &zone, &items));
        let results = self.queue.call(call).await?;
        Ok(Response::new(pb::RewrapResponse {
            results: results.into_iter().map(item_to_wire).collect(),
        }))
    }

    async fn unwrap(&self, request: Request<pb::UnwrapRequest>) -> Result<Response<pb::UnwrapResponse>, Status> {
        let request = request.into_inner();
        check_count(request.items.len())?;
        let items = request
            .items
            .into_iter()
            .map(parse_unwrap_item)
            .collect::<Result<Vec<_>, _>>()?;
        let checks = items
            .iter()
            .map(|item| self.delivery.check_unsealed(&item.name))
            .collect();
        let (items, places) = split(items, checks);
        let call = move |engine: &mut Engine| engine.run(|vault| vault.unwrap(&items));
        let results = merge(self.queue.call(call).await?, places)?;
        Ok(Response::new(pb::UnwrapResponse {
            results: results.into_iter().map(item_to_wire).collect(),
        }))
    }

    async fn unwrap_sealed(
        &self,
        request: Request<pb::UnwrapSealedRequest>,
    ) -> Result<Response<pb::UnwrapSealedResponse>, Status> {
        let call = SealedCall::try_from(request.into_inner())?;
        let gate = self.delivery.gate()?;
        let admitted: SealedRequest = gate.admit(&call.request, &call.signature, Moment::now())?;
        let left_out = call.left_out;
        let job = move |engine: &mut Engine| engine.run(|vault| vault.unwrap_sealed(&admitted, &left_out));
        let sealed = self.queue.call(job).await?;
        let answer = SealedAnswer {
            request: RequestDigest::of(&call.request),
            transport_keys: sealed.transport_keys,
            results: sealed.results,
        };
        Ok(Response::new(gate.sign(answer.encode()?)?.into()))
    }

    async fn transfer(&self, request: Request<pb::TransferRequest>) -> Result<Response<pb::TransferResponse>, Status> {
        let call = TransferCall::try_from(request.into_inner())?;
        let gate = self.delivery.gate()?;
        let (signed, to, left_out) = (call.signed, call.to, call.left_out);
        let admitted: TransferRequest = gate.admit(&signed.request, &signed.signature, Moment::now())?;
        self.delivery.check_transfer(&admitted.from.key, &admitted.to.key)?;
        let job = move |engine: &mut Engine| engine.run(|vault| vault.transfer(&admitted, to, &left_out));
        Ok(Response::new(self.queue.call(job).await?.into()))
    }

    async fn get_audit_key(&self, _: Request<pb::GetAuditKeyRequest>) -> Result<Response<pb::AuditKey>, Status> {
        let call = |engine: &mut Engine| {
            let token = engine.token_label().to_owned();
            engine.run(|vault| vault.audit_key(&token))
        };
        Ok(Response::new(audit_key(self.queue.call(call).await?)))
    }

    async fn sign_audit(
        &self,
        request: Request<pb::SignAuditRequest>,
    ) -> Result<Response<pb::SignAuditResponse>, Status> {
        let head = audit_head(request.get_ref())?;
        let call = move |engine: &mut Engine| {
            let token = engine.token_label().to_owned();
            engine.run(|vault| vault.sign_audit(&token, &head))
        };
        let signed = self.queue.call(call).await?;
        Ok(Response::new(pb::SignAuditResponse {
            key: Some(audit_key(signed.key)),
            signature: signed.signature,
        }))
    }

    async fn clone_key(&self, _: Request<pb::CloneKeyRequest>) -> Result<Response<pb::ClonePublicKey>, Status> {
        let key = self.queue.call(|engine| engine.run(Vault::clone_key)).await?;
        Ok(Response::new((&key).into()))
    }

    async fn export_clone(
        &self,
        request: Request<pb::ExportCloneRequest>,
    ) -> Result<Response<pb::ExportCloneResponse>, Status> {
        let request = request.into_inner();
        let (version, destination) = parse_clone(request.version, request.destination)?;
        let asked = (version.clone(), destination.clone());
        let call = move |engine: &mut Engine| engine.run(|vault| vault.export_clone(&asked.0, &asked.1));
        let clone = self.queue.call(call).await?;
        let signature = self.delivery.vouch(&version, &destination, &clone)?;
        Ok(Response::new(pb::ExportCloneResponse {
            wrapped: clone.wrapped,
            key_bits: clone.key_bits,
            signature: signature.map(Into::into),
        }))
    }

    async fn try_clone(&self, request: Request<pb::TryCloneRequest>) -> Result<Response<pb::TryCloneResponse>, Status> {
        let destination = request
            .into_inner()
            .destination
            .ok_or_else(|| malformed("no clone key"))?;
        let destination = ClonePublicKey::from(destination);
        let call = move |engine: &mut Engine| engine.run(|vault| vault.try_clone(&destination));
        self.queue.call(call).await?;
        Ok(Response::new(pb::TryCloneResponse {}))
    }

    async fn import_clone(
        &self,
        request: Request<pb::ImportCloneRequest>,
    ) -> Result<Response<pb::TokenKeyVersion>, Status> {
        let request = request.into_inner();
        let (version, own) = parse_clone(request.version, request.own)?;
        let clone = WrappedClone {
            wrapped: request.wrapped,
            key_bits: request.key_bits,
            signature: optional_signature(request.signature)?,
        };
        self.delivery.check_clone(&version, &own, &clone, SystemTime::now())?;
        let call = move |engine: &mut Engine| engine.run(|vault| vault.import_clone(&version, &own, &clone));
        let copy = self.queue.call(call).await?;
        Ok(Response::new(copy.into()))
    }
}

fn parse_unwrap_item(item: pb::UnwrapItem) -> Result<UnwrapItem, Failure> {
    let (name, version, zone) = parse_key_ref(item.key)?;
    Ok(UnwrapItem {
        name,
        version,
        zone,
        wrapped: item.wrapped,
    })
}

fn audit_key(key: AuditKey) -> pb::AuditKey {
    pb::AuditKey {
        token: key.token,
        public_key: key.public_key,
    }
}

fn audit_head(request: &pb::SignAuditRequest) -> Result<AuditHead, Failure> {
    let bad = |_| {
        Failure::new(
            Reason::InvalidArgument,
            "an audit head is 16 bytes, a number and 32 bytes",
        )
    };
    Ok(AuditHead {
        log: LogId::from_bytes(request.log.as_ref().try_into().map_err(bad)?),
        seq: request.seq,
        hash: request.head.as_ref().try_into().map_err(bad)?,
    })
}

fn check_count(count: usize) -> Result<(), Failure> {
    if (1..=EDEKS_PER_CALL_MAX).contains(&count) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::InvalidArgument,
        format!("a call carries 1 to {EDEKS_PER_CALL_MAX} EDEKs, not {count}"),
    ))
}
