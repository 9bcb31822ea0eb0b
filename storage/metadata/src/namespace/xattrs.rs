//! Extended attributes that users attach to files and directories, as HDFS has them: of the namespace `user.` alone. They belong to
//! the inode, and so are renamed and removed with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{
    ZonePath,
    limits::{XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX},
    metadata::v1 as pb,
};

use super::{
    permission::{Rights, check, check_attaching},
    resolve::{Found, find},
    stat::stat,
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    schema::{access, access::transact, keys, records},
};

/// An attribute and its value, or none to remove it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    name: String,
    value: Option<Bytes>,
}

impl Change {
    /// Parses a change.
    pub(crate) fn parse(name: String, value: Option<Bytes>) -> Result<Self, MetadataError> {
        check_name(&name)?;
        let bytes = value.as_ref().map_or(0, Bytes::len);
        if bytes > XATTR_VALUE_BYTES_MAX {
            return Err(rule(format!(
                "a value has at most {XATTR_VALUE_BYTES_MAX} bytes, not {bytes}; keep more than that in a file"
            )));
        }
        Ok(Self { name, value })
    }
}

/// Refuses what is no name of a user's attribute.
pub(crate) fn check_name(name: &str) -> Result<(), MetadataError> {
    if name.starts_with("raw.") {
        let only =
            "attributes in raw. are in the raw view only, and are not set; see them with: strongroom fs --raw stat";
        return Err(rule(only.to_owned()));
    }
    if name.strip_prefix("user.").is_none_or(str::is_empty) {
        return Err(rule(format!(
            "{name:?} is not in the namespace user., the only one there is; call it user.NAME (trusted., security. and system. are not kept)"
        )));
    }
    if name.len() > XATTR_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(rule(format!(
            "a name has at most {XATTR_NAME_BYTES_MAX} bytes, user. among them, and no control characters"
        )));
    }
    Ok(())
}

/// Sets or removes an attribute of what is at a path.
pub(crate) async fn set(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: &Change,
) -> Result<pb::Stat, MetadataError> {
    transact!(store, [who, call, path, change], |txn| set_in(
        txn, &who, &call, &path, &change
    ))
    .await
}

async fn set_in(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: &Change,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let mut found = find(txn, who, path).await?;
    check_attaching(who, &found)?;
    let mut xattrs = of(txn, &found).await?;
    match &change.value {
        Some(value) => _ = xattrs.insert(change.name.clone(), value.clone()),
        None if xattrs.remove(&change.name).is_some() => {}
        None => return Err(missing(path, &change.name)),
    }
    if xattrs.len() > XATTRS_MAX {
        return Err(rule(format!(
            "{path} has {XATTRS_MAX} attributes already, and may have no more; remove one first: strongroom fs setfattr -x"
        )));
    }
    put(txn, &mut found, xattrs);
    let stat = stat(txn, &found).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

/// All the attributes of something that comes from elsewhere, by name.
pub(crate) fn parse_all(wire: Vec<pb::Xattr>) -> Result<BTreeMap<String, Bytes>, MetadataError> {
    if wire.len() > XATTRS_MAX {
        return Err(rule(format!(
            "there are at most {XATTRS_MAX} attributes, not {}",
            wire.len()
        )));
    }
    let mut all = BTreeMap::new();
    for pb::Xattr { name, value } in wire {
        let change = Change::parse(name, Some(value.clone()))?;
        if all.insert(change.name, value).is_some() {
            return Err(rule("each name at most once".to_owned()));
        }
    }
    Ok(all)
}

/// The entry says whether there are any, so that whoever removes it knows.
pub(crate) fn put(txn: &mut impl Txn, found: &mut Found, xattrs: BTreeMap<String, Bytes>) {
    let has_xattrs = !xattrs.is_empty();
    if has_xattrs {
        let xattrs = xattrs.into_iter().map(|(name, value)| records::Xattr { name, value });
        let record = records::Xattrs {
            xattrs: xattrs.collect(),
        };
        access::put(txn, &keys::xattrs(found.id), &record);
    } else {
        txn.delete(&keys::xattrs(found.id));
    }
    if found.entry.has_xattrs != has_xattrs {
        found.entry.has_xattrs = has_xattrs;
        access::put(txn, &found.key, &found.entry);
    }
}

/// The attributes of what is at a path: those of the names, or all.
pub(crate) async fn look(
    store: &impl Store,
    who: &Caller,
    path: &ZonePath,
    names: &[String],
) -> Result<pb::Xattrs, MetadataError> {
    let mut view = store.snapshot().await?;
    let found = find(&mut view, who, path).await?;
    check(who, &found, Rights::READ, path)?;
    let mut xattrs = of(&mut view, &found).await?;
    if let Some(name) = names.iter().find(|name| !xattrs.contains_key(*name)) {
        return Err(missing(path, name));
    }
    xattrs.retain(|name, _| names.is_empty() || names.contains(name));
    let wire = xattrs.into_iter().map(|(name, value)| pb::Xattr { name, value });
    Ok(pb::Xattrs { xattrs: wire.collect() })
}

async fn of(reader: &mut impl Reader, found: &Found) -> Result<BTreeMap<String, Bytes>, MetadataError> {
    if !found.entry.has_xattrs {
        return Ok(BTreeMap::new());
    }
    let record: Option<records::Xattrs> = access::record(reader, &keys::xattrs(found.id), "attributes").await?;
    let xattrs = record.unwrap_or_default().xattrs.into_iter();
    Ok(xattrs.map(|xattr| (xattr.name, xattr.value)).collect())
}

/// Forgets the attributes of an inode that goes.
pub(crate) fn forget(txn: &mut impl Txn, entry: &records::Entry) -> Result<(), MetadataError> {
    if entry.has_xattrs {
        txn.delete(&keys::xattrs(entry.file_id()?));
    }
    Ok(())
}

fn missing(path: &ZonePath, name: &str) -> MetadataError {
    MetadataError::NoSuchXattr {
        path: path.clone(),
        name: name.to_owned(),
    }
}

fn rule(rule: String) -> MetadataError {
    MetadataError::Field { field: "xattr", rule }
}
