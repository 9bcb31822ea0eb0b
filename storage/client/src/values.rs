//! What the metadata service's answers become: typed, and ready to be printed as JSON.

use std::fmt::Display;

use serde::{Serialize, Serializer};
use strongroom_proto::{
    DataSuite, EdekSuite, FileId, FrameSize, JobId, KeyName, KeyVersion, NodeId, ParseError, ZoneId, ZonePath,
    metadata::v1 as pb,
};

use crate::FsError;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

impl TryFrom<pb::FileKind> for FileKind {
    type Error = FsError;

    fn try_from(wire: pb::FileKind) -> Result<Self, FsError> {
        match wire {
            pb::FileKind::Directory => Ok(Self::Directory),
            pb::FileKind::File => Ok(Self::File),
            pb::FileKind::Unspecified => Err(FsError::metadata_contradiction("it names no kind of file")),
        }
    }
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// Where it is.
    #[serde(serialize_with = "text")]
    pub path: ZonePath,
    /// What it is.
    pub kind: FileKind,
    /// Plaintext bytes; 0 for a directory.
    pub length: u64,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// The user whose it is.
    pub owner: String,
    /// The group whose members the middle permission bits are for.
    pub group: String,
    /// Last change, in milliseconds since the Unix epoch; a directory's is not changed by what comes and goes in it.
    pub mtime_ms: u64,
    /// Its id, which a rename keeps.
    #[serde(serialize_with = "text")]
    pub file_id: FileId,
    /// Root of the zone that it is in.
    #[serde(serialize_with = "optional_text")]
    pub zone_path: Option<ZonePath>,
    /// Whether it is that root.
    pub zone_root: bool,
    /// Whether there are permissions beyond the mode.
    pub has_acl: bool,
    /// Files only, and not of those that are not encrypted: the EZ key that wraps the EDEK.
    #[serde(serialize_with = "optional_text")]
    pub key_name: Option<KeyName>,
    /// Files only: that key's version.
    #[serde(serialize_with = "optional_version")]
    pub key_version: Option<KeyVersion>,
    /// Files only: how bytes are encrypted.
    #[serde(serialize_with = "optional_text")]
    pub data_suite: Option<DataSuite>,
    /// Files only: blocks.
    pub blocks: u32,
    /// Files only: blocks with fewer replicas than wanted.
    pub blocks_in_deficit: u32,
}

impl TryFrom<pb::Stat> for Stat {
    type Error = FsError;

    fn try_from(wire: pb::Stat) -> Result<Self, FsError> {
        let kind = wire.kind().try_into()?;
        Self::parse(wire, kind).map_err(FsError::metadata_answer)
    }
}

impl Stat {
    fn parse(wire: pb::Stat, kind: FileKind) -> Result<Self, ParseError> {
        let is_file = kind == FileKind::File;
        let data_suite: Option<DataSuite> = is_file.then(|| wire.data_suite.parse()).transpose()?;
        let has_edek = data_suite.is_some_and(|suite| suite != DataSuite::Plain);
        Ok(Self {
            path: ZonePath::parse(&wire.path)?,
            kind,
            length: wire.length,
            mode: wire.mode & 0o7777,
            owner: wire.owner,
            group: wire.group,
            mtime_ms: wire.mtime_ms,
            file_id: wire.file_id.as_ref().try_into()?,
            zone_path: (!wire.zone_path.is_empty())
                .then(|| ZonePath::parse(&wire.zone_path))
                .transpose()?,
            zone_root: wire.zone_root,
            has_acl: wire.has_acl,
            key_name: has_edek.then(|| wire.key_name.parse()).transpose()?,
            key_version: has_edek.then_some(KeyVersion(wire.key_version)),
            data_suite,
            blocks: wire.blocks,
            blocks_in_deficit: wire.blocks_in_deficit,
        })
    }
}

/// What a listing says of a file or directory; [`Stat`] says more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name in the directory: one name that [`ZonePath::child`] takes.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Plaintext bytes; 0 for a directory.
    pub length: u64,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// The user whose it is.
    pub owner: String,
    /// The group whose members the middle permission bits are for.
    pub group: String,
    /// Last change, in milliseconds since the Unix epoch.
    pub mtime_ms: u64,
    /// Its id, which a rename keeps.
    #[serde(serialize_with = "text")]
    pub file_id: FileId,
    /// Whether it is the root of a zone.
    pub zone_root: bool,
    /// Files only: blocks.
    pub blocks: u32,
    /// Whether there are permissions beyond the mode.
    pub has_acl: bool,
    /// A file that is not encrypted.
    pub plain: bool,
}

impl TryFrom<pb::Entry> for Entry {
    type Error = FsError;

