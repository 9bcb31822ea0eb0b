//! A small cluster: block nodes of the real code, and a metadata service that records heartbeats and hands out commands.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use bytes::Bytes;
use strongroom_block::{Config, RunError, run};
use strongroom_pki::{Authority, PrivateKey, Validity};
use strongroom_proto::{
    BlockId, ExtentId, Failure,
    block::v1::{
        CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, PutBlockRequest, PutBlockResponse,
        Target, blocks_client::BlocksClient,
    },
    capability::{Capability, Right, Signer},
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{
        ClusterStatus, Command, CommandResult, GetClusterStatusRequest, HeartbeatRequest, HeartbeatResponse,
        cluster_server::{Cluster as ClusterService, ClusterServer},
        command,
    },
    transport::{self, PeerIdentity, Role, TlsFiles, TlsIdentity},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Request, Response, Status, service::Routes, transport::Channel};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An address on which nobody listens.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

pub(crate) fn identity(text: &str) -> PeerIdentity {
    format!("spiffe://strongroom/{text}").parse().expect("valid identity")
}

/// Makes certificates.
struct Ca(Authority);

impl Ca {
    fn new() -> Self {
        let key = PrivateKey::generate().expect("random numbers");
        Self(Authority::new("test CA", key, today()).expect("signs itself"))
    }

    fn issue(&self, folder: &Path, identity: &PeerIdentity) -> TlsFiles {
        let name = identity.short().replace([' ', '/'], "-");
        let file = |suffix: &str| folder.join(format!("{name}.{suffix}"));
        let files = TlsFiles {
            ca: file("ca"),
            certificate: file("pem"),
            key: file("key"),
        };
        let request = strongroom_pki::Request {
            common_name: &name,
            uri: Some(&identity.to_string()),
            names: &["127.0.0.1"],
            validity: today(),
        };
        let leaf = self.0.issue(&request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("writable");
        self.0.write_certificate(&files.ca).expect("writable");
        files
    }
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600))
}

/// What the stand-in for the metadata service heard and is to say.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) heartbeats: HashMap<String, HeartbeatRequest>,
    pub(crate) count: HashMap<String, u64>,
    pub(crate) bad: Vec<(String, BlockId)>,
    pub(crate) results: Vec<CommandResult>,
    commands: HashMap<String, Vec<Command>>,
    /// Heartbeats to refuse, after hearing them.
    pub(crate) refusals: u32,
    /// The same for those that bring results.
    pub(crate) refusals_of_results: u32,
}

struct StandIn {
    heard: Arc<Mutex<Heard>>,
    keys: Vec<Bytes>,
}

#[tonic::async_trait]
impl ClusterService for StandIn {
    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let heartbeat = request.into_inner();
        let mut heard = self.heard.lock().expect("no panic");
        let node = heartbeat.node_id.clone();
        for block in &heartbeat.bad_blocks {
            let id = BlockId::try_from(Some(block.clone())).expect("valid");
            heard.bad.push((node.clone(), id));
        }
        heard.results.extend(heartbeat.results.clone());
        if !heartbeat.results.is_empty() && heard.refusals_of_results > 0 {
            heard.refusals_of_results -= 1;
            heard.refusals += 1;
        }
        heard.heartbeats.insert(node.clone(), heartbeat);
        if heard.refusals > 0 {
            heard.refusals -= 1;
            return Err(Status::unavailable("not now"));
        }
        *heard.count.entry(node.clone()).or_default() += 1;
        Ok(Response::new(HeartbeatResponse {
            capability_keys: self.keys.clone(),
            commands: heard.commands.remove(&node).unwrap_or_default(),
        }))
    }

    async fn get_cluster_status(&self, _: Request<GetClusterStatusRequest>) -> Result<Response<ClusterStatus>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Node {
    pub(crate) fn target(&self) -> Target {
        target(&self.id, self.address)
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.expect("no panic").expect("clean stop");
    }
}

pub(crate) fn target(id: &str, address: SocketAddr) -> Target {
    Target {
        node_id: id.to_owned(),
        address: address.to_string(),
    }
}

pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) signer: Signer,
    ca: Ca,
    metadata: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl Cluster {
    /// A cluster whose metadata service does not run yet.
    pub(crate) fn without_metadata() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random numbers");
        Self {
            folder: tempfile::tempdir().expect("temporary directory"),
            signer: Signer::from_pkcs8(key.as_ref()).expect("own key"),
            ca: Ca::new(),
            metadata: free_address(),
            heard: Arc::default(),
        }
    }

    pub(crate) async fn new() -> Self {
        let cluster = Self::without_metadata();
        cluster.start_metadata().await;
        cluster
    }

    pub(crate) async fn start_metadata(&self) {
        let tls = self.tls(&PeerIdentity::Metadata);
        let listener = transport::bind(self.metadata).await.expect("still free");
        let service = ClusterServer::new(StandIn {
            heard: Arc::clone(&self.heard),
            keys: vec![self.signer.public_key()],
        });
        tokio::spawn(async move {
            let routes = Routes::new(service);
            transport::serve(listener, &tls, routes, std::future::pending()).await;
        });
    }

    pub(crate) fn tls_files(&self, identity: &PeerIdentity) -> TlsFiles {
        self.ca.issue(self.folder.path(), identity)
    }

    fn tls(&self, identity: &PeerIdentity) -> TlsIdentity {
        TlsIdentity::load(&self.tls_files(identity), SystemTime::now()).expect("just made")
    }

    pub(crate) fn config(&self, id: &str) -> Config {
        let listen = free_address();
        Config {
            node_id: id.parse().expect("valid"),
            listen,
            advertise: listen.to_string().parse().expect("valid"),
            metadata: self.metadata.to_string().parse().expect("valid"),
            data_dir: self.data(id),
            reserve_bytes: 0,
            tls: self.tls_files(&identity(&format!("service/block/{id}"))),
        }
    }

    pub(crate) fn data(&self, id: &str) -> std::path::PathBuf {
        self.folder.path().join(id)
    }

    /// Starts a node and waits until it listens.
    pub(crate) async fn start(&self, id: &str) -> Node {
        let config = self.config(id);
        let address = config.listen;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(config, async move { _ = stopped.await }));
        until("the node to listen", || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()
        })
        .await;
        Node {
            id: id.to_owned(),
            address,
            stop: Some(stop),
            task,
        }
    }

    /// Starts a node and waits until it knows the capability keys.
    pub(crate) async fn join(&self, id: &str) -> Node {
        let node = self.start(id).await;
        self.beats(id, 2).await;
        node
    }

    /// Waits for `count` more answered heartbeats of a node: the first may have been on its way already, so that the
    /// answer to the one before the last is known to have arrived.
    pub(crate) async fn beats(&self, id: &str, count: u64) {
        let beats = || self.heard().count.get(id).copied().unwrap_or_default();
        let before = beats();
        until("a heartbeat", || (beats() >= before + count).then_some(())).await;
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic")
    }

    pub(crate) fn command(&self, node: &str, command_id: u64, what: command::Command) {
        let command = Command {
            command_id,
            command: Some(what),
        };
        self.heard().commands.entry(node.to_owned()).or_default().push(command);
    }

    /// Waits for a command's result and returns its failure.
    pub(crate) async fn result(&self, command_id: u64) -> String {
        self.outcome(command_id).await.failure
    }

    /// Waits for a command's result.
    pub(crate) async fn outcome(&self, command_id: u64) -> CommandResult {
        until("a command's result", || {
            let heard = self.heard();
            let mut results = heard.results.iter();
            results.find(|result| result.command_id == command_id).cloned()
        })
        .await
    }

    /// A way to a node, over mutual TLS.
    pub(crate) fn channel(&self, user: &str, node: &Node) -> Channel {
        let remote = node.address.to_string().parse().expect("valid");
        transport::connect(&remote, &self.tls(&identity(user)), Role::Block)
    }

    pub(crate) fn client(&self, user: &str, node: &Node) -> Client {
        Client(
            BlocksClient::new(self.channel(user, node))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    pub(crate) fn capability(&self, right: Right, holder: &str, extent: ExtentId) -> Bytes {
        self.signer.sign(&Capability {
            right,
            expires_ms: u64::MAX,
            holder: identity(holder),
            extents: vec![extent],
        })
    }
}

/// A client of one node.
pub(crate) struct Client(BlocksClient<Channel>);

impl Client {
    pub(crate) async fn put(&mut self, request: PutBlockRequest) -> Result<PutBlockResponse, Failure> {
        Ok(self.0.put_block(request).await?.into_inner())
    }

    pub(crate) async fn get(
        &mut self,
        id: BlockId,
        capability: Bytes,
        range: (u32, u32),
    ) -> Result<GetBlockResponse, Failure> {
        let request = GetBlockRequest {
            capability,
            block_id: Some(id.into()),
            offset: range.0,
            length: range.1,
        };
        Ok(self.0.get_block(request).await?.into_inner())
    }

    pub(crate) async fn check(&mut self, request: CheckBlocksRequest) -> Result<CheckBlocksResponse, Failure> {
        Ok(self.0.check_blocks(request).await?.into_inner())
    }
}
