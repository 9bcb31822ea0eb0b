//! Moving files and directories to another zone (ADR 37). The token gives each file an EDEK for it, at requests that the caller signs and
//! this service only presents.
//!
//! A file moves in one transaction. A directory is a job that its caller's client drives: files are listed (`list`), their new EDEKs are
//! staged beside the old ones (`stage`), and when none is missing the directory's entry moves (`finish`), and with it all below it. The
//! background then puts the new EDEKs in the place of the old ones, or takes them away if the job was canceled (`tidy`).
//!
//! The directory's entry names the job until it moves. Whoever puts a file below it meets that name on the walk that his permissions
//! take, and leaves the file on the job's list.

pub(crate) mod begin;
pub(crate) mod finish;
pub(crate) mod list;
pub(crate) mod present;
pub(crate) mod single;
pub(crate) mod stage;
pub(crate) mod staged;
pub(crate) mod tidy;

use strongroom_kv::Reader;
use strongroom_proto::{JobId, ZoneId, ZonePath, transfer::Place};

use crate::{
    authority::Caller,
    error::MetadataError,
    schema::{
        access,
        records::{Body, Job, JobState, Transfer, TransferPhase},
    },
};

/// What EDEKs are bound to before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) from: Place,
    pub(crate) to: Place,
}

impl Route {
    /// Between two zones as they are now.
    async fn between(reader: &mut impl Reader, from: ZoneId, to: ZoneId) -> Result<Self, MetadataError> {
        Ok(Self {
            from: place(reader, from).await?,
            to: place(reader, to).await?,
        })
    }

    /// The one of a job.
    async fn of(reader: &mut impl Reader, transfer: &Transfer) -> Result<Self, MetadataError> {
        let (from, to) = (transfer.from_zone.as_ref(), transfer.to_zone.as_ref());
        Self::between(reader, from.try_into()?, to.try_into()?).await
    }
}

/// Refuses a file that HDFS wrote and nobody since: nothing authenticates it, which only zones of its suite and key put up with.
fn check_has_code(body: &Body, path: &ZonePath) -> Result<(), MetadataError> {
    if !body.manifest_mac.is_empty() {
        return Ok(());
    }
    let why = "it is as HDFS wrote it, without a code that authenticates it; have somebody who may read it give it one: strongroom fs compact";
    Err(MetadataError::Transfer {
        path: path.clone(),
        why: why.to_owned(),
    })
}

async fn place(reader: &mut impl Reader, zone: ZoneId) -> Result<Place, MetadataError> {
    let record = access::zone(reader, zone).await?;
    let record = record.ok_or_else(|| MetadataError::ZoneGone(zone))?;
    Ok(Place {
        key: record.key_name.parse()?,
        zone,
    })
}

impl Job {
    /// What a transfer is about; an error for other jobs.
    pub(crate) fn moves(&self) -> Result<&Transfer, MetadataError> {
        self.transfer.as_ref().ok_or(MetadataError::Corrupt { what: "job" })
    }

    fn moves_mut(&mut self) -> Result<&mut Transfer, MetadataError> {
        self.transfer.as_mut().ok_or(MetadataError::Corrupt { what: "job" })
    }

    /// Whether a transfer's directory is at its destination.
    pub(crate) fn has_moved(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.phase() == TransferPhase::Folding)
    }

    /// Whether there is work for the background: a transfer that collects EDEKs waits for its client.
    pub(crate) fn has_work(&self) -> bool {
        self.transfer
            .as_ref()
            .is_none_or(|transfer| transfer.phase() != TransferPhase::Staging)
    }
}

/// The transfer of a caller. He alone goes on with it: what is staged is what he signed.
async fn own(reader: &mut impl Reader, who: &Caller, id: JobId) -> Result<Job, MetadataError> {
    let job = access::job(reader, id).await?;
    let job = job.filter(|job| job.transfer.is_some());
    let job = job.ok_or(MetadataError::NoSuchJob(id))?;
    if who.owns(&job.owner) {
        return Ok(job);
    }
    Err(MetadataError::Denied {
        who: format!("user {}", who.name),
        what: "go on with another user's move to another zone",
        remedy: "they may, and they and superusers may cancel it: strongroom job cancel",
    })
}

/// Refuses to go on with a transfer that does not collect EDEKs.
fn check_staging(job: &Job, id: JobId) -> Result<(), MetadataError> {
    let what = match (job.state(), job.moves()?.phase()) {
        (JobState::Running, TransferPhase::Staging) => return Ok(()),
        (JobState::Paused, TransferPhase::Staging) => "is paused; let it go on with: strongroom job resume",
        (JobState::Canceled, _) => "was canceled, so begin again; it was: strongroom job show",
        (_, TransferPhase::Folding) => "is done; look at it with: strongroom job show",
        _ => "was canceled and is being cleared away; begin again when that is done: strongroom job show",
    };
    Err(MetadataError::TransferStopped { id, what })
}
