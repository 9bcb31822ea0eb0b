//! ZoneFs: the zone filesystem's client, the one place where a DEK meets data.
//!
//! The metadata service says where a file is and hands out its EDEK; the key service unwraps that into the DEK;
//! block nodes store ciphertext. Here the bytes are sealed and opened, placed on the nodes and found again. A DEK
//! lives only while a file is being opened: extent keys and the manifest's key are derived from it at once.

mod acl;
mod attributes;
mod block_map;
mod encryption_info;
mod error;
mod extent_writer;
mod fsck;
mod jobs;
mod lease;
mod metadata;
mod nodes;
mod opening;
mod plain;
mod quotas;
mod random;
mod raw;
mod reader;
mod replicate;
mod rewrite;
mod rewriting;
mod stream;
mod suite;
mod transfer;
mod trash;
mod values;
mod writer;
mod xattrs;
mod zone_fs;

pub use acl::{Acl, AclChange, AclEntry, AclError, AclTag};
pub use attributes::{AdoptOptions, Attributes, ZoneOptions};
pub use encryption_info::{CipherSuite, CryptoProtocolVersion, EncryptionInfo};
pub use error::{FsError, NodeTrouble};
pub use fsck::{FsckFinding, FsckKind, FsckOptions, FsckSummary, StoredBlock, Unaccounted};
pub use jobs::{Job, JobAction, JobKind, JobState};
pub use quotas::{Quota, QuotaLimit};
pub use raw::{HDFS_ATTRIBUTE, RawBlock, RawDirectory, RawError, RawHeader, RawReader, RawWriter};
pub use reader::FileReader;
pub use rewriting::{RewriteOptions, Rewriting, RewritingKind};
pub use stream::ByteStream;
pub use transfer::TransferProgress;
pub use trash::{Expunged, Kept, Removed};
pub use values::{
    Adoption, ClusterStatus, Cursor, Entry, FileKind, NodeStatus, Page, Reencryption, ReencryptionState, Stat,
    VersionCount, Zone,
};
pub use writer::{CreateOptions, FileWriter};
pub use zone_fs::ZoneFs;
