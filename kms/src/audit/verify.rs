//! Verifying a log, or a copy of one, record by record and in bounded memory.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Serialize;

use super::{
    checkpoint::{Checkpoint, LogId},
    error::AuditError,
    record::{Head, Record, line_hash},
    segments::{Lines, list, torn_files},
};

/// How far a checkpoint may stand behind the record that it speaks of: the token may take its time to sign.
pub(super) const CHECKPOINT_LAG_MAX: u64 = 65_536;
/// Different keys that one log's checkpoints may be signed by.
const KEYS_MAX: usize = 1000;

/// What is known of a log from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The public keys (SubjectPublicKeyInfo, DER) whose checkpoints are believed; none means that the log's own word is
    /// taken for it.
    pub keys: Vec<Bytes>,
    /// Whether segments at the beginning may have been moved away.
    pub archived: bool,
    /// A record that the log must have, with the hash of its line.
    pub expect: Option<Expected>,
}

/// A record known from elsewhere, for example from a checkpoint that was copied to another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its number.
    pub seq: u64,
    /// The SHA-256 of its line, if known.
    pub hash: Option<[u8; 32]>,
}

/// What a log that verified holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The log's id, in hex; none if it has no records.
    pub log: Option<String>,
    /// Files.
    pub segments: u64,
    /// Records in the chain.
    pub records: u64,
    /// The first record's number: more than 1 if segments were moved away.
    pub first_seq: u64,
    /// The last record's number.
    pub last_seq: u64,
    /// When the first record was written.
    pub first_time: Option<jiff::Timestamp>,
    /// When the last record was written.
    pub last_time: Option<jiff::Timestamp>,
    /// SHA-256 of the last line, in hex: two logs with the same one are the same.
    pub head: String,
    /// Checkpoints among the records.
    pub checkpoints: u64,
    /// The last record that a signature speaks of; 0 if none does.
    pub signed_seq: u64,
    /// Records after that one, checkpoints left out: what could be cut off or rewritten without a trace in the log.
    pub unsigned_records: u64,
    /// Whose checkpoints there are.
    pub keys: Vec<VerifiedKey>,
    /// Torn lines that lie beside the segments.
    pub torn_files: Vec<PathBuf>,
}

/// A key that signed checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedKey {
    /// The token that has it, by what the log says.
    pub token: String,
    /// See [`super::AuditKey::id`].
    pub key_id: String,
    /// Whether it is one of those that were given.
    pub given: bool,
}

/// Verifies a log: all segments of a directory, or files in the order given.
///
/// # Errors
/// Names the first record that is missing, changed or torn, or the checkpoint that is not good.
pub fn verify(paths: &[PathBuf], options: VerifyOptions) -> Result<Verified, AuditError> {
    let mut verifier = Verifier::new(options);
    for path in paths {
        if path.is_dir() {
            verifier.directory(path)?;
        } else {
            verifier.file(path)?;
        }
    }
    verifier.finish()
}

/// A verification under way.
pub(super) struct Verifier {
    options: VerifyOptions,
    /// What the next record follows, if that is known.
    head: Option<Head>,
    log: Option<LogId>,
    /// Hashes of the last records, the newest last.
    recent: VecDeque<[u8; 32]>,
    signed_seq: u64,
    /// Checkpoints after that record.
    checkpoints_since: VecDeque<u64>,
    report: Verified,
    expected: bool,
}

impl Verifier {
    fn new(options: VerifyOptions) -> Self {
        let head = (!options.archived).then(Head::genesis);
        Self::starting(head, None, options)
    }

    /// One that goes on where a log is known to be.
    pub(super) fn continuing(head: Option<Head>, log: LogId, options: VerifyOptions) -> Self {
        Self::starting(head, Some(log), options)
    }

    fn starting(head: Option<Head>, log: Option<LogId>, options: VerifyOptions) -> Self {
        let report = Verified {
            log: None,
            segments: 0,
            records: 0,
            first_seq: 0,
            last_seq: 0,
            first_time: None,
            last_time: None,
            head: hex::encode(Head::genesis().hash),
            checkpoints: 0,
            signed_seq: 0,
            unsigned_records: 0,
            keys: Vec::new(),
            torn_files: Vec::new(),
        };
        Self {
            options,
            head,
            log,
            recent: VecDeque::new(),
            signed_seq: 0,
            checkpoints_since: VecDeque::new(),
            report,
            expected: false,
        }
    }

    fn directory(&mut self, dir: &Path) -> Result<(), AuditError> {
        let segments = list(dir)?;
        if segments.is_empty() {
            return Err(AuditError::Empty { path: dir.to_owned() });
        }
        let first = segments[0].0;
        for (expected, (number, path)) in (first..).zip(&segments) {
            if *number != expected {
                let seq = self.next_seq();
                return Err(AuditError::broken(path, seq, "a segment before it is missing"));
            }
            self.file(path)?;
        }
        self.report.torn_files.extend(torn_files(dir)?);
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), AuditError> {
        let file = File::open(path).map_err(|source| AuditError::io(path, source))?;
        self.segment(path, file)
    }

