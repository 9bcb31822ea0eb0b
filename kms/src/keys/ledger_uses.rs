//! The store of how often versions of `gcm` keys were used.
//!
//! | key | value |
//! |---|---|
//! | `uses/` name 0x00 version | uses reserved, u64, big-endian |
//! | `reservations` | how many ranges were ever reserved of any version, u64, big-endian: it never goes back but by a store that was set back |

use bytes::Bytes;
use strongroom_kv::{AnyTxn, Reader, Store, Txn, transact};
use strongroom_proto::{EdekSuite, KeyName, KeyVersion};

use super::{
    KeysError,
    ledger::{Ledger, PAGE},
    ledger_shared::{committed, number},
    records::{USES, read_uses, read_uses_key, uses_key},
};

const RESERVATIONS: &[u8] = b"reservations";

/// What a reservation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It is recorded.
    Range {
        /// Uses of the version that are reserved by now.
        uses: u64,
        /// Which reservation this was, of all.
        reservations: u64,
    },
    /// Nothing is recorded: more than the most would be reserved then.
    UsedUp,
    /// Nothing is recorded: the store counts fewer reservations than were seen.
    SetBack,
}

impl Ledger {
    /// Reserves `range` uses of a version, up to `most`, if the store has counted all the reservations that were `seen`. A
    /// reservation in a store that was set back would have it look like one that was not.
    pub(super) async fn reserve_uses(
        &self,
        name: &KeyName,
        version: KeyVersion,
        range: u64,
        most: u64,
        seen: u64,
    ) -> Result<Reserved, KeysError> {
        let key = uses_key(name, version);
        transact(&self.store, |txn| {
            let key = key.clone();
            Box::pin(async move {
                let counted = reservations(txn).await?;
                if counted < seen {
                    return Ok(Reserved::SetBack);
                }
                let stored = txn.get(&key).await?;
                let before = stored.map_or(Ok(0), |value| read_uses(&key, &value))?;
                let Some(uses) = before.checked_add(range).filter(|&after| after <= most) else {
                    return Ok(Reserved::UsedUp);
                };
                txn.put(&key, uses.to_be_bytes().to_vec());
                let reservations = counted + 1;
                txn.put(RESERVATIONS, reservations.to_be_bytes().to_vec());
                Ok(Reserved::Range { uses, reservations })
            })
        })
        .await
    }

    /// How many ranges were reserved.
    pub(super) async fn reservations(&self) -> Result<u64, KeysError> {
        reservations(&mut self.store.begin().await?).await
    }

    /// Counts `most` uses of every version of a `gcm` key, and more than `past` reservations, whose number it answers. A crash
    /// on the way leaves the number as it was.
    pub(super) async fn wear_out(&self, most: u64, past: u64) -> Result<u64, KeysError> {
        let (_, keys) = self.load_at_rest().await?;
        let gcm = keys.values().filter(|key| key.suite == EdekSuite::Gcm);
        let places = gcm.flat_map(|key| key.versions.keys().map(|&version| uses_key(&key.name, version)));
        let places: Vec<_> = places.collect();
        for page in places.chunks(PAGE) {
            self.put_all(page, most).await?;
        }
        transact(&self.store, |txn| {
            Box::pin(async move {
                let next = reservations(txn).await?.max(past) + 1;
                txn.put(RESERVATIONS, next.to_be_bytes().to_vec());
                Ok::<_, KeysError>(next)
            })
        })
        .await
    }

    /// Uses reserved of every version that has any.
    pub(super) async fn load_uses(&self) -> Result<Vec<(KeyName, KeyVersion, u64)>, KeysError> {
        let pairs = self.scan(USES).await?;
        let read = |(key, value): &(Bytes, Bytes)| {
            let (name, version) = read_uses_key(key)?;
            Ok((name, version, read_uses(key, value)?))
        };
        pairs.iter().map(read).collect()
    }

    async fn put_all(&self, places: &[Vec<u8>], uses: u64) -> Result<(), KeysError> {
        let mut attempt = 0;
        loop {
            let mut txn = self.store.begin().await?;
            for place in places {
                txn.put(place, uses.to_be_bytes().to_vec());
            }
            if committed(txn, &mut attempt).await? {
                return Ok(());
            }
        }
    }
}

async fn reservations(txn: &mut AnyTxn) -> Result<u64, KeysError> {
    let stored = txn.get(RESERVATIONS).await?;
    stored.map_or(Ok(0), |value| number(RESERVATIONS, &value))
}
