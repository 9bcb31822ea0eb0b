//! Checking the namespace: what was changed in the store of a stopped service is found, and repaired where it can be.

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{Reader, Store, StoreError, Txn, counter, transact};
use strongroom_proto::{
    BlockId, Failure, Reason,
    metadata::v1::{self as pb, CheckedPart, FindingKind, fsck_client::FsckClient},
};

use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES, block_id},
    refused,
};

/// The stored records, from the same file that the service is built from.
#[allow(missing_docs, clippy::all, unreachable_pub, dead_code)]
pub(super) mod records {
    include!(concat!(env!("OUT_DIR"), "/strongroom.metadata.records.v1.rs"));
}

const PARTS: [CheckedPart; 10] = [
    CheckedPart::Zones,
    CheckedPart::Entries,
    CheckedPart::Places,
    CheckedPart::Bodies,
    CheckedPart::OpenFiles,
    CheckedPart::Index,
    CheckedPart::Jobs,
    CheckedPart::Plain,
    CheckedPart::Counters,
    CheckedPart::Nodes,
];

/// A change to the store.
pub(super) type Fault = fn(&mut Faults);

/// What faults are made of.
pub(super) struct Faults {
    rows: Vec<(Bytes, Bytes)>,
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) deletes: Vec<Vec<u8>>,
}

impl Faults {
    /// The one row of a table whose value has some bytes.
    pub(super) fn row(&self, table: u8, holds: &[u8]) -> (Vec<u8>, Bytes) {
        let mut rows = self.rows.iter().filter(|(key, _)| key[0] == table);
        let found = rows.find(|(key, value)| contains(value, holds) || contains(key, holds));
        let (key, value) = found.expect("a row");
        (key.to_vec(), value.clone())
    }

    fn entry(&self, name: &str) -> (Vec<u8>, records::Entry) {
        let mut rows = self.rows.iter().filter(|(key, _)| key[0] == b'd');
        let (key, value) = rows.find(|(key, _)| key.ends_with(name.as_bytes())).expect("an entry");
        (key.to_vec(), records::Entry::decode(value.clone()).expect("an entry"))
    }

