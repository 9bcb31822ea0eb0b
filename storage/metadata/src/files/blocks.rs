//! Blocks of a file being written.

use std::collections::BTreeSet;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    BlockId, Edek, ExtentId, FileId, NodeId, block::v1::Target, limits::BLOCKS_PER_CALL_MAX, metadata::v1 as pb,
};

use super::{
    commit::home,
    create::write_grant,
    lease::{lost, owned},
    rewrite::unchanged,
    suite::sealed_bytes,
};
use crate::{
    authority::Caller,
    cluster::replicas::counting,
    core::Core,
    error::MetadataError,
    namespace::{
        permission::check_writing,
        resolve::{Found, ZoneAt, climb},
    },
    quota::{self, Usage},
    schema::{access, access::transact, counted, keys, records},
    transfer::staged::current,
    zones::source::EdekSource,
};

/// Nodes that have one block, at most: what is deleted with a chunk of blocks has to fit a transaction.
const NODES_PER_BLOCK_MAX: usize = 16;

/// Consecutive blocks of one extent, as a writer reports them: each on enough nodes that are known.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) extent: ExtentId,
    pub(crate) first: u32,
    pub(crate) blocks: Vec<records::Block>,
    /// Replicas wanted; with fewer a block is in deficit.
    pub(crate) replicas: usize,
}

impl Report {
    /// Parses a writer's report.
    pub(crate) async fn parse<S: Store, E: EdekSource>(
        core: &Core<S, E>,
        file: FileId,
        extent: ExtentId,
        first: u32,
        blocks: &[pb::BlockPlacement],
    ) -> Result<Self, MetadataError> {
        let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
        if blocks.len() > BLOCKS_PER_CALL_MAX || first.checked_add(count).is_none() {
            return Err(MetadataError::Field {
                field: "blocks",
                rule: format!("at most {BLOCKS_PER_CALL_MAX} in one call"),
            });
        }
        let mut placements = Vec::with_capacity(blocks.len());
        for (block, index) in blocks.iter().zip(first..) {
            placements.push(placed(core, file, index, block).await?);
        }
        Ok(Self {
            extent,
            first,
            blocks: placements,
            replicas: core.settings.replicas as usize,
        })
    }
}

/// Records blocks and renews the writer's lease and capability; the lease not of a file that a zone waits to encrypt.
pub(crate) async fn add<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    file: FileId,
    who: &Caller,
    report: Report,
) -> Result<pb::WriteGrant, MetadataError> {
    let lease_expires_ms = core.clock.now_ms() + core.settings.lease_ms;
    let extent = report.extent;
    check_quotas(&core.store, file, who, &report).await?;
    let edek = transact!(&core.store, [who, report], |txn| add_in(
        txn,
        file,
        &who,
        &report,
        lease_expires_ms
    ))
    .await?;
    // However many nodes are healthy now: the blocks are recorded and the writer may wait for more.
    Ok(pb::WriteGrant {
        edek: edek.as_ref().map(Edek::try_from).transpose()?.map(Into::into),
        ..write_grant(core, file, extent, &who.name)
    })
}

/// Tells a writer that a quota has no room for what he has written, before he writes the rest: in the end the commit decides. Looked at
/// in a view, since others change what the quotas have used.
async fn check_quotas(store: &impl Store, file: FileId, who: &Caller, report: &Report) -> Result<(), MetadataError> {
    let mut view = store.snapshot().await?;
    let open = access::open_file(&mut view, file).await?;
    // What replaces a whole file has its length.
    let Some(open) = open.filter(|open| open.owner == who.name.as_str() && open.replaces.is_none()) else {
        return Ok(());
    };
    let (directory, replaced) = match open.generation {
        0 => {
            let parent = access::file_id(&open.parent)?;
            let there = access::entry(&mut view, parent, &open.name).await?;
            (parent, there.and_then(|there| there.file).unwrap_or_default().length)
        }
        _ => (file, 0),
    };
    let Some(found) = climb(&mut view, who, directory).await? else {
        return Ok(());
    };
    let blocks = u64::from(report.first) + report.blocks.len() as u64;
    // The last block may be a short one.
    let written = blocks.saturating_sub(1) * u64::from(open.block_bytes) + blocks.min(1);
    quota::check(&mut view, &found.quotas, Usage::grown(replaced, written)).await
}

