use std::{fmt, str::FromStr};

use crate::{ParseError, limits};

/// Plaintext bytes of a frame of data suite `gcm`: a power of two from 4 KiB to 1 MiB, 64 KiB unless somebody chose
/// otherwise. Fixed per zone; `docs/performance.md` says what each costs. Written `64KiB`, `1MiB` or in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameSize(u32);

const WHAT: &str = "frame size";
const RULE: &str = "a power of two from 4KiB to 1MiB";

impl FrameSize {
    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The smallest size.
    pub const MIN: Self = Self(limits::FRAME_BYTES_MIN);

    /// A size as messages and records carry it: in bytes, or 0 for what is usual.
    ///
    /// # Errors
    /// [`ParseError`] if frames cannot have that size.
    pub fn from_wire(bytes: u32) -> Result<Self, ParseError> {
        if bytes == 0 {
            return Ok(Self::default());
        }
        Self::allowed(bytes).ok_or_else(|| ParseError::new(WHAT, &bytes.to_string(), RULE))
    }

    fn allowed(bytes: u32) -> Option<Self> {
        let within = (limits::FRAME_BYTES_MIN..=limits::FRAME_BYTES_MAX).contains(&bytes);
        (bytes.is_power_of_two() && within).then_some(Self(bytes))
    }
}

impl Default for FrameSize {
    fn default() -> Self {
        Self(64 << 10)
    }
}

impl FromStr for FrameSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (number, unit) = match text.strip_suffix("iB").map(|text| text.split_at(text.len().max(1) - 1)) {
            Some((number, "K")) => (number, 1 << 10),
            Some((number, "M")) => (number, 1 << 20),
            _ => (text, 1),
        };
        let bytes = number.parse::<u32>().ok().and_then(|count| count.checked_mul(unit));
        bytes
            .and_then(Self::allowed)
            .ok_or_else(|| ParseError::new(WHAT, text, RULE))
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            mib if mib >= 1 << 20 => write!(f, "{}MiB", mib >> 20),
            kib => write!(f, "{}KiB", kib >> 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_between_the_limits_are_sizes_and_nothing_else_is() {
        for bits in 12..=20 {
            let size = FrameSize::from_wire(1 << bits).expect("a size");
            assert_eq!(size.bytes(), 1 << bits);
            assert_eq!(size.to_string().parse(), Ok(size));
            assert_eq!(size.bytes().to_string().parse(), Ok(size));
        }
        for bytes in [1, 2048, 4095, 4097, 12 << 10, 2 << 20, u32::MAX] {
            assert!(FrameSize::from_wire(bytes).is_err(), "{bytes}");
            assert!(bytes.to_string().parse::<FrameSize>().is_err(), "{bytes}");
        }
        for text in [
            "",
            "iB",
            "KiB",
            "64",
            "64K",
            "64 KiB",
            "64kib",
            "-4KiB",
            "2KiB",
            "2MiB",
            "4194305KiB",
            "é",
        ] {
            let refusal = text.parse::<FrameSize>().expect_err("not a size").to_string();
            assert!(refusal.contains("power of two from 4KiB to 1MiB"), "{refusal}");
        }
    }

    #[test]
    fn what_is_not_said_is_the_usual() {
        assert_eq!(FrameSize::from_wire(0), "64KiB".parse());
    }
}