    /// The key of the row of a table that is about the file `name`.
    pub(super) fn of(&self, table: u8, name: &str) -> Vec<u8> {
        let (_, entry) = self.entry(name);
        let mut rows = self.rows.iter().filter(|(key, _)| key[0] == table);
        rows.find(|(key, _)| key.ends_with(&entry.id))
            .expect("a row")
            .0
            .to_vec()
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

pub(super) async fn damage(world: &mut World, fault: Fault) {
    world.stop().await;
    let store = world.open_store().await;
    // A database may still be at a commit of the service that was stopped.
    let damaged: Result<(), StoreError> = transact(&store, |txn| {
        Box::pin(async move {
            let mut faults = Faults {
                rows: txn.range(&[0], &[255], 10_000).await?,
                puts: Vec::new(),
                deletes: Vec::new(),
            };
            fault(&mut faults);
            for (key, value) in faults.puts {
                txn.put(&key, value);
            }
            for key in faults.deletes {
                txn.delete(&key);
            }
            Ok(())
        })
    })
    .await;
    damaged.expect("committed");
    drop(store);
    world.run().await;
}

async fn page(world: &World, user: &str, request: pb::CheckPageRequest) -> Result<pb::CheckPageResponse, Failure> {
    let mut client: FsckClient<_> = world.fsck(user);
    Ok(client.check_page(request).await?.into_inner())
}

/// All findings.
pub(super) async fn findings(world: &World, repair: bool) -> Vec<pb::Finding> {
    let mut found = Vec::new();
    for part in PARTS {
        let mut after = Bytes::new();
        loop {
            let request = pb::CheckPageRequest {
                part: part.into(),
                after,
                repair,
                sample_edeks: 10,
                ..pb::CheckPageRequest::default()
            };
            let page = page(world, "fsadmin", request).await.expect("a page");
            found.extend(page.findings);
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
    }
    found
}

async fn sound() -> World {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.zone("/z/nested", "other").await;
    world.mkdir("/z/d").await;
    for name in ["a", "b", "c"] {
        world
            .write(&format!("/z/{name}"), BLOCK_BYTES + 10, &NODES)
            .await
            .expect("a file");
    }
    world.write("/z/d/e", 10, &NODES).await.expect("a file");
    world.write("/z/nested/f", 10, &NODES).await.expect("a file");
    world.create("/z/open", false).await.expect("an open file");
    // One in the other: what the outer one has used is walked, and not taken from the inner one.
    for path in ["/z", "/z/d"] {
        let request = pb::SetQuotaRequest {
            path: path.as_bytes().to_vec().into(),
            names_max: Some(1000),
            bytes_max: Some(1 << 30),
            ..pb::SetQuotaRequest::default()
        };
        world.user("fsadmin").namespace.set_quota(request).await.expect("set");
    }
    world
}

/// A running removal, which has nothing to do.
fn removal() -> (Vec<u8>, records::Job) {
    let job = records::Job {
        kind: records::JobKind::Removal.into(),
        state: records::JobState::Paused.into(),
        owner: "alice".to_owned(),
        created_ms: u64::from(u32::MAX) * 1000,
        ..records::Job::default()
    };
    (vec![6; 16], job)
}

#[tokio::test]
async fn a_sound_namespace_has_no_findings_and_all_its_blocks_are_told() {
    let world = sound().await;
    assert_eq!(findings(&world, false).await, []);
    let request = pb::CheckPageRequest {
        part: CheckedPart::Entries.into(),
        ..pb::CheckPageRequest::default()
    };
    let told = page(&world, "fsadmin", request.clone()).await.expect("a page");
    let files: Vec<(&[u8], u32)> = told
        .files
        .iter()
        .map(|file| (file.path.as_ref(), file.blocks))
        .collect();
    let mut sorted = files.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            (&b"/z/a"[..], 2),
            (b"/z/b", 2),
            (b"/z/c", 2),
            (b"/z/d/e", 1),
            (b"/z/nested/f", 1)
        ]
    );
    let list = told.replicas.expect("blocks");
    assert_eq!((list.blocks.len(), list.nodes.len()), (8, 3));
    assert!(list.blocks.iter().all(|block| block.nodes == NODES));
    // One directory alone, with those below it.
    let directory = world.stat("/z").await.expect("there").file_id;
    let of_one = pb::CheckPageRequest {
        directory,
        ..request.clone()
    };
    let told = page(&world, "fsadmin", of_one).await.expect("a page");
    assert_eq!((told.files.len(), told.directories.len()), (3, 2));
    check(
        &page(&world, "alice", request).await.expect_err("no superuser"),
        Reason::PermissionDenied,
        &["user alice"],
    );
    let lost = pb::ReportLostRequest::default();
    let failure = refused(world.fsck("alice").report_lost(lost).await);
    check(&failure, Reason::PermissionDenied, &["user alice"]);
}

#[tokio::test]
async fn what_is_derived_is_repaired_and_what_nothing_refers_to_is_removed() {
    let cases: [(&str, FindingKind, &str, Fault); 12] = [
        (
            "a missing index entry",
            FindingKind::Index,
            "not in the index",
            |faults| {
                let key = faults.of(b'x', "a");
                faults.deletes.push(key);
            },
        ),
        (
            "a stray index entry",
            FindingKind::Index,
            "which its EDEK does not have",
            |faults| {
                let mut key = faults.of(b'x', "a");
                key[20] = 9;
                faults.puts.push((key, Vec::new()));
            },
        ),
        (
            "an index entry of no file",
            FindingKind::Index,
            "which its EDEK does not have",
            |faults| {
                let mut key = faults.of(b'x', "b");
                let end = key.len() - 1;
                key[end] ^= 1;
                faults.puts.push((key, Vec::new()));
            },
        ),
        ("a counter", FindingKind::Counter, "says 77", |faults| {
            faults.puts.push((b"co".to_vec(), 77_i64.to_be_bytes().to_vec()));
        }),
        ("a counter below 0", FindingKind::Counter, "says -3", |faults| {
            let (key, _) = faults.row(b'c', b"x");
            faults.puts.push((key, (-3_i64).to_be_bytes().to_vec()));
        }),
        ("what a quota has used", FindingKind::Counter, "of quota", |faults| {
            let (key, value) = faults.row(b'c', b"q");
            let used = i64::from_be_bytes(value.as_ref().try_into().expect("a counter"));
            faults.puts.push((key, (used + 5).to_be_bytes().to_vec()));
        }),
        (
            "files of a user",
            FindingKind::Counter,
            "says 9, there are 1",
            |faults| {
                faults.puts.push((b"coalice".to_vec(), 9_i64.to_be_bytes().to_vec()));
            },
        ),
        ("a list of no job", FindingKind::Job, "is over", |faults| {
            let key = [&b"h"[..], &[5; 16], &[0], &[7; 16]].concat();
            faults.puts.push((key, Vec::new()));
        }),
        ("a mark of no job", FindingKind::Job, "should not be", |faults| {
            faults.puts.push(([&b"k"[..], &[2], &[5; 16]].concat(), Vec::new()));
        }),
        ("a missing place", FindingKind::Namespace, "has no place", |faults| {
            let key = faults.of(b'i', "b");
            faults.deletes.push(key);
        }),
        ("a wrong size", FindingKind::Size, "listings say 1 bytes", |faults| {
            let (key, mut entry) = faults.entry("c");
            entry.file = Some(records::Size {
                length: 1,
                blocks: 1,
                plain: false,
            });
            faults.puts.push((key, entry.encode_to_vec()));
        }),
        (
            "a place of nothing",
            FindingKind::Namespace,
            "holds nothing",
            |faults| {
                let place = records::Place {
                    parent: vec![0; 16].into(),
                    name: "gone".to_owned(),
                    unlinked: false,
                };
                faults
                    .puts
                    .push(([&b"i"[..], &[7; 16]].concat(), place.encode_to_vec()));
            },
        ),
    ];
    let mut world = sound().await;
    let before = rows(&mut world).await;
    for (name, kind, words, fault) in cases {
        damage(&mut world, fault).await;
        let found = findings(&world, false).await;
        let first = found.iter().find(|found| found.kind() == kind).expect(name);
        assert!(first.what.contains(words), "{name}: {}", first.what);
        let repaired = findings(&world, true).await;
        assert!(repaired.iter().all(|found| found.repaired), "{name}: {repaired:?}");
        assert_eq!(findings(&world, false).await, [], "{name}");
        assert_eq!(rows(&mut world).await, before, "{name}: all is as it was");
    }
}

#[tokio::test]
async fn a_job_that_nobody_would_find_is_found_again() {
    let mut world = sound().await;
    damage(&mut world, |faults| {
        let (id, job) = removal();
        faults.puts.push(([&b"j"[..], &id].concat(), job.encode_to_vec()));
    })
    .await;
    let found = findings(&world, true).await;
    assert!(
        found.len() == 1 && found[0].kind() == FindingKind::Job && found[0].repaired,
        "{found:?}"
    );
    assert_eq!(findings(&world, false).await, []);
    let rows = rows(&mut world).await;
    assert!(
        rows.iter()
            .any(|(key, _)| key[..] == [&b"k"[..], &[0], &removal().0].concat())
    );
}

#[tokio::test]
async fn what_cannot_be_repaired_is_named_and_kept() {
    let cases: [(&str, FindingKind, &str, &str, Fault); 8] = [
        ("a lost body", FindingKind::Namespace, "/z/a", "has no body", |faults| {
            let key = faults.of(b'e', "a");
            faults.deletes.push(key);
        }),
        (
            "a broken body",
            FindingKind::Unreadable,
            "/z/a",
            "cannot be read",
            |faults| {
                let key = faults.of(b'e', "a");
                faults.puts.push((key, b"no body".to_vec()));
            },
        ),
        ("a lost entry", FindingKind::Namespace, "", "has no entry", |faults| {
            let (key, _) = faults.entry("a");
            faults.deletes.push(key);
        }),
        (
            "an EDEK of another zone",
            FindingKind::Edek,
            "/z/a",
            "in which the file is not",
            |faults| {
                let key = faults.of(b'e', "a");
                let (_, value) = faults.row(b'e', &key[1..]);
                let mut body = records::Body::decode(value).expect("a body");
                body.edek.as_mut().expect("an EDEK").zone_id = vec![9; 16].into();
                faults.puts.push((key, body.encode_to_vec()));
            },
        ),
        (
            "a lost block list",
            FindingKind::BlockList,
            "/z/a",
            "are not recorded",
            |faults| {
                let key = faults.of(b'e', "a");
                let (_, value) = faults.row(b'e', &key[1..]);
                let body = records::Body::decode(value).expect("a body");
                let (key, _) = faults.row(b'b', &body.extents[0].extent_id);
                faults.deletes.push(key);
            },
        ),
        (
            "a broken list of blocks",
            FindingKind::BlockList,
            "/z/a",
            "cannot be read",
            |faults| {
                let key = faults.of(b'e', "a");
                let (_, value) = faults.row(b'e', &key[1..]);
                let body = records::Body::decode(value).expect("a body");
                let (key, _) = faults.row(b'b', &body.extents[0].extent_id);
                faults.puts.push((key, b"no list".to_vec()));
            },
        ),
        (
            "a counter of something else",
            FindingKind::Unreadable,
            "",
            "the counter",
            |faults| {
                let (key, _) = faults.row(b'c', b"x");
                faults.puts.push((key, b"odd".to_vec()));
            },
        ),
        ("a lost zone", FindingKind::Zone, "/z", "has no record", |faults| {
            let (_, entry) = faults.entry("z");
            faults.deletes.push([b"z", entry.zone_id.as_ref()].concat());
        }),
    ];
    for (name, kind, path, words, fault) in cases {
        let mut world = sound().await;
        damage(&mut world, fault).await;
        let found = findings(&world, true).await;
        let first = found.iter().find(|found| found.kind() == kind && found.path == path);
        let first = first.unwrap_or_else(|| panic!("{name}: {found:?}"));
        assert!(first.what.contains(words) && !first.repaired, "{name}: {first:?}");
        // The others are where they were.
        if kind != FindingKind::Zone {
            world.read("/z/b").await.expect(name);
        }
        world.read("/z/nested/f").await.expect(name);
    }
}

#[tokio::test]
async fn an_edek_that_does_not_open_is_named() {
    let world = sound().await;
    world.kms.never_rewrap(&world.edek("/z/b").await.wrapped);
    let found = findings(&world, false).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].kind(), found[0].path.as_ref()),
        (FindingKind::Edek, &b"/z/b"[..])
    );
    assert!(found[0].what.contains("does not open"), "{found:?}");
    assert_eq!(world.edek("/z/a").await.key_version, 0, "nothing was changed by trying");
}

