//! The print of a PIN, by which one that was rejected is known again wherever it comes from.
//!
//! PINs are short: whoever had a digest of one, however slow, would find it by trying them all. So a print keeps 12 bits and no
//! more (`docs/adr/0022-…`). It leaves an eight-digit PIN among some 24,000 others, which no token lets anybody try, and takes
//! one PIN in 4096 for the rejected one by mistake; then the mark can be removed. The salt is the same everywhere: under salts
//! of their own the marks of several instances, or of several tokens with one PIN, would show 12 bits more each.

use std::{fmt, num::NonZeroU32};

use super::pin::Pin;

/// PBKDF2-HMAC-SHA-256 (RFC 8018): some 30 ms, once a login.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).expect("more than none");
/// Sets these prints apart from whatever else is derived from a PIN.
const SALT: &[u8] = b"strongroom/rejected-pin/v1";

/// 12 bits of a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PinPrint(u16);

impl PinPrint {
    pub(super) fn of(pin: &Pin) -> Self {
        Self(u16::from_be_bytes(pin.derive(SALT, ITERATIONS)) >> 4)
    }
}

impl fmt::Display for PinPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03x}", self.0)
    }
}