    fn try_from(wire: pb::Entry) -> Result<Self, FsError> {
        // What is written locally is named after it.
        ZonePath::root().child(&wire.name).map_err(FsError::metadata_answer)?;
        Ok(Self {
            kind: wire.kind().try_into()?,
            name: wire.name,
            length: wire.length,
            mode: wire.mode & 0o7777,
            owner: wire.owner,
            group: wire.group,
            mtime_ms: wire.mtime_ms,
            file_id: wire.file_id.as_ref().try_into().map_err(FsError::metadata_answer)?,
            zone_root: wire.zone_root,
            blocks: wire.blocks,
            has_acl: wire.has_acl,
            plain: wire.plain,
        })
    }
}

/// The entry that a listing of its directory would show.
impl From<Stat> for Entry {
    fn from(stat: Stat) -> Self {
        Self {
            name: stat.path.split_last().map_or("/", |(_, name)| name).to_owned(),
            kind: stat.kind,
            length: stat.length,
            mode: stat.mode,
            owner: stat.owner,
            group: stat.group,
            mtime_ms: stat.mtime_ms,
            file_id: stat.file_id,
            zone_root: stat.zone_root,
            blocks: stat.blocks,
            has_acl: stat.has_acl,
            plain: stat.data_suite == Some(DataSuite::Plain),
        }
    }
}

/// Part of a directory, in name order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What is in it.
    pub entries: Vec<Entry>,
    /// Where the next page begins; none after the last.
    pub next: Option<Cursor>,
}

/// Where a page of a listing begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) directory: FileId,
    pub(crate) after: String,
}

impl TryFrom<pb::ListResponse> for Page {
    type Error = FsError;

    fn try_from(wire: pb::ListResponse) -> Result<Self, FsError> {
        let directory = wire
            .directory_id
            .as_ref()
            .try_into()
            .map_err(FsError::metadata_answer)?;
        let entries: Vec<Entry> = wire
            .entries
            .into_iter()
            .map(Entry::try_from)
            .collect::<Result<_, _>>()?;
        let last = entries.last().filter(|_| wire.more).map(|last| last.name.clone());
        Ok(Self {
            entries,
            next: last.map(|after| Cursor { directory, after }),
        })
    }
}

/// An encryption zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// Its id, which a rename keeps.
    #[serde(serialize_with = "text")]
    pub zone_id: ZoneId,
    /// Its root.
    #[serde(serialize_with = "text")]
    pub path: ZonePath,
    /// Its EZ key.
    #[serde(serialize_with = "text")]
    pub key_name: KeyName,
    /// How EDEKs are wrapped.
    #[serde(serialize_with = "text")]
    pub edek_suite: EdekSuite,
    /// How bytes are encrypted.
    #[serde(serialize_with = "text")]
    pub data_suite: DataSuite,
    /// Plaintext bytes of a frame, which is what can be read alone.
    #[serde(rename = "frame_bytes", serialize_with = "frame_bytes")]
    pub frame: FrameSize,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Files by the key version that their EDEK uses.
    pub files: Vec<VersionCount>,
    /// Pre-minted EDEKs in stock.
    pub edeks_in_stock: u32,
    /// How what its directory held before it was a zone comes to be encrypted, if it held something.
    pub adoption: Option<Adoption>,
    /// Where files are that it has yet to encrypt, the first 100 of them that the user may know of. Told of one zone alone.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "texts")]
    pub not_encrypted: Vec<ZonePath>,
}

/// How far a zone is that was made of a directory that held something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// All files that are not encrypted were looked at: `left` is known.
    pub looked: bool,
    /// Files in the zone that are not encrypted, as far as they are known.
    pub left: u64,
    /// Every file in the zone is encrypted, and stays so, unless `fsck` finds a defect.
    pub ended: bool,
}

/// How many files' EDEKs use one key version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VersionCount {
    /// The version.
    #[serde(serialize_with = "version")]
    pub key_version: KeyVersion,
    /// Files; not 0.
    pub files: u64,
}

impl TryFrom<pb::Zone> for Zone {
    type Error = FsError;

    fn try_from(wire: pb::Zone) -> Result<Self, FsError> {
        Self::parse(wire).map_err(FsError::metadata_answer)
    }
}

