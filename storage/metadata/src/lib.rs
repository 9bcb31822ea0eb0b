//! The metadata service: namespace, zones, EDEKs and placement. It never sees a DEK or a byte of a file.
//!
//! - `schema`: what is stored under which key; `docs/formats/metadata-store.md` has it byte for byte.
//! - `namespace`: paths, directories, rename, removal.
//! - `files`: written under a lease, shown by their commit, read under a capability.
//! - `zones`: encryption zones and their stock of EDEKs.
//! - `reencrypt`: every EDEK of a zone under the newest key version.
//! - `trash`: where removals leave what is to be kept for a while.
//! - `cluster`: block nodes, placement, repair.
//! - `api`: the gRPC faces over all of these.
//!
//! All state that matters is in the store, changed in transactions; what is in memory (stock, nodes, commands)
//! can be lost at any time.

mod answers;
mod api;
mod authority;
mod cluster;
mod config;
mod core;
mod duty;
mod error;
mod export;
mod files;
mod fsck;
mod jobs;
mod kms;
#[cfg(test)]
mod meddled;
mod namespace;
#[cfg(test)]
mod planted;
mod quota;
mod reencrypt;
mod run;
mod schema;
mod service;
mod transfer;
mod trash;
mod zones;

pub use authority::Authority;
pub use cluster::key::KeyError;
pub use config::{Config, Settings};
pub use core::OpenError;
pub use error::MetadataError;
pub use export::{ExportError, Summary, export, import};
pub use run::{RunError, run};
pub use service::{Service, StartError};
pub use strongroom_proto::Clock;
pub use zones::source::{EdekSource, Minted, Rewrapped, Transferred};
