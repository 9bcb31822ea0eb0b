//! `fs mv`: rename.

use strongroom_fs::{FileKind, ZoneFs};
use strongroom_proto::ZonePath;

use super::{look_up, parse, with_force_hint};
use crate::{error::Error, output::Output};

/// Renames `from` to `to`, or into `to` if that is a directory that exists, as `mv` does.
pub(super) async fn run(fs: &ZoneFs, from: &str, to: &str, force: bool, output: Output) -> Result<(), Error> {
    let from = parse(from)?;
    let to = destination(fs, &from, to).await?;
    let stat = fs.rename(&from, &to, force).await.map_err(with_force_hint)?;
    output.result(&stat, String::new)
}

async fn destination(fs: &ZoneFs, from: &ZonePath, to: &str) -> Result<ZonePath, Error> {
    let path = parse(to)?;
    let found = look_up(fs, &path).await?;
    let into_directory = found.is_some_and(|found| found.kind == FileKind::Directory);
    match from.split_last() {
        Some((_, name)) if into_directory => Ok(path.join(name)?),
        _ => Ok(path),
    }
}
