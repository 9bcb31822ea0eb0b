use std::str::FromStr;

use prost::Message as _;
use strongroom_proto::{DataSuite, EdekSuite, KeyName, Reason, ZoneId, ZonePath, metadata::v1 as pb};

use super::{
    RawError,
    frame::{self, Kind},
    reader::{LOOKS_MAX, restless},
};
use crate::{AclChange, AclEntry, Attributes, FsError, Zone, ZoneFs};

const FORMAT: u8 = 1;
/// The mode of a directory that is being filled: nobody but superusers looks into it.
const CLOSED: u32 = 0o700;

/// All that there is to a directory but what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RawDirectory {
    wire: pb::RawDirectory,
    /// Of the root of a zone.
    zone: Option<ZoneRoot>,
}

/// What a zone has to be for its files to be brought in.
#[derive(Debug, Clone, PartialEq)]
struct ZoneRoot {
    id: ZoneId,
    key: KeyName,
    suite: DataSuite,
    /// Whether EDEKs are bound to the id.
    bound: bool,
}

impl ZoneFs {
    /// What there is to the directory at a path. Takes the right to read it.
    ///
    /// # Errors
    /// `not-found` or `permission-denied`; [`RawError::Restless`] if it does not stay the same directory with the same permissions meanwhile.
    pub async fn raw_directory(&self, path: &ZonePath) -> Result<RawDirectory, FsError> {
        for _ in 0..LOOKS_MAX {
            if let Some(directory) = self.look_raw_directory(path).await? {
                return Ok(directory);
            }
        }
        Err(restless(path))
    }

    /// `None` if what was read may be of two directories.
    async fn look_raw_directory(&self, path: &ZonePath) -> Result<Option<RawDirectory>, FsError> {
        let stat = self.stat(path).await?;
        let zone = match stat.zone_root {
            true => Some(self.zone(path).await?),
            false => None,
        };
        let Some(extended) = self.raw_extended(path, &stat).await? else {
            return Ok(None);
        };
        let wire = pb::RawDirectory {
            mode: stat.mode,
            owner: stat.owner,
            group: stat.group,
            mtime_ms: stat.mtime_ms,
            extended: Some(extended),
            zone: zone.map(|zone| pb::RawZone {
                zone_id: zone.zone_id.into(),
                key_name: zone.key_name.to_string(),
                edek_suite: zone.edek_suite.to_string(),
                data_suite: zone.data_suite.to_string(),
            }),
        };
        RawDirectory::parse(wire).map(Some).map_err(|source| bad(path, source))
    }

    /// Makes a directory that is to become `wanted`, and those above it, or takes the one that is there. The root of a zone has to be there,
    /// and to be the root of the same zone.
    ///
    /// # Errors
    /// [`RawError::OtherZone`]; `not-a-directory` or `already-exists` if a file is in the way.
    pub async fn make_raw_directory(&self, path: &ZonePath, wanted: &RawDirectory) -> Result<(), FsError> {
        match &wanted.zone {
            Some(zone) => self.check_zone(path, zone).await,
            None => self.make_directory(path, CLOSED, true).await.map(drop),
        }
    }

    /// Makes the directory at a path what `wanted` says, once it is filled. Attributes that are there under other names stay. For superusers.
    ///
    /// # Errors
    /// `permission-denied` for others; `not-found`.
    pub async fn finish_raw_directory(&self, path: &ZonePath, wanted: &RawDirectory) -> Result<(), FsError> {
        let there = self.raw_directory(path).await?.wire;
        let wanted = &wanted.wire;
        // Whose it is first, and last the mode: on the way it is open to nobody who is not to have it.
        if (&there.owner, &there.group) != (&wanted.owner, &wanted.group) {
            let given = Attributes {
                owner: given(&wanted.owner).map_err(|source| bad(path, source))?,
                group: given(&wanted.group).map_err(|source| bad(path, source))?,
                ..Attributes::default()
            };
            self.set_attributes(path, &given).await?;
        }
        let (has, wants) = (
            there.extended.unwrap_or_default(),
            wanted.extended.clone().unwrap_or_default(),
        );
        let changes = acl_changes(&has.acl, &wants.acl)?;
        for change in &changes {
            self.set_acl(path, change).await?;
        }
        for xattr in wants.xattrs.into_iter().filter(|xattr| !has.xattrs.contains(xattr)) {
            self.set_xattr(path, &xattr.name, xattr.value).await?;
        }
        if !changes.is_empty() || (there.mode, there.mtime_ms) != (wanted.mode, wanted.mtime_ms) {
            let given = Attributes {
                mode: Some(wanted.mode),
                mtime_ms: Some(wanted.mtime_ms),
                ..Attributes::default()
            };
            self.set_attributes(path, &given).await?;
        }
        Ok(())
    }

    async fn check_zone(&self, path: &ZonePath, wanted: &ZoneRoot) -> Result<(), FsError> {
        let found = match self.zone(path).await {
            Err(error) if matches!(error.reason(), Reason::NotFound | Reason::NotInZone) => None,
            found => Some(found?),
        };
        if found.is_some_and(|found| found.path == *path && wanted.is(&found)) {
            return Ok(());
        }
        let other = RawError::OtherZone {
            path: path.clone(),
            key: wanted.key.clone(),
            suite: wanted.suite,
            id: wanted.id,
        };
        Err(bad(path, other))
    }
}

