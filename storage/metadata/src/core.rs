//! The metadata service without its network: what every operation works on, and the work in the background.

use std::{
    any::Any,
    future::{Future, pending},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use prost::Message;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    Incarnation, NodeId,
    capability::Signer,
    transport::{TlsIdentity, UserName},
};
use tokio::{sync::Notify, task::JoinSet, time::sleep};

use crate::{
    Clock, answers,
    authority::Authority,
    cluster::{Cluster, gone::Passes, inventory::Inventory, repair::Rounds},
    config::Settings,
    duty::Duty,
    error::{MetadataError, chain},
    files::lease::{bury, dead_ms, reap},
    jobs::runner,
    namespace::{remove::Purges, walkers::Walkers},
    schema::{NODES_MAX, ROOT, access, access::transact, keys, records},
    trash::round,
    zones::{source::EdekSource, stock::Stock},
};

/// The embedded engine's file in the data directory.
pub(crate) const STORE_FILE: &str = "metadata.redb";

/// Pauses of the background loops.
const REPAIR_EVERY: Duration = Duration::from_millis(500);
const PURGE_EVERY: Duration = Duration::from_millis(500);
const REAP_EVERY: Duration = Duration::from_secs(5);
const INVENTORY_EVERY: Duration = Duration::from_millis(200);
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
    /// The store is somebody else's.
    #[error(
        "the store holds records and no namespace: it is another service's; give the metadata service one of its own"
    )]
    Foreign,
    /// An import into the store is not finished.
    #[error("an import into this store was cut off; repeat it with the same file: strongroom metadata import")]
    Importing,
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
    pub(crate) authority: Authority,
    /// Signs proofs.
    pub(crate) identity: Arc<TlsIdentity>,
    pub(crate) stock: Stock<E>,
    pub(crate) cluster: Cluster,
    pub(crate) duty: Duty,
    pub(crate) walkers: Walkers,
    /// Told when there is a job to work on.
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
        authority: Authority,
        identity: Arc<TlsIdentity>,
    ) -> Result<Self, OpenError> {
        let source = Arc::new(source);
        let now_ms = clock.now_ms();
        let root = authority.root();
        let format = transact!(&store, [root], |txn| prepare(txn, root, now_ms)).await?;
        let Some(format) = format else {
            let is_import = access::import(&mut store.begin().await.map_err(MetadataError::from)?).await?;
            return Err(is_import.map_or(OpenError::Foreign, |_| OpenError::Importing));
        };
        if format != keys::FORMAT_VERSION {
            return Err(OpenError::Format {
                found: format,
                known: keys::FORMAT_VERSION,
                remedy: remedy(format),
            });
        }
        let core = Self {
            stock: Stock::new(Arc::clone(&source), clock.clone(), settings),
            cluster: Cluster::new(clock.clone(), settings, signer),
            duty: Duty::new(clock.clone()),
            walkers: Walkers::new(),
            store,
            source,
            clock,
            settings,
            authority,
            identity,
            work: Notify::new(),
        };
        core.remember_nodes().await?;
        Ok(core)
    }

    /// The work in the background. Dropping the set ends it.
    pub(crate) fn background(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(warm(Arc::clone(self)));
        tasks.spawn(forget_stocks(Arc::clone(self)));
        tasks.spawn(self.authority.follow());
        tasks.spawn(look_for_rolls(Arc::clone(self)));
        tasks.spawn(on_duty(Arc::clone(self)));
        tasks
    }

    /// What one instance does for all, each kind in a task of its own.
    fn duties(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(runner::work(Arc::clone(self)));
        tasks.spawn(runner::forget_old(Arc::clone(self)));
        tasks.spawn(repair(Arc::clone(self)));
        tasks.spawn(replace_gone(Arc::clone(self)));
        tasks.spawn(take_inventory(Arc::clone(self)));
        tasks.spawn(purge(Arc::clone(self)));
        tasks.spawn(reap_leases(Arc::clone(self)));
        tasks.spawn(forget_answers(Arc::clone(self)));
        tasks.spawn(empty_trashes(Arc::clone(self)));
        tasks
    }

    pub(crate) fn is_superuser(&self, user: &UserName) -> bool {
        self.authority.caller(user.clone()).superuser
    }

    /// Where a node is. One that has reported, but not to this instance, is in the store.
    pub(crate) async fn address(&self, txn: &mut impl Txn, node: &NodeId) -> Result<Option<String>, MetadataError> {
        if let Some(address) = self.cluster.address(node) {
            return Ok(Some(address));
        }
        let record: Option<records::Node> = access::record(txn, &keys::node(node), "node").await?;
        if let Some(record) = &record {
            self.remember_node(node.clone(), record)?;
        }
        Ok(record.map(|record| record.address))
    }

    async fn remember_nodes(&self) -> Result<(), MetadataError> {
        let found = access::page(&mut self.store.snapshot().await?, &keys::nodes(), NODES_MAX).await?;
        for (key, value) in found {
            let node = keys::node_of(&key).ok_or(MetadataError::Corrupt { what: "node" })?;
            let record: records::Node = access::decode(value, "node")?;
            self.remember_node(node, &record)?;
        }
        Ok(())
    }

    fn remember_node(&self, node: NodeId, record: &records::Node) -> Result<(), MetadataError> {
        let known = Some(record.incarnation.as_ref()).filter(|id| !id.is_empty());
        let incarnation = known.map(Incarnation::try_from).transpose()?;
        let now_ms = self.clock.now_ms();
        self.cluster
            .nodes
            .remember(node, record.address.clone(), incarnation, now_ms);
        Ok(())
    }
}

