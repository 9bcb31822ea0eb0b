//! Client of the key service for readers and writers: the only one that knows a DEK.

mod batcher;
mod dek;
mod recipient;
mod sealed;

pub use dek::Dek;

use std::sync::Arc;

use strongroom_proto::{
    Edek, Failure, Reason,
    kms::v1::unwrap_client::UnwrapClient as Grpc,
    limits::MESSAGE_BYTES_MAX,
    transport::{BearerIdentity, CallerChannel, Remote, Remotes, Role, TlsIdentity},
};
use tokio::sync::{mpsc, oneshot};

use batcher::{Job, QUEUE_MAX};
use sealed::Sealer;

/// A connection to the key service's `Unwrap`. Clones share it, and with it the batches that concurrent callers
/// are gathered into. Failures that pass by themselves are retried for at most 20 s.
///
/// Where the key service demands sealed delivery the client does it by itself, and remembers it for the key. That takes
/// a certificate: with a bearer token such EDEKs fail with [`Reason::SealedRequired`] and the way out.
#[derive(Debug, Clone)]
pub struct UnwrapClient {
    queue: mpsc::Sender<Job>,
    sealer: Arc<Sealer>,
}

impl UnwrapClient {
    /// A client that connects at its first call. Must be made inside a Tokio runtime, which runs its batches.
    #[must_use]
    pub fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        let channel = CallerChannel::certified(remotes, tls, Role::Kms);
        Self::over(channel, Sealer::new(Some(tls.clone())))
    }

    /// As [`Self::connect`], with a bearer token, to the key service's port for them. There is no sealed delivery: a token
    /// signs nothing.
    #[must_use]
    pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity) -> Self {
        let channel = CallerChannel::bearer(remote, bearer, Role::Kms);
        Self::over(channel, Sealer::new(None))
    }

    fn over(channel: CallerChannel, sealer: Sealer) -> Self {
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let sealer = Arc::new(sealer);
        tokio::spawn(batcher::run(grpc, Arc::clone(&sealer), jobs));
        Self { queue, sealer }
    }

    /// From now on asks for every DEK by sealed delivery, also where it is not demanded: then no DEK passes through the key
    /// service. Clones do so too. The first call takes some tenths of a second longer, for a key of this process. A client
    /// with a bearer token is given nothing any more.
    pub fn seal_always(&self) {
        self.sealer.seal_always();
    }

    /// The DEK of one EDEK. Waits for room if 4096 others wait.
    ///
    /// # Errors
    /// What the key service says of this EDEK, or why it cannot be reached.
    pub async fn unwrap(&self, edek: &Edek) -> Result<Dek, Failure> {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            edek: edek.clone(),
            answer,
        };
        let gone = || Failure::new(Reason::Unavailable, "the unwrap client's runtime has stopped");
        self.queue.send(job).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}
