mod raw;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use strongroom_proto::{
    DataSuite, EdekSuite, ExtentId, Failure, FileId, Reason,
    block::v1::Target,
    kms::v1::Edek,
    metadata::v1::{
        AbandonFileRequest, AbandonFileResponse, Acl, AddBlocksRequest, BlockPlacement, CommitFileRequest,
        CommittedFile, CreateFileRequest, CreatedFile, Extent, FileKind, GetAclRequest, GetQuotasRequest,
        GetStatRequest, GetXattrsRequest, ListBlocksRequest, ListBlocksResponse, ListRequest, ListResponse,
        MakeDirectoryRequest, OpenFileRequest, OpenedFile, Quotas, RawExtended, RecoverFileRequest,
        RecoverFileResponse, RemoveRequest, RemoveResponse, RenameRequest, ReopenFileRequest, ReopenedFile,
        RewriteFileRequest, RewritingFile, SetAclRequest, SetAttributesRequest, SetQuotaRequest, SetXattrRequest, Stat,
        WriteGrant, Xattrs, files_server::Files, namespace_server::Namespace,
    },
};
use tonic::{Request, Response, Status};

use super::{
    NodeState, Shared,
    kms::{wrap, wrap_hadoop},
    now_ms,
};

/// A file, written or being written. Tests change it as a hostile service would.
#[derive(Clone)]
pub(crate) struct FileRecord {
    pub(crate) stat: Stat,
    pub(crate) edek: Edek,
    pub(crate) extents: Vec<Extent>,
    pub(crate) code: Bytes,
    pub(crate) generation: u64,
    pub(crate) same_since: u64,
    pub(crate) extended: RawExtended,
    /// Of a file that came as ciphertext.
    crypto_id: Bytes,
    extent: ExtentId,
    /// Of the file whose place it is to take.
    replaces: Option<Bytes>,
    /// By extent and index.
    pub(crate) blocks: BTreeMap<(ExtentId, u32), BlockPlacement>,
}

pub(crate) struct MetadataState {
    /// Of files that are created from now on.
    pub(crate) data_suite: DataSuite,
    /// Bytes of their DEKs.
    pub(crate) dek_bytes: usize,
    pub(crate) frame_bytes: u32,
    pub(crate) block_bytes: u32,
    targets: Vec<Target>,
    pub(crate) files: HashMap<Bytes, FileRecord>,
    pub(crate) open: HashMap<Bytes, FileRecord>,
    /// Calls to refuse as if the service were restarting.
    pub(crate) failing_calls: u32,
    /// Calls to refuse for good.
    pub(crate) refused_calls: u32,
    /// The capability that it gives out now.
    pub(crate) capability: Bytes,
    /// How long a grant lasts.
    pub(crate) grant_ms: u64,
    /// Blocks in one answer.
    pub(crate) page: usize,
    /// AddBlocks calls by how many blocks they brought.
    pub(crate) added: Vec<usize>,
    pub(crate) block_lists: usize,
    /// The request ids of removals, also of those that it refused.
    pub(crate) removals: Vec<Bytes>,
    /// Grants the extent again that was granted before.
    pub(crate) same_extents: bool,
    /// Lets nobody go on after a commit.
    pub(crate) lets_go: bool,
    /// Gives a second body the EDEK of the first.
    pub(crate) same_deks: bool,
    /// Is of a release that drops what ciphertext has beyond its mode.
    pub(crate) drops_extended: bool,
    /// Files that change places, one pair after another, before an ACL or attributes are told.
    pub(crate) swaps: Vec<[&'static str; 2]>,
    next_dek: u8,
}

impl MetadataState {
    pub(crate) fn new(block_bytes: u32, nodes: &[Shared<NodeState>]) -> Self {
        let target = |node: &Shared<NodeState>| {
            let node = node.lock();
            Target {
                node_id: node.id(),
                address: node.address.clone(),
            }
        };
        Self {
            data_suite: DataSuite::Gcm,
            dek_bytes: 32,
            frame_bytes: 4096,
            block_bytes,
            targets: nodes.iter().map(target).collect(),
            files: HashMap::new(),
            open: HashMap::new(),
            failing_calls: 0,
            refused_calls: 0,
            capability: Bytes::from_static(b"capability 0"),
            grant_ms: 60_000,
            page: 1024,
            added: Vec::new(),
            block_lists: 0,
            removals: Vec::new(),
            same_extents: false,
            lets_go: false,
            same_deks: false,
            drops_extended: false,
            swaps: Vec::new(),
            next_dek: 1,
        }
    }