/// The record says it and the block waits for no copy: no defect leaves it so, and an older service may have.
#[tokio::test]
async fn what_a_disk_did_not_give_back_counts_as_no_replica() {
    let mut world = sound().await;
    damage(&mut world, |faults| {
        let body = faults.of(b'e', "b");
        let (_, value) = faults.row(b'e', &body[1..]);
        let body = records::Body::decode(value).expect("a body");
        let (key, value) = faults.row(b'b', &body.extents[0].extent_id);
        let mut chunk = records::BlockChunk::decode(value).expect("a list of blocks");
        chunk.blocks[1].unread = vec!["n1".to_owned()];
        faults.puts.push((key, chunk.encode_to_vec()));
    })
    .await;
    for (repair, repaired) in [(false, false), (true, true)] {
        let found = findings(&world, repair).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].kind(), found[0].path.as_ref(), found[0].repaired),
            (FindingKind::Deficit, &b"/z/b"[..], repaired)
        );
        assert!(
            found[0].what.contains("has 2 of 3 replicas and waits for none"),
            "{found:?}"
        );
    }
    assert_eq!(findings(&world, false).await, []);
    assert_eq!(world.cluster_status().await.blocks_in_deficit, 1);
    world.add_node("n4");
    world
        .until("a copy more is made", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    // Who reads is sent there last, whatever the order of the others.
    for _ in 0..10 {
        let blocks = world.read("/z/b").await.expect("opened").blocks.expect("blocks").blocks;
        let nodes: Vec<&str> = blocks[1].nodes.iter().map(String::as_str).collect();
        assert_eq!((nodes.len(), nodes[3]), (4, "n1"), "{nodes:?}");
        assert_eq!(blocks[0].nodes.len(), 3);
    }
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn a_replica_that_a_superuser_reports_lost_is_made_anew() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let block: BlockId = block_id(&grant, 0);
    world.nodes.forget("n2", block);
    let report = pb::ReportLostRequest {
        node_id: "n2".to_owned(),
        blocks: vec![block.into()],
    };
    world.fsck("fsadmin").report_lost(report).await.expect("taken");
    world
        .until("it is there again", async |world| world.nodes.has("n2", block))
        .await;
}

/// All rows but those that change by themselves: leases, inventories, answers, nodes.
async fn rows(world: &mut World) -> Vec<(Bytes, Bytes)> {
    world.stop().await;
    let store = world.open_store().await;
    let mut view = store.snapshot().await.expect("a view");
    let mut rows = view.range(&[0], &[255], 10_000).await.expect("all rows");
    rows.retain(|(key, _)| !b"lBatn".contains(&key[0]));
    rows.sort_unstable();
    for (key, value) in &rows {
        assert!(key[0] != b'c' || counter(key, Some(value)).expect("a counter") > 0);
    }
    drop(view);
    drop(store);
    world.run().await;
    rows
}
