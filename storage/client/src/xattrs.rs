//! Extended attributes of files and directories, and how their values are written.

use std::collections::BTreeMap;

use bytes::Bytes;
use strongroom_proto::{
    RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, Stat, ZoneFs};

impl ZoneFs {
    /// Sets an attribute of what is at a path. Its name begins with `user.`.
    ///
    /// # Errors
    /// `permission-denied` without the right to write; `invalid-argument` for another name, more than 32 attributes or a value of more
    /// than 16 KiB.
    pub async fn set_xattr(&self, path: &ZonePath, name: &str, value: Bytes) -> Result<Stat, FsError> {
        self.change_xattr(path, name, Some(value)).await
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `not-found` if it is not there; `permission-denied` without the right to write.
    pub async fn remove_xattr(&self, path: &ZonePath, name: &str) -> Result<Stat, FsError> {
        self.change_xattr(path, name, None).await
    }

    async fn change_xattr(&self, path: &ZonePath, name: &str, value: Option<Bytes>) -> Result<Stat, FsError> {
        let request = pb::SetXattrRequest {
            path: path.into(),
            name: name.to_owned(),
            value,
            request_id: RequestId::generate().into(),
        };
        retry(Repeat::Harmless, || self.metadata().set_xattr(request.clone()))
            .await?
            .try_into()
    }

    /// The attributes of what is at a path, those of `names` or all.
    ///
    /// # Errors
    /// `not-found` for a name that is not there; `permission-denied` without the right to read.
    pub async fn xattrs(&self, path: &ZonePath, names: &[String]) -> Result<BTreeMap<String, Bytes>, FsError> {
        let request = pb::GetXattrsRequest {
            path: path.into(),
            names: names.to_vec(),
        };
        let told = retry(Repeat::Harmless, || self.metadata().get_xattrs(request.clone())).await?;
        Ok(told.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect())
    }
}
