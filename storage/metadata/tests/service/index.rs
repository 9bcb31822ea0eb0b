//! After random operations the index by key version says what a full scan of the store says, and so do the counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
};

use proptest::{
    prelude::{Strategy, any, prop_oneof},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use prost::Message;
use strongroom_kv::{AnyStore, Reader, Store, counter};
use strongroom_proto::metadata::v1 as pb;

use crate::fixture::{
    World,
    files::{BLOCK_BYTES, commit_request},
    kms::dek_of,
    transfers::Begun,
};

/// The stored records, from the same file that the service is built from.
#[allow(missing_docs, clippy::all, unreachable_pub, dead_code)]
mod records {
    include!(concat!(env!("OUT_DIR"), "/strongroom.metadata.records.v1.rs"));
}

/// Names are few, so that operations meet each other.
#[derive(Debug, Clone)]
enum Operation {
    Write { zone: u8, name: u8 },
    LeaveOpen { zone: u8, name: u8 },
    Abandon,
    Reopen { zone: u8, name: u8 },
    Rewrite { zone: u8, name: u8 },
    Publish { length: u8, cut: bool, go_on: bool },
    Recover { zone: u8, name: u8 },
    Rename { zone: u8, from: u8, to: u8 },
    Remove { zone: u8, name: u8 },
    RemoveDirectory { zone: u8 },
    MakeDirectory { zone: u8 },
    MoveDirectory { zone: u8, back: bool },
    SetQuota { zone: u8, at: u8, names: u8 },
    ClearQuota { zone: u8, at: u8 },
    Attach { zone: u8, name: u8, keep: bool },
    Roll { zone: u8 },
    Reencrypt { zone: u8 },
    TransferFile { zone: u8, name: u8 },
    BeginTransfer { zone: u8 },
    Stage { files: u8 },
    FinishTransfer,
    CancelTransfer,
    Restart,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let (zone, name) = (0..2_u8, 0..4_u8);
    let one = prop_oneof![
        6 => (zone.clone(), name.clone()).prop_map(|(zone, name)| Operation::Write { zone, name }),
        2 => (zone.clone(), name.clone()).prop_map(|(zone, name)| Operation::LeaveOpen { zone, name }),
        1 => proptest::strategy::Just(Operation::Abandon),
        3 => (zone.clone(), name.clone()).prop_map(|(zone, name)| Operation::Reopen { zone, name }),
        3 => (zone.clone(), name.clone()).prop_map(|(zone, name)| Operation::Rewrite { zone, name }),
        4 => (0..3_u8, any::<bool>(), any::<bool>())
            .prop_map(|(length, cut, go_on)| Operation::Publish { length, cut, go_on }),
        1 => (zone.clone(), name.clone()).prop_map(|(zone, name)| Operation::Recover { zone, name }),
        3 => (zone.clone(), name.clone(), name.clone()).prop_map(|(zone, from, to)| Operation::Rename { zone, from, to }),
        2 => (zone.clone(), name).prop_map(|(zone, name)| Operation::Remove { zone, name }),
        1 => zone.clone().prop_map(|zone| Operation::RemoveDirectory { zone }),
        2 => zone.clone().prop_map(|zone| Operation::MakeDirectory { zone }),
        2 => (zone.clone(), any::<bool>()).prop_map(|(zone, back)| Operation::MoveDirectory { zone, back }),
        3 => (zone.clone(), 0..3_u8, 1..9_u8).prop_map(|(zone, at, names)| Operation::SetQuota { zone, at, names }),
        1 => (zone.clone(), 0..3_u8).prop_map(|(zone, at)| Operation::ClearQuota { zone, at }),
        2 => (zone.clone(), 0..5_u8, any::<bool>()).prop_map(|(zone, name, keep)| Operation::Attach { zone, name, keep }),
        1 => zone.clone().prop_map(|zone| Operation::Roll { zone }),
        2 => zone.clone().prop_map(|zone| Operation::Reencrypt { zone }),
        2 => (zone.clone(), 0..4_u8).prop_map(|(zone, name)| Operation::TransferFile { zone, name }),
        4 => zone.prop_map(|zone| Operation::BeginTransfer { zone }),
        4 => (1..4_u8).prop_map(|files| Operation::Stage { files }),
        3 => proptest::strategy::Just(Operation::FinishTransfer),
        1 => proptest::strategy::Just(Operation::CancelTransfer),
        1 => proptest::strategy::Just(Operation::Restart),
    ];
    proptest::collection::vec(one, 1..60)
}

/// Runs of up to 60 operations.
const CASES: u32 = 8;

const KEYS: [&str; 2] = ["payroll", "other"];

#[test]
fn the_index_equals_a_full_scan() {
    let seed = seed();
    let config = Config {
        cases: CASES,
        max_shrink_iters: 30,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = runner.run(&operations(), |operations| {
        runtime.block_on(check(&operations)).map_err(TestCaseError::fail)
    });
    if let Err(failure) = outcome {
        panic!("with STRONGROOM_TEST_SEED={seed}: {failure}");
    }
}

/// The seed given, or a new one.
fn seed() -> u64 {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    given.map_or_else(
        || RandomState::new().hash_one(0),
        |seed| seed.parse().expect("a seed is a number"),
    )
}

async fn check(operations: &[Operation]) -> Result<(), String> {
    let mut world = World::start().await;
    for (zone, key) in KEYS.into_iter().enumerate() {
        world.zone(&format!("/z{zone}"), key).await;
        world.mkdir(&format!("/z{zone}/q")).await;
    }
    let (mut open, mut moves) = (Vec::new(), Vec::new());
    for operation in operations {
        run(&mut world, &mut open, operation).await;
        run_transfer(&world, &mut moves, operation).await;
    }
    let mut counted = BTreeMap::new();
    for zone in 0..2 {
        let zone = world.get_zone(&format!("/z{zone}")).await.expect("a zone").into_inner();
        let counts: Vec<_> = zone
            .files
            .iter()
            .map(|count| (count.key_version, count.files))
            .collect();
        counted.insert(zone.zone_id.to_vec(), counts);
    }
    let settled = world.cluster_status().await;
    world.stop().await;
    compare(&world, &counted, settled.files_open).await
}

/// Somebody who has a file open, and what the file was published with last.
struct Writer {
    grant: pb::WriteGrant,
    extents: Vec<pb::Extent>,
    generation: u64,
    /// Of the file, if it is rewritten.
    length: Option<u64>,
}

impl Writer {
    const fn of_new(grant: pb::WriteGrant) -> Self {
        Self {
            grant,
            extents: Vec::new(),
            generation: 0,
            length: None,
        }
    }

    fn of_second(begun: pb::RewritingFile) -> Self {
        let file = begun.file.expect("the file");
        Self {
            grant: begun.body.and_then(|body| body.grant).expect("a grant"),
            extents: Vec::new(),
            generation: file.generation,
            length: file.stat.map(|stat| stat.length),
        }
    }

    fn of_old(reopened: pb::ReopenedFile) -> Self {
        let file = reopened.file.expect("the file");
        Self {
            grant: reopened.grant.expect("a grant"),
            extents: file.extents,
            generation: file.generation,
            length: None,
        }
    }

    /// Publishes so many blocks more, or less than there was, and goes on if he may.
    async fn publish(mut self, world: &World, blocks: u64, cut: bool, go_on: bool) -> Option<Self> {
        if cut {
            self.extents.truncate(self.extents.len().div_ceil(2));
            if let Some(last) = self.extents.last_mut() {
                last.visible = last.visible.div_ceil(2);
            }
        }
        let length = self.length.unwrap_or(blocks * BLOCK_BYTES);
        let mut request = commit_request(&self.grant, length, &["n1", "n2"]);
        self.extents.append(&mut request.extents);
        self.generation += 1;
        request.extents.clone_from(&self.extents);
        request.generation = self.generation;
        request.go_on = go_on && self.length.is_none();
        let done = world.user("alice").files.commit_file(request).await.ok()?;
        self.grant = done.into_inner().grant?;
        Some(self)
    }
}

/// The steps of moves to the other zone, of the one that was begun last.
async fn run_transfer(world: &World, moves: &mut Vec<Begun>, operation: &Operation) {
    match *operation {
        Operation::TransferFile { zone, name } => {
            let (from, to) = (path(zone, name), path(1 - zone, name));
            _ = world.transfer("alice", &from, &to).await;
        }
        Operation::BeginTransfer { zone } => {
            let (from, to) = (format!("/z{zone}/d"), format!("/z{}/d", 1 - zone));
            moves.extend(world.begin_transfer("alice", &from, &to).await);
        }
        Operation::Stage { files } => {
            let Some(begun) = moves.last() else { return };
            let listed = world.list_transfer(begun).await.unwrap_or_default();
            let files = &listed[..listed.len().min(usize::from(files))];
            if !files.is_empty() {
                _ = world.stage(begun, files).await;
            }
        }
        Operation::FinishTransfer => {
            let Some(begun) = moves.last() else { return };
            _ = world.finish_transfer(begun).await;
        }
        Operation::CancelTransfer => {
            let Some(begun) = moves.pop() else { return };
            _ = world
                .control_transfer("alice", &begun.answer.job_id, pb::JobAction::Cancel)
                .await;
        }
        _ => {}
    }
}

fn path(zone: u8, name: u8) -> String {
    match name {
        3 => format!("/z{zone}/d/f"),
        _ => format!("/z{zone}/f{name}"),
    }
}

/// Failures are part of the game: most operations meet a file that is not there.
async fn run(world: &mut World, open: &mut Vec<Writer>, operation: &Operation) {
    match *operation {
        Operation::Write { zone, name } => {
            if let Ok(created) = world.create(&path(zone, name), true).await {
                let grant = created.grant.expect("a grant");
                _ = world.commit(commit_request(&grant, 10, &["n1", "n2"])).await;
            }
        }
        Operation::LeaveOpen { zone, name } => {
            let created = world.create(&path(zone, name), true).await;
            let grant = created.ok().and_then(|created| created.grant);
            open.extend(grant.map(Writer::of_new));
        }
        Operation::Abandon => {
            if let Some(Writer { grant, .. }) = open.pop() {
                let request = pb::AbandonFileRequest {
                    file_id: grant.file_id,
                    extent_id: grant.extent_id,
                };
                world
                    .user("alice")
                    .files
                    .abandon_file(request)
                    .await
                    .expect("abandoned");
            }
        }
        Operation::Reopen { zone, name } => {
            let reopened = world.reopen(&path(zone, name)).await.ok();
            open.extend(reopened.map(Writer::of_old));
        }
        Operation::Rewrite { zone, name } => {
            let begun = world.rewrite(&path(zone, name)).await.ok();
            open.extend(begun.map(Writer::of_second));
        }
        Operation::Publish { length, cut, go_on } => {
            if let Some(writer) = open.pop() {
                open.extend(writer.publish(world, u64::from(length), cut, go_on).await);
            }
        }
        Operation::Recover { zone, name } => {
            let request = pb::RecoverFileRequest {
                path: path(zone, name).into(),
                ..pb::RecoverFileRequest::default()
            };
            _ = world.user("fsadmin").files.recover_file(request).await;
        }
        Operation::Rename { zone, from, to } => {
            _ = world.rename(&path(zone, from), &path(zone, to), true).await;
        }
        Operation::Remove { zone, name } => _ = world.remove(&path(zone, name), false).await,
        Operation::RemoveDirectory { zone } => _ = world.remove(&format!("/z{zone}/d"), true).await,
        Operation::MakeDirectory { zone } => {
            let request = pb::MakeDirectoryRequest {
                path: format!("/z{zone}/d").into(),
                mode: 0o755,
                ..pb::MakeDirectoryRequest::default()
            };
            _ = world.user("alice").namespace.make_directory(request).await;
        }
        Operation::MoveDirectory { zone, back } => {
            let (mut from, mut to) = (format!("/z{zone}/d"), format!("/z{zone}/q/d"));
            if back {
                std::mem::swap(&mut from, &mut to);
            }
            _ = world.rename(&from, &to, true).await;
        }
        Operation::SetQuota { zone, at, names } => {
            let request = pb::SetQuotaRequest {
                path: quota_path(zone, at).into(),
                names_max: Some(u64::from(names)),
                bytes_max: Some(u64::from(names) * BLOCK_BYTES),
                ..pb::SetQuotaRequest::default()
            };
            _ = world.user("fsadmin").namespace.set_quota(request).await;
        }
        Operation::ClearQuota { zone, at } => {
            let request = pb::SetQuotaRequest {
                path: quota_path(zone, at).into(),
                clear_names: true,
                clear_bytes: true,
                ..pb::SetQuotaRequest::default()
            };
            _ = world.user("fsadmin").namespace.set_quota(request).await;
        }
        Operation::Attach { zone, name, keep } => {
            let path = if name == 4 {
                format!("/z{zone}/d")
            } else {
                path(zone, name)
            };
            let request = pb::SetXattrRequest {
                path: path.into(),
                name: "user.a".to_owned(),
                value: keep.then(|| "1".into()),
                ..pb::SetXattrRequest::default()
            };
            _ = world.user("alice").namespace.set_xattr(request).await;
        }
        Operation::Roll { zone } => world.kms.roll(KEYS[usize::from(zone)]),
        Operation::Reencrypt { zone } => {
            let path = format!("/z{zone}").into();
            let request = pb::StartReencryptionRequest { path, throttle: None };
            world
                .user("fsadmin")
                .zones
                .start_reencryption(request)
                .await
                .expect("started");
        }
        Operation::Restart => world.restart().await,
        _ => {}
    }
}

fn quota_path(zone: u8, at: u8) -> String {
    format!("/z{zone}{}", ["", "/q", "/d"][usize::from(at)])
}

type Entry = (Vec<u8>, u32, Vec<u8>);

async fn compare(world: &World, counted: &BTreeMap<Vec<u8>, Vec<(u32, u64)>>, files_open: u64) -> Result<(), String> {
    let store = world.open_store().await;
    let (mut scanned, mut bodies) = (BTreeSet::new(), BTreeMap::new());
    for (key, value) in scan(&store, b'e').await {
        let body = records::Body::decode(value).expect("a file");
        scanned.insert(entry(body.edek.as_ref().expect("an EDEK"), &key));
        let staged = body.staged.iter().map(|staged| staged.edek.as_ref().expect("an EDEK"));
        scanned.extend(staged.map(|edek| entry(edek, &key)));
        bodies.insert(key[1..].to_vec(), body);
    }
    let open = scan(&store, b'o').await;
    if open.len() as u64 != files_open {
        return Err(format!("{} open files are stored, {files_open} were told", open.len()));
    }
    for (key, value) in open {
        let open = records::OpenFile::decode(value).expect("an open file");
        match (bodies.get(&key[1..]), open.generation) {
            (None, 0) => _ = scanned.insert(entry(open.edek.as_ref().expect("an EDEK"), &key)),
            // Its file was removed.
            (None, _) => {}
            (Some(body), generation) => {
                let known = |extent: &records::Extent| extent.extent_id == open.extents[0].extent_id;
                if body.generation != generation || body.extents.iter().any(known) {
                    return Err(format!("{open:?} does not go on from {body:?}"));
                }
            }
        }
    }
    check_chunks(&store, bodies.values()).await?;
    check_moves(&store, &bodies).await?;
    let indexed: BTreeSet<Entry> = scan(&store, b'x')
        .await
        .into_iter()
        .map(|(key, _)| {
            let version = u32::from_be_bytes(key[17..21].try_into().expect("4 bytes"));
            (key[1..17].to_vec(), version, key[21..].to_vec())
        })
        .collect();
    if indexed != scanned {
        return Err(format!("index {indexed:?}\nscan {scanned:?}"));
    }
    check_counters(&store, &indexed).await?;
    for (zone, counts) in counted {
        let told: u64 = counts.iter().map(|(_, files)| files).sum();
        let stored = indexed.iter().filter(|(of, ..)| of == zone).count() as u64;
        // A purge between the count and the stop may have taken files away.
        if told < stored {
            return Err(format!("{told} files were counted, {stored} are stored"));
        }
    }
    Ok(())
}

/// What is staged is of a job that is not over, which has it on its list; and the EDEK that opens a file is of the zone that it is in.
async fn check_moves(store: &AnyStore, bodies: &BTreeMap<Vec<u8>, records::Body>) -> Result<(), String> {
    let mut jobs = BTreeMap::new();
    for (key, value) in scan(store, b'j').await {
        jobs.insert(key[1..].to_vec(), records::Job::decode(value).expect("a job"));
    }
    let is_over =
        |job: &records::Job| matches!(job.state(), records::JobState::Completed | records::JobState::Canceled);
    let listed: BTreeSet<Vec<u8>> = scan(store, b'h')
        .await
        .into_iter()
        .map(|(key, _)| key[1..].to_vec())
        .collect();
    for key in &listed {
        let of_nothing = key[16] == 1 && bodies.get(&key[17..]).is_none_or(|body| body.staged.is_none());
        if of_nothing || jobs.get(&key[..16]).is_none_or(is_over) {
            return Err(format!("{key:?} is left of {:?}", jobs.get(&key[..16])));
        }
    }
    let places: BTreeMap<Vec<u8>, records::Place> = scan(store, b'i')
        .await
        .into_iter()
        .map(|(key, value)| (key[1..].to_vec(), records::Place::decode(value).expect("a place")))
        .collect();
    for (id, body) in bodies {
        let mut edek = body.edek.as_ref().expect("an EDEK");
        if let Some(staged) = &body.staged {
            let job = jobs.get(staged.job_id.as_ref()).ok_or("staged for no job")?;
            let transfer = job.transfer.as_ref().ok_or("staged for another job")?;
            if !listed.contains(&[staged.job_id.as_ref(), &[1], id].concat()) {
                return Err(format!("{staged:?} is on no list"));
            }
            let second = staged.edek.as_ref().expect("an EDEK");
            if dek_of(&second.wrapped) != dek_of(&edek.wrapped) {
                return Err(format!("{body:?} has two DEKs"));
            }
            if transfer.phase() == records::TransferPhase::Folding {
                edek = second;
            }
        }
        let zone = zone_of(store, &places, id).await;
        if zone.is_some_and(|zone| zone != edek.zone_id) {
            return Err(format!("{body:?} is in another zone than its EDEK"));
        }
    }
    Ok(())
}

/// The zone that a file is in, unless it is cut off.
async fn zone_of(store: &AnyStore, places: &BTreeMap<Vec<u8>, records::Place>, id: &[u8]) -> Option<bytes::Bytes> {
    let mut txn = store.begin().await.expect("a transaction");
    let mut at = places.get(id)?;
    loop {
        let key = [b"d", at.parent.as_ref(), at.name.as_bytes()].concat();
        let entry = txn.get(&key).await.expect("readable").filter(|_| !at.unlinked)?;
        let entry = records::Entry::decode(entry).expect("an entry");
        if !entry.zone_id.is_empty() {
            return Some(entry.zone_id);
        }
        at = places.get(at.parent.as_ref())?;
    }
}

/// Of every extent of a file those blocks are recorded that have a byte that shows, or a purge is still to come for the others.
async fn check_chunks(store: &AnyStore, bodies: impl Iterator<Item = &records::Body>) -> Result<(), String> {
    let chunks: BTreeMap<Vec<u8>, usize> = scan(store, b'b')
        .await
        .into_iter()
        .map(|(key, value)| {
            let chunk = records::BlockChunk::decode(value).expect("a chunk");
            (key[1..17].to_vec(), chunk.blocks.len())
        })
        .collect();
    let purges = !scan(store, b'p').await.is_empty();
    for extent in bodies.flat_map(|body| &body.extents) {
        let shown = usize::try_from(extent.visible.div_ceil(BLOCK_BYTES)).expect("few");
        let stored = chunks.get(extent.extent_id.as_ref()).copied().unwrap_or_default();
        if stored < shown || (stored > shown && !purges) {
            return Err(format!("{stored} blocks are stored of {extent:?}"));
        }
    }
    Ok(())
}

/// What every counter must say, by its key: `c`, the table, and for the index the zone and the version.
async fn check_counters(store: &AnyStore, indexed: &BTreeSet<Entry>) -> Result<(), String> {
    let mut expected: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for (zone, version, _) in indexed {
        let key = [b"cx", zone.as_slice(), &version.to_be_bytes()].concat();
        *expected.entry(key).or_default() += 1;
    }
    for table in *b"fgo" {
        let rows = scan(store, table).await.len();
        if rows > 0 {
            expected.insert(vec![b'c', table], i64::try_from(rows).expect("few"));
        }
    }
    for (_, value) in scan(store, b'o').await {
        let open = records::OpenFile::decode(value).expect("an open file");
        *expected.entry([b"co", open.owner.as_bytes()].concat()).or_default() += 1;
    }
    expected.extend(quotas(store).await?);
    let stored: BTreeMap<Vec<u8>, i64> = scan(store, b'c')
        .await
        .iter()
        .map(|(key, value)| (key.to_vec(), counter(key, Some(value)).expect("a counter")))
        .collect();
    if stored == expected {
        return Ok(());
    }
    Err(format!("counters {stored:?}\nscan {expected:?}"))
}

/// What the counters of quotas must say, by a walk below each directory that has one.
async fn quotas(store: &AnyStore) -> Result<BTreeMap<Vec<u8>, i64>, String> {
    let entries: Vec<(Vec<u8>, records::Entry)> = scan(store, b'd')
        .await
        .into_iter()
        .map(|(key, value)| {
            let parent = key.get(1..17).unwrap_or_default().to_vec();
            (parent, records::Entry::decode(value).expect("an entry"))
        })
        .collect();
    let attached: BTreeSet<_> = scan(store, b'u')
        .await
        .into_iter()
        .map(|(key, _)| key[1..].to_vec())
        .collect();
    let with = entries.iter().filter(|(_, entry)| entry.has_xattrs);
    if attached != with.map(|(_, entry)| entry.id.to_vec()).collect() {
        return Err(format!("attributes of {attached:?} are not those of {entries:?}"));
    }
    let rows: BTreeSet<_> = scan(store, b'q').await.into_iter().collect();
    let (mut expected, mut known) = (BTreeMap::new(), BTreeSet::new());
    for (_, entry) in &entries {
        let Some(quota) = &entry.quota else { continue };
        if !quota.counted {
            return Err(format!("{quota:?} was never counted"));
        }
        known.insert(([b"q", quota.id.as_ref()].concat().into(), entry.id.clone()));
        let (mut names, mut bytes, mut left) = (1, 0, vec![entry.id.to_vec()]);
        while let Some(directory) = left.pop() {
            for (_, child) in entries.iter().filter(|(parent, _)| *parent == directory) {
                names += 1;
                bytes += child.file.map_or(0, |size| i64::try_from(size.length).expect("small"));
                left.push(child.id.to_vec());
            }
        }
        for (letter, value) in [(b"n", names), (b"b", bytes)] {
            if value != 0 {
                expected.insert([b"cq", quota.id.as_ref(), letter].concat(), value);
            }
        }
    }
    if rows == known {
        return Ok(expected);
    }
    Err(format!("quotas {rows:?}\nscan {known:?}"))
}

fn entry(edek: &records::Edek, key: &[u8]) -> Entry {
    (edek.zone_id.to_vec(), edek.key_version, key[1..].to_vec())
}

async fn scan(store: &AnyStore, table: u8) -> Vec<(bytes::Bytes, bytes::Bytes)> {
    let mut txn = store.begin().await.expect("a transaction");
    txn.range(&[table], &[table + 1], 100_000).await.expect("a range")
}
