//! Connections to block nodes, and which of them to leave alone for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use strongroom_proto::{
    BlockId, Failure, NodeId, ParseError, Reason,
    block::v1::{self as pb, blocks_client::BlocksClient},
    limits::MESSAGE_BYTES_MAX,
    transport::{self, Remote, Role, TlsIdentity, once},
};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Connections kept; the one unused longest goes first.
const CONNECTIONS_MAX: usize = 256;
/// How long a node that failed is asked last.
const REST: Duration = Duration::from_secs(5);
/// The same for a node that did not answer: asking it again costs much more than asking another.
const REST_AFTER_SILENCE: Duration = Duration::from_secs(30);
/// How long a whole chain of replicas may take to store a block.
const PUT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a node may take to answer with a block.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a node may take to say that it has a block, which it has just written.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take to look whether blocks are there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(25);

/// A block node and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) remote: Remote,
}

impl TryFrom<pb::Target> for Node {
    type Error = ParseError;

    fn try_from(wire: pb::Target) -> Result<Self, ParseError> {
        Ok(Self {
            id: wire.node_id.parse()?,
            remote: wire.address.parse()?,
        })
    }
}

impl From<&Node> for pb::Target {
    fn from(node: &Node) -> Self {
        Self {
            node_id: node.id.as_str().to_owned(),
            address: node.remote.to_string(),
        }
    }
}

/// A sealed block on its way to the nodes.
#[derive(Debug, Clone)]
pub(crate) struct SealedBlock {
    pub(crate) id: BlockId,
    pub(crate) bytes: Bytes,
    pub(crate) crc32c: u32,
}

/// All block nodes that this client talks to.
pub(crate) struct Nodes {
    tls: Arc<TlsIdentity>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    connections: HashMap<Remote, Connection>,
    resting: HashMap<NodeId, Rest>,
}

#[derive(Clone, Copy)]
struct Rest {
    until: Instant,
    /// The node did not answer at all.
    silent: bool,
}

struct Connection {
    client: BlocksClient<Channel>,
    used: Instant,
}

impl Nodes {
    pub(crate) fn new(tls: Arc<TlsIdentity>) -> Self {
        Self {
            tls,
            table: Mutex::default(),
        }
    }

    /// Stores a block on `head` and the nodes of `forward`.
    pub(crate) async fn put(
        &self,
        head: &Node,
        forward: &[&Node],
        capability: Bytes,
        block: &SealedBlock,
    ) -> Result<pb::PutBlockResponse, Failure> {
        let request = pb::PutBlockRequest {
            capability,
            block_id: Some(block.id.into()),
            data: block.bytes.clone(),
            crc32c: block.crc32c,
            forward: forward.iter().map(|&node| node.into()).collect(),
        };
        let mut client = self.client(head);
        self.note(head, once(PUT_TIMEOUT, client.put_block(request)).await)
    }

    /// Reads part of a block.
    pub(crate) async fn get(&self, node: &Node, request: pb::GetBlockRequest) -> Result<pb::GetBlockResponse, Failure> {
        let mut client = self.client(node);
        self.note(node, once(GET_TIMEOUT, client.get_block(request)).await)
    }

    /// Asks a node whether it has a block that another one says it passed on to it.
    pub(crate) async fn confirm(&self, node: &Node, capability: Bytes, block: &SealedBlock) -> Result<(), Failure> {
        let request = pb::CheckBlocksRequest {
            capability,
            blocks: vec![pb::ExpectedBlock {
                block_id: Some(block.id.into()),
                length: u32::try_from(block.bytes.len()).unwrap_or(u32::MAX),
                crc32c: block.crc32c,
            }],
            deep: false,
            tell_unreadable: false,
        };
        let mut client = self.client(node);
        let answer = self.note(node, once(CONFIRM_TIMEOUT, client.check_blocks(request)).await)?;
        if answer.missing.is_empty() && answer.damaged.is_empty() {
            return Ok(());
        }
        let message = format!("node {} does not have the block, though another said so", node.id);
        Err(Failure::new(Reason::Unavailable, message))
    }

    /// Asks whether blocks are there.
    pub(crate) async fn check(
        &self,
        node: &Node,
        request: pb::CheckBlocksRequest,
    ) -> Result<pb::CheckBlocksResponse, Failure> {
        let mut client = self.client(node);
        self.note(node, once(CHECK_TIMEOUT, client.check_blocks(request)).await)
    }

    /// The same nodes, those that failed lately after the others and those that did not answer last.
    pub(crate) fn healthy_first<'n>(&self, mut nodes: Vec<&'n Node>) -> Vec<&'n Node> {
        let now = Instant::now();
        let table = self.lock();
        nodes.sort_by_key(|node| {
            let rest = table.resting.get(&node.id).filter(|rest| rest.until > now);
            rest.map(|rest| rest.silent)
        });
        nodes
    }

    /// Whether a node did not answer lately.
    pub(crate) fn is_silent(&self, node: &NodeId) -> bool {
        let now = Instant::now();
        let table = self.lock();
        table
            .resting
            .get(node)
            .is_some_and(|rest| rest.silent && rest.until > now)
    }

    /// Asks a node last for a while if its failure says something about its next answers.
    pub(crate) fn rest_after(&self, node: &NodeId, failure: &Failure) {
        let silent = failure.reason == Reason::DeadlineExceeded;
        let rest = match failure.reason {
            _ if silent => REST_AFTER_SILENCE,
            Reason::NoSpace => REST,
            _ if failure.is_transient() => REST,
            _ => return,
        };
        let now = Instant::now();
        let mut table = self.lock();
        table.resting.retain(|_, rest| rest.until > now);
        let until = now + rest;
        table.resting.insert(node.clone(), Rest { until, silent });
    }

    fn note<T>(&self, node: &Node, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match &outcome {
            Ok(_) => _ = self.lock().resting.remove(&node.id),
            Err(failure) => {
                tracing::debug!(node = %node.id, %failure, "a block node failed");
                self.rest_after(&node.id, failure);
            }
        }
        outcome
    }

    fn client(&self, node: &Node) -> BlocksClient<Channel> {
        let now = Instant::now();
        let mut table = self.lock();
        if let Some(connection) = table.connections.get_mut(&node.remote) {
            connection.used = now;
            return connection.client.clone();
        }
        if table.connections.len() >= CONNECTIONS_MAX {
            let oldest = table.connections.iter().min_by_key(|(_, connection)| connection.used);
            if let Some(oldest) = oldest.map(|(remote, _)| remote.clone()) {
                table.connections.remove(&oldest);
            }
        }
        let client = BlocksClient::new(transport::connect(&node.remote, &self.tls, Role::Block))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let connection = Connection {
            client: client.clone(),
            used: now,
        };
        table.connections.insert(node.remote.clone(), connection);
        client
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