    fn grant(&self, file: &FileRecord) -> WriteGrant {
        WriteGrant {
            file_id: file.stat.file_id.clone(),
            extent_id: file.extent.into(),
            capability: self.capability.clone(),
            expires_ms: now_ms() + self.grant_ms,
            targets: self.targets.clone(),
            replicas: 3,
            min_replicas: 2,
            edek: file.told_edek(),
        }
    }

    /// Has every file that is being written wrapped another DEK.
    pub(crate) fn swap_open_edek(&mut self, dek: &[u8; 32]) {
        for file in self.open.values_mut() {
            file.edek.wrapped = wrap(dek);
        }
    }

    fn create(&mut self, request: CreateFileRequest) -> CreatedFile {
        let dek = vec![self.next_dek; self.dek_bytes];
        self.next_dek += 1;
        let (edek_suite, wrapped) = match self.data_suite {
            DataSuite::Gcm => (EdekSuite::Kw, wrap(&dek)),
            DataSuite::CtrHdfs => (EdekSuite::Hadoop, wrap_hadoop(&dek)),
            // Is told to nobody.
            DataSuite::Plain => (EdekSuite::Kw, Bytes::new()),
        };
        let file = FileRecord {
            stat: Stat {
                path: request.path,
                kind: FileKind::File.into(),
                mode: request.mode,
                owner: "alice".to_owned(),
                file_id: FileId::generate().into(),
                zone_path: Bytes::from_static(b"/z"),
                key_name: "payroll".to_owned(),
                data_suite: self.data_suite.to_string(),
                ..Stat::default()
            },
            edek: Edek {
                key_name: "payroll".to_owned(),
                key_version: 0,
                zone_id: Bytes::from_static(&[7; 16]),
                suite: edek_suite.to_string(),
                wrapped,
            },
            extents: Vec::new(),
            code: Bytes::new(),
            generation: 0,
            same_since: 0,
            extended: RawExtended::default(),
            crypto_id: Bytes::new(),
            extent: ExtentId::generate(),
            replaces: None,
            blocks: BTreeMap::new(),
        };
        let created = CreatedFile {
            grant: Some(self.grant(&file)),
            edek: file.told_edek(),
            data_suite: self.data_suite.to_string(),
            frame_bytes: self.frame_bytes,
            block_bytes: self.block_bytes,
        };
        self.open.insert(file.stat.file_id.clone(), file);
        created
    }

    /// A second body, under the next DEK, or under the same one if the stand-in is told to.
    fn rewrite(&mut self, path: &Bytes) -> Result<RewritingFile, Failure> {
        let opened = self.opened(path)?;
        let first = self.files.get(path).ok_or_else(missing)?.clone();
        let mut body = self.create(CreateFileRequest {
            path: path.clone(),
            ..CreateFileRequest::default()
        });
        let id = body
            .grant
            .as_ref()
            .map(|grant| grant.file_id.clone())
            .unwrap_or_default();
        let open = self.open.get_mut(&id).ok_or_else(lost)?;
        open.replaces = Some(path.clone());
        open.generation = first.generation;
        if self.same_deks {
            open.edek = first.edek;
            body.edek = Some(open.edek.clone());
        }
        Ok(RewritingFile {
            file: Some(opened),
            body: Some(body),
        })
    }

    fn add(&mut self, request: AddBlocksRequest) -> Result<WriteGrant, Failure> {
        self.added.push(request.blocks.len());
        let file = self.open.get_mut(&request.file_id).ok_or_else(lost)?;
        file.record(request.first_index, request.blocks);
        let file = file.clone();
        Ok(self.grant(&file))
    }

    fn commit(&mut self, request: CommitFileRequest) -> Result<CommittedFile, Failure> {
        let is_its = |file: &FileRecord| Bytes::from(file.extent) == request.extent_id;
        if !self.open.get(&request.file_id).is_some_and(is_its) {
            return Err(lost());
        }
        let mut file = self.open.remove(&request.file_id).ok_or_else(lost)?;
        assert_eq!(request.generation, file.generation + 1, "a successor");
        file.record(request.first_index, request.blocks);
        file.stat.length = request.extents.iter().map(|extent| extent.visible).sum();
        file.stat.blocks = file.blocks.len() as u32;
        file.stat.mtime_ms = request.mtime_ms;
        file.extents = request.extents;
        file.code = request.manifest_mac;
        file.generation = request.generation;
        file.same_since = request.generation;
        if let Some(replaced) = file.replaces.take() {
            let first = self.files.get(&replaced).ok_or_else(lost)?;
            file.same_since = first.same_since;
            file.stat.file_id = first.stat.file_id.clone();
        }
        self.files.insert(file.stat.path.clone(), file.clone());
        Ok(CommittedFile {
            stat: Some(file.stat.clone()),
            grant: (request.go_on && !self.lets_go).then(|| self.open_again(file)),
        })
    }

