//! Checking a namespace: the metadata service is asked page by page whether what it keeps is consistent, and the block nodes whether they
//! have what is recorded of them (ADR 40).

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde::Serialize;
use strongroom_proto::{
    BlockId, ExtentId, NodeId, ZonePath,
    block::v1::{CheckBlocksRequest, ExpectedBlock},
    limits::{DEEP_CHECKS_PER_CALL_MAX, REPLICAS_PER_COMMAND_MAX},
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{
    FileKind, FsError, ZoneFs,
    nodes::{Node, Nodes},
};

/// EDEKs of each zone that the key service is asked to open.
const SAMPLE: u32 = 10;

/// What is checked, and what is done about it.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// What is below a path; everything without one.
    pub path: Option<ZonePath>,
    /// Whether what can be repaired is.
    pub repair: bool,
    /// Whether nodes read all of every block, and not its header alone.
    pub deep: bool,
    /// Whether blocks on nodes that nothing needs are deleted, however many they are. For the whole namespace alone.
    pub delete_strays: bool,
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FsckKind {
    /// A record that cannot be read.
    Unreadable,
    /// An entry and the place of its inode do not agree, or lead nowhere.
    Namespace,
    /// A listing says another size than the file has.
    Size,
    /// The index by key version does not agree with the files.
    Index,
    /// A counter does not agree with what it counts.
    Counter,
    /// A file's list of blocks does not add up.
    BlockList,
    /// A block has fewer replicas than wanted and waits for none.
    Deficit,
    /// A zone's record and its root do not agree.
    Zone,
    /// An EDEK is missing, of another zone, or does not open.
    Edek,
    /// Replicas are missing or damaged; others are sound.
    Replica,
    /// A block is on no node any more.
    LostBlock,
    /// A job and its lists do not agree.
    Job,
    /// A node has more blocks than may be deleted that nothing needs, or files that its disk cannot read.
    Node,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FsckFinding {
    /// What kind.
    pub kind: FsckKind,
    /// Where, if it is at a path.
    pub path: Option<String>,
    /// In a sentence.
    pub what: String,
    /// Whether it is repaired, or the repair has begun.
    pub repaired: bool,
}

/// What was looked at, and how much was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FsckSummary {
    /// Records of the metadata service.
    pub records: u64,
    /// Files.
    pub files: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Replicas that nodes were asked for.
    pub replicas: u64,
    /// Replicas that are missing or damaged.
    pub bad_replicas: u64,
    /// Replicas on nodes that did not answer, and those that their disks did not give back.
    pub unknown_replicas: u64,
    /// Nodes that did not answer.
    pub silent_nodes: BTreeSet<String>,
    /// Findings by kind.
    pub findings: BTreeMap<FsckKind, u64>,
    /// How many of them are repaired.
    pub repaired: u64,
    /// Findings that stay and mean that something cannot be read.
    pub losses: u64,
}

impl FsckSummary {
    /// Findings in all.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.findings.values().sum()
    }

    /// Counts a finding.
    pub fn count(&mut self, finding: &FsckFinding) {
        *self.findings.entry(finding.kind).or_default() += 1;
        self.repaired += u64::from(finding.repaired);
        let is_loss = matches!(
            finding.kind,
            FsckKind::Unreadable | FsckKind::BlockList | FsckKind::Edek | FsckKind::LostBlock
        );
        self.losses += u64::from(is_loss && !finding.repaired);
    }
}

impl ZoneFs {
    /// Checks the namespace, or what is below a path; findings are told as they come. For superusers.
    ///
    /// # Errors
    /// `permission-denied`, `not-found` of the path, or a service that cannot be asked. Silent block nodes are no error: the summary has them.
    pub async fn fsck(
        &self,
        options: FsckOptions,
        tell: impl FnMut(&FsckFinding) + Send,
    ) -> Result<FsckSummary, FsError> {
        let mut walk = Walk {
            fs: self,
            options,
            tell,
            summary: FsckSummary::default(),
        };
        match walk.options.path.clone() {
            Some(path) => walk.below(&path).await?,
            None => walk.everything().await?,
        }
        Ok(walk.summary)
    }
}

fn block_ids(wire: Vec<strongroom_proto::block::v1::BlockId>) -> Result<Vec<BlockId>, FsError> {
    let ids = wire.into_iter().map(|id| BlockId::try_from(Some(id)));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Blocks on a disk that nothing accounts for, or that are recorded otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unaccounted {
    /// Neither recorded, nor of a file that is being written, nor waiting to be deleted.
    pub unknown: Vec<BlockId>,
    /// Recorded with another length or checksum.
    pub different: Vec<BlockId>,
}

/// A block as it lies on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    /// Which.
    pub id: BlockId,
    /// Its bytes.
    pub length: u32,
    /// Their CRC32C.
    pub crc32c: u32,
}

