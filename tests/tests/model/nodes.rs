//! Stand-ins for the block nodes: they keep blocks in memory, behind the real transport and the real capabilities, report to the
//! metadata service and do what it tells them. Every ciphertext that comes to one is entered in the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use strongroom_proto::{
    BlockId, Failure, Reason,
    block::v1::{
        BlockId as WireBlock, CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, NodeFailure,
        PutBlockRequest, PutBlockResponse,
        blocks_server::{Blocks, BlocksServer},
    },
    capability::{Right, verify},
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{self as meta, cluster_client::ClusterClient, command::Command},
    transport::{PeerIdentity, peer},
};
use tonic::{Request, Response, Status, service::Routes, transport::Channel};

use crate::ledger::Ledger;

pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
const BEAT: Duration = Duration::from_millis(100);
const GIB: u64 = 1 << 30;

/// All nodes.
#[derive(Clone)]
pub(crate) struct Nodes {
    state: Arc<Mutex<State>>,
    pub(crate) ledger: Ledger,
}

#[derive(Default)]
struct State {
    disks: BTreeMap<&'static str, BTreeMap<BlockId, Bytes>>,
    /// The one that is away.
    away: Option<&'static str>,
    /// Copies that were made by order of the metadata service.
    copies: BTreeSet<(String, BlockId)>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// Verify capabilities.
    keys: Vec<Bytes>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let disks = NODES.map(|node| (node, BTreeMap::new()));
        let state = State {
            disks: disks.into(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            ledger: Ledger::default(),
        }
    }

