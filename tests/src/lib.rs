//! Fixtures for journeys across real processes: a whole Strongroom in a directory of its own, tokens,
//! certificates good and bad, the executable, and the key service in a container.
//!
//! A fixture that cannot be had (no SoftHSM2, no Docker) fails its test with the remedy; it never skips it.
//! What a fixture started ends when it is dropped.

#![allow(clippy::missing_panics_doc, reason = "a fixture that cannot be had fails its test")]

mod bin;
mod cli;
mod dev;
mod kms_container;
mod kms_process;
mod metadata_site;
mod pki;
mod poll;
mod rpc;
mod softhsm;
mod tree;

pub use bin::strongroom;
pub use cli::{Cli, Outcome};
pub use dev::{BLOCK_NODES, Dev, DevBuilder, Refused};
pub use kms_container::KmsContainer;
pub use kms_process::{KmsProcess, KmsSite};
pub use metadata_site::{MetadataSite, RoleProcess};
pub use pki::{Ca, Validity};
pub use poll::{until, until_async};
pub use rpc::{Unwrapped, create_key, describe_key, mint, roll_key, unwrap};
pub use softhsm::SoftHsm;
pub use tree::{Bytes, seed};
