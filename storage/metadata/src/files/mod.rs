//! Files: written invisibly under a lease, shown by their commit, read under a capability, and rewritten in place.

pub(crate) mod blocks;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod lease;
pub(crate) mod manifest;
pub(crate) mod raw;
pub(crate) mod read;
pub(crate) mod reopen;
pub(crate) mod rewrite;
pub(crate) mod suite;

/// Plaintext bytes of a full block.
pub(crate) const BLOCK_BYTES: u32 = 4 << 20;
