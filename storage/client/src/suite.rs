//! What the suites that files are encrypted in differ in, for those who open and write files: how a file is cut, which DEKs
//! there are, and what an extent's key is made of. How bytes are encrypted is `strongroom_dataplane`'s affair.

use strongroom_dataplane::{DataKey, Geometry, Seed, Suite};
use strongroom_proto::{DataSuite, Edek, EdekSuite, Failure, Reason, ZonePath};

use crate::{
    FsError,
    plain::{FileKey, Secret},
    random,
};

/// How a file of a suite is cut, as the metadata service says.
pub(crate) fn geometry(
    path: &ZonePath,
    suite: DataSuite,
    frame_bytes: u32,
    block_bytes: u32,
) -> Result<Geometry, FsError> {
    let suite = match suite {
        DataSuite::Gcm => Suite::Gcm,
        DataSuite::CtrHdfs => Suite::CtrHdfs,
        DataSuite::Plain => Suite::Plain,
    };
    Geometry::new(suite, frame_bytes, block_bytes).map_err(|source| FsError::Geometry {
        path: path.clone(),
        source,
    })
}

/// The DEK as files of a suite take it, or none.
pub(crate) fn file_key(suite: Suite, secret: &Secret) -> Result<FileKey<'_>, Failure> {
    match (suite, secret) {
        (Suite::Gcm, Secret::Dek(dek)) => dek.expose_256().map(DataKey::new).map(FileKey::Dek),
        (Suite::CtrHdfs, Secret::Dek(dek)) => dek.expose().try_into().map(FileKey::Dek).map_err(|_| {
            Failure::new(
                Reason::InvalidArgument,
                "suite ctr-hdfs takes DEKs of 16 and 32 bytes; make the zone with an EZ key of 128 or 256 bits",
            )
        }),
        (Suite::Plain, Secret::Plain(allowed)) => Ok(FileKey::Plain(*allowed)),
        (Suite::Plain, Secret::Dek(_)) | (_, Secret::Plain(_)) => Err(Failure::new(
            Reason::Internal,
            "a file is either encrypted or has no DEK",
        )),
    }
}

/// What the key of the first extent under a new DEK is made of. Nobody may ask but the writer for whom that DEK was made, and once.
pub(crate) fn first_seed(suite: Suite, edek: Option<&Edek>) -> Result<Seed, FsError> {
    match suite {
        // Of what is not encrypted it makes nothing, but that extents of all suites are told alike.
        Suite::Gcm | Suite::Plain => salt(),
        Suite::CtrHdfs => hdfs_iv(edek).map(Seed::Iv),
    }
}

/// What the key of any other extent is made of.
pub(crate) fn salt() -> Result<Seed, FsError> {
    random::bytes().map(Seed::Salt)
}

/// The initial counter of a file whose EDEK it is, which Hadoop's EDEKs begin with.
fn hdfs_iv(edek: Option<&Edek>) -> Result<[u8; 16], FsError> {
    let edek = edek.filter(|edek| edek.suite == EdekSuite::Hadoop);
    let iv = edek.and_then(|edek| edek.wrapped.first_chunk());
    iv.copied().ok_or_else(|| {
        FsError::metadata_contradiction("a new file of suite ctr-hdfs has an EDEK of another suite than hadoop")
    })
}
