//! The gRPC faces. Each call finds out who asks, parses every field into a typed value, and hands over to the core.

mod cluster;
mod files;
mod jobs;
mod namespace;
mod zones;

use std::sync::Arc;

use prost::Message;
use strongroom_kv::Store;
use strongroom_proto::{
    FileId, ZonePath,
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{
        cluster_server::ClusterServer, files_server::FilesServer, jobs_server::JobsServer,
        namespace_server::NamespaceServer, zones_server::ZonesServer,
    },
    transport::{PeerIdentity, UserName, peer},
};
use tonic::{Request, service::RoutesBuilder};

use crate::{answers::Call, core::Core, error::MetadataError, zones::source::EdekSource};

/// Serves all services over one core.
pub(crate) struct Api<S, E> {
    core: Arc<Core<S, E>>,
}

impl<S, E> Clone for Api<S, E> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

impl<S: Store, E: EdekSource> Api<S, E> {
    /// The call as its repeats are known by.
    fn call(
        &self,
        what: &'static str,
        user: &UserName,
        id: &[u8],
        message: &impl Message,
    ) -> Result<Call, MetadataError> {
        Call::of(what, user, id, message, self.core.clock.now_ms())
    }
}

/// Adds the services of a core to `routes`.
pub(crate) fn add<S: Store, E: EdekSource>(core: &Arc<Core<S, E>>, routes: &mut RoutesBuilder) {
    let api = Api { core: Arc::clone(core) };
    routes
        .add_service(
            NamespaceServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            FilesServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ZonesServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            JobsServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ClusterServer::new(api)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
}

/// The user who asks. Services have no business in the namespace.
fn user<T>(request: &Request<T>, what: &'static str) -> Result<UserName, MetadataError> {
    match peer(request)?.0 {
        PeerIdentity::User(name) => Ok(name),
        service => Err(MetadataError::Denied {
            who: service.short(),
            what,
            remedy: "only users may; use a user's certificate",
        }),
    }
}

fn mode(bits: u32) -> Result<u32, MetadataError> {
    if bits <= 0o7777 {
        return Ok(bits);
    }
    Err(MetadataError::Field {
        field: "mode",
        rule: "at most 0o7777".to_owned(),
    })
}

fn parse(path: &[u8]) -> Result<ZonePath, MetadataError> {
    Ok(ZonePath::parse(path)?)
}

fn field(field: &'static str, rule: &str) -> MetadataError {
    MetadataError::Field {
        field,
        rule: rule.to_owned(),
    }
}

fn file_id(bytes: &[u8]) -> Result<FileId, MetadataError> {
    Ok(bytes.try_into()?)
}

fn optional_id(bytes: &[u8]) -> Result<Option<FileId>, MetadataError> {
    Some(bytes).filter(|id| !id.is_empty()).map(file_id).transpose()
}

/// A page size from the wire, where 0 means `default` and more than `max` is cut.
fn page_limit(wire: u32, default: usize, max: usize) -> usize {
    match usize::try_from(wire).unwrap_or(max) {
        0 => default,
        limit => limit.min(max),
    }
}