impl ZoneFs {
    /// Which of up to 1000 blocks on a node's disk nothing accounts for. For superusers.
    ///
    /// # Errors
    /// `permission-denied`, `invalid-argument`.
    pub async fn account_for(&self, node: &NodeId, blocks: &[StoredBlock]) -> Result<Unaccounted, FsError> {
        let answer = self.ask_for(node, blocks, false).await?;
        Ok(Unaccounted {
            unknown: block_ids(answer.unknown)?,
            different: block_ids(answer.different)?,
        })
    }

    /// Which of at most 1000 blocks on a node's disk no file shows: they are of what is being written, or wait to be deleted. For
    /// superusers.
    ///
    /// # Errors
    /// `permission-denied`, or `invalid-argument` for more blocks.
    pub async fn unseen_blocks(&self, node: &NodeId, blocks: &[StoredBlock]) -> Result<Vec<BlockId>, FsError> {
        block_ids(self.ask_for(node, blocks, true).await?.unseen)
    }

    async fn ask_for(
        &self,
        node: &NodeId,
        blocks: &[StoredBlock],
        unseen: bool,
    ) -> Result<pb::AccountForResponse, FsError> {
        let placed = |block: &StoredBlock| pb::PlacedBlock {
            block_id: Some(block.id.into()),
            length: block.length,
            crc32c: block.crc32c,
            nodes: Vec::new(),
        };
        let request = pb::AccountForRequest {
            node_id: node.to_string(),
            blocks: blocks.iter().map(placed).collect(),
            unseen,
        };
        Ok(retry(Repeat::Harmless, || self.metadata().account_for(request.clone())).await?)
    }

    /// The extents of files that are not encrypted, with their paths. For superusers.
    ///
    /// # Errors
    /// `permission-denied`.
    pub async fn plain_extents(&self) -> Result<BTreeMap<ExtentId, String>, FsError> {
        let (mut plain, mut after) = (BTreeMap::new(), bytes::Bytes::new());
        loop {
            let request = pb::CheckPageRequest {
                part: pb::CheckedPart::Entries.into(),
                after,
                ..pb::CheckPageRequest::default()
            };
            let page = retry(Repeat::Harmless, || self.metadata().check_page(request.clone())).await?;
            for file in page.files {
                for extent in &file.plain_extents {
                    let extent = extent.as_ref().try_into().map_err(FsError::metadata_answer)?;
                    plain.insert(extent, String::from_utf8_lossy(&file.path).into_owned());
                }
            }
            after = page.next;
            if after.is_empty() {
                return Ok(plain);
            }
        }
    }
}

/// A check under way.
struct Walk<'a, T> {
    fs: &'a ZoneFs,
    options: FsckOptions,
    tell: T,
    summary: FsckSummary,
}

