//! The store of what is known around the keys: aliases, zones with their proofs, last uses.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{AnyTxn, Reader, Store, Txn};
use strongroom_proto::{KeyName, KeyVersion, ZoneId};

use super::{
    KeysError,
    deletion::{Proven, Zones},
    key::Key,
    ledger::{Ledger, commit},
    ledger_shared::{committed, count, number},
    records::{intent_key, key_key, name_after},
    registry::Registry,
};

const ALIASES: &[u8] = b"alias/";
const ZONES: &[u8] = b"zone/";
const USES: &[u8] = b"use/";

/// A zone that minted with a key, and what was last proved of it.
#[derive(Clone, PartialEq, Eq, Message)]
struct ZoneRecord {
    #[prost(uint64, tag = "1")]
    first_minted_ms: u64,
    #[prost(message, optional, tag = "2")]
    proof: Option<ProofRecord>,
}

/// What the metadata service proved.
#[derive(Clone, PartialEq, Eq, Message)]
struct ProofRecord {
    #[prost(uint32, tag = "1")]
    through: u32,
    #[prost(uint64, tag = "2")]
    issued_ms: u64,
    #[prost(bool, tag = "3")]
    known: bool,
    /// SHA-256 of the signed proof, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    hash: Bytes,
}

impl Ledger {
    /// Reads everything around the keys.
    pub(super) async fn load_registry(&self) -> Result<Registry, KeysError> {
        let registry = Registry::default();
        *registry.aliases.write() = self.aliases().await?;
        for (key, value) in self.scan(ZONES).await? {
            let (name, zone) = zone_of(&key)?;
            registry.put_zone(&name, zone, read_zone(&key, &value)?.1);
        }
        for (key, value) in self.scan(USES).await? {
            let (name, version) = tail::<4>(USES, &key)?;
            let at_ms = value.as_ref().try_into().map_err(|_| KeysError::damaged(&key))?;
            registry.load_use(name, KeyVersion(u32::from_be_bytes(version)), u64::from_be_bytes(at_ms));
        }
        Ok(registry)
    }

    /// Every alias with its key.
    pub(super) async fn aliases(&self) -> Result<BTreeMap<KeyName, KeyName>, KeysError> {
        let pairs = self.scan(ALIASES).await?;
        let read = |(key, value): &(Bytes, Bytes)| Ok((name_after(ALIASES, key)?, name_after(&[], value)?));
        pairs.iter().map(read).collect()
    }

    /// Records which key an alias names, or that it names none. Refused if the alias does not name `before` any more, if
    /// there is a key of its name by now, or if `key` has changed.
    pub(super) async fn save_alias(
        &self,
        alias: &KeyName,
        before: Option<&KeyName>,
        key: Option<&Key>,
    ) -> Result<(), KeysError> {
        let (place, mut attempt) = (alias_key(alias), 0);
        loop {
            let mut txn = self.store.begin().await?;
            let taken = txn.get(&key_key(alias)).await?.or(txn.get(&intent_key(alias)).await?);
            if taken.is_some() || load_alias(&mut txn, alias).await?.as_ref() != before {
                return Err(KeysError::Stale { key: alias.clone() });
            }
            match key {
                Some(key) => {
                    self.unchanged(&mut txn, &key.name, key.revision).await?;
                    txn.put(&place, key.name.as_str().as_bytes().to_vec());
                }
                None => txn.delete(&place),
            }
            count(&mut txn, alias.as_str()).await?;
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }

    /// Records that a zone minted with a key for the first time, and is about to be given the EDEKs. That is not counted as a change of the key:
    /// whatever depends on the zones of a key reads them here.
    pub(super) async fn register_zone(&self, key: &KeyName, zone: &ZoneId, now_ms: u64) -> Result<(), KeysError> {
        let place = zone_key(key, zone);
        let mut txn = self.store.begin().await?;
        if txn.get(&place).await?.is_none() {
            let record = ZoneRecord {
                first_minted_ms: now_ms,
                proof: None,
            };
            txn.put(&place, record.encode_to_vec());
            commit(txn).await?;
        }
        Ok(())
    }

    /// Records what was proved of zones that minted with a key.
    pub(super) async fn save_proofs(&self, key: &KeyName, proofs: &[(ZoneId, Proven)]) -> Result<(), KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            put_proofs(&mut txn, key, proofs).await?;
            count(&mut txn, key.as_str()).await?;
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }
    /// The zones that minted with a key, as every instance recorded them.
    pub(super) async fn zones(&self, key: &KeyName) -> Result<Zones, KeysError> {
        let prefix = [ZONES, key.as_str().as_bytes(), &[0]].concat();
        let mut zones = Zones::new();
        for (key, value) in self.scan(&prefix).await? {
            zones.insert(zone_of(&key)?.1, read_zone(&key, &value)?.1);
        }
        Ok(zones)
    }

