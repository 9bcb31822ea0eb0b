//! Encryption zones: making and listing them, and their stock of EDEKs.

pub(crate) mod create;
pub(crate) mod source;
pub(crate) mod stock;
pub(crate) mod view;
