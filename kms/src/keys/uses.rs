//! How many EDEKs a `gcm` version has made. Random IVs allow 2^32 encryptions under one key (NIST SP 800-38D, section 8.3), so
//! they are counted where no crash forgets them: a range of uses is recorded in the store before the first of them is made,
//! and what a crash leaves of a range counts as used. Several instances reserve ranges of their own.
//!
//! A store that is set back to an older state, from a backup, counts too few. It is found out by a mark outside of it
//! ([`Mark`]), and then nobody knows how often versions were used: all of them count as used up, so that their keys roll.
//!
//! A use is counted for every attempt that the layers below may make of it, and for the canary of every batch: the count is
//! an upper bound. A key rolls by itself long before the bound that stops a version.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_kv::Store as _;
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, RequestId};
use tokio::sync::Mutex as AsyncMutex;

use super::{KeysError, ledger::Ledger, ledger_uses::Reserved, mark::Mark};

/// Uses after which a key rolls by itself, if the configuration says nothing: some 33 million EDEKs.
pub(crate) const ROLL_AFTER_DEFAULT: u64 = 1 << 30;
/// Uses after which a version makes no more EDEKs. Half of what is allowed: the other half is for canaries of tokens that
/// come back, which nobody counts.
pub(crate) const USES_MAX: u64 = 1 << 31;
/// Uses reserved at once, where the roll is not nearer than that.
const RANGE: u64 = 1 << 20;
/// How often one EDEK may be made before its caller has an answer: twice in a worker, by two workers, in every token.
const ATTEMPTS_MAX: u64 = 4 * crate::fleet::TOKENS_MAX as u64;
/// EDEKs for which the token layer makes one canary; it makes no fewer than one a call.
const EDEKS_PER_CANARY: u64 = 200;

/// The counts of all versions, and what is left of the ranges of this process.
#[derive(Debug)]
pub(super) struct Uses {
    roll_after: u64,
    counts: Mutex<Counts>,
    /// Held while a range is reserved: marks are in the order of reservations.
    mark: AsyncMutex<Mark>,
}

type Counts = HashMap<(KeyName, KeyVersion), Count>;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Reserved in the store, by all instances, as far as is known here.
    reserved: u64,
    /// Of that, not used yet by this process.
    left: u64,
}

impl Uses {
    /// Counts as the store has them; `roll_after` uses make a version worn.
    pub(super) fn new(roll_after: u64, stored: Vec<(KeyName, KeyVersion, u64)>, mark: Mark) -> Self {
        Self {
            roll_after,
            counts: Mutex::new(counts_of(stored)),
            mark: AsyncMutex::new(mark),
        }
    }

    /// Counts every version as used up if the store was set back. A store of this process' own without a mark was: it is
    /// not the one that was written here.
    pub(super) async fn check(&self, ledger: &Ledger) -> Result<(), KeysError> {
        let mut mark = self.mark.lock().await;
        let reservations = ledger.reservations().await?;
        let set_back = match mark.seen() {
            Some(seen) => reservations < seen,
            None => reservations > 0 && !ledger.store.is_shared(),
        };
        if set_back {
            self.wear_out(ledger, &mut mark).await?;
        }
        Ok(())
    }

    /// Counts `edeks` that are about to be made. Suites whose EDEKs need no random IV of the key's own are not counted.
    ///
    /// # Errors
    /// [`Reason::KeyVersionUnusable`] if the version has made as many as it may; the store's failures, since what cannot be
    /// counted is not made; [`Reason::Overloaded`] if it turns out that the store was set back.
    pub(super) async fn charge(
        &self,
        ledger: &Ledger,
        name: &KeyName,
        version: KeyVersion,
        suite: EdekSuite,
        edeks: usize,
    ) -> Result<(), Failure> {
        let uses = uses_of(edeks);
        if suite != EdekSuite::Gcm || self.take(name, version, uses) {
            return Ok(());
        }
        let mut mark = self.mark.lock().await;
        // Another call may have reserved a range meanwhile.
        if self.take(name, version, uses) {
            return Ok(());
        }
        // A range that cannot be marked is lost: none is reserved while the mark cannot be written.
        let seen = mark.seen().unwrap_or_default();
        mark.advance(seen).map_err(KeysError::Mark)?;
        let range = RANGE.min(self.roll_after / 16).max(uses);
        let reserved = ledger.reserve_uses(name, version, range, USES_MAX, seen).await?;
        let (reserved, reservations) = match reserved {
            Reserved::Range { uses, reservations } => (uses, reservations),
            Reserved::UsedUp => return Err(used_up(name, version)),
            Reserved::SetBack => {
                self.wear_out(ledger, &mut mark).await?;
                return Err(set_back(name));
            }
        };
        mark.advance(reservations).map_err(KeysError::Mark)?;
        let mut counts = self.counts();
        let count = counts.entry((name.clone(), version)).or_default();
        count.reserved = count.reserved.max(reserved);
        count.left += range - uses;
        Ok(())
    }

