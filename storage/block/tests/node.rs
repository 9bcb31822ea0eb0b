//! Block nodes over mutual TLS: who may do what, chains of replicas, and what heartbeats bring about.

mod cluster;

use std::fs;

use bytes::Bytes;
use cluster::{Client, Cluster, Node, free_address, identity, target, until};
use crc_fast::crc32_iscsi;
use strongroom_block::{RunError, run};
use strongroom_proto::{
    BlockId, ExtentId, Reason,
    block::v1::{CheckBlocksRequest, ExpectedBlock, PutBlockRequest, Target},
    capability::{Capability, Right, Signer},
    limits::BLOCK_BYTES_MAX,
    metadata::v1::{CheckReplicas, Replica, Replicate, TellReplicas, command},
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const ALICE: &str = "user/alice";

fn some_id() -> BlockId {
    BlockId {
        extent: ExtentId::generate(),
        index: 0,
    }
}

fn some_data(length: usize) -> Bytes {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

fn put(cluster: &Cluster, id: BlockId, data: &Bytes, forward: &[Target]) -> PutBlockRequest {
    PutBlockRequest {
        capability: cluster.capability(Right::Write, ALICE, id.extent),
        block_id: Some(id.into()),
        data: data.clone(),
        crc32c: crc32_iscsi(data),
        forward: forward.to_vec(),
    }
}

/// Reads a block as alice.
async fn get(cluster: &Cluster, node: &Node, id: BlockId) -> Result<Bytes, Reason> {
    let capability = cluster.capability(Right::Read, ALICE, id.extent);
    let answer = cluster.client(ALICE, node).get(id, capability, (0, 0)).await;
    answer.map(|answer| answer.data).map_err(|failure| failure.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_block_goes_there_and_back() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let mut alice = cluster.client(ALICE, &node);
    let (id, data) = (some_id(), some_data(BLOCK_BYTES_MAX));
    let answer = alice.put(put(&cluster, id, &data, &[])).await.expect("put");
    assert_eq!(answer.stored, ["node-1"]);
    assert_eq!(get(&cluster, &node, id).await, Ok(data.clone()));

    let capability = cluster.capability(Right::Read, ALICE, id.extent);
    let part = alice.get(id, capability, (100_000, 50)).await.expect("range");
    assert_eq!(part.data, data.slice(100_000..100_050));
    assert_eq!(part.block_length as usize, BLOCK_BYTES_MAX);

    let answer = alice.put(put(&cluster, id, &data, &[])).await.expect("idempotent");
    assert_eq!(answer.stored, ["node-1"]);
    let other = alice.put(put(&cluster, id, &some_data(5), &[])).await;
    assert_eq!(other.expect_err("conflict").reason, Reason::BlockExists);
    until("the block in a heartbeat", || {
        (cluster.heard().heartbeats["node-1"].blocks == 1).then_some(())
    })
    .await;
    let heartbeat = cluster.heard().heartbeats["node-1"].clone();
    assert!(heartbeat.capacity_bytes > heartbeat.free_bytes && heartbeat.free_bytes > 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_puts_are_refused() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let mut alice = cluster.client(ALICE, &node);
    let id = some_id();
    let good = put(&cluster, id, &some_data(10), &[]);
    let too_long = some_data(BLOCK_BYTES_MAX + 1);
    for (request, mention) in [
        (put(&cluster, id, &Bytes::new(), &[]), "a block has 1 to"),
        (put(&cluster, id, &too_long, &[]), "a block has 1 to"),
        (
            PutBlockRequest {
                crc32c: good.crc32c ^ 1,
                ..good.clone()
            },
            "damaged on the way",
        ),
        (
            PutBlockRequest {
                block_id: None,
                ..good.clone()
            },
            "block id is missing",
        ),
        (
            PutBlockRequest {
                forward: vec![Target::default(); 9],
                ..good.clone()
            },
            "at most 8 nodes",
        ),
    ] {
        let failure = alice.put(request).await.expect_err("refused");
        assert_eq!(failure.reason, Reason::InvalidArgument, "{failure}");
        assert!(
            failure.message.contains(mention),
            "{failure} does not mention {mention}"
        );
    }
    assert_eq!(get(&cluster, &node, id).await, Err(Reason::BlockNotFound));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_allow_what_they_say_and_no_more() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let (id, data) = (some_id(), some_data(10));
    cluster
        .client(ALICE, &node)
        .put(put(&cluster, id, &data, &[]))
        .await
        .expect("put");

    let sign = |signer: &Signer, right, expires_ms, holder, extent| {
        signer.sign(&Capability {
            right,
            expires_ms,
            holder: identity(holder),
            extents: vec![ExtentId::generate(), extent],
        })
    };
    let foreign = Cluster::without_metadata();
    let (ours, own) = (&cluster.signer, id.extent);
    let read = sign(ours, Right::Read, u64::MAX, ALICE, own);
    for (peer, capability, mention) in [
        (ALICE, read.clone(), ""),
        (
            "service/block/node-2",
            read.clone(),
            "is for user alice, not service block/node-2",
        ),
        ("user/mallory", read.clone(), "is for user alice, not user mallory"),
        ("service/kms", read.clone(), "is for user alice, not service kms"),
        (
            ALICE,
            sign(ours, Right::Write, u64::MAX, ALICE, own),
            "is for Write, not Read",
        ),
        (ALICE, sign(ours, Right::Read, 1, ALICE, own), "expired"),
        (
            ALICE,
            sign(ours, Right::Read, u64::MAX, ALICE, ExtentId::generate()),
            "does not cover extent",
        ),
        (
            ALICE,
            sign(&foreign.signer, Right::Read, u64::MAX, ALICE, own),
            "not signed by this cluster",
        ),
        (ALICE, read.slice(1..), "not signed by this cluster"),
        (ALICE, Bytes::new(), "too short"),
    ] {
        let answer = cluster.client(peer, &node).get(id, capability, (0, 0)).await;
        if mention.is_empty() {
            assert_eq!(answer.expect("allowed").data, data, "{peer}");
            continue;
        }
        let failure = answer.expect_err("refused");
        assert_eq!(failure.reason, Reason::CapabilityRefused, "{failure}");
        assert!(
            failure.message.contains(mention),
            "{failure} does not mention {mention}"
        );
    }

    let other = some_id();
    let request = PutBlockRequest {
        capability: cluster.capability(Right::Read, ALICE, other.extent),
        ..put(&cluster, other, &data, &[])
    };
    let failure = cluster
        .client(ALICE, &node)
        .put(request)
        .await
        .expect_err("a reader cannot write");
    assert_eq!(failure.reason, Reason::CapabilityRefused);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_the_metadata_service_and_then_serves() {
    let cluster = Cluster::without_metadata();
    let node = cluster.start("node-1").await;
    let (id, data) = (some_id(), some_data(10));
    let request = put(&cluster, id, &data, &[]);
    let failure = cluster
        .client(ALICE, &node)
        .put(request.clone())
        .await
        .expect_err("not joined");
    assert_eq!(failure.reason, Reason::Unavailable);
    assert!(failure.message.contains("node node-1 has not joined yet"), "{failure}");
    cluster.start_metadata().await;
    cluster.beats("node-1", 2).await;
    cluster.client(ALICE, &node).put(request).await.expect("joined");
    cluster.heard().refusals = u32::MAX;
    assert_eq!(
        get(&cluster, &node, id).await,
        Ok(data),
        "serves on with the keys it knows"
    );
    node.stop().await;
}

async fn three(cluster: &Cluster) -> [Node; 3] {
    let joins = tokio::join!(cluster.join("node-1"), cluster.join("node-2"), cluster.join("node-3"));
    joins.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_stores_on_every_node_that_lives() {
    let cluster = Cluster::new().await;
    let nodes = three(&cluster).await;
    let [head, second, third] = &nodes;
    let dead = target("node-dead", free_address());
    let mislabelled = target("node-other", second.address);
    let (t2, t3) = (second.target(), third.target());
    for (forward, stored, failed) in [
        (vec![t2.clone(), t3.clone()], vec!["node-1", "node-2", "node-3"], vec![]),
        (
            vec![dead.clone(), t3.clone()],
            vec!["node-1", "node-3"],
            vec!["node-dead"],
        ),
        (
            vec![t2.clone(), dead.clone()],
            vec!["node-1", "node-2"],
            vec!["node-dead"],
        ),
        (
            vec![dead.clone(), dead.clone()],
            vec!["node-1"],
            vec!["node-dead", "node-dead"],
        ),
        (
            vec![head.target(), t2.clone()],
            vec!["node-1", "node-2"],
            vec!["node-1"],
        ),
        (
            vec![mislabelled, t3.clone()],
            vec!["node-1", "node-3"],
            vec!["node-other"],
        ),
        (
            vec![target("node-x", head.address), Target::default()],
            vec!["node-1"],
            vec!["node-x", ""],
        ),
    ] {
        let (id, data) = (some_id(), some_data(300_000));
        let answer = cluster
            .client(ALICE, head)
            .put(put(&cluster, id, &data, &forward))
            .await
            .expect("put");
        assert_eq!(answer.stored, stored);
        let named: Vec<_> = answer.failed.iter().map(|failure| failure.node_id.as_str()).collect();
        assert_eq!(named, failed);
        assert!(answer.failed.iter().all(|failure| !failure.message.is_empty()));
        assert!(
            answer
                .failed
                .iter()
                .all(|failure| failure.reason.parse::<Reason>().is_ok())
        );
        for node in nodes.iter().filter(|node| stored.contains(&node.id.as_str())) {
            assert_eq!(get(&cluster, node, id).await.as_ref(), Ok(&data), "{}", node.id);
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_tail_is_given_up_and_the_middle_still_counts() {
    let cluster = Cluster::new().await;
    let [head, second, _third] = three(&cluster).await;
    // Accepts connections, into the kernel's backlog, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hanging = target("node-silent", silent.local_addr().expect("bound"));
    let (id, data) = (some_id(), some_data(1000));
    let request = put(&cluster, id, &data, &[second.target(), hanging]);
    let answer = cluster.client(ALICE, &head).put(request).await.expect("put");
    assert_eq!(answer.stored, ["node-1", "node-2"]);
    assert_eq!(answer.failed[0].node_id, "node-silent");
    assert_eq!(get(&cluster, &second, id).await, Ok(data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_cannot_store_fails_the_call() {
    let cluster = Cluster::new().await;
    let [head, second, _third] = three(&cluster).await;
    let id = some_id();
    cluster
        .client(ALICE, &head)
        .put(put(&cluster, id, &some_data(5), &[]))
        .await
        .expect("put");
    let request = put(&cluster, id, &some_data(6), &[second.target()]);
    let failure = cluster
        .client(ALICE, &head)
        .put(request)
        .await
        .expect_err("conflict here");
    assert_eq!(failure.reason, Reason::BlockExists);
}

/// The file of a block on a node.
fn file(cluster: &Cluster, node: &str, id: BlockId) -> std::path::PathBuf {
    let fan = format!("blocks/{:02x}/{id}.blk", id.extent.as_bytes()[15]);
    cluster.data(node).join(fan)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_blocks_are_refused_and_reported() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let (flipped, cut, missing) = (some_id(), some_id(), some_id());
    let data = some_data(100_000);
    for id in [flipped, cut] {
        cluster
            .client(ALICE, &node)
            .put(put(&cluster, id, &data, &[]))
            .await
            .expect("put");
    }
    let path = file(&cluster, "node-1", flipped);
    let mut bytes = fs::read(&path).expect("read");
    bytes[90_000] ^= 1;
    fs::write(&path, bytes).expect("write");
    let path = file(&cluster, "node-1", cut);
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("open")
        .set_len(500)
        .expect("truncate");

    // A heartbeat that is not answered must not lose the news.
    cluster.heard().refusals = 2;
    for (id, reason) in [
        (flipped, Reason::BlockCorrupt),
        (cut, Reason::BlockCorrupt),
        (missing, Reason::BlockNotFound),
    ] {
        assert_eq!(get(&cluster, &node, id).await, Err(reason));
        until("the report", || {
            cluster.heard().bad.contains(&("node-1".to_owned(), id)).then_some(())
        })
        .await;
    }
    until("answers again", || (cluster.heard().refusals == 0).then_some(())).await;
    cluster.beats("node-1", 2).await;
    assert!(
        cluster.heard().heartbeats["node-1"].bad_blocks.is_empty(),
        "told once it was heard"
    );
    assert_eq!(cluster.heard().heartbeats["node-1"].blocks, 0);
    for id in [flipped, cut] {
        assert_eq!(
            get(&cluster, &node, id).await,
            Err(Reason::BlockCorrupt),
            "for every later reader too"
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_replicate_and_delete() {
    let cluster = Cluster::new().await;
    let [first, second, _third] = three(&cluster).await;
    let (id, data) = (some_id(), some_data(200_000));
    cluster
        .client(ALICE, &first)
        .put(put(&cluster, id, &data, &[]))
        .await
        .expect("put");

    let replicate = |to: Target| {
        command::Command::Replicate(Replicate {
            block_id: Some(id.into()),
            to: Some(to),
            capability: cluster.capability(Right::Write, "service/block/node-1", id.extent),
        })
    };
    cluster.command("node-1", 1, replicate(second.target()));
    assert_eq!(cluster.result(1).await, "");
    assert_eq!(get(&cluster, &second, id).await, Ok(data.clone()));

    cluster.command("node-1", 2, replicate(target("node-dead", free_address())));
    let failure = cluster.result(2).await;
    assert!(failure.contains("cannot reach the block service"), "{failure}");

    for command_id in [3, 4] {
        cluster.command("node-1", command_id, command::Command::Delete(id.into()));
        assert_eq!(cluster.result(command_id).await, "", "deleting twice is fine");
    }
    assert_eq!(get(&cluster, &first, id).await, Err(Reason::BlockNotFound));
    assert!(!file(&cluster, "node-1", id).exists());

    let other = BlockId {
        index: id.index + 1,
        ..id
    };
    let unlike = some_id();
    for id in [id, other, unlike] {
        cluster
            .client(ALICE, &first)
            .put(put(&cluster, id, &data, &[]))
            .await
            .expect("put");
    }
    for command_id in [6, 7] {
        let extent = command::Command::DeleteExtent(id.extent.into());
        cluster.command("node-1", command_id, extent);
        assert_eq!(cluster.result(command_id).await, "", "deleting twice is fine");
    }
    for id in [id, other] {
        assert!(!file(&cluster, "node-1", id).exists());
    }
    assert_eq!(get(&cluster, &first, unlike).await, Ok(data.clone()));

    cluster.command("node-1", 5, replicate(second.target()));
    let failure = cluster.result(5).await;
    assert!(failure.contains("is not on node node-1"), "{failure}");
    assert_eq!(get(&cluster, &second, id).await, Ok(data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_has_and_what_it_lacks() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let data = some_data(1000);
    let (here, gone) = (some_id(), some_id());
    cluster
        .client(ALICE, &node)
        .put(put(&cluster, here, &data, &[]))
        .await
        .expect("put");
    let incarnation = cluster.heard().heartbeats["node-1"].incarnation.clone();
    assert_eq!(incarnation.len(), 16);

    let replica = |id: BlockId| Replica {
        block_id: Some(id.into()),
        length: 1000,
        crc32c: crc32_iscsi(&data),
        ..Replica::default()
    };
    let check = CheckReplicas {
        replicas: vec![replica(here), replica(gone)],
    };
    cluster.command("node-1", 1, command::Command::Check(check));
    let outcome = cluster.outcome(1).await;
    assert_eq!((outcome.failure.as_str(), outcome.missing), ("", vec![gone.into()]));

    cluster.command("node-1", 2, command::Command::Tell(TellReplicas::default()));
    let page = cluster.outcome(2).await.page.expect("a page");
    assert_eq!((page.replicas.len(), page.next), (1, None));
    let told = Replica {
        age_ms: 0,
        ..page.replicas[0].clone()
    };
    assert_eq!(told, replica(here));

    let many = CheckReplicas {
        replicas: vec![replica(gone); 1001],
    };
    cluster.command("node-1", 3, command::Command::Check(many));
    assert!(cluster.result(3).await.contains("at most 1000"));
    node.stop().await;

    // The disk is replaced.
    fs::remove_dir_all(cluster.data("node-1")).expect("a new disk");
    let node = cluster.join("node-1").await;
    assert_ne!(cluster.heard().heartbeats["node-1"].incarnation, incarnation);
    node.stop().await;
}

/// A file that cannot be read keeps nobody from hearing of the others, if he asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_beside_what_is_missing() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let (here, data) = (some_id(), some_data(1000));
    let [hurt, gone] = [1, 2].map(|index| BlockId { index, ..here });
    let mut alice = cluster.client(ALICE, &node);
    for id in [here, hurt] {
        alice.put(put(&cluster, id, &data, &[])).await.expect("put");
    }
    let path = file(&cluster, "node-1", hurt);
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("what cannot be read");
    let expected = |id: BlockId| ExpectedBlock {
        block_id: Some(id.into()),
        length: 1000,
        crc32c: crc32_iscsi(&data),
    };
    let request = CheckBlocksRequest {
        capability: cluster.capability(Right::Read, ALICE, here.extent),
        blocks: [here, hurt, gone].map(expected).into(),
        tell_unreadable: true,
        ..CheckBlocksRequest::default()
    };
    let answer = alice.check(request.clone()).await.expect("told");
    assert_eq!(
        (answer.missing, answer.unreadable),
        (vec![gone.into()], vec![hurt.into()])
    );
    assert_eq!(answer.damaged, []);
    let request = CheckBlocksRequest {
        tell_unreadable: false,
        ..request
    };
    alice.check(request).await.expect_err("it would be taken as there");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_block_is_deleted_by_two_commands_at_once() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let (id, data) = (some_id(), some_data(10));
    cluster
        .client(ALICE, &node)
        .put(put(&cluster, id, &data, &[]))
        .await
        .expect("put");
    // As many as run at once, each for the seconds that a node has to answer: the deletes wait behind them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hanging = target("node-silent", silent.local_addr().expect("bound"));
    for command_id in 1..=8 {
        let replicate = Replicate {
            block_id: Some(id.into()),
            to: Some(hanging.clone()),
            capability: cluster.capability(Right::Write, "service/block/node-1", id.extent),
        };
        cluster.command("node-1", command_id, command::Command::Replicate(replicate));
    }
    for command_id in [20, 21] {
        cluster.command("node-1", command_id, command::Command::Delete(id.into()));
    }
    let failure = cluster.result(21).await;
    assert!(failure.contains("being deleted already"), "{failure}");
    assert_eq!(cluster.result(20).await, "");
    assert!(!file(&cluster, "node-1", id).exists());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_told_until_it_was_heard() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let told = || {
        cluster
            .heard()
            .results
            .iter()
            .filter(|result| result.command_id == 7)
            .count()
    };
    cluster.heard().refusals_of_results = 2;
    cluster.command("node-1", 7, command::Command::Delete(some_id().into()));
    until("two refused heartbeats and one heard", || (told() >= 3).then_some(())).await;
    cluster.beats("node-1", 2).await;
    assert_eq!(told(), 3, "told no more once it was heard");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_survive_a_restart() {
    let cluster = Cluster::new().await;
    let node = cluster.join("node-1").await;
    let (id, data) = (some_id(), some_data(10));
    let mut alice: Client = cluster.client(ALICE, &node);
    alice.put(put(&cluster, id, &data, &[])).await.expect("put");
    drop(alice);
    node.stop().await;
    let node = cluster.join("node-1").await;
    assert_eq!(get(&cluster, &node, id).await, Ok(data));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_why() {
    let cluster = Cluster::new().await;
    let mut config = cluster.config("node-1");
    config.tls = cluster.tls_files(&identity("service/block/node-2"));
    let error = run(config, std::future::pending())
        .await
        .expect_err("wrong certificate");
    assert!(matches!(error, RunError::Identity { .. }));
    assert!(
        error
            .to_string()
            .contains("is that of service block/node-2, but this is node node-1"),
        "{error}"
    );

    let node = cluster.start("node-1").await;
    let error = run(cluster.config("node-1"), std::future::pending())
        .await
        .expect_err("locked");
    assert!(error.to_string().contains("in use by process"), "{error}");
    let mut config = cluster.config("node-3");
    config.listen = node.address;
    let error = run(config, std::future::pending()).await.expect_err("port taken");
    assert!(error.to_string().contains("cannot listen on"), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_over_mutual_tls() {
    let cluster = Cluster::without_metadata();
    let node = cluster.start("node-1").await;
    let channel = cluster.channel(ALICE, &node);
    for service in ["", "strongroom.block.v1.Blocks"] {
        let health = healthy(channel.clone(), service).await;
        assert_eq!(health, Ok(ServingStatus::Serving), "{service:?}");
    }
    let unknown = healthy(channel.clone(), "strongroom.metadata.v1.Zones").await;
    assert_eq!(unknown, Err(Code::NotFound), "not this role's service");
    let services = reflected(channel).await;
    for service in ["strongroom.block.v1.Blocks", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| name == service), "{services:?}");
    }
    node.stop().await;
}

async fn healthy(channel: Channel, service: &str) -> Result<ServingStatus, Code> {
    let service = service.to_owned();
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
    answer
        .map(|answer| answer.into_inner().status())
        .map_err(|status| status.code())
}

async fn reflected(channel: Channel) -> Vec<String> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures::stream::iter([ask]))
        .await;
    let mut answers = answers.expect("answered").into_inner();
    let answer = answers.message().await.expect("a message");
    match answer.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("{other:?}"),
    }
}
