//! Whether what a writer says of a file follows from what the file was and what was recorded of its new extent.

use strongroom_proto::limits::EXTENTS_PER_FILE_MAX;

use super::{
    commit::Commit,
    suite::{may_be_under_dek, sealed_bytes},
};
use crate::{error::MetadataError, schema::records};

/// Checks a commit against the extents that the file has now and the writer's record.
pub(crate) fn check(commit: &Commit, open: &records::OpenFile, base: &[records::Extent]) -> Result<(), MetadataError> {
    follows(commit, open, base).map_err(|rule| MetadataError::Manifest {
        file: commit.file,
        rule,
    })
}

/// How many of the extents that the file has now a commit keeps: those that it begins with.
pub(crate) fn kept(commit: &Commit, base: &[records::Extent]) -> usize {
    let pairs = commit.extents.iter().zip(base);
    pairs.take_while(|(new, old)| new.extent_id == old.extent_id).count()
}

/// Or the rule that is broken.
fn follows(commit: &Commit, open: &records::OpenFile, base: &[records::Extent]) -> Result<(), String> {
    holds(commit.extents.len() <= EXTENTS_PER_FILE_MAX, || {
        format!("a file has at most {EXTENTS_PER_FILE_MAX} extents")
    })?;
    let mac_bytes = if open.is_plain() { 0 } else { 32 };
    holds(commit.manifest_mac.len() == mac_bytes, || {
        format!("its manifest MAC must be {mac_bytes} bytes")
    })?;
    let next = open.goes_on_from() + 1;
    holds(commit.generation == next, || {
        format!("manifest {next} comes next, not {}", commit.generation)
    })?;
    let (old, new) = commit.extents.split_at(kept(commit, base));
    for (position, (extent, before)) in old.iter().zip(base).enumerate() {
        stays(extent, before, position + 1 == old.len()).map_err(|rule| of(extent, &rule))?;
    }
    for (position, extent) in new.iter().enumerate() {
        let known = open.extents.iter().find(|known| known.extent_id == extent.extent_id);
        let known = known
            .filter(|_| position == 0)
            .ok_or_else(|| of(extent, "it is not the one granted to its writer, or not in its place"))?;
        holds(old.iter().all(|old| old.salt != extent.salt), || {
            of(extent, "it has another one's salt")
        })?;
        holds(!extent.under_dek || may_be_under_dek(open, old.len(), extent), || {
            of(
                extent,
                "it is under the DEK itself, as only the first extent of a new file of suite ctr-hdfs may be",
            )
        })?;
        is_whole(extent, known, open).map_err(|rule| of(extent, &rule))?;
    }
    Ok(())
}

fn holds(rule: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if rule { Ok(()) } else { Err(broken()) }
}

fn of(extent: &records::Extent, rule: &str) -> String {
    format!("extent {}: {rule}", hex::encode(&extent.extent_id))
}

/// An extent that the file has already: nothing of it changes, but that the last one kept may show less.
fn stays(extent: &records::Extent, before: &records::Extent, is_last: bool) -> Result<(), String> {
    let seed = |extent: &records::Extent| (extent.under_dek, extent.salt.clone());
    let same = (extent.length, extent.blocks, seed(extent)) == (before.length, before.blocks, seed(before));
    holds(same, || "it does not change once it is committed".to_owned())?;
    let (shows, showed) = (extent.visible, before.visible);
    holds((1..=showed).contains(&shows), || {
        format!("1 to {showed} of its bytes can show, not {shows}")
    })?;
    holds(shows == showed || is_last, || {
        "only the last one that is kept can be cut short".to_owned()
    })
}

/// A new extent: all of it shows, and its blocks are those that were recorded.
fn is_whole(extent: &records::Extent, known: &records::OpenExtent, open: &records::OpenFile) -> Result<(), String> {
    let block_bytes = u64::from(open.block_bytes);
    let suite = open.suite().map_err(|error| error.to_string())?;
    let (length, blocks) = (extent.length, extent.blocks);
    holds(extent.salt.len() == 16, || "its salt must be 16 bytes".to_owned())?;
    holds(length > 0 && length.div_ceil(block_bytes) == u64::from(blocks), || {
        format!("{length} bytes do not make {blocks} blocks")
    })?;
    holds(extent.visible == length, || {
        format!("it shows {} of {length} bytes when it is new", extent.visible)
    })?;
    holds(known.blocks == blocks, || {
        format!("{} blocks are recorded, not {blocks}", known.blocks)
    })?;
    let last_plain = u32::try_from((length - 1) % block_bytes + 1).unwrap_or(open.block_bytes);
    let last = sealed_bytes(suite, last_plain, open.frame_bytes);
    holds(known.last_length == last, || {
        format!("its last block has {} bytes, not {last}", known.last_length)
    })
}
