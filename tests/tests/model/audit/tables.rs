//! The store's tables, decoded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prost::Message;
use strongroom_kv::{Reader as _, Store, counter};

use super::records;

/// 16 bytes that name something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id([u8; 16]);

impl Id {
    pub(super) const ROOT: Self = Self([0; 16]);

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.try_into().expect("an id has 16 bytes"))
    }

    pub(super) const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A block as rows name it: its extent and its index.
pub(super) type Block = (Id, u32);

/// What a store holds.
#[derive(Default)]
pub(crate) struct Tables {
    pub(super) root: Option<records::Entry>,
    /// By directory and name.
    pub(super) entries: BTreeMap<(Id, String), records::Entry>,
    pub(super) places: BTreeMap<Id, records::Place>,
    pub(super) bodies: BTreeMap<Id, records::Body>,
    pub(super) open: BTreeMap<Id, records::OpenFile>,
    /// By extent and chunk.
    pub(super) chunks: BTreeMap<Block, records::BlockChunk>,
    pub(super) zones: BTreeMap<Id, records::Zone>,
    /// Zone, key version, file.
    pub(super) index: BTreeSet<(Id, u32, Id)>,
    /// Files that are not encrypted, with the group that they are listed in: one byte, and the zone that adopts them.
    pub(super) plain: BTreeSet<(Vec<u8>, Id)>,
    pub(super) deficits: BTreeSet<Block>,
    pub(super) garbage: BTreeSet<(String, Block)>,
    pub(super) purges: BTreeMap<Id, records::Purge>,
    pub(super) reencryptions: BTreeMap<Id, Id>,
    pub(super) jobs: BTreeMap<Id, records::Job>,
    /// Jobs that run, by kind.
    pub(super) running: BTreeSet<(u8, Id)>,
    pub(super) unfinished: BTreeSet<Id>,
    /// By removal and directory: the zone whose root it was.
    pub(super) removals: BTreeMap<(Id, Id), Option<Id>>,
    /// Files that transfers move, by whether they have the other EDEK.
    pub(super) moving: BTreeSet<(Id, bool, Id)>,
    pub(super) counters: BTreeMap<Vec<u8>, i64>,
    /// By quota: its directory.
    pub(super) quotas: BTreeMap<Id, Id>,
    pub(super) buried: BTreeSet<Id>,
    pub(super) answers: BTreeSet<Id>,
    pub(super) answer_times: BTreeSet<Id>,
    formats: usize,
}

impl Tables {
    /// Reads all of a store in one view.
    pub(crate) async fn read(store: &impl Store) -> Self {
        let mut view = store.snapshot().await.expect("a view");
        let rows = view.range(&[], &[u8::MAX], usize::MAX >> 1).await.expect("all rows");
        let mut tables = Self::default();
        for (key, value) in rows {
            tables.enter(key[0], &key[1..], &value);
        }
        tables
    }

    /// Whether nothing was ever put into it.
    pub(super) const fn is_empty(&self) -> bool {
        self.formats == 0
    }

    fn enter(&mut self, table: u8, key: &[u8], value: &[u8]) {
        match table {
            b'v' => self.formats += 1,
            b'd' if key.is_empty() => self.root = Some(decode(value)),
            b'd' => {
                let name = String::from_utf8(key[16..].to_vec()).expect("a name");
                self.entries.insert((id(key, 0), name), decode(value));
            }
            b'i' => _ = self.places.insert(id(key, 0), decode(value)),
            b'e' => _ = self.bodies.insert(id(key, 0), decode(value)),
            b'o' => _ = self.open.insert(id(key, 0), decode(value)),
            b'b' => _ = self.chunks.insert((id(key, 0), number(key, 16)), decode(value)),
            b'z' => _ = self.zones.insert(id(key, 0), decode(value)),
            b'x' => _ = self.index.insert((id(key, 0), number(key, 16), id(key, 20))),
            b'P' => {
                let (group, file) = key.split_at(key.len() - 16);
                self.plain.insert((group.to_vec(), Id::of(file)));
            }
            b'f' => _ = self.deficits.insert((id(key, 0), number(key, 16))),
            b'g' => {
                let end = key.iter().position(|byte| *byte == 0).expect("a node's id ends");
                let node = String::from_utf8(key[..end].to_vec()).expect("a node's id");
                self.garbage.insert((node, (id(key, end + 1), number(key, end + 17))));
            }
            b'p' => _ = self.purges.insert(id(key, 0), decode(value)),
            b'r' => _ = self.reencryptions.insert(id(key, 0), Id::of(value)),
            b'j' => _ = self.jobs.insert(id(key, 0), decode(value)),
            b'k' if key[0] > 0 => _ = self.running.insert((key[0], id(key, 1))),
            b'k' => _ = self.unfinished.insert(id(key, 1)),
            // Jobs come before: what a transfer has yet to look through has a name there.
            b'w' if self.is_removal(id(key, 0)) => {
                let zone = (!value.is_empty()).then(|| Id::of(value));
                self.removals.insert((id(key, 0), id(key, 16)), zone);
            }
            b'w' => {}
            b'h' => _ = self.moving.insert((id(key, 0), key[16] == 1, id(key, 17))),
            b'c' => {
                let count = counter(key, Some(value)).expect("a counter");
                self.counters.insert(key.to_vec(), count);
            }
            b'q' => _ = self.quotas.insert(id(key, 0), Id::of(value)),
            b's' => _ = self.buried.insert(id(key, 8)),
            b'a' => _ = self.answers.insert(id(key, 0)),
            b't' => _ = self.answer_times.insert(id(key, 8)),
            // Nodes, how far the comparison of their disks is, the trash, extended attributes, and which instance has the background.
            b'n' | b'B' | b'T' | b'u' | b'y' | b'l' => {}
            other => panic!("a table {:?} that this does not know", char::from(other)),
        }
    }
}

impl Tables {
    fn is_removal(&self, job: Id) -> bool {
        self.jobs
            .get(&job)
            .is_none_or(|job| job.kind() != records::JobKind::Transfer)
    }
}

fn decode<M: Message + Default>(value: &[u8]) -> M {
    M::decode(value).expect("a record")
}

fn id(key: &[u8], at: usize) -> Id {
    Id::of(&key[at..at + 16])
}

fn number(key: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(key[at..at + 4].try_into().expect("4 bytes"))
}
