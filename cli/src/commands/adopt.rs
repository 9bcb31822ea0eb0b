//! `zone adopt`: a directory becomes a zone with what it holds, which this client encrypts file by file.

use std::sync::Arc;

use strongroom_fs::{AdoptOptions, Zone, ZoneFs};
use strongroom_proto::{JobId, ZonePath};

use super::{fs::rewrite, session::Session};
use crate::{
    cli::ZoneAdoptArgs,
    error::Error,
    output::{Output, note},
    transfer::{Report, Verb},
};

/// Walks over the tree, at most: a file that was renamed behind the back of one is met by the next.
const PASSES_MAX: usize = 3;

/// Makes the directory a zone if it is none, encrypts what is not, and says what was done and what is left.
pub(super) async fn run(session: &Session, args: ZoneAdoptArgs, output: Output) -> Result<(), Error> {
    let (admin, fs) = (session.zones()?, session.files()?);
    let path = ZonePath::parse(args.path.as_bytes())?;
    check_listed(&fs, &path)?;
    let asked = AdoptOptions {
        key: args.key.clone(),
        data_suite: args.suite,
        frame: args.frame_size,
    };
    let mut zone = found(&admin, &path, &asked).await?;
    check_terms(&zone, &args)?;
    let wanted = rewrite::Wanted::adoption(&zone, &args.pace);
    let report = Arc::new(Report::start(Verb::Encrypted));
    let mut stopped = None;
    for _ in 0..PASSES_MAX {
        if left(&zone) == 0 {
            break;
        }
        stopped = rewrite::pass(&fs, &path, &wanted, &report).await?;
        report.go_through_again();
        zone = admin.adopt_zone(&path, &asked).await?;
        if stopped.is_some() || report.is_partly() {
            break;
        }
    }
    tell(&path, &zone, &report, stopped, output)
}

/// Its files are read as they are, which this client has to be told to do.
fn check_listed(fs: &ZoneFs, path: &ZonePath) -> Result<(), Error> {
    if path.is_root() {
        let message = "adopt the directories in / one by one: no profile lists / itself as plain, since that would be every file there is".to_owned();
        return Err(Error::Usage { message });
    }
    if fs.allows_plain(path) {
        return Ok(());
    }
    let message = format!(
        "to encrypt what is below {path} it has to be read as it is, not authenticated by anything; allow that in the profile first, plain = [\"{path}\"], and take it out again when it is done"
    );
    Err(Error::Usage { message })
}

/// The metadata service says what the zone is like; its files are not written otherwise than the user asked for.
fn check_terms(zone: &Zone, args: &ZoneAdoptArgs) -> Result<(), Error> {
    if let Some(key) = args.key.as_ref().filter(|key| **key != zone.key_name) {
        note(&format!(
            "strongroom: the zone is under key {}, of which {key} is an alias by the word of the metadata service",
            zone.key_name
        ));
    }
    // Files that are not authenticated are a choice that somebody has to have made here.
    if args.suite.unwrap_or_default() == zone.data_suite {
        return Ok(());
    }
    let (path, suite) = (&zone.path, zone.data_suite);
    let message = format!(
        "{path} is of data suite {suite} by the word of the metadata service; if that is meant, pass --suite {suite}"
    );
    Err(Error::Usage { message })
}

/// The zone, once it is known which files are to be encrypted.
async fn found(admin: &ZoneFs, path: &ZonePath, asked: &AdoptOptions) -> Result<Zone, Error> {
    loop {
        let zone = admin.adopt_zone(path, asked).await?;
        if zone.adoption.is_none_or(|adoption| adoption.looked || adoption.ended) {
            return Ok(zone);
        }
    }
}

fn left(zone: &Zone) -> u64 {
    zone.adoption.map_or(0, |adoption| adoption.left)
}

fn tell(path: &ZonePath, zone: &Zone, report: &Report, stopped: Option<JobId>, output: Output) -> Result<(), Error> {
    let left = left(zone);
    report.leave(left, zone.not_encrypted.iter().map(ToString::to_string).collect());
    let done = report.finish(output);
    if let Some(job) = stopped {
        return Err(Error::JobEnded { job });
    }
    // What failed is told. It is the files that are left that count.
    if left > 0 {
        let zone = path.to_string();
        return Err(Error::NotAdopted { zone, left });
    }
    if !zone.adoption.is_none_or(|adoption| adoption.ended) {
        return done;
    }
    if !output.is_json() {
        note(&format!(
            "strongroom: every file in {path} is encrypted, by the word of the metadata service; take {path} off the list plain of every profile now, and what is left on disks is for: strongroom fsck --ciphertext"
        ));
    }
    Ok(())
}
