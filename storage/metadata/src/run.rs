//! The metadata role as a process: configuration in, service on its port, until told to stop.

use std::{io, os::unix::fs::DirBuilderExt, path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use strongroom_kms_mint::MintClient;
use strongroom_kv::{AnyOpenError, AnyStore};
use strongroom_proto::{
    groups::GroupsError,
    transport::{ServeError, TlsError, TlsIdentity, bind, serve},
};
use tokio::task::{JoinError, JoinSet};

use crate::{Authority, Clock, Config, Service, StartError, core::STORE_FILE};

/// Why the metadata service does not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The groups file cannot be used.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] AnyOpenError),
    /// Work in the background panicked.
    #[error("the metadata service's work in the background failed; start it again and report this")]
    Background(#[source] JoinError),
    /// The service cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The port is taken or the server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the metadata service until `stop` resolves. It starts and serves what needs no new EDEK while the key
/// service is away.
///
/// # Errors
/// Says what is missing or taken, and the way out.
pub async fn run(config: Config, stop: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    let tls = Arc::new(TlsIdentity::load(&config.tls, SystemTime::now())?);
    make_data_dir(&config.data_dir).map_err(|source| RunError::DataDir {
        path: config.data_dir.clone(),
        source,
    })?;
    let authority = Authority::load(config.superusers, config.supergroup, config.groups.as_deref())?;
    let listener = bind(config.listen).await?;
    let store = AnyStore::open(&config.store, &config.data_dir.join(STORE_FILE)).await?;
    let service = Service::open(
        store,
        MintClient::connect(&config.kms, &tls),
        &config.data_dir,
        Clock::system(),
        config.settings,
        authority,
        Arc::clone(&tls),
    )
    .await?;
    let mut background = service.background();
    let routes = service.routes().await?;
    tracing::info!(address = %config.listen, "serving");
    let outcome = tokio::select! {
        () = serve(listener, &tls, routes, stop) => Ok(()),
        error = failed(&mut background) => Err(RunError::Background(error)),
    };
    background.shutdown().await;
    service.retire().await;
    outcome
}

/// Returns when a task panicked: a service that no longer repairs or purges had better start anew.
async fn failed(background: &mut JoinSet<()>) -> JoinError {
    loop {
        match background.join_next().await {
            Some(Err(error)) => return error,
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

/// Makes the directory for its owner alone; one that exists is left as it is.
pub(crate) fn make_data_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
