//! A Strongroom in this process: the real metadata service over a store that crashes when it is told to, behind the real
//! transport; the real client with the real data plane; stand-ins for the key service and the block nodes.
//!
//! The metadata service has a runtime of its own. When its store says that the process died, that runtime is taken away with all
//! that ran in it, and another service begins on the same port over what the store holds, as a supervisor would have it. Before
//! that the store is looked at: what always holds holds then, too.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use strongroom_fs::ZoneFs;
use strongroom_kv::{AnyStore, Reader as _, Store as _, StoreConfig, Txn as _};
use strongroom_metadata::{Authority, Clock, Service, Settings};
use strongroom_proto::{
    ZonePath,
    kms::v1::unwrap_server::UnwrapServer,
    metadata::v1::cluster_client::ClusterClient,
    transport::{Remote, Role, TlsIdentity, bind, connect, serve},
};
use strongroom_tests::{Ca, Validity};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tonic::service::Routes;

use crate::{
    audit::Audit,
    crash::{CrashStore, Faults},
    keys::Keys,
    nodes::{NODES, Nodes},
    operation::TOP,
    replays::Replays,
};

/// The user who does everything: a superuser, so that permissions stand in nobody's way. They have tests of their own.
pub(crate) const USER: &str = "fsadmin";
/// How long a writer that is not heard of keeps its file.
pub(crate) const LEASE: Duration = Duration::from_secs(120);
/// How long a service may take to start, and to end in good order.
const PATIENCE: Duration = Duration::from_secs(120);

/// A Strongroom and its user.
pub(crate) struct World {
    pub(crate) fs: ZoneFs,
    pub(crate) keys: Keys,
    pub(crate) nodes: Nodes,
    pub(crate) faults: Faults,
    pub(crate) replays: Replays,
    ahead_ms: Arc<AtomicU64>,
    audit: Arc<Mutex<Audit>>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    _tasks: JoinSet<()>,
}

/// Certificates, which worlds share.
pub(crate) struct Identities(BTreeMap<String, Arc<TlsIdentity>>);

impl Identities {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let ca = Ca::new("model CA");
        let nodes = NODES.map(|node| format!("service/block/{node}"));
        let others = [
            "service/kms".to_owned(),
            "service/metadata".to_owned(),
            format!("user/{USER}"),
        ];
        let issued = nodes.into_iter().chain(others).map(|identity| {
            let name = identity.replace('/', "-");
            let files = ca.issue(folder.path(), &name, &identity, Validity::Now);
            let tls = TlsIdentity::load(&files, SystemTime::now()).expect("usable TLS files");
            (identity, Arc::new(tls))
        });
        Self(issued.collect())
    }

    fn of(&self, identity: &str) -> Arc<TlsIdentity> {
        Arc::clone(&self.0[identity])
    }
}

/// What a test asks of whoever keeps the metadata service running.
enum Order {
    Restart,
    Stop,
    /// Changes the store while no service has it.
    Plant(Plant),
}

/// Rows of a store; without a value, such as are to go.
pub(crate) type Rows = Vec<(Bytes, Option<Bytes>)>;

/// What is to be put into a store that has these rows.
pub(crate) type Plant = Box<dyn FnOnce(Rows) -> Rows + Send>;

impl World {
    /// An empty namespace in a new store.
    pub(crate) async fn start(identities: &Identities, store: StoreConfig) -> Self {
        Self::start_with(identities, store, Faults::default()).await
    }

    /// The same, with faults that may strike while it starts.
    pub(crate) async fn start_with(identities: &Identities, store: StoreConfig, faults: Faults) -> Self {
        Self::with(identities, store, faults, false).await
    }

    /// One in which files may be in no zone.
    pub(crate) async fn with_plain_files(identities: &Identities, store: StoreConfig) -> Self {
        let world = Self::with(identities, store, Faults::default(), true).await;
        let path = |name: &&str| ZonePath::root().child(name).expect("a name");
        world.fs.allow_plain(TOP.iter().map(path).collect());
        world
    }

