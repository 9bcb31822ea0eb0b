//! The gRPC face: parses and authorizes calls, then leaves them to the store and the chain.

use std::sync::Arc;

use strongroom_proto::{
    BlockId, Clock, Failure, NodeId, Reason,
    block::v1::{
        CheckBlocksRequest, CheckBlocksResponse, ExpectedBlock, GetBlockRequest, GetBlockResponse, PutBlockRequest,
        PutBlockResponse, blocks_server::Blocks,
    },
    capability::Right,
    limits::{BLOCK_BYTES_MAX, DEEP_CHECKS_PER_CALL_MAX, REPLICAS_PER_COMMAND_MAX},
    transport::peer,
};
use tonic::{Request, Response, Status};

use crate::{
    authority::Authority,
    forward::{CHAIN_MAX, Peers},
    gate::place,
    news::News,
    store::{Engine, Expected, StoreError},
};

/// What the services of a node share.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) store: Arc<dyn Engine>,
    pub(crate) clock: Clock,
    pub(crate) authority: Authority,
    pub(crate) peers: Peers,
    pub(crate) news: News,
}

/// The service `strongroom.block.v1.Blocks`.
pub(crate) struct BlocksService(pub(crate) Arc<Node>);

#[tonic::async_trait]
impl Blocks for BlocksService {
    async fn put_block(&self, mut request: Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
        let _place = place(&mut request);
        let id = self.authorize(&request, Right::Write)?;
        let request = request.into_inner();
        check_shape(&request)?;
        Ok(Response::new(self.put(id, request).await?))
    }

    async fn get_block(&self, mut request: Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
        let _place = place(&mut request);
        let id = self.authorize(&request, Right::Read)?;
        let request = request.into_inner();
        let part = self.0.store.get(id, request.offset, request.length).await;
        let part = part.map_err(|error| self.0.noted(id, error))?;
        Ok(Response::new(GetBlockResponse {
            data: part.data,
            block_length: part.block_length,
        }))
    }

    async fn check_blocks(
        &self,
        mut request: Request<CheckBlocksRequest>,
    ) -> Result<Response<CheckBlocksResponse>, Status> {
        let _place = place(&mut request);
        let (peer, _) = peer(&request)?;
        let request = request.into_inner();
        let expected = expected(&request)?;
        for id in of_each_extent(&expected) {
            // Whoever writes a block may ask whether it is there.
            let (authority, now_ms) = (&self.0.authority, self.0.clock.now_ms());
            let check = |right| authority.check(&request.capability, right, id, &peer, now_ms);
            check(Right::Write).or_else(|_| check(Right::Read))?;
        }
        let checked = self
            .0
            .store
            .check(expected, request.deep)
            .await
            .map_err(Failure::from)?;
        let mut unreadable = Vec::new();
        for (block, error) in checked.unreadable {
            if !request.tell_unreadable {
                return Err(Failure::from(error).into());
            }
            tracing::error!(%block, %error, "a file of a block cannot be read");
            unreadable.push(block.into());
        }
        let (damaged, missing): (Vec<_>, Vec<_>) = checked.lacking.into_iter().partition(|block| block.damaged);
        Ok(Response::new(CheckBlocksResponse {
            missing: missing.into_iter().map(|block| block.id.into()).collect(),
            damaged: damaged.into_iter().map(|block| block.id.into()).collect(),
            unreadable,
        }))
    }
}

fn expected(request: &CheckBlocksRequest) -> Result<Vec<Expected>, Failure> {
    let most = if request.deep {
        DEEP_CHECKS_PER_CALL_MAX
    } else {
        REPLICAS_PER_COMMAND_MAX
    };
    if request.blocks.len() > most {
        let message = format!("at most {most} blocks can be looked at in one such call");
        return Err(Failure::new(Reason::InvalidArgument, message));
    }
    let expected = |block: &ExpectedBlock| {
        Ok(Expected {
            id: BlockId::try_from(block.block_id.clone())?,
            length: block.length,
            crc32c: block.crc32c,
        })
    };
    request.blocks.iter().map(expected).collect()
}

/// One block of each extent: a capability is for extents.
fn of_each_extent(blocks: &[Expected]) -> Vec<BlockId> {
    let mut ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
    ids.sort_unstable();
    ids.dedup_by_key(|id| id.extent);
    ids
}

impl BlocksService {
    fn authorize<T: BlockRequest>(&self, request: &Request<T>, right: Right) -> Result<BlockId, Failure> {
        let (peer, _) = peer(request)?;
        let id = BlockId::try_from(request.get_ref().block_id())?;
        let capability = request.get_ref().capability();
        self.0
            .authority
            .check(capability, right, id, &peer, self.0.clock.now_ms())?;
        Ok(id)
    }

    /// Stores here and down the chain at the same time. A failure here fails the call at once: the client goes to
    /// another node then.
    async fn put(&self, id: BlockId, request: PutBlockRequest) -> Result<PutBlockResponse, Failure> {
        let node = &self.0;
        let block = node.store.seal(id, request.data.clone(), request.crc32c).await?;
        let ((), forwarded) =
            tokio::try_join!(node.store.put(block), async { Ok(node.peers.forward(&request).await) })?;
        let mut stored = vec![node.id.to_string()];
        stored.extend(forwarded.stored);
        Ok(PutBlockResponse {
            stored,
            failed: forwarded.failed,
        })
    }
}

impl Node {
    /// Notes a block that cannot be read, for the next heartbeat.
    pub(crate) fn noted(&self, id: BlockId, error: StoreError) -> Failure {
        if matches!(error, StoreError::Corrupt { .. } | StoreError::NotFound { .. }) {
            self.news.bad_block(id);
        }
        error.into()
    }
}

/// What both calls carry.
trait BlockRequest {
    fn block_id(&self) -> Option<strongroom_proto::block::v1::BlockId>;
    fn capability(&self) -> &[u8];
}

macro_rules! block_request {
    ($($request:ty),*) => {
        $(impl BlockRequest for $request {
            fn block_id(&self) -> Option<strongroom_proto::block::v1::BlockId> {
                self.block_id.clone()
            }

            fn capability(&self) -> &[u8] {
                &self.capability
            }
        })*
    };
}
block_request!(PutBlockRequest, GetBlockRequest);

fn check_shape(request: &PutBlockRequest) -> Result<(), Failure> {
    let bytes = request.data.len();
    if !(1..=BLOCK_BYTES_MAX).contains(&bytes) {
        let message = format!("a block has 1 to {BLOCK_BYTES_MAX} bytes, not {bytes}");
        return Err(Failure::new(Reason::InvalidArgument, message));
    }
    if request.forward.len() > CHAIN_MAX {
        let message = format!("a block is forwarded to at most {CHAIN_MAX} nodes");
        return Err(Failure::new(Reason::InvalidArgument, message));
    }
    Ok(())
}