    /// Verifies one segment's bytes.
    pub(super) fn segment(&mut self, path: &Path, input: impl Read) -> Result<(), AuditError> {
        self.report.segments += 1;
        let mut lines = Lines::new(input);
        while let Some(whole) = lines.next().map_err(|source| AuditError::io(path, source))? {
            let seq = self.next_seq();
            let outcome = if whole {
                self.line(&lines.line)
            } else {
                Err("its line is torn")
            };
            outcome.map_err(|what| AuditError::broken(path, seq, what))?;
        }
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.seq.saturating_add(1))
    }

    fn line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let record: Record = serde_json::from_slice(line).map_err(|_| "it is not a record")?;
        self.follows(&record)?;
        let head = Head {
            seq: record.seq,
            hash: line_hash(line),
        };
        self.known(&head)?;
        if let Some(checkpoint) = &record.entry.checkpoint {
            self.checkpoint(&record, checkpoint)?;
        }
        self.count(&record);
        self.recent.push_back(head.hash);
        if self.recent.len() as u64 > CHECKPOINT_LAG_MAX {
            self.recent.pop_front();
        }
        self.head = Some(head);
        Ok(())
    }

    fn follows(&mut self, record: &Record) -> Result<(), &'static str> {
        if let Some(head) = &self.head {
            if head.seq.checked_add(1) != Some(record.seq) {
                return Err("its sequence number does not follow");
            }
            if record.prev != hex::encode(head.hash) {
                return Err("it does not carry the hash of the record before");
            }
        }
        let log = record.instance.parse().map_err(|_| "it names no log")?;
        match self.log {
            Some(known) if known != log => return Err("it is of another log"),
            _ => self.log = Some(log),
        }
        Ok(())
    }

    /// Holds a record against what is known of it from elsewhere.
    fn known(&mut self, head: &Head) -> Result<(), &'static str> {
        match self.options.expect {
            Some(expected) if expected.seq == head.seq => {
                if expected.hash.is_some_and(|hash| hash != head.hash) {
                    return Err("it has another hash than the one known from elsewhere");
                }
                self.expected = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn checkpoint(&mut self, record: &Record, checkpoint: &Checkpoint) -> Result<(), &'static str> {
        let log = self.log.ok_or("it names no log")?;
        let key = checkpoint.verify(log).ok_or("its signature is not good")?;
        let given = self.options.keys.contains(&key);
        if !given && !self.options.keys.is_empty() {
            return Err("it is a checkpoint signed by a key that was not given");
        }
        if checkpoint.seq >= record.seq {
            return Err("it is a checkpoint of what comes after it");
        }
        self.speaks_of(record.seq, checkpoint)?;
        if checkpoint.seq > self.signed_seq {
            self.signed_seq = checkpoint.seq;
            self.checkpoints_since.retain(|seq| *seq > checkpoint.seq);
        }
        self.checkpoints_since.push_back(record.seq);
        if self.checkpoints_since.len() as u64 > CHECKPOINT_LAG_MAX {
            self.checkpoints_since.pop_front();
        }
        self.report.checkpoints += 1;
        self.note_key(checkpoint, given)
    }

    /// The record that a checkpoint speaks of has the hash that was signed; unless it is before all that we look at.
    fn speaks_of(&self, at: u64, checkpoint: &Checkpoint) -> Result<(), &'static str> {
        let back = at - checkpoint.seq;
        let place = usize::try_from(back)
            .ok()
            .and_then(|back| self.recent.len().checked_sub(back));
        match place {
            Some(place) if hex::encode(self.recent[place]) == checkpoint.head => Ok(()),
            Some(_) => Err("it is a checkpoint of another chain"),
            // Before the first record of a log that is looked at from its middle.
            None if back <= CHECKPOINT_LAG_MAX && self.report.first_seq != 1 => Ok(()),
            None => Err("it is a checkpoint of a record too far back"),
        }
    }

    fn note_key(&mut self, checkpoint: &Checkpoint, given: bool) -> Result<(), &'static str> {
        let known = |key: &VerifiedKey| key.key_id == checkpoint.key_id && key.token == checkpoint.token;
        if self.report.keys.iter().any(known) {
            return Ok(());
        }
        if self.report.keys.len() == KEYS_MAX {
            return Err("it is a checkpoint of one key too many");
        }
        self.report.keys.push(VerifiedKey {
            token: checkpoint.token.clone(),
            key_id: checkpoint.key_id.clone(),
            given,
        });
        Ok(())
    }

    fn count(&mut self, record: &Record) {
        let report = &mut self.report;
        if report.records == 0 {
            report.first_seq = record.seq;
            report.first_time = Some(record.time);
        }
        report.records += 1;
        report.last_seq = record.seq;
        report.last_time = Some(record.time);
    }

    fn unsigned(&self) -> u64 {
        let last = self.head.as_ref().map_or(0, |head| head.seq);
        let first = self.signed_seq.max(self.report.first_seq.saturating_sub(1));
        last.saturating_sub(first)
            .saturating_sub(self.checkpoints_since.len() as u64)
    }

    /// The head after the last record, and how many records no checkpoint speaks of.
    pub(super) fn end(self) -> (Head, u64) {
        let unsigned = self.unsigned();
        (self.head.unwrap_or_else(Head::genesis), unsigned)
    }

    fn finish(mut self) -> Result<Verified, AuditError> {
        if let Some(expected) = self.options.expect
            && !self.expected
        {
            return Err(AuditError::Unexpected {
                seq: expected.seq,
                what: if self.report.last_seq < expected.seq {
                    "is not in the log: its end was cut off"
                } else {
                    "is before the first record of what was given"
                },
            });
        }
        self.report.unsigned_records = self.unsigned();
        self.report.signed_seq = self.signed_seq;
        self.report.log = self.log.map(|log| log.to_string());
        if let Some(head) = &self.head {
            self.report.head = hex::encode(head.hash);
        }
        Ok(self.report)
    }
}

/// The public key in a file that `strongroom audit key` wrote: a SubjectPublicKeyInfo in PEM (RFC 7468, section 13).
#[must_use]
pub fn key_of_pem(pem: &[u8]) -> Option<Bytes> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    Some(Bytes::copy_from_slice(&key))
}
