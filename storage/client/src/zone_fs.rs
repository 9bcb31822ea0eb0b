use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use strongroom_dataplane::Suite;
use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{
    Edek, FileId, FrameSize, JobId, KeyName, KeyVersion, RequestId, ZoneId, ZonePath,
    metadata::v1 as pb,
    proof::SignedProof,
    transport::{Remotes, Repeat, TlsIdentity, UserName, retry},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Acl, AclChange, AdoptOptions, Attributes, ClusterStatus, CreateOptions, Cursor, FileReader, FileWriter, FsError,
    Page, Stat, Zone, ZoneOptions,
    lease::{Grant, Lease},
    metadata::Metadata,
    nodes::Nodes,
    opening::{Opening, parse_edek},
    plain::{PlainAllowed, PlainDirectories, Secret},
    suite,
    trash::job_of,
};

/// Blocks that all writers of one [`ZoneFs`] seal and store at once: at most 64 MiB of them.
const BLOCKS_IN_FLIGHT: usize = 16;

/// Permission bits that files and directories are made without unless the caller says otherwise, as in HDFS.
const UMASK: u32 = 0o022;

/// The zone filesystem as one user sees it. Cheap to clone; clones share connections.
///
/// Calls that may be repeated are repeated for up to 20 s while a service cannot be reached, so that the restart
/// of a service costs time, not errors.
#[derive(Clone)]
pub struct ZoneFs {
    shared: Arc<Shared>,
}

struct Shared {
    kms: UnwrapClient,
    metadata: Metadata,
    nodes: Nodes,
    tls: Arc<TlsIdentity>,
    blocks_in_flight: Arc<Semaphore>,
    umask: AtomicU32,
    plain: PlainDirectories,
}

impl std::fmt::Debug for ZoneFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ZoneFs")
    }
}

impl ZoneFs {
    /// A filesystem whose services are there; connects at the first call. Needs a Tokio runtime.
    #[must_use]
    pub fn connect(kms: &Remotes, metadata: &Remotes, tls: Arc<TlsIdentity>) -> Self {
        Self {
            shared: Arc::new(Shared {
                kms: UnwrapClient::connect(kms, &tls),
                metadata: Metadata::connect(metadata, &tls),
                nodes: Nodes::new(Arc::clone(&tls)),
                tls,
                blocks_in_flight: Arc::new(Semaphore::new(BLOCKS_IN_FLIGHT)),
                umask: AtomicU32::new(UMASK),
                plain: PlainDirectories::default(),
            }),
        }
    }

    /// From now on asks the key service for every DEK by sealed delivery, also for keys that do not demand it.
    pub fn seal_always(&self) {
        self.shared.kms.seal_always();
    }

    /// From now on makes files and directories without these permission bits, at most 0o777, instead of 0o022; in a directory with a
    /// default ACL that ACL takes their place.
    pub fn set_umask(&self, umask: u32) {
        self.shared.umask.store(umask & 0o777, Ordering::Relaxed);
    }

    /// From now on takes part in files that are not encrypted, below these directories by the path that is named, and nowhere else; at first
    /// nowhere. Without it whoever rules the metadata service could have this client write plaintext, by saying that a path is in no zone, or
    /// read as a file of a zone what anybody wrote. The root is passed over: it would be every file there is.
    pub fn allow_plain(&self, directories: Vec<ZonePath>) {
        self.shared.plain.set(directories);
    }

    /// Whether a file may be plain by what [`Self::allow_plain`] was told.
    #[must_use]
    pub fn allows_plain(&self, path: &ZonePath) -> bool {
        self.plain_at(path).is_some()
    }

    /// Makes a directory; with `parents` also those above it, and none if it exists.
    ///
    /// # Errors
    /// `already-exists`, `not-found` or `not-a-directory` on the way down.
    pub async fn make_directory(&self, path: &ZonePath, mode: u32, parents: bool) -> Result<Stat, FsError> {
        let request = pb::MakeDirectoryRequest {
            path: path.into(),
            mode,
            parents,
            umask: self.umask(),
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().make_directory(request.clone()))
            .await?
            .try_into()
    }

