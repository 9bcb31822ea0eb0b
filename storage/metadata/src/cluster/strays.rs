//! Blocks on a node's disk that are not recorded of it: from a put whose answer was lost, from a writer who went on after his file
//! was taken from him, from a copy that nobody heard of. One that its block lacks is recorded; one that nothing needs is deleted.
//!
//! Nothing is deleted that somebody may come to record: not what is younger than the settings say, and not blocks of a file that is
//! being written. An extent is granted to one writer, and stands in his open file from before the grant until the commit that records
//! its blocks or until it is given up: so what is in neither at one moment is never recorded later. A copy that a node was told to
//! make is not recorded any more once it is garbage. A copy too many goes only if there are surely enough others.
//!
//! What is in no record counts at any age: how much there is of it says whether the namespace is an old copy, and is not to be
//! known a slice at a time, as the blocks get old. What waits to be deleted anyway does not count.
//!
//! A page may be old when it is dealt with: a copy that is found is recorded when its node, asked again, has it.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, ExtentId, NodeId, metadata::v1::Replica};

use super::{
    Cluster,
    commands::Expected,
    nodes::Standing,
    replicas::{counting, has, is_doomed, lost_in, readable, sure},
};
use crate::{
    duty::Fence,
    error::MetadataError,
    schema::{
        access,
        access::{told, transact},
        counted, keys, records,
    },
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
    /// Its block is recorded otherwise, or on enough other nodes, so many of which have to be sure.
    Surplus { sure: usize },
    /// It is in no record. A young one only counts.
    Unknown { is_old: bool },
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
    standing: Standing,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Blocks that nothing needs, those in no record at any age.
    pub(crate) strays: u64,
    /// Those of them that are deleted now: no young ones.
    pub(crate) deleted: u64,
}

/// Deals with a page of what a node has. Of what nothing needs, at most `delete_max` blocks are deleted, and none once the term of
/// `fence` is over: the next one counts for itself what may be.
pub(crate) async fn compare(
    store: &impl Store,
    cluster: &Cluster,
    node: &NodeId,
    replicas: Vec<Replica>,
    delete_max: u64,
    fence: Fence,
) -> Result<Compared, MetadataError> {
    let question = Question {
        node: node.clone(),
        wanted: cluster.replicas(),
        stray_ms: cluster.stray_ms(),
        standing: cluster.standing(),
    };
    let mut odd = odd_ones(store, &question, replicas).await?;
    let adopted = odd.extract_if(.., |(_, verdict)| *verdict == Verdict::Adopt);
    let adopted = adopted.map(|(found, _)| found.expected()).collect();
    cluster.commands().confirm(node, adopted);
    let (lost, mut strays): (Vec<_>, Vec<_>) = odd.into_iter().partition(|(_, verdict)| *verdict == Verdict::Lost);
    let mut compared = Compared {
        strays: strays.len() as u64,
        deleted: 0,
    };
    strays.retain(|(_, verdict)| !verdict.is_young());
    strays.truncate(usize::try_from(delete_max).unwrap_or(usize::MAX));
    let some: Vec<Found> = lost.into_iter().chain(strays).map(|(found, _)| found).collect();
    for some in some.chunks(AT_ONCE) {
        let some = some.to_vec();
        compared.deleted += transact!(store, [question, some, fence], |txn| settle_all(
            txn, &question, &some, fence
        ))
        .await?;
    }
    if compared.deleted > 0 {
        tracing::warn!(%node, blocks = compared.deleted, "blocks that nothing needs are deleted");
    }
    Ok(compared)
}

/// Those that something is to be done about.
async fn odd_ones(
    store: &impl Store,
    question: &Question,
    replicas: Vec<Replica>,
) -> Result<Vec<(Found, Verdict)>, MetadataError> {
    let mut view = store.snapshot().await?;
    let (mut chunks, mut odd) = (HashMap::new(), Vec::new());
    for replica in replicas {
        let id = BlockId::try_from(replica.block_id.clone())?;
        let Some(known) = known(&mut view, &mut chunks, id).await? else {
            continue;
        };
        let verdict = question.verdict(known.as_ref(), &replica);
        if question.is_to_act(&mut view, id, known.as_ref(), verdict).await? {
            odd.push((Found { id, replica }, verdict));
        }
    }
    if odd.iter().any(|(_, verdict)| verdict.is_unknown()) {
        let open = open_extents(&mut view).await?;
        let is_open = |found: &Found| open.as_ref().is_none_or(|open| open.contains(&found.id.extent));
        odd.retain(|(found, verdict)| !verdict.is_unknown() || !is_open(found));
    }
    Ok(odd)
}

