//! What is stored: keys, records, and typed access to both within a transaction.

pub(crate) mod access;
pub(crate) mod counted;
pub(crate) mod keys;

/// The stored records, generated from `proto/records.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub(crate) mod records {
    include!(concat!(env!("OUT_DIR"), "/strongroom.metadata.records.v1.rs"));
}

use bytes::Bytes;
use strongroom_proto::{DataSuite, Edek, ExtentId, FileId, JobId, KeyVersion, ParseError, ZoneId, transport::UserName};

/// Block nodes of a cluster.
pub(crate) const NODES_MAX: usize = 5000;

/// The inode `/`.
pub(crate) const ROOT: FileId = FileId::from_bytes([0; 16]);

impl records::Entry {
    pub(crate) const fn is_directory(&self) -> bool {
        self.file.is_none()
    }

    pub(crate) fn file_id(&self) -> Result<FileId, ParseError> {
        self.id.as_ref().try_into()
    }

    /// The zone that this directory is the root of.
    pub(crate) fn zone(&self) -> Result<Option<ZoneId>, ParseError> {
        if self.zone_id.is_empty() {
            return Ok(None);
        }
        self.zone_id.as_ref().try_into().map(Some)
    }

    /// The job that moves this directory to another zone.
    pub(crate) fn moving(&self) -> Result<Option<JobId>, ParseError> {
        if self.moving.is_empty() {
            return Ok(None);
        }
        self.moving.as_ref().try_into().map(Some)
    }
}

impl records::Extent {
    pub(crate) fn id(&self) -> Result<ExtentId, ParseError> {
        self.extent_id.as_ref().try_into()
    }
}

impl records::PurgeExtent {
    /// Whether blocks are left to delete.
    pub(crate) const fn is_left(&self) -> bool {
        self.blocks > self.first
    }
}

impl records::Body {
    /// The EDEK for a zone: a file that moves to another one has two.
    pub(crate) fn edek_of_mut(&mut self, zone: ZoneId) -> Option<&mut records::Edek> {
        let staged = self.staged.as_mut().and_then(|staged| staged.edek.as_mut());
        let mut edeks = self.edek.as_mut().into_iter().chain(staged);
        edeks.find(|edek| edek.zone_id.as_ref() == zone.as_bytes())
    }

    pub(crate) fn extent_ids(&self) -> Result<Vec<ExtentId>, ParseError> {
        self.extents.iter().map(records::Extent::id).collect()
    }

    /// What the file's entry says of it.
    pub(crate) fn size(&self) -> records::Size {
        records::Size {
            length: self.extents.iter().map(|extent| extent.visible).sum(),
            blocks: self.extents.iter().map(|extent| self.shown_blocks(extent)).sum(),
            plain: self.plain.is_some(),
        }
    }

    /// Blocks of an extent that have a byte of the file. Those behind them are deleted.
    pub(crate) fn shown_blocks(&self, extent: &records::Extent) -> u32 {
        let blocks = extent.visible.div_ceil(u64::from(self.block_bytes).max(1));
        u32::try_from(blocks).unwrap_or(u32::MAX).min(extent.blocks)
    }

    /// What there is to delete of an extent of this file from block `first` on.
    pub(crate) fn purge_from(&self, extent: &records::Extent, first: u32) -> records::PurgeExtent {
        records::PurgeExtent {
            extent_id: extent.extent_id.clone(),
            blocks: self.shown_blocks(extent),
            first,
        }
    }

    /// The generation since which the file has the bytes that it has now.
    pub(crate) const fn same_since(&self) -> u64 {
        if self.same_since == 0 {
            self.generation
        } else {
            self.same_since
        }
    }

    /// What is left to delete once the file is gone.
    pub(crate) fn garbage(&self) -> records::Purge {
        records::Purge {
            extents: self.extents.iter().map(|extent| self.purge_from(extent, 0)).collect(),
        }
    }
}

