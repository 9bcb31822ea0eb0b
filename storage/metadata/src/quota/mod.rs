//! Quotas: how many names and bytes a directory may hold with all below it (ADR 33). A directory's entry has its quota, so that every
//! walk knows those that it is below; what is used is two counters for each quota, to which every transaction that makes, removes or
//! moves something adds (ADR 30). Nothing is enforced before what is there was counted.
//!
//! - `links`: what comes into directories, goes out of them and is moved, with what that does to quotas.
//! - `size`: what a tree holds.
//! - `set`: setting, clearing and looking at quotas.

pub(crate) mod links;
pub(crate) mod set;
pub(crate) mod size;

use std::ops::{Add, Neg, Sub};

use strongroom_kv::{Reader, Store, StoreError, Txn, counter, limits::KEYS_TOGETHER_MAX};
use strongroom_proto::{FileId, ParseError, QuotaId, ZonePath};

use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::resolve::{Found, climb},
    schema::{
        access,
        keys::{self, Measure},
        records,
    },
};

/// A quota of a directory on the way to something, or of that itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuotaAt {
    id: QuotaId,
    path: ZonePath,
    limits: Limits,
    counted: bool,
}

/// What a directory may hold with all below it, itself included; each bounded only if it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    names: Option<u64>,
    bytes: Option<u64>,
}

/// Names of files and directories, and plaintext bytes of files; or what is added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    names: i64,
    bytes: i64,
}

impl Usage {
    /// A file that has no bytes yet, or an empty directory.
    pub(crate) const ONE_NAME: Self = Self { names: 1, bytes: 0 };

    /// What a file is, or a directory with nothing in it.
    pub(crate) fn of(entry: &records::Entry) -> Self {
        let bytes = entry.file.map_or(0, |size| size.length);
        Self {
            names: 1,
            bytes: signed(bytes),
        }
    }

    /// So many bytes more or less of a file that is there.
    pub(crate) fn grown(from: u64, to: u64) -> Self {
        Self {
            names: 0,
            bytes: signed(to) - signed(from),
        }
    }