/// Answers with the file's EDEK, if it has one.
async fn add_in(
    txn: &mut impl Txn,
    file: FileId,
    who: &Caller,
    report: &Report,
    lease_expires_ms: u64,
) -> Result<Option<records::Edek>, MetadataError> {
    let mut open = owned(txn, file, report.extent, &who.name).await?;
    let granted_until_ms = std::mem::replace(&mut open.lease_expires_ms, lease_expires_ms);
    record(txn, file, &mut open, report).await?;
    access::put(txn, &keys::open_file(file), &open);
    match (&open.replaces, open.generation) {
        (Some(replaced), _) => {
            let (found, body) = unchanged(txn, who, replaced).await?;
            if open.is_plain() && found.zone.is_some() {
                return Err(MetadataError::Changed(found.path));
            }
            check_no_longer(file, &open, &body)?;
            Ok(open.edek)
        }
        (None, 0) => {
            if open.is_plain() {
                home(txn, file, who, &open).await?;
            }
            Ok(open.edek)
        }
        (None, _) => {
            let removed = || lost(file, &who.name, "it was removed");
            let found = climb(txn, who, file).await?.ok_or_else(removed)?;
            check_writing(who, &found)?;
            let body = access::body(txn, file).await?.ok_or_else(removed)?;
            if body.plain.is_some()
                && let Some(zone) = &found.zone
            {
                check_nothing_plain(&found, zone, report)?;
                open.lease_expires_ms = granted_until_ms;
                access::put(txn, &keys::open_file(file), &open);
            }
            Ok(current(txn, &body).await?.cloned())
        }
    }
}

/// What somebody adds to a file that is not encrypted ends with the commit that he has in hand, once a zone is to encrypt it: he is not to
/// write without end what everybody reads. Nor has the zone to wait for him without end: his lease is not prolonged.
fn check_nothing_plain(found: &Found, zone: &ZoneAt, report: &Report) -> Result<(), MetadataError> {
    if report.blocks.is_empty() {
        return Ok(());
    }
    Err(MetadataError::WrittenPlain {
        path: found.path.clone(),
        zone: zone.path.clone(),
    })
}

/// A second body has the bytes of the first one, so that no more of it needs to be stored.
fn check_no_longer(file: FileId, open: &records::OpenFile, body: &records::Body) -> Result<(), MetadataError> {
    let most = body.size().length.div_ceil(open.block_bytes.into());
    let recorded: u64 = open.extents.iter().map(|extent| u64::from(extent.blocks)).sum();
    if recorded <= most {
        return Ok(());
    }
    Err(MetadataError::Manifest {
        file,
        rule: format!("{recorded} blocks are recorded, and the file that is rewritten makes {most}"),
    })
}

/// Enters reported blocks into the lists of an open file. Known ones may come again, with further nodes.
pub(crate) async fn record(
    txn: &mut impl Txn,
    file: FileId,
    open: &mut records::OpenFile,
    report: &Report,
) -> Result<(), MetadataError> {
    let full = sealed_bytes(open.suite()?, open.block_bytes, open.frame_bytes);
    let id = report.extent;
    let bad = |rule: String| MetadataError::Manifest { file, rule };
    let extent = open.extents.iter_mut().find(|e| e.extent_id.as_ref() == id.as_bytes());
    let extent = extent.ok_or_else(|| bad(format!("extent {id} was not granted to its writer")))?;
    if report.first > extent.blocks {
        let next = extent.blocks;
        return Err(bad(format!("block {next} comes next, not block {}", report.first)));
    }
    let mut rest = report.blocks.as_slice();
    let mut index = report.first;
    while !rest.is_empty() {
        let room = keys::CHUNK_BLOCKS as usize - access::chunk_position(index);
        let (here, later) = rest.split_at(room.min(rest.len()));
        let start = BlockId { extent: id, index };
        let mut chunk = access::chunk(txn, start).await?;
        let (mut short, mut whole) = (Vec::new(), Vec::new());
        for block in here {
            let at = BlockId { extent: id, index };
            if index < extent.blocks {
                let nodes = merge(file, at, &mut chunk, block)?;
                let list = if nodes < report.replicas {
                    &mut short
                } else {
                    &mut whole
                };
                list.push(at);
            } else {
                append(extent, full, &mut chunk, block).map_err(bad)?;
                if block.nodes.len() < report.replicas {
                    short.push(at);
                }
            }
            index += 1;
        }
        counted::mark_deficits(txn, &short, true).await?;
        counted::mark_deficits(txn, &whole, false).await?;
        access::put(txn, &keys::chunk(start.extent, start.index), &chunk);
        rest = later;
    }
    Ok(())
}

