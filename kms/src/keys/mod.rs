//! The keys: which exist, which version of each mints, and what is asked of the token for them.
//!
//! The token is authoritative for what exists; the store adds states, times and the answers of requests.
//! Both are compared whenever the token comes up (`reconcile`), and nothing is done with a token
//! that has not been compared; one that was away is used meanwhile for what is seen in it (`doubt`).

mod attributes;
mod claims;
mod compare;
mod delete;
mod deletion;
mod destroy;
mod destruction;
mod doubt;
mod due;
mod import;
mod instances;
mod key;
mod lease;
mod ledger;
mod ledger_registry;
mod ledger_shared;
mod ledger_uses;
mod list;
mod manage;
mod mark;
mod reconcile;
mod records;
mod registry;
mod rotation;
mod tokens;
mod transfer;
mod update;
mod uses;
mod version;
mod wire;

#[cfg(test)]
mod model_test;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use bytes::Bytes;
use strongroom_kv::{AnyOpenError, Store as _, StoreConfig, StoreError};
use strongroom_proto::{Edek, EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};
use tokio::sync::{Mutex, RwLock as AsyncRwLock, watch};

pub use self::instances::Lease;
pub(crate) use self::{
    attributes::{Attributes, description, tags},
    delete::{CheckedProof, ProofChecker, target},
    deletion::{Quorum, Target, pending_ms},
    import::{Material, VERSIONS_MAX as IMPORTS_MAX},
    list::KeyPage,
    manage::NewKey,
    rotation::period,
    transfer::Transferred,
    update::{Change, MovedAlias},
    uses::{ROLL_AFTER_DEFAULT, USES_MAX},
};
use self::{
    compare::Touched,
    doubt::Doubt,
    instances::Member,
    key::Key,
    ledger::{Ledger, Loaded},
    mark::Mark,
    records::Intent,
    registry::{Registry, distinct},
    uses::Uses,
};
use crate::{
    audit::AuditKey,
    batch::{Places, merge, same_count, split},
    clock::Clock,
    config::{InstancesConfig, KeysConfig},
    hsm::Hsm,
    policy::KeyFacts,
    token::{ImportKey, SealedCall, SealedReply, Verified, WireDek},
};

/// How long a call waits for a token that is coming up, so that a worker's restart costs time, not errors.
const READY_WAIT: Duration = Duration::from_secs(3);

/// Times that EDEKs are made again because their version was replaced meanwhile.
const MAKE_ATTEMPTS_MAX: u32 = 5;

/// Why the keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The store cannot be opened.
    #[error("cannot open the key service's store")]
    Open(#[from] AnyOpenError),
    /// The store failed.
    #[error("the key service's store failed")]
    Store(#[from] StoreError),
    /// The key is not any more what the change was based on.
    #[error("key {key} was changed by another instance of the key service meanwhile; try again")]
    Stale {
        /// The key.
        key: KeyName,
    },
    /// Another instance is at it.
    #[error("another instance of the key service is making a version of key {key}; try again in a moment")]
    Claimed {
        /// The key.
        key: KeyName,
    },
    /// Another instance took this one for gone and has ended what it began.
    #[error(
        "this instance of the key service stood still or was cut off while it made a version of key {key}, and another one has \
         taken it over; repeat the call"
    )]
    Lost {
        /// The key.
        key: KeyName,
    },
    /// What this instance knows of the counts of uses cannot be kept.
    #[error(
        "the mark of the counts of uses, uses.mark in the data directory, cannot be read or written; make room, or remove it if it \
         is damaged, whereupon all gcm keys are rolled"
    )]
    Mark(#[source] std::io::Error),
    /// A record is not what this program writes.
    #[error(
        "the record {key} of the key service's store cannot be read; restore the store from its backup, or remove it to rebuild it from the token"
    )]
    Damaged {
        /// The record's key, as far as it is text.
        key: String,
    },
}

