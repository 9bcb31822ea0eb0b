//! Puts a node together and runs it.

use std::{sync::Arc, time::SystemTime};

use strongroom_proto::{
    Clock, FILE_DESCRIPTOR_SET, NodeId,
    block::v1::blocks_server::BlocksServer,
    limits::MESSAGE_BYTES_MAX,
    transport::{self, Listen, PeerIdentity, Remote, Remotes, Role, ServeError, TlsError, TlsIdentity},
};
use tokio::task::JoinSet;
use tonic::service::{Routes, interceptor::InterceptedService};

use crate::{
    Config,
    api::{BlocksService, Node},
    authority::Authority,
    forward::Peers,
    gate::Gate,
    heartbeat::{Heart, Work},
    news::News,
    store::{BlockStore, Engine, OpenError},
};

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Certificate, key or CA cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The certificate is somebody else's.
    #[error(
        "the certificate {certificate} is that of {found}, but this is node {node}; \
         use the certificate of service block/{node}, or set node_id to its name"
    )]
    Identity {
        /// The file.
        certificate: String,
        /// Whose it is.
        found: String,
        /// The configured node.
        node: NodeId,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The thread that opens it, or the task that reports to the metadata service, ended early.
    #[error("a task of the block node was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
    /// The server cannot listen or failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The service descriptions are broken.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Runs a block node until `stop` resolves.
///
/// # Errors
/// Says what in the configuration or on the machine keeps the node from running.
pub async fn run(config: Config, stop: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    let tls = Arc::new(TlsIdentity::load(&config.tls, SystemTime::now())?);
    check_identity(&config.node_id, &tls)?;
    let store = open(&config).await?;
    let listener = transport::bind(config.listen).await?;
    tracing::info!(address = %config.listen, node = %config.node_id, "serving");
    let member = Member {
        node_id: config.node_id,
        advertise: config.advertise,
        metadata: config.metadata,
    };
    serve(member, Arc::new(store), listener, tls, Clock::system(), stop).await
}

/// A node's place in its cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, which its certificate has too.
    pub node_id: NodeId,
    /// Where clients and other nodes reach it.
    pub advertise: Remote,
    /// Every instance of the metadata service.
    pub metadata: Remotes,
}

/// Runs a block node over an engine, a listener and a clock of the caller's choice until `stop` resolves.
///
/// # Errors
/// [`RunError::Identity`] if `tls` is somebody else's, [`RunError::Interrupted`], [`RunError::Reflection`].
pub async fn serve(
    member: Member,
    store: Arc<dyn Engine>,
    listener: impl Listen,
    tls: Arc<TlsIdentity>,
    clock: Clock,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    check_identity(&member.node_id, &tls)?;
    let node = Arc::new(Node {
        id: member.node_id.clone(),
        store,
        clock,
        authority: Authority::new(member.node_id.clone()),
        peers: Peers::new(member.node_id.clone(), Arc::clone(&tls)),
        news: News::default(),
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<BlocksServer<BlocksService>>().await;
    let blocks = BlocksServer::new(BlocksService(Arc::clone(&node)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let blocks = InterceptedService::new(blocks, Gate::new(member.node_id.clone()));
    let routes = Routes::new(blocks).add_service(health_service).add_service(reflection);

    let stop = async move {
        stop.await;
        health.set_not_serving::<BlocksServer<BlocksService>>().await;
    };
    let mut hearts = beat(&node, &member, &tls);
    tokio::select! {
        () = transport::serve(listener, &tls, routes, stop) => Ok(()),
        Some(Err(ended)) = hearts.join_next() => Err(RunError::Interrupted(ended)),
    }
}

/// Reports to every instance of the metadata service until the set is dropped: each has to know that this node lives.
fn beat(node: &Arc<Node>, member: &Member, tls: &TlsIdentity) -> JoinSet<()> {
    let work = Arc::new(Work::new());
    let mut hearts = JoinSet::new();
    for metadata in member.metadata.iter() {
        let channel = transport::connect(metadata, tls, Role::Metadata);
        let (node, work) = (Arc::clone(node), Arc::clone(&work));
        hearts.spawn(Heart::new(node, work, &member.advertise, metadata.clone(), channel).beat());
    }
    hearts
}

fn check_identity(node: &NodeId, tls: &TlsIdentity) -> Result<(), RunError> {
    if *tls.identity() == PeerIdentity::Block(node.clone()) {
        return Ok(());
    }
    Err(RunError::Identity {
        certificate: tls.certificate_path().display().to_string(),
        found: tls.identity().short(),
        node: node.clone(),
    })
}

async fn open(config: &Config) -> Result<BlockStore, RunError> {
    let (path, id, reserve_bytes) = (config.data_dir.clone(), config.node_id.clone(), config.reserve_bytes);
    Ok(tokio::task::spawn_blocking(move || BlockStore::open(&path, id, reserve_bytes)).await??)
}