impl Verdict {
    const fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    const fn is_young(self) -> bool {
        matches!(self, Self::Unknown { is_old: false })
    }
}

impl Found {
    const fn expected(&self) -> Expected {
        Expected {
            id: self.id,
            length: self.replica.length,
            crc32c: self.replica.crc32c,
        }
    }
}

/// What is recorded of a block; nothing at all if that cannot be read. Blocks of one chunk come one after the other, so that one chunk is kept.
async fn known(
    reader: &mut impl Reader,
    chunks: &mut HashMap<Vec<u8>, Option<records::BlockChunk>>,
    id: BlockId,
) -> Result<Option<Option<records::Block>>, MetadataError> {
    let key = keys::chunk(id.extent, id.index);
    if !chunks.contains_key(&key) {
        chunks.clear();
        chunks.insert(key.clone(), readable(reader, id).await?);
    }
    let Some(Some(chunk)) = chunks.get(&key) else {
        return Ok(None);
    };
    Ok(Some(chunk.blocks.get(access::chunk_position(id.index)).cloned()))
}

impl Question {
    fn verdict(&self, known: Option<&records::Block>, replica: &Replica) -> Verdict {
        let Some(known) = known else {
            return Verdict::Unknown {
                is_old: self.is_old(replica),
            };
        };
        let is_same = (known.length, known.crc32c) == (replica.length, replica.crc32c);
        match (has(known, &self.node), replica.aside) {
            (true, true) => Verdict::Lost,
            // Damaged ones are kept for people to look at until the block goes.
            (true, false) | (false, true) => Verdict::Leave,
            (false, false) if !is_same => self.if_old(replica, Verdict::Surplus { sure: 1 }),
            (false, false) if counting(known, &self.standing.gone) < self.wanted => Verdict::Adopt,
            (false, false) => self.if_old(replica, Verdict::Surplus { sure: self.wanted }),
        }
    }

    /// Whether a verdict counts. A copy too many is kept while others are not sure to be there; what waits to be deleted is dealt with.
    async fn is_to_act(
        &self,
        reader: &mut impl Reader,
        id: BlockId,
        known: Option<&records::Block>,
        verdict: Verdict,
    ) -> Result<bool, MetadataError> {
        match (verdict, known) {
            (Verdict::Leave, _) => Ok(false),
            (Verdict::Lost | Verdict::Adopt, _) => Ok(true),
            (Verdict::Surplus { sure: least }, Some(known)) if sure(reader, known, &self.standing).await? < least => {
                Ok(false)
            }
            (Verdict::Surplus { .. } | Verdict::Unknown { .. }, _) => Ok(!is_doomed(reader, &self.node, id).await?),
        }
    }

    const fn is_old(&self, replica: &Replica) -> bool {
        replica.age_ms >= self.stray_ms
    }

    const fn if_old(&self, replica: &Replica, verdict: Verdict) -> Verdict {
        if self.is_old(replica) { verdict } else { Verdict::Leave }
    }
}

