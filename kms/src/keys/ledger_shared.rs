//! What the store holds for several instances: the revision that every change of a key increments, which key changed at
//! which revision, who is making a version, and the instances themselves.
//!
//! | key | value |
//! |---|---|
//! | `revision` | u64, big-endian, as every number here |
//! | `revision/` name | the revision of the key's last change |
//! | `change/` revision | the name of the key or alias that changed; the last 1000 are kept |
//! | `claim/` name | the instance (16 bytes) whose intent `intent/` name is |
//! | `instance/` id | [`InstanceRecord`] |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{AnyTxn, CommitError, Reader, Store, StoreError, Txn};
use strongroom_proto::{KeyName, KeyVersion};

use super::{
    KeysError,
    key::Key,
    lease::{InstanceId, InstanceRecord},
    ledger::Ledger,
    ledger_registry::load_alias,
    records::{Intent, VERSIONS, intent_key, key_key, name_after, read_intent, read_key, read_version},
};
use crate::token::TokenObjectId;

const REVISION: &[u8] = b"revision";
pub(super) const REVISIONS: &[u8] = b"revision/";
const CHANGES: &[u8] = b"change/";
const CLAIMS: &[u8] = b"claim/";
const INSTANCES: &[u8] = b"instance/";
/// Changes that are told one by one; who missed more reads everything.
const CHANGES_KEPT: u64 = 1000;
/// Versions of one key that are read at once.
const VERSIONS_MAX: usize = 100_000;
/// Runs of one change before it gives up against others.
const ATTEMPTS_MAX: u32 = 20;

/// What changed since a revision.
pub(super) enum Changes {
    /// This.
    These(Changed),
    /// More than was remembered.
    TooMany,
}

/// Keys and aliases as they are now. A name is that of a key or of an alias, never of both.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) keys: BTreeMap<KeyName, Key>,
    /// The keys that aliases name; none for an alias that was removed.
    pub(super) aliases: BTreeMap<KeyName, Option<KeyName>>,
}

impl Ledger {
    /// The revision now.
    pub(super) async fn revision(&self) -> Result<u64, KeysError> {
        revision(&mut self.store.begin().await?).await
    }

    /// What changed after `since`, and the revision up to which that is all.
    pub(super) async fn changes(&self, since: u64) -> Result<(u64, Changes), KeysError> {
        let mut txn = self.store.begin().await?;
        let now = revision(&mut txn).await?;
        if now == since {
            return Ok((now, Changes::These(Changed::default())));
        }
        if now < since || now - since > CHANGES_KEPT {
            return Ok((now, Changes::TooMany));
        }
        let limit = usize::try_from(CHANGES_KEPT).unwrap_or(usize::MAX) + 1;
        let told = txn.range(&change_key(since + 1), &change_key(now + 1), limit).await?;
        if told.len() as u64 != now - since {
            return Ok((now, Changes::TooMany));
        }
        let names: BTreeSet<Bytes> = told.into_iter().map(|(_, name)| name).collect();
        let mut changed = Changed::default();
        for name in &names {
            let name = name_after(&[], name)?;
            match load_key(&mut txn, &name).await? {
                Some(key) => _ = changed.keys.insert(name, key),
                None => {
                    let target = load_alias(&mut txn, &name).await?;
                    changed.aliases.insert(name, target);
                }
            }
        }
        Ok((now, Changes::These(changed)))
    }

    /// Counts a change of `key` in `txn`, which was `before`, as the revision that it answers. Refused if the key has changed
    /// since it was read, or if another instance is making a version of it and the change is about objects in the token.
    pub(super) async fn count_change(
        &self,
        txn: &mut AnyTxn,
        before: Option<&Key>,
        key: &Key,
    ) -> Result<u64, KeysError> {
        // What was begun may stay so for as long as a token is away: a key is to be disabled meanwhile.
        if !before.is_some_and(|before| key.has_objects_of(before)) {
            self.unclaimed(txn, &key.name).await?;
        }
        self.unchanged(txn, &key.name, key.revision).await?;
        let next = count(txn, key.name.as_str()).await?;
        txn.put(&revision_key(&key.name), next.to_be_bytes().to_vec());
        Ok(next)
    }

    /// Takes the right to make a version of a key in `txn`. Refused if the key has changed since it was read, if another
    /// instance has that right, or if this instance is given up.
    pub(super) async fn claim(&self, txn: &mut AnyTxn, name: &KeyName, revision: u64) -> Result<(), KeysError> {
        self.unclaimed(txn, name).await?;
        self.unchanged(txn, name, revision).await?;
        if let Some(me) = &self.me {
            if txn.get(&instance_key(me)).await?.is_none() {
                return Err(KeysError::Stale { key: name.clone() });
            }
            txn.put(&claim_key(name), me.to_vec());
        }
        Ok(())
    }

