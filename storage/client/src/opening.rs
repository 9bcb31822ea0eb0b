//! What the metadata service says of a file that is opened, and the proof that a writer of the file said it.

use bytes::Bytes;
use strongroom_dataplane::{DataKey, Geometry, Manifest, ManifestExtent, ManifestKey, Seed};
use strongroom_proto::{Edek, ExtentId, ZonePath, metadata::v1 as pb};

use crate::{FsError, Stat, suite};

/// A file as the metadata service describes it, parsed but not yet proven.
pub(crate) struct Opening {
    pub(crate) stat: Stat,
    pub(crate) edek: Edek,
    pub(crate) blocks: Option<pb::ListBlocksResponse>,
    /// The generation since which the file has these bytes, by the metadata service's word.
    pub(crate) same_since: u64,
    manifest: Manifest,
    code: Bytes,
}

impl Opening {
    /// What is said of the file that was asked for as `path`.
    pub(crate) fn parse(path: &ZonePath, wire: pb::OpenedFile) -> Result<Self, FsError> {
        let missing = |what| move || FsError::metadata_contradiction(what);
        let mut stat = wire.stat.ok_or_else(missing("it says nothing about the file"))?;
        if stat.path.is_empty() {
            // A rename further up moved it where no path leads.
            stat.path = path.into();
        }
        let stat = Stat::try_from(stat)?;
        let edek = wire.edek.ok_or_else(missing("it gives no EDEK"))?;
        let suite = stat.data_suite.ok_or_else(missing("it gives no data suite"))?;
        let geometry = suite::geometry(path, suite, wire.frame_bytes, wire.block_bytes)?;
        let extents = wire.extents.iter().map(parse_extent).collect::<Result<_, _>>()?;
        let manifest = Manifest::new(geometry, wire.generation, extents).map_err(|source| FsError::Manifest {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            stat,
            edek: Edek::try_from(edek).map_err(FsError::metadata_answer)?,
            blocks: wire.blocks,
            same_since: wire.same_since,
            manifest,
            code: wire.manifest_mac,
        })
    }

    /// The generation of the file's manifest.
    pub(crate) fn generation(&self) -> u64 {
        self.manifest.generation()
    }

    /// How the file is said to be encrypted and cut, which its manifest has to prove.
    pub(crate) const fn geometry(&self) -> Geometry {
        self.manifest.geometry()
    }

    /// The file's manifest, which a holder of its DEK made for this file and this length.
    pub(crate) fn prove(&self, dek: &DataKey<'_>) -> Result<&Manifest, FsError> {
        let (stat, manifest) = (&self.stat, &self.manifest);
        let key = ManifestKey::derive(dek, stat.file_id.as_bytes());
        key.verify(manifest, &self.code).map_err(|source| FsError::Manifest {
            path: stat.path.clone(),
            source,
        })?;
        if stat.length == manifest.length() {
            return Ok(manifest);
        }
        Err(FsError::Length {
            path: stat.path.clone(),
            given: stat.length,
            length: manifest.length(),
        })
    }
}

fn parse_extent(wire: &pb::Extent) -> Result<ManifestExtent, FsError> {
    let id = ExtentId::try_from(wire.extent_id.as_ref()).map_err(FsError::metadata_answer)?;
    let seed = wire.salt.as_ref().try_into();
    let seed = seed.map_err(|_| FsError::metadata_contradiction("an extent's salt has not 16 bytes"))?;
    Ok(ManifestExtent {
        id: *id.as_bytes(),
        seed: if wire.under_dek {
            Seed::Iv(seed)
        } else {
            Seed::Salt(seed)
        },
        length: wire.length,
        visible: wire.visible,
        blocks: wire.blocks,
    })
}

/// The wire form of an extent.
pub(crate) fn wire_extent(extent: &ManifestExtent) -> pb::Extent {
    pb::Extent {
        extent_id: Bytes::copy_from_slice(&extent.id),
        salt: Bytes::copy_from_slice(extent.seed.bytes()),
        under_dek: extent.seed.is_iv(),
        length: extent.length,
        visible: extent.visible,
        blocks: extent.blocks,
    }
}
