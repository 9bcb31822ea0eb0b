//! The instances of the key service.

use strongroom_proto::{Failure, kms::v1 as pb, transport::identified};

use super::KeyAdminClient;

/// The instances over one store, as one of them sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// None if the key service has a store of its own.
    pub instances: Vec<Instance>,
    /// The store's revision: every change of a key or an alias increments it.
    pub revision: u64,
}

/// A run of the key service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The id of its audit log, in hex, as its records have it.
    pub id: String,
    /// Where it listens, and its process.
    pub address: String,
    /// Whether it gave this answer.
    pub answering: bool,
    /// Whether it holds a lease; without one it makes no EDEKs.
    pub leased: bool,
    /// Milliseconds since it was last seen to renew its lease.
    pub silent_ms: u64,
    /// Changes that it had not taken in when it last renewed.
    pub behind: u64,
    /// Whether its token was up and compared then.
    pub ready: bool,
}

impl KeyAdminClient {
    /// The instances of the key service.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn instances(&self) -> Result<Instances, Failure> {
        let request = pb::ListInstancesRequest {};
        let answer = self
            .call(request, |mut grpc, request| async move {
                grpc.list_instances(identified(request)).await
            })
            .await?;
        Ok(Instances {
            instances: answer.instances.into_iter().map(Instance::from).collect(),
            revision: answer.revision,
        })
    }
}

impl From<pb::Instance> for Instance {
    fn from(wire: pb::Instance) -> Self {
        Self {
            id: hex::encode(wire.id),
            address: wire.address,
            answering: wire.answering,
            leased: wire.leased,
            silent_ms: wire.silent_ms,
            behind: wire.behind,
            ready: wire.ready,
        }
    }
}