    /// Gives that right back in `txn`. Refused if this instance has lost it.
    pub(super) async fn unclaim(&self, txn: &mut AnyTxn, name: &KeyName) -> Result<(), KeysError> {
        self.still_claimed(txn, name).await?;
        if self.me.is_some() {
            txn.delete(&claim_key(name));
        }
        Ok(())
    }

    /// Refused if this instance has lost the right to make a version of a key.
    pub(super) async fn still_claimed(&self, txn: &mut AnyTxn, name: &KeyName) -> Result<(), KeysError> {
        match &self.me {
            Some(me) if txn.get(&claim_key(name)).await?.as_deref() != Some(me) => {
                Err(KeysError::Lost { key: name.clone() })
            }
            _ => Ok(()),
        }
    }

    async fn unclaimed(&self, txn: &mut AnyTxn, name: &KeyName) -> Result<(), KeysError> {
        let Some(me) = &self.me else {
            return Ok(());
        };
        match txn.get(&claim_key(name)).await? {
            Some(owner) if owner != me[..] => Err(KeysError::Claimed { key: name.clone() }),
            _ => Ok(()),
        }
    }

    /// Refuses what rests on a key that has changed since it was read.
    pub(super) async fn unchanged(&self, txn: &mut AnyTxn, name: &KeyName, since: u64) -> Result<(), KeysError> {
        let place = revision_key(name);
        let known = txn.get(&place).await?.map(|value| number(&place, &value)).transpose()?;
        if known.unwrap_or(0) == since {
            Ok(())
        } else {
            Err(KeysError::Stale { key: name.clone() })
        }
    }

    /// Who is making versions of which keys.
    pub(super) async fn claims(&self) -> Result<BTreeMap<KeyName, InstanceId>, KeysError> {
        let mut claims = BTreeMap::new();
        for (key, owner) in self.scan(CLAIMS).await? {
            let damaged = || KeysError::damaged(&key);
            let name = key.strip_prefix(CLAIMS).and_then(|name| std::str::from_utf8(name).ok());
            let name = name.and_then(|name| name.parse().ok()).ok_or_else(damaged)?;
            claims.insert(name, owner.as_ref().try_into().map_err(|_| damaged())?);
        }
        Ok(claims)
    }

    /// Who is making a version of a key, and which.
    pub(super) async fn claimed(&self, name: &KeyName) -> Result<Option<(InstanceId, Intent)>, KeysError> {
        let (mut txn, intent_key, claim_key) = (self.store.begin().await?, intent_key(name), claim_key(name));
        let Some(owner) = txn.get(&claim_key).await? else {
            return Ok(None);
        };
        let intent = txn
            .get(&intent_key)
            .await?
            .ok_or_else(|| KeysError::damaged(&claim_key))?;
        let owner = owner.as_ref().try_into().map_err(|_| KeysError::damaged(&claim_key))?;
        Ok(Some((owner, read_intent(&intent_key, &intent)?)))
    }

    /// Which objects of `intent` nobody knows: neither is one a version of its key, nor is one begun.
    pub(super) async fn unknown_objects(&self, intent: &Intent) -> Result<Vec<(KeyVersion, TokenObjectId)>, KeysError> {
        let mut objects: Vec<_> = intent.objects().collect();
        // In this order: what is finished in between is found as a version.
        if let Some((_, begun)) = self.claimed(&intent.key).await? {
            objects.retain(|object| !begun.objects().any(|known| known == *object));
        }
        if let Some(key) = load_key(&mut self.store.begin().await?, &intent.key).await? {
            objects.retain(|(_, id)| key.versions.values().all(|version| version.token_id != *id));
        }
        Ok(objects)
    }

