//! From a file into an empty store. A mark in the store says which export is being read and how far; the record that makes a
//! store a namespace, its format, is written last, when all the rest was read back and is right.

use std::{
    io::{Read, Seek},
    path::Path,
};

use strongroom_kv::{Store, Txn};

use super::{
    ExportError, Summary,
    file::{HEADER_BYTES, Record, Records, Tally},
    write::Pages,
};
use crate::{
    MetadataError,
    schema::{access, access::transact, keys, records},
};

/// Records and their bytes in one transaction.
const RECORDS_PER_COMMIT: usize = 1000;
const BYTES_PER_COMMIT: usize = 4 << 20;

/// Writes what `file` holds, which was verified to be what `summary` says.
pub(super) async fn import<R: Read + Seek>(
    store: &impl Store,
    file: &mut R,
    path: &Path,
    summary: &Summary,
) -> Result<(), ExportError> {
    let sha256 = summary.sha256.clone();
    let done = match transact!(store, [sha256], |txn| begin(txn, &sha256)).await? {
        Start::Here { after } => after,
        Start::Over => {
            // Its end may have been cut off from whoever waited for it. Unless somebody worked with the store since, it is right.
            let header = Records::open(file, path)?.header;
            let same = digest(store, &header).await? == sha256;
            return if same { Ok(()) } else { Err(ExportError::NotEmpty) };
        }
        Start::NotEmpty => return Err(ExportError::NotEmpty),
        Start::Other { begun } => return Err(ExportError::OtherImport { begun }),
    };
    let mut records = Records::open(file, path)?;
    let header = records.header;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(record) = records.next()? {
        if record.key <= done || record.key == keys::format() {
            continue;
        }
        bytes += record.key.len() + record.value.len();
        batch.push(record);
        if batch.len() == RECORDS_PER_COMMIT || bytes >= BYTES_PER_COMMIT {
            put(store, std::mem::take(&mut batch), &sha256).await?;
            bytes = 0;
        }
    }
    put(store, batch, &sha256).await?;
    finish(store, &header, &sha256).await
}

/// Where an import begins.
enum Start {
    /// Behind a key; behind none at the beginning.
    Here { after: Vec<u8> },
    /// Not at all: it was complete.
    Over,
    /// Not at all.
    NotEmpty,
    /// Not at all: another was begun.
    Other { begun: String },
}

async fn begin(txn: &mut impl Txn, sha256: &str) -> Result<Start, MetadataError> {
    if let Some(mark) = access::import(txn).await? {
        return Ok(match (mark.sha256 == sha256, mark.complete) {
            (true, true) => Start::Over,
            (true, false) => Start::Here {
                after: mark.after.to_vec(),
            },
            (false, true) => Start::NotEmpty,
            (false, false) => Start::Other { begun: mark.sha256 },
        });
    }
    if !access::page(txn, &keys::everything(), 1).await?.is_empty() {
        return Ok(Start::NotEmpty);
    }
    let mark = records::Import {
        sha256: sha256.to_owned(),
        ..records::Import::default()
    };
    access::put(txn, &keys::import(), &mark);
    Ok(Start::Here { after: Vec::new() })
}

async fn put(store: &impl Store, batch: Vec<Record>, sha256: &str) -> Result<(), MetadataError> {
    let sha256 = sha256.to_owned();
    transact!(store, [batch, sha256], |txn| put_in(txn, batch, sha256)).await
}

async fn put_in(txn: &mut impl Txn, batch: Vec<Record>, sha256: String) -> Result<(), MetadataError> {
    check_mark(txn, &sha256).await?;
    let Some(last) = batch.last() else {
        return Ok(());
    };
    let mark = records::Import {
        sha256,
        after: last.key.clone().into(),
        complete: false,
    };
    access::put(txn, &keys::import(), &mark);
    for Record { key, value } in batch {
        txn.put(&key, value);
    }
    Ok(())
}

/// Of two who import at once, one completes it; the other finds that out here.
async fn check_mark(txn: &mut impl Txn, sha256: &str) -> Result<(), MetadataError> {
    match access::import(txn).await? {
        Some(mark) if mark.sha256 == sha256 && !mark.complete => Ok(()),
        _ => Err(MetadataError::Corrupt { what: "import" }),
    }
}

/// Reads everything back, and makes the store a namespace if it is the export's.
async fn finish(store: &impl Store, header: &[u8; HEADER_BYTES], sha256: &str) -> Result<(), ExportError> {
    let found = digest(store, header).await?;
    if found != sha256 {
        return Err(ExportError::Mismatch {
            found,
            expected: sha256.to_owned(),
        });
    }
    let sha256 = sha256.to_owned();
    Ok(transact!(store, [sha256], |txn| complete(txn, sha256)).await?)
}

/// The SHA-256 that an export of the store would have, with that header. The format counts also where it is still to be
/// written.
async fn digest(store: &impl Store, header: &[u8; HEADER_BYTES]) -> Result<String, MetadataError> {
    let format = keys::format();
    let mut tally = Tally::new(header);
    let mut view = store.snapshot().await?;
    let (mut pages, mut formatted) = (Pages::default(), false);
    while let Some(page) = pages.next(&mut view).await? {
        for (key, value) in page.iter().filter(|(key, _)| keys::is_moved(key)) {
            if !formatted && key.as_ref() >= format.as_slice() {
                formatted = true;
                if key.as_ref() != format.as_slice() {
                    tally.record(&format, &keys::FORMAT_VERSION.to_be_bytes())?;
                }
            }
            tally.record(key, value)?;
        }
    }
    if !formatted {
        tally.record(&format, &keys::FORMAT_VERSION.to_be_bytes())?;
    }
    Ok(tally.end().1.sha256)
}

async fn complete(txn: &mut impl Txn, sha256: String) -> Result<(), MetadataError> {
    check_mark(txn, &sha256).await?;
    txn.put(&keys::format(), keys::FORMAT_VERSION.to_be_bytes().to_vec());
    let mark = records::Import {
        sha256,
        complete: true,
        ..records::Import::default()
    };
    access::put(txn, &keys::import(), &mark);
    Ok(())
}
