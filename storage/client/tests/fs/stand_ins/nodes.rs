use std::collections::BTreeMap;

use bytes::Bytes;
use strongroom_proto::{
    BlockId, Failure, Reason,
    block::v1::{
        CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, NodeFailure, PutBlockRequest,
        PutBlockResponse, blocks_server::Blocks,
    },
};
use tonic::{Request, Response, Status};

use super::Shared;

/// What a node does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    Down,
    /// Stores nothing more.
    Full,
    /// Does not answer in time; here it says so itself, at once.
    Silent,
    /// Keeps what it gets, passes nothing on, and says that it did.
    Liar,
}

pub(crate) struct NodeState {
    number: usize,
    pub(crate) address: String,
    pub(crate) health: Health,
    pub(crate) blocks: BTreeMap<BlockId, Bytes>,
    /// The capability that it accepts.
    pub(crate) capability: Bytes,
    /// Blocks that were put to it.
    pub(crate) puts: usize,
    /// Bytes of blocks that it answered with.
    pub(crate) served_bytes: usize,
}

impl NodeState {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            address: String::new(),
            health: Health::Up,
            blocks: BTreeMap::new(),
            capability: Bytes::from_static(b"capability 0"),
            puts: 0,
            served_bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> String {
        format!("node-{}", self.number)
    }

    fn check(&self, capability: &Bytes) -> Result<(), Failure> {
        if self.health == Health::Down {
            return Err(Failure::new(Reason::Unavailable, "the node is down"));
        }
        if self.health == Health::Silent {
            return Err(Failure::new(Reason::DeadlineExceeded, "did not answer within 5 s"));
        }
        if *capability == self.capability {
            return Ok(());
        }
        Err(Failure::new(Reason::CapabilityRefused, "the capability has expired"))
    }

    fn store(&mut self, request: &PutBlockRequest) -> Result<(), Failure> {
        self.puts += 1;
        self.check(&request.capability)?;
        if self.health == Health::Full {
            return Err(Failure::new(Reason::NoSpace, "no room left"));
        }
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &request.data);
        if crc != u64::from(request.crc32c) {
            return Err(Failure::new(Reason::BlockCorrupt, "the checksum does not fit"));
        }
        let known = self.blocks.entry(request.block_id.clone().try_into()?);
        if *known.or_insert_with(|| request.data.clone()) == request.data {
            return Ok(());
        }
        Err(Failure::new(Reason::BlockExists, "a retry sent other bytes"))
    }

    fn read(&mut self, request: GetBlockRequest) -> Result<GetBlockResponse, Failure> {
        self.check(&request.capability)?;
        let block = self
            .blocks
            .get(&request.block_id.try_into()?)
            .ok_or_else(|| Failure::new(Reason::BlockNotFound, "no such block"))?;
        let start = (request.offset as usize).min(block.len());
        let end = (start + request.length as usize).min(block.len());
        self.served_bytes += end - start;
        Ok(GetBlockResponse {
            data: block.slice(start..end),
            block_length: block.len() as u32,
        })
    }
}

pub(crate) struct Node {
    own: usize,
    all: Vec<Shared<NodeState>>,
}

impl Node {
    pub(crate) fn new(own: usize, all: Vec<Shared<NodeState>>) -> Self {
        Self { own, all }
    }
}

#[tonic::async_trait]
impl Blocks for Node {
    async fn put_block(&self, request: Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
        let request = request.into_inner();
        self.all[self.own].lock().store(&request)?;
        let mut answer = PutBlockResponse {
            stored: vec![self.all[self.own].lock().id()],
            failed: Vec::new(),
        };
        let lies = self.all[self.own].lock().health == Health::Liar;
        for target in &request.forward {
            if lies {
                answer.stored.push(target.node_id.clone());
                continue;
            }
            let node = self.all.iter().find(|node| node.lock().id() == target.node_id);
            match node.expect("a known node").lock().store(&request) {
                Ok(()) => answer.stored.push(target.node_id.clone()),
                Err(failure) => answer.failed.push(NodeFailure {
                    node_id: target.node_id.clone(),
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
        let node = self.all[self.own].lock();
        node.check(&request.capability)?;
        let mut answer = CheckBlocksResponse::default();
        for block in request.blocks {
            let id = BlockId::try_from(block.block_id.clone())?;
            if !node.blocks.contains_key(&id) {
                answer.missing.extend(block.block_id);
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_block(&self, request: Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
        let answer = self.all[self.own].lock().read(request.into_inner())?;
        Ok(Response::new(answer))
    }
}