    /// Records when versions were last used, unless another instance recorded a later use.
    pub(super) async fn save_uses(&self, uses: &[(KeyName, KeyVersion, u64)]) -> Result<(), KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            put_uses(&mut txn, uses).await?;
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }

    /// When the versions of a key were last used, as every instance recorded it.
    pub(super) async fn last_uses(&self, key: &KeyName) -> Result<Vec<(KeyVersion, u64)>, KeysError> {
        let pairs = self.scan(&use_prefix(key)).await?;
        pairs
            .iter()
            .map(|(place, value)| {
                let (_, version) = tail::<4>(USES, place)?;
                Ok((KeyVersion(u32::from_be_bytes(version)), number(place, value)?))
            })
            .collect()
    }
}

async fn put_uses(txn: &mut AnyTxn, uses: &[(KeyName, KeyVersion, u64)]) -> Result<(), KeysError> {
    for (key, version, at_ms) in uses {
        let place = [&use_prefix(key)[..], &version.0.to_be_bytes()].concat();
        let known = txn.get(&place).await?;
        if known.map_or(Ok(0), |value| number(&place, &value))? < *at_ms {
            txn.put(&place, at_ms.to_be_bytes().to_vec());
        }
    }
    Ok(())
}

async fn put_proofs(txn: &mut AnyTxn, key: &KeyName, proofs: &[(ZoneId, Proven)]) -> Result<(), KeysError> {
    for (zone, proven) in proofs {
        let place = zone_key(key, zone);
        let known = txn.get(&place).await?;
        let first_minted_ms = known.map(|value| read_zone(&place, &value)).transpose()?;
        let record = ZoneRecord {
            first_minted_ms: first_minted_ms.map_or(0, |(first_minted_ms, _)| first_minted_ms),
            proof: Some(ProofRecord {
                through: proven.through.0,
                issued_ms: proven.issued_ms,
                known: proven.known,
                hash: Bytes::copy_from_slice(&proven.hash),
            }),
        };
        txn.put(&place, record.encode_to_vec());
    }
    Ok(())
}

/// The key that an alias names.
pub(super) async fn load_alias(txn: &mut AnyTxn, alias: &KeyName) -> Result<Option<KeyName>, KeysError> {
    let target = txn.get(&alias_key(alias)).await?;
    target.map(|target| name_after(&[], &target)).transpose()
}

fn alias_key(alias: &KeyName) -> Vec<u8> {
    [ALIASES, alias.as_str().as_bytes()].concat()
}

fn use_prefix(key: &KeyName) -> Vec<u8> {
    [USES, key.as_str().as_bytes(), &[0]].concat()
}

fn zone_key(key: &KeyName, zone: &ZoneId) -> Vec<u8> {
    [ZONES, key.as_str().as_bytes(), &[0], zone.as_bytes()].concat()
}

fn zone_of(key: &[u8]) -> Result<(KeyName, ZoneId), KeysError> {
    let (name, zone) = tail::<16>(ZONES, key)?;
    Ok((name, ZoneId::from_bytes(zone)))
}

/// The name and the fixed bytes after its `0x00`.
fn tail<const N: usize>(prefix: &[u8], key: &[u8]) -> Result<(KeyName, [u8; N]), KeysError> {
    let damaged = || KeysError::damaged(key);
    let (front, tail) = key.split_last_chunk::<N>().ok_or_else(damaged)?;
    Ok((
        name_after(prefix, front.strip_suffix(&[0]).ok_or_else(damaged)?)?,
        *tail,
    ))
}

fn read_zone(key: &[u8], value: &[u8]) -> Result<(u64, Option<Proven>), KeysError> {
    let damaged = || KeysError::damaged(key);
    let record = ZoneRecord::decode(value).map_err(|_| damaged())?;
    let proven = |proof: ProofRecord| {
        Ok::<_, KeysError>(Proven {
            through: KeyVersion(proof.through),
            issued_ms: proof.issued_ms,
            known: proof.known,
            hash: proof.hash.as_ref().try_into().map_err(|_| damaged())?,
        })
    };
    Ok((record.first_minted_ms, record.proof.map(proven).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_older_use_does_not_replace_a_later_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = strongroom_kv::StoreConfig::default();
        let ledger = Ledger::open(&config, &dir.path().join("keys.redb"))
            .await
            .expect("a store");
        let key: KeyName = "payroll".parse().expect("a key name");
        let (old, new) = (KeyVersion(0), KeyVersion(1));
        for (version, at_ms) in [(new, 500), (old, 90), (new, 400), (old, 100)] {
            let uses = [(key.clone(), version, at_ms)];
            ledger.save_uses(&uses).await.expect("stored");
        }
        let stored = ledger.last_uses(&key).await.expect("read");
        assert_eq!(stored, [(old, 100), (new, 500)]);
    }
}
