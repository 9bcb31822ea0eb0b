use std::hash::{BuildHasher, RandomState};

use crate::FsError;

/// Bytes from the operating system's generator, through aws-lc's.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], FsError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| FsError::Machine {
        what: "random number generator",
    })?;
    Ok(bytes)
}

/// A number to spread load with. RandomState is seeded by the system; spreading needs no more than that.
pub(crate) fn spread() -> usize {
    RandomState::new().hash_one(0) as usize
}
