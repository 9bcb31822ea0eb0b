//! Names in the trash: those of checkpoints, and of what comes when its own name is taken.

use strongroom_kv::Reader;
use strongroom_proto::{FileId, ZonePath, limits::NAME_BYTES_MAX};

use crate::{error::MetadataError, schema::access};

/// Names tried, one after the other, for a checkpoint (HDFS' figure) and for what is removed.
const CHECKPOINTS_TRIED: u32 = 1000;
const NAMES_TRIED: u64 = 100;
/// Digits of a checkpoint's name: two each of year, month, day, hour, minute and second, in UTC.
const DIGITS: usize = 12;

/// A name for a checkpoint made at `now_ms` that is free in `parent`: the time, and if that is taken a number behind it.
pub(super) async fn for_checkpoint(
    txn: &mut impl Reader,
    parent: FileId,
    now_ms: u64,
    path: &ZonePath,
) -> Result<String, MetadataError> {
    let base = time_name(now_ms);
    for attempt in 0..CHECKPOINTS_TRIED {
        let name = match attempt {
            0 => base.clone(),
            number => format!("{base}-{number}"),
        };
        if access::entry(txn, parent, &name).await?.is_none() {
            return Ok(name);
        }
    }
    Err(MetadataError::Exists(path.child(&base)?))
}

/// `name` with the time behind it, as HDFS does where something has that name already.
pub(super) async fn beside(
    txn: &mut impl Reader,
    parent: FileId,
    name: &str,
    now_ms: u64,
    path: &ZonePath,
) -> Result<String, MetadataError> {
    for time in now_ms..now_ms.saturating_add(NAMES_TRIED) {
        let time = time.to_string();
        let room = name.floor_char_boundary(NAME_BYTES_MAX - time.len());
        let name = format!("{}{time}", &name[..room]);
        if access::entry(txn, parent, &name).await?.is_none() {
            return Ok(name);
        }
    }
    Err(MetadataError::Exists(path.child(name)?))
}

/// Whether a name is a checkpoint's.
pub(super) fn is_checkpoint(name: &str) -> bool {
    let (time, number) = name
        .split_once('-')
        .map_or((name, None), |(time, number)| (time, Some(number)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    time.len() == DIGITS && digits(time) && number.is_none_or(digits)
}

/// `yyMMddHHmmss` in UTC.
fn time_name(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{:02}{month:02}{day:02}{:02}{:02}{:02}",
        year % 100,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The date of a day since 1970, by eras of 400 years that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 {
        march_based + 3
    } else {
        march_based - 9
    };
    (year_of_era + era * 400 + (month <= 2) as u64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_named_by_the_time_in_utc() {
        for (seconds, expected) in [
            (0, "700101000000"),
            (951_782_399, "000228235959"),
            (951_782_400, "000229000000"),
            (1_709_251_199, "240229235959"),
            (1_709_251_200, "240301000000"),
            (1_798_761_599, "261231235959"),
            (4_107_542_400, "000301000000"),
        ] {
            assert_eq!(time_name(seconds * 1000 + 999), expected);
            assert!(is_checkpoint(expected) && is_checkpoint(&format!("{expected}-17")));
        }
        for other in [
            "Current",
            "26112217300",
            "2611221730001",
            "261122173000-",
            "261122173000-a",
            "26112217300x",
            "-1",
            "",
        ] {
            assert!(!is_checkpoint(other), "{other}");
        }
    }
}
