//! `strongroom zone …`: encryption zones and their re-encryption.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use strongroom_fs::{Adoption, Reencryption, ReencryptionState, Zone, ZoneFs, ZoneOptions};
use strongroom_proto::{DataSuite, KeyVersion, ZonePath};

use super::{adopt, fs::rewrite, session::Session};
use crate::{
    cli::{ZoneCommand, ZoneProofArgs},
    error::Error,
    output::{Output, note, one_line, table, time_text},
};

/// The pause between two looks at a re-encryption.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Files that are named of those that a zone has yet to encrypt.
const NAMED_MAX: usize = 10;

/// What the creator of a zone as HDFS has them gives up.
const UNAUTHENTICATED: &str = "note: files of suite ctr-hdfs are hidden and not authenticated: a byte that somebody changes on a block node's disk is not noticed; suite gcm, the default, notices it";

/// `strongroom zone …`
pub(super) async fn run(session: &Session, command: ZoneCommand, output: Output) -> Result<(), Error> {
    let fs = session.zones()?;
    match command {
        ZoneCommand::Create {
            path,
            key,
            suite,
            frame_size,
            id,
            owner,
            no_trash,
        } => {
            let (owner, group) = owner.map(|owner| (owner.user, owner.group)).unwrap_or_default();
            let options = ZoneOptions {
                data_suite: suite,
                frame: frame_size,
                id,
                owner,
                group,
                provision_trash: !no_trash,
            };
            let zone = fs.create_zone(&parse(&path)?, &key, &options).await?;
            if zone.data_suite == DataSuite::CtrHdfs {
                note(UNAUTHENTICATED);
            }
            show(&zone, output)
        }
        ZoneCommand::ProvisionTrash { path } => provision_trash(&fs, &parse(&path)?, output).await,
        ZoneCommand::List => list(&fs, output).await,
        ZoneCommand::Info { path } => show(&fs.zone(&parse(&path)?).await?, output),
        ZoneCommand::Reencrypt { path, cancel: true, .. } => {
            report(&fs.cancel_reencryption(&parse(&path)?).await?, output)
        }
        ZoneCommand::Reencrypt {
            path, throttle, wait, ..
        } => reencrypt(&fs, &parse(&path)?, throttle, wait, output).await,
        ZoneCommand::Rekey { path, pace } => {
            let fs = session.files()?;
            rewrite::run(fs, &parse(&path)?, &rewrite::Wanted::zone(&pace), output).await
        }
        ZoneCommand::Adopt(args) => adopt::run(session, args, output).await,
        ZoneCommand::Proof(args) => proof(&fs, args, output).await,
        ZoneCommand::Status { path: Some(path) } => report(&fs.reencryption(&parse(&path)?).await?, output),
        ZoneCommand::Status { path: None } => statuses(&fs, output).await,
    }
}

fn parse(path: &str) -> Result<ZonePath, Error> {
    Ok(ZonePath::parse(path.as_bytes())?)
}

async fn provision_trash(fs: &ZoneFs, path: &ZonePath, output: Output) -> Result<(), Error> {
    let stat = fs.provision_trash(path).await?;
    output.result(&stat, || {
        format!("{}: the trash of the zone's users", one_line(stat.path.as_str()))
    })
}

async fn list(fs: &ZoneFs, output: Output) -> Result<(), Error> {
    let mut zones = fs.zones().await?;
    zones.sort_by(|a, b| a.path.cmp(&b.path));
    if output.is_json() {
        return zones.iter().try_for_each(|zone| output.result(zone, String::new));
    }
    let rows: Vec<_> = zones.iter().map(row).collect();
    crate::output::print(&table(["PATH", "KEY", "SUITE", "FILES", "CREATED"], &rows))
}

fn row(zone: &Zone) -> [String; 5] {
    [
        zone.path.to_string(),
        zone.key_name.to_string(),
        zone.data_suite.to_string(),
        files_text(zone),
        time_text(zone.created_ms),
    ]
}

/// How many files a zone has, and how many beside them it has to encrypt yet.
fn files_text(zone: &Zone) -> String {
    let encrypted = zone.files.iter().map(|count| count.files).sum::<u64>();
    match zone.adoption {
        Some(Adoption {
            ended: false,
            looked,
            left,
        }) => format!("{encrypted}, {}{left} to adopt", at_least(looked)),
        _ => encrypted.to_string(),
    }
}

/// Before a number of files that may grow until all were looked at.
const fn at_least(looked: bool) -> &'static str {
    if looked { "" } else { "at least " }
}

fn show(zone: &Zone, output: Output) -> Result<(), Error> {
    output.result(zone, || zone_text(zone))
}

fn zone_text(zone: &Zone) -> String {
    let suite = match zone.data_suite {
        DataSuite::Gcm => format!("{}, in frames of {}", zone.data_suite, zone.frame),
        DataSuite::CtrHdfs => format!("{}, not authenticated", zone.data_suite),
        DataSuite::Plain => format!("{}, not encrypted", zone.data_suite),
    };
    let mut text = format!(
        "zone     {}\nid       {}\nkey      {} (EDEK suite {})\nsuite    {}\ncreated  {}\nEDEKs    {} in stock\n",
        zone.path,
        zone.zone_id,
        zone.key_name,
        zone.edek_suite,
        suite,
        time_text(zone.created_ms),
        zone.edeks_in_stock
    );
    if let Some(adoption) = zone.adoption.filter(|adoption| !adoption.ended) {
        text.push_str(&format!(
            "adopts   {}{} files that are not encrypted yet; go on with: strongroom zone adopt {}\n",
            at_least(adoption.looked),
            adoption.left,
            zone.path
        ));
        for path in zone.not_encrypted.iter().take(NAMED_MAX) {
            text.push_str(&format!("left     {}\n", one_line(path.as_str())));
        }
        let named = NAMED_MAX.min(zone.not_encrypted.len()) as u64;
        if named > 0 && adoption.left > named {
            text.push_str("left     … and more; --json names up to 100 of those in directories that you may list\n");
        }
    }
    if zone.files.is_empty() {
        text.push_str("files    none");
    }
    let lines: Vec<String> = zone
        .files
        .iter()
        .map(|count| format!("files    {} under {}@{}", count.files, zone.key_name, count.key_version))
        .collect();
    text + &lines.join("\n")
}

