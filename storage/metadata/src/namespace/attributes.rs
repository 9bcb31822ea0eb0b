//! Attributes of files and directories: mode, owner, group, time of modification.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZonePath, groups::GroupName, metadata::v1 as pb, transport::UserName};

use super::{
    permission::{Rights, check, check_owner, forbidden},
    resolve::{Found, find},
    stat::stat,
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    schema::{access, access::transact, records},
};

/// What is to be set, each if it is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// At most 0o7777. With an ACL, the group bits are its mask.
    pub(crate) mode: Option<u32>,
    pub(crate) mtime_ms: Option<u64>,
    pub(crate) owner: Option<UserName>,
    pub(crate) group: Option<GroupName>,
}

impl Attributes {
    /// Sets what is given.
    pub(crate) fn apply(&self, entry: &mut records::Entry) {
        if let Some(owner) = &self.owner {
            entry.owner = owner.as_str().to_owned();
        }
        if let Some(group) = &self.group {
            entry.group = group.as_str().to_owned();
        }
        entry.mode = self.mode.unwrap_or(entry.mode);
        entry.mtime_ms = self.mtime_ms.unwrap_or(entry.mtime_ms);
    }
}

/// Sets attributes, all or none.
pub(crate) async fn set(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    wanted: &Attributes,
) -> Result<pb::Stat, MetadataError> {
    // It would be anybody's right, and yet a write that others have to give way to.
    if *wanted == Attributes::default() {
        return Err(MetadataError::Field {
            field: "attributes",
            rule: "at least one has to be given".to_owned(),
        });
    }
    transact!(store, [who, call, path, wanted], |txn| set_in(
        txn, &who, &call, &path, &wanted
    ))
    .await
}

async fn set_in(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    wanted: &Attributes,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let mut found = find(txn, who, path).await?;
    check_all(who, &found, wanted)?;
    wanted.apply(&mut found.entry);
    access::put(txn, &found.key, &found.entry);
    let stat = stat(txn, &found).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

fn check_all(who: &Caller, found: &Found, wanted: &Attributes) -> Result<(), MetadataError> {
    if wanted.mode.is_some() {
        check_owner(who, found)?;
    }
    if wanted.mtime_ms.is_some() && !who.owns(&found.entry.owner) {
        check(who, found, Rights::WRITE, &found.path)?;
    }
    if wanted.owner.is_some() && !who.superuser {
        return Err(forbidden(
            who,
            found,
            "to be a superuser to give it away".to_owned(),
            &found.path,
        ));
    }
    if let Some(group) = &wanted.group {
        check_owner(who, found)?;
        if !who.superuser && !who.is_in(group.as_str()) {
            let right = format!("to be in the group {group} to give it to that");
            return Err(forbidden(who, found, right, &found.path));
        }
    }
    Ok(())
}
