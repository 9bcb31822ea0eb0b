use strongroom_kv::Store;
use strongroom_proto::{
    FileId, JobId,
    metadata::v1::{self as pb, transfers_server::Transfers},
    transfer::TRANSFER_EDEKS_MAX,
};
use tonic::{Request, Response, Status};

use super::{Api, field, file_id, optional_id, parse};
use crate::{
    authority::Caller,
    error::MetadataError,
    transfer::{
        begin::{Move, begin},
        finish::finish,
        list::list,
        present::Signed,
        single::transfer,
        stage::stage,
    },
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Transfers for Api<S, E> {
    async fn begin_transfer(
        &self,
        request: Request<pb::BeginTransferRequest>,
    ) -> Result<Response<pb::BegunTransfer>, Status> {
        let who = self.mover(&request)?;
        let asked = request.into_inner();
        let asked = Move {
            from: parse(&asked.from)?,
            to: parse(&asked.to)?,
            overwrite: asked.overwrite,
            who,
        };
        Ok(Response::new(begin(&self.core, &asked).await?))
    }

    async fn transfer_file(&self, request: Request<pb::TransferFileRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.mover(&request)?;
        let mut asked = request.into_inner();
        let signed = Signed::try_from(asked.signed.take())?;
        // Without what is signed anew for each attempt.
        let call = self.call("transfer_file", &who.name, &asked.request_id, &asked)?;
        let asked = Move {
            from: parse(&asked.from)?,
            to: parse(&asked.to)?,
            overwrite: asked.overwrite,
            who,
        };
        Ok(Response::new(transfer(&self.core, &call, &asked, &signed).await?))
    }

    async fn list_transfer(
        &self,
        request: Request<pb::ListTransferRequest>,
    ) -> Result<Response<pb::ListTransferResponse>, Status> {
        let who = self.mover(&request)?;
        let asked = request.into_inner();
        let (id, after) = (job_id(&asked.job_id)?, optional_id(&asked.after)?);
        Ok(Response::new(list(&self.core, &who, id, after).await?))
    }

    async fn stage_transfer(
        &self,
        request: Request<pb::StageTransferRequest>,
    ) -> Result<Response<pb::StageTransferResponse>, Status> {
        let who = self.mover(&request)?;
        let asked = request.into_inner();
        if !(1..=TRANSFER_EDEKS_MAX).contains(&asked.file_ids.len()) {
            return Err(field("file_ids", "1 to 200 in one call").into());
        }
        let files = asked.file_ids.iter().map(|id| file_id(id));
        let files = files.collect::<Result<Vec<FileId>, _>>()?;
        let signed = Signed::try_from(asked.signed)?;
        let staged = stage(&self.core, &who, job_id(&asked.job_id)?, &files, &signed).await?;
        Ok(Response::new(staged))
    }

    async fn finish_transfer(
        &self,
        request: Request<pb::FinishTransferRequest>,
    ) -> Result<Response<pb::FinishTransferResponse>, Status> {
        let who = self.mover(&request)?;
        let id = job_id(&request.get_ref().job_id)?;
        let stat = finish(&self.core, &who, id).await?;
        Ok(Response::new(pb::FinishTransferResponse { stat }))
    }
}

impl<S: Store, E: EdekSource> Api<S, E> {
    fn mover<T>(&self, request: &Request<T>) -> Result<Caller, MetadataError> {
        self.caller(request, "move files to other zones")
    }
}

fn job_id(bytes: &[u8]) -> Result<JobId, MetadataError> {
    Ok(bytes.try_into()?)
}