/// The status of all re-encryptions, in HDFS' columns and two more.
async fn statuses(fs: &ZoneFs, output: Output) -> Result<(), Error> {
    let mut all = fs.reencryptions().await?;
    all.sort_by(|a, b| a.zone_path.cmp(&b.zone_path));
    if output.is_json() {
        return all.iter().try_for_each(|status| output.result(status, String::new));
    }
    let headings = [
        "ZONE",
        "STATUS",
        "KEY",
        "STARTED",
        "CANCELED",
        "ENDED",
        "FILES",
        "FAILED",
        "RATE",
        "LEFT",
        "LAST FILE",
    ];
    let rows: Vec<_> = all.iter().map(status_row).collect();
    crate::output::print(&table(headings, &rows))
}

fn status_row(status: &Reencryption) -> [String; 11] {
    let is_canceled = status.state == ReencryptionState::Canceled;
    [
        status.zone_path.to_string(),
        state_text(status.state).to_owned(),
        format!("{}@{}", status.key_name, status.target_version),
        time_text(status.started_ms),
        if is_canceled { "yes" } else { "no" }.to_owned(),
        status.finished_ms.map_or_else(|| "-".to_owned(), time_text),
        status.files_done.to_string(),
        status.failures.to_string(),
        format!("{}/s", status.rate),
        status
            .seconds_left
            .map_or_else(|| status.files_left.to_string(), |left| format!("{left} s")),
        one_line(status.last_file.as_deref().unwrap_or("-")).into_owned(),
    ]
}

const fn state_text(state: ReencryptionState) -> &'static str {
    match state {
        ReencryptionState::None => "none",
        ReencryptionState::Running => "running",
        ReencryptionState::Completed => "completed",
        ReencryptionState::Paused => "paused",
        ReencryptionState::Canceled => "canceled",
    }
}

async fn reencrypt(
    fs: &ZoneFs,
    path: &ZonePath,
    throttle: Option<u32>,
    wait: bool,
    output: Output,
) -> Result<(), Error> {
    let mut progress = fs.start_reencryption(path, throttle).await?;
    let mut told = String::new();
    // Waits for as long as it takes, which is what was asked for, and says what holds it up.
    while wait && progress.state == ReencryptionState::Running {
        tokio::time::sleep(POLL_INTERVAL).await;
        progress = fs.reencryption(path).await?;
        if progress.message != told {
            told.clone_from(&progress.message);
            tell_obstacle(path, &told, output);
        }
    }
    report(&progress, output)?;
    if wait && progress.failures > 0 {
        return Err(Error::Reencryption {
            zone: path.to_string(),
            failures: progress.failures,
        });
    }
    if wait && progress.state != ReencryptionState::Completed {
        return Err(Error::Stopped {
            zone: path.to_string(),
            state: state_text(progress.state),
            message: progress.message,
        });
    }
    if let (true, Some(through)) = (wait && !output.is_json(), progress.target_version.0.checked_sub(1)) {
        note(&format!(
            "strongroom: no file needs {key}@{through} or older any more; for the key service: strongroom zone proof {path} --through-version {through} -o FILE",
            key = progress.key_name
        ));
    }
    Ok(())
}

/// Writes the proof to its file, which must not exist yet.
async fn proof(fs: &ZoneFs, args: ZoneProofArgs, output: Output) -> Result<(), Error> {
    let through = KeyVersion(args.through_version);
    let signed = match (&args.path, args.zone_id) {
        (Some(path), _) => fs.prove_zone(&parse(path)?, through).await?,
        (None, Some(zone)) => fs.prove_zone_id(zone, args.key.as_ref(), through).await?,
        (None, None) => {
            let message = "name the zone by its path or with --zone-id".to_owned();
            return Err(Error::Usage { message });
        }
    };
    write_new(&args.output, &signed.to_bytes()).map_err(Error::local("cannot write", &args.output))?;
    let document = serde_json::json!({"proof": args.output, "through_version": through.0});
    output.result(&document, || {
        format!(
            "{}: no key version up to {through} is in use, signed by the metadata service",
            args.output.display()
        )
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn tell_obstacle(path: &ZonePath, obstacle: &str, output: Output) {
    if !obstacle.is_empty() && !output.is_json() {
        note(&format!("strongroom: re-encryption of {path} waits: {obstacle}"));
    }
}

fn report(progress: &Reencryption, output: Output) -> Result<(), Error> {
    output.result(progress, || progress_text(progress))
}

fn progress_text(progress: &Reencryption) -> String {
    let zone = &progress.zone_path;
    if progress.state == ReencryptionState::None {
        return format!("{zone}: no re-encryption was ever asked for");
    }
    let mut text = format!(
        "{zone}: {}, to version {}: {} files done, {} left, {} failed",
        state_text(progress.state),
        progress.target_version,
        progress.files_done,
        progress.files_left,
        progress.failures
    );
    if let Some(left) = progress.seconds_left {
        text.push_str(&format!("; {} a second, {left} s to go", progress.rate));
    }
    if !progress.message.is_empty() {
        text.push_str(&format!("; {}", progress.message));
    }
    text
}
