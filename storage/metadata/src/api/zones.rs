use strongroom_kv::Store;
use strongroom_proto::{
    KeyName, KeyVersion, ZoneId,
    metadata::v1::{self as pb, zones_server::Zones},
};
use tonic::{Request, Response, Status};

use super::{Api, given, page_limit, parse};
use crate::{
    error::MetadataError,
    namespace::attributes::Attributes,
    reencrypt::job,
    zones::{
        adopt::advance,
        create::{Wanted, create},
        prove::{Which, prove},
        source::EdekSource,
        view,
    },
};

/// Zones in a page unless the caller asks otherwise (HDFS' figure), and at most.
const ZONES_DEFAULT: usize = 100;
const ZONES_MAX: usize = 1000;

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Zones for Api<S, E> {
    async fn create_zone(&self, request: Request<pb::CreateZoneRequest>) -> Result<Response<pb::Zone>, Status> {
        let who = self.superuser(&request, "make encryption zones")?;
        let asked = request.into_inner();
        let call = self.call("create_zone", &who.name, &asked.request_id, &asked)?;
        let handed = Attributes {
            owner: given(&asked.owner)?,
            group: given(&asked.group)?,
            ..Attributes::default()
        };
        let path = parse(&asked.path)?;
        let zone = create(&self.core, &who, &call, &path, &asked, &handed).await?;
        tracing::info!(by = %who.name, %path, key = zone.key_name, "encryption zone made");
        Ok(Response::new(zone))
    }

    async fn adopt_zone(&self, request: Request<pb::AdoptZoneRequest>) -> Result<Response<pb::Zone>, Status> {
        let who = self.caller(&request, "make encryption zones")?;
        let asked = request.into_inner();
        let wanted = Wanted {
            key_name: &asked.key_name,
            data_suite: &asked.data_suite,
            frame_bytes: asked.frame_bytes,
        };
        let zone = advance(&self.core, &who, &parse(&asked.path)?, wanted).await?;
        Ok(Response::new(zone))
    }

    async fn list_zones(
        &self,
        request: Request<pb::ListZonesRequest>,
    ) -> Result<Response<pb::ListZonesResponse>, Status> {
        let who = self.caller(&request, "list zones")?;
        let asked = request.into_inner();
        let after = match asked.after.as_ref() {
            [] => None,
            id => Some(ZoneId::try_from(id).map_err(MetadataError::from)?),
        };
        let limit = page_limit(asked.limit, ZONES_DEFAULT, ZONES_MAX);
        Ok(Response::new(view::list(&self.core, &who, after, limit).await?))
    }

    async fn get_zone(&self, request: Request<pb::GetZoneRequest>) -> Result<Response<pb::Zone>, Status> {
        let who = self.caller(&request, "look at zones")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(view::get(&self.core, &who, &path).await?))
    }

    async fn start_reencryption(
        &self,
        request: Request<pb::StartReencryptionRequest>,
    ) -> Result<Response<pb::Reencryption>, Status> {
        let who = self.superuser(&request, "re-encrypt zones")?;
        let asked = request.into_inner();
        let path = parse(&asked.path)?;
        let job = job::start(&self.core, &who, &path, asked.throttle).await?;
        tracing::info!(by = %who.name, %path, target = job.target_version, "re-encryption asked for");
        Ok(Response::new(job))
    }

    async fn cancel_reencryption(
        &self,
        request: Request<pb::CancelReencryptionRequest>,
    ) -> Result<Response<pb::Reencryption>, Status> {
        let who = self.superuser(&request, "re-encrypt zones")?;
        let path = parse(&request.get_ref().path)?;
        let job = job::cancel(&self.core, &who, &path).await?;
        tracing::info!(by = %who.name, %path, "re-encryption canceled");
        Ok(Response::new(job))
    }

    async fn list_reencryptions(
        &self,
        request: Request<pb::ListReencryptionsRequest>,
    ) -> Result<Response<pb::ListReencryptionsResponse>, Status> {
        let who = self.caller(&request, "look at zones")?;
        let asked = request.into_inner();
        let after = match asked.after.as_ref() {
            [] => None,
            id => Some(ZoneId::try_from(id).map_err(MetadataError::from)?),
        };
        let limit = page_limit(asked.limit, ZONES_DEFAULT, ZONES_MAX);
        Ok(Response::new(job::list(&self.core, &who, after, limit).await?))
    }

    async fn get_reencryption(
        &self,
        request: Request<pb::GetReencryptionRequest>,
    ) -> Result<Response<pb::Reencryption>, Status> {
        let who = self.caller(&request, "look at zones")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(job::status(&self.core, &who, &path).await?))
    }

    async fn prove_zone(
        &self,
        request: Request<pb::ProveZoneRequest>,
    ) -> Result<Response<pb::ProveZoneResponse>, Status> {
        let who = self.superuser(&request, "have zones proved free of key versions")?;
        let asked = request.into_inner();
        let (which, through) = (which(&asked)?, KeyVersion(asked.through_version));
        let proof = prove(&self.core, &who, &which, through).await?;
        tracing::info!(by = %who.name, ?which, %through, "zone proved free of old key versions");
        Ok(Response::new(pb::ProveZoneResponse {
            proof: proof.to_bytes(),
        }))
    }
}

fn which(asked: &pb::ProveZoneRequest) -> Result<Which, MetadataError> {
    if asked.zone_id.is_empty() {
        return Ok(Which::At(parse(&asked.path)?));
    }
    let key = Some(asked.key_name.as_str()).filter(|name| !name.is_empty());
    Ok(Which::Id {
        zone: asked.zone_id.as_ref().try_into()?,
        key: key.map(str::parse::<KeyName>).transpose()?,
    })
}
