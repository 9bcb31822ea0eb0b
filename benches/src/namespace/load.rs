//! What clients do: calls on a few connections, each client's next when its last one was answered. Answers are checked before they count.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use strongroom_proto::{
    Failure, RequestId,
    metadata::v1::{self as pb, files_client::FilesClient, namespace_client::NamespaceClient},
};
use tonic::{Response, Status, transport::Channel};

use super::watch::watched;
use crate::{latency::Latencies, report::note};

/// Clients at most, each with a directory of its own; and files in a directory that all look at.
pub(super) const CLIENTS_MAX: u32 = 64;
const LOOKED_AT: u32 = 1000;
/// A fill has so many clients on each connection: more than one commit can wait for another.
const CONNECTIONS: u32 = 4;
const FILLERS: u32 = CLIENTS_MAX * CONNECTIONS;
/// Tries of one call of a create, and the pause between two.
const TRIES_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// What a client does again and again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    /// A directory: one commit and nothing else, which is what a zone's files are held against.
    MakeDirectory,
    /// An empty file: opened with an EDEK from the stock, and published.
    Create,
    /// What a reader needs of a file.
    Open,
    Stat,
    /// A page of 1000 entries.
    List,
    Rename,
}

impl Operation {
    pub(super) const ALL: [Self; 6] = [
        Self::MakeDirectory,
        Self::Create,
        Self::Rename,
        Self::Open,
        Self::Stat,
        Self::List,
    ];

    /// Those that are held against the same outside of every zone, beside creates.
    pub(super) const IN_BOTH: [Self; 3] = [Self::Rename, Self::Open, Self::List];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MakeDirectory => "mkdir",
            Self::Create => "create",
            Self::Open => "open",
            Self::Stat => "stat",
            Self::List => "list1000",
            Self::Rename => "rename",
        }
    }

    /// Durable commits; 0 of what only reads.
    pub(super) const fn commits(self) -> u32 {
        match self {
            Self::MakeDirectory | Self::Rename => 1,
            Self::Create => super::limit::COMMITS_PER_FILE,
            Self::Open | Self::Stat | Self::List => 0,
        }
    }
}

/// Clients of one metadata service below one directory, with directories of their own.
pub(super) struct Load {
    channels: Vec<Channel>,
    root: &'static str,
    /// Whether it is in no zone, so that files are not encrypted.
    plain: bool,
    /// Names that were given out.
    names: AtomicU32,
    /// Files of a fill; 0 before it.
    filled: AtomicU32,
}

impl Load {
    /// Makes the directories and files that the clients need below `root`, which is made here and becomes a zone, or what it is to be,
    /// by `begin`. A connection is for a part of the clients.
    pub(super) async fn prepare(connect: impl Fn() -> Channel, root: &'static str, begin: impl AsyncFnOnce()) -> Self {
        let mut load = Self {
            channels: (0..CONNECTIONS).map(|_| connect()).collect(),
            root,
            plain: false,
            names: AtomicU32::new(0),
            filled: AtomicU32::new(0),
        };
        load.make_directory(0, root).await;
        begin().await;
        let request = pb::GetStatRequest { path: root.into() };
        let stat = load.namespace(0).get_stat(request).await.expect("there");
        load.plain = stat.into_inner().zone_path.is_empty();
        for client in 0..CLIENTS_MAX {
            load.make_directory(client, &format!("{root}/{client}")).await;
            load.create(client, &format!("{root}/{client}/turn-0")).await;
        }
        load.make_directory(0, &format!("{root}/list")).await;
        load.make_directory(0, &format!("{root}/full")).await;
        join_all((0..LOOKED_AT).map(|n| load.create_looked_at(n))).await;
        load
    }

    async fn create_looked_at(&self, number: u32) {
        self.create(number % CLIENTS_MAX, &format!("{}/list/{number:04}", self.root))
            .await;
    }

    /// Calls a second of `clients`, and how long each took.
    pub(super) async fn rate(&self, operation: Operation, clients: u32, time: Duration) -> (f64, Latencies) {
        let started = Instant::now();
        let run = |client: u32| async move {
            let (mut took, mut calls) = (Latencies::default(), 0_u32);
            // Renames come in pairs, so that the next run finds the file where this one did.
            while started.elapsed() < time || (matches!(operation, Operation::Rename) && calls % 2 == 1) {
                let at = Instant::now();
                self.call(operation, client, calls).await;
                took.push(at.elapsed());
                calls += 1;
            }
            (calls, took)
        };
        let mut all = Latencies::default();
        let mut calls = 0;
        for (done, took) in join_all((0..clients).map(run)).await {
            calls += done;
            all.extend(took);
        }
        (f64::from(calls) / started.elapsed().as_secs_f64(), all)
    }

    /// How long `clients` take to make so many files, as fast as they can.
    pub(super) async fn burst(&self, count: u32, clients: u32) -> Duration {
        let started = Instant::now();
        let run = |client: u32| async move {
            for n in (client..count).step_by(clients as usize) {
                self.call(Operation::Create, client, n).await;
            }
        };
        join_all((0..clients).map(run)).await;
        started.elapsed()
    }

    /// Makes `count` files in one directory with many clients at once: files a second. Afterwards whoever opens, looks at or lists files does so
    /// with all of them.
    pub(super) async fn fill(&self, count: u32) -> f64 {
        let (started, made) = (Instant::now(), AtomicU32::new(0));
        let made = &made;
        let run = |filler: u32| async move {
            for number in (filler..count).step_by(FILLERS as usize) {
                self.create(filler, &self.filled_path(number)).await;
                made.fetch_add(1, Ordering::Relaxed);
            }
        };
        watched(join_all((0..FILLERS).map(run)), async || {
            let made = made.load(Ordering::Relaxed);
            let rate = f64::from(made) / started.elapsed().as_secs_f64();
            format!("made {made} files of {count}, {rate:.0} a second")
        })
        .await;
        self.filled.store(count, Ordering::Relaxed);
        f64::from(count) / started.elapsed().as_secs_f64()
    }

