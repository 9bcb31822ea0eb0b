//! The second EDEK of a file, for the zone that it is being moved to. Until the move it only waits; from then on, and until it takes the
//! place of the first, it is the one that opens the file. It has an index entry of its own, in its own zone.

use bytes::Bytes;
use strongroom_kv::{Reader, Txn};
use strongroom_proto::{FileId, JobId, ZonePath};

use crate::{
    error::MetadataError,
    namespace::resolve::Found,
    schema::{
        access, counted,
        keys::{self, Stage},
        records::{Body, Edek, Entry, Staged},
    },
};

const BROKEN: MetadataError = MetadataError::Corrupt { what: "file" };

/// The EDEK that opens a file; none of one that is not encrypted.
pub(crate) async fn current<'a>(reader: &mut impl Reader, body: &'a Body) -> Result<Option<&'a Edek>, MetadataError> {
    if body.plain.is_some() {
        return Ok(None);
    }
    let edek = match &body.staged {
        Some(staged) if has_moved(reader, staged).await? => staged.edek.as_ref(),
        _ => body.edek.as_ref(),
    };
    edek.ok_or(BROKEN).map(Some)
}

/// The EDEK that opens the file at `path`, which a move to another zone takes.
pub(super) async fn needed<'a>(
    reader: &mut impl Reader,
    body: &'a Body,
    path: &ZonePath,
) -> Result<&'a Edek, MetadataError> {
    let edek = current(reader, body).await?;
    edek.ok_or_else(|| MetadataError::Transfer {
        path: path.clone(),
        why: "it is not encrypted yet; go on with what has its zone encrypt it: strongroom zone adopt".to_owned(),
    })
}

async fn has_moved(reader: &mut impl Reader, staged: &Staged) -> Result<bool, MetadataError> {
    let job = access::job(reader, staged.job()?).await?;
    Ok(job.is_some_and(|job| job.has_moved()))
}

impl Staged {
    pub(crate) fn job(&self) -> Result<JobId, MetadataError> {
        Ok(self.job_id.as_ref().try_into()?)
    }
}

/// Stages an EDEK for a file of a job that has none.
pub(super) fn put(
    txn: &mut impl Txn,
    job: JobId,
    file: FileId,
    body: &mut Body,
    edek: Edek,
) -> Result<(), MetadataError> {
    counted::put_index(txn, &edek, file)?;
    txn.delete(&keys::transfer(job, Stage::Missing, file));
    txn.put(&keys::transfer(job, Stage::Staged, file), Bytes::new());
    body.staged = Some(Staged {
        job_id: job.into(),
        edek: Some(edek),
    });
    access::put(txn, &keys::body(file), body);
    Ok(())
}

/// Puts the EDEK of a move that is over in the place of the one before.
pub(super) fn fold(txn: &mut impl Txn, file: FileId, body: &mut Body) -> Result<(), MetadataError> {
    let Some(staged) = body.staged.take() else {
        return Ok(());
    };
    counted::delete_index(txn, body.edek.as_ref().ok_or(BROKEN)?, file)?;
    txn.delete(&keys::transfer(staged.job()?, Stage::Staged, file));
    body.edek = Some(staged.edek.ok_or(BROKEN)?);
    access::put(txn, &keys::body(file), body);
    Ok(())
}

/// Does that with a file that is to be moved again before the background came to it.
pub(super) async fn settle(txn: &mut impl Txn, file: FileId, body: &mut Body) -> Result<(), MetadataError> {
    match &body.staged {
        Some(staged) if has_moved(txn, staged).await? => fold(txn, file, body),
        _ => Ok(()),
    }
}

/// Takes the EDEK of a move that does not come about from a file.
pub(super) fn unstage(txn: &mut impl Txn, file: FileId, body: &mut Body) -> Result<(), MetadataError> {
    drop_index(txn, file, body)?;
    body.staged = None;
    access::put(txn, &keys::body(file), body);
    Ok(())
}

/// Takes the second EDEK of a file out of the index, and the file from its job.
pub(crate) fn drop_index(txn: &mut impl Txn, file: FileId, body: &Body) -> Result<(), MetadataError> {
    let Some(staged) = &body.staged else { return Ok(()) };
    counted::delete_index(txn, staged.edek.as_ref().ok_or(BROKEN)?, file)?;
    txn.delete(&keys::transfer(staged.job()?, Stage::Staged, file));
    Ok(())
}

/// Leaves a file that came below a directory that is being moved to the job, unless that has its EDEK.
pub(crate) async fn arrive(txn: &mut impl Txn, job: JobId, file: FileId) -> Result<(), MetadataError> {
    if !access::there(txn, &keys::transfer(job, Stage::Staged, file)).await? {
        txn.put(&keys::transfer(job, Stage::Missing, file), Bytes::new());
    }
    Ok(())
}

/// Leaves a new file below a directory that is being moved to the job.
pub(crate) fn begin_in(txn: &mut impl Txn, parent: &Found, entry: &Entry) -> Result<(), MetadataError> {
    if let (Some(job), false) = (parent.moving, entry.is_directory()) {
        txn.put(&keys::transfer(job, Stage::Missing, entry.file_id()?), Bytes::new());
    }
    Ok(())
}

/// What a rename within a zone is to moves out of it: files come to a directory that is being moved, or leave one; directories do not,
/// since all that they hold would have to be looked at.
pub(crate) async fn carry(txn: &mut impl Txn, moved: &Found, into: &Found) -> Result<(), MetadataError> {
    let Some(job) = moved.moving.or(into.moving) else {
        return Ok(());
    };
    if moved.entry.is_directory() {
        let path = moved.path.clone();
        return Err(MetadataError::Moving { path, job });
    }
    if let Some(left) = moved.moving.filter(|left| Some(*left) != into.moving) {
        leave(txn, left, moved.id).await?;
    }
    match into.moving {
        Some(job) => arrive(txn, job, moved.id).await,
        None => Ok(()),
    }
}

async fn leave(txn: &mut impl Txn, job: JobId, file: FileId) -> Result<(), MetadataError> {
    txn.delete(&keys::transfer(job, Stage::Missing, file));
    let mut body = access::body(txn, file).await?.ok_or(BROKEN)?;
    if has_job(&body, job)? {
        unstage(txn, file, &mut body)?;
    }
    Ok(())
}

/// Whether the second EDEK of a file is of a job.
pub(crate) fn has_job(body: &Body, job: JobId) -> Result<bool, MetadataError> {
    let of = body.staged.as_ref().map(Staged::job).transpose()?;
    Ok(of == Some(job))
}
