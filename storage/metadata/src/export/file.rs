//! The file of an export, as `docs/formats/metadata-export.md` has it.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use strongroom_kv::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::{ExportError, Summary, failed};
use crate::{
    MetadataError,
    schema::{access, keys, records},
};

/// The first bytes of an export.
const MAGIC: [u8; 8] = *b"SRMETAEX";
/// The format that this release writes and reads.
const FORMAT: u32 = 1;
/// Bytes before the first record: magic, format, format of the store, time.
pub(super) const HEADER_BYTES: usize = 24;
const DIGEST_BYTES: usize = 32;

/// The bytes of an export as they come, hashed and counted. Whoever writes, reads or checks one does it through this.
pub(super) struct Tally {
    context: Context,
    summary: Summary,
}

impl Tally {
    pub(super) fn new(header: &[u8; HEADER_BYTES]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(header);
        Self {
            context,
            summary: Summary::default(),
        }
    }

    /// Counts a record; its bytes in the file.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, MetadataError> {
        let mut bytes = Vec::with_capacity(6 + key.len() + value.len());
        let key_bytes = u16::try_from(key.len()).map_err(|_| MetadataError::Corrupt { what: "key" })?;
        let value_bytes = u32::try_from(value.len()).map_err(|_| MetadataError::Corrupt { what: "value" })?;
        bytes.extend_from_slice(&key_bytes.to_be_bytes());
        bytes.extend_from_slice(&value_bytes.to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        self.context.update(&bytes);
        self.count(key, value)?;
        Ok(bytes)
    }

    fn count(&mut self, key: &[u8], value: &[u8]) -> Result<(), MetadataError> {
        let summary = &mut self.summary;
        summary.records += 1;
        summary.bytes += (key.len() + value.len()) as u64;
        match keys::kind(key) {
            Some(keys::Kind::Entry) => {
                let entry: records::Entry = access::decode(value.to_vec().into(), "directory entry")?;
                if entry.is_directory() {
                    summary.directories += 1;
                } else {
                    summary.files += 1;
                }
            }
            Some(keys::Kind::OpenFile) => summary.open_files += 1,
            Some(keys::Kind::Zone) => summary.zones += 1,
            None => {}
        }
        Ok(())
    }

    /// What comes after the last record: a key of no bytes, the count, and the digest of all before it.
    pub(super) fn end(mut self) -> (Vec<u8>, Summary) {
        let mut bytes = vec![0, 0];
        bytes.extend_from_slice(&self.summary.records.to_be_bytes());
        self.context.update(&bytes);
        let digest = self.context.finish();
        bytes.extend_from_slice(digest.as_ref());
        self.summary.sha256 = hex::encode(digest.as_ref());
        (bytes, self.summary)
    }
}

/// The header of an export that is made at `now_ms`.
pub(super) fn header(now_ms: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_be_bytes());
    header[12..16].copy_from_slice(&keys::FORMAT_VERSION.to_be_bytes());
    header[16..].copy_from_slice(&now_ms.to_be_bytes());
    header
}

/// One record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The records of an export in order.
pub(super) struct Records<'f, R> {
    file: &'f mut R,
    path: &'f Path,
    pub(super) header: [u8; HEADER_BYTES],
    last: Vec<u8>,
}

impl<'f, R: Read + Seek> Records<'f, R> {
    /// Begins at the start of the file.
    pub(super) fn open(file: &'f mut R, path: &'f Path) -> Result<Self, ExportError> {
        file.seek(SeekFrom::Start(0)).map_err(failed("read", path))?;
        let mut records = Self {
            file,
            path,
            header: [0; HEADER_BYTES],
            last: Vec::new(),
        };
        records.header = records.fixed()?;
        if records.header[..8] != MAGIC {
            return Err(records.damaged("it does not begin as one"));
        }
        let [found, store] = [8, 12].map(|at| {
            let word = records.header[at..at + 4].try_into();
            u32::from_be_bytes(word.unwrap_or_default())
        });
        if (found, store) == (FORMAT, keys::FORMAT_VERSION) {
            return Ok(records);
        }
        Err(ExportError::Format {
            found,
            store,
            known: FORMAT,
            known_store: keys::FORMAT_VERSION,
        })
    }

    /// The next record; none at the end of them.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ExportError> {
        let key_bytes = usize::from(u16::from_be_bytes(self.fixed()?));
        if key_bytes == 0 {
            return Ok(None);
        }
        let value_bytes = u32::from_be_bytes(self.fixed()?) as usize;
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(self.damaged("a record is too long"));
        }
        let (mut key, mut value) = (vec![0; key_bytes], vec![0; value_bytes]);
        self.fill(&mut key)?;
        self.fill(&mut value)?;
        if key <= self.last {
            return Err(self.damaged("its records are not in order"));
        }
        self.last.clone_from(&key);
        Ok(Some(Record { key, value }))
    }

    /// Holds what comes after the last record against the tally of all before it.
    fn check_end(&mut self, tally: Tally) -> Result<Summary, ExportError> {
        let (expected, summary) = tally.end();
        let mut found = [0; 8 + DIGEST_BYTES];
        self.fill(&mut found)?;
        if found != expected[2..] {
            return Err(self.damaged("its records are not those that were written"));
        }
        let mut more = [0];
        match self.file.read(&mut more).map_err(failed("read", self.path))? {
            0 => Ok(summary),
            _ => Err(self.damaged("something comes after its end")),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ExportError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ExportError> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged("it ends too early")),
            Err(error) => Err(failed("read", self.path)(error)),
        }
    }

    pub(super) fn damaged(&self, why: &str) -> ExportError {
        ExportError::Damaged {
            path: self.path.to_owned(),
            why: why.to_owned(),
        }
    }
}

/// Reads a whole export and says what is in it.
pub(super) fn verify<R: Read + Seek>(file: &mut R, path: &Path) -> Result<Summary, ExportError> {
    let mut records = Records::open(file, path)?;
    let mut tally = Tally::new(&records.header);
    while let Some(Record { key, value }) = records.next()? {
        if tally.record(&key, &value).is_err() {
            return Err(records.damaged("a record cannot be read"));
        }
    }
    records.check_end(tally)
}