    fn filled_path(&self, number: u32) -> String {
        format!("{}/full/{}", self.root, filled_name(number))
    }

    /// A file to look at: those of a fill in an order that looks like chance.
    fn looked_at(&self, client: u32, number: u32) -> String {
        match self.filled.load(Ordering::Relaxed) {
            0 => format!("{}/list/{:04}", self.root, number % LOOKED_AT),
            filled => self.filled_path(by_chance(client, number, filled)),
        }
    }

    /// A whole page of a listing, anywhere in a directory that is full.
    fn page(&self, client: u32, number: u32) -> pb::ListRequest {
        let (directory, after) = match self.filled.load(Ordering::Relaxed) {
            0 => ("list", String::new()),
            filled => ("full", filled_name(by_chance(client, number, filled - LOOKED_AT))),
        };
        pb::ListRequest {
            path: format!("{}/{directory}", self.root).into(),
            after,
            ..pb::ListRequest::default()
        }
    }

    async fn call(&self, operation: Operation, client: u32, number: u32) {
        match operation {
            Operation::MakeDirectory => self.make_directory(client, &self.fresh(client)).await,
            Operation::Create => self.create(client, &self.fresh(client)).await,
            Operation::Open => {
                let path = self.looked_at(client, number).into();
                let opened = self
                    .files(client)
                    .open_file(pb::OpenFileRequest {
                        path,
                        ..pb::OpenFileRequest::default()
                    })
                    .await;
                assert_eq!(opened.expect("opened").into_inner().edek.is_none(), self.plain);
            }
            Operation::Stat => {
                let path = self.looked_at(client, number).into();
                let stat = self.namespace(client).get_stat(pb::GetStatRequest { path }).await;
                assert_eq!(stat.expect("there").into_inner().kind(), pb::FileKind::File);
            }
            Operation::List => {
                let request = self.page(client, number);
                let page = self.namespace(client).list(request).await.expect("a page").into_inner();
                assert_eq!(page.entries.len(), LOOKED_AT as usize);
            }
            Operation::Rename => {
                let turn = |number: u32| format!("{}/{client}/turn-{}", self.root, number % 2).into();
                let request = pb::RenameRequest {
                    from: turn(number),
                    to: turn(number + 1),
                    overwrite: false,
                    request_id: RequestId::generate().into(),
                };
                self.namespace(client).rename(request).await.expect("renamed");
            }
        }
    }

    fn fresh(&self, client: u32) -> String {
        format!(
            "{}/{client}/{:08}",
            self.root,
            self.names.fetch_add(1, Ordering::Relaxed)
        )
    }

    async fn make_directory(&self, client: u32, path: &str) {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode: 0o755,
            request_id: RequestId::generate().into(),
            ..pb::MakeDirectoryRequest::default()
        };
        self.namespace(client).make_directory(request).await.expect("made");
    }

    async fn create(&self, client: u32, path: &str) {
        let request = pb::CreateFileRequest {
            path: path.to_owned().into(),
            mode: 0o644,
            request_id: RequestId::generate().into(),
            ..pb::CreateFileRequest::default()
        };
        let created = patiently(path, async || self.files(client).create_file(request.clone()).await).await;
        assert_eq!(created.edek.is_none(), self.plain);
        let grant = created.grant.expect("a grant");
        let commit = pb::CommitFileRequest {
            file_id: grant.file_id,
            extent_id: grant.extent_id,
            generation: 1,
            manifest_mac: vec![7; if self.plain { 0 } else { 32 }].into(),
            mtime_ms: 1,
            request_id: RequestId::generate().into(),
            ..pb::CommitFileRequest::default()
        };
        patiently(path, async || self.files(client).commit_file(commit.clone()).await).await;
    }

    fn channel(&self, client: u32) -> Channel {
        self.channels[(client / CLIENTS_MAX) as usize].clone()
    }

    fn files(&self, client: u32) -> FilesClient<Channel> {
        FilesClient::new(self.channel(client))
    }

    fn namespace(&self, client: u32) -> NamespaceClient<Channel> {
        NamespaceClient::new(self.channel(client)).max_decoding_message_size(16 << 20)
    }
}

/// What a file of a fill is called. In the order of numbers.
fn filled_name(number: u32) -> String {
    format!("fill-{number:08}")
}

/// Which of so many files a client takes: all of them in turn, none beside the one before.
fn by_chance(client: u32, number: u32, files: u32) -> u32 {
    // A prime, greater than there are files.
    const STEP: u64 = 2_654_435_761;
    let turn = u64::from(number) * u64::from(CLIENTS_MAX) + u64::from(client);
    u32::try_from((turn + 1) * STEP % u64::from(files)).expect("less than there are files")
}

/// The answer to a call that is made again when it fails for a while, as the library's clients do: a fill takes hours.
async fn patiently<T>(path: &str, call: impl AsyncFn() -> Result<Response<T>, Status>) -> T {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match call().await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => {
                let failure = Failure::from(status);
                let again = attempt < TRIES_MAX && failure.is_transient();
                assert!(again, "{path} was not made: {failure}");
                note(&format!("{path} is tried again: {failure}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
