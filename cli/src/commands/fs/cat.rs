//! `fs cat`: bytes of files to standard output.

use std::io::{self, Write as _};

use strongroom_fs::{FileReader, ZoneFs};
use strongroom_proto::ZonePath;

use super::for_each;
use crate::{error::Error, output::Output, transfer::blocking};

/// Writes `length` bytes from `offset` of each file, or all that follow.
pub(super) async fn run(
    fs: &ZoneFs,
    paths: &[ZonePath],
    offset: u64,
    length: Option<u64>,
    output: Output,
) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let reader = fs.open(path).await?;
        copy(reader, offset, length.unwrap_or(u64::MAX)).await
    })
    .await
}

/// Writes pieces as they come, cut at `left` bytes.
async fn copy(reader: FileReader, offset: u64, mut left: u64) -> Result<(), Error> {
    if left == 0 || offset >= reader.len() {
        return Ok(());
    }
    let mut stream = reader.stream(offset);
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        left -= take as u64;
        let piece = bytes.slice(..take);
        blocking(move || io::stdout().lock().write_all(&piece))
            .await
            .map_err(Error::Output)?;
        if left == 0 {
            break;
        }
    }
    // Standard output is line-buffered: the end of a file need not end a line.
    io::stdout().lock().flush().map_err(Error::Output)
}
