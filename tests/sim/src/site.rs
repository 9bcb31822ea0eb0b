//! The processes of a run: who they are, how they start, and what they share outside of their network.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use strongroom_block::Member;
use strongroom_fs::{FsError, ZoneFs, ZoneOptions};
use strongroom_kms_mint::MintClient;
use strongroom_metadata::{Authority, Service, Settings};
use strongroom_pki::{Authority as Ca, PrivateKey, Request, Validity};
use strongroom_proto::{
    NodeId, Reason, ZonePath,
    transport::{Remotes, TlsFiles, TlsIdentity, serve},
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    disk::{Contents, MemoryDisk, Platter},
    history::History,
    kms::{self, Key},
    machine,
    network::{SimListener, SimNetwork},
    sabotage::Sabotage,
    store::Database,
    trace,
};

pub(crate) const KMS: &str = "kms";
pub(crate) const METADATA: [&str; 2] = ["meta1", "meta2"];
pub(crate) const BLOCKS: [&str; 3] = ["block1", "block2", "block3"];
pub(crate) const CLIENTS: [&str; 3] = ["client1", "client2", "client3"];
pub(crate) const JUDGE: &str = "judge";

const PORT: u16 = 7000;
const SUPERUSER: &str = "root";
/// Between the starts of a process that ended.
const RESTART: Duration = Duration::from_secs(1);

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The zone is being made; nothing fails.
    Setup,
    /// Users work and things fail.
    Busy,
    /// Everything is healed; users finish what they began.
    Rest,
    /// The judge looks at what is there.
    Judgement,
    Over,
}

/// A run's processes.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) database: Arc<Database>,
    pub(crate) key: Key,
    pub(crate) platters: [Arc<Platter>; 3],
    contents: Arc<Contents>,
    pub(crate) history: History,
    sabotage: Option<Sabotage>,
    phase: Cell<Phase>,
    /// Users at work.
    working: Cell<usize>,
}

impl Site {
    /// A site with a certificate for everybody.
    pub(crate) fn new(sabotage: Option<Sabotage>) -> Self {
        let site = Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
            database: Arc::new(Database::new(sabotage)),
            key: Key::default(),
            platters: std::array::from_fn(|_| Arc::new(Platter::new())),
            contents: Arc::default(),
            history: History::default(),
            sabotage,
            phase: Cell::new(Phase::Setup),
            working: Cell::new(0),
        };
        site.certify();
        site
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        trace::line(format_args!("--- {phase:?}"));
        self.phase.set(phase);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.phase() <= Phase::Busy
    }

    pub(crate) fn is_anybody_working(&self) -> bool {
        self.working.get() > 0
    }

    pub(crate) fn count_worker(&self) -> Worker<'_> {
        self.working.set(self.working.get() + 1);
        Worker(&self.working)
    }

    fn certify(&self) {
        let key = PrivateKey::generate().expect("random numbers");
        let ca = Ca::new("simulated CA", key, today()).expect("it signs itself");
        ca.write_certificate(&self.path("ca.pem")).expect("it is written");
        let services = [(KMS, "service/kms".to_owned())]
            .into_iter()
            .chain(METADATA.map(|host| (host, "service/metadata".to_owned())))
            .chain(BLOCKS.map(|host| (host, format!("service/block/{host}"))))
            .chain(CLIENTS.map(|host| (host, format!("user/{host}"))))
            .chain([(JUDGE, format!("user/{SUPERUSER}"))]);
        for (host, who) in services {
            let request = Request {
                common_name: host,
                uri: Some(&format!("spiffe://strongroom/{who}")),
                names: &[host],
                validity: today(),
            };
            let files = self.tls_files(host);
            let leaf = ca.issue(&request).expect("valid names");
            leaf.write(&files.certificate, &files.key).expect("it is written");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls_files(&self, host: &str) -> TlsFiles {
        TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.path(&format!("{host}.pem")),
            key: self.path(&format!("{host}.key")),
        }
    }

    /// Who `host` is, connecting over the simulated network.
    fn identity(&self, host: &str) -> Arc<TlsIdentity> {
        let identity = TlsIdentity::load(&self.tls_files(host), SystemTime::now()).expect("usable files");
        Arc::new(identity.over(Arc::new(SimNetwork)))
    }

    /// The filesystem as the user of `host` sees it.
    pub(crate) fn filesystem(&self, host: &str) -> ZoneFs {
        let fs = ZoneFs::connect(&remotes(&[KMS]), &remotes(&METADATA), self.identity(host));
        fs.set_umask(0);
        fs
    }
}