impl Zone {
    fn parse(wire: pb::Zone) -> Result<Self, ParseError> {
        let count = |count: pb::VersionCount| VersionCount {
            key_version: KeyVersion(count.key_version),
            files: count.files,
        };
        Ok(Self {
            zone_id: wire.zone_id.as_ref().try_into()?,
            path: ZonePath::parse(&wire.path)?,
            key_name: wire.key_name.parse()?,
            edek_suite: wire.edek_suite.parse()?,
            data_suite: wire.data_suite.parse()?,
            frame: FrameSize::from_wire(wire.frame_bytes)?,
            created_ms: wire.created_ms,
            files: wire.files.into_iter().map(count).collect(),
            edeks_in_stock: wire.edeks_in_stock,
            adoption: wire.adoption.map(|adoption| Adoption {
                looked: adoption.looked,
                left: adoption.left,
                ended: adoption.ended,
            }),
            not_encrypted: wire
                .not_encrypted
                .iter()
                .map(|path| ZonePath::parse(path))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// How far a zone's re-encryption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReencryptionState {
    /// None was ever asked for.
    None,
    /// EDEKs are being re-wrapped.
    Running,
    /// All that could be re-wrapped is.
    Completed,
    /// It waits to be resumed.
    Paused,
    /// A superuser ended it.
    Canceled,
}

/// A zone's re-encryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reencryption {
    /// The zone's root.
    #[serde(serialize_with = "text")]
    pub zone_path: ZonePath,
    /// How far it is.
    pub state: ReencryptionState,
    /// The version that EDEKs are wrapped under anew.
    #[serde(serialize_with = "version")]
    pub target_version: KeyVersion,
    /// Files done.
    pub files_done: u64,
    /// Files that kept their old EDEK because it could not be re-wrapped.
    pub failures: u64,
    /// Files to do.
    pub files_left: u64,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it was completed.
    pub finished_ms: Option<u64>,
    /// What stops or slows it, empty when nothing does.
    pub message: String,
    /// Its job.
    #[serde(serialize_with = "optional_text")]
    pub job_id: Option<JobId>,
    /// The zone's key.
    pub key_name: String,
    /// The last file dealt with, if it is still there.
    pub last_file: Option<String>,
    /// Files a second, at most; 0 is no bound.
    pub throttle: u32,
    /// Files done in a second, since it was started or resumed; 0 unless it runs.
    pub rate: u64,
    /// What it will take at that rate.
    pub seconds_left: Option<u64>,
}

impl TryFrom<pb::Reencryption> for Reencryption {
    type Error = FsError;

    fn try_from(wire: pb::Reencryption) -> Result<Self, FsError> {
        let state = match wire.state() {
            pb::ReencryptionState::None => ReencryptionState::None,
            pb::ReencryptionState::Running => ReencryptionState::Running,
            pb::ReencryptionState::Completed => ReencryptionState::Completed,
            pb::ReencryptionState::Paused => ReencryptionState::Paused,
            pb::ReencryptionState::Canceled => ReencryptionState::Canceled,
            pb::ReencryptionState::Unspecified => {
                return Err(FsError::metadata_contradiction(
                    "it names no state of the re-encryption",
                ));
            }
        };
        Ok(Self {
            zone_path: ZonePath::parse(&wire.zone_path).map_err(FsError::metadata_answer)?,
            state,
            target_version: KeyVersion(wire.target_version),
            files_done: wire.files_done,
            failures: wire.failures,
            files_left: wire.files_left,
            started_ms: wire.started_ms,
            finished_ms: wire.finished_ms,
            message: wire.message,
            job_id: match wire.job_id.as_ref() {
                [] => None,
                id => Some(id.try_into().map_err(FsError::metadata_answer)?),
            },
            key_name: wire.key_name,
            last_file: Some(String::from_utf8_lossy(&wire.last_file).into_owned()).filter(|path| !path.is_empty()),
            throttle: wire.throttle,
            rate: wire.rate,
            seconds_left: wire.seconds_left,
        })
    }
}

/// The block nodes and what is to be done on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Every node that ever registered.
    pub nodes: Vec<NodeStatus>,
    /// Blocks with fewer replicas than wanted.
    pub blocks_in_deficit: u64,
    /// Replicas that are to be deleted.
    pub blocks_to_delete: u64,
    /// Files being written.
    pub files_open: u64,
    /// Whether a superuser said that what nothing needs is deleted, however much it is, and that is not done yet.
    pub deleting_strays: bool,
}

/// A block node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its id.
    #[serde(serialize_with = "text")]
    pub node_id: NodeId,
    /// `host:port`.
    pub address: String,
    /// Whether it reported lately.
    pub alive: bool,
    /// Bytes of its disks.
    pub capacity_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Blocks it has.
    pub blocks: u64,
    /// When it reported last, in milliseconds since the Unix epoch.
    pub last_seen_ms: u64,
    /// Blocks on it that nothing needs, and that are kept: because they are too many to be only left over, or until all nodes have told
    /// what they have.
    pub strays: u64,
    /// Files that its disk could not read when it told last what it has.
    pub unreadable: u64,
    /// Whether it did not tell all that it has when it was asked last.
    pub untold: bool,
}

impl TryFrom<pb::ClusterStatus> for ClusterStatus {
    type Error = FsError;

