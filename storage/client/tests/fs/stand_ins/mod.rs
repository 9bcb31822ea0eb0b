//! Small stand-ins for the three services, over the real transport, that tests can make fail and lie.

mod kms;
mod metadata;
mod nodes;
mod pki;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use strongroom_fs::ZoneFs;
use strongroom_proto::{
    ZonePath,
    block::v1::blocks_server::BlocksServer,
    kms::v1::unwrap_server::UnwrapServer,
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{files_server::FilesServer, namespace_server::NamespaceServer, raw_server::RawServer},
    transport::{self, Remote, TlsIdentity},
};
use tonic::service::Routes;

pub(crate) use self::{
    metadata::{FileRecord, Metadata, MetadataState},
    nodes::{Health, NodeState},
};

/// A whole Strongroom in this process, for one test.
pub(crate) struct World {
    pub(crate) fs: ZoneFs,
    pub(crate) metadata: Metadata,
    pub(crate) nodes: Vec<Shared<NodeState>>,
    /// Calls that the key service refuses.
    pub(crate) failing_unwraps: Shared<u32>,
    _pki: pki::Pki,
}

/// State that a service and its test share.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(state: T) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl World {
    /// Three nodes, frames of 4096 bytes and blocks of `block_bytes`.
    pub(crate) async fn start(block_bytes: u32) -> Self {
        Self::start_late(block_bytes, Duration::ZERO).await
    }

    /// The same with a metadata service that listens only after `delay`.
    pub(crate) async fn start_late(block_bytes: u32, delay: Duration) -> Self {
        let pki = pki::Pki::new();
        let nodes: Vec<_> = (1..=3).map(|n| Shared::new(NodeState::new(n))).collect();
        for (n, node) in nodes.iter().enumerate() {
            let service = nodes::Node::new(n, nodes.clone());
            let service = BlocksServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let id = node.lock().id();
            let remote = serve(
                pki.issue(&format!("service/block/{id}")),
                Routes::new(service),
                Duration::ZERO,
            )
            .await;
            node.lock().address = remote.to_string();
        }
        let state = Shared::new(MetadataState::new(block_bytes, &nodes));
        let metadata = Metadata::new(state);
        let routes = Routes::new(NamespaceServer::new(metadata.clone()))
            .add_service(FilesServer::new(metadata.clone()))
            .add_service(RawServer::new(metadata.clone()));
        let metadata_remote = serve(pki.issue("service/metadata"), routes, delay).await;
        let failing_unwraps = Shared::new(0);
        let kms = kms::Kms {
            failing_calls: failing_unwraps.clone(),
        };
        let kms_remote = serve(
            pki.issue("service/kms"),
            Routes::new(UnwrapServer::new(kms)),
            Duration::ZERO,
        )
        .await;
        let alice = Arc::new(pki.issue("user/alice"));
        Self {
            fs: ZoneFs::connect(&(&kms_remote).into(), &(&metadata_remote).into(), alice),
            metadata,
            nodes,
            failing_unwraps,
            _pki: pki,
        }
    }

    pub(crate) fn set_health(&self, health: [Health; 3]) {
        for (node, health) in self.nodes.iter().zip(health) {
            node.lock().health = health;
        }
    }
}

pub(crate) fn path(text: &str) -> ZonePath {
    ZonePath::parse(text.as_bytes()).expect("valid")
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

async fn serve(tls: TlsIdentity, routes: Routes, delay: Duration) -> Remote {
    let mut listener = Some(transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port"));
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let address = address.expect("an address");
    if delay > Duration::ZERO {
        listener = None;
    }
    // Ends with the test's runtime.
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let listener = match listener {
            Some(listener) => listener,
            None => transport::bind(address).await.expect("the port is free again"),
        };
        transport::serve(listener, &tls, routes, std::future::pending()).await;
    });
    address.to_string().parse().expect("an address is a remote")
}
