//! The key service: EZ keys in a PKCS#11 token, policy, audit and its faces.
//!
//! A call goes through the folders in this order: `api` (parse, authorize, audit, answer), [`policy`]
//! (who may do what), `keys` (what versions exist and what each may do), [`hsm`] (what is asked of the
//! tokens), [`fleet`] (which of them does it). The service never loads a PKCS#11 library: a [`token`] is another process.

mod api;
pub mod audit;
mod batch;
mod bearer;
mod clock;
mod config;
pub mod fleet;
pub mod hsm;
mod keeper;
mod keys;
mod memory;
mod ops;
pub mod policy;
mod service;
pub mod token;

pub use bearer::{BearerConfig, BearerError};
pub use clock::Clock;
pub use config::{Config, InstancesConfig, KeysConfig};
pub use keys::KeysError;
pub use ops::{MetricsConfig, TracesConfig};
pub use service::{RunError, run, serve, serve_at};