    /// Takes over what an instance that is gone was making.
    pub(super) async fn take_over(&self, name: &KeyName, from: &InstanceId) -> Result<(), KeysError> {
        let Some(me) = &self.me else {
            return Ok(());
        };
        let mut txn = self.store.begin().await?;
        if txn.get(&claim_key(name)).await?.as_deref() != Some(from) {
            return Err(KeysError::Claimed { key: name.clone() });
        }
        txn.put(&claim_key(name), me.to_vec());
        match txn.commit().await {
            Ok(()) => Ok(()),
            Err(CommitError::Conflict) => Err(KeysError::Claimed { key: name.clone() }),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Every instance that has not left.
    pub(super) async fn instances(&self) -> Result<BTreeMap<InstanceId, InstanceRecord>, KeysError> {
        let mut instances = BTreeMap::new();
        for (key, value) in self.scan(INSTANCES).await? {
            let damaged = || KeysError::damaged(&key);
            let id = key.strip_prefix(INSTANCES).and_then(|id| id.try_into().ok());
            let record = InstanceRecord::decode(value).map_err(|_| damaged())?;
            instances.insert(id.ok_or_else(damaged)?, record);
        }
        Ok(instances)
    }

    /// Renews a lease if the revision is still the one that its holder works with; otherwise answers that it is not.
    pub(super) async fn renew(&self, id: &InstanceId, record: &InstanceRecord) -> Result<bool, KeysError> {
        let mut txn = self.store.begin().await?;
        if revision(&mut txn).await? != record.seen {
            return Ok(false);
        }
        txn.put(&instance_key(id), record.encode_to_vec());
        match txn.commit().await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Forgets an instance: itself when it leaves, or one that is long gone, if it has not renewed since.
    pub(super) async fn forget(&self, id: &InstanceId, renewal: u64) -> Result<(), KeysError> {
        let (mut txn, place) = (self.store.begin().await?, instance_key(id));
        let record = txn.get(&place).await?.map(InstanceRecord::decode).transpose();
        if record.ok().flatten().is_some_and(|record| record.renewal == renewal) {
            txn.delete(&place);
            // A conflict says that it has renewed.
            if let Err(CommitError::Store(error)) = txn.commit().await {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// Commits a change that others may get in the way of: whether it took place, or else is to be tried again.
pub(super) async fn committed(txn: AnyTxn, attempt: &mut u32) -> Result<bool, KeysError> {
    match txn.commit().await {
        Ok(()) => Ok(true),
        Err(CommitError::Store(error)) => Err(error.into()),
        Err(CommitError::Conflict) if *attempt + 1 < ATTEMPTS_MAX => {
            *attempt += 1;
            tokio::time::sleep(std::time::Duration::from_millis(u64::from(*attempt))).await;
            Ok(false)
        }
        Err(CommitError::Conflict) => Err(StoreError::Contended { attempts: ATTEMPTS_MAX }.into()),
    }
}

/// Counts a change of the key or alias `name`.
pub(super) async fn count(txn: &mut AnyTxn, name: &str) -> Result<u64, KeysError> {
    let next = revision(txn).await? + 1;
    txn.put(REVISION, next.to_be_bytes().to_vec());
    txn.put(&change_key(next), name.as_bytes().to_vec());
    if let Some(old) = next.checked_sub(CHANGES_KEPT) {
        txn.delete(&change_key(old));
    }
    Ok(next)
}

async fn revision(txn: &mut AnyTxn) -> Result<u64, KeysError> {
    let known = txn.get(REVISION).await?;
    known.map_or(Ok(0), |value| number(REVISION, &value))
}

/// A key with its versions, if there is one of that name.
async fn load_key(txn: &mut AnyTxn, name: &KeyName) -> Result<Option<Key>, KeysError> {
    let Some(record) = txn.get(&key_key(name)).await? else {
        return Ok(None);
    };
    let mut key = read_key(&key_key(name), &record)?;
    let place = revision_key(name);
    key.revision = txn.get(&place).await?.map_or(Ok(0), |value| number(&place, &value))?;
    let first = [VERSIONS, name.as_str().as_bytes(), &[0]].concat();
    let end = [VERSIONS, name.as_str().as_bytes(), &[1]].concat();
    for (place, value) in txn.range(&first, &end, VERSIONS_MAX).await? {
        let (_, number, version) = read_version(&place, &value)?;
        key.versions.insert(number, version);
    }
    Ok(Some(key))
}

/// The number in a record.
pub(super) fn number(key: &[u8], value: &[u8]) -> Result<u64, KeysError> {
    let bytes = value.try_into().map_err(|_| KeysError::damaged(key))?;
    Ok(u64::from_be_bytes(bytes))
}

fn revision_key(name: &KeyName) -> Vec<u8> {
    [REVISIONS, name.as_str().as_bytes()].concat()
}

fn change_key(revision: u64) -> Vec<u8> {
    [CHANGES, &revision.to_be_bytes()].concat()
}

fn claim_key(name: &KeyName) -> Vec<u8> {
    [CLAIMS, name.as_str().as_bytes()].concat()
}

fn instance_key(id: &InstanceId) -> Vec<u8> {
    [INSTANCES, id].concat()
}