impl KeysError {
    fn damaged(key: &[u8]) -> Self {
        Self::Damaged {
            key: String::from_utf8_lossy(key).into_owned(),
        }
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        let reason = match &error {
            KeysError::Store(StoreError::Full { .. } | StoreError::DatabaseFull { .. }) => Reason::NoSpace,
            KeysError::Store(StoreError::Overloaded { .. } | StoreError::Contended { .. }) => Reason::Overloaded,
            KeysError::Stale { .. } | KeysError::Claimed { .. } | KeysError::Lost { .. } => Reason::Overloaded,
            _ => Reason::StoreFailed,
        };
        Self::new(reason, chain(&error))
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// EDEKs made under one version.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) key: KeyName,
    pub(crate) version: KeyVersion,
    pub(crate) suite: EdekSuite,
    pub(crate) edeks: Vec<Bytes>,
}

/// EDEKs wrapped again, one result for each asked for.
#[derive(Debug)]
pub(crate) struct Rewrapped {
    pub(crate) version: KeyVersion,
    pub(crate) results: Vec<Result<Bytes, Failure>>,
}

/// Where the states of keys are, and who reads them.
pub(crate) struct StorePlace<'a> {
    pub(crate) store: &'a StoreConfig,
    /// The embedded engine's file.
    pub(crate) file: PathBuf,
    pub(crate) instances: &'a InstancesConfig,
    /// What other instances call this one.
    pub(crate) instance: String,
}

/// All keys of one token.
pub(crate) struct Keys<H> {
    hsm: Arc<H>,
    ledger: Ledger,
    clock: Clock,
    config: KeysConfig,
    table: RwLock<BTreeMap<KeyName, Key>>,
    registry: Registry,
    uses: Uses,
    /// Held for reading while EDEKs are made. Who retires a version takes it for writing: when he has it, nothing is
    /// under way any more under what was current before.
    making: AsyncRwLock<()>,
    /// Whether the token that is up has been compared with the store.
    compared: watch::Sender<bool>,
    /// Whether versions may be used: also of a token that was away, each once it was seen there.
    serves: watch::Sender<bool>,
    doubt: Doubt,
    /// Why the last comparison failed, until one succeeds.
    obstacle: StdMutex<Option<Failure>>,
    /// Keys that something happened to since a look at the token began that is under way.
    touched: StdMutex<Option<Touched>>,
    /// Held by whoever changes keys: one change at a time. Versions that may or may not be in the token.
    changes: Mutex<BTreeMap<KeyName, Intent>>,
    /// This instance among others, if the store may be shared.
    member: Option<Member>,
}

impl<H: Hsm> Keys<H> {
    /// Reads the store; nothing is asked of the token yet.
    pub(crate) async fn open(
        place: &StorePlace<'_>,
        hsm: Arc<H>,
        clock: Clock,
        config: KeysConfig,
    ) -> Result<Self, KeysError> {
        let mut ledger = Ledger::open(place.store, &place.file).await?;
        ledger.forget_requests(clock.now_ms()).await?;
        let (loaded, member) = if ledger.store.is_shared() {
            let (revision, keys) = ledger.load_at_rest().await?;
            let member = Member::new(place.instances, place.instance.clone(), revision);
            ledger.me = Some(member.id);
            hsm.rely_on(member.lease());
            // What others are making is theirs.
            let intents = BTreeMap::new();
            (Loaded { keys, intents }, Some(member))
        } else {
            (ledger.load().await?, None)
        };
        let directory = place.file.parent().unwrap_or(&place.file);
        let mark = Mark::open(directory).map_err(KeysError::Mark)?;
        let uses = Uses::new(config.gcm_roll_after(), ledger.load_uses().await?, mark);
        uses.check(&ledger).await?;
        for key in loaded.keys.values() {
            hsm.expect(&key.name, &key.check_values());
        }
        Ok(Self {
            hsm,
            uses,
            registry: ledger.load_registry().await?,
            ledger,
            clock,
            config,
            table: RwLock::new(loaded.keys),
            making: AsyncRwLock::new(()),
            compared: watch::Sender::new(false),
            serves: watch::Sender::new(false),
            doubt: Doubt::default(),
            obstacle: StdMutex::new(None),
            touched: StdMutex::new(None),
            changes: Mutex::new(loaded.intents),
            member,
        })
    }

