//! Jobs: whether those to be worked on are found, and whether the lists of what they have yet to do are of jobs that go on.

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{JobId, metadata::v1 as pb};

use super::{Question, finding, rows};
use crate::{
    core::Core,
    error::MetadataError,
    jobs::record,
    schema::{
        access,
        access::transact,
        keys::{self, KeyRange},
        records::{Job, JobState},
    },
    transfer::staged,
    zones::source::EdekSource,
};

/// What a page is about, by the first byte of the cursor that leads to it.
fn tables() -> [KeyRange; 4] {
    [
        keys::jobs(),
        keys::all_running_jobs(),
        keys::all_transfers(),
        keys::all_removals(),
    ]
}

/// A page of jobs, or of a table that has rows for jobs.
pub(super) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let tables = tables();
    let at = question.after.first().map_or(Some(0), |letter| {
        tables.iter().position(|table| table.start.first() == Some(letter))
    });
    let Some(at) = at else {
        return Err(MetadataError::Field {
            field: "after",
            rule: "what the page before said".to_owned(),
        });
    };
    let following = tables.get(at + 1).map(|table| Bytes::from(table.start.clone()));
    let range = KeyRange {
        start: tables[at].start.clone(),
        end: tables[at].end.clone(),
    };
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, range, &question.after).await?;
    let mut page = pb::CheckPageResponse {
        next: if next.is_empty() {
            following.unwrap_or_default()
        } else {
            next
        },
        looked_at: found.len() as u64,
        ..pb::CheckPageResponse::default()
    };
    for (key, value) in found {
        let problem = match at {
            0 => of_job(&mut view, &key, value).await?,
            1 => of_mark(&mut view, &key).await?,
            2 => of_transfer(&mut view, &key).await?,
            _ => of_removal(&mut view, &key).await?,
        };
        let Some(problem) = problem else { continue };
        let mut found = finding(problem.kind, Bytes::new(), problem.what);
        if question.repair && problem.is_repaired {
            found.repaired = transact!(&core.store, [key], |txn| repair(txn, &key, at)).await?;
        }
        page.findings.push(found);
    }
    Ok(page)
}

/// What is wrong with a row.
struct Problem {
    kind: pb::FindingKind,
    what: String,
    /// Whether it can be.
    is_repaired: bool,
}

impl Problem {
    const fn job(what: String) -> Self {
        Self {
            kind: pb::FindingKind::Job,
            what,
            is_repaired: true,
        }
    }

    fn unreadable(what: &str, key: &[u8]) -> Self {
        Self {
            kind: pb::FindingKind::Unreadable,
            what: format!("the {what} {} cannot be read", hex::encode(&key[1..])),
            is_repaired: false,
        }
    }
}

/// A job; one that cannot be read is one that may go on.
async fn job(reader: &mut impl Reader, id: JobId) -> Result<Option<Job>, MetadataError> {
    match access::job(reader, id).await {
        Err(MetadataError::Corrupt { .. }) => Ok(Some(Job::default())),
        found => found,
    }
}

async fn of_job(reader: &mut impl Reader, key: &[u8], value: Bytes) -> Result<Option<Problem>, MetadataError> {
    let record: Option<Job> = access::decode(value, "job").ok();
    let (Some(id), Some(job)) = (keys::job_of(key), record) else {
        return Ok(Some(Problem::unreadable("record of the job", key)));
    };
    for (row, is_needed) in marks(id, &job) {
        if is_needed && !access::there(reader, &row).await? {
            let what =
                format!("job {id} is not over, and is not among those that are looked for: nobody goes on with it");
            return Ok(Some(Problem::job(what)));
        }
    }
    Ok(None)
}

/// The rows that say how a job stands, and whether each has to be there.
fn marks(id: JobId, job: &Job) -> [(Vec<u8>, bool); 2] {
    let is_worked_on = job.state() == JobState::Running && job.has_work();
    [
        (keys::job_running(job.kind(), id), is_worked_on),
        (keys::job_unfinished(id), !job.is_over()),
    ]
}

async fn of_mark(reader: &mut impl Reader, key: &[u8]) -> Result<Option<Problem>, MetadataError> {
    let Some(id) = keys::running_job_of(key) else {
        return Ok(Some(Problem::unreadable("row of a running job", key)));
    };
    let is_right = is_mark_right(reader, id, key).await?;
    let what = || format!("job {id} is among those that are worked on, or are not over, and should not be");
    Ok((!is_right).then(|| Problem::job(what())))
}

async fn is_mark_right(reader: &mut impl Reader, id: JobId, key: &[u8]) -> Result<bool, MetadataError> {
    Ok(match access::job(reader, id).await {
        Ok(Some(job)) => marks(id, &job).iter().any(|(row, needed)| *needed && row == key),
        Ok(None) => false,
        Err(MetadataError::Corrupt { .. }) => true,
        Err(error) => return Err(error),
    })
}

/// A file on the list of a transfer.
async fn of_transfer(reader: &mut impl Reader, key: &[u8]) -> Result<Option<Problem>, MetadataError> {
    let (Some(id), Some(file)) = (keys::job_of(key), keys::transfer_of(key)) else {
        return Ok(Some(Problem::unreadable("row of a move", key)));
    };
    if job(reader, id).await?.is_some_and(|job| !job.is_over()) {
        return Ok(None);
    }
    let staged = match access::body(reader, file).await {
        Ok(Some(body)) => staged::has_job(&body, id).unwrap_or(true),
        Ok(None) => false,
        Err(MetadataError::Corrupt { .. }) => true,
        Err(error) => return Err(error),
    };
    let what = format!("file {file} is on the list of job {id}, which is over");
    Ok(Some(match staged {
        false => Problem::job(what),
        true => Problem {
            is_repaired: false,
            ..Problem::job(format!(
                "{what}, and has a second EDEK of it: that keeps a key version in use"
            ))
        },
    }))
}

/// A directory that a job has yet to empty, or to look through.
async fn of_removal(reader: &mut impl Reader, key: &[u8]) -> Result<Option<Problem>, MetadataError> {
    let (Some(id), Some(directory)) = (keys::job_of(key), keys::removal_of(key)) else {
        return Ok(Some(Problem::unreadable("row of a removal", key)));
    };
    let job = job(reader, id).await?;
    if job.as_ref().is_some_and(|job| !job.is_over()) {
        return Ok(None);
    }
    let what = format!("directory {directory} is on the list of job {id}, which is over");
    Ok(Some(Problem {
        // What was cut off is nowhere but here: it stays to be seen.
        is_repaired: job.is_some_and(|job| job.transfer.is_some()),
        ..Problem::job(what)
    }))
}

/// Looks again, and mends a row of one of the tables. Says whether that changed anything.
async fn repair(txn: &mut impl Txn, key: &[u8], table: usize) -> Result<bool, MetadataError> {
    if table == 0 {
        let id = keys::job_of(key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let found = access::job(txn, id).await?;
        found.iter().for_each(|job| record::put(txn, id, job));
        return Ok(found.is_some());
    }
    let problem = match table {
        1 => of_mark(txn, key).await?,
        2 => of_transfer(txn, key).await?,
        _ => of_removal(txn, key).await?,
    };
    let is_repaired = problem.is_some_and(|problem| problem.is_repaired);
    if is_repaired {
        txn.delete(key);
    }
    Ok(is_repaired)
}