impl RawDirectory {
    /// Most bytes that [`Self::to_bytes`] gives.
    pub const BYTES_MAX: usize = frame::PREFIX + frame::HEADER_BYTES_MAX + frame::END.len();

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RawError::NotADirectory`], [`RawError::Format`], [`RawError::Header`] or [`RawError::End`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RawError> {
        let (prefix, rest) = bytes.split_first_chunk().ok_or(RawError::NotADirectory)?;
        let length = frame::length(Kind::Directory, prefix)?;
        let (header, end) = rest.split_at_checked(length).ok_or(RawError::Header)?;
        frame::check(prefix, header)?;
        if *end != frame::END {
            return Err(RawError::End);
        }
        Self::parse(pb::RawDirectory::decode(header).map_err(|_| RawError::Header)?)
    }

    /// The directory as it lies in a local tree, in the file that says what it is.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = frame::framed(Kind::Directory, FORMAT, &self.wire.encode_to_vec());
        bytes.extend_from_slice(&frame::END);
        bytes
    }

    fn parse(wire: pb::RawDirectory) -> Result<Self, RawError> {
        let acl = wire.extended.iter().flat_map(|extended| extended.acl.iter());
        let known = acl.cloned().all(|entry| AclEntry::try_from(entry).is_ok());
        if wire.mode > 0o7777 || !known {
            return Err(RawError::Header);
        }
        let zone = wire.zone.as_ref().map(ZoneRoot::parse).transpose()?;
        Ok(Self { wire, zone })
    }
}

impl ZoneRoot {
    fn parse(wire: &pb::RawZone) -> Result<Self, RawError> {
        Ok(Self {
            id: wire.zone_id.as_ref().try_into().map_err(|_| RawError::Header)?,
            key: wire.key_name.parse().map_err(|_| RawError::Header)?,
            suite: wire.data_suite.parse().map_err(|_| RawError::Header)?,
            bound: wire.edek_suite != EdekSuite::Hadoop.as_str(),
        })
    }

    fn is(&self, zone: &Zone) -> bool {
        let same = (&self.key, self.suite) == (&zone.key_name, zone.data_suite);
        same && (!self.bound || self.id == zone.zone_id)
    }
}

/// What turns one ACL into the other.
fn acl_changes(has: &[pb::AclEntry], wants: &[pb::AclEntry]) -> Result<Vec<AclChange>, FsError> {
    if has == wants {
        return Ok(Vec::new());
    }
    if wants.is_empty() {
        return Ok(vec![AclChange::RemoveAll]);
    }
    let has_default = |entries: &[pb::AclEntry]| entries.iter().any(|entry| entry.default);
    let mut changes = Vec::new();
    // A list of which nothing is named would stay.
    if has_default(has) && !has_default(wants) {
        changes.push(AclChange::RemoveDefault);
    }
    let entries = wants.iter().cloned().map(AclEntry::try_from);
    changes.push(AclChange::Replace(entries.collect::<Result<_, _>>()?));
    Ok(changes)
}

/// A name, if there is one.
fn given<T: FromStr>(text: &str) -> Result<Option<T>, RawError> {
    let text = Some(text).filter(|text| !text.is_empty());
    text.map(str::parse).transpose().map_err(|_| RawError::Header)
}

fn bad(path: &ZonePath, source: RawError) -> FsError {
    FsError::Raw {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use pb::AclChange::{RemoveAll, RemoveDefault, Replace};

    use super::*;

    fn directory() -> RawDirectory {
        let wire = pb::RawDirectory {
            mode: 0o1770,
            owner: "alice".to_owned(),
            group: "hr".to_owned(),
            mtime_ms: 7,
            extended: Some(pb::RawExtended::default()),
            zone: Some(pb::RawZone {
                zone_id: vec![3; 16].into(),
                key_name: "payroll".to_owned(),
                edek_suite: "kw".to_owned(),
                data_suite: "gcm".to_owned(),
            }),
        };
        RawDirectory::parse(wire).expect("valid")
    }

    #[test]
    fn a_directory_is_read_as_it_was_written_and_otherwise_not_at_all() {
        let bytes = directory().to_bytes();
        assert_eq!(RawDirectory::from_bytes(&bytes), Ok(directory()));
        for cut in 0..bytes.len() {
            RawDirectory::from_bytes(&bytes[..cut]).expect_err("cut short");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            RawDirectory::from_bytes(&damaged).expect_err("damaged");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(RawDirectory::from_bytes(&longer), Err(RawError::End));
        let stream = frame::framed(Kind::File, 1, b"");
        assert_eq!(RawDirectory::from_bytes(&stream), Err(RawError::NotADirectory));
    }

    #[test]
    fn an_acl_is_changed_in_all_that_it_has() {
        let entries = |texts: &[&str]| -> Vec<pb::AclEntry> {
            let parsed = texts.iter().map(|text| text.parse::<AclEntry>().expect(text));
            parsed.map(|entry| pb::AclEntry::from(&entry)).collect()
        };
        let access = entries(&["user::rwx", "group::r-x", "other::---"]);
        let both = entries(&["user::rwx", "group::r-x", "other::---", "default:user:bob:r-x"]);
        let kinds = |has: &[pb::AclEntry], wants: &[pb::AclEntry]| {
            let changes = acl_changes(has, wants).expect("valid");
            let kind = |change: &AclChange| change.wire().0;
            changes.iter().map(kind).collect::<Vec<_>>()
        };
        assert!(kinds(&both, &both).is_empty());
        assert_eq!(kinds(&both, &[]), [RemoveAll]);
        assert_eq!(kinds(&[], &both), [Replace]);
        assert_eq!(kinds(&both, &access), [RemoveDefault, Replace]);
    }
}