/// Counts somebody among those at work until it is dropped, by a crash too.
pub(crate) struct Worker<'s>(&'s Cell<usize>);

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The stand-in key service.
pub(crate) async fn key_service(site: Rc<Site>) -> turmoil::Result {
    let listener = SimListener::bind(PORT).await?;
    serve(
        listener,
        &site.identity(KMS),
        kms::routes(&site.key),
        std::future::pending(),
    )
    .await;
    Ok(())
}

/// One instance of the metadata service, put together as its role does it, and started again when it cannot start.
pub(crate) async fn metadata(site: Rc<Site>, instance: usize) -> turmoil::Result {
    loop {
        match serve_metadata(&site, instance).await {
            Ok(()) => trace::violation("a metadata service's work in the background failed"),
            Err(error) => trace::line(format_args!("{} does not start: {error}", METADATA[instance])),
        }
        sleep(RESTART).await;
    }
}

async fn serve_metadata(site: &Site, instance: usize) -> turmoil::Result {
    let host = METADATA[instance];
    let tls = site.identity(host);
    let folder = site.path(host);
    make_folder(&folder)?;
    let listener = SimListener::bind(PORT).await?;
    let service = Service::open(
        site.database.handle(instance),
        MintClient::connect(&remotes(&[KMS]), &tls),
        &folder,
        machine::clock(),
        settings(),
        Authority::load(vec![SUPERUSER.parse()?], "supergroup".parse()?, None)?,
        Arc::clone(&tls),
    )
    .await?;
    let mut background = service.background();
    let routes = service.routes().await?;
    tokio::select! {
        () = serve(listener, &tls, routes, std::future::pending()) => {}
        () = failed(&mut background) => {}
    }
    Ok(())
}

/// Returns when a task panicked; some end by themselves.
async fn failed(background: &mut JoinSet<()>) {
    while let Some(Ok(())) = background.join_next().await {}
}

/// One block node.
pub(crate) async fn block(site: Rc<Site>, index: usize) -> turmoil::Result {
    let host = BLOCKS[index];
    let node: NodeId = host.parse()?;
    let disk = MemoryDisk {
        node: node.clone(),
        platter: Arc::clone(&site.platters[index]),
        contents: Arc::clone(&site.contents),
        loses_blocks: site.sabotage == Some(Sabotage::LostBlocks),
    };
    let member = Member {
        node_id: node,
        advertise: format!("{host}:{PORT}").parse()?,
        metadata: remotes(&METADATA),
    };
    let listener = SimListener::bind(PORT).await?;
    let (tls, clock) = (site.identity(host), machine::clock());
    strongroom_block::serve(member, Arc::new(disk), listener, tls, clock, std::future::pending()).await?;
    Ok(())
}

/// Makes the zone that everything happens in, and lets everybody in.
pub(crate) async fn make_zone(fs: &ZoneFs) -> Result<(), FsError> {
    let root = ZonePath::parse(b"/z").expect("a path");
    fs.make_directory(&root, 0o777, true).await?;
    let key = "key".parse().expect("a key's name");
    match fs.create_zone(&root, &key, &ZoneOptions::default()).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Reason::AlreadyZone => Ok(()),
        Err(error) => Err(error),
    }
}

/// Times that let a run see leases end and nodes given up.
fn settings() -> Settings {
    Settings {
        lease_ms: 20_000,
        capability_ms: 30_000,
        stock_edeks: 10,
        stock_low_edeks: 3,
        stock_look_ms: 10_000,
        node_silence_ms: 4_000,
        node_gone_ms: 15_000,
        ..Settings::default()
    }
}

fn remotes(hosts: &[&str]) -> Remotes {
    let addresses: Vec<_> = hosts.iter().map(|host| format!("{host}:{PORT}")).collect();
    addresses.join(",").parse().expect("addresses")
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600))
}
