//! Whether what a writer says of a file follows from what the file was and what was recorded of its new extent.

use strongroom_proto::{FileId, limits::EXTENTS_PER_FILE_MAX};

use super::{commit::Commit, sealed_bytes};
use crate::{error::MetadataError, schema::records};

/// Checks a commit against the extents that the file has now and the writer's record.
pub(crate) fn check(commit: &Commit, open: &records::OpenFile, base: &[records::Extent]) -> Result<(), MetadataError> {
    match broken(commit, open, base)? {
        None => Ok(()),
        Some(rule) => Err(bad(commit.file, rule)),
    }
}

pub(crate) const fn bad(file: FileId, rule: String) -> MetadataError {
    MetadataError::Manifest { file, rule }
}

/// How many of the extents that the file has now a commit keeps: those that it begins with.
pub(crate) fn kept(commit: &Commit, base: &[records::Extent]) -> usize {
    let pairs = commit.extents.iter().zip(base);
    pairs.take_while(|(new, old)| new.extent_id == old.extent_id).count()
}

fn broken(
    commit: &Commit,
    open: &records::OpenFile,
    base: &[records::Extent],
) -> Result<Option<String>, MetadataError> {
    if commit.extents.len() > EXTENTS_PER_FILE_MAX {
        return Ok(Some(format!("a file has at most {EXTENTS_PER_FILE_MAX} extents")));
    }
    if commit.manifest_mac.len() != 32 {
        return Ok(Some("its manifest MAC must be 32 bytes".to_owned()));
    }
    if commit.generation != open.generation + 1 {
        let next = open.generation + 1;
        return Ok(Some(format!("manifest {next} comes next, not {}", commit.generation)));
    }
    let (old, new) = commit.extents.split_at(kept(commit, base));
    for (position, (extent, before)) in old.iter().zip(base).enumerate() {
        if let Some(rule) = broken_old(extent, before, position + 1 == old.len()) {
            return Ok(Some(format!("extent {}: {rule}", extent.id()?)));
        }
    }
    for (position, extent) in new.iter().enumerate() {
        let id = extent.id()?;
        let known = open.extents.iter().find(|known| known.extent_id == extent.extent_id);
        let Some(known) = known.filter(|_| position == 0) else {
            return Ok(Some(format!(
                "extent {id} is not the one granted to its writer, or not in its place"
            )));
        };
        if old.iter().any(|old| old.salt == extent.salt) {
            return Ok(Some(format!("extent {id} has another one's salt")));
        }
        if let Some(rule) = broken_new(extent, known, open) {
            return Ok(Some(format!("extent {id}: {rule}")));
        }
    }
    Ok(None)
}

/// An extent that the file has already: nothing of it changes, but that the last one kept may show less.
fn broken_old(extent: &records::Extent, before: &records::Extent, is_last: bool) -> Option<String> {
    let same = (extent.length, extent.blocks, &extent.salt) == (before.length, before.blocks, &before.salt);
    if !same {
        return Some("it does not change once it is committed".to_owned());
    }
    let (shows, showed) = (extent.visible, before.visible);
    if shows == 0 || shows > showed {
        return Some(format!("1 to {showed} of its bytes can show, not {shows}"));
    }
    (shows < showed && !is_last).then(|| "only the last one that is kept can be cut short".to_owned())
}

fn broken_new(extent: &records::Extent, known: &records::OpenExtent, open: &records::OpenFile) -> Option<String> {
    let block_bytes = u64::from(open.block_bytes);
    if extent.salt.len() != 16 {
        return Some("its salt must be 16 bytes".to_owned());
    }
    if extent.length == 0 || extent.length.div_ceil(block_bytes) != u64::from(extent.blocks) {
        return Some(format!("{} bytes do not make {} blocks", extent.length, extent.blocks));
    }
    if extent.visible != extent.length {
        return Some(format!(
            "it shows {} of {} bytes when it is new",
            extent.visible, extent.length
        ));
    }
    if known.blocks != extent.blocks {
        return Some(format!("{} blocks are recorded, not {}", known.blocks, extent.blocks));
    }
    let last_plain = u32::try_from((extent.length - 1) % block_bytes + 1).unwrap_or(open.block_bytes);
    let last = sealed_bytes(last_plain, open.frame_bytes);
    (known.last_length != last).then(|| format!("its last block has {} bytes, not {last}", known.last_length))
}
