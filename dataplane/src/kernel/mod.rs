//! AES-CTR kernels: one instruction set per file. The only place of this crate with `unsafe`.
//!
//! A kernel is a safe `#[target_feature]` function. Unsafe are the calls into one, each proven by the [`Backend`] it is
//! called for, and the reads and writes of vectors, each proven by the type of what it is given. Everything secret moves
//! through instructions whose time does not depend on it; table indices are bytes of the counter, which is public.
//!
//! [`Backend`]: crate::Backend

#![allow(
    unsafe_code,
    reason = "the instructions that make AES fast; each block has its proof"
)]

mod portable;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only kernels of our own cut vectors")
)]
mod text;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// The kernels of the processor that this is compiled for.
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

/// Where there are no kernels of our own, RustCrypto's `aes` brings what there is (ARMv8's instructions on aarch64).
#[cfg(not(target_arch = "x86_64"))]
use portable as native;

pub(crate) use native::{Engine, detect};
pub use text::Direction;
pub(crate) use text::Text;

/// The sets of instructions that there are kernels for, from slow to fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Tier {
    Portable,
    AesNi,
    Vaes256,
    Vaes512,
}