    async fn wear_out(&self, ledger: &Ledger, mark: &mut Mark) -> Result<(), KeysError> {
        tracing::error!(
            "the store was set back to an older state, so that nobody knows how often the versions of gcm keys were used: they \
             make nothing any more, and their keys are rolled"
        );
        let reservations = ledger.wear_out(USES_MAX, mark.seen().unwrap_or_default()).await?;
        *self.counts() = counts_of(ledger.load_uses().await?);
        mark.advance(reservations).map_err(KeysError::Mark)
    }

    /// Whether a version has made so many EDEKs that its key is to roll.
    pub(crate) fn is_worn(&self, name: &KeyName, version: KeyVersion) -> bool {
        let counts = self.counts();
        let count = counts.get(&(name.clone(), version));
        count.is_some_and(|count| count.reserved >= self.roll_after)
    }

    /// Takes uses out of what is left of the range.
    fn take(&self, name: &KeyName, version: KeyVersion, uses: u64) -> bool {
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(&(name.clone(), version)) else {
            return false;
        };
        let enough = count.left >= uses;
        if enough {
            count.left -= uses;
        }
        enough
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are changed in single steps, so that a panic elsewhere leaves none half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts_of(stored: Vec<(KeyName, KeyVersion, u64)>) -> Counts {
    let count = |(name, version, reserved)| ((name, version), Count { reserved, left: 0 });
    stored.into_iter().map(count).collect()
}

/// The request id of the roll of a worn version.
pub(super) fn roll_request(name: &KeyName, version: KeyVersion) -> RequestId {
    let domain: &[u8] = b"strongroom/worn/v1";
    let text = [domain, &[0], name.as_str().as_bytes(), &[0], &version.0.to_be_bytes()].concat();
    let digest = digest(&SHA256, &text);
    RequestId::from_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

/// The most that making so many EDEKs can encrypt.
fn uses_of(edeks: usize) -> u64 {
    let edeks = edeks as u64;
    (edeks + edeks.div_ceil(EDEKS_PER_CANARY)) * ATTEMPTS_MAX
}

fn set_back(name: &KeyName) -> Failure {
    Failure::new(
        Reason::Overloaded,
        format!(
            "the key service's store was set back to an older state, so that nobody knows how often key {name} was used; it is \
             being rolled, try again in a moment"
        ),
    )
}

fn used_up(name: &KeyName, version: KeyVersion) -> Failure {
    Failure::new(
        Reason::KeyVersionUnusable,
        format!(
            "version {version} of key {name} has made as many EDEKs as AES-GCM allows a key, and only opens now; make a new \
             version with: strongroom key roll {name}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyName {
        "payroll".parse().expect("a key name")
    }

    async fn open(path: &std::path::Path) -> Ledger {
        let config = strongroom_kv::StoreConfig::default();
        Ledger::open(&config, path).await.expect("a store")
    }

    fn mark(dir: &tempfile::TempDir, name: &str) -> Mark {
        let directory = dir.path().join(name);
        std::fs::create_dir_all(&directory).expect("own directory");
        Mark::open(&directory).expect("a mark")
    }

    #[tokio::test]
    async fn a_crash_counts_too_many_and_never_too_few() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("keys.redb");
        let (name, version) = (key(), KeyVersion(0));
        let mut made = 0;
        for round in 1..=3 {
            let ledger = open(&path).await;
            let stored = ledger.load_uses().await.expect("read");
            let before = stored.first().map_or(0, |(_, _, count)| *count);
            assert!(before >= made, "round {round}: {before} of {made}");
            let uses = Uses::new(16 * 1000, stored, mark(&dir, "a"));
            for edeks in [1, 200, 1, 7, 1000] {
                uses.charge(&ledger, &name, version, EdekSuite::Gcm, edeks)
                    .await
                    .expect("room");
                made += edeks as u64;
                let stored = ledger.load_uses().await.expect("read")[0].2;
                assert!(stored >= made, "{stored} of {made}");
            }
            // Dropped in the middle of a range, as a crash would.
        }
    }

    #[tokio::test]
    async fn a_version_wears_out_and_then_makes_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = open(&dir.path().join("keys.redb")).await;
        let (name, version) = (key(), KeyVersion(3));
        let uses = Uses::new(1600, Vec::new(), mark(&dir, "a"));
        while !uses.is_worn(&name, version) {
            uses.charge(&ledger, &name, version, EdekSuite::Gcm, 1)
                .await
                .expect("room");
        }
        let stored = ledger.load_uses().await.expect("read");
        assert_eq!(stored, [(name.clone(), version, 1600)]);
        assert!(!uses.is_worn(&name, KeyVersion(4)), "each version for itself");
        assert!(
            Uses::new(1600, stored, mark(&dir, "a")).is_worn(&name, version),
            "after a restart too"
        );

        let rest = USES_MAX - 1600;
        let left = ledger.reserve_uses(&name, version, rest, USES_MAX, 0).await;
        let left = left.expect("stored");
        assert!(matches!(left, Reserved::Range { uses: USES_MAX, .. }), "{left:?}");
        let uses = Uses::new(1600, ledger.load_uses().await.expect("read"), mark(&dir, "a"));
        let failure = uses
            .charge(&ledger, &name, version, EdekSuite::Gcm, 1)
            .await
            .expect_err("used up");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable);
        assert!(failure.message.contains("strongroom key roll payroll"), "{failure}");
        for suite in [EdekSuite::Kw, EdekSuite::Hadoop] {
            uses.charge(&ledger, &name, version, suite, 1)
                .await
                .expect("not counted");
        }
    }

    #[tokio::test]
    async fn instances_reserve_ranges_of_their_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = open(&dir.path().join("keys.redb")).await;
        let (name, version) = (key(), KeyVersion(0));
        let uses = |name| Uses::new(1 << 20, Vec::new(), mark(&dir, name));
        let (one, other) = (uses("one"), uses("other"));
        for uses in [&one, &other, &one] {
            uses.charge(&ledger, &name, version, EdekSuite::Gcm, 1)
                .await
                .expect("room");
        }
        assert_eq!(
            ledger.load_uses().await.expect("read")[0].2,
            2 << 16,
            "two ranges of 2^16"
        );
    }