    fn open_again(&mut self, mut file: FileRecord) -> WriteGrant {
        if !self.same_extents {
            file.extent = ExtentId::generate();
        }
        let grant = self.grant(&file);
        self.open.insert(file.stat.file_id.clone(), file);
        grant
    }

    fn reopen(&mut self, path: &Bytes) -> Result<ReopenedFile, Failure> {
        let opened = self.opened(path)?;
        let file = self.files.get(path).ok_or_else(missing)?.clone();
        if self.open.contains_key(&file.stat.file_id) {
            return Err(Failure::new(Reason::LeaseHeld, "somebody writes it"));
        }
        Ok(ReopenedFile {
            file: Some(opened),
            grant: Some(self.open_again(file)),
        })
    }

    fn recover(&mut self, path: &Bytes) -> Result<RecoverFileResponse, Failure> {
        let file = self.files.get(path).ok_or_else(missing)?;
        let writer = self.open.remove(&file.stat.file_id).map(|open| open.stat.owner);
        Ok(RecoverFileResponse {
            writer: writer.unwrap_or_default(),
        })
    }

    fn open_file(&self, request: &OpenFileRequest) -> Result<OpenedFile, Failure> {
        let by_id = self.files.iter().find(|(_, file)| file.stat.file_id == request.file_id);
        self.opened(by_id.map_or(&request.path, |(path, _)| path))
    }

    fn opened(&self, path: &Bytes) -> Result<OpenedFile, Failure> {
        let file = self.files.get(path).ok_or_else(missing)?;
        let first = file.extents.first().map(extent_id);
        Ok(OpenedFile {
            stat: Some(file.stat.clone()),
            edek: file.told_edek(),
            frame_bytes: self.frame_bytes,
            block_bytes: self.block_bytes,
            extents: file.extents.clone(),
            manifest_mac: file.code.clone(),
            generation: file.generation,
            same_since: file.same_since,
            crypto_id: file.crypto_id.clone(),
            blocks: first.map(|extent| self.block_list(file, extent, 0)),
        })
    }

    fn blocks(&mut self, request: &ListBlocksRequest) -> Result<ListBlocksResponse, Failure> {
        self.block_lists += 1;
        let file = self.files.values().find(|file| file.stat.file_id == request.file_id);
        let extent = request.extent_id.as_ref().try_into().expect("an extent's id");
        Ok(self.block_list(file.ok_or_else(missing)?, extent, request.first_index))
    }

    fn block_list(&self, file: &FileRecord, extent: ExtentId, first: u32) -> ListBlocksResponse {
        let known = file.extents.iter().find(|known| extent_id(known) == extent);
        let shown = known.map_or(0, |known| known.visible.div_ceil(u64::from(self.block_bytes)) as usize);
        ListBlocksResponse {
            blocks: file
                .blocks
                .range((extent, 0)..=(extent, u32::MAX))
                .take(shown)
                .skip(first as usize)
                .take(self.page)
                .map(|(_, block)| block.clone())
                .collect(),
            capability: self.capability.clone(),
            expires_ms: now_ms() + self.grant_ms,
            nodes: self.targets.clone(),
        }
    }
}

impl FileRecord {
    /// What is not encrypted has none.
    fn told_edek(&self) -> Option<Edek> {
        (self.stat.data_suite != DataSuite::Plain.as_str()).then(|| self.edek.clone())
    }

    fn record(&mut self, first: u32, blocks: Vec<BlockPlacement>) {
        let extent = self.extent;
        self.blocks.extend((first..).map(|index| (extent, index)).zip(blocks));
    }
}

fn extent_id(extent: &Extent) -> ExtentId {
    extent.extent_id.as_ref().try_into().expect("an extent's id")
}

fn lost() -> Failure {
    Failure::new(Reason::LeaseLost, "the file is not being written")
}

fn missing() -> Failure {
    Failure::new(Reason::NotFound, "nothing is there")
}

#[derive(Clone)]
pub(crate) struct Metadata {
    state: Shared<MetadataState>,
}

impl Metadata {
    pub(crate) fn new(state: Shared<MetadataState>) -> Self {
        Self { state }
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, MetadataState> {
        self.state.lock()
    }

    /// Changes a written file.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut FileRecord)) {
        let mut state = self.lock();
        change(state.files.get_mut(path.as_bytes()).expect("a written file"));
    }

