//! What reports of block nodes change in the store: replicas won, replicas lost, garbage gone, nodes known.

use std::collections::BTreeSet;

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, Incarnation, NodeId};

use super::nodes::Standing;
use crate::{
    duty::Fence,
    error::MetadataError,
    schema::{
        access,
        access::{told, transact},
        counted, keys, records,
    },
};

/// Replicas of which is recorded in one transaction what a node said.
const AT_ONCE: usize = 200;

/// How many replicas a block has, those on `gone` nodes not counted, nor those that their disks did not give back.
pub(crate) fn counting(block: &records::Block, gone: &BTreeSet<NodeId>) -> usize {
    let is_gone = |name: &String| gone.iter().any(|node| node.as_str() == name);
    let counts = |name: &&String| !is_gone(name) && !block.unread.contains(name);
    block.nodes.iter().filter(counts).count()
}

/// Replicas on nodes that report, whose data directory is the one in which they were recorded, and whose disk gave back all of its files
/// when it told last: those that are there, as far as anybody can know who does not ask for them now.
pub(super) async fn sure(
    reader: &mut impl Reader,
    block: &records::Block,
    standing: &Standing,
) -> Result<usize, MetadataError> {
    let mut sure = 0;
    let read = block.nodes.iter().filter(|name| !block.unread.contains(name));
    for node in read.filter_map(|name| name.parse::<NodeId>().ok()) {
        sure += usize::from(standing.heard.contains(&node) && is_trusted(reader, &node).await?);
    }
    Ok(sure)
}

/// Those of the nodes that report whose replicas are sure, but for those that a disk did not give back.
pub(super) async fn trusted(
    reader: &mut impl Reader,
    heard: &BTreeSet<NodeId>,
) -> Result<BTreeSet<NodeId>, MetadataError> {
    let mut trusted = BTreeSet::new();
    for node in heard {
        if is_trusted(reader, node).await? {
            trusted.insert(node.clone());
        }
    }
    Ok(trusted)
}

async fn is_trusted(reader: &mut impl Reader, node: &NodeId) -> Result<bool, MetadataError> {
    let record = told(
        access::record::<records::Node>(reader, &keys::node(node), "node").await,
        node.as_str(),
    )?;
    let gives_back = |record: &records::Node| record.unreadable == 0 && !record.untold;
    let is_trusted = |record: records::Node| record.unchecked_since_ms == 0 && gives_back(&record);
    Ok(record.flatten().is_some_and(is_trusted))
}

/// The chunk of a block; none if it cannot be read, which is logged: it is not to keep others from being dealt with.
pub(crate) async fn readable(
    reader: &mut impl Reader,
    block: BlockId,
) -> Result<Option<records::BlockChunk>, MetadataError> {
    told(access::chunk(reader, block).await, &block.to_string())
}

/// Whether a node is to delete a block, by itself or with all of its extent.
pub(crate) async fn is_doomed(reader: &mut impl Reader, node: &NodeId, block: BlockId) -> Result<bool, MetadataError> {
    let every = BlockId {
        index: keys::EVERY_BLOCK,
        ..block
    };
    let by_itself = access::there(reader, &keys::garbage(node, block)).await?;
    Ok(by_itself || access::there(reader, &keys::garbage(node, every)).await?)
}

/// Records that `node` has `block`, as it says itself, and ends the block's deficit if that makes `wanted` replicas.
pub(crate) async fn won(
    store: &impl Store,
    block: BlockId,
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    transact!(store, [node, standing], |txn| won_in(
        txn, block, &node, wanted, &standing
    ))
    .await
}