    /// What is at a path.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn stat(&self, path: &ZonePath) -> Result<Stat, FsError> {
        let request = pb::GetStatRequest { path: path.into() };
        retry(Repeat::Harmless, || self.metadata().get_stat(request.clone()))
            .await?
            .try_into()
    }

    /// Up to 1000 entries of a directory in name order, from its beginning or from where the page before ended.
    ///
    /// # Errors
    /// `not-found`, also if another directory has taken the place of the one that the page before was of; `not-a-directory`.
    pub async fn list(&self, path: &ZonePath, from: Option<Cursor>) -> Result<Page, FsError> {
        let (after, directory) = from.map(|from| (from.after, from.directory)).unzip();
        let request = pb::ListRequest {
            path: path.into(),
            after: after.unwrap_or_default(),
            limit: 0,
            directory_id: directory.map(Into::into).unwrap_or_default(),
        };
        retry(Repeat::Harmless, || self.metadata().list(request.clone()))
            .await?
            .try_into()
    }

    /// Moves a file or directory within its zone; with `overwrite` over a file at `to`.
    ///
    /// # Errors
    /// `not-found`, `already-exists`, `cross-zone` or `invalid-move`.
    pub async fn rename(&self, from: &ZonePath, to: &ZonePath, overwrite: bool) -> Result<Stat, FsError> {
        let request = pb::RenameRequest {
            from: from.into(),
            to: to.into(),
            overwrite,
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().rename(request.clone()))
            .await?
            .try_into()
    }

    /// Removes for good a file, an empty directory, or with `recursive` a directory with all it holds: that is gone from the namespace
    /// at once, and a job, which is told, clears it away.
    ///
    /// # Errors
    /// `not-found` or `not-empty`.
    pub async fn remove(&self, path: &ZonePath, recursive: bool) -> Result<Option<JobId>, FsError> {
        let request = pb::RemoveRequest {
            path: path.into(),
            recursive,
            request_id: RequestId::generate().into(),
            to_trash: false,
        };
        let removed = retry(Repeat::Harmless, || self.metadata().remove(request.clone())).await?;
        job_of(&removed)
    }

    /// Sets what is given of mode, time, owner and group, all or nothing.
    ///
    /// # Errors
    /// `not-found`; `permission-denied`: the mode is the owner's to set, an owner a superuser's, and a group may be given by an owner
    /// who is in it.
    pub async fn set_attributes(&self, path: &ZonePath, wanted: &Attributes) -> Result<Stat, FsError> {
        let request = pb::SetAttributesRequest {
            path: path.into(),
            mode: wanted.mode,
            mtime_ms: wanted.mtime_ms,
            owner: text(wanted.owner.as_ref()),
            group: text(wanted.group.as_ref()),
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().set_attributes(request.clone()))
            .await?
            .try_into()
    }

    /// The ACL at a path.
    ///
    /// # Errors
    /// `not-found` or `permission-denied`.
    pub async fn acl(&self, path: &ZonePath) -> Result<Acl, FsError> {
        let request = pb::GetAclRequest { path: path.into() };
        retry(Repeat::Harmless, || self.metadata().get_acl(request.clone()))
            .await?
            .try_into()
    }

    /// Changes the ACL at a path; answers with what it is then.
    ///
    /// # Errors
    /// `not-found`; `permission-denied` for other than its owner; `invalid-argument` for an ACL that breaks a rule.
    pub async fn set_acl(&self, path: &ZonePath, change: &AclChange) -> Result<Acl, FsError> {
        let (kind, entries) = change.wire();
        let request = pb::SetAclRequest {
            path: path.into(),
            change: kind.into(),
            entries,
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().set_acl(request.clone()))
            .await?
            .try_into()
    }

    /// Starts a new file, which shows under its path once it is finished.
    ///
    /// # Errors
    /// `already-exists` without `overwrite`, `not-in-zone`, `not-found`; [`FsError::Unwrap`] if the key service
    /// does not let this user have the file's key.
    pub async fn create(&self, path: &ZonePath, options: CreateOptions) -> Result<FileWriter, FsError> {
        let request = pb::CreateFileRequest {
            path: path.into(),
            mode: options.mode,
            overwrite: options.overwrite,
            umask: self.umask(),
            request_id: RequestId::generate().into(),
        };
        let created = retry(Repeat::Harmless, || self.metadata().create_file(request.clone())).await?;
        self.open_new(path, created).await
    }

    /// Opens a file to write behind its `from`th byte, or at its end; what is behind that is cut off when the writer publishes.
    /// Nobody else can open it for writing meanwhile.
    ///
    /// # Errors
    /// `not-found`, `is-a-directory`, or `lease-held` while somebody writes it; [`FsError::BehindTheEnd`]; otherwise as
    /// [`Self::open`].
    pub async fn append(&self, path: &ZonePath, from: Option<u64>) -> Result<FileWriter, FsError> {
        let request = pb::ReopenFileRequest {
            path: path.into(),
            request_id: RequestId::generate().into(),
        };
        let reopened = retry(Repeat::Harmless, || self.metadata().reopen_file(request.clone())).await?;
        let lease = self.lease(reopened.grant)?;
        let writer = self.reopened(path, Arc::clone(&lease), reopened.file, from).await;
        if writer.is_err()
            && let Err(failure) = lease.abandon().await
        {
            tracing::debug!(%failure, %path, "cannot give up a file");
        }
        writer
    }

    /// Cuts a file to its first `length` bytes, with the modification time `mtime_ms` in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Self::append`] and [`FileWriter::finish`].
    pub async fn truncate(&self, path: &ZonePath, length: u64, mtime_ms: u64) -> Result<Stat, FsError> {
        self.append(path, Some(length)).await?.finish(mtime_ms).await
    }

    /// Takes a file from a writer who left it open; it stays as it was published last. Says who that was, if anybody.
    ///
    /// # Errors
    /// `not-found`, `is-a-directory`, or `permission-denied`.
    pub async fn recover(&self, path: &ZonePath) -> Result<Option<UserName>, FsError> {
        let request = pb::RecoverFileRequest {
            path: path.into(),
            request_id: RequestId::generate().into(),
        };
        let answer = retry(Repeat::Harmless, || self.metadata().recover_file(request.clone())).await?;
        match answer.writer.as_str() {
            "" => Ok(None),
            writer => writer.parse().map(Some).map_err(FsError::metadata_answer),
        }
    }

    /// Opens a file for reading and proves that its list of extents is its writer's.
    ///
    /// # Errors
    /// `not-found` or `is-a-directory`; [`FsError::Unwrap`] if the key service does not let this user have the
    /// file's key; [`FsError::Manifest`] if the file was tampered with.
    pub async fn open(&self, path: &ZonePath) -> Result<FileReader, FsError> {
        let request = pb::OpenFileRequest {
            path: path.into(),
            ..pb::OpenFileRequest::default()
        };
        self.reader(path, request, self.plain_at(path)).await
    }

    /// Opens a file again that was at `path` when it was opened first, and was plain or not.
    pub(crate) async fn open_again(
        &self,
        path: &ZonePath,
        id: FileId,
        plain: Option<PlainAllowed>,
    ) -> Result<FileReader, FsError> {
        let request = pb::OpenFileRequest {
            file_id: id.into(),
            ..pb::OpenFileRequest::default()
        };
        self.reader(path, request, plain).await
    }

    async fn reader(
        &self,
        path: &ZonePath,
        request: pb::OpenFileRequest,
        plain: Option<PlainAllowed>,
    ) -> Result<FileReader, FsError> {
        let opened = retry(Repeat::Harmless, || self.metadata().open_file(request.clone())).await?;
        let opening = Opening::parse(path, opened)?;
        let suite = opening.geometry().suite();
        let secret = self.unwrap(path, opening.edek.as_ref(), suite, plain).await?;
        FileReader::new(self.clone(), opening, &suite::file_key(suite, &secret)?)
    }

    /// Makes an empty directory the root of a zone under an EZ key.
    ///
    /// # Errors
    /// `not-empty`, `already-zone`, `key-not-found`, or `permission-denied` for other than superusers.
    pub async fn create_zone(&self, path: &ZonePath, key: &KeyName, options: &ZoneOptions) -> Result<Zone, FsError> {
        let request = pb::CreateZoneRequest {
            path: path.into(),
            key_name: key.as_str().to_owned(),
            data_suite: options.data_suite.as_str().to_owned(),
            frame_bytes: options.frame.map(FrameSize::bytes).unwrap_or_default(),
            owner: text(options.owner.as_ref()),
            group: text(options.group.as_ref()),
            provision_trash: options.provision_trash,
            zone_id: options.id.map(Into::into).unwrap_or_default(),
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().create_zone(request.clone()))
            .await?
            .try_into()
    }

    /// Makes a directory the root of a zone whatever it holds, or goes on with that: looks for files in it that are not encrypted, and ends the
    /// adoption when none is left. To be called until the answer says that all were looked at; then the files are for
    /// [`Self::start_rewriting`], and this is called once more.
    ///
    /// # Errors
    /// `already-zone` if it is one that adopts nothing, or in one; `key-not-found`; `permission-denied` for other than superusers if it is no
    /// zone yet; `invalid-argument` if it was begun with another key, suite or frame size.
    pub async fn adopt_zone(&self, path: &ZonePath, adopted: &AdoptOptions) -> Result<Zone, FsError> {
        let request = pb::AdoptZoneRequest {
            path: path.into(),
            key_name: text(adopted.key.as_ref()),
            data_suite: text(adopted.data_suite.as_ref()),
            frame_bytes: adopted.frame.map(FrameSize::bytes).unwrap_or_default(),
        };
        retry(Repeat::Harmless, || self.metadata().adopt_zone(request.clone()))
            .await?
            .try_into()
    }

    /// All zones that the user may reach, in the order of their ids.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn zones(&self) -> Result<Vec<Zone>, FsError> {
        let mut request = pb::ListZonesRequest::default();
        let mut all = Vec::new();
        loop {
            let page = retry(Repeat::Harmless, || self.metadata().list_zones(request.clone())).await?;
            for zone in page.zones {
                all.push(zone.try_into()?);
            }
            if page.next.is_empty() {
                return Ok(all);
            }
            request.after = page.next;
        }
    }

    /// The zone that holds a path.
    ///
    /// # Errors
    /// `not-in-zone` or `not-found`.
    pub async fn zone(&self, path: &ZonePath) -> Result<Zone, FsError> {
        let request = pb::GetZoneRequest { path: path.into() };
        retry(Repeat::Harmless, || self.metadata().get_zone(request.clone()))
            .await?
            .try_into()
    }

    /// A proof for the key service that the zone at a path uses no version of its key up to `through`, and will not again.
    ///
    /// # Errors
    /// `key-in-use` while files stand in the way or `through` is the key's newest version; `not-in-zone`,
    /// `permission-denied` for other than superusers.
    pub async fn prove_zone(&self, path: &ZonePath, through: KeyVersion) -> Result<SignedProof, FsError> {
        self.proof(pb::ProveZoneRequest {
            path: path.into(),
            through_version: through.0,
            ..pb::ProveZoneRequest::default()
        })
        .await
    }

    /// [`Self::prove_zone`] for a zone by its id, which may have been removed; then its key has to be named.
    ///
    /// # Errors
    /// As there.
    pub async fn prove_zone_id(
        &self,
        zone: ZoneId,
        key: Option<&KeyName>,
        through: KeyVersion,
    ) -> Result<SignedProof, FsError> {
        self.proof(pb::ProveZoneRequest {
            zone_id: zone.into(),
            key_name: key.map(|key| key.as_str().to_owned()).unwrap_or_default(),
            through_version: through.0,
            ..pb::ProveZoneRequest::default()
        })
        .await
    }

    async fn proof(&self, request: pb::ProveZoneRequest) -> Result<SignedProof, FsError> {
        let answer = retry(Repeat::Harmless, || self.metadata().prove_zone(request.clone())).await?;
        Ok(SignedProof::from_bytes(&answer.proof)?)
    }

    /// The block nodes and what is to be done on them.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, FsError> {
        let request = pb::GetClusterStatusRequest {};
        retry(Repeat::Harmless, || self.metadata().get_cluster_status(request))
            .await?
            .try_into()
    }

    /// Bits that new files and directories are made without.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.shared.umask.load(Ordering::Relaxed)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.shared.metadata
    }

    /// What this user signs with.
    pub(crate) fn tls(&self) -> &Arc<TlsIdentity> {
        &self.shared.tls
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }

    /// Waits until another block may be sealed and stored.
    pub(crate) async fn block_permit(&self) -> OwnedSemaphorePermit {
        let semaphore = Arc::clone(&self.shared.blocks_in_flight);
        semaphore.acquire_owned().await.expect("nobody closes it")
    }

    async fn open_new(&self, path: &ZonePath, created: pb::CreatedFile) -> Result<FileWriter, FsError> {
        let suite = created.data_suite.parse().map_err(FsError::metadata_answer)?;
        let geometry = suite::geometry(path, suite, created.frame_bytes, created.block_bytes)?;
        let edek = parse_edek(created.edek)?;
        let first = suite::first_seed(geometry.suite(), edek.as_ref())?;
        let lease = self.lease(created.grant)?;
        let unwrapped = self.unwrap(path, edek.as_ref(), geometry.suite(), self.plain_at(path));
        let secret = match unwrapped.await {
            Ok(secret) => secret,
            Err(error) => {
                lease.abandon_in_background();
                return Err(error);
            }
        };
        FileWriter::create(self.clone(), path.clone(), lease, &secret, geometry, first)
    }

    async fn reopened(
        &self,
        path: &ZonePath,
        lease: Arc<Lease>,
        file: Option<pb::OpenedFile>,
        from: Option<u64>,
    ) -> Result<FileWriter, FsError> {
        let file = file.ok_or_else(|| FsError::metadata_contradiction("it says nothing about the file"))?;
        let opening = Opening::parse(path, file)?;
        if opening.stat.file_id != lease.file() {
            return Err(FsError::metadata_contradiction("it grants another file"));
        }
        let (edek, suite) = (opening.edek.as_ref(), opening.geometry().suite());
        let secret = self.unwrap(path, edek, suite, self.plain_at(path)).await?;
        FileWriter::reopen(self.clone(), path.clone(), lease, &opening, &secret, from)
    }

    pub(crate) fn lease(&self, grant: Option<pb::WriteGrant>) -> Result<Arc<Lease>, FsError> {
        let grant = grant.ok_or_else(|| FsError::metadata_contradiction("it grants nothing"))?;
        let grant = Grant::try_from(grant).map_err(FsError::metadata_answer)?;
        Ok(Arc::new(Lease::new(self.metadata().clone(), grant)))
    }

    /// Whether the file that the user named `path` may be plain.
    pub(crate) fn plain_at(&self, path: &ZonePath) -> Option<PlainAllowed> {
        self.shared.plain.allow(path)
    }

    /// A DEK that files of a suite can have; none of a file that is not encrypted, if it may be that.
    pub(crate) async fn unwrap(
        &self,
        path: &ZonePath,
        edek: Option<&Edek>,
        suite: Suite,
        plain: Option<PlainAllowed>,
    ) -> Result<Secret, FsError> {
        let edek = match (edek, suite) {
            (Some(edek), Suite::Gcm | Suite::CtrHdfs) => edek,
            (None, Suite::Plain) => {
                let refused = || FsError::Plain { path: path.clone() };
                return plain.map(Secret::Plain).ok_or_else(refused);
            }
            (None, _) => return Err(FsError::metadata_contradiction("it gives no EDEK")),
            (Some(_), Suite::Plain) => {
                return Err(FsError::metadata_contradiction(
                    "it gives an EDEK of what is not encrypted",
                ));
            }
        };
        let unwrapped = self.shared.kms.unwrap(edek).await.map(Secret::Dek);
        let fitting = |secret: Secret| {
            suite::file_key(suite, &secret)?;
            Ok(secret)
        };
        unwrapped.and_then(fitting).map_err(|failure| FsError::Unwrap {
            path: path.clone(),
            edek: Box::new(edek.clone()),
            failure,
        })
    }
}

/// Empty for what is not given.
fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
