//! Into the trash, in the transaction of the removal: so that nothing is half removed, two who remove at once do not meet, and the
//! directories on the way are there when they are needed. All is done with the rights of the user, but that the service
//! makes the directory for the trash in a zone's root.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Reason, ZonePath};

use super::{CURRENT, Fresh, HOMES, TRASH, bounded, name, provision};
use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::{
        permission::{Rights, check, may},
        resolve::{Found, ZoneAt, find, root, step},
    },
    quota::{self, links::put_elsewhere},
    schema::{access, keys, records},
};

/// Modes of the directories of a user's trash, of a home, and of the directory of homes, if they are made.
const PRIVATE: u32 = 0o700;
const OPEN: u32 = 0o755;

/// Moves what was found in `parent` into the trash of `who`; `None` if it is in a trash already. That `who` may remove it was
/// checked before.
pub(crate) async fn put(
    txn: &mut impl Txn,
    who: &Caller,
    parent: &Found,
    found: &Found,
    now_ms: u64,
) -> Result<Option<Found>, MetadataError> {
    if is_in_trash(txn, who, &found.path).await? {
        return Ok(None);
    }
    match move_in(txn, who, parent, found, now_ms).await {
        Ok(moved) => Ok(Some(moved)),
        Err(error @ (MetadataError::Store(_) | MetadataError::Corrupt { .. } | MetadataError::NoTrash { .. })) => {
            Err(error)
        }
        Err(error) => Err(no_trash(
            &found.path,
            found.entry.is_directory(),
            error.reason(),
            error.to_string(),
        )),
    }
}

/// An outcome that says which quota has no room for the directories in the trash, if that is why the store refused.
pub(crate) async fn explained<T>(
    store: &impl Store,
    who: &Caller,
    path: &ZonePath,
    recursive: bool,
    outcome: Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    match quota::explained(store, who, outcome).await {
        Err(error @ MetadataError::QuotaExceeded { .. }) => {
            Err(no_trash(path, recursive, error.reason(), error.to_string()))
        }
        outcome => outcome,
    }
}

fn no_trash(path: &ZonePath, recursive: bool, reason: Reason, why: String) -> MetadataError {
    MetadataError::NoTrash {
        path: path.clone(),
        flag: if recursive { "-r " } else { "" },
        reason,
        why,
    }
}

/// Whether a path leads below the trash of a zone or of a home.
pub(crate) async fn is_in_trash(txn: &mut impl Reader, who: &Caller, path: &ZonePath) -> Result<bool, MetadataError> {
    let Some((above, _)) = path.split_last() else {
        return Ok(false);
    };
    if !above.names().any(|name| name == TRASH) {
        return Ok(false);
    }
    let mut at = root(txn).await?;
    for name in above.names() {
        if name == TRASH && (!at.entry.zone_id.is_empty() || is_home(&at.path)) {
            return Ok(true);
        }
        let Some(next) = step(txn, who, &at, name).await? else {
            return Ok(false);
        };
        at = next;
    }
    Ok(false)
}

fn is_home(path: &ZonePath) -> bool {
    let mut names = path.names();
    names.next() == Some(HOMES) && names.next().is_some() && names.next().is_none()
}

async fn move_in(
    txn: &mut impl Txn,
    who: &Caller,
    parent: &Found,
    found: &Found,
    now_ms: u64,
) -> Result<Found, MetadataError> {
    let private = Fresh {
        owner: who.name.as_str(),
        mode: PRIVATE,
        now_ms,
    };
    let trash = match &parent.zone {
        Some(zone) => in_zone(txn, who, zone, found, private).await?,
        None => at_home(txn, who, found, private).await?,
    };
    enter(txn, who, &trash).await?;
    let mut at = directory(txn, who, &trash, CURRENT, private).await?;
    // One that is empty may have become a zone itself.
    let zone = |at: &Found| at.zone.as_ref().map(|zone| zone.id);
    if zone(&at) != zone(parent) {
        let why = format!("the trash of user {}, {}, is in another zone", who.name, at.path);
        return Err(no_trash(
            &found.path,
            found.entry.is_directory(),
            Reason::CrossZone,
            why,
        ));
    }
    let (above, name) = found.path.split_last().ok_or(MetadataError::Root("removed"))?;
    for name in above.names() {
        at = room(txn, who, &at, name, private).await?;
    }
    let name = match access::entry(txn, at.id, name).await? {
        None => name.to_owned(),
        Some(_) => name::beside(txn, at.id, name, now_ms, &at.path).await?,
    };
    bounded(&at, &name)?;
    check(who, &at, Rights::CHANGE, &at.path.child(&name)?)?;
    put_elsewhere(txn, found.clone(), &at, &name).await
}

