//! A metadata service to be measured, with the key service, three idle block nodes, and a database if it wants one.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use strongroom_kv::{PostgresConfig, StoreConfig};
use strongroom_proto::{
    metadata::v1::{
        self as pb, cluster_client::ClusterClient, namespace_client::NamespaceClient, zones_client::ZonesClient,
    },
    transport::{Remote, Role, TlsFiles, connect},
};
use tonic::transport::Channel;

use crate::{
    cluster::Cluster,
    site::{Service, Site, free_address},
};

/// How long a service may take to come up over a store of millions of files.
const START_MAX: Duration = Duration::from_secs(600);
/// EDEKs held ready: more than the clients take while a batch is minted; and below how many that begins.
pub(super) const STOCK: u32 = 1000;
pub(super) const STOCK_LOW: u32 = STOCK / 2;

/// What the metadata service keeps its namespace in.
pub(super) enum Engine {
    Embedded,
    Postgres(Cluster),
}

impl Engine {
    pub(super) fn named(name: &str) -> Self {
        match name {
            "postgres" => Self::Postgres(Cluster::start()),
            _ => Self::Embedded,
        }
    }

    /// An empty store of this engine. An embedded one is where the service's data directory says.
    pub(super) fn fresh(&self) -> StoreConfig {
        match self {
            Self::Embedded => StoreConfig::Embedded {},
            Self::Postgres(cluster) => StoreConfig::Postgres(PostgresConfig {
                url_file: cluster.fresh_url(),
                ca: None,
                connections: 16,
                connect_timeout_ms: 5_000,
                statement_timeout_ms: 60_000,
            }),
        }
    }
}

/// A metadata service that runs, and its block nodes.
pub(super) struct Namespace<'a> {
    site: &'a Site,
    address: SocketAddr,
    config: PathBuf,
    engine: &'a Engine,
    store: StoreConfig,
    metadata: Process,
    _nodes: Vec<Process>,
}

impl<'a> Namespace<'a> {
    /// Starts everything, and waits until files can be made.
    pub(super) async fn start(site: &'a Site, kms: &Service<'_>, engine: &'a Engine, store: StoreConfig) -> Self {
        let (address, config) = (free_address(), site.path("metadata.toml"));
        let tls = site.issue("metadata", "service/metadata");
        let text = format!(
            "listen = '{address}'\ndata_dir = '{}'\nkms = '{}'\nsuperusers = ['alice']\n{}{}\
             [settings]\nplain_files = true\nstock_edeks = {STOCK}\nstock_low_edeks = {STOCK_LOW}\n",
            site.path("metadata").display(),
            kms.remote(),
            table(&tls),
            store_table(&store),
        );
        fs::write(&config, text).expect("own directory");
        let metadata = Process::start(site, "metadata", &config);
        let nodes = (1..=3).map(|n| node(site, n, address)).collect();
        let namespace = Self {
            site,
            address,
            config,
            engine,
            store,
            metadata,
            _nodes: nodes,
        };
        namespace.wait().await;
        namespace
    }

    /// Stops the metadata service, starts it again, and says how long it took to answer a question about the namespace.
    pub(super) async fn restart(&mut self) -> Duration {
        self.metadata.stop();
        let started = Instant::now();
        self.metadata = Process::start(self.site, "metadata", &self.config);
        self.first_answer().await;
        let took = started.elapsed();
        self.wait().await;
        took
    }

    /// Resident memory of the metadata service now, in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// The most that its resident memory ever was since it started.
    pub(super) fn memory_peak(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/status", self.metadata.child.id());
        let text = fs::read_to_string(path).expect("it runs");
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        let kib = found.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("a number of kB") << 10
    }