async fn won_in(
    txn: &mut impl Txn,
    block: BlockId,
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    let Some(mut chunk) = readable(txn, block).await? else {
        return Ok(());
    };
    let Some(known) = chunk.blocks.get_mut(access::chunk_position(block.index)) else {
        // The file went while its block was on the way: the new replica is garbage at once.
        counted::mark_deficits(txn, &[block], false).await?;
        return counted::put_garbage(txn, node, &[block]).await;
    };
    // Meanwhile it was found that nothing needs a copy there: it is being deleted.
    if !has(known, node) && is_doomed(txn, node, block).await? {
        return Ok(());
    }
    if !has(known, node) {
        known.nodes.push(node.to_string());
    }
    known.unread.retain(|name| name != node.as_str());
    settle(txn, block, known, wanted, standing).await?;
    access::put(txn, &keys::chunk(block.extent, block.index), &chunk);
    Ok(())
}

/// Ends the deficits of those of `blocks` that have `wanted` replicas, or are gone themselves, and has gone nodes give theirs up.
pub(crate) async fn settled(
    store: &impl Store,
    blocks: &[BlockId],
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for some in blocks.chunks(AT_ONCE) {
        let some = some.to_vec();
        transact!(store, [some, standing], |txn| settle_all(txn, &some, wanted, &standing)).await?;
    }
    Ok(())
}

async fn settle_all(
    txn: &mut impl Txn,
    blocks: &[BlockId],
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for block in blocks {
        let Some(mut chunk) = readable(txn, *block).await? else {
            continue;
        };
        match chunk.blocks.get_mut(access::chunk_position(block.index)) {
            Some(known) => {
                if settle(txn, *block, known, wanted, standing).await? {
                    access::put(txn, &keys::chunk(block.extent, block.index), &chunk);
                }
            }
            None => counted::mark_deficits(txn, &[*block], false).await?,
        }
    }
    Ok(())
}

/// Marks or clears a block's deficit. Only once it surely has all its replicas on other nodes does a node that is gone lose its own:
/// should it come back, it is told to delete it. Until then its replica stays recorded, and the block waits for nothing: [`super::gone`]
/// looks again. Says whether one lost it.
async fn settle(
    txn: &mut impl Txn,
    block: BlockId,
    known: &mut records::Block,
    wanted: usize,
    standing: &Standing,
) -> Result<bool, MetadataError> {
    let gone: Vec<NodeId> = standing.gone.iter().filter(|node| has(known, node)).cloned().collect();
    let is_short = counting(known, &standing.gone) < wanted;
    let gives_up = !gone.is_empty() && !is_short && sure(txn, known, standing).await? >= wanted;
    counted::mark_deficits(txn, &[block], is_short).await?;
    if gives_up {
        for node in &gone {
            counted::put_garbage(txn, node, &[block]).await?;
        }
        drop_from(known, &gone);
    }
    Ok(gives_up)
}

/// Records that the copy of `block` on `node` is bad. The last replica that a disk gives back stays listed: a damaged copy is better than
/// none. Says whether another one is left.
///
/// The node is not told to delete anything: it has put the bad file aside itself, and a report that comes late must
/// not cost a good copy that was made since.
pub(crate) async fn lost(store: &impl Store, block: BlockId, node: &NodeId) -> Result<bool, MetadataError> {
    transact!(store, [node], |txn| lost_in(txn, block, &node)).await
}

/// The same for blocks that a node was asked for and has not.
pub(crate) async fn lost_all(store: &impl Store, blocks: &[BlockId], node: &NodeId) -> Result<(), MetadataError> {
    for some in blocks.chunks(AT_ONCE) {
        let some = some.to_vec();
        transact!(store, [some, node], |txn| lost_some(txn, &some, &node)).await?;
    }
    Ok(())
}

/// Records that a node's disk does not give blocks back. It may some day: they stay recorded there, and do not count.
pub(crate) async fn doubt_all(
    store: &impl Store,
    blocks: &[BlockId],
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for some in blocks.chunks(AT_ONCE) {
        let some = some.to_vec();
        transact!(store, [some, node, standing], |txn| doubt_some(
            txn, &some, &node, wanted, &standing
        ))
        .await?;
    }
    Ok(())
}

