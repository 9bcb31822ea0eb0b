//! The gRPC faces. Each call finds out who asks, parses every field into a typed value, and hands over to the core.

mod cluster;
mod files;
mod fsck;
mod jobs;
mod namespace;
mod raw;
mod transfers;
mod trash;
mod zones;

use std::{str::FromStr, sync::Arc};

use prost::Message;
use strongroom_kv::Store;
use strongroom_proto::{
    FileId, ParseError, ZonePath,
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{
        cluster_server::ClusterServer, files_server::FilesServer, fsck_server::FsckServer, jobs_server::JobsServer,
        namespace_server::NamespaceServer, raw_server::RawServer, transfers_server::TransfersServer,
        trash_server::TrashServer, zones_server::ZonesServer,
    },
    transport::{PeerIdentity, UserName, peer},
};
use tonic::{Request, service::RoutesBuilder};

use crate::{
    answers::Call, authority::Caller, core::Core, error::MetadataError, namespace::directories::Mode,
    zones::source::EdekSource,
};

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
    /// The user who asks. Services have no business in the namespace.
    fn caller<T>(&self, request: &Request<T>, what: &'static str) -> Result<Caller, MetadataError> {
        Ok(self.core.authority.caller(user_name(request, what)?))
    }

    /// The user who asks, if it is a superuser.
    fn superuser<T>(&self, request: &Request<T>, what: &'static str) -> Result<Caller, MetadataError> {
        let caller = self.caller(request, what)?;
        if caller.superuser {
            return Ok(caller);
        }
        Err(MetadataError::Denied {
            who: format!("user {}", caller.name),
            what,
            remedy: "the superusers in the metadata service's configuration may",
        })
    }

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
            RawServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            JobsServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            TransfersServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            TrashServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            FsckServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ClusterServer::new(api)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
}

fn user_name<T>(request: &Request<T>, what: &'static str) -> Result<UserName, MetadataError> {
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
    Err(field("mode", "at most 0o7777"))
}

fn new_mode(bits: u32, umask: u32) -> Result<Mode, MetadataError> {
    if umask <= 0o777 {
        return Ok(Mode {
            bits: mode(bits)?,
            umask,
        });
    }
    Err(field("umask", "at most 0o777"))
}

/// A path that callers may name: what is below `/.reserved` is the service's own, as in HDFS.
fn parse(path: &[u8]) -> Result<ZonePath, MetadataError> {
    let path = ZonePath::parse(path)?;
    if path.names().next() == Some(".reserved") {
        return Err(MetadataError::Reserved(path));
    }
    Ok(path)
}

/// A value that is not given if it is empty.
fn given<T>(text: &str) -> Result<Option<T>, MetadataError>
where
    T: FromStr<Err = ParseError>,
{
    let text = Some(text).filter(|text| !text.is_empty());
    Ok(text.map(str::parse).transpose()?)
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
