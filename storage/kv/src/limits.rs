//! Bounds of keys, values and transactions. Each is an error of its own, never a silent cut.

/// Bytes of one key.
pub const KEY_BYTES_MAX: usize = 1 << 10;

/// Bytes of one value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Puts and deletes of one transaction.
pub const WRITES_MAX: usize = 10_000;

/// Bytes of keys and values that one transaction writes.
pub const WRITE_BYTES_MAX: usize = 16 << 20;

/// Keys that are read together ([`crate::Reader::get_many`]).
pub const KEYS_TOGETHER_MAX: usize = 1_000;

/// Different keys and ranges that one transaction reads.
pub const READS_MAX: usize = 100_000;