impl records::Plain {
    /// The zone that adopts the file, if it is known to be in one.
    pub(crate) fn zone(&self) -> Result<Option<ZoneId>, ParseError> {
        if self.zone_id.is_empty() {
            return Ok(None);
        }
        self.zone_id.as_ref().try_into().map(Some)
    }
}

impl records::Adoption {
    /// Whether files are left to look at.
    pub(crate) const fn is_looking(&self) -> bool {
        !self.looked && !self.ended
    }
}

impl records::Zone {
    /// Whether files in the zone may be there that are not encrypted yet.
    pub(crate) fn is_adopting(&self) -> bool {
        self.adoption.as_ref().is_some_and(|adoption| !adoption.ended)
    }
}

impl records::OpenFile {
    /// Whether what is written is not encrypted.
    pub(crate) fn is_plain(&self) -> bool {
        self.data_suite == DataSuite::Plain.as_str()
    }

    /// Whether a body like this may be in `zone`, or in none.
    pub(crate) fn fits(&self, zone: Option<ZoneId>) -> bool {
        match (&self.edek, zone) {
            (Some(edek), Some(zone)) => edek.zone_id.as_ref() == zone.as_bytes(),
            (None, None) => self.is_plain(),
            _ => false,
        }
    }

    /// What the body that is written becomes, of these extents.
    pub(crate) fn body(&self, extents: Vec<records::Extent>, manifest_mac: Bytes, generation: u64) -> records::Body {
        records::Body {
            edek: self.edek.clone(),
            plain: self.is_plain().then(records::Plain::default),
            data_suite: self.data_suite.clone(),
            frame_bytes: self.frame_bytes,
            block_bytes: self.block_bytes,
            extents,
            manifest_mac,
            generation,
            dek_ms: self.dek_ms,
            ..records::Body::default()
        }
    }

    /// What is recorded of `user` who goes on with a file, in an extent of its own.
    pub(crate) fn again(user: &UserName, body: &records::Body, extent: ExtentId, lease_expires_ms: u64) -> Self {
        Self {
            owner: user.as_str().to_owned(),
            generation: body.generation,
            data_suite: body.data_suite.clone(),
            frame_bytes: body.frame_bytes,
            block_bytes: body.block_bytes,
            lease_expires_ms,
            extents: vec![records::OpenExtent {
                extent_id: extent.into(),
                ..records::OpenExtent::default()
            }],
            ..Self::default()
        }
    }

    /// The generation of the manifest that the next one follows.
    pub(crate) fn goes_on_from(&self) -> u64 {
        self.replaces.as_ref().map_or(self.generation, |file| file.generation)
    }

    pub(crate) fn suite(&self) -> Result<DataSuite, ParseError> {
        self.data_suite.parse()
    }

    /// Whether `extent` was granted to the writer.
    pub(crate) fn has(&self, extent: ExtentId) -> bool {
        self.extents
            .iter()
            .any(|granted| granted.extent_id.as_ref() == extent.as_bytes())
    }

    /// What is left to delete once the file is given up.
    pub(crate) fn garbage(&self) -> records::Purge {
        let extents = self.extents.iter().map(|extent| records::PurgeExtent {
            extent_id: extent.extent_id.clone(),
            blocks: extent.blocks,
            first: 0,
        });
        records::Purge {
            extents: extents.collect(),
        }
    }
}

impl From<Edek> for records::Edek {
    fn from(edek: Edek) -> Self {
        Self {
            key_name: edek.key.as_str().to_owned(),
            key_version: edek.version.0,
            zone_id: edek.zone.into(),
            suite: edek.suite.as_str().to_owned(),
            wrapped: edek.wrapped,
        }
    }
}

impl TryFrom<&records::Edek> for Edek {
    type Error = ParseError;

    fn try_from(record: &records::Edek) -> Result<Self, ParseError> {
        Ok(Self {
            key: record.key_name.parse()?,
            version: KeyVersion(record.key_version),
            zone: record.zone_id.as_ref().try_into()?,
            suite: record.suite.parse()?,
            wrapped: record.wrapped.clone(),
        })
    }
}
