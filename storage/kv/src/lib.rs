//! An ordered, transactional key-value store.
//!
//! [`Store`] and [`Txn`] are what services build on; [`EmbeddedStore`] is the engine for one process,
//! [`PostgresStore`] the one for several, and [`AnyStore`] whichever a configuration names. Every
//! transaction is strictly serializable: it reads from one snapshot, buffers its writes, and at its commit all
//! that it read is checked against what others committed meanwhile. Who loses gets [`CommitError::Conflict`]
//! and runs again, most simply through [`transact()`]. What is only read is read through [`Store::snapshot`].

mod any;
mod config;
mod counter;
mod embedded;
mod error;
pub mod limits;
mod postgres;
mod queue;
mod store;
mod transact;
mod writes;

pub use any::{AnyOpenError, AnySnapshot, AnyStore, AnyTxn};
pub use config::{PostgresConfig, StoreConfig};
pub use counter::counter;
pub use embedded::{EmbeddedSnapshot, EmbeddedStore, EmbeddedTxn, OpenError};
pub use error::{CommitError, StoreError};
pub use postgres::{PostgresOpenError, PostgresSnapshot, PostgresStore, PostgresTxn};
pub use store::{Reader, Store, Txn};
pub use transact::transact;
