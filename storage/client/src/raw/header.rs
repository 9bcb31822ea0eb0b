use std::cmp::Ordering;

use bytes::Bytes;
use prost::Message as _;
use strongroom_dataplane::Geometry;
use strongroom_proto::{
    DataSuite, Edek, EdekSuite, ExtentId, ZonePath, kms::v1 as kms_pb, limits::FRAME_BYTES_MIN, metadata::v1 as pb,
};

use super::{
    RawError,
    frame::{self, Kind},
};
use crate::{FsError, opening::Opening, suite};

/// The attribute in which HDFS keeps a file's EDEK.
pub const HDFS_ATTRIBUTE: &str = "raw.hdfs.crypto.file.encryption.info";

/// The format of a header that says nothing of ACL and attributes.
const BARE: u8 = 1;
/// The format of one that says all of them.
const EXTENDED: u8 = 2;
/// Bytes before a block: its length and its checksum.
const BLOCK_FRAME: u64 = 8;
/// Plaintext bytes of a block of a file that comes from HDFS.
const HDFS_BLOCK_BYTES: u32 = 4 << 20;

/// All that there is to a file but its blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct RawHeader {
    pub(super) file: pb::RawFile,
    /// ACL and attributes; `None` if nobody said.
    pub(super) extended: Option<pb::RawExtended>,
    geometry: Geometry,
}

impl RawHeader {
    /// What a stream ends with.
    pub const END: [u8; 8] = frame::END;

    /// Bytes that say how long the header is, to be given to [`Self::length`].
    pub const PREFIX_BYTES: usize = frame::PREFIX;

    pub(super) fn of(opening: &Opening, wire: &pb::OpenedFile) -> Result<Self, FsError> {
        let (stat, manifest) = (&opening.stat, opening.unproven());
        let edek = opening.edek.clone().ok_or_else(|| FsError::Raw {
            path: stat.path.clone(),
            source: RawError::Plain,
        })?;
        let file = pb::RawFile {
            length: stat.length,
            mode: stat.mode,
            owner: stat.owner.clone(),
            group: stat.group.clone(),
            mtime_ms: stat.mtime_ms,
            edek: Some(edek.into()),
            data_suite: stat.data_suite.map(|suite| suite.to_string()).unwrap_or_default(),
            frame_bytes: wire.frame_bytes,
            block_bytes: wire.block_bytes,
            extents: manifest.extents().iter().map(crate::opening::wire_extent).collect(),
            generation: manifest.generation(),
            manifest_mac: wire.manifest_mac.clone(),
            crypto_id: if wire.manifest_mac.is_empty() {
                Bytes::new()
            } else {
                opening.crypto_id.into()
            },
        };
        Ok(Self {
            file,
            extended: None,
            geometry: manifest.geometry(),
        })
    }

    /// A file of HDFS: `length` bytes of ciphertext, the attribute that HDFS has of it, and the key that its zone has there and
    /// the zone here has to have.
    ///
    /// # Errors
    /// [`RawError::Attribute`].
    pub fn of_hdfs(attribute: &str, length: u64, mode: u32, mtime_ms: u64) -> Result<Self, RawError> {
        let value = attribute.trim().rsplit('=').next().unwrap_or_default();
        let value = value.strip_prefix("0x").ok_or(RawError::Attribute)?;
        let value = hex::decode(value).map_err(|_| RawError::Attribute)?;
        let info = pb::PerFileEncryptionInfo::decode(value.as_slice()).map_err(|_| RawError::Attribute)?;
        let (key, version) = info.ez_key_version_name.rsplit_once('@').ok_or(RawError::Attribute)?;
        if info.iv.len() != 16 || info.key.is_empty() {
            return Err(RawError::Attribute);
        }
        let blocks = length.div_ceil(HDFS_BLOCK_BYTES.into());
        let extent = pb::Extent {
            extent_id: ExtentId::generate().into(),
            salt: info.iv.clone(),
            length,
            visible: length,
            blocks: blocks.try_into().map_err(|_| RawError::Header)?,
            under_dek: true,
            sealed_as: Bytes::new(),
        };
        let edek = kms_pb::Edek {
            key_name: key.to_owned(),
            key_version: version.parse().map_err(|_| RawError::Attribute)?,
            // Hadoop's EDEKs are bound to none; the service puts that of the destination.
            zone_id: vec![0; 16].into(),
            suite: EdekSuite::Hadoop.to_string(),
            wrapped: [info.iv, info.key].concat().into(),
        };
        Self::parse(pb::RawFile {
            length,
            mode,
            mtime_ms,
            edek: Some(edek),
            data_suite: DataSuite::CtrHdfs.to_string(),
            frame_bytes: FRAME_BYTES_MIN,
            block_bytes: HDFS_BLOCK_BYTES,
            extents: if length > 0 { vec![extent] } else { Vec::new() },
            generation: 1,
            ..pb::RawFile::default()
        })
    }

