//! Who may do what: capabilities, and the keys that sign them.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use bytes::Bytes;
use strongroom_proto::{
    BlockId, Failure, NodeId, Reason,
    capability::{self, Right},
    transport::{PeerIdentity, Remote},
};

/// The capability keys that each instance of the metadata service told last; none before one was reached.
pub(crate) struct Authority {
    node: NodeId,
    keys: RwLock<BTreeMap<Remote, Vec<Bytes>>>,
}

impl Authority {
    pub(crate) const fn new(node: NodeId) -> Self {
        Self {
            node,
            keys: RwLock::new(BTreeMap::new()),
        }
    }

    /// Takes over the keys of an instance that count from now on. Those of one that is away stay.
    pub(crate) fn learn(&self, instance: &Remote, keys: Vec<Bytes>) {
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(instance.clone(), keys);
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
        let keys: Vec<Bytes> = {
            let known = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            known.values().flatten().cloned().collect()
        };
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
