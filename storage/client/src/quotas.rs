//! Quotas of directories.

use serde::Serialize;
use strongroom_proto::{
    RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, ZoneFs, values::text};

/// What a directory may hold with all below it, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// The directory.
    #[serde(serialize_with = "text")]
    pub path: ZonePath,
    /// Files and directories, itself included.
    pub names: u64,
    /// At most; no bound if none.
    pub names_max: Option<u64>,
    /// Plaintext bytes of files, whatever the number of replicas.
    pub bytes: u64,
    /// At most; no bound if none.
    pub bytes_max: Option<u64>,
    /// Whether what is there was not counted to the end. Then nothing is refused, and setting the quota again counts anew.
    pub counting: bool,
}

/// A change of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QuotaLimit {
    /// It stays as it is.
    #[default]
    Keep,
    /// No bound.
    Clear,
    /// So many at most.
    Set(u64),
}

impl QuotaLimit {
    const fn wire(self) -> (Option<u64>, bool) {
        match self {
            Self::Keep => (None, false),
            Self::Clear => (None, true),
            Self::Set(limit) => (Some(limit), false),
        }
    }
}

impl TryFrom<pb::Quota> for Quota {
    type Error = FsError;

    fn try_from(wire: pb::Quota) -> Result<Self, FsError> {
        Ok(Self {
            path: ZonePath::parse(&wire.path).map_err(FsError::metadata_answer)?,
            names: wire.names,
            names_max: wire.names_max,
            bytes: wire.bytes,
            bytes_max: wire.bytes_max,
            counting: wire.counting,
        })
    }
}

impl ZoneFs {
    /// Changes the quota of a directory; answers with the quotas that it is under then, its own last. What it holds is counted if it
    /// had none.
    ///
    /// # Errors
    /// `permission-denied` for other than superusers, `not-a-directory`, `not-found`, `invalid-argument` for no names at all.
    pub async fn set_quota(
        &self,
        path: &ZonePath,
        names: QuotaLimit,
        bytes: QuotaLimit,
    ) -> Result<Vec<Quota>, FsError> {
        let ((names_max, clear_names), (bytes_max, clear_bytes)) = (names.wire(), bytes.wire());
        let request = pb::SetQuotaRequest {
            path: path.into(),
            names_max,
            bytes_max,
            clear_names,
            clear_bytes,
            request_id: RequestId::generate().into(),
        };
        let set = retry(Repeat::Harmless, || self.metadata().set_quota(request.clone())).await?;
        set.quotas.into_iter().map(Quota::try_from).collect()
    }

    /// The quotas that a directory is under, from the root on, its own among them.
    ///
    /// # Errors
    /// `permission-denied` for whoever may not list it, `not-a-directory`, `not-found`.
    pub async fn quotas(&self, path: &ZonePath) -> Result<Vec<Quota>, FsError> {
        let request = pb::GetQuotasRequest { path: path.into() };
        let told = retry(Repeat::Harmless, || self.metadata().get_quotas(request.clone())).await?;
        told.quotas.into_iter().map(Quota::try_from).collect()
    }
}
