//! Moving files and directories to another zone. The token makes the EDEKs for it at requests that this client signs, each for the
//! EDEKs that it names; the metadata service presents them. No DEK comes here, and no block is touched.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use strongroom_proto::{
    Failure, JobId, KeyVersion, Reason, RequestId, ZonePath,
    kms::v1 as kms,
    metadata::v1 as pb,
    transfer::{Place, TransferRequest},
    transport::{Repeat, TlsIdentity, retry},
};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;

use crate::{FsError, Stat, ZoneFs};

/// How often a file that changed meanwhile is signed for anew.
const TRIES_MAX: usize = 10;
/// Requests that are signed and carried out at once.
const AT_ONCE: usize = 4;
/// Rounds through the files that lack EDEKs: one for a directory that nobody writes to, and one more for each time that something
/// came to it. The pause is after a round in which nothing was staged.
const ROUNDS_MAX: usize = 1000;
const PAUSE: Duration = Duration::from_millis(100);

/// How far the move of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferProgress {
    /// The job that it is.
    pub job_id: JobId,
    /// Files found in it so far.
    pub found: u64,
    /// Files that have their EDEK for the other zone, of this run and of those before it.
    pub staged: u64,
}

/// What EDEKs are bound to before and after, and who signs.
struct Route {
    from: Place,
    to: Place,
    tls: Arc<TlsIdentity>,
}

/// A round through the files of a directory.
#[derive(Default)]
struct Round {
    staged: u64,
    /// Files whose EDEKs cannot be moved, and why the last one cannot.
    failed: u64,
    failure: Option<Failure>,
}

impl ZoneFs {
    /// Moves a file or directory to a path in another zone; with `overwrite` over a file, or an empty directory, at `to`. A directory moves
    /// at once when all its files have EDEKs for that zone; until then it stays where it is and a job keeps what was done, which the same
    /// call goes on with. `tell` hears of that.
    ///
    /// # Errors
    /// `permission-denied` by the namespace or the key service, which takes the right to unwrap with the one zone's key and to mint with
    /// the other's; `invalid-move` for what cannot be moved so, or is being moved; [`FsError::Transfer`] if single files cannot.
    pub async fn transfer(
        &self,
        from: &ZonePath,
        to: &ZonePath,
        overwrite: bool,
        tell: impl Fn(TransferProgress),
    ) -> Result<Stat, FsError> {
        let request = pb::BeginTransferRequest {
            from: from.into(),
            to: to.into(),
            overwrite,
        };
        let mut tries = 0;
        loop {
            let begun = retry(Repeat::Harmless, || self.metadata().begin_transfer(request.clone())).await?;
            let route = Route {
                from: place(begun.from)?,
                to: place(begun.to)?,
                tls: Arc::clone(self.tls()),
            };
            let Some(file) = begun.file else {
                let job = begun.job_id.as_ref().try_into().map_err(FsError::metadata_answer)?;
                return self.transfer_directory(job, route, tell).await;
            };
            tries += 1;
            match self.transfer_file(&request, &route, file).await {
                Err(error) if error.reason() == Reason::FileChanged && tries < TRIES_MAX => {}
                outcome => return outcome,
            }
        }
    }

    async fn transfer_file(
        &self,
        asked: &pb::BeginTransferRequest,
        route: &Route,
        file: pb::TransferItem,
    ) -> Result<Stat, FsError> {
        let (request_id, files) = (Bytes::from(RequestId::generate()), [file]);
        let attempt = || {
            let call = route.sign(&files).map(|signed| {
                self.metadata().transfer_file(pb::TransferFileRequest {
                    from: asked.from.clone(),
                    to: asked.to.clone(),
                    overwrite: asked.overwrite,
                    request_id: request_id.clone(),
                    signed: Some(signed),
                })
            });
            async move { call.map_err(Status::from)?.await }
        };
        retry(Repeat::Harmless, attempt).await?.try_into()
    }