    async fn with(identities: &Identities, store: StoreConfig, faults: Faults, plain_files: bool) -> Self {
        let (keys, nodes) = (Keys::new(), Nodes::new());
        let (replays, ahead_ms) = (Replays::default(), Arc::default());
        let mut tasks = JoinSet::new();
        let kms = Routes::new(UnwrapServer::new(keys.clone()));
        let kms = listen(&mut tasks, identities.of("service/kms"), |_| kms).await;
        let audit = Arc::new(Mutex::new(Audit::new(keys.clone())));
        // Until the nodes have ports of their own, none of which is to be the service's.
        let reserved = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let host = Host {
            directory: tempfile::tempdir().expect("a temporary directory"),
            store,
            tls: identities.of("service/metadata"),
            keys: keys.clone(),
            faults: faults.clone(),
            replays: replays.clone(),
            ahead_ms: Arc::clone(&ahead_ms),
            audit: Arc::clone(&audit),
            address: reserved.local_addr().expect("an address"),
            plain_files,
        };
        let metadata = remote(host.address);
        for node in NODES {
            let tls = identities.of(&format!("service/block/{node}"));
            let client = ClusterClient::new(connect(&metadata, &tls, Role::Metadata));
            listen(&mut tasks, tls, |address| nodes.routes(node, address)).await;
            tasks.spawn(nodes.clone().beat(node, client));
        }
        drop(reserved);
        let (orders, received) = mpsc::channel(1);
        let running = host.start().await;
        tasks.spawn(host.supervise(running, received));
        let user = identities.of(&format!("user/{USER}"));
        Self {
            fs: ZoneFs::connect(&(&kms).into(), &(&metadata).into(), user),
            keys,
            nodes,
            faults,
            replays,
            ahead_ms,
            audit,
            orders,
            _tasks: tasks,
        }
    }

    /// Ends the metadata service in good order and starts it again.
    pub(crate) async fn restart(&self) {
        self.order(Order::Restart).await;
    }

    /// Ends the metadata service, looks at what it leaves, and says all that was wrong with its store at any time.
    pub(crate) async fn stop(&self) -> Vec<String> {
        self.order(Order::Stop).await;
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was given an extent of somebody else's leaves blocks of it that are on no record; the comparison of disks finds them.
        if self.replays.total() == 0 {
            audit.look_at_nodes(&self.nodes.blocks(), &self.nodes.ledger.plain());
        }
        audit.broken()
    }

    /// Has the clock of the service go on by so much at once.
    pub(crate) fn pass(&self, time: Duration) {
        self.ahead_ms.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Puts rows into the store of the service, as nobody should.
    pub(crate) async fn plant(&self, plant: Plant) {
        self.order(Order::Plant(plant)).await;
    }

    async fn order(&self, order: Order) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((order, done)).await.expect("somebody supervises");
        is_done.await.expect("it is done");
    }
}

/// The machine that the metadata service runs on.
struct Host {
    directory: TempDir,
    store: StoreConfig,
    tls: Arc<TlsIdentity>,
    keys: Keys,
    faults: Faults,
    replays: Replays,
    ahead_ms: Arc<AtomicU64>,
    audit: Arc<Mutex<Audit>>,
    address: SocketAddr,
    plain_files: bool,
}

/// A metadata service, as a process.
struct Process {
    runtime: Option<Runtime>,
    parts: Option<Parts>,
}

struct Parts {
    service: Service<CrashStore<AnyStore>, Keys>,
    background: JoinSet<()>,
    server: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Host {
    async fn supervise(self, first: Process, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        let mut process = Some(first);
        loop {
            tokio::select! {
                () = self.faults.died() => {
                    drop(process.take());
                    process = Some(self.start().await);
                }
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    if let Some(running) = process.take() {
                        // A fault may end it first.
                        _ = tokio::time::timeout(PATIENCE, running.end(&self.faults)).await;
                    }
                    match order {
                        Order::Restart => process = Some(self.start().await),
                        Order::Stop => _ = self.open_store().await,
                        Order::Plant(plant) => {
                            change(&self.open_store().await, plant).await;
                            process = Some(self.start().await);
                        }
                    }
                    _ = done.send(());
                }
            }
        }
    }

