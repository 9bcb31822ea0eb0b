//! The loads: closed loops of clients, each of which makes its next call when the last one was answered. Answers are checked
//! before they count.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use strongroom_proto::{
    RequestId,
    metadata::v1::{self as pb, files_client::FilesClient, namespace_client::NamespaceClient},
};
use tonic::transport::Channel;

use crate::latency::Latencies;

/// The zone that everything is in, and a directory in it with this many files to look at.
pub(super) const ZONE: &str = "/zone";
const LOOKED_AT: u32 = 1000;

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

    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::MakeDirectory | Self::Create | Self::Rename)
    }
}

/// Clients of one metadata service, with directories of their own.
pub(super) struct Load {
    channel: Channel,
    /// Names that were given out.
    names: AtomicU32,
}

impl Load {
    /// Makes the directory that is to be the zone.
    pub(super) async fn make_zone(channel: Channel) {
        let names = AtomicU32::new(0);
        Self { channel, names }.make_directory(ZONE).await;
    }

    /// Makes the directories and files that the clients need.
    pub(super) async fn prepare(channel: Channel, clients: usize) -> Self {
        let load = Self {
            channel,
            names: AtomicU32::new(0),
        };
        for client in 0..clients {
            load.make_directory(&format!("{ZONE}/{client}")).await;
            load.create(&format!("{ZONE}/{client}/turn-0")).await;
        }
        load.make_directory(&format!("{ZONE}/list")).await;
        join_all((0..LOOKED_AT).map(|n| load.create_looked_at(n))).await;
        load
    }

    async fn create_looked_at(&self, number: u32) {
        self.create(&format!("{ZONE}/list/{number:04}")).await;
    }

    /// Calls a second of `clients`, and how long each took.
    pub(super) async fn rate(&self, operation: Operation, clients: usize, time: Duration) -> (f64, Latencies) {
        let started = Instant::now();
        let run = |client: usize| async move {
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

    /// Makes `count` files with `clients` at once: files a second.
    pub(super) async fn fill(&self, count: u32, clients: u32) -> f64 {
        let started = Instant::now();
        let run = |client: u32| async move {
            for n in (client..count).step_by(clients as usize) {
                self.call(Operation::Create, client as usize, n).await;
            }
        };
        join_all((0..clients).map(run)).await;
        f64::from(count) / started.elapsed().as_secs_f64()
    }

    async fn call(&self, operation: Operation, client: usize, number: u32) {
        let looked_at = format!("{ZONE}/list/{:04}", number % LOOKED_AT);
        match operation {
            Operation::MakeDirectory => self.make_directory(&self.fresh(client)).await,
            Operation::Create => self.create(&self.fresh(client)).await,
            Operation::Open => {
                let path = looked_at.into();
                let opened = self
                    .files()
                    .open_file(pb::OpenFileRequest {
                        path,
                        ..pb::OpenFileRequest::default()
                    })
                    .await;
                assert!(opened.expect("opened").into_inner().edek.is_some());
            }
            Operation::Stat => {
                let path = looked_at.into();
                let stat = self.namespace().get_stat(pb::GetStatRequest { path }).await;
                assert_eq!(stat.expect("there").into_inner().kind(), pb::FileKind::File);
            }
            Operation::List => {
                let request = pb::ListRequest {
                    path: format!("{ZONE}/list").into(),
                    ..pb::ListRequest::default()
                };
                let page = self.namespace().list(request).await.expect("a page").into_inner();
                assert_eq!(page.entries.len(), LOOKED_AT as usize);
            }
            Operation::Rename => {
                let turn = |number: u32| format!("{ZONE}/{client}/turn-{}", number % 2).into();
                let request = pb::RenameRequest {
                    from: turn(number),
                    to: turn(number + 1),
                    overwrite: false,
                    request_id: RequestId::generate().into(),
                };
                self.namespace().rename(request).await.expect("renamed");
            }
        }
    }

    fn fresh(&self, client: usize) -> String {
        format!("{ZONE}/{client}/{:08}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    async fn make_directory(&self, path: &str) {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode: 0o755,
            request_id: RequestId::generate().into(),
            ..pb::MakeDirectoryRequest::default()
        };
        self.namespace().make_directory(request).await.expect("made");
    }

    async fn create(&self, path: &str) {
        let request = pb::CreateFileRequest {
            path: path.to_owned().into(),
            mode: 0o644,
            request_id: RequestId::generate().into(),
            ..pb::CreateFileRequest::default()
        };
        let mut files = self.files();
        let created = files.create_file(request).await.expect("created").into_inner();
        assert!(created.edek.is_some());
        let grant = created.grant.expect("a grant");
        let commit = pb::CommitFileRequest {
            file_id: grant.file_id,
            extent_id: grant.extent_id,
            generation: 1,
            manifest_mac: vec![7; 32].into(),
            mtime_ms: 1,
            request_id: RequestId::generate().into(),
            ..pb::CommitFileRequest::default()
        };
        files.commit_file(commit).await.expect("published");
    }

    fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone())
    }

    fn namespace(&self) -> NamespaceClient<Channel> {
        NamespaceClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }
}
