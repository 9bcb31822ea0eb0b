//! One worker process and the connection to it.

use std::{
    env,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use strongroom_proto::limits::MESSAGE_BYTES_MAX;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{
    SealedConfig, TokenConfig,
    limit::{KeyPairCalls, Limit, Waiting},
    pb::token_worker_client::TokenWorkerClient,
};

/// How long a worker may take to end by itself once its connection is closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What a worker needs of the environment: itself little, SoftHSM2 and p11-kit their configuration, vendors' modules theirs.
const ENVIRONMENT: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "CREDENTIALS_DIRECTORY",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "SOFTHSM2_CONF",
    "KRYOPTIC_CONF",
    "P11_KIT_SERVER_ADDRESS",
    "P11_KIT_CONFIG_FILE",
    "ChrystokiConfigurationPath",
    "NFAST_HOME",
    "NFAST_SERVER",
    "CS_PKCS11_R3_CFG",
    "YUBIHSM_PKCS11_CONF",
];

/// Why a call over the link should not be trusted to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection broke.
    Broken,
    /// The worker does not answer any more.
    Hanging,
    /// The token refused the PIN while the worker ran.
    PinRejected,
}

/// A connection to one worker process, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Link {
    client: TokenWorkerClient<Channel>,
    /// Counts worker processes up; a call that failed on one link waits for a greater one.
    generation: u64,
    faults: mpsc::Sender<Fault>,
    answers: Arc<Answers>,
    key_pairs: Arc<KeyPairCalls>,
}

/// When the worker answered last, by which a hang is told from a long queue.
#[derive(Debug)]
struct Answers {
    start: Instant,
    last_ms: AtomicU64,
}

/// A worker process and what it is watched by.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pub(super) link: Link,
    faults: mpsc::Receiver<Fault>,
}

/// How a watched worker came to its end.
#[derive(Debug)]
pub(super) enum End {
    Exited(io::Result<ExitStatus>),
    Fault(Fault),
}

impl Worker {
    /// Starts a worker process and connects to it. In `marks` it keeps the marks of a PIN that the token refused.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub(super) async fn start(
        executable: &Path,
        config: &TokenConfig,
        marks: &Path,
        generation: u64,
    ) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let child = command(executable, config, marks, theirs).spawn()?;
        ours.set_nonblocking(true)?;
        let channel = connect(UnixStream::from_std(ours)?).await?;
        let client = TokenWorkerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        // One fault is enough to end a worker; further ones are dropped.
        let (sender, faults) = mpsc::channel(1);
        let link = Link {
            client,
            generation,
            faults: sender,
            answers: Arc::new(Answers {
                start: Instant::now(),
                last_ms: AtomicU64::new(0),
            }),
            key_pairs: Arc::default(),
        };
        Ok(Self { child, link, faults })
    }

    /// The process' id, for the log.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the process exits or a call reports a fault.
    pub(super) async fn watch(&mut self) -> End {
        tokio::select! {
            status = self.child.wait() => End::Exited(status),
            // The link that this worker holds keeps the channel open.
            Some(fault) = self.faults.recv() => End::Fault(fault),
        }
    }

    /// Closes the connection, on which a sound worker ends; one that does not is killed.
    pub(super) async fn end(self) {
        let Self { mut child, link, .. } = self;
        drop(link);
        if timeout(END_TIMEOUT, child.wait()).await.is_err() {
            kill(child).await;
        }
    }

    /// Kills the process at once.
    pub(super) async fn kill(self) {
        kill(self.child).await;
    }
}

async fn kill(mut child: Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the token worker cannot be killed");
    }
}

impl Link {
    pub(super) fn client(&self) -> TokenWorkerClient<Channel> {
        self.client.clone()
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes that a call begins.
    pub(super) fn begin(&self, limit: Limit) -> Waiting {
        self.key_pairs.begin(limit)
    }

    /// Notes that the worker answered something.
    pub(super) fn answered(&self) {
        self.answers.last_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether the worker has answered nothing for that long.
    pub(super) fn silent_for(&self, limit: Duration) -> bool {
        let last = Duration::from_millis(self.answers.last_ms.load(Ordering::Relaxed));
        self.answers.start.elapsed().saturating_sub(last) >= limit
    }

    /// Tells the supervisor that this worker must be replaced.
    pub(super) fn report(&self, fault: Fault) {
        // Full means that a fault is reported already.
        _ = self.faults.try_send(fault);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.answers.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The environment of a process that works with a token.
pub(super) fn environment(config: &TokenConfig) -> impl Iterator<Item = (OsString, OsString)> {
    let known = ENVIRONMENT
        .iter()
        .filter_map(|name| Some((name.into(), env::var_os(name)?)));
    let own = config
        .environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    known.chain(own)
}

fn command(executable: &Path, config: &TokenConfig, marks: &Path, socket: StdUnixStream) -> Command {
    let mut command = Command::new(executable);
    command
        .arg("token-worker")
        .arg("--module")
        .arg(&config.module)
        .arg("--token-label")
        .arg(&config.label)
        .arg("--pin-file")
        .arg(&config.pin_file)
        .arg("--marks")
        .arg(marks)
        .args(config.sealed.iter().flat_map(SealedConfig::arguments))
        .env_clear()
        .envs(environment(config))
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}

/// A channel over exactly that socket. Once it breaks it is not connected again: that takes another worker.
async fn connect(stream: UnixStream) -> io::Result<Channel> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            stream
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the token worker is gone"))
        }
    });
    Endpoint::from_static("http://token-worker")
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector(connector)
        .await
        .map_err(io::Error::other)
}
