//! What the metadata service says of a file that is opened, and the proof that a writer of the file said it.

use bytes::Bytes;
use strongroom_dataplane::{Geometry, Manifest, ManifestError, ManifestExtent, Seed, Suite};
use strongroom_proto::{Edek, EdekSuite, ExtentId, FileId, ZonePath, kms::v1 as kms_pb, metadata::v1 as pb};

use crate::{FsError, Stat, plain::FileKey, suite};

/// A file as the metadata service describes it, parsed but not yet proven.
pub(crate) struct Opening {
    pub(crate) stat: Stat,
    /// None of a file that is said not to be encrypted.
    pub(crate) edek: Option<Edek>,
    pub(crate) blocks: Option<pb::ListBlocksResponse>,
    /// The generation since which the file has these bytes, by the metadata service's word.
    pub(crate) same_since: u64,
    /// What keys and manifest are bound to: the file's id where it was written, which it may have elsewhere than here.
    pub(crate) crypto_id: FileId,
    /// Under which id the blocks of each extent are stored.
    pub(crate) stored: Vec<ExtentId>,
    manifest: Manifest,
    /// None of a file that HDFS wrote.
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
        let suite = stat.data_suite.ok_or_else(missing("it gives no data suite"))?;
        let geometry = suite::geometry(path, suite, wire.frame_bytes, wire.block_bytes)?;
        let stored = wire.extents.iter().map(|extent| extent_id(&extent.extent_id));
        let stored = stored.collect::<Result<_, _>>()?;
        let extents = wire.extents.iter().map(parse_extent).collect::<Result<_, _>>()?;
        let manifest = Manifest::new(geometry, wire.generation, extents).map_err(|source| FsError::Manifest {
            path: path.clone(),
            source,
        })?;
        let crypto_id = match wire.crypto_id.as_ref() {
            [] => stat.file_id,
            id => id.try_into().map_err(FsError::metadata_answer)?,
        };
        Ok(Self {
            stat,
            crypto_id,
            stored,
            edek: parse_edek(wire.edek)?,
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

    /// The file's manifest as it is said to be, for who has no key.
    pub(crate) const fn unproven(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether two DEKs are one, told by what they make of the manifest.
    pub(crate) fn are_one(&self, key: &FileKey<'_>, other: &FileKey<'_>) -> bool {
        let code = |key: &FileKey<'_>| key.code(self.crypto_id).authenticate(&self.manifest);
        code(key) == code(other)
    }

    /// The file's manifest, which a holder of its DEK made for this file and this length; or which nobody made, of a file that is as HDFS
    /// has it (`docs/formats/raw.md`) or that is not encrypted.
    pub(crate) fn prove(&self, key: &FileKey<'_>) -> Result<&Manifest, FsError> {
        let (stat, manifest) = (&self.stat, &self.manifest);
        if !self.is_of_hdfs() {
            self.verify(key).map_err(|source| FsError::Manifest {
                path: stat.path.clone(),
                source,
            })?;
        }
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

impl Opening {
    fn verify(&self, key: &FileKey<'_>) -> Result<(), ManifestError> {
        key.code(self.crypto_id).verify(&self.manifest, &self.code)
    }

    /// No code, and nothing that HDFS could not have written.
    fn is_of_hdfs(&self) -> bool {
        let extents = self.manifest.extents();
        let (suite, first) = (self.geometry().suite(), self.generation() == 1);
        let whole = |extent: &ManifestExtent| extent.seed.is_iv() && extent.visible == extent.length;
        // The key service opens no EDEK as of another suite than its key's, so this is not to be had of files under other keys.
        let hadoop = self.edek.as_ref().is_some_and(|edek| edek.suite == EdekSuite::Hadoop);
        self.code.is_empty()
            && hadoop
            && suite == Suite::CtrHdfs
            && first
            && extents.len() <= 1
            && extents.iter().all(whole)
    }
}

/// The EDEK, if one is told.
pub(crate) fn parse_edek(wire: Option<kms_pb::Edek>) -> Result<Option<Edek>, FsError> {
    wire.map(Edek::try_from).transpose().map_err(FsError::metadata_answer)
}

fn extent_id(wire: &[u8]) -> Result<ExtentId, FsError> {
    wire.try_into().map_err(FsError::metadata_answer)
}

fn parse_extent(wire: &pb::Extent) -> Result<ManifestExtent, FsError> {
    let id = match wire.sealed_as.as_ref() {
        [] => extent_id(&wire.extent_id)?,
        id => extent_id(id)?,
    };
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

/// The wire form of an extent, as the manifest has it.
pub(crate) fn wire_extent(extent: &ManifestExtent) -> pb::Extent {
    pb::Extent {
        extent_id: Bytes::copy_from_slice(&extent.id),
        sealed_as: Bytes::new(),
        salt: Bytes::copy_from_slice(extent.seed.bytes()),
        under_dek: extent.seed.is_iv(),
        length: extent.length,
        visible: extent.visible,
        blocks: extent.blocks,
    }
}
