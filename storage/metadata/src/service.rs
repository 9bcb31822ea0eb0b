//! The metadata service over a store and a source of EDEKs of the caller's choice.

use std::{path::Path, sync::Arc};

use strongroom_kv::Store;
use strongroom_proto::{FILE_DESCRIPTOR_SET, transport::TlsIdentity};
use tokio::task::JoinSet;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;

use crate::{
    Clock, api,
    authority::Authority,
    cluster::key::{KeyError, load_or_make},
    config::Settings,
    core::{Core, OpenError},
    zones::source::EdekSource,
};

/// Services that the health check knows by name.
const SERVICES: [&str; 8] = [
    "",
    "strongroom.metadata.v1.Namespace",
    "strongroom.metadata.v1.Files",
    "strongroom.metadata.v1.Zones",
    "strongroom.metadata.v1.Jobs",
    "strongroom.metadata.v1.Transfers",
    "strongroom.metadata.v1.Trash",
    "strongroom.metadata.v1.Cluster",
];

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No key to sign capabilities with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store is not usable.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// gRPC reflection refused the descriptors.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The metadata service.
pub struct Service<S, E> {
    core: Arc<Core<S, E>>,
}

impl<S: Store, E: EdekSource> Service<S, E> {
    /// Opens what is in `store`. The key that signs capabilities is in `data_dir` and made there once;
    /// `identity` signs proofs.
    ///
    /// # Errors
    /// If the store is of another format or broken, or the key cannot be had.
    pub async fn open(
        store: S,
        source: E,
        data_dir: &Path,
        clock: Clock,
        settings: Settings,
        authority: Authority,
        identity: Arc<TlsIdentity>,
    ) -> Result<Self, StartError> {
        let signer = load_or_make(data_dir)?;
        let core = Core::open(store, source, signer, clock, settings, authority, identity).await?;
        Ok(Self { core: Arc::new(core) })
    }

    /// Everything that it serves: its services, health and reflection.
    ///
    /// # Errors
    /// [`StartError::Reflection`] if the descriptors are not usable.
    pub async fn routes(&self) -> Result<Routes, StartError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        for service in SERVICES {
            reporter.set_service_status(service, ServingStatus::Serving).await;
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let mut routes = RoutesBuilder::default();
        routes.add_service(health).add_service(reflection);
        api::add(&self.core, &mut routes);
        Ok(routes.routes())
    }

    /// Starts the work in the background: stocks, re-encryption, repair, purges, leases. Dropping the set ends it. Of
    /// several instances over one store, one at a time does what concerns them all.
    #[must_use]
    pub fn background(&self) -> JoinSet<()> {
        self.core.background()
    }

    /// Lets another instance have the duties of the background at once. To be called when they have ended here.
    pub async fn retire(&self) {
        self.core.duty.give_up(&self.core.store).await;
    }
}