/// Adds the next block of an extent, or says what rule it breaks. `full` is the length of a full block.
fn append(
    extent: &mut records::OpenExtent,
    full: u32,
    chunk: &mut records::BlockChunk,
    block: &records::Block,
) -> Result<(), String> {
    let index = extent.blocks;
    if index > 0 && extent.last_length != full {
        return Err(format!("block {} is not full, so none may follow it", index - 1));
    }
    if !(1..=full).contains(&block.length) {
        return Err(format!(
            "block {index} has {} bytes, 1 to {full} are possible",
            block.length
        ));
    }
    chunk.blocks.push(block.clone());
    extent.blocks += 1;
    extent.last_length = block.length;
    Ok(())
}

/// Adds the nodes of a block that comes again, and says how many of them count; its bytes must be the same.
fn merge(
    file: FileId,
    at: BlockId,
    chunk: &mut records::BlockChunk,
    again: &records::Block,
) -> Result<usize, MetadataError> {
    let known = chunk
        .blocks
        .get_mut(access::chunk_position(at.index))
        .ok_or(MetadataError::Corrupt { what: "block list" })?;
    if (known.length, known.crc32c) != (again.length, again.crc32c) {
        return Err(MetadataError::Manifest {
            file,
            rule: format!("block {at} was recorded with other bytes"),
        });
    }
    for node in &again.nodes {
        if !known.nodes.contains(node) && known.nodes.len() < NODES_PER_BLOCK_MAX {
            known.nodes.push(node.clone());
        }
    }
    Ok(counting(known, &BTreeSet::new()))
}

async fn placed<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    file: FileId,
    index: u32,
    block: &pb::BlockPlacement,
) -> Result<records::Block, MetadataError> {
    let nodes: BTreeSet<NodeId> = block.nodes.iter().map(|node| node.parse()).collect::<Result<_, _>>()?;
    let bad = |rule| Err(MetadataError::Manifest { file, rule });
    for node in &nodes {
        let known = core.cluster.address(node).is_some();
        if !known && core.address(&mut core.store.begin().await?, node).await?.is_none() {
            return bad(format!("block {index} names the node {node}, which never reported"));
        }
    }
    if nodes.len() > NODES_PER_BLOCK_MAX {
        return bad(format!(
            "block {index} is on {} nodes, at most {NODES_PER_BLOCK_MAX} are possible",
            nodes.len()
        ));
    }
    let needed = core.settings.min_replicas as usize;
    if nodes.len() < needed {
        return bad(format!(
            "block {index} is on {} nodes, at least {needed} are needed",
            nodes.len()
        ));
    }
    Ok(records::Block {
        length: block.length,
        crc32c: block.crc32c,
        nodes: nodes.iter().map(ToString::to_string).collect(),
        unread: Vec::new(),
    })
}

/// A page of the `shown` blocks of an extent, from `first`, with the nodes named in the order to ask them.
pub(crate) async fn page<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    txn: &mut impl Txn,
    extent: &records::Extent,
    shown: u32,
    first: u32,
) -> Result<(Vec<pb::BlockPlacement>, Vec<Target>), MetadataError> {
    let id = extent.id()?;
    let mut blocks = Vec::new();
    let mut index = first;
    while index < shown && blocks.len() < BLOCKS_PER_CALL_MAX {
        let chunk = access::chunk(txn, BlockId { extent: id, index }).await?;
        let here = chunk.blocks.get(access::chunk_position(index)..).unwrap_or_default();
        if here.is_empty() {
            return Err(MetadataError::Corrupt { what: "block list" });
        }
        let room = (BLOCKS_PER_CALL_MAX - blocks.len()).min((shown - index) as usize);
        blocks.extend(here.iter().take(room).map(|block| pb::BlockPlacement {
            length: block.length,
            crc32c: block.crc32c,
            nodes: core.cluster.to_ask(block),
        }));
        index += u32::try_from(here.len()).unwrap_or(u32::MAX);
    }
    let names: BTreeSet<&String> = blocks.iter().flat_map(|block| &block.nodes).collect();
    let mut targets = Vec::with_capacity(names.len());
    for name in names {
        if let Some(address) = core.address(txn, &name.parse()?).await? {
            let node_id = name.clone();
            targets.push(Target { node_id, address });
        }
    }
    Ok((blocks, targets))
}
