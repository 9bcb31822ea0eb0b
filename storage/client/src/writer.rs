use std::sync::Arc;

use bytes::Bytes;
use strongroom_dataplane::{Geometry, Manifest, ManifestError, ManifestExtent, Seed};
use strongroom_proto::{FileId, RequestId, ZonePath, limits::EXTENTS_PER_FILE_MAX, metadata::v1 as pb};

use crate::{
    FsError, Stat, ZoneFs,
    extent_writer::{Ended, ExtentWriter},
    lease::{Grant, Keeper, Lease},
    opening::{Opening, wire_extent},
    plain::{CodeKey, PlainAllowed, Secret},
    suite,
};

/// How a new file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Replace a file at the path, when this one is published.
    pub overwrite: bool,
}

/// Writes a file, front to back: a new one, or at the end of one that is there. Readers see what was published last, by
/// [`FileWriter::flush`] or [`FileWriter::finish`]; a writer that is dropped gives up what was written since, and of a file that
/// was never published all. Holds at most four blocks and the one being filled.
///
/// Every publication that is followed by more begins another extent, of which a file has at most 1024, and asks for the file's
/// key again.
pub struct FileWriter {
    fs: ZoneFs,
    path: ZonePath,
    geometry: Geometry,
    code_key: CodeKey,
    /// Whether the file is not encrypted, which is allowed then.
    plain: Option<PlainAllowed>,
    /// What keys and manifest are bound to.
    crypto_id: FileId,
    /// As readers see the file; none of a new one.
    published: Option<Published>,
    /// The extents to go on from: those that are published, less what is cut off.
    base: Vec<ManifestExtent>,
    lease: Arc<Lease>,
    keeper: Option<Keeper>,
    /// What is written since the last publication.
    extent: Option<ExtentWriter>,
    state: State,
}

struct Published {
    stat: Stat,
    manifest: Manifest,
    code: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Failed,
    /// All is shown, and the metadata service lets nothing follow.
    LetGo,
    /// Finished or given up.
    Over,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileWriter({}, file {})", self.path, self.lease.file())
    }
}

impl FileWriter {
    /// A writer of a new file, whose first extent's key is made of `first`.
    pub(crate) fn create(
        fs: ZoneFs,
        path: ZonePath,
        lease: Arc<Lease>,
        secret: &Secret,
        geometry: Geometry,
        first: Seed,
    ) -> Result<Self, FsError> {
        let key = suite::file_key(geometry.suite(), secret)?;
        let file = lease.file();
        let extent = ExtentWriter::new(
            fs.clone(),
            path.clone(),
            Arc::clone(&lease),
            &key,
            file,
            geometry,
            first,
        )?;
        Ok(Self {
            geometry,
            code_key: key.code(file),
            plain: key.plain(),
            crypto_id: file,
            published: None,
            base: Vec::new(),
            keeper: Some(Keeper::start(Arc::clone(&lease))),
            lease,
            extent: Some(extent),
            state: State::Open,
            fs,
            path,
        })
    }

    /// A writer of a file that is there, from its `from`th byte on; none means its end.
    pub(crate) fn reopen(
        fs: ZoneFs,
        path: ZonePath,
        lease: Arc<Lease>,
        opening: &Opening,
        secret: &Secret,
        from: Option<u64>,
    ) -> Result<Self, FsError> {
        let key = suite::file_key(opening.geometry().suite(), secret)?;
        let manifest = opening.prove(&key)?;
        let length = manifest.length();
        let from = from.unwrap_or(length);
        if from > length {
            return Err(FsError::BehindTheEnd { path, from, length });
        }
        check_new(&lease, manifest)?;
        let crypto_id = opening.crypto_id;
        let code_key = key.code(crypto_id);
        Ok(Self {
            geometry: manifest.geometry(),
            base: cut(manifest.extents(), from),
            published: Some(Published {
                code: code_key.authenticate(manifest),
                manifest: manifest.clone(),
                stat: opening.stat.clone(),
            }),
            code_key,
            plain: key.plain(),
            crypto_id,
            keeper: Some(Keeper::start(Arc::clone(&lease))),
            lease,
            extent: None,
            state: State::Open,
            fs,
            path,
        })
    }

