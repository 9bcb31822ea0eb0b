//! The right to write one file: granted by the metadata service, renewed while the writer lives.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use strongroom_proto::{
    Edek, ExtentId, Failure, FileId, ParseError, Reason,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};
use tokio::{runtime::Handle, task::JoinHandle, time::sleep};

use crate::{FsError, metadata::Metadata, nodes::Node};

/// Bounds of the pause between renewals, whatever the two machines' clocks say.
const RENEWAL_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What lets a writer store blocks of its extent.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) file: FileId,
    pub(crate) extent: ExtentId,
    pub(crate) capability: Bytes,
    pub(crate) expires_ms: u64,
    pub(crate) targets: Arc<[Node]>,
    pub(crate) replicas: usize,
    pub(crate) min_replicas: usize,
    /// The file's EDEK, if it was told.
    pub(crate) edek: Option<Edek>,
}

impl TryFrom<pb::WriteGrant> for Grant {
    type Error = ParseError;

    fn try_from(wire: pb::WriteGrant) -> Result<Self, ParseError> {
        let min_replicas = wire.min_replicas.max(1) as usize;
        Ok(Self {
            file: wire.file_id.as_ref().try_into()?,
            extent: wire.extent_id.as_ref().try_into()?,
            capability: wire.capability,
            expires_ms: wire.expires_ms,
            targets: wire.targets.into_iter().map(Node::try_from).collect::<Result<_, _>>()?,
            replicas: (wire.replicas as usize).max(min_replicas),
            min_replicas,
            edek: wire.edek.map(Edek::try_from).transpose()?,
        })
    }
}

impl Grant {
    /// Renewed at half its time.
    fn renewal_pause(&self) -> Duration {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_millis(self.expires_ms).saturating_sub(now_ms);
        (left / 2).clamp(RENEWAL_PAUSE.0, RENEWAL_PAUSE.1)
    }
}

/// A grant that is kept fresh. Shared by a writer, its block tasks and the keeper.
pub(crate) struct Lease {
    metadata: Metadata,
    file: FileId,
    extent: ExtentId,
    grant: Mutex<Grant>,
    /// Why it is somebody else's, once that is known.
    lost: OnceLock<Failure>,
}

impl Lease {
    pub(crate) fn new(metadata: Metadata, grant: Grant) -> Self {
        Self {
            metadata,
            file: grant.file,
            extent: grant.extent,
            grant: Mutex::new(grant),
            lost: OnceLock::new(),
        }
    }

    pub(crate) const fn file(&self) -> FileId {
        self.file
    }

    pub(crate) const fn extent(&self) -> ExtentId {
        self.extent
    }

    /// The newest grant.
    pub(crate) fn grant(&self) -> Grant {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is known to be ours no more. Block nodes would take blocks until the capability ends.
    ///
    /// # Errors
    /// What the metadata service said.
    pub(crate) fn check(&self) -> Result<(), FsError> {
        self.lost.get().cloned().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Records up to 1024 blocks, and takes the fresh grant that comes back.
    pub(crate) async fn record(&self, first_index: u32, blocks: Vec<pb::BlockPlacement>) -> Result<(), FsError> {
        let request = pb::AddBlocksRequest {
            file_id: self.file.into(),
            extent_id: self.extent.into(),
            first_index,
            blocks,
        };
        let wire = retry(Repeat::Harmless, || self.metadata.add_blocks(request.clone())).await?;
        let grant = Grant::try_from(wire).map_err(FsError::metadata_answer)?;
        if (grant.file, grant.extent) != (self.file, self.extent) {
            return Err(FsError::metadata_contradiction("it renewed another file's grant"));
        }
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
        Ok(())
    }

    /// Takes a fresh grant.
    pub(crate) async fn renew(&self) -> Result<(), FsError> {
        self.record(0, Vec::new()).await
    }

    /// Publishes what was written.
    pub(crate) async fn commit(&self, request: pb::CommitFileRequest) -> Result<pb::CommittedFile, Failure> {
        retry(Repeat::Harmless, || self.metadata.commit_file(request.clone())).await
    }

    /// Gives the file up.
    pub(crate) async fn abandon(&self) -> Result<(), Failure> {
        let request = pb::AbandonFileRequest {
            file_id: self.file.into(),
            extent_id: self.extent.into(),
        };
        retry(Repeat::Harmless, || self.metadata.abandon_file(request.clone())).await?;
        Ok(())
    }
}

impl Lease {
    /// Gives the file up without waiting. If that fails, the metadata service finds out when the lease ends.
    pub(crate) fn abandon_in_background(self: Arc<Self>) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Err(failure) = self.abandon().await {
                    tracing::debug!(%failure, file = %self.file, "cannot give up a file");
                }
            });
        }
    }
}

/// Renews a lease in the background, also while its writer has nothing to write, until it is dropped.
pub(crate) struct Keeper(JoinHandle<()>);

impl Keeper {
    pub(crate) fn start(lease: Arc<Lease>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                sleep(lease.grant().renewal_pause()).await;
                if let Err(error) = lease.renew().await {
                    tracing::debug!(%error, file = %lease.file, "cannot renew the lease");
                    if let FsError::Remote(failure) = error
                        && failure.reason == Reason::LeaseLost
                    {
                        _ = lease.lost.set(failure);
                        return;
                    }
                }
            }
        }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