    /// Whether the token is up and compared, or was before it was away and its versions are looked for as they are used; and
    /// every change of that.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.serves.subscribe()
    }

    /// The public keys that may sign the audit log.
    pub(crate) async fn audit_keys(&self) -> Result<Vec<AuditKey>, Failure> {
        self.hsm.audit_keys().await
    }

    /// The public key to wrap keys to that are to be imported.
    pub(crate) async fn import_key(&self) -> Result<ImportKey, Failure> {
        self.wait_ready().await?;
        self.hsm.import_key(false).await
    }

    /// What the configuration says of keys.
    pub(crate) const fn config(&self) -> &KeysConfig {
        &self.config
    }

    /// What policies may know of a key, also of one that does not exist.
    pub(crate) fn facts(&self, name: &KeyName) -> KeyFacts {
        self.table()
            .get(name)
            .map_or_else(|| KeyFacts::unknown(name.clone()), facts_of)
    }

    /// The key that `name` is the name or an alias of, or `name` itself if it is neither.
    pub(crate) fn resolve(&self, name: KeyName) -> KeyName {
        if self.table().contains_key(&name) {
            return name;
        }
        self.registry.aliases.read().get(&name).cloned().unwrap_or(name)
    }

    /// EDEKs of fresh DEKs under the key's current version. For a `count` of 0 it tells that version, if this zone could have some
    /// of it, and leaves nothing behind.
    pub(crate) async fn mint(&self, name: &KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        self.wait_ready().await?;
        for _ in 0..MAKE_ATTEMPTS_MAX {
            self.wait_lease().await?;
            // A deletion waits until nothing is made any more, and everybody for it: looking in the token comes before.
            self.minting_seen(name).await?;
            let _making = self.making.read().await;
            let minted = self.mint_once(name, zone, count).await?;
            if self.still_mints(name, minted.version) {
                return Ok(minted);
            }
        }
        Err(overtaken(name))
    }

    async fn mint_once(&self, name: &KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        let (version, suite) = self.minting_seen(name).await?;
        self.check_room(name, zone)?;
        let mut minted = Minted {
            key: name.clone(),
            version,
            suite,
            edeks: Vec::new(),
        };
        if count > 0 {
            self.uses.charge(&self.ledger, name, version, suite, count).await?;
            self.registry.note_use(name, version, self.clock.now_ms());
            minted.edeks = self.hsm.mint(name, version, zone, count).await?;
            same_count(minted.edeks.len(), count)?;
            self.register(name, zone).await?;
        }
        Ok(minted)
    }

    /// Refuses another zone for a key that has as many as one may have. Nothing but a proof and a destruction gets rid of one.
    fn check_room(&self, name: &KeyName, zone: &ZoneId) -> Result<(), Failure> {
        let zones_max = self.config.zones_max;
        if self.registry.knows_zone(name, zone) || self.registry.zone_count(name) < zones_max {
            return Ok(());
        }
        Err(Failure::new(
            Reason::NoSpace,
            format!(
                "key {name} serves {zones_max} zones, as many as one key may; give further zones another key, or raise keys.zones_max"
            ),
        ))
    }

    /// Records durably that a zone has EDEKs of a key, before it is given the first: who asks in vain leaves nothing behind.
    async fn register(&self, name: &KeyName, zone: &ZoneId) -> Result<(), Failure> {
        if !self.registry.knows_zone(name, zone) {
            self.ledger.register_zone(name, zone, self.clock.now_ms()).await?;
            self.registry.add_zone(name, *zone);
        }
        Ok(())
    }

    /// EDEKs of one zone, wrapped again under the key's current version.
    pub(crate) async fn rewrap(
        &self,
        name: &KeyName,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Rewrapped, Failure> {
        self.wait_ready().await?;
        for _ in 0..MAKE_ATTEMPTS_MAX {
            self.wait_lease().await?;
            self.minting_seen(name).await?;
            self.see(items.iter().map(|(version, _)| (name, *version))).await?;
            let _making = self.making.read().await;
            let rewrapped = self.rewrap_once(name, zone, items.clone()).await?;
            if self.still_mints(name, rewrapped.version) {
                return Ok(rewrapped);
            }
        }
        Err(overtaken(name))
    }

    async fn rewrap_once(
        &self,
        name: &KeyName,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Rewrapped, Failure> {
        let (to, suite) = self.minting_seen(name).await?;
        self.check_room(name, zone)?;
        self.see(items.iter().map(|(version, _)| (name, *version))).await?;
        let checks = self.with_key(name, |key| {
            let opening = |version| key.opening(version).and_then(|()| self.doubt.check(name, version));
            Ok(items.iter().map(|(version, _)| opening(*version)).collect::<Vec<_>>())
        })?;
        let (good, places) = split(items, checks);
        self.uses.charge(&self.ledger, name, to, suite, good.len()).await?;
        self.note_uses(good.iter().map(|(version, _)| (name, *version)).chain([(name, to)]));
        let done = self.hsm.rewrap(name, to, zone, good).await?;
        // Whoever re-wraps holds EDEKs for the zone, also if it never minted here; that they open proves it.
        if done.iter().any(Result::is_ok) {
            self.register(name, zone).await?;
        }
        Ok(Rewrapped {
            version: to,
            results: merge(done, places)?,
        })
    }

    /// The DEKs of EDEKs of any keys and zones, one result for each.
    pub(crate) async fn unwrap(&self, edeks: Vec<Edek>) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        self.wait_ready().await?;
        self.see(edeks.iter().map(|edek| (&edek.key, edek.version))).await?;
        let checks = edeks.iter().map(|edek| self.opening_unsealed(edek)).collect();
        let (good, places) = split(edeks, checks);
        if good.is_empty() {
            return merge(Vec::new(), places);
        }
        self.note_uses(good.iter().map(|edek| (&edek.key, edek.version)));
        merge(self.hsm.unwrap(&good).await?, places)
    }

    /// Has a signed request answered, less what `checks` or the keys refuse. Answers also what was left out; the worker is
    /// not asked if that is everything.
    pub(crate) async fn unwrap_sealed(
        &self,
        edeks: &[Edek],
        mut call: SealedCall,
        checks: &[Result<(), Failure>],
    ) -> Result<(Option<Verified<SealedReply>>, Places), Failure> {
        self.wait_ready().await?;
        let permitted = edeks.iter().zip(checks).filter(|(_, check)| check.is_ok());
        self.see(permitted.map(|(edek, _)| (&edek.key, edek.version))).await?;
        let refusal =
            |(edek, check): (&Edek, &Result<(), Failure>)| check.clone().and_then(|()| self.opening(edek)).err();
        let places: Places = edeks.iter().zip(checks).map(refusal).collect();
        call.left_out = (0..)
            .zip(&places)
            .filter(|(_, place)| place.is_some())
            .map(|(at, _)| at)
            .collect();
        if call.left_out.len() == edeks.len() {
            return Ok((None, places));
        }
        let asked = edeks.iter().zip(&places).filter(|(_, place)| place.is_none());
        self.note_uses(asked.map(|(edek, _)| (&edek.key, edek.version)));
        let reply = self.hsm.unwrap_sealed(call).await?;
        Ok((Some(reply), places))
    }

    fn note_uses<'a>(&self, versions: impl IntoIterator<Item = (&'a KeyName, KeyVersion)>) {
        let now_ms = self.clock.now_ms();
        for (name, version) in distinct(versions) {
            self.registry.note_use(name, version, now_ms);
        }
    }

    /// Whether the DEK may be given out as it is.
    fn opening_unsealed(&self, edek: &Edek) -> Result<(), Failure> {
        self.opening(edek)?;
        self.with_key(&edek.key, |key| {
            if key.attributes.sealed_required {
                return Err(Failure::new(
                    Reason::SealedRequired,
                    format!(
                        "DEKs of key {} are given out by sealed delivery only; ask for that with: --sealed",
                        key.name
                    ),
                ));
            }
            Ok(())
        })
    }

    fn opening(&self, edek: &Edek) -> Result<(), Failure> {
        self.with_key(&edek.key, |key| {
            if edek.suite == key.suite {
                key.opening(edek.version)?;
                self.doubt.check(&key.name, edek.version)
            } else {
                Err(Failure::new(
                    Reason::EdekInvalid,
                    format!("key {} wraps with suite {}, not {}", key.name, key.suite, edek.suite),
                ))
            }
        })
    }

    fn minting(&self, name: &KeyName) -> Result<(KeyVersion, EdekSuite), Failure> {
        self.with_key(name, |key| Ok((key.minting()?, key.suite)))
    }

    /// The version that mints, if it is known to be in the token.
    async fn minting_seen(&self, name: &KeyName) -> Result<(KeyVersion, EdekSuite), Failure> {
        let (version, suite) = self.minting(name)?;
        self.see([(name, version)]).await?;
        self.doubt.check(name, version)?;
        // What the comparison has found meanwhile counts.
        self.with_key(name, |key| key.opening(version))?;
        Ok((version, suite))
    }

    fn with_key<T>(&self, name: &KeyName, then: impl FnOnce(&Key) -> Result<T, Failure>) -> Result<T, Failure> {
        self.table().get(name).ok_or_else(|| not_found(name)).and_then(then)
    }

    fn table(&self) -> RwLockReadGuard<'_, BTreeMap<KeyName, Key>> {
        // Writers only swap whole values in, so that a panic elsewhere leaves nothing half done.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a key in the table, unless what another instance stored later is there. Answers whether it did.
    fn put(&self, key: Key) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let newest = table.get(&key.name).is_none_or(|known| known.revision <= key.revision);
        if newest {
            self.hsm.expect(&key.name, &key.check_values());
            table.insert(key.name.clone(), key);
        }
        newest
    }

    /// Changes what is known of a key besides what the store says of it.
    fn amend(&self, name: &KeyName, change: impl FnOnce(&mut Key)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = table.get_mut(name) {
            change(key);
        }
    }

    /// Puts a key in the table as another instance stored it, and keeps what this one has found out about it. Answers which
    /// versions that one has destroyed.
    fn put_stored(&self, mut key: Key) -> Vec<KeyVersion> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut lost = Vec::new();
        if let Some(known) = table.get(&key.name) {
            if known.revision > key.revision {
                return lost;
            }
            key.keep_presence(known);
            lost = key.lost_since(known);
        }
        self.hsm.expect(&key.name, &key.check_values());
        table.insert(key.name.clone(), key);
        lost
    }

    /// Waits for the token a little; says why it cannot be used if it does not come up.
    async fn wait_ready(&self) -> Result<(), Failure> {
        self.wait_for(&self.serves).await
    }

    /// The same for who changes keys: until the token was compared.
    async fn wait_compared(&self) -> Result<(), Failure> {
        self.wait_for(&self.compared).await
    }

    async fn wait_for(&self, ready: &watch::Sender<bool>) -> Result<(), Failure> {
        let mut ready = ready.subscribe();
        if *ready.borrow_and_update() {
            return Ok(());
        }
        let wait = async {
            tokio::select! {
                _ = ready.wait_for(|&ready| ready) => return Ok(()),
                // A token that cannot be used says so itself, and better.
                checked = self.hsm.check() => checked?,
            }
            _ = ready.wait_for(|&ready| ready).await;
            Ok(())
        };
        let waited = tokio::time::timeout(READY_WAIT, wait).await;
        waited.unwrap_or_else(|_| Err(self.obstacle().clone().unwrap_or_else(coming_up)))
    }

    fn obstacle(&self) -> StdMutexGuard<'_, Option<Failure>> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn coming_up() -> Failure {
    Failure::new(
        Reason::TokenUnavailable,
        "the token is coming up and has not been compared with the key service's store yet; try again in a moment",
    )
}

fn overtaken(name: &KeyName) -> Failure {
    Failure::new(
        Reason::Overloaded,
        format!("key {name} was rolled each time while EDEKs were made under it; try again"),
    )
}

fn not_found(name: &KeyName) -> Failure {
    Failure::new(
        Reason::KeyNotFound,
        format!("key {name} does not exist; list keys with: strongroom key list"),
    )
}

fn facts_of(key: &Key) -> KeyFacts {
    KeyFacts {
        suite: Some(key.suite),
        sealed_required: key.attributes.sealed_required,
        tags: key.attributes.tags.clone(),
        ..KeyFacts::unknown(key.name.clone())
    }
}