/// Those that were doubted before are looked at as well: one may have too few replicas and not wait for more.
async fn doubt_some(
    txn: &mut impl Txn,
    blocks: &[BlockId],
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for block in blocks {
        let Some(mut chunk) = readable(txn, *block).await? else {
            continue;
        };
        let known = chunk.blocks.get_mut(access::chunk_position(block.index));
        if let Some(known) = known.filter(|known| has(known, node)) {
            let is_new = !is_unread(known, node);
            if is_new {
                known.unread.push(node.to_string());
            }
            if settle(txn, *block, known, wanted, standing).await? || is_new {
                access::put(txn, &keys::chunk(block.extent, block.index), &chunk);
            }
        }
    }
    Ok(())
}

/// Records that a node's disk gives blocks back again.
pub(crate) async fn trust_all(
    store: &impl Store,
    blocks: &[BlockId],
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for some in blocks.chunks(AT_ONCE) {
        let some = some.to_vec();
        transact!(store, [some, node, standing], |txn| trust_some(
            txn, &some, &node, wanted, &standing
        ))
        .await?;
    }
    Ok(())
}

async fn trust_some(
    txn: &mut impl Txn,
    blocks: &[BlockId],
    node: &NodeId,
    wanted: usize,
    standing: &Standing,
) -> Result<(), MetadataError> {
    for block in blocks {
        let Some(mut chunk) = readable(txn, *block).await? else {
            continue;
        };
        let known = chunk.blocks.get_mut(access::chunk_position(block.index));
        if let Some(known) = known.filter(|known| is_unread(known, node)) {
            known.unread.retain(|name| name != node.as_str());
            settle(txn, *block, known, wanted, standing).await?;
            access::put(txn, &keys::chunk(block.extent, block.index), &chunk);
        }
    }
    Ok(())
}

async fn lost_some(txn: &mut impl Txn, blocks: &[BlockId], node: &NodeId) -> Result<(), MetadataError> {
    for block in blocks {
        lost_in(txn, *block, node).await?;
    }
    Ok(())
}

pub(super) async fn lost_in(txn: &mut impl Txn, block: BlockId, node: &NodeId) -> Result<bool, MetadataError> {
    let Some(mut chunk) = readable(txn, block).await? else {
        return Ok(true);
    };
    let Some(known) = chunk.blocks.get_mut(access::chunk_position(block.index)) else {
        return Ok(true);
    };
    if !has(known, node) {
        return Ok(true);
    }
    counted::mark_deficits(txn, &[block], true).await?;
    let is_readable = |name: &String| name != node.as_str() && !known.unread.contains(name);
    if !known.nodes.iter().any(is_readable) {
        return Ok(false);
    }
    drop_from(known, std::slice::from_ref(node));
    access::put(txn, &keys::chunk(block.extent, block.index), &chunk);
    Ok(true)
}

/// Records that `node` deleted `blocks`, if the term that told it so is not over: after it another instance may have
/// recorded that, and given the node a new copy or new garbage of the same name.
pub(crate) async fn deleted(
    store: &impl Store,
    node: &NodeId,
    blocks: Vec<BlockId>,
    fence: Fence,
) -> Result<(), MetadataError> {
    transact!(store, [node, blocks, fence], |txn| deleted_in(
        txn, &node, &blocks, fence
    ))
    .await
}

async fn deleted_in(txn: &mut impl Txn, node: &NodeId, blocks: &[BlockId], fence: Fence) -> Result<(), MetadataError> {
    if !fence.holds(txn).await? {
        return Ok(());
    }
    counted::delete_garbage(txn, node, blocks).await
}

/// Records a node's address, so that readers find it right after a restart of this service, and its data directory. Says whether it has
/// another one than before: then somebody has to look which of its replicas are there.
pub(crate) async fn node_seen(
    store: &impl Store,
    node: &NodeId,
    address: &str,
    incarnation: Option<Incarnation>,
    now_ms: u64,
) -> Result<bool, MetadataError> {
    let address = address.to_owned();
    transact!(store, [node, address], |txn| node_seen_in(
        txn,
        &node,
        address,
        incarnation,
        now_ms
    ))
    .await
}

