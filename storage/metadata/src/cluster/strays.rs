//! Blocks on a node's disk that are not recorded of it: from a put whose answer was lost, from a writer who went on after his file
//! was taken from him, from a copy that nobody heard of. One that its block lacks is recorded; one that nothing needs is deleted.
//!
//! Nothing is deleted that somebody may come to record: not what is younger than the settings say, and not blocks of a file that is
//! being written. An extent is granted to one writer, and stands in his open file from before the grant until the commit that records
//! its blocks or until it is given up: so what is in neither at one moment is never recorded later. A copy that a node was told to
//! make is not recorded any more once it is garbage.

use std::collections::{BTreeSet, HashMap};

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, ExtentId, NodeId, metadata::v1::Replica};

use super::{
    Cluster,
    replicas::{counting, has, lost_in, settle},
};
use crate::{
    error::MetadataError,
    schema::{access, access::transact, counted, keys, records},
};

/// Open files read at once.
const OPEN_PER_PAGE: usize = 1000;
/// Blocks dealt with in one transaction.
const AT_ONCE: usize = 200;

/// What to do with a block that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is as recorded, or not old enough to be judged.
    Leave,
    /// It is recorded and was put aside.
    Lost,
    /// Its block lacks a replica.
    Adopt,
    /// Nothing needs it.
    Delete,
}

/// A block that a node has.
#[derive(Debug, Clone)]
struct Found {
    id: BlockId,
    replica: Replica,
}

/// Who has it, and what counts.
#[derive(Debug, Clone)]
struct Question {
    node: NodeId,
    wanted: usize,
    stray_ms: u64,
    gone: BTreeSet<NodeId>,
}

/// Deals with a page of what a node has.
pub(crate) async fn compare(
    store: &impl Store,
    cluster: &Cluster,
    node: &NodeId,
    replicas: Vec<Replica>,
) -> Result<(), MetadataError> {
    let question = Question {
        node: node.clone(),
        wanted: cluster.replicas(),
        stray_ms: cluster.stray_ms(),
        gone: cluster.gone(),
    };
    let odd = odd_ones(store, &question, replicas).await?;
    let mut deleted = 0;
    for some in odd.chunks(AT_ONCE) {
        let some = some.to_vec();
        deleted += transact!(store, [question, some], |txn| settle_all(txn, &question, &some)).await?;
    }
    if deleted > 0 {
        tracing::warn!(%node, blocks = deleted, "blocks that nothing needs are deleted");
    }
    Ok(())
}

/// Those that something is to be done about.
async fn odd_ones(
    store: &impl Store,
    question: &Question,
    replicas: Vec<Replica>,
) -> Result<Vec<Found>, MetadataError> {
    let mut view = store.snapshot().await?;
    let (mut chunks, mut odd) = (HashMap::new(), Vec::new());
    let mut is_any_unknown = false;
    for replica in replicas {
        let id = BlockId::try_from(replica.block_id.clone())?;
        let known = known(&mut view, &mut chunks, id).await?;
        if question.verdict(known, &replica) != Verdict::Leave {
            is_any_unknown |= known.is_none();
            odd.push(Found { id, replica });
        }
    }
    if is_any_unknown {
        let open = open_extents(&mut view).await?;
        odd.retain(|found| !open.contains(&found.id.extent));
    }
    Ok(odd)
}

/// What is recorded of a block. Blocks of one chunk come one after the other, so that one chunk is kept.
async fn known<'c>(
    reader: &mut impl Reader,
    chunks: &'c mut HashMap<Vec<u8>, records::BlockChunk>,
    id: BlockId,
) -> Result<Option<&'c records::Block>, MetadataError> {
    let key = keys::chunk(id.extent, id.index);
    if !chunks.contains_key(&key) {
        chunks.clear();
        chunks.insert(key.clone(), access::chunk(reader, id).await?);
    }
    let chunk = chunks.get(&key);
    Ok(chunk.and_then(|chunk| chunk.blocks.get(access::chunk_position(id.index))))
}

