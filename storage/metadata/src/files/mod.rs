//! Files: written invisibly under a lease, shown by their commit, read under a capability, and rewritten in place.

pub(crate) mod blocks;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod lease;
pub(crate) mod manifest;
pub(crate) mod read;
pub(crate) mod reopen;
pub(crate) mod rewrite;

/// Plaintext bytes of a full block.
pub(crate) const BLOCK_BYTES: u32 = 4 << 20;
/// What suite `gcm` adds to each frame (NIST SP 800-38D, the longest tag).
const TAG_BYTES: u32 = 16;

/// Ciphertext bytes of a block of `plain` bytes in frames of `frame_bytes`.
pub(crate) const fn sealed_bytes(plain: u32, frame_bytes: u32) -> u32 {
    plain + plain.div_ceil(frame_bytes) * TAG_BYTES
}
