//! When a key is to be rolled by itself. Pure: the time is an argument.
//!
//! The due time is stored with the key and moves on in the transaction that makes the new version. A roll that is due
//! has a request id that follows from key and due time, so that of all attempts, before and after a crash and in
//! several instances, one makes a version.

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_proto::{Failure, KeyName, Reason, RequestId};

/// The longest period, ten years.
const PERIOD_MS_MAX: u64 = 3653 * 24 * 3600 * 1000;
/// Rolls that are due at once are spread over this part of the period, and at most over an hour.
const JITTER_PARTS: u64 = 20;
const JITTER_MS_MAX: u64 = 3600 * 1000;

/// A key's rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// From one roll to the next.
    pub(crate) period_ms: u64,
    /// When the next one is due, in milliseconds since 1970.
    pub(crate) due_ms: u64,
}

impl Rotation {
    /// A rotation that is next due a period after `now_ms`.
    pub(crate) fn starting(period_ms: u64, now_ms: u64) -> Self {
        Self {
            period_ms,
            due_ms: now_ms.saturating_add(period_ms),
        }
    }

    /// When the roll that is due is made: a little later, and not at the same time as that of other keys.
    pub(crate) fn starts_ms(&self, name: &KeyName) -> u64 {
        let spread = (self.period_ms / JITTER_PARTS).min(JITTER_MS_MAX);
        let draw = u64::from_be_bytes(self.words(name)[..8].try_into().unwrap_or_default());
        self.due_ms.saturating_add(draw % (spread + 1))
    }

    /// Whether the roll is to be made at `now_ms`.
    pub(crate) fn is_due(&self, name: &KeyName, now_ms: u64) -> bool {
        self.due_ms <= now_ms && self.starts_ms(name) <= now_ms
    }

    /// The request id of the roll that is due.
    pub(crate) fn request(&self, name: &KeyName) -> RequestId {
        RequestId::from_bytes(self.words(name)[16..].try_into().unwrap_or_default())
    }

    fn words(&self, name: &KeyName) -> [u8; 32] {
        let domain: &[u8] = b"strongroom/rotation/v1";
        let text = [domain, &[0], name.as_str().as_bytes(), &[0], &self.due_ms.to_be_bytes()].concat();
        let mut words = [0; 32];
        words.copy_from_slice(digest(&SHA256, &text).as_ref());
        words
    }
}

/// Checks a period; 0 means none.
pub(crate) fn period(period_ms: u64, period_ms_min: u64) -> Result<Option<u64>, Failure> {
    match period_ms {
        0 => Ok(None),
        ms if (period_ms_min..=PERIOD_MS_MAX).contains(&ms) => Ok(Some(ms)),
        ms => Err(Failure::new(
            Reason::InvalidArgument,
            format!(
                "a rotation period is {} seconds to 3653 days, not {} seconds",
                period_ms_min / 1000,
                ms / 1000
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_has_one_request_id_and_a_bounded_delay() {
        let name: KeyName = "payroll".parse().expect("a key name");
        let rotation = Rotation::starting(86_400_000, 5);
        assert_eq!(rotation.request(&name), rotation.request(&name));
        let next = Rotation::starting(86_400_000, rotation.due_ms);
        assert_ne!(rotation.request(&name), next.request(&name));
        let other: KeyName = "payrol".parse().expect("a key name");
        assert_ne!(rotation.request(&name), rotation.request(&other));
        let delay = rotation.starts_ms(&name) - rotation.due_ms;
        assert!(delay <= 3_600_000, "{delay}");
        assert_eq!(Rotation::starting(10, 0).starts_ms(&name), 10);
    }

    #[test]
    fn periods_have_bounds() {
        assert_eq!(period(0, 1000), Ok(None));
        assert_eq!(period(1000, 1000), Ok(Some(1000)));
        for ms in [999, PERIOD_MS_MAX + 1] {
            assert_eq!(
                period(ms, 1000).expect_err("out of bounds").reason,
                Reason::InvalidArgument
            );
        }
    }
}