/// The extents of all files being written; none if one of those cannot be read, so that nobody can say.
pub(crate) async fn open_extents(reader: &mut impl Reader) -> Result<Option<BTreeSet<ExtentId>>, MetadataError> {
    let (mut extents, mut range) = (BTreeSet::new(), keys::open_files());
    loop {
        let found = access::page(reader, &range, OPEN_PER_PAGE).await?;
        for (key, value) in &found {
            match told(extents_of(value), &hex::encode(key))? {
                Some(of_file) => extents.extend(of_file),
                None => return Ok(None),
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == OPEN_PER_PAGE => range = range.after(last),
            _ => return Ok(Some(extents)),
        }
    }
}

fn extents_of(open: &Bytes) -> Result<Vec<ExtentId>, MetadataError> {
    let open: records::OpenFile = access::decode(open.clone(), "open file")?;
    let extents = open.extents.iter().map(|extent| extent.extent_id.as_ref().try_into());
    Ok(extents.collect::<Result<_, _>>()?)
}

/// Looks once more and does what is to be done. Says how many are deleted.
async fn settle_all(
    txn: &mut impl Txn,
    question: &Question,
    odd: &[Found],
    fence: Fence,
) -> Result<u64, MetadataError> {
    if !fence.holds(txn).await? {
        return Ok(0);
    }
    let mut deleted = Vec::new();
    for Found { id, replica } in odd {
        let Some(chunk) = readable(txn, *id).await? else {
            continue;
        };
        let known = chunk.blocks.get(access::chunk_position(id.index));
        let verdict = question.verdict(known, replica);
        if !question.is_to_act(txn, *id, known, verdict).await? {
            continue;
        }
        match verdict {
            Verdict::Lost => _ = lost_in(txn, *id, &question.node).await?,
            Verdict::Surplus { .. } | Verdict::Unknown { is_old: true } => deleted.push(*id),
            Verdict::Leave | Verdict::Adopt | Verdict::Unknown { is_old: false } => {}
        }
    }
    counted::put_garbage(txn, &question.node, &deleted).await?;
    Ok(deleted.len() as u64)
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;
    use strongroom_proto::Clock;

    use super::*;
    use crate::duty::Duty;

    fn question() -> Question {
        Question {
            node: "n1".parse().expect("valid"),
            wanted: 3,
            stray_ms: 1000,
            standing: Standing {
                gone: BTreeSet::from(["n9".parse().expect("valid")]),
                heard: BTreeSet::new(),
            },
        }
    }

    fn on(nodes: &[&str]) -> Option<records::Block> {
        Some(records::Block {
            length: 10,
            crc32c: 7,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            unread: Vec::new(),
        })
    }

    fn unread(node: &str, nodes: &[&str]) -> Option<records::Block> {
        let unread = vec![node.to_owned()];
        on(nodes).map(|block| records::Block { unread, ..block })
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
            (None, replica(999), Verdict::Unknown { is_old: false }),
            (None, replica(1000), Verdict::Unknown { is_old: true }),
            (None, aside(1000), Verdict::Unknown { is_old: true }),
            (on(&["n1", "n2"]), replica(1000), Verdict::Leave),
            (on(&["n1", "n2"]), aside(0), Verdict::Lost),
            (on(&["n2", "n3"]), replica(0), Verdict::Adopt),
            (on(&["n2", "n3", "n9"]), replica(0), Verdict::Adopt),
            (on(&["n2", "n3", "n4"]), replica(999), Verdict::Leave),
            (on(&["n2", "n3", "n4"]), replica(1000), Verdict::Surplus { sure: 3 }),
            (on(&["n2", "n3"]), other.clone(), Verdict::Surplus { sure: 1 }),
            (on(&["n2", "n3"]), aside(1000), Verdict::Leave),
            (unread("n4", &["n2", "n3", "n4"]), replica(1000), Verdict::Adopt),
        ] {
            assert_eq!(
                question().verdict(known.as_ref(), &replica),
                verdict,
                "{known:?} {replica:?}"
            );
        }
    }

    /// Who had the duties before may have counted less than who has them now.
    #[tokio::test]
    async fn a_late_holder_of_the_duties_deletes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let (first, second) = (Duty::new(Clock::system()), Duty::new(Clock::system()));
        let found = Found {
            id: BlockId {
                extent: ExtentId::from_bytes([1; 16]),
                index: 0,
            },
            replica: Replica {
                age_ms: 1000,
                ..Replica::default()
            },
        };
        let settled = async |fence: Fence| {
            let mut txn = store.begin().await.expect("a transaction");
            let odd = std::slice::from_ref(&found);
            settle_all(&mut txn, &question(), odd, fence).await.expect("settled")
        };
        first.win(&store).await;
        let late = first.fence().expect("it has just won");
        assert_eq!(settled(late).await, 1);
        second.win(&store).await;
        assert_eq!(settled(late).await, 0);
        assert_eq!(settled(second.fence().expect("it has just won")).await, 1);
    }
}
