//! `fs ls`: entries of directories.

use strongroom_fs::{FileKind, Stat, ZoneFs};
use strongroom_proto::ZonePath;

use super::{Listing, for_each};
use crate::{
    error::Error,
    output::{Output, one_line, time_text},
};

/// Lists each path: a directory's entries, or the file itself.
pub(super) async fn run(fs: &ZoneFs, paths: &[ZonePath], long: bool, output: Output) -> Result<(), Error> {
    let headings = paths.len() > 1 && !output.is_json();
    for_each(paths, output, async |path| {
        if headings {
            crate::output::print(&format!("{}:", one_line(path.as_str())))?;
        }
        list(fs, path, long, output).await
    })
    .await
}

async fn list(fs: &ZoneFs, path: &ZonePath, long: bool, output: Output) -> Result<(), Error> {
    let stat = fs.stat(path).await?;
    if stat.kind == FileKind::File {
        return print(&[stat], long, output);
    }
    let mut listing = Listing::of(fs, path);
    while let Some(entries) = listing.next().await? {
        print(&entries, long, output)?;
    }
    Ok(())
}

fn print(entries: &[Stat], long: bool, output: Output) -> Result<(), Error> {
    if output.is_json() {
        return entries.iter().try_for_each(|entry| output.result(entry, String::new));
    }
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| if long { long_line(entry) } else { name(entry) })
        .collect();
    crate::output::print(&lines.join("\n"))
}

/// The last name, with a slash if it is a directory.
fn name(entry: &Stat) -> String {
    let last = entry.path.split_last();
    let name = one_line(last.as_ref().map_or("/", |(_, name)| name));
    let slash = if entry.kind == FileKind::Directory && name != "/" {
        "/"
    } else {
        ""
    };
    format!("{name}{slash}")
}

fn long_line(entry: &Stat) -> String {
    let zone = if entry.zone_root { "  (zone)" } else { "" };
    format!(
        "{}  {:<12} {:>14}  {}  {}{zone}",
        mode_text(entry),
        entry.owner,
        entry.length,
        time_text(entry.mtime_ms),
        name(entry)
    )
}

/// As `ls -l` writes it, for example `drwxr-x---`.
fn mode_text(entry: &Stat) -> String {
    let kind = if entry.kind == FileKind::Directory { 'd' } else { '-' };
    let bits = (0..9).map(|bit| {
        let set = entry.mode & (0o400 >> bit) != 0;
        if set { ['r', 'w', 'x'][bit % 3] } else { '-' }
    });
    std::iter::once(kind).chain(bits).collect()
}
