//! A DEK in the worker's memory.

use aws_lc_rs::{constant_time, digest};
use zeroize::Zeroizing;

/// Bytes of [`Dek::check`].
pub(super) const CHECK_BYTES: usize = 8;

const CHECK_DOMAIN: &[u8] = b"strongroom/dek-check/v1";

/// A DEK in the clear. Zeroed when dropped.
pub(super) struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    pub(super) const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// For what the suites compute with it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// For the answer to an unwrap call, and for nothing else.
    pub(super) fn into_wire(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    /// Whether two DEKs are equal, in time that does not depend on where they differ.
    pub(super) fn equals(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// The first 8 bytes of SHA-256("strongroom/dek-check/v1" ‖ DEK): tells a DEK from what a failing token makes of it.
    pub(super) fn check(&self) -> [u8; CHECK_BYTES] {
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(CHECK_DOMAIN);
        digest.update(&self.0);
        let digest = digest.finish();
        *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }
}

impl std::fmt::Debug for Dek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dek(withheld)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dek_does_not_show() {
        let dek = Dek::new(Zeroizing::new(vec![0xa5; 32]));
        assert_eq!(format!("{dek:?}"), "Dek(withheld)");
    }

    /// `printf 'strongroom/dek-check/v1' | cat - <(head -c 32 /dev/zero) | sha256sum`
    #[test]
    fn the_check_is_the_documented_digest() {
        let dek = Dek::new(Zeroizing::new(vec![0; 32]));
        assert_eq!(hex::encode(dek.check()), "43a3227d3b97558c");
    }
}
