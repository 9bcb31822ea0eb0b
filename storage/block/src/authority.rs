//! Who may do what: capabilities, and the keys that sign them.

use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use strongroom_proto::{
    BlockId, Failure, NodeId, Reason,
    capability::{self, Right},
    transport::PeerIdentity,
};

/// The capability keys that the metadata service told last; none before it was reached.
pub(crate) struct Authority {
    node: NodeId,
    keys: RwLock<Vec<Bytes>>,
}

impl Authority {
    pub(crate) const fn new(node: NodeId) -> Self {
        Self {
            node,
            keys: RwLock::new(Vec::new()),
        }
    }

    /// Takes over the keys that count from now on.
    pub(crate) fn learn(&self, keys: Vec<Bytes>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Checks that `signed` lets `peer` use `right` on a block. Other nodes may pass on what a client gave them to
    /// write; for reading they have no need of it.
    pub(crate) fn check(
        &self,
        signed: &[u8],
        right: Right,
        id: BlockId,
        peer: &PeerIdentity,
        now_ms: u64,
    ) -> Result<(), Failure> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        if keys.is_empty() {
            let message = format!(
                "node {} has not joined yet: it waits for the metadata service",
                self.node
            );
            return Err(Failure::new(Reason::Unavailable, message));
        }
        let capability = capability::verify(signed, &keys, now_ms)?;
        let refused = |why: String| Err(Failure::new(Reason::CapabilityRefused, why));
        if capability.right != right {
            return refused(format!("the capability is for {:?}, not {right:?}", capability.right));
        }
        if !capability.extents.contains(&id.extent) {
            return refused(format!("the capability does not cover extent {}", id.extent));
        }
        let passes_on = right == Right::Write && matches!(peer, PeerIdentity::Block(_));
        if capability.holder != *peer && !passes_on {
            return refused(format!(
                "the capability is for {}, not {}",
                capability.holder.short(),
                peer.short()
            ));
        }
        Ok(())
    }
}
