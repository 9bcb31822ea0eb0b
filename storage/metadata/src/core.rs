//! The metadata service without its network: what every operation works on, and the work in the background.

use std::{future::Future, sync::Arc, time::Duration};

use prost::Message;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    capability::Signer,
    transport::{TlsIdentity, UserName},
};
use tokio::{sync::Notify, task::JoinSet, time::sleep};

use crate::{
    clock::Clock,
    cluster::{Cluster, gone::Passes, repair::Rounds},
    config::Settings,
    error::{MetadataError, chain},
    files::lease::reap,
    namespace::remove::purge_round,
    reencrypt::worker,
    schema::{NODES_MAX, ROOT, access, access::transact, keys, records},
    zones::{source::EdekSource, stock::Stock},
};

/// Pauses of the background loops.
const REPAIR_EVERY: Duration = Duration::from_millis(500);
const PURGE_EVERY: Duration = Duration::from_millis(500);
const REAP_EVERY: Duration = Duration::from_secs(5);
const LOOK_FOR_GONE_EVERY: Duration = Duration::from_secs(1);

/// Why a store cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store was written by another version.
    #[error("the metadata store has format {found}, this version of strongroom reads format {known}; {remedy}")]
    Format {
        /// The store's format.
        found: u32,
        /// The format of this version.
        known: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// The store failed.
    #[error("the metadata store cannot be read")]
    Store(#[from] MetadataError),
}

/// What every operation works on.
pub(crate) struct Core<S, E> {
    pub(crate) store: S,
    pub(crate) source: Arc<E>,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) administrators: Vec<UserName>,
    /// Signs proofs.
    pub(crate) identity: Arc<TlsIdentity>,
    pub(crate) stock: Stock<E>,
    pub(crate) cluster: Cluster,
    /// Told when there is a re-encryption to work on.
    pub(crate) work: Notify,
}

impl<S: Store, E: EdekSource> Core<S, E> {
    /// Opens what is in `store`; an empty one gets a root directory.
    pub(crate) async fn open(
        store: S,
        source: E,
        signer: Signer,
        clock: Clock,
        settings: Settings,
        administrators: Vec<UserName>,
        identity: Arc<TlsIdentity>,
    ) -> Result<Self, OpenError> {
        let source = Arc::new(source);
        let now_ms = clock.now_ms();
        let format = transact!(&store, [], |txn| prepare(txn, now_ms)).await?;
        if format != keys::FORMAT_VERSION {
            return Err(OpenError::Format {
                found: format,
                known: keys::FORMAT_VERSION,
                remedy: "run the version that wrote it, or a newer one",
            });
        }
        let core = Self {
            stock: Stock::new(Arc::clone(&source), clock.clone(), settings),
            cluster: Cluster::new(clock.clone(), settings, signer),
            store,
            source,
            clock,
            settings,
            administrators,
            identity,
            work: Notify::new(),
        };
        core.remember_nodes().await?;
        Ok(core)
    }

    /// The work in the background, each kind in a task of its own. Dropping the set ends it.
    pub(crate) fn background(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(warm(Arc::clone(self)));
        tasks.spawn(worker::work(Arc::clone(self)));
        tasks.spawn(repair(Arc::clone(self)));
        tasks.spawn(replace_gone(Arc::clone(self)));
        tasks.spawn(purge(Arc::clone(self)));
        tasks.spawn(reap_leases(Arc::clone(self)));
        tasks
    }

    async fn remember_nodes(&self) -> Result<(), MetadataError> {
        let found = access::page(&mut self.store.begin().await?, &keys::nodes(), NODES_MAX).await?;
        for (key, value) in found {
            let node = keys::node_of(&key).ok_or(MetadataError::Corrupt { what: "node" })?;
            let record: records::Node = access::decode(value, "node")?;
            self.cluster.nodes.remember(node, record.address);
        }
        Ok(())
    }
}

/// Says the store's format, after giving an empty store the format of this version and its root.
async fn prepare(txn: &mut impl Txn, now_ms: u64) -> Result<u32, MetadataError> {
    if let Some(format) = txn.get(&keys::format()).await? {
        let format = <[u8; 4]>::try_from(format.as_ref()).map_err(|_| MetadataError::Corrupt { what: "format" })?;
        return Ok(u32::from_be_bytes(format));
    }
    let root = records::Inode {
        parent: ROOT.into(),
        mode: 0o755,
        owner: "root".to_owned(),
        mtime_ms: now_ms,
        ..records::Inode::default()
    };
    txn.put(&keys::inode(ROOT), root.encode_to_vec());
    txn.put(&keys::format(), keys::FORMAT_VERSION.to_be_bytes().to_vec());
    Ok(keys::FORMAT_VERSION)
}

/// Fills the stocks of all zones once after a start.
async fn warm<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    const PAGE: usize = 1000;
    let mut range = keys::zones();
    loop {
        let found = match core.store.begin().await {
            Ok(mut txn) => access::page(&mut txn, &range, PAGE).await,
            Err(error) => Err(error.into()),
        };
        let Ok(found) = found else { return };
        for (key, value) in &found {
            let record = access::decode::<records::Zone>(value.clone(), "zone");
            if let (Some(zone), Ok(record)) = (keys::zone_of(key), record)
                && let Ok(name) = record.key_name.parse()
            {
                core.stock.warm(zone, &name);
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == PAGE => range = range.after(last),
            _ => return,
        }
    }
}

async fn repair<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut rounds = Rounds::default();
    loop {
        logged("repair", rounds.run(&core.store, &core.cluster)).await;
        sleep(REPAIR_EVERY).await;
    }
}

async fn replace_gone<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut passes = Passes::default();
    loop {
        sleep(LOOK_FOR_GONE_EVERY).await;
        logged("replace", passes.run(&core.store, &core.cluster)).await;
    }
}

async fn purge<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        if logged("purge", purge_round(&core.store)).await != Some(true) {
            sleep(PURGE_EVERY).await;
        }
    }
}

async fn reap_leases<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        sleep(REAP_EVERY).await;
        if let Some(reaped @ 1..) = logged("reap", reap(&core.store, core.clock.now_ms())).await {
            tracing::info!(reaped, "files whose writers were silent for too long are given up");
        }
        logged("stock", drop_stocks(&core)).await;
    }
}

/// Forgets the stocks of zones that were purged.
async fn drop_stocks<S: Store, E: EdekSource>(core: &Core<S, E>) -> Result<(), MetadataError> {
    for zone in core.stock.zones() {
        if access::zone(&mut core.store.begin().await?, zone).await?.is_none() {
            core.stock.drop_zone(zone);
        }
    }
    Ok(())
}

/// A round of a background loop; its failure is logged and the loop goes on.
async fn logged<T>(round: &'static str, outcome: impl Future<Output = Result<T, MetadataError>>) -> Option<T> {
    match outcome.await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(round, error = %chain(&error), "a round in the background failed; it is tried again");
            None
        }
    }
}