impl<T: FnMut(&FsckFinding) + Send> Walk<'_, T> {
    /// All parts; counters after what they count was repaired.
    async fn everything(&mut self) -> Result<(), FsError> {
        for part in [
            pb::CheckedPart::Zones,
            pb::CheckedPart::Entries,
            pb::CheckedPart::Places,
            pb::CheckedPart::Bodies,
            pb::CheckedPart::OpenFiles,
            pb::CheckedPart::Index,
            pb::CheckedPart::Jobs,
            pb::CheckedPart::Plain,
            pb::CheckedPart::Counters,
            pb::CheckedPart::Nodes,
        ] {
            let mut after = bytes::Bytes::new();
            loop {
                let page = self.page(part, after, bytes::Bytes::new()).await?;
                after = page.next.clone();
                self.take(page, None).await?;
                if after.is_empty() {
                    break;
                }
            }
        }
        if self.options.repair || self.options.delete_strays {
            let delete_strays = self.options.delete_strays;
            let ask = pb::TakeInventoryRequest { delete_strays };
            retry(Repeat::Harmless, || self.fs.metadata().take_inventory(ask)).await?;
        }
        Ok(())
    }

    /// A file, or directory after directory what is below one.
    async fn below(&mut self, path: &ZonePath) -> Result<(), FsError> {
        let stat = self.fs.stat(path).await?;
        if stat.kind != FileKind::Directory {
            let parent = path.split_last().map_or_else(ZonePath::root, |(parent, _)| parent);
            let parent = self.fs.stat(&parent).await?;
            return self.directory(parent.file_id.into(), Some(path), &mut Vec::new()).await;
        }
        let mut directories: Vec<bytes::Bytes> = vec![stat.file_id.into()];
        while let Some(directory) = directories.pop() {
            self.directory(directory, None, &mut directories).await?;
        }
        Ok(())
    }

    async fn directory(
        &mut self,
        directory: bytes::Bytes,
        only: Option<&ZonePath>,
        below: &mut Vec<bytes::Bytes>,
    ) -> Result<(), FsError> {
        let mut after = bytes::Bytes::new();
        loop {
            let mut page = self.page(pb::CheckedPart::Entries, after, directory.clone()).await?;
            after = page.next.clone();
            below.append(&mut page.directories);
            self.take(page, only).await?;
            if after.is_empty() {
                return Ok(());
            }
        }
    }

    async fn page(
        &self,
        part: pb::CheckedPart,
        after: bytes::Bytes,
        directory: bytes::Bytes,
    ) -> Result<pb::CheckPageResponse, FsError> {
        let request = pb::CheckPageRequest {
            part: part.into(),
            after,
            directory,
            repair: self.options.repair,
            sample_edeks: SAMPLE,
        };
        Ok(retry(Repeat::Harmless, || self.fs.metadata().check_page(request.clone())).await?)
    }

    /// Tells what a page found and goes on with the blocks of its files.
    async fn take(&mut self, page: pb::CheckPageResponse, only: Option<&ZonePath>) -> Result<(), FsError> {
        self.summary.records += page.looked_at;
        let is_asked_for = |path: &[u8]| only.is_none_or(|only| path == only.to_string().as_bytes());
        for found in page.findings {
            if is_asked_for(&found.path) {
                let kind = kind_of(&found)?;
                self.found(kind, &found.path, found.what, found.repaired);
            }
        }
        let list = page.replicas.unwrap_or_default();
        let mut blocks = list.blocks.into_iter();
        for file in page.files {
            let of_file: Vec<pb::PlacedBlock> = blocks.by_ref().take(file.blocks as usize).collect();
            if !is_asked_for(&file.path) {
                continue;
            }
            self.summary.files += 1;
            self.summary.bytes += file.length;
            let some = pb::ReplicaList {
                blocks: of_file,
                nodes: list.nodes.clone(),
                capability: list.capability.clone(),
                next: file.next,
            };
            self.file(&file, some).await?;
        }
        Ok(())
    }

    /// Asks the nodes for the blocks of a file, page by page.
    async fn file(&mut self, file: &pb::CheckedFile, mut list: pb::ReplicaList) -> Result<(), FsError> {
        loop {
            let next = list.next;
            self.replicas(&file.path, list).await?;
            let Some(from) = next else { return Ok(()) };
            let request = pb::ListReplicasRequest {
                file_id: file.file_id.clone(),
                from: Some(from),
            };
            list = retry(Repeat::Harmless, || self.fs.metadata().list_replicas(request.clone())).await?;
        }
    }

    async fn replicas(&mut self, path: &[u8], list: pb::ReplicaList) -> Result<(), FsError> {
        if list.blocks.is_empty() {
            return Ok(());
        }
        let looked = look(self.fs.nodes(), &list, self.options.deep).await?;
        self.summary.blocks += list.blocks.len() as u64;
        let mut bad = Vec::new();
        for block in &list.blocks {
            let id = BlockId::try_from(block.block_id.clone())?;
            let seen = looked.of(id, &block.nodes);
            self.summary.replicas += block.nodes.len() as u64;
            self.summary.bad_replicas += seen.lost().count() as u64;
            self.summary.unknown_replicas += seen.unknown;
            if seen.bad.is_empty() {
                continue;
            }
            if seen.good + seen.unknown == 0 {
                let what = format!("block {id} is on no node any more: {}", seen.words());
                self.found(FsckKind::LostBlock, path, what, false);
            }
            bad.push((id, seen));
        }
        self.summary
            .silent_nodes
            .extend(looked.silent.iter().map(ToString::to_string));
        self.bad_replicas(path, &bad).await
    }

    /// Tells of replicas that others can be made from, and has that done.
    async fn bad_replicas(&mut self, path: &[u8], bad: &[(BlockId, Seen)]) -> Result<(), FsError> {
        let mut of_nodes: BTreeMap<&NodeId, Vec<BlockId>> = BTreeMap::new();
        for (id, seen) in bad {
            for node in seen.lost() {
                of_nodes.entry(node).or_default().push(*id);
            }
        }
        if self.options.repair {
            for (node, blocks) in &of_nodes {
                let request = pb::ReportLostRequest {
                    node_id: node.to_string(),
                    blocks: blocks.iter().copied().map(Into::into).collect(),
                };
                retry(Repeat::Harmless, || self.fs.metadata().report_lost(request.clone())).await?;
            }
        }
        if let Some((what, is_mended)) = lacking(bad) {
            self.found(FsckKind::Replica, path, what, self.options.repair && is_mended);
        }
        Ok(())
    }

    fn found(&mut self, kind: FsckKind, path: &[u8], what: String, repaired: bool) {
        let path = (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned());
        let finding = FsckFinding {
            kind,
            path,
            what,
            repaired,
        };
        self.summary.count(&finding);
        (self.tell)(&finding);
    }
}

