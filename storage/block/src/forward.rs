//! Sending blocks to other nodes: the chain of replicas, and copies that the metadata service orders.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use strongroom_proto::{
    Failure, NodeId, Reason,
    block::v1::{NodeFailure, PutBlockRequest, PutBlockResponse, Target, blocks_client::BlocksClient},
    limits::MESSAGE_BYTES_MAX,
    transport::{Remote, Role, TlsIdentity, connect},
};
use tokio::time::timeout;
use tonic::transport::Channel;

/// Nodes of one chain after the first.
pub(crate) const CHAIN_MAX: usize = 8;
/// How long a node has per node of the chain that it serves: whoever is earlier in the chain waits longer, so that
/// it hears what became of the rest.
const WAIT_PER_NODE: Duration = Duration::from_secs(5);
/// Connections to other nodes kept.
const CHANNELS_MAX: usize = 256;

/// The other nodes, as far as this one has talked to them.
pub(crate) struct Peers {
    node: NodeId,
    tls: Arc<TlsIdentity>,
    channels: Mutex<HashMap<Remote, Channel>>,
}

impl Peers {
    pub(crate) fn new(node: NodeId, tls: Arc<TlsIdentity>) -> Self {
        Self {
            node,
            tls,
            channels: Mutex::default(),
        }
    }

    /// Sends a block down its chain: the first node that takes it takes care of those after it, and those before it
    /// have failed. The answer has the nodes that stored it.
    pub(crate) async fn forward(&self, request: &PutBlockRequest) -> PutBlockResponse {
        let mut outcome = PutBlockResponse::default();
        for (n, target) in request.forward.iter().enumerate() {
            let rest = request.forward[n + 1..].to_vec();
            match self.send(target, request, rest).await {
                Ok(taken) => {
                    outcome.stored.extend(taken.stored);
                    outcome.failed.extend(taken.failed);
                    return outcome;
                }
                Err(failure) => {
                    tracing::warn!(node = target.node_id, error = %failure, "a node of the chain is skipped");
                    outcome.failed.push(NodeFailure {
                        node_id: target.node_id.clone(),
                        reason: failure.reason.as_str().to_owned(),
                        message: failure.message,
                    });
                }
            }
        }
        outcome
    }

    /// Sends a block to one node, which is to send it on to `rest`.
    pub(crate) async fn send(
        &self,
        target: &Target,
        request: &PutBlockRequest,
        rest: Vec<Target>,
    ) -> Result<PutBlockResponse, Failure> {
        if target.node_id == self.node.as_str() {
            let message = format!("node {} stands twice in the chain", self.node);
            return Err(Failure::new(Reason::InvalidArgument, message));
        }
        let wait = WAIT_PER_NODE * (1 + u32::try_from(rest.len()).unwrap_or(u32::MAX));
        let request = PutBlockRequest {
            forward: rest,
            ..request.clone()
        };
        let mut client = self.client(target)?;
        let answer = timeout(wait, client.put_block(request)).await.map_err(|_| {
            let message = format!("node {} did not answer within {} s", target.node_id, wait.as_secs());
            Failure::new(Reason::DeadlineExceeded, message)
        })??;
        let answer = answer.into_inner();
        if answer.stored.first() == Some(&target.node_id) {
            return Ok(answer);
        }
        let message = format!("at {} answers another node than {}", target.address, target.node_id);
        Err(Failure::new(Reason::UntrustedPeer, message))
    }

    fn client(&self, target: &Target) -> Result<BlocksClient<Channel>, Failure> {
        let remote: Remote = target.address.parse()?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= CHANNELS_MAX && !channels.contains_key(&remote) {
            // Clusters are smaller than this; whichever goes, it connects again when needed.
            channels.clear();
        }
        let channel = channels
            .entry(remote)
            .or_insert_with_key(|remote| connect(remote, &self.tls, Role::Block))
            .clone();
        Ok(BlocksClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}
