//! Encryption zones: making and listing them, their stock of EDEKs, and proofs of what they use.

pub(crate) mod adopt;
pub(crate) mod create;
pub(crate) mod prove;
pub(crate) mod source;
pub(crate) mod stock;
pub(crate) mod view;