    /// A crash right after would otherwise leave a store that was set back by one reservation looking like one that was not.
    #[tokio::test]
    async fn a_store_that_was_set_back_counts_no_reservation_before_its_versions_are_worn_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let (name, version) = (key(), KeyVersion(0));
        let ledger = open(&path("keys.redb")).await;
        let uses = Uses::new(1600, Vec::new(), mark(&dir, "a"));
        uses.charge(&ledger, &name, version, EdekSuite::Gcm, 1)
            .await
            .expect("room");
        let older = ledger.reservations().await.expect("read");
        drop(ledger);
        std::fs::copy(path("keys.redb"), path("backup.redb")).expect("copied");
        let ledger = open(&path("keys.redb")).await;
        let reserved = ledger.reserve_uses(&name, version, 100, USES_MAX, older).await;
        let Ok(Reserved::Range { reservations: seen, .. }) = reserved else {
            panic!("{reserved:?}");
        };

        let ledger = open(&path("backup.redb")).await;
        let before = ledger.load_uses().await.expect("read");
        let refused = ledger.reserve_uses(&name, version, 100, USES_MAX, seen).await;
        assert_eq!(refused.expect("answered"), Reserved::SetBack);
        assert_eq!(ledger.reservations().await.expect("read"), older, "nothing is counted");
        assert_eq!(ledger.load_uses().await.expect("read"), before);
    }
}
