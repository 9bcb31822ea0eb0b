//! What an inode says of itself on the wire.

use strongroom_kv::Txn;
use strongroom_proto::metadata::v1 as pb;

use super::resolve::Found;
use crate::{
    error::MetadataError,
    schema::{access, keys, records},
};

/// The wire form of what was found.
pub(crate) async fn stat(txn: &mut impl Txn, found: &Found) -> Result<pb::Stat, MetadataError> {
    let inode = &found.inode;
    let mut stat = pb::Stat {
        path: (&found.path).into(),
        kind: pb::FileKind::Directory.into(),
        mode: inode.mode,
        owner: inode.owner.clone(),
        mtime_ms: inode.mtime_ms,
        file_id: found.id.into(),
        zone_path: found.zone.as_ref().map(|zone| (&zone.path).into()).unwrap_or_default(),
        zone_root: !inode.zone_id.is_empty(),
        ..pb::Stat::default()
    };
    if let Some(file) = &inode.file {
        describe_file(txn, file, &mut stat).await?;
    }
    Ok(stat)
}

async fn describe_file(txn: &mut impl Txn, file: &records::File, stat: &mut pb::Stat) -> Result<(), MetadataError> {
    let edek = file.edek.as_ref().ok_or(MetadataError::Corrupt { what: "file" })?;
    stat.kind = pb::FileKind::File.into();
    stat.length = file.length;
    stat.key_name = edek.key_name.clone();
    stat.key_version = edek.key_version;
    stat.data_suite.clone_from(&file.data_suite);
    stat.blocks = file.blocks();
    for extent in file.extent_ids()? {
        // A page is enough: whoever sees thousands does not need the exact figure.
        let deficits = access::page(txn, &keys::deficits_of(extent), 10_000).await?;
        stat.blocks_in_deficit += u32::try_from(deficits.len()).unwrap_or(u32::MAX);
    }
    Ok(())
}