    /// What the store takes on the disk, in bytes.
    pub(super) fn store_bytes(&self) -> u64 {
        match (self.engine, &self.store) {
            (Engine::Postgres(cluster), StoreConfig::Postgres(config)) => {
                let url = fs::read_to_string(&config.url_file).expect("own file");
                let name = url.rsplit('/').next().and_then(|end| end.split('?').next());
                let asked = "SELECT pg_database_size(current_database())";
                let told = cluster.run_sql_in(name.expect("a database's name"), asked);
                told.trim().parse().expect("a number of bytes")
            }
            _ => {
                let file = self.site.path("metadata").join("metadata.redb");
                // Not its length: it is made longer than it is full.
                fs::metadata(file).expect("it is there").blocks() * 512
            }
        }
    }

    pub(super) fn channel(&self) -> Channel {
        let tls = self.site.identity("alice");
        let remote: Remote = self.address.to_string().parse().expect("an address");
        connect(&remote, &tls, Role::Metadata)
    }

    /// Makes a directory a zone.
    pub(super) async fn zone(&self, path: &str, key: &str) {
        let request = pb::CreateZoneRequest {
            path: path.to_owned().into(),
            key_name: key.to_owned(),
            ..pb::CreateZoneRequest::default()
        };
        let made = ZonesClient::new(self.channel()).create_zone(request).await;
        made.expect("a zone");
    }

    /// The zone that `path` is in.
    pub(super) async fn zone_at(&self, path: &str) -> pb::Zone {
        let request = pb::GetZoneRequest {
            path: path.to_owned().into(),
        };
        let zone = ZonesClient::new(self.channel()).get_zone(request).await;
        zone.expect("a zone").into_inner()
    }

    async fn first_answer(&self) {
        let (started, mut client) = (Instant::now(), NamespaceClient::new(self.channel()));
        while let Err(status) = client.get_stat(pb::GetStatRequest { path: "/".into() }).await {
            assert!(started.elapsed() < START_MAX, "it does not come up: {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns when files can be made.
    async fn wait(&self) {
        let (started, mut client) = (Instant::now(), ClusterClient::new(self.channel()));
        loop {
            let status = client.get_cluster_status(pb::GetClusterStatusRequest {}).await;
            let alive = |status: &pb::ClusterStatus| status.nodes.iter().filter(|node| node.alive).count();
            match status {
                Ok(status) if alive(status.get_ref()) == 3 => return,
                outcome => assert!(started.elapsed() < START_MAX, "it does not come up: {outcome:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn node(site: &Site, number: u32, metadata: SocketAddr) -> Process {
    let (name, address) = (format!("b{number}"), free_address());
    let tls = site.issue(&name, &format!("service/block/{name}"));
    let config = site.path(&format!("{name}.toml"));
    let text = format!(
        "node_id = '{name}'\nlisten = '{address}'\nadvertise = '{address}'\nmetadata = '{metadata}'\n\
         data_dir = '{}'\nreserve_bytes = 0\n{}",
        site.path(&name).display(),
        table(&tls)
    );
    fs::write(&config, text).expect("own directory");
    Process::start(site, "block", &config)
}

fn table(tls: &TlsFiles) -> String {
    format!(
        "[tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
        tls.ca.display(),
        tls.certificate.display(),
        tls.key.display()
    )
}

fn store_table(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Embedded {} => String::new(),
        StoreConfig::Postgres(config) => format!(
            "[store]\nengine = 'postgres'\nurl_file = '{}'\nstatement_timeout_ms = {}\n",
            config.url_file.display(),
            config.statement_timeout_ms
        ),
    }
}

/// A role in a process of its own, which ends with this.
struct Process {
    child: Child,
}

impl Process {
    fn start(site: &Site, role: &str, config: &Path) -> Self {
        let mut command = site.strongroom();
        command.args([role, "--stop-on-stdin-eof", "--config"]).arg(config);
        let child = command.stdin(Stdio::piped()).spawn();
        Self {
            child: child.expect("the executable is built beside this program"),
        }
    }

    fn stop(&mut self) {
        drop(self.child.stdin.take());
        _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