    /// How many bytes follow a stream's first ones, up to the first block.
    ///
    /// # Errors
    /// [`RawError::NotAStream`], [`RawError::Format`] or [`RawError::Header`].
    pub fn length(prefix: &[u8; Self::PREFIX_BYTES]) -> Result<usize, RawError> {
        frame::length(Kind::File, prefix)
    }

    /// The header that follows `prefix`.
    ///
    /// # Errors
    /// [`RawError::Header`].
    pub fn from_bytes(prefix: &[u8; Self::PREFIX_BYTES], bytes: &[u8]) -> Result<Self, RawError> {
        frame::check(prefix, bytes)?;
        if frame::format(prefix) == BARE {
            return Self::parse(pb::RawFile::decode(bytes).map_err(|_| RawError::Header)?);
        }
        let header = pb::RawHeader::decode(bytes).map_err(|_| RawError::Header)?;
        Ok(Self {
            extended: Some(header.extended.unwrap_or_default()),
            ..Self::parse(header.file.ok_or(RawError::Header)?)?
        })
    }

    /// What a stream of the file begins with.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Some(extended) = self.extended.clone() else {
            return frame::framed(Kind::File, BARE, &self.file.encode_to_vec());
        };
        let header = pb::RawHeader {
            file: Some(self.file.clone()),
            extended: Some(extended),
        };
        frame::framed(Kind::File, EXTENDED, &header.encode_to_vec())
    }

    /// Bytes of the whole stream that [`Self::to_bytes`] begins.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        let blocks = self.block_bytes().map(|bytes| BLOCK_FRAME + u64::from(bytes));
        self.to_bytes().len() as u64 + blocks.sum::<u64>() + Self::END.len() as u64
    }

    /// Whether `there` is a file that came of this one, or that this one came of, and is in all as it came: ciphertext, mode, owner, group,
    /// time, ACL and attributes. Under which version of the key its EDEK is, each cluster sees to itself. Of ACL and attributes a stream of
    /// format 1 says nothing.
    #[must_use]
    pub fn is_same(&self, there: &Self) -> bool {
        let but_edek = |header: &Self| pb::RawFile {
            edek: None,
            ..header.file.clone()
        };
        let extended = self.extended.is_none() || self.extended == there.extended;
        extended && but_edek(self) == but_edek(there)
    }

    /// Whether this is as good as a header of `there`: of the same file, with nothing left unsaid, and with an EDEK under the same version of the
    /// same key, though it may have been wrapped another time.
    #[must_use]
    pub fn stands_for(&self, there: &Self) -> bool {
        self.is_same(there) && self.extended == there.extended && self.later_by(there) == Some(Ordering::Equal)
    }

    /// Whether a stream that begins with `old` may begin with this one instead: of the same file, and with its EDEK wrapped again since, under a
    /// later version of the same key, or with the ACL and attributes that format 1 does not say. An earlier version may be destroyed already.
    #[must_use]
    pub fn renews(&self, old: &Self) -> bool {
        let says_more = self.extended.is_some() && old.extended.is_none();
        old.is_same(self)
            && match self.later_by(old) {
                Some(Ordering::Greater) => true,
                Some(Ordering::Equal) => says_more,
                _ => false,
            }
    }

    /// How the versions stand to each other under which the EDEKs are, if they are of one key.
    fn later_by(&self, there: &Self) -> Option<Ordering> {
        let (edek, other) = (self.file.edek.as_ref()?, there.file.edek.as_ref()?);
        (edek.key_name == other.key_name).then(|| edek.key_version.cmp(&other.key_version))
    }

    /// The value of [`HDFS_ATTRIBUTE`], as `hdfs dfs -setfattr` takes it, if the blocks one after another are what HDFS has.
    ///
    /// # Errors
    /// [`RawError::NotHdfs`].
    pub fn hdfs_attribute(&self) -> Result<String, RawError> {
        let no = |why| RawError::NotHdfs { why };
        if self.file.data_suite != DataSuite::CtrHdfs.as_str() {
            return Err(no("it is not of suite ctr-hdfs"));
        }
        let edek = self.edek()?;
        let (iv, key) = match edek.wrapped.split_first_chunk::<16>() {
            Some(parts) if edek.suite == EdekSuite::Hadoop => parts,
            _ => return Err(no("its EDEK is not of suite hadoop")),
        };
        match self.file.extents.as_slice() {
            [] => {}
            [one] if !one.under_dek => return Err(no("it was made empty and filled later, under a key of its own")),
            [one] if one.salt != iv[..] => return Err(no("its EDEK was moved from another key and has another IV")),
            [one] if one.visible == one.length => {}
            [_] => return Err(no("it was cut short")),
            _ => return Err(no("it consists of several extents")),
        }
        let info = pb::PerFileEncryptionInfo {
            key: Bytes::copy_from_slice(key),
            iv: Bytes::copy_from_slice(iv),
            ez_key_version_name: format!("{}@{}", edek.key, edek.version),
        };
        Ok(format!("0x{}", hex::encode(info.encode_to_vec())))
    }

    /// The file's EDEK.
    ///
    /// # Errors
    /// [`RawError::Header`] if there is none.
    pub fn edek(&self) -> Result<Edek, RawError> {
        let edek = self.file.edek.clone().ok_or(RawError::Header)?;
        Edek::try_from(edek).map_err(|_| RawError::Header)
    }

    /// Plaintext bytes of the file.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.file.length
    }

    /// Permission bits.
    #[must_use]
    pub const fn mode(&self) -> u32 {
        self.file.mode
    }

    /// Last change, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn mtime_ms(&self) -> u64 {
        self.file.mtime_ms
    }

    /// The file's attributes in the raw view, by name.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let file = &self.file;
        let mut all = vec![
            ("raw.strongroom.crypto.id", hex::encode(&file.crypto_id)),
            ("raw.strongroom.extents", file.extents.len().to_string()),
            ("raw.strongroom.generation", file.generation.to_string()),
            ("raw.strongroom.manifest.mac", hex::encode(&file.manifest_mac)),
        ];
        if let Ok(value) = self.hdfs_attribute() {
            all.push((HDFS_ATTRIBUTE, value));
        }
        all
    }

    /// Ciphertext bytes of every block, in the order in which they follow the header.
    pub fn block_bytes(&self) -> impl Iterator<Item = u32> + '_ {
        let shown = self.shown_blocks().enumerate();
        shown
            .flat_map(move |(position, blocks)| (0..blocks).filter_map(move |index| self.block_length(position, index)))
    }

    /// Ciphertext bytes of a block of the extent at `position`.
    pub(super) fn block_length(&self, position: usize, index: u32) -> Option<u32> {
        let extent = self.file.extents.get(position)?;
        let plain = self.geometry.block_plain_bytes(extent.length, index).ok()?;
        Some(self.geometry.sealed_bytes(plain))
    }

    /// Blocks of each extent that have a byte of the file.
    pub(super) fn shown_blocks(&self) -> impl Iterator<Item = u32> + '_ {
        let block = u64::from(self.geometry.block_bytes());
        self.file
            .extents
            .iter()
            .map(move |extent| extent.visible.div_ceil(block) as u32)
    }

    fn parse(file: pb::RawFile) -> Result<Self, RawError> {
        let suite = file.data_suite.parse().map_err(|_| RawError::Header)?;
        let nowhere = ZonePath::root();
        let geometry = suite::geometry(&nowhere, suite, file.frame_bytes, file.block_bytes);
        let geometry = geometry.map_err(|_| RawError::Header)?;
        let sound = |extent: &pb::Extent| {
            (1..=extent.length).contains(&extent.visible) && geometry.blocks(extent.length) == Ok(extent.blocks)
        };
        if !file.extents.iter().all(sound) {
            return Err(RawError::Header);
        }
        Ok(Self {
            file,
            extended: None,
            geometry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `hdfs dfs -getfattr -e hex` prints it of a file under version 0 of key lake.
    fn of_hdfs(length: u64) -> RawHeader {
        let attribute = format!("0x0a10{}1210{}1a066c616b654030", "01".repeat(16), "02".repeat(16));
        RawHeader::of_hdfs(&attribute, length, 0o640, 77).expect("it is one")
    }

    fn parsed(bytes: &[u8]) -> Result<RawHeader, RawError> {
        let (prefix, rest) = bytes.split_first_chunk().expect("a prefix");
        let length = RawHeader::length(prefix)?;
        RawHeader::from_bytes(prefix, &rest[..length])
    }

    fn extended() -> pb::RawExtended {
        pb::RawExtended {
            acl: Vec::new(),
            xattrs: vec![pb::Xattr {
                name: "user.a".to_owned(),
                value: Bytes::from_static(&[0, 255]),
            }],
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_in_the_format_that_it_needs() {
        let bare = of_hdfs(5 << 20);
        let full = RawHeader {
            extended: Some(extended()),
            ..bare.clone()
        };
        let nothing = RawHeader {
            extended: Some(pb::RawExtended::default()),
            ..bare.clone()
        };
        for (header, format) in [(&bare, 1), (&full, 2), (&nothing, 2)] {
            let bytes = header.to_bytes();
            assert_eq!(bytes[7], format);
            assert_eq!(&parsed(&bytes).expect("sound"), header);
            let blocks = 2 * 8 + (5 << 20);
            assert_eq!(header.stream_bytes(), bytes.len() as u64 + blocks + 8);
        }
    }

    #[test]
    fn a_stream_of_a_later_format_is_refused_and_so_is_a_directory() {
        let mut bytes = of_hdfs(5).to_bytes();
        bytes[7] = 3;
        let refusal = parsed(&bytes).expect_err("not known");
        assert_eq!(refusal, RawError::Format { found: 3, newest: 2 });
        assert!(refusal.to_string().contains("upgrade"), "{refusal}");
        let directory = frame::framed(Kind::Directory, 1, b"");
        assert_eq!(parsed(&directory), Err(RawError::NotAStream));
    }

    #[test]
    fn a_copy_is_the_same_whatever_version_of_the_key_it_is_under() {
        let sent = RawHeader {
            extended: Some(extended()),
            ..of_hdfs(5)
        };
        let mut there = sent.clone();
        there.file.edek.as_mut().expect("one").key_version = 3;
        assert!(sent.is_same(&there));
        let changes: [fn(&mut RawHeader); 5] = [
            |header| header.file.mode = 0o600,
            |header| header.file.owner = "bob".to_owned(),
            |header| header.file.generation += 1,
            |header| header.file.extents[0].extent_id = vec![7; 16].into(),
            |header| header.extended = Some(pb::RawExtended::default()),
        ];
        for (row, change) in changes.into_iter().enumerate() {
            let mut other = sent.clone();
            change(&mut other);
            assert!(!sent.is_same(&other), "row {row}");
        }
        let unsaid = RawHeader {
            extended: None,
            ..sent.clone()
        };
        assert!(unsaid.is_same(&sent), "format 1 does not say");
    }

    #[test]
    fn a_header_gives_way_to_a_later_one_of_its_file_alone() {
        let unsaid = of_hdfs(5);
        let said = RawHeader {
            extended: Some(extended()),
            ..unsaid.clone()
        };
        let under = |header: &RawHeader, key: &str, version| {
            let mut header = header.clone();
            let edek = header.file.edek.as_mut().expect("one");
            (edek.key_name, edek.key_version) = (key.to_owned(), version);
            header
        };
        let [old, new] = [4, 5].map(|version| under(&said, "payroll", version));
        for (row, (later, earlier, expected)) in [
            (&new, &old, true),
            (&old, &new, false),
            (&new, &new, false),
            (&under(&said, "other", 6), &old, false),
            (&new, &under(&unsaid, "payroll", 4), true),
            (&new, &under(&unsaid, "payroll", 5), true),
            (&old, &under(&unsaid, "payroll", 5), false),
            (&under(&unsaid, "payroll", 5), &old, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(later.renews(earlier), expected, "row {row}");
        }
        let mut other = new.clone();
        other.file.generation += 1;
        assert!(!other.renews(&old));
        let mut again = new.clone();
        again.file.edek.as_mut().expect("one").wrapped = vec![9; 40].into();
        assert!(
            again.stands_for(&new) && !again.renews(&new),
            "it opens as long as the version does"
        );
        for there in [&old, &other, &under(&said, "other", 5), &under(&unsaid, "payroll", 5)] {
            assert!(!new.stands_for(there));
        }
    }
}
