//! Checking what is stored against what always holds (`docs/formats/metadata-store.md`), page by page, and repairing what can be:
//! what is derived from other records is made anew, and what nothing refers to is removed. Each repair is a transaction that looks
//! again. No repair removes an entry, a body, or a block that is recorded.

mod account;
mod blocks;
mod body;
mod counters;
mod entries;
mod jobs;
mod nodes;
mod orphans;
mod quotas;
mod zones;

use std::collections::HashMap;

use strongroom_kv::{Reader, Store};
use strongroom_proto::{FileId, ZoneId, ZonePath, metadata::v1 as pb};

pub(crate) use self::{account::account_for, blocks::list_replicas};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::resolve::climb,
    schema::{access, keys},
    zones::source::EdekSource,
};

/// Records in one page.
const ROWS_PER_PAGE: usize = 200;

/// A superuser's question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) who: Caller,
    pub(crate) after: Vec<u8>,
    pub(crate) directory: Option<FileId>,
    pub(crate) repair: bool,
    pub(crate) sample_edeks: usize,
}

/// One page of a part.
pub(crate) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    part: pb::CheckedPart,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let page = match part {
        pb::CheckedPart::Entries => entries::check(core, question).await?,
        pb::CheckedPart::Places => orphans::places(core, question).await?,
        pb::CheckedPart::Bodies => orphans::bodies(core, question).await?,
        pb::CheckedPart::OpenFiles => orphans::open_files(core, question).await?,
        pb::CheckedPart::Index => orphans::index(core, question).await?,
        pb::CheckedPart::Plain => orphans::plain(core, question).await?,
        pb::CheckedPart::Zones => zones::check(core, question).await?,
        pb::CheckedPart::Counters => counters::check(core, question).await?,
        pb::CheckedPart::Jobs => jobs::check(core, question).await?,
        pb::CheckedPart::Nodes => nodes::check(core, question).await?,
        pb::CheckedPart::Unspecified => {
            return Err(MetadataError::Field {
                field: "part",
                rule: "one of those known".to_owned(),
            });
        }
    };
    for finding in &page.findings {
        let path = String::from_utf8_lossy(&finding.path);
        tracing::warn!(kind = ?finding.kind(), %path, what = finding.what, repaired = finding.repaired, "fsck found");
    }
    Ok(page)
}

fn finding(kind: pb::FindingKind, path: impl Into<bytes::Bytes>, what: impl Into<String>) -> pb::Finding {
    pb::Finding {
        kind: kind.into(),
        path: path.into(),
        what: what.into(),
        repaired: false,
    }
}

/// The rows of a table behind where the page before ended, and where the next one begins.
async fn rows(
    reader: &mut impl Reader,
    range: keys::KeyRange,
    after: &[u8],
) -> Result<(Vec<(bytes::Bytes, bytes::Bytes)>, bytes::Bytes), MetadataError> {
    let range = if after.is_empty() { range } else { range.after(after) };
    let found = access::page(reader, &range, ROWS_PER_PAGE).await?;
    let last = found.last().filter(|_| found.len() == ROWS_PER_PAGE);
    let next = last.map(|(key, _)| key.clone()).unwrap_or_default();
    Ok((found, next))
}

/// A directory as it is reached from the root.
#[derive(Debug, Clone)]
struct Directory {
    path: ZonePath,
    zone: Option<ZoneId>,
}

/// The directories that were asked about in one page.
#[derive(Default)]
struct Directories(HashMap<FileId, Option<Directory>>);

impl Directories {
    /// A directory; none if it is gone, being removed, or not reached for a defect that is found elsewhere.
    async fn get(
        &mut self,
        reader: &mut impl Reader,
        who: &Caller,
        id: FileId,
    ) -> Result<Option<Directory>, MetadataError> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let found = match climb(reader, who, id).await {
            Ok(found) => found,
            Err(
                MetadataError::Corrupt { .. }
                | MetadataError::Parse(_)
                | MetadataError::TooDeep(_)
                | MetadataError::NotADirectory(_),
            ) => None,
            Err(error) => return Err(error),
        };
        let found = found.map(|found| Directory {
            path: found.path,
            zone: found.zone.map(|zone| zone.id),
        });
        self.0.insert(id, found.clone());
        Ok(found)
    }
}
