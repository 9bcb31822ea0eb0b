//! What the suites that files are encrypted in differ in, for who records files and reads none: how long a block is, which
//! frames and keys a zone may have, and which extents a file.

use strongroom_proto::{DataSuite, EdekSuite, FrameSize, KeyName};

use crate::{error::MetadataError, schema::records};

/// What suite `gcm` adds to each frame (NIST SP 800-38D, the longest tag).
const GCM_TAG_BYTES: u32 = 16;

/// Ciphertext bytes of a block of `plain` bytes in frames of `frame_bytes`.
pub(crate) const fn sealed_bytes(suite: DataSuite, plain: u32, frame_bytes: u32) -> u32 {
    match suite {
        DataSuite::Gcm => plain + plain.div_ceil(frame_bytes) * GCM_TAG_BYTES,
        DataSuite::CtrHdfs | DataSuite::Plain => plain,
    }
}

/// The frames of a zone's files, where `wire_bytes` was asked for, or 0.
pub(crate) fn frame(suite: DataSuite, wire_bytes: u32) -> Result<FrameSize, MetadataError> {
    match suite {
        DataSuite::Gcm => Ok(FrameSize::from_wire(wire_bytes)?),
        DataSuite::CtrHdfs if wire_bytes == 0 || wire_bytes == FrameSize::MIN.bytes() => Ok(FrameSize::MIN),
        DataSuite::CtrHdfs => Err(MetadataError::Field {
            field: "frame_bytes",
            rule: format!("files of suite {suite} are not sealed in frames; leave the frame size out"),
        }),
        DataSuite::Plain => Err(MetadataError::Field {
            field: "data_suite",
            rule: format!(
                "files in a zone are encrypted; take suite {} or {}",
                DataSuite::Gcm,
                DataSuite::CtrHdfs
            ),
        }),
    }
}

/// Whether a zone's files can be in a suite where its EDEKs are in another.
pub(crate) fn check_key(suite: DataSuite, key: &KeyName, edeks: EdekSuite) -> Result<(), MetadataError> {
    match (suite, edeks) {
        (DataSuite::Gcm, _) | (DataSuite::CtrHdfs, EdekSuite::Hadoop) => Ok(()),
        (DataSuite::CtrHdfs | DataSuite::Plain, _) => Err(MetadataError::SuiteOfKey {
            suite,
            key: key.clone(),
            edeks,
        }),
    }
}

/// Whether a writer may have put the `position`th extent under the DEK itself: the one that he began a new file with, from the
/// initial counter in the file's EDEK.
pub(crate) fn may_be_under_dek(open: &records::OpenFile, position: usize, extent: &records::Extent) -> bool {
    let is_new = open.generation == 0 && position == 0;
    let edek = open.edek.as_ref();
    let iv = edek.filter(|edek| edek.suite == EdekSuite::Hadoop.as_str() && edek.wrapped.len() > 16);
    open.data_suite == DataSuite::CtrHdfs.as_str() && is_new && iv.is_some_and(|edek| edek.wrapped[..16] == extent.salt)
}
