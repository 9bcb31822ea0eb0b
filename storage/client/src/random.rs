use crate::FsError;

/// Bytes from the operating system's generator, through aws-lc's.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], FsError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| FsError::Machine {
        what: "random number generator",
    })?;
    Ok(bytes)
}

/// A number to spread load with. Nothing secret hangs on it, so a failed generator only spreads less.
pub(crate) fn spread() -> usize {
    bytes::<4>().map_or(0, |bytes| u32::from_le_bytes(bytes) as usize)
}
