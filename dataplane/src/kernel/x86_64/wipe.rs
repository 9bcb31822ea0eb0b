use std::arch::x86_64::__m128i;

use zeroize::Zeroize;

/// Overwrites key material, sixteen bytes at a time: `zeroize` writes each element on its own, which takes a table of bytes
/// longer than filling it did.
pub(super) fn wipe(bytes: &mut [u8]) {
    // SAFETY: any sixteen bytes are a vector, and any vector is sixteen bytes.
    let (head, vectors, tail) = unsafe { bytes.align_to_mut::<__m128i>() };
    head.zeroize();
    vectors.iter_mut().for_each(Zeroize::zeroize);
    tail.zeroize();
}
