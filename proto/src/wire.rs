//! Conversions between wire messages and typed values that need no other crate.

use crate::{BlockId, Failure, Reason, block::v1 as pb};

impl From<BlockId> for pb::BlockId {
    fn from(id: BlockId) -> Self {
        Self {
            extent_id: id.extent.into(),
            index: id.index,
        }
    }
}

impl TryFrom<Option<pb::BlockId>> for BlockId {
    type Error = Failure;

    fn try_from(wire: Option<pb::BlockId>) -> Result<Self, Failure> {
        let wire = wire.ok_or_else(|| Failure::new(Reason::InvalidArgument, "block id is missing"))?;
        Ok(Self {
            extent: wire.extent_id.as_ref().try_into()?,
            index: wire.index,
        })
    }
}
