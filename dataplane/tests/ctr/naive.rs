//! AES-CTR as its definition reads, a block at a time, and the backends that this machine must have.

use aes::{
    Aes128, Aes256,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use strongroom_dataplane::{Backend, Ctr, CtrKey};

pub(crate) const KEY_256: [u8; 32] = *b"a key of thirty-two bytes, AES-2";
pub(crate) const KEY_128: [u8; 16] = *b"a key of sixteen";

/// Keys of both sizes.
pub(crate) fn keys() -> [CtrKey<'static>; 2] {
    [CtrKey::Aes128(&KEY_128), CtrKey::Aes256(&KEY_256)]
}

/// The keystream from the start of block `first` on.
pub(crate) fn keystream(key: CtrKey<'_>, iv: u128, first: u64, bytes: usize) -> Vec<u8> {
    let blocks = (0..bytes.div_ceil(16)).map(|i| iv.wrapping_add(first.into()).wrapping_add(i as u128));
    let mut stream: Vec<u8> = match key {
        CtrKey::Aes128(key) => blocks
            .flat_map(|counter| encrypt(&Aes128::new(key.into()), counter))
            .collect(),
        CtrKey::Aes256(key) => blocks
            .flat_map(|counter| encrypt(&Aes256::new(key.into()), counter))
            .collect(),
    };
    stream.truncate(bytes);
    stream
}

fn encrypt<C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>>(cipher: &C, counter: u128) -> [u8; 16] {
    let mut block = counter.to_be_bytes().into();
    cipher.encrypt_block(&mut block);
    block.into()
}

pub(crate) fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

/// Bytes that differ from their neighbours.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|p| (p.wrapping_mul(0x9e37) >> 5) as u8).collect()
}

/// Every backend of this machine. Fails if one is missing that the kernel's list of the processor's flags promises, so that
/// a test over all of them cannot pass by having nothing to do.
pub(crate) fn backends() -> Vec<Backend> {
    let backends: Vec<Backend> = Backend::all().collect();
    let names: Vec<&str> = backends.iter().map(|backend| backend.name()).collect();
    assert_eq!(names, promised(), "backends against /proc/cpuinfo");
    backends
}

/// What the flags of `/proc/cpuinfo` promise, read without the library under test; or, under an emulator that has other
/// instructions than the machine, the flags that `TEST_CPU_FLAGS` holds.
fn promised() -> Vec<&'static str> {
    let flags = std::env::var("TEST_CPU_FLAGS").unwrap_or_else(|_| kernels_flags());
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let wanted: [(&str, &[&str]); 4] = [
        ("portable", &[]),
        ("aes-ni", &["aes", "ssse3"]),
        ("vaes256", &["aes", "ssse3", "avx2", "vaes"]),
        (
            "vaes512",
            &[
                "aes",
                "ssse3",
                "avx2",
                "vaes",
                "avx512f",
                "avx512bw",
                "pclmulqdq",
                "sse4_2",
            ],
        ),
    ];
    let has = |needed: &[&str]| needed.iter().all(|flag| flags.contains(flag));
    wanted
        .iter()
        .filter(|(_, needed)| has(needed))
        .map(|(name, _)| *name)
        .collect()
}

fn kernels_flags() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("Linux describes its processors");
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.unwrap_or_default().into()
}

/// A keystream that has or has not yet seen enough bytes to have a table.
pub(crate) fn ctr(key: CtrKey<'_>, iv: u128, backend: Backend, warm: bool) -> Ctr {
    let ctr = Ctr::with_backend(key, &iv.to_be_bytes(), backend);
    if warm {
        ctr.apply(0, &mut [0; 16 << 10]).expect("a small position");
    }
    ctr
}
