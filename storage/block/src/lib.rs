//! The block node: immutable blocks of ciphertext on local disks.
//!
//! A node stores what a capability of the metadata service lets a client write, forwards it along the chain of
//! replicas, answers reads with verified bytes or an error, and reports to the metadata service every second.
//! It has no key and no name of a file: it cannot tell what it stores.

mod api;
mod authority;
mod config;
mod forward;
mod gate;
mod heartbeat;
mod news;
mod server;
mod store;
mod survey;

pub use config::Config;
pub use server::{Member, RunError, run, serve};
pub use store::{
    BlockContent, BlockFile, BlockStore, Checked, Engine, Expected, Found, Lacking, OpenError, Part, Position, Sealed,
    StoreError, Survey, Usage,
};
