//! `strongroom fs …`: files and directories.

mod acl;
mod attributes;
mod cat;
mod du;
mod get;
mod grow;
mod ls;
mod mv;
mod put;
mod quota;
mod raw;
pub(super) mod rewrite;
mod rm;
mod simple;
mod xattr;

use strongroom_fs::{Attributes, Cursor, Entry, FsError, RewritingKind, Stat, ZoneFs};
use strongroom_proto::{Reason, ZonePath};

use super::session::Session;
use crate::{
    cli::{FsArgs, FsCommand, GetArgs, PutArgs},
    error::Error,
    output::Output,
};

/// As what files travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// What is in them.
    Content,
    /// Ciphertext with its EDEK, without any key.
    Raw,
    /// Ciphertext as HDFS has it.
    Hdfs,
}

/// `strongroom fs …`
pub(super) async fn run(session: &Session, args: FsArgs, output: Output) -> Result<(), Error> {
    let fs = session.files()?;
    if args.raw {
        return raw::run(fs, args.command, output).await;
    }
    match args.command {
        FsCommand::Mkdir { paths, parents, mode } => {
            simple::mkdir(&fs, &parse_all(&paths)?, mode, parents, output).await
        }
        FsCommand::Ls { paths, long } => ls::run(&fs, &parse_all(&paths)?, long, output).await,
        FsCommand::Put(PutArgs { hdfs: true, .. }) | FsCommand::Get(GetArgs { hdfs: true, .. }) => Err(Error::Usage {
            message: "--hdfs is about ciphertext; give --raw, too: strongroom fs --raw get --hdfs".to_owned(),
        }),
        FsCommand::Put(args) => put::run(fs, Form::Content, args, output).await,
        FsCommand::Append { source, target } => grow::append(&fs, &source, &parse(&target)?, output).await,
        FsCommand::Truncate { length, paths } => grow::truncate(&fs, &parse_all(&paths)?, length, output).await,
        FsCommand::Recover { paths } => grow::recover(&fs, &parse_all(&paths)?, output).await,
        FsCommand::Compact(args) => {
            let wanted = rewrite::Wanted::files(RewritingKind::Compaction, &args);
            rewrite::run(fs, &parse(&args.path)?, &wanted, output).await
        }
        FsCommand::Rekey(args) => {
            let wanted = rewrite::Wanted::files(RewritingKind::Rekeying, &args);
            rewrite::run(fs, &parse(&args.path)?, &wanted, output).await
        }
        FsCommand::Get(args) => get::run(fs, Form::Content, args, output).await,
        FsCommand::Cat { paths, offset, length } => cat::run(&fs, &parse_all(&paths)?, offset, length, output).await,
        FsCommand::Stat { paths } => simple::stat(&fs, &parse_all(&paths)?, output).await,
        FsCommand::EncryptionInfo { paths } => simple::encryption_info(&fs, &parse_all(&paths)?, output).await,
        FsCommand::Mv {
            from,
            to,
            force,
            transfer,
        } => mv::run(&fs, &from, &to, force, transfer, output).await,
        FsCommand::Rm {
            paths,
            recursive,
            skip_trash,
        } => rm::run(&fs, &parse_all(&paths)?, recursive, skip_trash, output).await,
        FsCommand::Expunge { immediate } => rm::expunge(&fs, immediate, output).await,
        FsCommand::Chmod { mode, paths, recursive } => {
            let wanted = Attributes {
                mode: Some(mode),
                ..Attributes::default()
            };
            attributes::run(&fs, &parse_all(&paths)?, &wanted, recursive, output).await
        }
        FsCommand::Chown {
            owner,
            paths,
            recursive,
        } => {
            let wanted = Attributes {
                owner: owner.user,
                group: owner.group,
                ..Attributes::default()
            };
            attributes::run(&fs, &parse_all(&paths)?, &wanted, recursive, output).await
        }
        FsCommand::Chgrp {
            group,
            paths,
            recursive,
        } => {
            let wanted = Attributes {
                group: Some(group),
                ..Attributes::default()
            };
            attributes::run(&fs, &parse_all(&paths)?, &wanted, recursive, output).await
        }
        FsCommand::Getfacl { paths } => acl::show(&fs, &parse_all(&paths)?, output).await,
        FsCommand::Setfacl(args) => acl::set(&fs, args, output).await,
        FsCommand::Quota(command) => quota::run(&fs, command, output).await,
        FsCommand::Getfattr { dump, name, paths } => xattr::show(&fs, &parse_all(&paths)?, name, dump, output).await,
        FsCommand::Setfattr(args) => xattr::set(&fs, args, output).await,
        FsCommand::Du { paths } => du::run(&fs, &parse_all(&paths)?, output).await,
    }
}

fn parse(path: &str) -> Result<ZonePath, Error> {
    Ok(ZonePath::parse(path.as_bytes())?)
}

fn parse_all(paths: &[String]) -> Result<Vec<ZonePath>, Error> {
    paths.iter().map(|path| parse(path)).collect()
}

/// What is at `path`, `None` if nothing is.
async fn look_up(fs: &ZoneFs, path: &ZonePath) -> Result<Option<Stat>, Error> {
    match fs.stat(path).await {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.reason() == Reason::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether `name` is the trash in a directory, the root of a zone or somebody's home. What goes down a tree leaves it out: it is
/// others' as well, and closed to all but them.
fn is_trash(directory: &ZonePath, is_zone_root: bool, name: &str) -> bool {
    let is_home = || {
        let mut names = directory.names();
        names.next() == Some("user") && names.next().is_some() && names.next().is_none()
    };
    name == ".Trash" && (is_zone_root || is_home())
}

/// The entries of a directory, page by page.
struct Listing<'a> {
    fs: &'a ZoneFs,
    directory: &'a ZonePath,
    from: Option<Cursor>,
    over: bool,
}

impl<'a> Listing<'a> {
    const fn of(fs: &'a ZoneFs, directory: &'a ZonePath) -> Self {
        Self {
            fs,
            directory,
            from: None,
            over: false,
        }
    }

    /// The next page, `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Entry>>, Error> {
        if self.over {
            return Ok(None);
        }
        let page = self.fs.list(self.directory, self.from.take()).await?;
        self.over = page.next.is_none();
        self.from = page.next;
        Ok(Some(page.entries))
    }
}

/// Does `act` for each path in turn. One that fails does not stop the others; each failure is said on standard error
/// in its turn, and the last one is the command's.
async fn for_each<'a, F>(paths: &'a [ZonePath], output: Output, act: impl Fn(&'a ZonePath) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + 'a,
{
    let mut last: Option<Error> = None;
    for path in paths {
        match act(path).await {
            Ok(()) => {}
            // Nobody reads any further.
            Err(error @ Error::Output(_)) => return Err(error),
            Err(error) => {
                if let Some(earlier) = last.replace(error) {
                    output.error(&earlier);
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}

/// Says how to replace what is there, if that is why a call failed.
fn with_force_hint(error: FsError) -> Error {
    match error.reason() {
        Reason::AlreadyExists => Error::Exists(error),
        _ => error.into(),
    }
}
