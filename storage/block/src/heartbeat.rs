//! Reports to the metadata service and does what it answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crc_fast::crc32_iscsi;
use strongroom_proto::{
    BlockId, ExtentId, Failure, Reason,
    block::v1::PutBlockRequest,
    limits::{HEARTBEAT_ANSWER_MAX, MESSAGE_BYTES_MAX},
    metadata::v1::{Command, HeartbeatRequest, HeartbeatResponse, Replicate, cluster_client::ClusterClient, command},
    transport::Remote,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use crate::{
    api::Node,
    news::{Outcome, Results},
    survey,
};

/// Between heartbeats, unless there is news.
const PERIOD: Duration = Duration::from_secs(1);
/// News within this time share a heartbeat.
const GATHER: Duration = Duration::from_millis(20);
/// Commands accepted and not finished; more are refused until there is room.
const COMMANDS_MAX: usize = 4096;
/// Commands under way at once.
const COMMANDS_AT_ONCE: usize = 8;

/// The node's side of the conversation with one instance of the metadata service.
pub(crate) struct Heart {
    node: Arc<Node>,
    address: String,
    metadata: Remote,
    client: ClusterClient<Channel>,
    /// What is known of the metadata service; nothing at the start.
    reachable: Option<bool>,
    work: Arc<Work>,
    results: Arc<Results>,
    /// Dropped with the heart, which ends the commands under way.
    tasks: JoinSet<()>,
}

/// The commands that were accepted, from whichever instance.
pub(crate) struct Work {
    accepted: Mutex<HashMap<CommandKey, Option<Doomed>>>,
    turns: Semaphore,
}

/// A command by who gave it and its number there.
type CommandKey = (Remote, u64);

/// What a command deletes: a block, or an extent with all its blocks.
type Doomed = (ExtentId, Option<u32>);

/// What becomes of a command that just came.
enum Verdict {
    Begin,
    /// It is under way.
    Known,
    Refused(&'static str),
}

impl Heart {
    pub(crate) fn new(
        node: Arc<Node>,
        work: Arc<Work>,
        advertise: &Remote,
        metadata: Remote,
        channel: Channel,
    ) -> Self {
        Self {
            node,
            address: advertise.to_string(),
            metadata,
            client: ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            reachable: None,
            work,
            results: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Beats until it is dropped.
    pub(crate) async fn beat(mut self) {
        loop {
            let reached = self.once().await;
            self.note_reachable(&reached);
            if reached.is_err() {
                sleep(PERIOD).await;
            } else if timeout(PERIOD, self.news()).await.is_ok() {
                sleep(GATHER).await;
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Returns once there is something to tell.
    async fn news(&self) {
        tokio::select! {
            () = self.node.news.arrived() => {}
            () = self.results.arrived() => {}
        }
    }

    async fn once(&mut self) -> Result<(), Failure> {
        let usage = self.node.store.usage().await?;
        let bad = self.node.news.take();
        let heartbeat = HeartbeatRequest {
            node_id: self.node.id.to_string(),
            address: self.address.clone(),
            capacity_bytes: usage.capacity_bytes,
            free_bytes: usage.free_bytes,
            blocks: usage.blocks,
            bad_blocks: bad.iter().copied().map(Into::into).collect(),
            results: self.results.oldest(),
            incarnation: self.node.store.incarnation().into(),
        };
        let told = heartbeat.results.clone();
        let asked = self.node.clock.since_boot();
        match self.tell(heartbeat).await {
            Ok(answer) => {
                self.results.told(&told);
                let took = self.node.clock.since_boot().saturating_sub(asked);
                self.take(answer, took);
                Ok(())
            }
            Err(failure) => {
                self.node.news.give_back(bad);
                Err(failure)
            }
        }
    }

    async fn tell(&mut self, heartbeat: HeartbeatRequest) -> Result<HeartbeatResponse, Failure> {
        match timeout(HEARTBEAT_ANSWER_MAX, self.client.heartbeat(heartbeat)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "it did not answer within 5 s")),
        }
    }

    /// Commands that come late, this process having been stopped, may be those of an instance that has no say any more.
    fn take(&mut self, answer: HeartbeatResponse, took: Duration) {
        self.node.authority.learn(&self.metadata, answer.capability_keys);
        if took > HEARTBEAT_ANSWER_MAX {
            return;
        }
        for command in answer.commands {
            self.accept(command);
        }
    }

    /// Starts a command, unless it is under way or its result is about to be told.
    fn accept(&mut self, command: Command) {
        let id = command.command_id;
        if self.results.has(id) {
            return;
        }
        let key = (self.metadata.clone(), id);
        match self.work.judge(&key, doomed(&command)) {
            Verdict::Known => {}
            Verdict::Refused(why) => self.results.add(id, Err(why.to_owned())),
            Verdict::Begin => {
                let (node, work, results) = (
                    Arc::clone(&self.node),
                    Arc::clone(&self.work),
                    Arc::clone(&self.results),
                );
                self.tasks
                    .spawn(async move { work.run(&node, &results, key, command).await });
            }
        }
    }

    /// Says once when the metadata service goes away, and once when it is back.
    fn note_reachable(&mut self, reached: &Result<(), Failure>) {
        let metadata = &self.metadata;
        match reached {
            Ok(()) if self.reachable != Some(true) => tracing::info!(%metadata, "the metadata service answers"),
            Err(error) if self.reachable != Some(false) => {
                tracing::warn!(%metadata, %error, "cannot report to the metadata service; serving with the keys known");
            }
            _ => {}
        }
        self.reachable = Some(reached.is_ok());
    }
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            accepted: Mutex::default(),
            turns: Semaphore::new(COMMANDS_AT_ONCE),
        }
    }

    /// Whether a command is to be carried out; if so it counts as accepted.
    fn judge(&self, key: &CommandKey, doomed: Option<Doomed>) -> Verdict {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.contains_key(key) {
            return Verdict::Known;
        }
        if accepted.len() >= COMMANDS_MAX {
            return Verdict::Refused("the node has too many commands already");
        }
        if doomed.is_some() && accepted.values().any(|other| *other == doomed) {
            // Two at once, and the slower one could hit a copy that came back after the faster one was answered.
            return Verdict::Refused("the same is being deleted already");
        }
        accepted.insert(key.clone(), doomed);
        Verdict::Begin
    }

    async fn run(&self, node: &Node, results: &Results, key: CommandKey, command: Command) {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let outcome = execute(node, command.command).await;
        if let Err(error) = &outcome {
            tracing::warn!(command = command.command_id, %error, "a command failed");
        }
        // First the result, then room: between the two the command counts as known either way.
        results.add(command.command_id, outcome.map_err(|failure| failure.message));
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.remove(&key);
    }
}

fn doomed(command: &Command) -> Option<Doomed> {
    match command.command.as_ref()? {
        command::Command::Delete(id) => {
            let id = BlockId::try_from(Some(id.clone())).ok()?;
            Some((id.extent, Some(id.index)))
        }
        command::Command::DeleteExtent(id) => Some((ExtentId::try_from(id.as_ref()).ok()?, None)),
        command::Command::Replicate(_) | command::Command::Check(_) | command::Command::Tell(_) => None,
    }
}

async fn execute(node: &Node, command: Option<command::Command>) -> Result<Outcome, Failure> {
    match command {
        Some(command::Command::Delete(id)) => node.store.delete(BlockId::try_from(Some(id))?).await?,
        Some(command::Command::DeleteExtent(id)) => node.store.delete_extent(ExtentId::try_from(id.as_ref())?).await?,
        Some(command::Command::Replicate(order)) => replicate(node, order).await?,
        Some(command::Command::Check(order)) => return survey::check(node, order).await,
        Some(command::Command::Tell(order)) => return survey::tell(node, order).await,
        None => {
            return Err(Failure::new(
                Reason::InvalidArgument,
                "this release does not know the command; upgrade the node",
            ));
        }
    }
    Ok(Outcome::default())
}

async fn replicate(node: &Node, order: Replicate) -> Result<(), Failure> {
    let id = BlockId::try_from(order.block_id.clone())?;
    let target = order
        .to
        .ok_or_else(|| Failure::new(Reason::InvalidArgument, "the target is missing"))?;
    let block = node.store.get(id, 0, 0).await.map_err(|error| node.noted(id, error))?;
    let request = PutBlockRequest {
        capability: order.capability,
        block_id: order.block_id,
        crc32c: crc32_iscsi(&block.data),
        data: block.data,
        forward: Vec::new(),
    };
    node.peers.send(&target, &request, Vec::new()).await.map(|_| ())
}