    fn try_from(wire: pb::ClusterStatus) -> Result<Self, FsError> {
        let nodes = wire.nodes.into_iter().map(NodeStatus::parse);
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>().map_err(FsError::metadata_answer)?,
            blocks_in_deficit: wire.blocks_in_deficit,
            blocks_to_delete: wire.blocks_to_delete,
            files_open: wire.files_open,
            deleting_strays: wire.deleting_strays,
        })
    }
}

impl NodeStatus {
    fn parse(wire: pb::NodeStatus) -> Result<Self, ParseError> {
        Ok(Self {
            node_id: wire.node_id.parse()?,
            address: wire.address,
            alive: wire.alive,
            capacity_bytes: wire.capacity_bytes,
            free_bytes: wire.free_bytes,
            blocks: wire.blocks,
            last_seen_ms: wire.last_seen_ms,
            strays: wire.strays,
            unreadable: wire.unreadable,
            untold: wire.untold,
        })
    }
}

pub(crate) fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn texts<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

fn optional_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn version<S: Serializer>(value: &KeyVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(value.0)
}

fn frame_bytes<S: Serializer>(value: &FrameSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(value.bytes())
}

fn optional_version<S: Serializer>(value: &Option<KeyVersion>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.serialize_u32(value.0),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn file() -> pb::Stat {
        pb::Stat {
            path: Bytes::from_static(b"/z/a"),
            kind: pb::FileKind::File.into(),
            length: 5,
            mode: 0o640,
            owner: "alice".to_owned(),
            group: "hr".to_owned(),
            mtime_ms: 7,
            file_id: Bytes::from_static(&[0xab; 16]),
            zone_path: Bytes::from_static(b"/z"),
            key_name: "payroll".to_owned(),
            key_version: 3,
            data_suite: "gcm".to_owned(),
            blocks: 1,
            ..pb::Stat::default()
        }
    }

    #[test]
    fn a_file_and_a_directory_print_as_json() {
        let stat = Stat::try_from(file()).expect("valid");
        let printed = serde_json::to_value(stat).expect("JSON");
        let expected = json!({
            "path": "/z/a", "kind": "file", "length": 5, "mode": 0o640, "owner": "alice", "group": "hr",
            "mtime_ms": 7, "file_id": "ab".repeat(16), "zone_path": "/z", "zone_root": false, "has_acl": false, "key_name": "payroll",
            "key_version": 3, "data_suite": "gcm", "blocks": 1, "blocks_in_deficit": 0,
        });
        assert_eq!(printed, expected);
        let directory = pb::Stat {
            kind: pb::FileKind::Directory.into(),
            zone_path: Bytes::new(),
            key_name: String::new(),
            data_suite: String::new(),
            ..file()
        };
        let stat = Stat::try_from(directory).expect("valid");
        assert_eq!((stat.zone_path, stat.key_name, stat.data_suite), (None, None, None));
    }

    /// Sizes are parsed by one crate and used by another, which does not know it.
    #[test]
    fn every_frame_size_of_a_zone_has_a_geometry() {
        use strongroom_dataplane::{BLOCK_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, Geometry, Suite};
        for bytes in (1..=FRAME_BYTES_MAX.ilog2() + 1).map(|bits| 1 << bits) {
            let is_size = FrameSize::from_wire(bytes).is_ok();
            assert_eq!(is_size, (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&bytes), "{bytes}");
            assert_eq!(
                is_size,
                Geometry::new(Suite::Gcm, bytes, BLOCK_BYTES_MAX).is_ok(),
                "{bytes}"
            );
        }
    }

    #[test]
    fn a_listing_cannot_name_what_is_not_in_its_directory() {
        let page = |name: &str| {
            Page::try_from(pb::ListResponse {
                entries: vec![pb::Entry {
                    name: name.to_owned(),
                    kind: pb::FileKind::File.into(),
                    file_id: Bytes::from_static(&[1; 16]),
                    ..pb::Entry::default()
                }],
                more: true,
                directory_id: Bytes::from_static(&[2; 16]),
            })
        };
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            assert!(page(name).is_err(), "{name:?} passes");
        }
        let page = page("a").expect("a plain name");
        assert_eq!(page.next.map(|next| next.after).as_deref(), Some("a"));
    }

    #[test]
    fn answers_that_break_the_contract_are_refused() {
        let changes: [fn(&mut pb::Stat); 6] = [
            |stat| stat.kind = 0,
            |stat| stat.path = Bytes::from_static(b"z/a"),
            |stat| stat.path = Bytes::from_static(b"/z/../etc"),
            |stat| stat.file_id = Bytes::from_static(&[1; 15]),
            |stat| stat.key_name = String::new(),
            |stat| stat.data_suite = "rot13".to_owned(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut stat = file();
            change(&mut stat);
            assert!(Stat::try_from(stat).is_err(), "change {i} passes");
        }
    }
}