async fn node_seen_in(
    txn: &mut impl Txn,
    node: &NodeId,
    address: String,
    incarnation: Option<Incarnation>,
    now_ms: u64,
) -> Result<bool, MetadataError> {
    let known = access::record::<records::Node>(txn, &keys::node(node), "node").await;
    let mut record = told(known, node.as_str())?.flatten().unwrap_or_default();
    let its_own = incarnation.map_or_else(|| record.incarnation.clone(), Into::into);
    let is_another = !record.incarnation.is_empty() && record.incarnation != its_own;
    if is_another {
        let inventory = access::record::<records::Inventory>(txn, &keys::inventory(), "inventory").await;
        let begun = told(inventory, "inventory")?.flatten().unwrap_or_default();
        // No clocks are compared: passes that have begun by now may have asked the other directory.
        record.unchecked_since_ms = now_ms.max(1);
        record.unchecked_after_pass = begun.pass;
        // What the other directory's disk told says nothing of this one.
        (record.unreadable, record.untold) = (0, false);
        (record.strays_kept, record.strays_wait) = (0, false);
    }
    record.incarnation = its_own;
    record.address = address;
    access::put(txn, &keys::node(node), &record);
    Ok(is_another)
}

pub(super) fn has(block: &records::Block, node: &NodeId) -> bool {
    block.nodes.iter().any(|name| name == node.as_str())
}

fn is_unread(block: &records::Block, node: &NodeId) -> bool {
    block.unread.iter().any(|name| name == node.as_str())
}