    async fn transfer_directory(
        &self,
        job: JobId,
        route: Route,
        tell: impl Fn(TransferProgress),
    ) -> Result<Stat, FsError> {
        let mut progress = TransferProgress {
            job_id: job,
            found: 0,
            staged: self.job(job).await?.done,
        };
        tell(progress);
        let route = Arc::new(route);
        for _ in 0..ROUNDS_MAX {
            let round = self.stage_all(job, &route, &mut progress, &tell).await?;
            let request = pb::FinishTransferRequest { job_id: job.into() };
            let finished = retry(Repeat::Harmless, || self.metadata().finish_transfer(request.clone())).await?;
            if let Some(stat) = finished.stat {
                return stat.try_into();
            }
            if round.staged > 0 {
                continue;
            }
            if let Some(failure) = round.failure {
                return Err(FsError::Transfer {
                    files: round.failed,
                    job,
                    failure,
                });
            }
            sleep(PAUSE).await;
        }
        Err(FsError::NeverStill { job })
    }

    /// Has EDEKs staged for all files that lack one.
    async fn stage_all(
        &self,
        job: JobId,
        route: &Arc<Route>,
        progress: &mut TransferProgress,
        tell: &impl Fn(TransferProgress),
    ) -> Result<Round, FsError> {
        let mut request = pb::ListTransferRequest {
            job_id: job.into(),
            after: Bytes::new(),
        };
        let (mut round, mut under_way) = (Round::default(), JoinSet::new());
        loop {
            let page = retry(Repeat::Harmless, || self.metadata().list_transfer(request.clone())).await?;
            progress.found = page.found;
            if !page.files.is_empty() {
                let (fs, route) = (self.clone(), Arc::clone(route));
                under_way.spawn(async move { fs.stage(job, &route, &page.files).await });
            }
            let is_end = page.next.is_empty();
            let most = if is_end { 0 } else { AT_ONCE - 1 };
            while under_way.len() > most {
                let staged = under_way.join_next().await;
                round.add(staged.ok_or(FsError::Machine { what: "task" })?.map_err(lost)??);
                tell(TransferProgress {
                    staged: progress.staged + round.staged,
                    ..*progress
                });
            }
            if is_end {
                progress.staged += round.staged;
                return Ok(round);
            }
            request.after = page.next;
        }
    }

    /// Has EDEKs staged for a page of files.
    async fn stage(
        &self,
        job: JobId,
        route: &Route,
        files: &[pb::TransferItem],
    ) -> Result<pb::StageTransferResponse, FsError> {
        let file_ids: Vec<_> = files.iter().map(|file| file.file_id.clone()).collect();
        let attempt = || {
            let call = route.sign(files).map(|signed| {
                self.metadata().stage_transfer(pb::StageTransferRequest {
                    job_id: job.into(),
                    file_ids: file_ids.clone(),
                    signed: Some(signed),
                })
            });
            async move { call.map_err(Status::from)?.await }
        };
        Ok(retry(Repeat::Harmless, attempt).await?)
    }
}

impl Route {
    /// The request to move the EDEKs of these files, signed now.
    fn sign(&self, files: &[pb::TransferItem]) -> Result<kms::TransferRequest, Failure> {
        let edeks = files
            .iter()
            .map(|file| (KeyVersion(file.key_version), file.wrapped.clone()));
        let signer = self.tls.identity().clone();
        let now = std::time::SystemTime::now();
        let request = TransferRequest::new(signer, self.from.clone(), self.to.clone(), edeks.collect(), now);
        let signed = request.sign(&self.tls)?;
        Ok(kms::TransferRequest {
            request: signed.request,
            signature: Some(signed.signature.into()),
        })
    }
}

impl Round {
    fn add(&mut self, staged: pb::StageTransferResponse) {
        self.staged += u64::from(staged.staged);
        self.failed += staged.failures.len() as u64;
        let failure = staged.failures.into_iter().next().and_then(|failed| failed.failure);
        if let Some(failure) = failure {
            let reason = failure.reason.parse().unwrap_or(Reason::Internal);
            self.failure = Some(Failure::new(reason, failure.message));
        }
    }
}

fn place(wire: Option<pb::TransferPlace>) -> Result<Place, FsError> {
    let wire = wire.ok_or_else(|| FsError::metadata_contradiction("it names no key to move EDEKs between"))?;
    Ok(Place {
        key: wire.key_name.parse().map_err(FsError::metadata_answer)?,
        zone: wire.zone_id.as_ref().try_into().map_err(FsError::metadata_answer)?,
    })
}

fn lost(_: tokio::task::JoinError) -> FsError {
    FsError::Machine { what: "task" }
}
