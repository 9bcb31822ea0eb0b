//! The trash: what users remove is kept for a while, as HDFS lays it out (ADR 34). In a zone that is
//! `<zone>/.Trash/<user>/Current/<path>`, for what is in no zone `/user/<user>/.Trash/Current/<path>`; checkpoints stand beside
//! `Current` under the time at which they were made.
//!
//! - `moving`: into the trash, in the transaction of the removal.
//! - `emptying`: checkpoints, and their end.
//! - `expunge`: what users end of them themselves, call by call.
//! - `verdict`: which of them a user may end.
//! - `round`: the duty of the background.

pub(crate) mod emptying;
pub(crate) mod expunge;
pub(crate) mod moving;
mod name;
pub(crate) mod provision;
pub(crate) mod round;
mod verdict;

use strongroom_kv::Txn;
use strongroom_proto::{FileId, ParseError};

use crate::{error::MetadataError, namespace::resolve::Found, quota::links::put_new, schema::records};

/// The directory in a zone's root or a user's home.
pub(crate) const TRASH: &str = ".Trash";
/// What was removed since the last checkpoint.
const CURRENT: &str = "Current";
/// Where the homes of users are, as in HDFS.
const HOMES: &str = "user";

/// Whose a directory of the trash is and what others may do there. No ACL of a directory above reaches it.
#[derive(Debug, Clone, Copy)]
struct Fresh<'a> {
    owner: &'a str,
    mode: u32,
    now_ms: u64,
}

impl Fresh<'_> {
    /// Makes a directory that is not there.
    fn make(&self, txn: &mut impl Txn, parent: &Found, name: &str) -> Result<Found, MetadataError> {
        let entry = records::Entry {
            id: FileId::generate().into(),
            mode: self.mode,
            owner: self.owner.to_owned(),
            group: parent.entry.group.clone(),
            mtime_ms: self.now_ms,
            ..records::Entry::default()
        };
        bounded(parent, name)?;
        put_new(txn, parent, name, entry)
    }
}

/// Refuses a path that could not be asked for.
fn bounded(parent: &Found, name: &str) -> Result<(), ParseError> {
    parent.path.join(name).map(drop)
}