    /// The service of one node, which clients reach at `address`.
    pub(crate) fn routes(&self, node: &'static str, address: SocketAddr) -> Routes {
        self.lock().addresses.insert(node, address);
        let nodes = self.clone();
        let service = BlocksServer::new(Node { node, nodes });
        Routes::new(
            service
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// Has a node be away, if none is.
    pub(crate) fn go(&self, node: usize) {
        self.lock().away.get_or_insert(NODES[node % NODES.len()]);
    }

    /// The one that is away comes back with all that it had.
    pub(crate) fn come_back(&self) {
        self.lock().away = None;
    }

    /// How many are away.
    pub(crate) fn away(&self) -> usize {
        usize::from(self.lock().away.is_some())
    }

    /// Where there is a block, and whether it was copied there by order of the metadata service.
    pub(crate) fn blocks(&self) -> BTreeMap<BlockId, BTreeMap<&'static str, bool>> {
        let state = self.lock();
        let mut found = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (node, disk) in &state.disks {
            for block in disk.keys() {
                let is_copy = state.copies.contains(&((*node).to_owned(), *block));
                found.entry(*block).or_default().insert(*node, is_copy);
            }
        }
        found
    }

    /// Reports to the metadata service and does what it says, for ever.
    pub(crate) async fn beat(self, node: &'static str, mut client: ClusterClient<Channel>) {
        let mut results = Vec::new();
        loop {
            let is_away = self.lock().away == Some(node);
            if !is_away && let Ok(answer) = client.heartbeat(self.report(node, results.clone())).await {
                results = self.obey(node, answer.into_inner());
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    fn report(&self, node: &'static str, results: Vec<meta::CommandResult>) -> meta::HeartbeatRequest {
        let state = self.lock();
        meta::HeartbeatRequest {
            node_id: node.to_owned(),
            address: state.addresses[node].to_string(),
            capacity_bytes: 100 * GIB,
            free_bytes: 50 * GIB,
            blocks: state.disks[node].len() as u64,
            results,
            ..meta::HeartbeatRequest::default()
        }
    }

    fn obey(&self, node: &'static str, answer: meta::HeartbeatResponse) -> Vec<meta::CommandResult> {
        let mut state = self.lock();
        state.keys = answer.capability_keys;
        let done = answer.commands.into_iter().map(|command| {
            let (missing, failure) = match state.execute(node, command.command) {
                Ok(missing) => (missing, String::new()),
                Err(failure) => (Vec::new(), failure),
            };
            meta::CommandResult {
                command_id: command.command_id,
                failure,
                missing,
                ..meta::CommandResult::default()
            }
        });
        done.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Says which blocks are not there that it was to look for.
    fn execute(&mut self, node: &str, command: Option<Command>) -> Result<Vec<WireBlock>, String> {
        match command {
            Some(Command::Delete(block)) => {
                let block = BlockId::try_from(Some(block)).map_err(|error| error.to_string())?;
                self.disk(node).remove(&block);
            }
            Some(Command::DeleteExtent(extent)) => {
                self.disk(node).retain(|block, _| extent != block.extent.as_bytes()[..]);
            }
            Some(Command::Replicate(order)) => {
                let block = BlockId::try_from(order.block_id).map_err(|error| error.to_string())?;
                let bytes = self.disk(node).get(&block).cloned().ok_or("no such block here")?;
                let to = order.to.ok_or("no target")?.node_id;
                self.check_there(&to).map_err(|failure| failure.message)?;
                self.disk(&to).insert(block, bytes);
                self.copies.insert((to, block));
            }
            // Of copies that were made; nobody compares disks within the time of a case.
            Some(Command::Check(order)) => {
                let ids = order.replicas.into_iter().filter_map(|replica| replica.block_id);
                let disk = self.disk(node);
                let is_here =
                    |id: &WireBlock| BlockId::try_from(Some(id.clone())).is_ok_and(|block| disk.contains_key(&block));
                return Ok(ids.filter(|id| !is_here(id)).collect());
            }
            Some(Command::Tell(_)) | None => return Err("no command known here".to_owned()),
        }
        Ok(Vec::new())
    }

    fn disk(&mut self, node: &str) -> &mut BTreeMap<BlockId, Bytes> {
        self.disks.get_mut(node).expect("a known node")
    }

    fn check_there(&self, node: &str) -> Result<(), Failure> {
        match self.away.is_some_and(|away| away == node) {
            true => Err(Failure::new(Reason::Unavailable, format!("node {node} is away"))),
            false => Ok(()),
        }
    }

    fn check(&self, capability: &[u8], block: BlockId, right: Right, who: &PeerIdentity) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.expect("after 1970").as_millis() as u64;
        let known = verify(capability, &self.keys, now_ms)?;
        if known.right == right && known.holder == *who && known.extents.contains(&block.extent) {
            return Ok(());
        }
        Err(Failure::new(
            Reason::CapabilityRefused,
            "the capability is for something else",
        ))
    }

    fn store(&mut self, node: &str, block: BlockId, data: &Bytes) -> Result<(), Failure> {
        let known = self.disk(node).entry(block).or_insert_with(|| data.clone());
        if known == data {
            return Ok(());
        }
        Err(Failure::new(Reason::BlockExists, "the block is there with other bytes"))
    }
}

struct Node {
    node: &'static str,
    nodes: Nodes,
}

#[tonic::async_trait]
impl Blocks for Node {
    async fn put_block(&self, request: Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
        let (who, _) = peer(&request)?;
        let request = request.into_inner();
        let block = BlockId::try_from(request.block_id)?;
        // It left the client, whether a node wants it or not.
        self.nodes.ledger.enter(block, &request.data);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &request.data);
        if crc != u64::from(request.crc32c) {
            return Err(Failure::new(Reason::BlockCorrupt, "the checksum does not fit").into());
        }
        let mut state = self.nodes.lock();
        state.check_there(self.node)?;
        state.check(&request.capability, block, Right::Write, &who)?;
        state.store(self.node, block, &request.data)?;
        let mut answer = PutBlockResponse {
            stored: vec![self.node.to_owned()],
            ..PutBlockResponse::default()
        };
        for target in request.forward {
            let there = state.check_there(&target.node_id);
            match there.and_then(|()| state.store(&target.node_id, block, &request.data)) {
                Ok(()) => answer.stored.push(target.node_id),
                Err(failure) => answer.failed.push(NodeFailure {
                    node_id: target.node_id,
                    reason: failure.reason.as_str().to_owned(),
                    message: failure.message,
                }),
            }
        }
        Ok(Response::new(answer))
    }

    async fn check_blocks(
        &self,
        request: Request<CheckBlocksRequest>,
    ) -> Result<Response<CheckBlocksResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.nodes.lock();
        state.check_there(self.node)?;
        let mut answer = CheckBlocksResponse::default();
        for block in request.blocks {
            let id = BlockId::try_from(block.block_id.clone())?;
            if !state.disk(self.node).contains_key(&id) {
                answer.missing.extend(block.block_id);
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_block(&self, request: Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
        let (who, _) = peer(&request)?;
        let request = request.into_inner();
        let block = BlockId::try_from(request.block_id)?;
        let mut state = self.nodes.lock();
        state.check_there(self.node)?;
        state.check(&request.capability, block, Right::Read, &who)?;
        let data = state.disk(self.node).get(&block);
        let data = data.ok_or_else(|| Failure::new(Reason::BlockNotFound, "no such block"))?;
        let start = (request.offset as usize).min(data.len());
        let end = (start + request.length as usize).min(data.len());
        Ok(Response::new(GetBlockResponse {
            data: data.slice(start..end),
            block_length: data.len() as u32,
        }))
    }
}
