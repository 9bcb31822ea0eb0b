//! RustCrypto's AES-CTR: constant in time on every processor, and what the other kernels are held against.

use aes::{
    Aes128, Aes256,
    cipher::{
        BlockCipherEncrypt, BlockSizeUser, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper, consts::U16,
    },
};
use ctr::{CtrCore, flavors::Ctr128BE};

use super::{Direction, Text, Tier};
use crate::{Backend, CtrKey};

/// An expanded key, which RustCrypto wipes when it is dropped, and the first counter.
pub(crate) struct Engine {
    key: Key,
    iv: u128,
}

/// Boxed, so that moving an engine leaves no copy of a key behind.
enum Key {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

/// The fastest tier there is.
pub(crate) fn detect() -> Tier {
    Tier::Portable
}

impl Engine {
    pub(crate) fn new(key: CtrKey<'_>, iv: u128, _: Backend) -> Self {
        let key = match key {
            CtrKey::Aes128(key) => Key::Aes128(Box::new(Aes128::new(key.into()))),
            CtrKey::Aes256(key) => Key::Aes256(Box::new(Aes256::new(key.into()))),
        };
        Self { key, iv }
    }

    /// Transforms `text`, whose first byte is the first of the stream's block `block`.
    pub(crate) fn apply(&self, block: u64, text: Text<'_>) {
        let counter = self.iv.wrapping_add(block.into());
        match &self.key {
            Key::Aes128(key) => apply(key.as_ref(), counter, text),
            Key::Aes256(key) => apply(key.as_ref(), counter, text),
        }
    }

    /// As [`Self::apply`] with checksums, if there is a kernel for both in one pass; here there is none.
    pub(crate) fn apply_summed(&self, _: u64, _: Text<'_>, _: Direction, _: usize, _: &mut [u32]) -> bool {
        false
    }
}

fn apply<C>(cipher: &C, counter: u128, text: Text<'_>)
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
{
    let core = CtrCore::<&C, Ctr128BE>::inner_iv_init(cipher, &counter.to_be_bytes().into());
    // Its counter wraps as ours does. The check that this leaves out is for 2^128 blocks from here on.
    StreamCipherCoreWrapper::from_core(core).unchecked_apply_keystream_inout(text.into_inout());
}