/// Takes nodes off a block's record.
fn drop_from(block: &mut records::Block, nodes: &[NodeId]) {
    let is_dropped = |name: &String| nodes.iter().any(|node| node.as_str() == name);
    block.nodes.retain(|name| !is_dropped(name));
    block.unread.retain(|name| !is_dropped(name));
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;
    use strongroom_proto::ExtentId;

    use super::*;

    const BLOCK: BlockId = BlockId {
        extent: ExtentId::from_bytes([1; 16]),
        index: 0,
    };

    fn names(nodes: &[&str]) -> Vec<String> {
        nodes.iter().map(ToString::to_string).collect()
    }

    /// The nodes with the block and those of them that did not give it back, and whether it waits for a copy.
    type Recorded = (Vec<String>, Vec<String>, bool);

    fn recorded(nodes: &[&str], unread: &[&str], waits: bool) -> Recorded {
        (names(nodes), names(unread), waits)
    }

    async fn put(store: &impl Store, nodes: &[&str], unread: &[&str]) {
        let block = records::Block {
            nodes: names(nodes),
            unread: names(unread),
            ..records::Block::default()
        };
        let chunk = records::BlockChunk { blocks: vec![block] };
        let mut txn = store.begin().await.expect("a transaction");
        access::put(&mut txn, &keys::chunk(BLOCK.extent, BLOCK.index), &chunk);
        counted::mark_deficits(&mut txn, &[BLOCK], false)
            .await
            .expect("cleared");
        txn.commit().await.expect("committed");
    }

    async fn now(store: &impl Store) -> Recorded {
        let mut view = store.snapshot().await.expect("a view");
        let chunk = access::chunk(&mut view, BLOCK).await.expect("readable");
        let waits = access::there(&mut view, &keys::deficit(BLOCK)).await.expect("readable");
        let block = chunk.blocks.into_iter().next().expect("a block");
        (block.nodes, block.unread, waits)
    }

    fn store(dir: &tempfile::TempDir) -> EmbeddedStore {
        EmbeddedStore::open(&dir.path().join("store")).expect("a store")
    }

    /// A damaged copy is better than one that no disk gives back.
    #[tokio::test]
    async fn the_last_copy_that_a_disk_gives_back_stays_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        let b = "b".parse().expect("valid");
        for (nodes, unread, kept, kept_unread) in [
            (&["a", "b"][..], &[][..], &["a"][..], &[][..]),
            (&["a", "b"], &["a"], &["a", "b"], &["a"]),
            (&["a", "b"], &["b"], &["a"], &[]),
            (&["a", "b"], &["a", "b"], &["a", "b"], &["a", "b"]),
            (&["a", "b", "c"], &["a"], &["a", "c"], &["a"]),
            (&["b"], &[], &["b"], &[]),
        ] {
            put(&store, nodes, unread).await;
            let is_dropped = lost(&store, BLOCK, &b).await.expect("recorded");
            assert_eq!(is_dropped, nodes.len() > kept.len(), "{nodes:?}, unread {unread:?}");
            assert_eq!(
                now(&store).await,
                recorded(kept, kept_unread, true),
                "{nodes:?}, unread {unread:?}"
            );
        }
        put(&store, &["a"], &[]).await;
        assert!(lost(&store, BLOCK, &b).await.expect("recorded"), "it never had one");
        assert_eq!(now(&store).await, recorded(&["a"], &[], false));
    }

    /// Also if that was known, and the row is missing that says that the block waits for a copy; not if it has enough without.
    #[tokio::test]
    async fn what_a_disk_does_not_give_back_waits_for_a_copy() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        let c = "c".parse().expect("valid");
        let (three, four) = (["a", "b", "c"], ["a", "b", "c", "d"]);
        for (nodes, before, unread, waits) in [
            (&three[..], &[][..], &["c"][..], true),
            (&three, &["c"], &["c"], true),
            (&four, &["c"], &["c"], false),
            (&four, &["d"], &["d", "c"], true),
        ] {
            put(&store, nodes, before).await;
            let standing = Standing::default();
            doubt_all(&store, &[BLOCK], &c, 3, &standing).await.expect("recorded");
            assert_eq!(now(&store).await, recorded(nodes, unread, waits), "{before:?}");
            trust_all(&store, &[BLOCK], &c, 3, &standing).await.expect("recorded");
            let rest = &unread[..unread.len() - 1];
            assert_eq!(now(&store).await, recorded(nodes, rest, false), "{before:?}");
        }
        put(&store, &three, &[]).await;
        let d = "d".parse().expect("valid");
        doubt_all(&store, &[BLOCK], &d, 3, &Standing::default())
            .await
            .expect("recorded");
        assert_eq!(
            now(&store).await,
            recorded(&three, &[], false),
            "it is recorded there no more"
        );
    }

    #[tokio::test]
    async fn what_a_disk_told_is_forgotten_when_another_one_takes_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        let node: NodeId = "a".parse().expect("valid");
        let [old, new] = [(); 2].map(|()| Some(Incarnation::generate()));
        let seen = async |incarnation| {
            let seen = node_seen(&store, &node, "a.test:1", incarnation, 5).await;
            seen.expect("recorded")
        };
        // Its record, and whether it is trusted.
        let now = async || {
            let mut view = store.snapshot().await.expect("a view");
            let record: Option<records::Node> = access::record(&mut view, &keys::node(&node), "node")
                .await
                .expect("readable");
            let trusted = trusted(&mut view, &BTreeSet::from([node.clone()]))
                .await
                .expect("readable");
            (record.expect("known"), trusted.contains(&node))
        };
        assert!(!seen(old).await && now().await.1);
        let told = records::Node {
            unreadable: 2,
            untold: true,
            strays_kept: 3,
            strays_wait: true,
            ..now().await.0
        };
        let mut txn = store.begin().await.expect("a transaction");
        access::put(&mut txn, &keys::node(&node), &told);
        txn.commit().await.expect("committed");
        assert!(!seen(old).await, "it is the same");
        assert_eq!(now().await, (told.clone(), false));
        assert!(seen(new).await);
        let fresh = records::Node {
            address: told.address,
            incarnation: new.expect("drawn").into(),
            unchecked_since_ms: 5,
            ..records::Node::default()
        };
        assert_eq!(now().await, (fresh, false), "nobody has looked what it has");
    }
}
