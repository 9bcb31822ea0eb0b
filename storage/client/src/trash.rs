//! The trash: what is removed into it is kept for a while, in the zone that it was in.

use serde::Serialize;
use strongroom_proto::{
    JobId, RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, Stat, ZoneFs};

/// What became of something that was to be moved into the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is there, at this path.
    ToTrash(ZonePath),
    /// It is gone for good: the service keeps no trash, or it was in the trash already. A job clears away what it held.
    ForGood(Option<JobId>),
}

/// What was done to one trash of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expunged {
    /// Its directory; empty if no path leads there.
    pub path: String,
    /// The checkpoint that was made of what was removed since the last one, by its name there.
    pub checkpoint: Option<String>,
    /// The checkpoints that were removed for good, by their names.
    pub removed: Vec<String>,
    /// Those that the user may not remove, since somebody else's directory is in them; the service does when their time is over.
    pub kept: Vec<Kept>,
}

/// A checkpoint that stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name in the trash.
    pub name: String,
    /// Why, as a sentence.
    pub why: String,
}

impl ZoneFs {
    /// Moves a file, an empty directory, or with `recursive` a directory with all it holds into the user's trash. From there it can
    /// be renamed back.
    ///
    /// # Errors
    /// `not-found` or `not-empty`; `cross-zone`, `invalid-move`, `permission-denied` and others where it cannot be moved into the trash, which
    /// [`ZoneFs::remove`] then removes for good.
    pub async fn move_to_trash(&self, path: &ZonePath, recursive: bool) -> Result<Removed, FsError> {
        let request = pb::RemoveRequest {
            path: path.into(),
            recursive,
            request_id: RequestId::generate().into(),
            to_trash: true,
        };
        let removed = retry(Repeat::Harmless, || self.metadata().remove(request.clone())).await?;
        if removed.trash_path.is_empty() {
            return Ok(Removed::ForGood(job_of(&removed)?));
        }
        let path = ZonePath::parse(&removed.trash_path);
        path.map(Removed::ToTrash).map_err(FsError::metadata_answer)
    }

    /// Makes a checkpoint of what is in each of the user's trashes, and removes for good those that have been there for as long as
    /// the service keeps them; with `immediate` all that is there. What holds directories that the user could not remove is kept, and told.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn expunge(&self, immediate: bool) -> Result<Vec<Expunged>, FsError> {
        let mut request = pb::ExpungeRequest {
            immediate,
            ..pb::ExpungeRequest::default()
        };
        let mut all = Vec::new();
        loop {
            request.request_id = RequestId::generate().into();
            let page = retry(Repeat::Harmless, || self.metadata().expunge(request.clone())).await?;
            page.trashes.into_iter().for_each(|trash| enter(&mut all, trash.into()));
            if page.next.is_empty() {
                return Ok(all);
            }
            request.from = page.next;
        }
    }

    /// Makes the directory of a zone that holds its users' trash, or mends its mode.
    ///
    /// # Errors
    /// `not-found`; `not-in-zone` for other than the root of a zone; `permission-denied` for other than superusers.
    pub async fn provision_trash(&self, path: &ZonePath) -> Result<Stat, FsError> {
        let request = pb::ProvisionTrashRequest {
            path: path.into(),
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().provision_trash(request.clone()))
            .await?
            .try_into()
    }
}

/// Adds what was done to a trash to what was done before, perhaps to the same one.
fn enter(all: &mut Vec<Expunged>, page: Expunged) {
    match all.last_mut().filter(|last| last.path == page.path) {
        Some(last) => {
            last.checkpoint = last.checkpoint.take().or(page.checkpoint);
            last.removed.extend(page.removed);
            last.kept.extend(page.kept);
        }
        None => all.push(page),
    }
}

/// The job that clears away what a removed directory held, if there is one.
pub(crate) fn job_of(removed: &pb::RemoveResponse) -> Result<Option<JobId>, FsError> {
    match removed.job_id.as_ref() {
        [] => Ok(None),
        id => id.try_into().map(Some).map_err(FsError::metadata_answer),
    }
}

impl From<pb::ExpungedTrash> for Expunged {
    fn from(wire: pb::ExpungedTrash) -> Self {
        Self {
            path: String::from_utf8_lossy(&wire.path).into_owned(),
            checkpoint: Some(wire.checkpoint).filter(|name| !name.is_empty()),
            removed: wire.removed,
            kept: wire.kept.into_iter().map(Kept::from).collect(),
        }
    }
}

impl From<pb::KeptCheckpoint> for Kept {
    fn from(wire: pb::KeptCheckpoint) -> Self {
        let pb::KeptCheckpoint { name, why } = wire;
        Self { name, why }
    }
}