    /// Appends `data`. Returns once it is sealed or buffered, not yet durable; the failure of an earlier block
    /// can come back here.
    ///
    /// # Errors
    /// As storing a block fails: [`FsError::TooFewNodes`], or what the metadata service refuses; [`FsError::Unwrap`] at the first
    /// bytes after a publication. After an error, or if its future is dropped before it ends, the writer can only be abandoned.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), FsError> {
        self.check_open()?;
        if data.is_empty() {
            return Ok(());
        }
        if self.extent.is_none() && self.base.len() >= EXTENTS_PER_FILE_MAX {
            return Err(self.too_many_extents());
        }
        // A call that is cancelled on the way leaves nobody to say how much of `data` went in.
        self.state = State::Failed;
        if self.extent.is_none() {
            self.extent = Some(self.next_extent().await?);
        }
        if let Some(extent) = &mut self.extent {
            extent.append(data).await?;
        }
        self.state = State::Open;
        Ok(())
    }

    /// Makes everything durable and shows it to readers, with the modification time `mtime_ms` in milliseconds since the Unix
    /// epoch, and goes on. Without anything new it does nothing, but for a new file, which shows then. If the file was taken away from
    /// the writer right after, or is not encrypted and came to be in a zone, it was shown all the same: this succeeds, and the next write fails.
    ///
    /// # Errors
    /// As [`FileWriter::write`]; also if the path of a new file was taken meanwhile. [`FsError::TooManyExtents`] leaves the writer
    /// as it was.
    pub async fn flush(&mut self, mtime_ms: u64) -> Result<Stat, FsError> {
        if let Some(stat) = self.let_go() {
            return Ok(stat);
        }
        self.check_open()?;
        if let Some(stat) = self.unchanged() {
            return Ok(stat);
        }
        if self.extent.is_some() && self.base.len() + 1 >= EXTENTS_PER_FILE_MAX {
            return Err(self.too_many_extents());
        }
        self.state = State::Failed;
        let (stat, grant) = self.publish(mtime_ms, true).await?;
        // The first answer was lost, and so was the lease before it was asked for again; or a zone is to encrypt the file first.
        let Some(grant) = grant else {
            self.state = State::LetGo;
            return Ok(stat);
        };
        let grant = Grant::try_from(grant).map_err(FsError::metadata_answer)?;
        if grant.file != self.lease.file() {
            return Err(FsError::metadata_contradiction("it goes on with another file"));
        }
        let lease = Arc::new(Lease::new(self.fs.metadata().clone(), grant));
        if let Some(published) = &self.published {
            check_new(&lease, &published.manifest)?;
        }
        self.lease = lease;
        self.keeper = Some(Keeper::start(Arc::clone(&self.lease)));
        self.state = State::Open;
        Ok(stat)
    }

    /// Makes everything durable and shows it to readers, all at once, with the modification time
    /// `mtime_ms` in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`FileWriter::write`]; also if the path of a new file was taken meanwhile. Then readers see what they saw before.
    pub async fn finish(mut self, mtime_ms: u64) -> Result<Stat, FsError> {
        if let Some(stat) = self.let_go() {
            self.state = State::Over;
            return Ok(stat);
        }
        self.check_open()?;
        if let Some(stat) = self.unchanged() {
            self.abandon().await?;
            return Ok(stat);
        }
        self.state = State::Failed;
        let (stat, _) = self.publish(mtime_ms, false).await?;
        self.state = State::Over;
        Ok(stat)
    }

    /// Gives up what was written since the last publication, so that its blocks are deleted soon.
    ///
    /// # Errors
    /// If the metadata service cannot be told; it finds out by itself when the lease ends.
    pub async fn abandon(mut self) -> Result<(), FsError> {
        self.state = State::Over;
        self.keeper = None;
        if let Some(extent) = self.extent.take() {
            extent.stop().await;
        }
        Ok(self.lease.abandon().await?)
    }

    fn check_open(&self) -> Result<(), FsError> {
        let path = self.path.clone();
        match self.state {
            State::Open => Ok(()),
            State::LetGo => Err(FsError::WriterLetGo { path }),
            State::Failed | State::Over => Err(FsError::WriterFailed { path }),
        }
    }

    /// What readers see, if nothing may follow: all is there that was written.
    fn let_go(&self) -> Option<Stat> {
        let published = self.published.as_ref().filter(|_| self.state == State::LetGo);
        published.map(|published| published.stat.clone())
    }

    fn too_many_extents(&self) -> FsError {
        FsError::TooManyExtents {
            path: self.path.clone(),
            extents: self.base.len(),
        }
    }

    /// What readers see, if there is nothing that they do not.
    fn unchanged(&self) -> Option<Stat> {
        let published = self.published.as_ref()?;
        let cut_off = published.stat.length != visible(&self.base);
        (self.extent.is_none() && !cut_off).then(|| published.stat.clone())
    }

    /// Begins an extent after a publication. The file's EDEK may have been wrapped again meanwhile, and the version of its key
    /// that wrapped it before may be gone.
    async fn next_extent(&self) -> Result<ExtentWriter, FsError> {
        self.lease.renew().await?;
        let (edek, suite) = (self.lease.grant().edek, self.geometry.suite());
        let secret = self.fs.unwrap(&self.path, edek.as_ref(), suite, self.plain).await?;
        let key = suite::file_key(suite, &secret)?;
        if let Some(published) = &self.published {
            // Nobody can have us go on under another file's DEK.
            let proof = key.code(self.crypto_id).verify(&published.manifest, &published.code);
            proof.map_err(|source| self.manifest_error(source))?;
        }
        ExtentWriter::new(
            self.fs.clone(),
            self.path.clone(),
            Arc::clone(&self.lease),
            &key,
            self.crypto_id,
            self.geometry,
            suite::salt()?,
        )
    }

    async fn publish(&mut self, mtime_ms: u64, go_on: bool) -> Result<(Stat, Option<pb::WriteGrant>), FsError> {
        let ended = match self.extent.take() {
            Some(extent) => extent.end().await?,
            None => None,
        };
        let (manifest, code, request) = self.commit_request(ended, mtime_ms, go_on)?;
        let answer = self.lease.commit(request).await?;
        let mut stat = answer
            .stat
            .ok_or_else(|| FsError::metadata_contradiction("it says nothing about the file"))?;
        if stat.path.is_empty() {
            // A rename further up moved it where no path leads for now; this is the one that it was begun under.
            stat.path = (&self.path).into();
        }
        let stat = Stat::try_from(stat)?;
        if stat.length != manifest.length() || stat.file_id != self.lease.file() {
            return Err(FsError::metadata_contradiction("it published another file"));
        }
        self.base = manifest.extents().to_vec();
        self.published = Some(Published {
            stat: stat.clone(),
            manifest,
            code,
        });
        Ok((stat, answer.grant))
    }

    fn manifest_error(&self, source: ManifestError) -> FsError {
        FsError::Manifest {
            path: self.path.clone(),
            source,
        }
    }

    fn commit_request(
        &self,
        ended: Option<Ended>,
        mtime_ms: u64,
        go_on: bool,
    ) -> Result<(Manifest, Bytes, pb::CommitFileRequest), FsError> {
        let mut extents = self.base.clone();
        let (first_index, blocks) = match ended {
            Some(ended) => {
                extents.push(ended.extent);
                (ended.first_index, ended.blocks)
            }
            None => (0, Vec::new()),
        };
        let before = self.published.as_ref();
        let generation = before.map_or(0, |published| published.manifest.generation()) + 1;
        let manifest = Manifest::new(self.geometry, generation, extents);
        let manifest = manifest.map_err(|source| self.manifest_error(source))?;
        let code = self.code_key.authenticate(&manifest);
        let request = pb::CommitFileRequest {
            file_id: self.lease.file().into(),
            extent_id: self.lease.extent().into(),
            generation,
            extents: manifest.extents().iter().map(wire_extent).collect(),
            first_index,
            blocks,
            manifest_mac: code.clone(),
            mtime_ms,
            go_on,
            request_id: RequestId::generate().into(),
        };
        Ok((manifest, code, request))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.state != State::Over {
            Arc::clone(&self.lease).abandon_in_background();
        }
    }
}

/// Refuses to write an extent that the file has: its blocks are there, and are never others.
fn check_new(lease: &Lease, manifest: &Manifest) -> Result<(), FsError> {
    let is_known = |extent: &ManifestExtent| extent.id == *lease.extent().as_bytes();
    if manifest.extents().iter().any(is_known) {
        return Err(FsError::metadata_contradiction(
            "it grants an extent that the file has already",
        ));
    }
    Ok(())
}

fn visible(extents: &[ManifestExtent]) -> u64 {
    extents.iter().map(|extent| extent.visible).sum()
}

/// The extents of the first `length` bytes.
fn cut(extents: &[ManifestExtent], length: u64) -> Vec<ManifestExtent> {
    let mut left = length;
    let kept = extents.iter().map_while(|extent| {
        let visible = extent.visible.min(left);
        left -= visible;
        (visible > 0).then(|| ManifestExtent {
            visible,
            ..extent.clone()
        })
    });
    kept.collect()
}
