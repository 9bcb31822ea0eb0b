//! An ordered, transactional key-value store.
//!
//! [`Store`] and [`Txn`] are what services build on; [`EmbeddedStore`] is the engine for one process. Every
//! transaction is strictly serializable: it reads from one snapshot, buffers its writes, and at its commit all
//! that it read is checked against what others committed meanwhile. Who loses gets [`CommitError::Conflict`]
//! and runs again, most simply through [`transact()`].

mod embedded;
mod error;
pub mod limits;
mod store;
mod transact;

pub use embedded::{EmbeddedStore, EmbeddedTxn, OpenError};
pub use error::{CommitError, StoreError};
pub use store::{Store, Txn};
pub use transact::transact;
