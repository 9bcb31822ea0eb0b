//! `fs --raw …`: ciphertext out and in, without any key. Streams, and trees of them, are as `docs/formats/raw.md` describes them; with
//! `--hdfs` a file is what HDFS has in `/.reserved/raw`, with the attribute that it has there beside it. Trees are walked, and what was
//! done is counted, by `fs get` and `fs put`.

mod bring;
mod directory;
mod fetch;
mod local;

use serde_json::json;
use strongroom_fs::{FileKind, ZoneFs};
use strongroom_proto::ZonePath;

pub(super) use self::{
    bring::{Source, bring},
    directory::{describe, is_own, make_directory},
    fetch::{fetch, fetch_for_hdfs},
};
use super::{Form, for_each, get, ls, parse_all, put, simple};
use crate::{cli::FsCommand, error::Error, output::Output};

/// `strongroom fs --raw …`
pub(super) async fn run(fs: ZoneFs, command: FsCommand, output: Output) -> Result<(), Error> {
    match command {
        FsCommand::Get(args) => get::run(fs, form(args.hdfs, args.transfer.recursive)?, args, output).await,
        FsCommand::Put(args) => put::run(fs, form(args.hdfs, args.transfer.recursive)?, args, output).await,
        FsCommand::Ls { paths, long } => ls::run(&fs, &parse_all(&paths)?, long, output).await,
        FsCommand::Stat { paths } => stat(&fs, &parse_all(&paths)?, output).await,
        _ => Err(usage("--raw goes with get, put, ls and stat; leave it out".to_owned())),
    }
}

fn form(hdfs: bool, recursive: bool) -> Result<Form, Error> {
    match (hdfs, recursive) {
        (false, _) => Ok(Form::Raw),
        (true, false) => Ok(Form::Hdfs),
        (true, true) => Err(usage(
            "--hdfs takes files, not directories; name them, or leave --hdfs out to carry a tree to another cluster of strongroom"
                .to_owned(),
        )),
    }
}

/// What is known of files, with the attributes that only the raw view has.
async fn stat(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let stat = fs.stat(path).await?;
        if stat.kind == FileKind::Directory {
            return output.result(&stat, || simple::text(&stat));
        }
        let attributes = fs.open_raw(path).await?.header().attributes();
        let map: serde_json::Map<_, _> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        output.result(&json!({"stat": stat, "raw": map}), || {
            let lines = attributes.iter().map(|(name, value)| format!("{name}={value}"));
            let lines: Vec<_> = std::iter::once(simple::text(&stat)).chain(lines).collect();
            lines.join("\n")
        })
    })
    .await
}

const fn usage(message: String) -> Error {
    Error::Usage { message }
}
