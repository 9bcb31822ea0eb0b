use std::sync::Arc;

use strongroom_proto::{
    BlockId, ExtentId, RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use super::{RawBlock, RawError, RawHeader};
use crate::{
    FsError, Stat, ZoneFs,
    extent_writer::placement,
    lease::{Grant, Keeper, Lease},
    nodes::SealedBlock,
    random,
    replicate::replicate,
};

/// Brings in a file's ciphertext, block by block in the order of the stream. Nothing shows before all of it is there; a writer that is
/// dropped gives up what it stored.
pub struct RawWriter {
    fs: ZoneFs,
    path: ZonePath,
    /// Of the first extent; what is renewed and committed.
    lease: Arc<Lease>,
    _keeper: Keeper,
    /// Under which id each extent is stored, and how many blocks are to come.
    extents: Vec<(ExtentId, u32)>,
    header: RawHeader,
    /// Blocks that are stored.
    stored: u64,
    next: (usize, u32),
    current: Arc<Lease>,
    spread: usize,
    over: bool,
}

impl ZoneFs {
    /// Opens a file for its ciphertext. No key is asked for. For superusers.
    ///
    /// # Errors
    /// `permission-denied` for others; `invalid-argument` if the zone at `path` cannot have it, with the way out.
    pub async fn create_raw(&self, path: &ZonePath, header: &RawHeader, overwrite: bool) -> Result<RawWriter, FsError> {
        let request = pb::CreateRawRequest {
            path: path.into(),
            file: Some(header.closed_file()),
            overwrite,
            request_id: RequestId::generate().into(),
        };
        let created = retry(Repeat::Harmless, || self.metadata().create_raw(request.clone())).await?;
        let lease = self.lease(created.grant)?;
        let ids: Result<Vec<ExtentId>, _> = created.extent_ids.iter().map(|id| id.as_ref().try_into()).collect();
        let ids = ids.map_err(FsError::metadata_answer)?;
        Ok(RawWriter {
            fs: self.clone(),
            path: path.clone(),
            _keeper: Keeper::start(Arc::clone(&lease)),
            extents: ids.into_iter().zip(header.shown_blocks()).collect(),
            header: header.clone(),
            stored: 0,
            next: (0, 0),
            current: Arc::clone(&lease),
            lease,
            spread: random::spread(),
            over: false,
        })
    }
}

impl RawWriter {
    /// Stores the next block, durably.
    ///
    /// # Errors
    /// [`FsError::Raw`] if it is damaged, too long or too short, or one too many; [`FsError::TooFewNodes`].
    pub async fn put(&mut self, block: RawBlock) -> Result<(), FsError> {
        while self
            .extents
            .get(self.next.0)
            .is_some_and(|(_, blocks)| self.next.1 >= *blocks)
        {
            self.next = (self.next.0 + 1, 0);
            self.current = self.next_lease().await?;
        }
        let wanted = self.header.block_length(self.next.0, self.next.1);
        if !block.is_sound() || wanted != Some(block.bytes.len() as u32) {
            return Err(self.bad(RawError::Block { block: self.stored }));
        }
        let sealed = SealedBlock {
            id: BlockId {
                extent: self.current.extent(),
                index: self.next.1,
            },
            bytes: block.bytes,
            crc32c: block.crc32c,
        };
        self.lease.check()?;
        let first = self.spread.wrapping_add(self.next.1 as usize);
        let stored = replicate(self.fs.nodes(), &self.current, &self.path, &sealed, first).await?;
        let placements = vec![placement(&sealed, stored)];
        self.current.record(self.next.1, placements).await?;
        self.next.1 += 1;
        self.stored += 1;
        Ok(())
    }

    /// Shows the file, once every block is there.
    ///
    /// # Errors
    /// [`FsError::Raw`] if blocks are missing, and [`RawError::Dropped`] if the file shows without what it has beyond its mode: then nobody
    /// has a right to it; as [`crate::FileWriter::finish`].
    pub async fn finish(mut self) -> Result<Stat, FsError> {
        if self.stored != self.extents.iter().map(|(_, blocks)| u64::from(*blocks)).sum::<u64>() {
            return Err(self.bad(RawError::End));
        }
        let request = pb::CommitRawRequest {
            file_id: self.lease.file().into(),
            extent_id: self.lease.extent().into(),
            request_id: RequestId::generate().into(),
            extended: self.header.given(),
        };
        let stat = retry(Repeat::Harmless, || self.fs.metadata().commit_raw(request.clone())).await?;
        self.over = true;
        let stat = Stat::try_from(stat)?;
        if self.header.lost_it(&stat) {
            return Err(self.bad(RawError::Dropped));
        }
        Ok(stat)
    }

    /// The right to store blocks of the next extent.
    async fn next_lease(&self) -> Result<Arc<Lease>, FsError> {
        let Some(&(extent, _)) = self.extents.get(self.next.0) else {
            return Err(self.bad(RawError::Block { block: self.stored }));
        };
        let grant = Grant {
            extent,
            ..self.lease.grant()
        };
        let lease = Arc::new(Lease::new(self.fs.metadata().clone(), grant));
        lease.renew().await?;
        Ok(lease)
    }

    fn bad(&self, source: RawError) -> FsError {
        FsError::Raw {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for RawWriter {
    fn drop(&mut self) {
        if !self.over {
            Arc::clone(&self.lease).abandon_in_background();
        }
    }
}

impl std::fmt::Debug for RawWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawWriter({}, file {})", self.path, self.lease.file())
    }
}
