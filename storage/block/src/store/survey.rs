//! What is on the disk, told from its directories, and whether what should be there is.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use strongroom_proto::{BlockId, limits::REPLICAS_PER_COMMAND_MAX};

use super::{
    disk::{Disk, StoreError},
    format::Front,
};

/// Where a survey goes on: the directories of blocks in their order, then that of damaged ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// 0 to 255 for `blocks/XX`, 256 for `bad`.
    pub fan: u32,
    /// In it, behind this block.
    pub after: Option<BlockId>,
}

/// A block as it lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub id: BlockId,
    /// Bytes of data, by its header; 0 of one that was put aside.
    pub length: u32,
    /// Their CRC32C, by its header; 0 of one that was put aside.
    pub crc32c: u32,
    /// Whether it was put aside as damaged.
    pub aside: bool,
    /// How long ago its file was written.
    pub age: Duration,
}

/// A page of a survey.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// At most [`REPLICAS_PER_COMMAND_MAX`].
    pub found: Vec<Found>,
    /// Blocks whose files the disk could not read: with those found no more than that.
    pub unreadable: Vec<BlockId>,
    /// Where to go on; none at the end.
    pub next: Option<Position>,
}

/// What a look for blocks showed. Those that are neither lacking nor unreadable are there.
#[derive(Debug, Default)]
pub struct Checked {
    /// Not there as they should be.
    pub lacking: Vec<Lacking>,
    /// Whose files the disk could not read, and why: nobody can say whether they are there.
    pub unreadable: Vec<(BlockId, StoreError)>,
}

/// What a block should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Which.
    pub id: BlockId,
    /// Its bytes.
    pub length: u32,
    /// Their CRC32C.
    pub crc32c: u32,
}

/// A block that is not there as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// Which.
    pub id: BlockId,
    /// Whether something else is there, or was.
    pub damaged: bool,
}

/// The directory behind those of blocks.
const ASIDE: u32 = 256;

/// Goes on with a survey. Blocks whose headers are damaged are put aside on the way, and a file that cannot be read is passed over.
pub(super) fn survey(disk: &Disk, from: Position) -> Result<Survey, StoreError> {
    let (mut survey, mut at) = (Survey::default(), from);
    while at.fan <= ASIDE {
        for id in names(disk, at)? {
            if survey.found.len() + survey.unreadable.len() == REPLICAS_PER_COMMAND_MAX {
                survey.next = Some(at);
                return Ok(survey);
            }
            match look(disk, at.fan, id) {
                Ok(found) => survey.found.extend(found),
                Err(error) => {
                    tracing::error!(block = %id, %error, "a file of a block cannot be read");
                    survey.unreadable.push(id);
                }
            }
            at.after = Some(id);
        }
        at = Position {
            fan: at.fan + 1,
            after: None,
        };
    }
    Ok(survey)
}

/// The blocks of a directory behind a position, in order.
fn names(disk: &Disk, at: Position) -> Result<Vec<BlockId>, StoreError> {
    let (folder, suffix) = match u8::try_from(at.fan) {
        Ok(fan) => (disk.directory().fan(fan), ".blk"),
        Err(_) => (disk.directory().bad_blocks(), ".bad"),
    };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        // Somebody looked at the damaged blocks and cleared them away.
        Err(error) if error.kind() == io::ErrorKind::NotFound && at.fan == ASIDE => return Ok(Vec::new()),
        Err(error) => return Err(disk.failed("list", &folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| disk.failed("list", &folder, error))?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(suffix)?.parse::<BlockId>().ok()),
        );
    }
    names.retain(|id| at.after.is_none_or(|after| *id > after));
    names.sort_unstable();
    Ok(names)
}

/// A block; none if it went, or was put aside, since it was listed.
fn look(disk: &Disk, fan: u32, id: BlockId) -> Result<Option<Found>, StoreError> {
    if fan == ASIDE {
        let age = fs::metadata(disk.directory().bad(id)).map(|file| age(&file));
        return Ok(age.ok().map(|age| Found {
            id,
            length: 0,
            crc32c: 0,
            aside: true,
            age,
        }));
    }
    match disk.front(id) {
        Ok((Front { length, crc32c, .. }, file)) => Ok(Some(Found {
            id,
            length,
            crc32c,
            aside: false,
            age: age(&file),
        })),
        Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Those of `expected` that are not there as they should be. A `deep` look reads all of each.
pub(super) fn check(disk: &Disk, expected: &[Expected], deep: bool) -> Checked {
    let mut checked = Checked::default();
    for block in expected {
        let id = block.id;
        match is_as_expected(disk, block, deep) {
            Ok(true) => {}
            Ok(false) | Err(StoreError::Corrupt { .. }) => checked.lacking.push(Lacking { id, damaged: true }),
            Err(StoreError::NotFound { .. }) => checked.lacking.push(Lacking { id, damaged: false }),
            Err(error) => checked.unreadable.push((id, error)),
        }
    }
    checked
}

fn is_as_expected(disk: &Disk, block: &Expected, deep: bool) -> Result<bool, StoreError> {
    let (front, _) = disk.front(block.id)?;
    let is_same = (front.length, front.crc32c) == (block.length, block.crc32c);
    if is_same && deep {
        disk.get(block.id, 0, 0)?;
    }
    Ok(is_same)
}

/// A clock that was set back makes nothing older than it is.
fn age(file: &fs::Metadata) -> Duration {
    let written = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    SystemTime::now().duration_since(written).unwrap_or_default()
}