/// The user's trash in a zone.
async fn in_zone(
    txn: &mut impl Txn,
    who: &Caller,
    zone: &ZoneAt,
    found: &Found,
    private: Fresh<'_>,
) -> Result<Found, MetadataError> {
    let root = find(txn, who, &zone.path).await?;
    not_the_trash(found, &root.path.child(TRASH)?)?;
    let shared = match step(txn, who, &root, TRASH).await? {
        Some(shared) => shared,
        None => provision::make(txn, &root, private.now_ms)?,
    };
    own(txn, who, &shared, who.name.as_str(), private).await
}

/// The user's trash for what is in no zone.
async fn at_home(txn: &mut impl Txn, who: &Caller, found: &Found, private: Fresh<'_>) -> Result<Found, MetadataError> {
    let open = Fresh { mode: OPEN, ..private };
    let root = root(txn).await?;
    let trash = root.path.child(HOMES)?.child(who.name.as_str())?.child(TRASH)?;
    not_the_trash(found, &trash)?;
    let homes = directory(txn, who, &root, HOMES, open).await?;
    let home = directory(txn, who, &homes, who.name.as_str(), private).await?;
    own(txn, who, &home, TRASH, private).await
}

/// Refuses to move what holds the trash into it.
fn not_the_trash(found: &Found, trash: &ZonePath) -> Result<(), MetadataError> {
    if !trash.is_within(&found.path) {
        return Ok(());
    }
    let why = format!("it holds the trash {trash}, which strongroom fs expunge --immediate empties");
    Err(no_trash(
        &found.path,
        found.entry.is_directory(),
        Reason::InvalidMove,
        why,
    ))
}

/// A directory, made with the rights of the user if it is not there.
async fn directory(
    txn: &mut impl Txn,
    who: &Caller,
    parent: &Found,
    name: &str,
    fresh: Fresh<'_>,
) -> Result<Found, MetadataError> {
    let Some(found) = step(txn, who, parent, name).await? else {
        check(who, parent, Rights::CHANGE, &parent.path.child(name)?)?;
        return fresh.make(txn, parent, name);
    };
    if found.entry.is_directory() {
        return Ok(found);
    }
    Err(MetadataError::NotADirectory(found.path))
}

/// A directory of the user's own. Anybody can make one under another's name, to get at what that one removes.
async fn own(
    txn: &mut impl Txn,
    who: &Caller,
    parent: &Found,
    name: &str,
    private: Fresh<'_>,
) -> Result<Found, MetadataError> {
    let found = directory(txn, who, parent, name, private).await?;
    if who.owns(&found.entry.owner) {
        return Ok(found);
    }
    Err(MetadataError::ForeignTrash {
        path: found.path,
        owner: found.entry.owner,
    })
}

/// A directory in the trash for one of a path. A file of that name, another zone, or a directory that was removed before
/// and that the user may not change, is left alone: then it gets a name of its own.
async fn room(
    txn: &mut impl Txn,
    who: &Caller,
    parent: &Found,
    name: &str,
    private: Fresh<'_>,
) -> Result<Found, MetadataError> {
    let name = match step(txn, who, parent, name).await? {
        None => name.to_owned(),
        Some(found) if is_room(who, &found) => return Ok(found),
        Some(_) => name::beside(txn, parent.id, name, private.now_ms, &parent.path).await?,
    };
    check(who, parent, Rights::CHANGE, &parent.path.child(&name)?)?;
    private.make(txn, parent, &name)
}

fn is_room(who: &Caller, found: &Found) -> bool {
    let entry = &found.entry;
    entry.is_directory() && entry.zone_id.is_empty() && may(who, entry, Rights::CHANGE)
}

/// Has the background look after a trash.
async fn enter(txn: &mut impl Txn, who: &Caller, trash: &Found) -> Result<(), MetadataError> {
    let key = keys::trash(&who.name, trash.id);
    if txn.get(&key).await?.is_none() {
        access::put(txn, &key, &records::Trash::default());
    }
    Ok(())
}
