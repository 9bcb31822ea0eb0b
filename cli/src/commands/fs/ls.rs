//! `fs ls`: entries of directories.

use serde::Serialize;
use strongroom_fs::{Entry, FileKind, ZoneFs};
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
        let directory = path.split_last().map_or_else(ZonePath::root, |(parent, _)| parent);
        return print(&directory, &[stat.into()], long, output);
    }
    let mut listing = Listing::of(fs, path);
    while let Some(entries) = listing.next().await? {
        print(path, &entries, long, output)?;
    }
    Ok(())
}

/// An entry in `--json`.
#[derive(Serialize)]
struct Line<'a> {
    path: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

fn print(directory: &ZonePath, entries: &[Entry], long: bool, output: Output) -> Result<(), Error> {
    if output.is_json() {
        return entries.iter().try_for_each(|entry| {
            let path = directory.child(&entry.name)?.as_str().to_owned();
            output.result(&Line { path, entry }, String::new)
        });
    }
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| if long { long_line(entry) } else { name(entry) })
        .collect();
    crate::output::print(&lines.join("\n"))
}

/// The name, with a slash if it is a directory.
fn name(entry: &Entry) -> String {
    let slash = if entry.kind == FileKind::Directory { "/" } else { "" };
    format!("{}{slash}", one_line(&entry.name))
}

fn long_line(entry: &Entry) -> String {
    let zone = match (entry.zone_root, entry.plain) {
        (true, _) => "  (zone)",
        (false, true) => "  (not encrypted)",
        (false, false) => "",
    };
    format!(
        "{} {:<12} {:<12} {:>14}  {}  {}{zone}",
        mode_text(entry),
        entry.owner,
        entry.group,
        entry.length,
        time_text(entry.mtime_ms),
        name(entry)
    )
}

/// As `ls -l` writes it, for example `drwxr-x---+`; the sign says that there is an ACL.
fn mode_text(entry: &Entry) -> String {
    let kind = if entry.kind == FileKind::Directory { 'd' } else { '-' };
    let bits = (0..9).map(|bit| {
        let set = entry.mode & (0o400 >> bit) != 0;
        match (set, bit) {
            (_, 8) if entry.mode & 0o1000 != 0 => {
                if set {
                    't'
                } else {
                    'T'
                }
            }
            (true, _) => ['r', 'w', 'x'][bit % 3],
            (false, _) => '-',
        }
    });
    let acl = if entry.has_acl { '+' } else { ' ' };
    std::iter::once(kind).chain(bits).chain([acl]).collect()
}
