//! What a user may expunge: of the checkpoints in their trash those that they could remove for good. As in HDFS, somebody else's
//! directory that they moved there with one of their own stays until the service itself removes it when its time is over.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_kv::{Reader, Store};
use strongroom_proto::FileId;

use super::emptying::{REMOVED_AT_ONCE, Rule, Trash, old_ones, where_it_is};
use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::{clearing::check_tree, resolve::child},
    schema::{access, keys, records},
};

/// Checkpoints by the ids of their directories, and `Current` before it is one. What is in neither was not looked at yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    /// Those that may be removed.
    may: BTreeSet<FileId>,
    /// Why others may not be.
    kept: BTreeMap<FileId, String>,
}

impl Survey {
    pub(super) fn allows(&self, checkpoint: FileId) -> bool {
        self.may.contains(&checkpoint)
    }

    pub(super) fn why_not(&self, checkpoint: FileId) -> Option<&str> {
        self.kept.get(&checkpoint).map(String::as_str)
    }

    /// Looks at checkpoints that are to be removed, as many as one call removes.
    pub(super) async fn of(
        store: &impl Store,
        who: &Caller,
        trashes: &[Trash],
        rule: Rule,
    ) -> Result<Self, MetadataError> {
        let mut view = store.snapshot().await?;
        let mut survey = Self::default();
        for trash in trashes {
            if !survey.look_at(&mut view, who, trash, rule).await? {
                break;
            }
        }
        Ok(survey)
    }

    /// Says whether there is time and room for more.
    async fn look_at(
        &mut self,
        view: &mut impl Reader,
        who: &Caller,
        trash: &Trash,
        rule: Rule,
    ) -> Result<bool, MetadataError> {
        let key = keys::trash(&trash.user, trash.directory);
        let record = access::record::<records::Trash>(view, &key, "trash").await?;
        let (Some(record), Some(found)) = (record, where_it_is(view, trash).await?) else {
            return Ok(true);
        };
        let mut out_of_time = None;
        for (name, entry) in old_ones(view, &found, &record, rule).await? {
            if self.may.len() >= REMOVED_AT_ONCE || (!self.may.is_empty() && !found.quotas.is_empty()) {
                return Ok(false);
            }
            let checkpoint = child(&found, &name, entry)?;
            if let Some(why) = &out_of_time {
                self.kept.insert(checkpoint.id, String::clone(why));
                continue;
            }
            match check_tree(view, who, &checkpoint).await {
                Ok(()) => _ = self.may.insert(checkpoint.id),
                Err(error @ MetadataError::Forbidden(_)) => _ = self.kept.insert(checkpoint.id, error.to_string()),
                Err(error @ MetadataError::TooLongToCheck(_)) => {
                    self.kept.insert(checkpoint.id, error.to_string());
                    out_of_time = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(out_of_time.is_none())
    }
}
