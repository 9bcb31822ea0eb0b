use zeroize::Zeroize;

/// Overwrites key material, sixteen bytes at a time: `zeroize` writes each element on its own, which takes a table of bytes
/// longer than filling it did.
pub(super) fn wipe(bytes: &mut [u8]) {
    // SAFETY: any sixteen bytes are a u128, and any u128 is sixteen bytes.
    let (head, words, tail) = unsafe { bytes.align_to_mut::<u128>() };
    head.zeroize();
    words.zeroize();
    tail.zeroize();
}
