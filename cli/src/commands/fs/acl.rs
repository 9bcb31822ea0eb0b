//! `fs getfacl`, `fs setfacl`: permissions beyond the mode.

use serde::Serialize;
use strongroom_fs::{Acl, AclChange, ZoneFs};
use strongroom_proto::ZonePath;

use super::{for_each, parse_all};
use crate::{
    cli::{AclChangeArgs, SetfaclArgs},
    error::Error,
    output::{Output, one_line},
};

/// An ACL in `--json`.
#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    owner: &'a str,
    group: &'a str,
    mode: u32,
    acl: Vec<String>,
}

impl<'a> From<&'a Acl> for Shown<'a> {
    fn from(acl: &'a Acl) -> Self {
        Self {
            path: acl.stat.path.as_str(),
            owner: &acl.stat.owner,
            group: &acl.stat.group,
            mode: acl.stat.mode,
            acl: acl.entries.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Shows the ACL of each path.
pub(super) async fn show(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let acl = fs.acl(path).await?;
        output.result(&Shown::from(&acl), || text(&acl))
    })
    .await
}

/// Changes the ACL of each path.
pub(super) async fn set(fs: &ZoneFs, args: SetfaclArgs, output: Output) -> Result<(), Error> {
    let change = change(args.change);
    for_each(&parse_all(&args.paths)?, output, async |path| {
        let acl = fs.set_acl(path, &change).await?;
        output.result(&Shown::from(&acl), String::new)
    })
    .await
}

fn change(args: AclChangeArgs) -> AclChange {
    if args.remove_all {
        AclChange::RemoveAll
    } else if args.remove_default {
        AclChange::RemoveDefault
    } else if !args.set.is_empty() {
        AclChange::Replace(args.set)
    } else if !args.remove.is_empty() {
        AclChange::Remove(args.remove)
    } else {
        AclChange::Modify(args.modify)
    }
}

/// As `getfacl` writes it.
fn text(acl: &Acl) -> String {
    let mut lines = vec![
        format!("# file: {}", one_line(acl.stat.path.as_str())),
        format!("# owner: {}", acl.stat.owner),
        format!("# group: {}", acl.stat.group),
    ];
    lines.extend(acl.entries.iter().map(ToString::to_string));
    lines.join("\n")
}
