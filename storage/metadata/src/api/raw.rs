use strongroom_kv::Store;
use strongroom_proto::{
    groups::GroupName,
    metadata::v1::{self as pb, raw_server::Raw},
    transport::UserName,
};
use tonic::{Request, Response, Status};

use super::{Api, field, file_id, given, parse};
use crate::{
    error::MetadataError,
    files::raw::{Arrival, Extended, Landing, commit, create},
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Raw for Api<S, E> {
    async fn create_raw(&self, request: Request<pb::CreateRawRequest>) -> Result<Response<pb::CreatedRaw>, Status> {
        let who = self.superuser(&request, "bring in ciphertext")?;
        let asked = request.into_inner();
        let call = self.call("create_raw", &who.name, &asked.request_id, &asked)?;
        let file = asked.file.ok_or_else(|| field("file", "there is none"))?;
        let owner: Option<UserName> = given(&file.owner)?;
        given::<GroupName>(&file.group)?;
        let arrival = Arrival {
            call,
            path: parse(&asked.path)?,
            file: pb::RawFile {
                owner: owner.unwrap_or_else(|| who.name.clone()).as_str().to_owned(),
                ..file
            },
            overwrite: asked.overwrite,
            who,
        };
        let by = arrival.who.name.clone();
        let path = arrival.path.clone();
        let created = create(&self.core, arrival).await?;
        tracing::info!(%by, %path, "ciphertext is brought in");
        Ok(Response::new(created))
    }

    async fn commit_raw(&self, request: Request<pb::CommitRawRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.superuser(&request, "bring in ciphertext")?;
        let asked = request.into_inner();
        let landing = Landing {
            call: self.call("commit_raw", &who.name, &asked.request_id, &asked)?,
            file: file_id(&asked.file_id)?,
            extent: asked.extent_id.as_ref().try_into().map_err(MetadataError::from)?,
            extended: asked.extended.map(Extended::parse).transpose()?,
            who,
        };
        Ok(Response::new(commit(&self.core, landing).await?))
    }
}
