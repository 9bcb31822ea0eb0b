//! The store of the keys: reads everything at the start, writes one change in one transaction.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{AnyStore, AnyTxn, CommitError, Reader, Store, StoreConfig, StoreError, Txn};
use strongroom_proto::{KeyName, RequestId, kms::v1 as pb};

use super::{
    KeysError,
    key::Key,
    lease::InstanceId,
    ledger_registry::load_alias,
    ledger_shared::{REVISIONS, committed, count, number},
    records::{
        INTENTS, Intent, IntentRecord, KEYS, KeyRecord, REQUESTS, RequestRecord, VERSIONS, VersionRecord, intent_key,
        key_key, name_after, read_intent, read_key, read_request, read_version, request_key, version_key,
    },
};

/// Pairs read at once.
pub(super) const PAGE: usize = 1000;
/// How long a request is known by its id.
const LOADS_MAX: u32 = 20;
const REQUEST_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// The store, in terms of keys.
pub(super) struct Ledger {
    pub(super) store: AnyStore,
    /// This instance, if there may be others.
    pub(super) me: Option<InstanceId>,
}

/// All that a start needs.
pub(super) struct Loaded {
    pub(super) keys: BTreeMap<KeyName, Key>,
    pub(super) intents: BTreeMap<KeyName, Intent>,
}

impl Ledger {
    /// Opens or makes the store; the embedded engine's is the file at `path`.
    pub(super) async fn open(config: &StoreConfig, path: &Path) -> Result<Self, KeysError> {
        Ok(Self {
            store: AnyStore::open(config, path).await?,
            me: None,
        })
    }

    /// Reads every key and intent.
    pub(super) async fn load(&self) -> Result<Loaded, KeysError> {
        let mut keys = BTreeMap::new();
        for (key, value) in self.scan(KEYS).await? {
            let read = read_key(&key, &value)?;
            keys.insert(read.name.clone(), read);
        }
        for (key, value) in self.scan(VERSIONS).await? {
            let (name, number, version) = read_version(&key, &value)?;
            let owner: &mut Key = keys.get_mut(&name).ok_or_else(|| KeysError::damaged(&key))?;
            owner.versions.insert(number, version);
        }
        for (place, value) in self.scan(REVISIONS).await? {
            let name = name_after(REVISIONS, &place)?;
            let key = keys.get_mut(&name).ok_or_else(|| KeysError::damaged(&place))?;
            key.revision = number(&place, &value)?;
        }
        Ok(Loaded {
            keys,
            intents: self.intents().await?,
        })
    }

    /// Reads every intent.
    pub(super) async fn intents(&self) -> Result<BTreeMap<KeyName, Intent>, KeysError> {
        let mut intents = BTreeMap::new();
        for (key, value) in self.scan(INTENTS).await? {
            let intent = read_intent(&key, &value)?;
            intents.insert(intent.key.clone(), intent);
        }
        Ok(intents)
    }

    /// Reads every key at one revision, which nobody changed meanwhile.
    pub(super) async fn load_at_rest(&self) -> Result<(u64, BTreeMap<KeyName, Key>), KeysError> {
        for _ in 0..LOADS_MAX {
            let before = self.revision().await?;
            // Keys that change meanwhile may not fit together with their versions.
            let loaded = self.load().await;
            if self.revision().await? == before {
                return Ok((before, loaded?.keys));
            }
        }
        Err(StoreError::Contended { attempts: LOADS_MAX }.into())
    }

    /// Forgets requests that nobody repeats any more.
    pub(super) async fn forget_requests(&self, now_ms: u64) -> Result<(), KeysError> {
        for page in self.scan(REQUESTS).await?.chunks(PAGE) {
            let mut txn = self.store.begin().await?;
            for (key, value) in page {
                if read_request(key, value)?.created_ms.saturating_add(REQUEST_KEPT_MS) < now_ms {
                    txn.delete(key);
                }
            }
            commit(txn).await?;
        }
        Ok(())
    }

    /// What the request with this id was, if it was carried out.
    pub(super) async fn request(&self, id: &RequestId) -> Result<Option<RequestRecord>, KeysError> {
        let key = request_key(id);
        let value = self.store.begin().await?.get(&key).await?;
        value.map(|value| read_request(&key, &value)).transpose()
    }