impl Question {
    fn verdict(&self, known: Option<&records::Block>, replica: &Replica) -> Verdict {
        let Some(known) = known else {
            return self.if_old(replica, Verdict::Delete);
        };
        let is_same = (known.length, known.crc32c) == (replica.length, replica.crc32c);
        match (has(known, &self.node), replica.aside) {
            (true, true) => Verdict::Lost,
            // Damaged ones are kept for people to look at until the block goes.
            (true, false) | (false, true) => Verdict::Leave,
            (false, false) if is_same && counting(known, &self.gone) < self.wanted => Verdict::Adopt,
            (false, false) => self.if_old(replica, Verdict::Delete),
        }
    }

    const fn if_old(&self, replica: &Replica, verdict: Verdict) -> Verdict {
        if replica.age_ms >= self.stray_ms {
            verdict
        } else {
            Verdict::Leave
        }
    }
}

/// The extents of all files being written.
pub(crate) async fn open_extents(reader: &mut impl Reader) -> Result<BTreeSet<ExtentId>, MetadataError> {
    let (mut extents, mut range) = (BTreeSet::new(), keys::open_files());
    loop {
        let found = access::page(reader, &range, OPEN_PER_PAGE).await?;
        for (_, value) in &found {
            let open: records::OpenFile = access::decode(value.clone(), "open file")?;
            for extent in &open.extents {
                extents.insert(extent.extent_id.as_ref().try_into()?);
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == OPEN_PER_PAGE => range = range.after(last),
            _ => return Ok(extents),
        }
    }
}

/// Looks once more and does what is to be done. Says how many are deleted.
async fn settle_all(txn: &mut impl Txn, question: &Question, odd: &[Found]) -> Result<u64, MetadataError> {
    let mut deleted = Vec::new();
    for Found { id, replica } in odd {
        let mut chunk = access::chunk(txn, *id).await?;
        let position = access::chunk_position(id.index);
        match question.verdict(chunk.blocks.get(position), replica) {
            Verdict::Leave => {}
            Verdict::Lost => _ = lost_in(txn, *id, &question.node).await?,
            Verdict::Delete => deleted.push(*id),
            Verdict::Adopt => {
                let is_doomed = txn.get(&keys::garbage(&question.node, *id)).await?.is_some();
                if let (false, Some(known)) = (is_doomed, chunk.blocks.get_mut(position)) {
                    known.nodes.push(question.node.to_string());
                    settle(txn, *id, known, question.wanted, &question.gone).await?;
                    access::put(txn, &keys::chunk(id.extent, id.index), &chunk);
                }
            }
        }
    }
    counted::put_garbage(txn, &question.node, &deleted).await?;
    Ok(deleted.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            node: "n1".parse().expect("valid"),
            wanted: 3,
            stray_ms: 1000,
            gone: BTreeSet::from(["n9".parse().expect("valid")]),
        }
    }

    fn on(nodes: &[&str]) -> Option<records::Block> {
        Some(records::Block {
            length: 10,
            crc32c: 7,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        })
    }

    #[test]
    fn nothing_is_deleted_that_a_block_lacks_or_that_is_young() {
        let replica = |age_ms| Replica {
            length: 10,
            crc32c: 7,
            age_ms,
            ..Replica::default()
        };
        let other = Replica {
            crc32c: 8,
            ..replica(1000)
        };
        let aside = |age_ms| Replica {
            aside: true,
            length: 0,
            crc32c: 0,
            ..replica(age_ms)
        };
        for (known, replica, verdict) in [
            (None, replica(999), Verdict::Leave),
            (None, replica(1000), Verdict::Delete),
            (None, aside(1000), Verdict::Delete),
            (on(&["n1", "n2"]), replica(1000), Verdict::Leave),
            (on(&["n1", "n2"]), aside(0), Verdict::Lost),
            (on(&["n2", "n3"]), replica(0), Verdict::Adopt),
            (on(&["n2", "n3", "n9"]), replica(0), Verdict::Adopt),
            (on(&["n2", "n3", "n4"]), replica(999), Verdict::Leave),
            (on(&["n2", "n3", "n4"]), replica(1000), Verdict::Delete),
            (on(&["n2", "n3"]), other.clone(), Verdict::Delete),
            (on(&["n2", "n3"]), aside(1000), Verdict::Leave),
        ] {
            assert_eq!(
                question().verdict(known.as_ref(), &replica),
                verdict,
                "{known:?} {replica:?}"
            );
        }
    }
}
