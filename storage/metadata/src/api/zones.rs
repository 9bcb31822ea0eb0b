use strongroom_kv::Store;
use strongroom_proto::{
    ZoneId, ZonePath,
    metadata::v1::{self as pb, zones_server::Zones},
    transport::UserName,
};
use tonic::{Request, Response, Status};

use super::{Api, page_limit, user};
use crate::{
    error::MetadataError,
    reencrypt::job,
    zones::{create::create, source::EdekSource, view},
};

/// Zones in a page unless the caller asks otherwise (HDFS' figure), and at most.
const ZONES_DEFAULT: usize = 100;
const ZONES_MAX: usize = 1000;

impl<S: Store, E: EdekSource> Api<S, E> {
    fn administrator<T>(&self, request: &Request<T>, what: &'static str) -> Result<UserName, MetadataError> {
        let name = user(request, what)?;
        if self.core.administrators.contains(&name) {
            return Ok(name);
        }
        Err(MetadataError::Denied {
            who: format!("user {name}"),
            what,
            remedy: "the administrators in the metadata service's configuration may",
        })
    }
}

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Zones for Api<S, E> {
    async fn create_zone(&self, request: Request<pb::CreateZoneRequest>) -> Result<Response<pb::Zone>, Status> {
        let by = self.administrator(&request, "make encryption zones")?;
        let asked = request.into_inner();
        let zone = create(&self.core, &asked.path, &asked.key_name, &asked.data_suite).await?;
        let path = String::from_utf8_lossy(&zone.path);
        tracing::info!(%by, %path, key = zone.key_name, "encryption zone made");
        Ok(Response::new(zone))
    }

    async fn list_zones(
        &self,
        request: Request<pb::ListZonesRequest>,
    ) -> Result<Response<pb::ListZonesResponse>, Status> {
        user(&request, "list zones")?;
        let asked = request.into_inner();
        let after = match asked.after.as_ref() {
            [] => None,
            id => Some(ZoneId::try_from(id).map_err(MetadataError::from)?),
        };
        let limit = page_limit(asked.limit, ZONES_DEFAULT, ZONES_MAX);
        Ok(Response::new(view::list(&self.core, after, limit).await?))
    }

    async fn get_zone(&self, request: Request<pb::GetZoneRequest>) -> Result<Response<pb::Zone>, Status> {
        user(&request, "look at zones")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(view::get(&self.core, &path).await?))
    }

    async fn start_reencryption(
        &self,
        request: Request<pb::StartReencryptionRequest>,
    ) -> Result<Response<pb::Reencryption>, Status> {
        let by = self.administrator(&request, "re-encrypt zones")?;
        let path = parse(&request.get_ref().path)?;
        let job = job::start(&self.core, &path).await?;
        tracing::info!(%by, %path, target = job.target_version, "re-encryption asked for");
        Ok(Response::new(job))
    }

    async fn get_reencryption(
        &self,
        request: Request<pb::GetReencryptionRequest>,
    ) -> Result<Response<pb::Reencryption>, Status> {
        user(&request, "look at zones")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(job::status(&self.core, &path).await?))
    }
}

fn parse(path: &[u8]) -> Result<ZonePath, MetadataError> {
    Ok(ZonePath::parse(path)?)
}