/// The way out for a store of another format.
const fn remedy(format: u32) -> &'static str {
    if format > keys::FORMAT_VERSION {
        return "run the version that wrote it, or a newer one";
    }
    "nothing was changed in it: with the version that wrote it, fetch its files with `strongroom fs get -r`, and store them anew in an empty store of this one"
}

/// Says the store's format, after giving an empty store the format of this version and its root; none if it holds
/// something else.
async fn prepare(
    txn: &mut impl Txn,
    (owner, group): (String, String),
    now_ms: u64,
) -> Result<Option<u32>, MetadataError> {
    if let Some(format) = txn.get(&keys::format()).await? {
        let format = <[u8; 4]>::try_from(format.as_ref()).map_err(|_| MetadataError::Corrupt { what: "format" })?;
        return Ok(Some(u32::from_be_bytes(format)));
    }
    if !access::page(txn, &keys::everything(), 1).await?.is_empty() {
        return Ok(None);
    }
    let root = records::Entry {
        id: ROOT.into(),
        mode: 0o755,
        owner,
        group,
        mtime_ms: now_ms,
        ..records::Entry::default()
    };
    txn.put(&keys::root(), root.encode_to_vec());
    txn.put(&keys::format(), keys::FORMAT_VERSION.to_be_bytes().to_vec());
    Ok(Some(keys::FORMAT_VERSION))
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

/// Does the duties of the background while this instance has them.
async fn on_duty<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        core.duty.win(&core.store).await;
        let mut duties = core.duties();
        tokio::select! {
            () = core.duty.keep(&core.store) => {}
            panicked = first_panic(&mut duties) => resume_unwind(panicked),
        }
        duties.shutdown().await;
        core.cluster.commands().clear();
    }
}

/// Why a task ended, of tasks that never do. When the runtime ends they are canceled, which is nothing to tell: then this waits for
/// its own end, and keeps no thread from it.
async fn first_panic(tasks: &mut JoinSet<()>) -> Box<dyn Any + Send> {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && let Ok(panicked) = error.try_into_panic()
        {
            return panicked;
        }
    }
    pending().await
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

async fn take_inventory<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut inventory = Inventory::default();
    loop {
        if let Some(fence) = core.duty.fence() {
            logged("inventory", inventory.round(&core.store, &core.cluster, fence.term())).await;
        }
        sleep(INVENTORY_EVERY).await;
    }
}

async fn purge<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut purges = Purges::default();
    loop {
        if logged("purge", purges.round(&core.store)).await != Some(true) {
            sleep(PURGE_EVERY).await;
        }
    }
}

async fn reap_leases<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        sleep(REAP_EVERY).await;
        let now_ms = core.clock.now_ms();
        let dead_ms = dead_ms(now_ms, &core.settings);
        if let Some(reaped @ 1..) = logged("reap", reap(&core.store, now_ms, dead_ms)).await {
            tracing::info!(reaped, "files whose writers were silent for too long are given up");
        }
        logged("bury", bury(&core.store, now_ms)).await;
    }
}

async fn forget_answers<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        logged("forget", answers::forget(&core.store, core.clock.now_ms())).await;
        sleep(REAP_EVERY).await;
    }
}

async fn empty_trashes<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    if core.settings.trash_ms == 0 {
        return std::future::pending().await;
    }
    let mut rounds = round::Rounds::new();
    loop {
        if logged("trash", rounds.run(&core)).await != Some(true) {
            sleep(round::pause(&core.settings)).await;
        }
    }
}

async fn forget_stocks<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        sleep(REAP_EVERY).await;
        logged("stock", drop_stocks(&core)).await;
    }
}

async fn look_for_rolls<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        sleep(Duration::from_millis(core.settings.stock_look_ms)).await;
        core.stock.look_for_rolls().await;
    }
}

/// Forgets the stocks of zones that were purged.
async fn drop_stocks<S: Store, E: EdekSource>(core: &Core<S, E>) -> Result<(), MetadataError> {
    for zone in core.stock.zones() {
        if access::zone(&mut core.store.snapshot().await?, zone).await?.is_none() {
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::{runtime::Builder, time::timeout};

    use super::*;

    /// A runtime that ends cancels the duties before the task that waits for them, which must let its thread go.
    #[test]
    fn duties_that_were_canceled_keep_no_thread_busy() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_time().build();
            let waited = runtime.expect("a runtime").block_on(async {
                let mut duties = JoinSet::new();
                duties.spawn(pending());
                duties.abort_all();
                timeout(Duration::from_millis(50), first_panic(&mut duties)).await
            });
            done.send(waited.is_err()).expect("the test waits");
        });
        let has_waited = is_done.recv_timeout(Duration::from_secs(20));
        assert!(has_waited.expect("the thread was let go"), "there was nothing to tell");
    }
}
