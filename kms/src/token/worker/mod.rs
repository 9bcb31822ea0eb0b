//! The worker process: the only one that maps the vendor library and holds a login.
//!
//! Standard input is one half of a socket pair whose other half the key service has. The worker serves exactly that
//! connection and exits when it closes, so it never outlives the key service. One thread owns the session; calls reach
//! it through a bounded queue (`queue`). What it does, from the wire inwards: `service` parses, `engine` keeps a
//! session open, `vault` does whole calls, a `suite` (`kw`, `gcm`, `hadoop`) does single PKCS#11 operations.

mod attributes;
mod audit_key;
mod canary;
mod clone;
mod connection;
mod dek;
mod derived;
mod engine;
mod gate;
mod gcm;
mod growth;
mod hadoop;
mod import;
mod index;
mod inspect;
mod kw;
mod label;
mod object;
mod profile;
mod queue;
mod remedy;
mod sealing;
mod service;
mod suite;
mod survey;
mod taken;
mod transferring;
mod transport;
mod trial;
mod vault;
mod vouch;

use std::{
    io,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use strongroom_proto::limits::MESSAGE_BYTES_MAX;
use tokio::sync::oneshot;

pub(super) use self::engine::pin_rejected_by;
pub use self::gate::SealedOptions;
pub use self::inspect::{Inspection, inspect};
pub(super) use self::remedy::{refuses, refuses_pin};
use self::{gate::Delivery, queue::Queue, service::Service};
use super::pb::token_worker_server::TokenWorkerServer;

/// How long the token's thread may take to close its session before the process exits anyway.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker works with; the arguments of `strongroom token-worker`.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// `--module`: the PKCS#11 module.
    pub module: PathBuf,
    /// `--token-label`: the token's label.
    pub token_label: String,
    /// `--pin-file`: the file that holds the user PIN.
    pub pin_file: PathBuf,
    /// `--marks`: where the marks of a PIN that the token refused are kept, for all who log in to the token.
    pub marks: PathBuf,
    /// For sealed delivery; without it there is none.
    pub sealed: Option<SealedOptions>,
}

/// Why a worker does not work. What is wrong with the token is not among it: the worker answers calls with that.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Nobody is at the other end.
    #[error("standard input is not a socket; a token worker is started by the key service, not by hand")]
    NotASocket(#[source] io::Error),
    /// The runtime or a thread could not be made.
    #[error("the token worker cannot start")]
    Start(#[source] io::Error),
    /// The gRPC server failed.
    #[error("the link to the key service failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves the socket on standard input until it closes or the token is lost for this process.
///
/// A token that cannot be opened does not end the worker: it answers every call with the reason until it is stopped. So
/// it does after a rejected PIN, which it tries once.
///
/// # Errors
/// [`WorkerError`].
pub fn run(options: WorkerOptions) -> Result<(), WorkerError> {
    crate::memory::forbid_core_dumps();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Start)?;
    runtime.block_on(serve(options))
}

async fn serve(options: WorkerOptions) -> Result<(), WorkerError> {
    let (connection, closed) = connection::from_stdin().map_err(WorkerError::NotASocket)?;
    ignore_signals().map_err(WorkerError::Start)?;
    let delivery = Delivery::open(options.sealed.as_ref(), SystemTime::now());
    // Ends with the runtime.
    drop(tokio::spawn(delivery.follow()));
    let (queue, jobs) = Queue::new();
    let (ending, ended) = oneshot::channel::<()>();
    let (closing, finished) = mpsc::channel::<()>();
    thread::Builder::new()
        .name("token".to_owned())
        .spawn(move || {
            engine::serve(&options, &jobs);
            drop((ending, closing));
        })
        .map_err(WorkerError::Start)?;
    let service = TokenWorkerServer::new(Service::new(queue, delivery))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let stop = async {
        tokio::select! { _ = closed => {} _ = ended => {} }
    };
    connection::serve(connection, service, stop).await?;
    // The queue is gone with the service, so the thread ends, unless the library hangs.
    _ = finished.recv_timeout(CLOSE_TIMEOUT);
    Ok(())
}

/// The worker lives as long as its socket: a Ctrl-C or a service manager's TERM to the whole group is for the key
/// service, which may need the token for its last calls.
fn ignore_signals() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Once a handler is installed it stays for the life of the process, also when the stream is dropped.
    drop(signal(SignalKind::interrupt())?);
    drop(signal(SignalKind::terminate())?);
    Ok(())
}
