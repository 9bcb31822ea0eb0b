//! From when until when a certificate holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::CertificateParams;
use time::OffsetDateTime;

use crate::PkiError;

/// How long before now a new certificate is valid already, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// From when until when a certificate holds, both ends included, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// For `lifetime` from `now` on, and for the hour before: clocks differ.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        Self {
            not_before: now - BACKDATE,
            not_after: now + lifetime,
        }
    }

    /// Sets the dates of what is to be signed for `subject`.
    pub(crate) fn apply(&self, params: &mut CertificateParams, subject: &str) -> Result<(), PkiError> {
        let (Some(not_before), Some(not_after)) = (date(self.not_before), date(self.not_after)) else {
            return Err(PkiError::Validity {
                subject: subject.to_owned(),
                not_before_s: seconds(self.not_before),
                not_after_s: seconds(self.not_after),
            });
        };
        params.not_before = not_before;
        params.not_after = not_after;
        Ok(())
    }
}

/// Seconds since 1970, 0 also for times before.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time that fits a certificate: up to the year 9999 (RFC 5280 section 4.1.2.5).
fn date(at: SystemTime) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(seconds(at)).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}