    pub(crate) const fn of_measure(self, measure: Measure) -> i64 {
        match measure {
            Measure::Names => self.names,
            Measure::Bytes => self.bytes,
        }
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            names: self.names.saturating_add(other.names),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Neg for Usage {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            names: -self.names,
            bytes: -self.bytes,
        }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Limits {
    const fn of(self, measure: Measure) -> Option<u64> {
        match measure {
            Measure::Names => self.names,
            Measure::Bytes => self.bytes,
        }
    }
}

impl records::Quota {
    pub(crate) fn quota_id(&self) -> Result<QuotaId, ParseError> {
        self.id.as_ref().try_into()
    }

    const fn limits(&self) -> Limits {
        Limits {
            names: self.names,
            bytes: self.bytes,
        }
    }
}

/// The quota of the directory at `path`, if it has one.
pub(crate) fn at(path: &ZonePath, entry: &records::Entry) -> Result<Option<QuotaAt>, ParseError> {
    let Some(quota) = &entry.quota else { return Ok(None) };
    Ok(Some(QuotaAt {
        id: quota.quota_id()?,
        path: path.clone(),
        limits: quota.limits(),
        counted: quota.counted,
    }))
}

/// Quotas of the directories that something is in, without its own.
fn above(found: &Found) -> &[QuotaAt] {
    let own = usize::from(found.entry.quota.is_some());
    &found.quotas[..found.quotas.len() - own]
}

/// Adds to what quotas have used. The commit is refused if one that was counted would be exceeded; see [`explained`].
pub(crate) fn charge(txn: &mut impl Txn, quotas: &[QuotaAt], change: Usage) {
    for quota in quotas {
        for measure in Measure::ALL {
            let limit = quota.limits.of(measure).filter(|_| quota.counted);
            let by = change.of_measure(measure);
            if by != 0 {
                txn.add(&keys::used(quota.id, measure), by, limit.map_or(i64::MAX, signed));
            }
        }
    }
}

/// Refuses what would exceed a quota now. For a transaction that is not committed: others change the counters that this reads.
pub(crate) async fn check(reader: &mut impl Reader, quotas: &[QuotaAt], change: Usage) -> Result<(), MetadataError> {
    let counted: Vec<&QuotaAt> = quotas.iter().filter(|quota| quota.counted).collect();
    let ids: Vec<QuotaId> = counted.iter().map(|quota| quota.id).collect();
    let used = used_of_each(reader, &ids).await?;
    for (quota, used) in counted.into_iter().zip(used) {
        for measure in Measure::ALL {
            let (by, used) = (change.of_measure(measure), used.of_measure(measure));
            if let Some(limit) = quota.limits.of(measure)
                && by > 0
                && used.saturating_add(by) > signed(limit)
            {
                return Err(exceeded(quota.path.clone(), measure, limit, used));
            }
        }
    }
    Ok(())
}

/// What a quota has used.
pub(crate) async fn used(reader: &mut impl Reader, id: QuotaId) -> Result<Usage, MetadataError> {
    let used = used_of_each(reader, &[id]).await?;
    Ok(used.into_iter().next().unwrap_or_default())
}

/// What each of several quotas has used.
async fn used_of_each(reader: &mut impl Reader, ids: &[QuotaId]) -> Result<Vec<Usage>, MetadataError> {
    let mut used = Vec::with_capacity(ids.len());
    for ids in ids.chunks(KEYS_TOGETHER_MAX / Measure::ALL.len()) {
        let keys = ids
            .iter()
            .flat_map(|id| Measure::ALL.map(|measure| keys::used(*id, measure)));
        let keys: Vec<_> = keys.collect();
        let values = reader.get_many(&keys).await?;
        let mut counters = keys
            .iter()
            .zip(values)
            .map(|(key, value)| counter(key, value.as_deref()));
        while let (Some(names), Some(bytes)) = (counters.next(), counters.next()) {
            let (names, bytes) = (names?, bytes?);
            used.push(Usage { names, bytes });
        }
    }
    Ok(used)
}

/// Forgets the quota of a directory that goes, or whose quota does.
pub(crate) fn forget(txn: &mut impl Txn, entry: &records::Entry) -> Result<(), ParseError> {
    let Some(quota) = &entry.quota else { return Ok(()) };
    let id = quota.quota_id()?;
    txn.delete(&keys::quota(id));
    for measure in Measure::ALL {
        txn.delete(&keys::used(id, measure));
    }
    Ok(())
}

/// An outcome that says which quota was exceeded, or that the user has too many files open, if that is why the store refused.
pub(crate) async fn explained<T>(
    store: &impl Store,
    who: &Caller,
    outcome: Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let Err(MetadataError::Store(StoreError::CounterOver { key, max })) = &outcome else {
        return outcome;
    };
    if let Some(user) = keys::open_files_user(key) {
        return Err(MetadataError::TooManyOpenFiles {
            user: user.to_owned(),
            most: *max,
        });
    }
    let Some((id, measure)) = keys::used_of(key) else {
        return outcome;
    };
    let mut view = store.snapshot().await?;
    let used = used(&mut view, id).await?.of_measure(measure);
    let found = match directory(&mut view, id).await? {
        Some(directory) => climb(&mut view, who, directory).await?,
        None => None,
    };
    // It went in the meantime.
    let found = found.ok_or(StoreError::Contended { attempts: 1 })?;
    Err(exceeded(
        found.path,
        measure,
        u64::try_from(*max).unwrap_or_default(),
        used,
    ))
}

/// The directory that a quota is of.
pub(crate) async fn directory(reader: &mut impl Reader, id: QuotaId) -> Result<Option<FileId>, MetadataError> {
    let row = reader.get(&keys::quota(id)).await?;
    row.map(|row| access::file_id(&row)).transpose()
}

fn exceeded(directory: ZonePath, measure: Measure, limit: u64, used: i64) -> MetadataError {
    MetadataError::QuotaExceeded {
        directory,
        measure,
        limit,
        used: u64::try_from(used).unwrap_or_default(),
    }
}