    /// Records that a version is about to be generated, for a key that was last changed at `revision`.
    pub(super) async fn begin(&self, intent: &Intent, revision: u64) -> Result<(), KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            self.claim(&mut txn, &intent.key, revision).await?;
            if load_alias(&mut txn, &intent.key).await?.is_some() {
                // It was made since the name was looked at.
                let key = intent.key.clone();
                return Err(KeysError::Stale { key });
            }
            txn.put(&intent_key(&intent.key), IntentRecord::of(intent).encode_to_vec());
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }

    /// Records that the version of `intent` is made and part of `key`, and what its request was answered. Answers the
    /// key's revision.
    pub(super) async fn complete(
        &self,
        intent: &Intent,
        before: Option<&Key>,
        key: &Key,
        answer: &pb::Key,
    ) -> Result<u64, KeysError> {
        let request = RequestRecord {
            what: intent.what.clone(),
            created_ms: intent.created_ms,
            answer: Some(answer.clone()),
        };
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            self.unclaim(&mut txn, &intent.key).await?;
            txn.delete(&intent_key(&intent.key));
            txn.put(&request_key(&intent.request), request.encode_to_vec());
            let revision = self.count_change(&mut txn, before, key).await?;
            put_key(&mut txn, before, key);
            if committed(txn, &mut attempt).await? {
                return Ok(revision);
            }
        }
    }

    /// Records that what is begun is to be undone, whoever goes on with it. Refused if another instance has taken it over.
    pub(super) async fn undo(&self, intent: &Intent) -> Result<(), KeysError> {
        let undone = Intent {
            undone: true,
            ..intent.clone()
        };
        let record = IntentRecord::of(&undone).encode_to_vec();
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            self.still_claimed(&mut txn, &intent.key).await?;
            txn.put(&intent_key(&intent.key), record.clone());
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }

    /// Forgets an intent that came to nothing, and counts that as a change: other instances may have seen the version in the
    /// token.
    pub(super) async fn drop_intent(&self, name: &KeyName) -> Result<(), KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            self.unclaim(&mut txn, name).await?;
            txn.delete(&intent_key(name));
            count(&mut txn, name.as_str()).await?;
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }

    /// Records a key as it is; `before` is what the store has of it. Answers its revision.
    pub(super) async fn save(&self, before: Option<&Key>, key: &Key) -> Result<u64, KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            let revision = self.count_change(&mut txn, before, key).await?;
            put_key(&mut txn, before, key);
            if committed(txn, &mut attempt).await? {
                return Ok(revision);
            }
        }
    }

    /// Every pair under a prefix that ends in `/`.
    pub(super) async fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, KeysError> {
        let mut end = prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        let mut start = prefix.to_vec();
        loop {
            let page = self.store.begin().await?.range(&start, &end, PAGE).await?;
            let full = page.len() == PAGE;
            found.extend(page);
            match found.last() {
                // The least key after the last one found.
                Some((last, _)) if full => start = [last.as_ref(), &[0]].concat(),
                _ => return Ok(found),
            }
        }
    }
}

/// Writes the key and those of its versions that differ from `before`.
fn put_key(txn: &mut AnyTxn, before: Option<&Key>, key: &Key) {
    txn.put(&key_key(&key.name), KeyRecord::of(key).encode_to_vec());
    for (number, version) in &key.versions {
        let record = VersionRecord::of(version);
        let known = before
            .and_then(|before| before.versions.get(number))
            .map(VersionRecord::of);
        if known.as_ref() != Some(&record) {
            txn.put(&version_key(&key.name, *number), record.encode_to_vec());
        }
    }
}

/// Commits writes that rest on no read: [`super::Keys`] lets one change happen at a time.
pub(super) async fn commit(txn: impl Txn) -> Result<(), KeysError> {
    txn.commit().await.map_err(|error| match error {
        CommitError::Store(error) => error.into(),
        CommitError::Conflict => StoreError::Contended { attempts: 1 }.into(),
    })
}
