//! What a user may expunge: of the checkpoints in their trash those that they could remove for good. As in HDFS, somebody else's
//! directory that they moved there with one of their own stays until the service itself removes it when its time is over.

use strongroom_kv::{Reader, Store};
use strongroom_proto::FileId;
use tokio::time::Instant;

use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::{
        clearing::{check_small, check_tree},
        resolve::Found,
    },
};

/// Whose work it is.
#[derive(Debug, Clone)]
pub(crate) enum For {
    /// The service's own, or a superuser's: all of it may go.
    Anybody,
    /// A user's, with what is known of one large checkpoint.
    User { who: Caller, looked: Option<Looked> },
}

/// What came of looking through a checkpoint that is too large for that to be done in the transaction.
#[derive(Debug, Clone)]
pub(crate) struct Looked {
    /// Its directory.
    checkpoint: FileId,
    /// Why it stays, if it does.
    why_not: Option<String>,
}

/// Whether a checkpoint may go.
#[derive(Debug)]
pub(crate) enum Verdict {
    May,
    /// And why not.
    Not(String),
    /// It has to be looked through first.
    Unknown,
}

impl For {
    pub(super) fn new(who: &Caller, looked: Option<Looked>) -> Self {
        if who.superuser {
            return Self::Anybody;
        }
        let who = who.clone();
        Self::User { who, looked }
    }

    /// What becomes of a checkpoint. One that nobody looked through before is looked through, up to so many `names`.
    pub(super) async fn verdict(
        &self,
        txn: &mut impl Reader,
        checkpoint: &Found,
        names: &mut usize,
    ) -> Result<Verdict, MetadataError> {
        let Self::User { who, looked } = self else {
            return Ok(Verdict::May);
        };
        if let Some(looked) = looked.as_ref().filter(|looked| looked.checkpoint == checkpoint.id) {
            return Ok(looked.why_not.clone().map_or(Verdict::May, Verdict::Not));
        }
        match check_small(txn, who, checkpoint, names).await {
            Ok(true) => Ok(Verdict::May),
            Ok(false) => Ok(Verdict::Unknown),
            Err(error) => why_not(error).map(Verdict::Not),
        }
    }
}

impl Looked {
    /// Looks through a checkpoint, until `deadline` at most; none if it went meanwhile.
    pub(super) async fn at(
        store: &impl Store,
        who: &Caller,
        checkpoint: &Found,
        deadline: Instant,
    ) -> Result<Option<Self>, MetadataError> {
        let why_not = match check_tree(store, who, checkpoint, deadline).await {
            Ok(()) => None,
            Err(MetadataError::NotFound(_)) => return Ok(None),
            Err(error) => Some(why_not(error)?),
        };
        Ok(Some(Self {
            checkpoint: checkpoint.id,
            why_not,
        }))
    }
}

/// Why a checkpoint stays, if that is what the error says.
fn why_not(error: MetadataError) -> Result<String, MetadataError> {
    match error {
        MetadataError::Forbidden(_) | MetadataError::TooLongToCheck(_) | MetadataError::TooDeep(_) => {
            Ok(error.to_string())
        }
        error => Err(error),
    }
}
