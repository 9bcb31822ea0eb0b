//! Files that are brought in as ciphertext.

use std::collections::BTreeMap;

use bytes::Bytes;
use strongroom_proto::{
    ExtentId, Failure, FileId,
    metadata::v1::{
        AclEntry, AclKind, CommitRawRequest, CreateRawRequest, CreatedRaw, Extent, FileKind, RawExtended, Stat,
        raw_server::Raw,
    },
};
use tonic::{Request, Response, Status};

use super::{FileRecord, Metadata, MetadataState, lost};

impl MetadataState {
    /// Has two files change places, if there are any left that are to.
    pub(super) fn swap(&mut self) {
        let Some(paths) = self.swaps.pop() else { return };
        let [one, other] = paths.map(|path| self.files.remove(path.as_bytes()).expect("a written file"));
        for (path, mut file) in paths.into_iter().zip([other, one]) {
            file.stat.path = path.into();
            self.files.insert(path.into(), file);
        }
    }

    /// Of one extent, whose blocks are recorded under an id of its own here.
    fn create_raw(&mut self, request: CreateRawRequest) -> CreatedRaw {
        let file = request.file.expect("a file");
        let extent = ExtentId::generate();
        let stored = |sealed: Extent| Extent {
            extent_id: extent.into(),
            sealed_as: sealed.extent_id,
            ..sealed
        };
        assert!(file.extents.len() <= 1, "others are not needed here");
        let record = FileRecord {
            stat: Stat {
                path: request.path,
                kind: FileKind::File.into(),
                length: file.length,
                mode: file.mode,
                owner: file.owner,
                group: file.group,
                mtime_ms: file.mtime_ms,
                file_id: FileId::generate().into(),
                zone_path: Bytes::from_static(b"/z"),
                key_name: "payroll".to_owned(),
                data_suite: file.data_suite,
                ..Stat::default()
            },
            edek: file.edek.expect("an EDEK"),
            extents: file.extents.into_iter().map(stored).collect(),
            code: file.manifest_mac,
            generation: file.generation,
            same_since: file.generation,
            extended: RawExtended::default(),
            crypto_id: file.crypto_id,
            extent,
            replaces: None,
            blocks: BTreeMap::new(),
        };
        let created = CreatedRaw {
            grant: Some(self.grant(&record)),
            extent_ids: vec![extent.into()],
        };
        self.open.insert(record.stat.file_id.clone(), record);
        created
    }

    fn commit_raw(&mut self, request: CommitRawRequest) -> Result<Stat, Failure> {
        let mut file = self.open.remove(&request.file_id).ok_or_else(lost)?;
        file.stat.blocks = file.blocks.len() as u32;
        if let Some(extended) = request.extended.filter(|_| !self.drops_extended) {
            file.apply(extended);
        }
        self.files.insert(file.stat.path.clone(), file.clone());
        Ok(file.stat)
    }
}

impl FileRecord {
    /// As the service does it: the ACL says the mode, of which the group's bits are the mask, and three entries are no more than a mode.
    pub(crate) fn apply(&mut self, extended: RawExtended) {
        let of = |kind: AclKind| {
            let is_it = |entry: &&AclEntry| entry.kind() == kind && entry.name.is_empty();
            extended.acl.iter().find(is_it).map(|entry| entry.rights)
        };
        let group = of(AclKind::Mask).or_else(|| of(AclKind::Group));
        if let (Some(owner), Some(group), Some(other)) = (of(AclKind::User), group, of(AclKind::Other)) {
            self.stat.mode = self.stat.mode & !0o777 | owner << 6 | group << 3 | other;
        }
        self.stat.has_acl = extended.acl.len() > 3;
        self.extended = extended;
        if !self.stat.has_acl {
            self.extended.acl.clear();
        }
    }
}

#[tonic::async_trait]
impl Raw for Metadata {
    async fn create_raw(&self, request: Request<CreateRawRequest>) -> Result<Response<CreatedRaw>, Status> {
        self.answer(|state| Ok(state.create_raw(request.into_inner())))
    }

    async fn commit_raw(&self, request: Request<CommitRawRequest>) -> Result<Response<Stat>, Status> {
        self.answer(|state| state.commit_raw(request.into_inner()))
    }
}
