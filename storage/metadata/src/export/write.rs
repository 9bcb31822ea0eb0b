//! Out of a store into a file: all records of one snapshot.

use std::{io::Write, path::Path};

use bytes::Bytes;
use strongroom_kv::{Reader, Store};

use super::{
    ExportError, Summary, failed,
    file::{Tally, header},
};
use crate::{
    MetadataError,
    schema::{access, keys},
};

/// Records read at once.
const PAGE: usize = 1000;

/// Writes the namespace in `store` as it is now.
pub(super) async fn write(
    store: &impl Store,
    out: &mut impl Write,
    path: &Path,
    now_ms: u64,
) -> Result<Summary, ExportError> {
    let mut view = store.snapshot().await?;
    check_format(&view.get(&keys::format()).await?.ok_or(ExportError::Empty)?)?;
    let header = header(now_ms);
    let mut tally = Tally::new(&header);
    out.write_all(&header).map_err(failed("write", path))?;
    let mut pages = Pages::default();
    while let Some(page) = pages.next(&mut view).await? {
        for (key, value) in page.iter().filter(|(key, _)| keys::is_moved(key)) {
            out.write_all(&tally.record(key, value)?)
                .map_err(failed("write", path))?;
        }
    }
    let (end, summary) = tally.end();
    out.write_all(&end).map_err(failed("write", path))?;
    Ok(summary)
}

fn check_format(stored: &[u8]) -> Result<(), ExportError> {
    let known = keys::FORMAT_VERSION;
    if stored == known.to_be_bytes() {
        return Ok(());
    }
    let found =
        <[u8; 4]>::try_from(stored).map_or_else(|_| hex::encode(stored), |found| u32::from_be_bytes(found).to_string());
    Err(ExportError::StoreFormat { found, known })
}

/// All records of a store, in pages.
#[derive(Default)]
pub(super) struct Pages {
    after: Option<Bytes>,
    over: bool,
}

impl Pages {
    pub(super) async fn next(&mut self, view: &mut impl Reader) -> Result<Option<Vec<(Bytes, Bytes)>>, MetadataError> {
        if self.over {
            return Ok(None);
        }
        let range = match &self.after {
            Some(after) => keys::everything().after(after),
            None => keys::everything(),
        };
        let page = access::page(view, &range, PAGE).await?;
        self.over = page.len() < PAGE;
        self.after = page.last().map(|(key, _)| key.clone());
        Ok(Some(page))
    }
}
