//! `fs mkdir`, `fs stat`, `fs encryption-info`: one call for each path.

use strongroom_fs::{FileKind, Stat, ZoneFs};
use strongroom_proto::{Reason, ZonePath};

use super::for_each;
use crate::{
    error::Error,
    output::{Output, time_text},
};

/// Makes directories, with exactly the permission bits that are given.
pub(super) async fn mkdir(
    fs: &ZoneFs,
    paths: &[ZonePath],
    mode: Option<u32>,
    parents: bool,
    output: Output,
) -> Result<(), Error> {
    let umask = fs.umask();
    for_each(paths, output, async |path| {
        // The mode is that of the last name, and exactly that; those on the way to it are made as any are.
        if let (Some(_), true, Some((parent, _))) = (mode, parents, path.split_last()) {
            fs.make_directory(&parent, 0o777, true).await?;
        }
        fs.set_umask(if mode.is_some() { 0 } else { umask });
        let made = fs.make_directory(path, mode.unwrap_or(0o777), parents).await;
        fs.set_umask(umask);
        output.result(&made?, String::new)
    })
    .await
}

/// Shows what is known of each path.
pub(super) async fn stat(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let stat = fs.stat(path).await?;
        output.result(&stat, || text(&stat))
    })
    .await
}

/// Shows how each file is encrypted.
pub(super) async fn encryption_info(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let info = fs.encryption_info(path).await.map_err(|error| match error.reason() {
            Reason::IsADirectory => Error::Usage {
                message: format!(
                    "no FileEncryptionInfo found for path {path}: it is a directory, whose files have one each; strongroom zone info {path} shows its zone"
                ),
            },
            _ => error.into(),
        })?;
        match info {
            Some(info) => output.result(&info, || info.to_string()),
            None => output.result(&serde_json::json!({"path": path.as_str(), "dataSuite": "plain"}), || {
                format!("No FileEncryptionInfo found for path {path}: it is not encrypted")
            }),
        }
    })
    .await
}

pub(super) fn text(stat: &Stat) -> String {
    let mut lines = vec![
        format!("path     {}", stat.path),
        format!(
            "kind     {}",
            if stat.kind == FileKind::File {
                "file"
            } else {
                "directory"
            }
        ),
        format!("length   {}", stat.length),
        format!("mode     {:04o}", stat.mode),
        format!("owner    {}", stat.owner),
        format!("group    {}", stat.group),
        format!("changed  {}", time_text(stat.mtime_ms)),
        format!("id       {}", stat.file_id),
    ];
    if let Some(zone) = &stat.zone_path {
        let root = if stat.zone_root { " (this is its root)" } else { "" };
        lines.push(format!("zone     {zone}{root}"));
    }
    if let (Some(name), Some(version)) = (&stat.key_name, stat.key_version) {
        lines.push(format!("key      {name}@{version}"));
    }
    if let Some(suite) = stat.data_suite {
        lines.push(format!("suite    {suite}"));
        lines.push(format!(
            "blocks   {}, {} with missing replicas",
            stat.blocks, stat.blocks_in_deficit
        ));
    }
    lines.join("\n")
}
