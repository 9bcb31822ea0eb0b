//! The role as a whole: it serves without a key service, answers health checks and reflection, and stops when told;
//! what keeps it from starting is said.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use strongroom_kv::{EmbeddedStore, Store, StoreConfig, Txn};
use strongroom_metadata::{Config, RunError, Settings, run};
use strongroom_proto::{
    Reason,
    metadata::v1::{self as pb, namespace_client::NamespaceClient, zones_client::ZonesClient},
    transport::{Role, connect},
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::fixture::{check, cluster::Cluster, in_database, pki::Pki, refused};

#[tokio::test]
async fn it_serves_without_a_key_service_and_stops_when_told() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().expect("a directory"));
    let config = config(&pki, &dir);
    let channel = user(&pki, config.listen);
    let (stop, stopped) = oneshot::channel::<()>();
    let role = tokio::spawn(run(config, async { _ = stopped.await }));
    serving(&channel).await;
    let request = pb::CreateZoneRequest {
        path: "/a".into(),
        key_name: "payroll".to_owned(),
        ..pb::CreateZoneRequest::default()
    };
    let failure = refused(ZonesClient::new(channel.clone()).create_zone(request).await);
    check(&failure, Reason::Unavailable, &["key service"]);

    for service in ["", "strongroom.metadata.v1.Namespace"] {
        let service = service.to_owned();
        let health = HealthClient::new(channel.clone())
            .check(HealthCheckRequest { service })
            .await;
        assert_eq!(health.expect("healthy").into_inner().status(), ServingStatus::Serving);
    }
    let services = reflected(channel).await;
    assert!(
        services.iter().any(|name| name == "strongroom.metadata.v1.Zones"),
        "{services:?}"
    );
    drop(stop);
    role.await.expect("no panic").expect("a clean stop");
}

/// Waits until the directory `/a` can be made.
async fn serving(channel: &Channel) {
    let mut namespace = NamespaceClient::new(channel.clone());
    let request = || pb::MakeDirectoryRequest {
        path: "/a".into(),
        mode: 0o755,
        parents: true,
        ..pb::MakeDirectoryRequest::default()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while namespace.make_directory(request()).await.is_err() {
        assert!(Instant::now() < deadline, "it never serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_in_a_database_is_there_after_a_restart_with_another_data_directory() {
    let database = Cluster::start();
    let url_file = database.fresh_url();
    for round in 0..2 {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().expect("a directory"));
        let config = Config {
            store: in_database(&url_file),
            ..config(&pki, &dir)
        };
        let channel = user(&pki, config.listen);
        let (stop, stopped) = oneshot::channel::<()>();
        let role = tokio::spawn(run(config, async { _ = stopped.await }));
        if round == 0 {
            serving(&channel).await;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let request = || pb::GetStatRequest { path: "/a".into() };
        while NamespaceClient::new(channel.clone()).get_stat(request()).await.is_err() {
            assert!(Instant::now() < deadline, "round {round}: /a is not there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(stop);
        role.await.expect("no panic").expect("a clean stop");
    }
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().expect("a directory"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = config(&pki, &dir);
    config.listen = taken.local_addr().expect("an address");
    let error = run(config.clone(), std::future::pending())
        .await
        .expect_err("the port is taken");
    assert!(error.to_string().contains(&config.listen.to_string()), "{error}");

    config.tls.key = dir.path().join("no.key");
    let error = run(config.clone(), std::future::pending()).await.expect_err("no key");
    assert!(error.to_string().contains("no.key"), "{error}");

    let mut config = self::config(&pki, &dir);
    std::fs::create_dir_all(&config.data_dir).expect("a directory");
    std::fs::write(config.data_dir.join("capability.key"), b"nonsense").expect("written");
    let error = run(config.clone(), std::future::pending())
        .await
        .expect_err("a broken key");
    assert!(
        error.to_string().contains("capability.key holds no capability key"),
        "{error}"
    );

    for (format, way_out) in [(1_u32, "fs get -r"), (u32::MAX, "or a newer one")] {
        config.data_dir = dir.path().join(format!("format-{format}"));
        store_with(&config, b"v", &format.to_be_bytes()).await;
        let error = run(config.clone(), std::future::pending())
            .await
            .expect_err("another format");
        let text = format!("{error}");
        let numbers = format!("has format {format}, this version of strongroom reads format 2");
        assert!(text.contains(&numbers) && text.contains(way_out), "{text}");
    }

    config.data_dir = dir.path().join("foreign");
    store_with(&config, b"key/payroll", b"1").await;
    let error = run(config.clone(), std::future::pending())
        .await
        .expect_err("another service's store");
    assert!(error.to_string().contains("another service's"), "{error}");

    config.data_dir = dir.path().join("file");
    std::fs::write(&config.data_dir, b"").expect("written");
    let error = run(config, std::future::pending()).await.expect_err("a file");
    assert!(matches!(error, RunError::DataDir { .. }), "{error}");
}

/// A store with one record, as a later version or another service may leave it.
async fn store_with(config: &Config, key: &[u8], value: &[u8]) {
    std::fs::create_dir_all(&config.data_dir).expect("a directory");
    let store = EmbeddedStore::open(&config.data_dir.join("metadata.redb")).expect("a store");
    let mut txn = store.begin().await.expect("a transaction");
    txn.put(key, value.to_vec());
    txn.commit().await.expect("committed");
}

fn config(pki: &Pki, dir: &TempDir) -> Config {
    // Free a moment ago: enough for one test process.
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    Config {
        listen: free(),
        tls: pki.files("service/metadata"),
        data_dir: dir.path().join("metadata"),
        store: StoreConfig::default(),
        kms: free().to_string().parse().expect("an address"),
        superusers: vec!["fsadmin".parse().expect("valid")],
        supergroup: "supergroup".parse().expect("valid"),
        groups: None,
        settings: Settings {
            mint_wait_ms: 300,
            ..Settings::default()
        },
    }
}

fn user(pki: &Pki, address: SocketAddr) -> Channel {
    let remote = address.to_string().parse().expect("an address");
    connect(&remote, &pki.identity("user/fsadmin"), Role::Metadata)
}

async fn reflected(channel: Channel) -> Vec<String> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures::stream::iter([ask]))
        .await;
    let answer = answers
        .expect("answered")
        .into_inner()
        .message()
        .await
        .expect("a message");
    match answer.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("{other:?}"),
    }
}