fn kind_of(found: &pb::Finding) -> Result<FsckKind, FsError> {
    Ok(match found.kind() {
        pb::FindingKind::Unreadable => FsckKind::Unreadable,
        pb::FindingKind::Namespace => FsckKind::Namespace,
        pb::FindingKind::Size => FsckKind::Size,
        pb::FindingKind::Index => FsckKind::Index,
        pb::FindingKind::Counter => FsckKind::Counter,
        pb::FindingKind::BlockList => FsckKind::BlockList,
        pb::FindingKind::Deficit => FsckKind::Deficit,
        pb::FindingKind::Zone => FsckKind::Zone,
        pb::FindingKind::Edek => FsckKind::Edek,
        pb::FindingKind::Job => FsckKind::Job,
        pb::FindingKind::Node => FsckKind::Node,
        pb::FindingKind::Unspecified => return Err(FsError::metadata_contradiction("it names no kind of finding")),
    })
}

/// What nodes said.
#[derive(Default)]
struct Looked {
    /// By node and block.
    bad: BTreeMap<(NodeId, BlockId), Bad>,
    silent: BTreeSet<NodeId>,
}

/// Why a replica is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Missing,
    /// Something else is there.
    Damaged,
    /// The disk does not give it back. Nobody knows what is there.
    Unreadable,
}

/// The replicas of one block.
#[derive(Default)]
struct Seen {
    good: u64,
    unknown: u64,
    /// Where it is not, or cannot be read, which is unknown as well.
    bad: Vec<(NodeId, Bad)>,
}

impl Looked {
    fn of(&self, id: BlockId, nodes: &[String]) -> Seen {
        let mut seen = Seen::default();
        for node in nodes.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
            if self.silent.contains(&node) {
                seen.unknown += 1;
            } else if let Some(bad) = self.bad.get(&(node.clone(), id)) {
                seen.unknown += u64::from(*bad == Bad::Unreadable);
                seen.bad.push((node, *bad));
            } else {
                seen.good += 1;
            }
        }
        seen
    }
}