    /// Starts the service, again if it dies meanwhile.
    async fn start(&self) -> Process {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let mut process = Process {
                runtime: Some(runtime.expect("a runtime")),
                parts: None,
            };
            let store = self.open_store().await;
            let opening = self.open(store);
            let handle = process.runtime.as_ref().expect("just made").handle().clone();
            let outcome = tokio::select! {
                outcome = handle.spawn(opening) => outcome.expect("no panic"),
                () = self.faults.died() => Err("it died at its start".to_owned()),
            };
            match outcome {
                Ok(parts) => {
                    process.parts = Some(parts);
                    return process;
                }
                Err(error) => assert!(Instant::now() < deadline, "the service does not start: {error}"),
            }
        }
    }

    /// The store, after a look at it. The process before may not have let go of it yet.
    async fn open_store(&self) -> AnyStore {
        let deadline = Instant::now() + PATIENCE;
        let file = self.directory.path().join("metadata.redb");
        let store = loop {
            match AnyStore::open(&self.store, &file).await {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < deadline, "the store does not open: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let tables = crate::audit::Tables::read(&store).await;
        self.audit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look_at(tables);
        store
    }

    fn open(&self, store: AnyStore) -> impl Future<Output = Result<Parts, String>> + Send + 'static {
        let store = CrashStore::new(store, self.faults.clone());
        let (keys, tls, address) = (self.keys.clone(), Arc::clone(&self.tls), self.address);
        let (replays, clock) = (self.replays.clone(), Clock::ahead(Arc::clone(&self.ahead_ms)));
        let directory: PathBuf = self.directory.path().to_owned();
        let settings = settings(self.plain_files);
        async move {
            let superusers = vec![USER.parse().expect("a name")];
            let supergroup = "supergroup".parse().expect("a name");
            let authority = Authority::load(superusers, supergroup, None).expect("no file");
            let service = Service::open(store, keys, &directory, clock, settings, authority, Arc::clone(&tls));
            let service = service.await.map_err(|error| error.to_string())?;
            let listener = bind(address).await.map_err(|error| error.to_string())?;
            let routes = service.routes().await.map_err(|error| error.to_string())?;
            let routes = replays.between(routes);
            let background = service.background();
            let (stop, stopped) = oneshot::channel::<()>();
            let server = tokio::spawn(async move { serve(listener, &tls, routes, async { _ = stopped.await }).await });
            Ok(Parts {
                service,
                background,
                server,
                stop,
            })
        }
    }
}

impl Process {
    async fn end(mut self, faults: &Faults) {
        let Some(mut parts) = self.parts.take() else { return };
        let handle = self.runtime.as_ref().expect("it runs").handle().clone();
        let ending = handle.spawn(async move {
            drop(parts.stop);
            _ = parts.server.await;
            parts.background.shutdown().await;
            parts.service.retire().await;
        });
        tokio::select! {
            _ = ending => {}
            () = faults.died() => {}
        }
    }
}

async fn change(store: &AnyStore, plant: Plant) {
    let mut txn = store.begin().await.expect("a transaction");
    let rows = txn.range(&[], &[u8::MAX], 10_000).await.expect("few rows");
    let rows = rows.into_iter().map(|(key, value)| (key, Some(value)));
    for (key, value) in plant(rows.collect()) {
        match value {
            Some(value) => txn.put(&key, value),
            None => txn.delete(&key),
        }
    }
    txn.commit().await.expect("committed");
}

fn settings(plain_files: bool) -> Settings {
    Settings {
        plain_files,
        stock_edeks: 6,
        stock_low_edeks: 2,
        node_silence_ms: 2000,
        lease_ms: LEASE.as_millis() as u64,
        command_timeout_ms: 300,
        ..Settings::default()
    }
}

/// Serves until `tasks` end, and says where.
async fn listen(tasks: &mut JoinSet<()>, tls: Arc<TlsIdentity>, routes: impl FnOnce(SocketAddr) -> Routes) -> Remote {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = routes(address);
    tasks.spawn(async move { serve(listener, &tls, routes, std::future::pending()).await });
    remote(address)
}

fn remote(address: SocketAddr) -> Remote {
    address.to_string().parse().expect("an address is a remote")
}
