//! A block node's disk, in memory: what was not made durable when the node crashed is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use strongroom_block::{Checked, Engine, Expected, Found, Lacking, Part, Position, Sealed, StoreError, Survey, Usage};
use strongroom_proto::{BlockId, ExtentId, Incarnation, NodeId};
use tokio::time::sleep;

use crate::{
    chance::{between_ms, one_in},
    machine, trace,
};

const CAPACITY_BYTES: u64 = 1 << 30;
/// Blocks in a page of a survey.
const PAGE: usize = 20;

/// What every node was ever given under an id, for the invariant that it is always the same.
#[derive(Default)]
pub(crate) struct Contents(Mutex<BTreeMap<BlockId, Bytes>>);

impl Contents {
    fn note(&self, id: BlockId, data: &Bytes) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.entry(id).or_insert_with(|| data.clone());
        if first != data {
            trace::violation(&format!("block {id} names two contents"));
        }
    }
}

/// A node's durable blocks.
pub(crate) struct Platter {
    incarnation: Incarnation,
    blocks: Mutex<BTreeMap<BlockId, Stored>>,
}

struct Stored {
    data: Bytes,
    crc32c: u32,
    at: Duration,
}

impl Stored {
    fn found(&self, id: BlockId) -> Found {
        Found {
            id,
            length: u32::try_from(self.data.len()).expect("blocks are small"),
            crc32c: self.crc32c,
            aside: false,
            age: machine::elapsed().saturating_sub(self.at),
        }
    }
}

impl Platter {
    pub(crate) fn new() -> Self {
        Self {
            incarnation: Incarnation::generate(),
            blocks: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockId, Stored>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine of one start of a node.
pub(crate) struct MemoryDisk {
    pub(crate) node: NodeId,
    pub(crate) platter: Arc<Platter>,
    pub(crate) contents: Arc<Contents>,
    pub(crate) loses_blocks: bool,
}

impl MemoryDisk {
    /// Waits as for a disk. Whoever is dropped meanwhile has changed nothing: what he wrote was in no file yet.
    async fn work(&self) {
        if one_in(3) {
            sleep(between_ms(1, 30)).await;
        }
    }

    fn missing(&self, id: BlockId) -> StoreError {
        StoreError::NotFound {
            id,
            node: self.node.clone(),
        }
    }
}

#[tonic::async_trait]
impl Engine for MemoryDisk {
    async fn seal(&self, id: BlockId, data: Bytes, crc32c: u32) -> Result<Sealed, StoreError> {
        Sealed::new(id, data, crc32c).ok_or(StoreError::Damaged { id })
    }

    async fn put(&self, block: Sealed) -> Result<(), StoreError> {
        let (id, data) = (block.id(), block.data().clone());
        self.contents.note(id, &data);
        self.work().await;
        let exists = self.platter.lock().get(&id).is_some_and(|there| there.data != data);
        if exists {
            return Err(StoreError::Exists {
                id,
                node: self.node.clone(),
            });
        }
        if self.loses_blocks && one_in(2) {
            return Ok(());
        }
        let stored = Stored {
            crc32c: crc32_iscsi(&data),
            at: machine::elapsed(),
            data,
        };
        self.platter.lock().entry(id).or_insert(stored);
        self.work().await;
        Ok(())
    }

    async fn get(&self, id: BlockId, offset: u32, length: u32) -> Result<Part, StoreError> {
        self.work().await;
        let block = self.platter.lock().get(&id).map(|stored| stored.data.clone());
        let block = block.ok_or_else(|| self.missing(id))?;
        let bytes = u32::try_from(block.len()).expect("blocks are small");
        let start = offset.min(bytes);
        let end = if length == 0 {
            bytes
        } else {
            start.saturating_add(length).min(bytes)
        };
        Ok(Part {
            data: block.slice(start as usize..end as usize),
            block_length: bytes,
        })
    }

    async fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.work().await;
        self.platter.lock().remove(&id);
        Ok(())
    }

    async fn delete_extent(&self, extent: ExtentId) -> Result<(), StoreError> {
        self.work().await;
        self.platter.lock().retain(|id, _| id.extent != extent);
        Ok(())
    }

    fn incarnation(&self) -> Incarnation {
        self.platter.incarnation
    }

    async fn survey(&self, from: Position) -> Result<Survey, StoreError> {
        self.work().await;
        let blocks = self.platter.lock();
        let behind = blocks
            .iter()
            .filter(|(id, _)| from.after.is_none_or(|after| **id > after));
        let mut found: Vec<_> = behind.take(PAGE + 1).map(|(id, stored)| stored.found(*id)).collect();
        let is_more = found.len() > PAGE;
        found.truncate(PAGE);
        let after = found.last().map(|last| last.id);
        let next = is_more.then_some(Position { fan: from.fan, after });
        Ok(Survey {
            found,
            next,
            ..Survey::default()
        })
    }

    async fn check(&self, expected: Vec<Expected>, _deep: bool) -> Result<Checked, StoreError> {
        self.work().await;
        let blocks = self.platter.lock();
        let lacking = |block: &Expected| {
            let id = block.id;
            let Some(found) = blocks.get(&id).map(|stored| stored.found(id)) else {
                return Some(Lacking { id, damaged: false });
            };
            let is_same = (found.length, found.crc32c) == (block.length, block.crc32c);
            (!is_same).then_some(Lacking { id, damaged: true })
        };
        Ok(Checked {
            lacking: expected.iter().filter_map(lacking).collect(),
            ..Checked::default()
        })
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let blocks = self.platter.lock();
        let used: usize = blocks.values().map(|stored| stored.data.len()).sum();
        Ok(Usage {
            capacity_bytes: CAPACITY_BYTES,
            free_bytes: CAPACITY_BYTES - used as u64,
            blocks: blocks.len() as u64,
        })
    }
}