    fn answer<T>(&self, act: impl FnOnce(&mut MetadataState) -> Result<T, Failure>) -> Result<Response<T>, Status> {
        let mut state = self.lock();
        if state.failing_calls > 0 {
            state.failing_calls -= 1;
            return Err(Failure::new(Reason::Unavailable, "restarting").into());
        }
        if state.refused_calls > 0 {
            state.refused_calls -= 1;
            return Err(Failure::new(Reason::StoreFailed, "the disk failed").into());
        }
        Ok(Response::new(act(&mut state)?))
    }
}

#[tonic::async_trait]
impl Files for Metadata {
    async fn create_file(&self, request: Request<CreateFileRequest>) -> Result<Response<CreatedFile>, Status> {
        self.answer(|state| Ok(state.create(request.into_inner())))
    }

    async fn add_blocks(&self, request: Request<AddBlocksRequest>) -> Result<Response<WriteGrant>, Status> {
        self.answer(|state| state.add(request.into_inner()))
    }

    async fn commit_file(&self, request: Request<CommitFileRequest>) -> Result<Response<CommittedFile>, Status> {
        self.answer(|state| state.commit(request.into_inner()))
    }

    async fn reopen_file(&self, request: Request<ReopenFileRequest>) -> Result<Response<ReopenedFile>, Status> {
        self.answer(|state| state.reopen(&request.into_inner().path))
    }

    async fn rewrite_file(&self, request: Request<RewriteFileRequest>) -> Result<Response<RewritingFile>, Status> {
        self.answer(|state| state.rewrite(&request.into_inner().path))
    }

    async fn recover_file(
        &self,
        request: Request<RecoverFileRequest>,
    ) -> Result<Response<RecoverFileResponse>, Status> {
        self.answer(|state| state.recover(&request.into_inner().path))
    }

    async fn abandon_file(
        &self,
        request: Request<AbandonFileRequest>,
    ) -> Result<Response<AbandonFileResponse>, Status> {
        self.answer(|state| {
            let request = request.into_inner();
            let is_its = |file: &FileRecord| Bytes::from(file.extent) == request.extent_id;
            if state.open.get(&request.file_id).is_some_and(is_its) {
                state.open.remove(&request.file_id);
            }
            Ok(AbandonFileResponse {})
        })
    }

    async fn open_file(&self, request: Request<OpenFileRequest>) -> Result<Response<OpenedFile>, Status> {
        self.answer(|state| state.open_file(request.get_ref()))
    }

    async fn list_blocks(&self, request: Request<ListBlocksRequest>) -> Result<Response<ListBlocksResponse>, Status> {
        self.answer(|state| state.blocks(&request.into_inner()))
    }
}

#[tonic::async_trait]
impl Namespace for Metadata {
    async fn get_stat(&self, request: Request<GetStatRequest>) -> Result<Response<Stat>, Status> {
        self.answer(|state| {
            let file = state.files.get(&request.into_inner().path);
            file.map(|file| file.stat.clone()).ok_or_else(missing)
        })
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let asked = request.into_inner();
        self.lock().removals.push(asked.request_id.clone());
        self.answer(|state| {
            let file = state.files.remove(&asked.path);
            file.map(|_| RemoveResponse::default()).ok_or_else(missing)
        })
    }

    async fn make_directory(&self, _: Request<MakeDirectoryRequest>) -> Result<Response<Stat>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn rename(&self, _: Request<RenameRequest>) -> Result<Response<Stat>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn get_acl(&self, request: Request<GetAclRequest>) -> Result<Response<Acl>, Status> {
        self.answer(|state| {
            state.swap();
            let file = state.files.get(&request.into_inner().path).ok_or_else(missing)?;
            Ok(Acl {
                stat: Some(file.stat.clone()),
                entries: file.extended.acl.clone(),
            })
        })
    }

    async fn set_quota(&self, _: Request<SetQuotaRequest>) -> Result<Response<Quotas>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn get_quotas(&self, _: Request<GetQuotasRequest>) -> Result<Response<Quotas>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn set_xattr(&self, _: Request<SetXattrRequest>) -> Result<Response<Stat>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn get_xattrs(&self, request: Request<GetXattrsRequest>) -> Result<Response<Xattrs>, Status> {
        self.answer(|state| {
            state.swap();
            let file = state.files.get(&request.into_inner().path).ok_or_else(missing)?;
            Ok(Xattrs {
                xattrs: file.extended.xattrs.clone(),
            })
        })
    }

    async fn set_acl(&self, _: Request<SetAclRequest>) -> Result<Response<Acl>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn set_attributes(&self, _: Request<SetAttributesRequest>) -> Result<Response<Stat>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}