impl Seen {
    fn words(&self) -> String {
        let word = |(node, bad): &(NodeId, Bad)| {
            let how = match bad {
                Bad::Missing => "missing",
                Bad::Damaged => "damaged",
                Bad::Unreadable => "cannot be read",
            };
            format!("{how} on {node}")
        };
        self.bad.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// The nodes that surely do not have it.
    fn lost(&self) -> impl Iterator<Item = &NodeId> {
        let lost = self.bad.iter().filter(|(_, bad)| *bad != Bad::Unreadable);
        lost.map(|(node, _)| node)
    }
}

/// What is told of blocks of which copies may be left, and whether reporting what is lost has all of their copies made anew.
fn lacking(bad: &[(BlockId, Seen)]) -> Option<(String, bool)> {
    let sound: Vec<_> = bad.iter().filter(|(_, seen)| seen.good + seen.unknown > 0).collect();
    let (id, seen) = sound.first()?;
    let others = match sound.len() - 1 {
        0 => String::new(),
        1 => ", and another block".to_owned(),
        others => format!(", and {others} more blocks"),
    };
    let what = format!("block {id} lacks replicas: {}{others}", seen.words());
    // Of what cannot be read nobody knows whether it is lost: the next comparison of disks decides.
    let is_mended = |seen: &Seen| seen.good > 0 && seen.lost().count() == seen.bad.len();
    Some((what, sound.iter().all(|(_, seen)| is_mended(seen))))
}

/// Asks all nodes of a list at the same time for what they should have.
async fn look(nodes: &Nodes, list: &pb::ReplicaList, deep: bool) -> Result<Looked, FsError> {
    let mut of_nodes: BTreeMap<NodeId, Vec<ExpectedBlock>> = BTreeMap::new();
    for block in &list.blocks {
        for node in &block.nodes {
            let node = node.parse().map_err(FsError::metadata_answer)?;
            of_nodes.entry(node).or_default().push(ExpectedBlock {
                block_id: block.block_id.clone(),
                length: block.length,
                crc32c: block.crc32c,
            });
        }
    }
    let known = list.nodes.iter().cloned().map(Node::try_from);
    let known = known
        .collect::<Result<Vec<Node>, _>>()
        .map_err(FsError::metadata_answer)?;
    let asked = of_nodes.into_iter().map(async |(id, blocks)| {
        let node = known.iter().find(|node| node.id == id);
        let bad = match node {
            Some(node) => ask(nodes, node, &list.capability, &blocks, deep).await,
            None => None,
        };
        (id, bad)
    });
    let mut looked = Looked::default();
    for (node, bad) in join_all(asked).await {
        match bad {
            Some(bad) => looked
                .bad
                .extend(bad.into_iter().map(|(id, bad)| ((node.clone(), id), bad))),
            None => _ = looked.silent.insert(node),
        }
    }
    Ok(looked)
}

/// The blocks that a node has not as they should be; none if it does not say.
async fn ask(
    nodes: &Nodes,
    node: &Node,
    capability: &bytes::Bytes,
    blocks: &[ExpectedBlock],
    deep: bool,
) -> Option<Vec<(BlockId, Bad)>> {
    let mut bad = Vec::new();
    let at_once = if deep {
        DEEP_CHECKS_PER_CALL_MAX
    } else {
        REPLICAS_PER_COMMAND_MAX
    };
    for some in blocks.chunks(at_once) {
        let request = CheckBlocksRequest {
            capability: capability.clone(),
            blocks: some.to_vec(),
            deep,
            tell_unreadable: true,
        };
        let answer = match nodes.check(node, request).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::warn!(node = %node.id, %failure, "a block node does not say what it has");
                return None;
            }
        };
        for (ids, why) in [
            (answer.missing, Bad::Missing),
            (answer.damaged, Bad::Damaged),
            (answer.unreadable, Bad::Unreadable),
        ] {
            for id in ids {
                bad.push((BlockId::try_from(Some(id)).ok()?, why));
            }
        }
    }
    Some(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of three replicas, some of which are not good.
    fn seen(index: u32, bad: &[(&str, Bad)]) -> (BlockId, Seen) {
        let id = BlockId {
            extent: ExtentId::from_bytes([1; 16]),
            index,
        };
        let node = |name: &str| name.parse::<NodeId>().expect("valid");
        let looked = Looked {
            bad: bad.iter().map(|(name, bad)| ((node(name), id), *bad)).collect(),
            silent: BTreeSet::new(),
        };
        (id, looked.of(id, &["n1", "n2", "n3"].map(str::to_owned)))
    }

    /// What a disk does not give back is not reported as lost, so that nothing is made anew for it.
    #[test]
    fn what_cannot_be_read_is_not_said_to_be_repaired() {
        let missing = || seen(0, &[("n1", Bad::Missing), ("n2", Bad::Damaged)]);
        let unreadable = || seen(1, &[("n2", Bad::Unreadable)]);
        let both = seen(2, &[("n1", Bad::Missing), ("n2", Bad::Unreadable)]);
        let unknown = seen(
            3,
            &[("n1", Bad::Missing), ("n2", Bad::Missing), ("n3", Bad::Unreadable)],
        );
        let gone = || seen(4, &[("n1", Bad::Missing), ("n2", Bad::Missing), ("n3", Bad::Missing)]);
        assert_eq!(unreadable().1.lost().count(), 0);
        for (bad, words, is_mended) in [
            (vec![missing()], "missing on n1, damaged on n2", true),
            (vec![unreadable()], "cannot be read on n2", false),
            (vec![both], "missing on n1, cannot be read on n2", false),
            (vec![unknown], "cannot be read on n3", false),
            (vec![missing(), unreadable()], "damaged on n2, and another block", false),
            (vec![gone(), missing()], "missing on n1, damaged on n2", true),
        ] {
            let (what, repaired) = lacking(&bad).expect(words);
            assert!(what.ends_with(words) && repaired == is_mended, "{what}: {repaired}");
        }
        assert_eq!(lacking(&[gone()]), None, "that is told apart");
    }
}
