//! A stand-in for a token: it keeps everything in memory, protects nothing, and can be told to fail. It is
//! here for the service's own logic; what a token really does is tested on tokens.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use strongroom_kms::{
    audit::{AuditHead, AuditKey, AuditSignature},
    hsm::{Held, Hsm},
    token::{
        ImportKey, Kcv, NewVersion, OaepHash, Origin, SealedCall, SealedReply, TokenKeyVersion, TokenName,
        TokenObjectId, TokenState, TransferCall, TransferReply, Verified, WireDek,
    },
};
use strongroom_proto::{Edek, EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId, sealed::nonce};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use super::SoftKey;

/// Long after this a call may still be held here, which a token's would not be.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// When a `generate` that is told to fail does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    BeforeGenerate,
    AfterGenerate,
}

/// A call that takes something from or to the token, and the version at which it is the last that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutAt {
    pub version: u32,
    /// Whether the token has done it by then.
    pub done: bool,
}

pub struct MemoryHsm {
    inside: Mutex<Inside>,
    state: watch::Sender<TokenState>,
    gate: Arc<RwLock<()>>,
    held: watch::Sender<usize>,
    lists: Arc<RwLock<()>>,
    listing: watch::Sender<usize>,
    pub audit: SoftKey,
}

#[derive(Default)]
struct Inside {
    versions: BTreeMap<(KeyName, KeyVersion), TokenKeyVersion>,
    edeks: HashMap<Bytes, (KeyName, KeyVersion, ZoneId, Bytes)>,
    crash: Option<Crash>,
    cut_import: Option<CutAt>,
    cut_destroy: Option<CutAt>,
    refuse_import: Option<oneshot::Receiver<()>>,
    import_key: Option<TokenObjectId>,
    suites: Option<Vec<EdekSuite>>,
    calls: usize,
    opens_nothing: bool,
    lists: Option<Failure>,
    looks: usize,
    fails_look: bool,
    list_takes: Duration,
    steps: Option<mpsc::Sender<oneshot::Sender<()>>>,
    unseen: Vec<String>,
    expected: HashMap<KeyName, Vec<u32>>,
}

impl MemoryHsm {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            state: watch::Sender::new(TokenState::Ready),
            gate: Arc::default(),
            held: watch::Sender::new(0),
            lists: Arc::default(),
            listing: watch::Sender::new(0),
            audit: SoftKey::new(),
        })
    }

    pub fn set_state(&self, state: TokenState) {
        self.state.send_replace(state);
    }

    /// The next `generate` is the last thing that the token does.
    pub fn crash_at_next(&self, crash: Crash) {
        self.inside().crash = Some(crash);
    }

    /// The import of that version is the last thing that the token does.
    pub fn cut_import(&self, at: CutAt) {
        self.inside().cut_import = Some(at);
    }

    /// The next version that is brought in is there at once, and refused when the word is given.
    pub fn refuse_next_import(&self) -> oneshot::Sender<()> {
        let (word, refused) = oneshot::channel();
        self.inside().refuse_import = Some(refused);
        word
    }

    /// The destruction of that version is the last thing that the token does.
    pub fn cut_destroy(&self, at: CutAt) {
        self.inside().cut_destroy = Some(at);
    }

    /// Whether a destruction that is to be cut off was not yet.
    pub fn cuts_destroy(&self) -> bool {
        self.inside().cut_destroy.is_some()
    }

    /// From now on no EDEK opens, as with a key that was damaged while it was made; or all do again.
    pub fn set_opens_nothing(&self, opens_nothing: bool) {
        self.inside().opens_nothing = opens_nothing;
    }

    /// Suites that it serves from now on; before, all of them.
    pub fn set_suites(&self, suites: &[EdekSuite]) {
        self.inside().suites = Some(suites.to_vec());
    }

    /// What listing the versions fails with, if it does.
    pub fn set_list_failure(&self, failure: Option<Failure>) {
        self.inside().lists = failure;
    }

    /// How long a listing takes from now on.
    pub fn set_list_takes(&self, pause: Duration) {
        self.inside().list_takes = pause;
    }

    /// From now on each look, at everything or for places, is told here and goes on until what was told is dropped.
    pub fn step_looks(&self) -> mpsc::Receiver<oneshot::Sender<()>> {
        let (told, steps) = mpsc::channel(1);
        self.inside().steps = Some(told);
        steps
    }

    /// Waits for the word to end a look, if looks are stepped.
    async fn stepped(&self) {
        let steps = self.inside().steps.clone();
        let (end, ended) = oneshot::channel();
        if let Some(steps) = steps
            && steps.send(end).await.is_ok()
        {
            _ = ended.await;
        }
    }

    /// The versions of a key that it was last told there should be.
    pub fn expected(&self, key: &str) -> Vec<u32> {
        let name: KeyName = key.parse().expect("a key name");
        self.inside().expected.get(&name).cloned().unwrap_or_default()
    }

    /// Tokens beside this one that cannot be looked into from now on.
    pub fn set_unseen(&self, labels: &[&str]) {
        self.inside().unseen = labels.iter().map(ToString::to_string).collect();
    }

    /// Has listings that begin from now on end when the guard is dropped, with what they found before.
    pub fn hold_lists(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.lists).try_write_owned().expect("nobody lists")
    }

    /// Waits until a listing begins after what `begin` does.
    pub async fn wait_list(&self, begin: impl FnOnce()) {
        let mut listing = self.listing.subscribe();
        begin();
        listing.changed().await.expect("the sender is here");
    }

    /// The next time that it is to look again it fails.
    pub fn fail_next_look(&self) {
        self.inside().fails_look = true;
    }

    /// How often it was to look again, failures included.
    pub fn looks(&self) -> usize {
        self.inside().looks
    }

    /// Lets no `generate`, `destroy` or `unwrap` go on until the guard is dropped.
    pub fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        let gate = Arc::clone(&self.gate);
        gate.try_write_owned().expect("the token is idle")
    }

    /// Waits until somebody waits for the token that [`Self::hold`] holds.
    pub async fn wait_held(&self) {
        let mut held = self.held.subscribe();
        held.wait_for(|&held| held > 0).await.expect("the sender is here");
    }

    async fn pass(&self) -> RwLockReadGuard<'_, ()> {
        if let Ok(passed) = self.gate.try_read() {
            return passed;
        }
        self.held.send_modify(|held| *held += 1);
        let passed = self.gate.read().await;
        self.held.send_modify(|held| *held -= 1);
        passed
    }

    /// Takes a version away, as a token restored from an old backup would.
    pub fn lose(&self, key: &str, version: u32) -> TokenKeyVersion {
        let name: KeyName = key.parse().expect("a key name");
        self.inside()
            .versions
            .remove(&(name, KeyVersion(version)))
            .expect("it was there")
    }

    /// Puts a version in without the service.
    pub fn put(&self, version: TokenKeyVersion) {
        let place = (version.key.clone(), version.version);
        self.inside().versions.insert(place, version);
    }

    /// Uses of keys that reached the token.
    pub fn calls(&self) -> usize {
        self.inside().calls
    }

    pub fn holds(&self, key: &str, version: u32) -> bool {
        let name: KeyName = key.parse().expect("a key name");
        self.inside().versions.contains_key(&(name, KeyVersion(version)))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("nobody panicked")
    }

    fn usable(&self) -> Result<MutexGuard<'_, Inside>, Failure> {
        match &*self.state.borrow() {
            TokenState::Ready => Ok(self.inside()),
            TokenState::PinRejected => Err(Failure::new(Reason::PinRejected, "the stand-in refused the PIN")),
            _ => Err(unavailable()),
        }
    }

    /// Takes a version that is brought in, and what says when it is to be refused.
    fn bring_in(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: &Bytes,
    ) -> Result<(TokenKeyVersion, Option<oneshot::Receiver<()>>), Failure> {
        let mut inside = self.usable()?;
        cut(&mut inside.cut_import, new.version, false)?;
        if inside.import_key != Some(import_key) || wrapped.len() * 8 != new.key_bits as usize {
            return Err(Failure::new(
                Reason::InvalidArgument,
                "not wrapped to the stand-in's import key",
            ));
        }
        let made = TokenKeyVersion {
            key: new.key.clone(),
            version: new.version,
            suite: new.suite,
            kcv: Kcv::from_bytes([wrapped[0], wrapped[1], wrapped[2]]),
            token_id: new.id,
            origin: Origin::Imported,
        };
        let place = (new.key.clone(), new.version);
        match inside.versions.get(&place) {
            Some(found) if found.token_id != new.id => Err(Failure::new(Reason::AlreadyExists, "the version exists")),
            _ => {
                inside.versions.insert(place, made.clone());
                cut(&mut inside.cut_import, new.version, true)?;
                Ok((made, inside.refuse_import.take()))
            }
        }
    }
}

fn unavailable() -> Failure {
    Failure::new(Reason::TokenUnavailable, "the stand-in token is away")
}

/// Up to 64 bytes that no other call returns.
fn random(bytes: usize) -> Bytes {
    let ids: Vec<u8> = (0..4).flat_map(|_| nonce()).collect();
    Bytes::copy_from_slice(&ids[..bytes])
}

/// Whether the call is cut off now that `done` of it is done.
fn cut(at: &mut Option<CutAt>, version: KeyVersion, done: bool) -> Result<(), Failure> {
    match *at {
        Some(cut) if cut.version == version.0 && cut.done == done => {
            *at = None;
            Err(unavailable())
        }
        _ => Ok(()),
    }
}

impl Inside {
    fn wrap(&mut self, key: &KeyName, version: KeyVersion, zone: &ZoneId, dek: Bytes) -> Result<Bytes, Failure> {
        if !self.versions.contains_key(&(key.clone(), version)) {
            return Err(Failure::new(Reason::KeyVersionUnusable, "not in the stand-in"));
        }
        let wrapped = random(40);
        self.edeks.insert(wrapped.clone(), (key.clone(), version, *zone, dek));
        Ok(wrapped)
    }

    fn open(&self, key: &KeyName, version: KeyVersion, zone: &ZoneId, wrapped: &Bytes) -> Result<Bytes, Failure> {
        match self.edeks.get(wrapped) {
            Some((k, v, z, dek)) if !self.opens_nothing && k == key && *v == version && z == zone => Ok(dek.clone()),
            _ => Err(Failure::new(
                Reason::EdekInvalid,
                format!("an EDEK of {key}@{version} does not open"),
            )),
        }
    }
}

impl Hsm for MemoryHsm {
    async fn check(&self) -> Result<(), Failure> {
        self.usable().map(drop)
    }

    fn call_limit(&self) -> Duration {
        CALL_LIMIT
    }

    async fn list_versions(&self) -> Result<Vec<TokenKeyVersion>, Failure> {
        let listed = {
            let inside = self.usable()?;
            match &inside.lists {
                Some(failure) => return Err(failure.clone()),
                None => inside.versions.values().cloned().collect(),
            }
        };
        self.listing.send_modify(|listing| *listing += 1);
        // What it found gets old while it goes on.
        drop(self.lists.read().await);
        self.stepped().await;
        let pause = self.inside().list_takes;
        tokio::time::sleep(pause).await;
        Ok(listed)
    }

    async fn look_for(&self, places: &[(KeyName, KeyVersion)]) -> Result<Held, Failure> {
        let held = {
            let inside = self.usable()?;
            let found = places.iter().filter_map(|place| inside.versions.get(place));
            Held {
                versions: found.cloned().collect(),
                unfit: Vec::new(),
                unseen: inside.unseen.clone(),
            }
        };
        self.stepped().await;
        Ok(held)
    }

    async fn generate(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        let _passed = self.pass().await;
        let mut inside = self.usable()?;
        let crash = inside.crash.take();
        if crash == Some(Crash::BeforeGenerate) {
            return Err(unavailable());
        }
        let place = (new.key.clone(), new.version);
        match inside.versions.get(&place) {
            None => {}
            Some(found) if found.token_id == new.id => return Ok(found.clone()),
            Some(_) => return Err(Failure::new(Reason::AlreadyExists, "the version exists")),
        }
        let id = new.id.as_bytes();
        let made = TokenKeyVersion {
            key: new.key.clone(),
            version: new.version,
            suite: new.suite,
            kcv: Kcv::from_bytes([id[0], id[1], id[2]]),
            token_id: new.id,
            origin: Origin::Generated,
        };
        inside.versions.insert(place, made.clone());
        match crash {
            Some(_) => Err(unavailable()),
            None => Ok(made),
        }
    }

    async fn suites(&self) -> Result<Vec<EdekSuite>, Failure> {
        let suites = self.usable()?.suites.clone();
        Ok(suites.unwrap_or_else(|| EdekSuite::ALL.to_vec()))
    }

    async fn destroy(&self, key: &KeyName, version: KeyVersion, id: TokenObjectId) -> Result<Vec<TokenName>, Failure> {
        let _passed = self.pass().await;
        let mut inside = self.usable()?;
        let place = (key.clone(), version);
        cut(&mut inside.cut_destroy, version, false)?;
        match inside.versions.get(&place) {
            Some(found) if found.token_id != id => Err(Failure::new(Reason::KeyVersionUnusable, "another object")),
            _ => {
                inside.versions.remove(&place);
                cut(&mut inside.cut_destroy, version, true)?;
                Ok(vec![TokenName {
                    label: "stand-in".to_owned(),
                    serial: "0".to_owned(),
                }])
            }
        }
    }

    /// Its import key wraps nothing: what is imported is the bytes themselves.
    async fn import_key(&self, renew: bool) -> Result<ImportKey, Failure> {
        let mut inside = self.usable()?;
        if renew {
            inside.import_key = None;
        }
        Ok(ImportKey {
            spki: b"stand-in".to_vec(),
            id: *inside.import_key.get_or_insert_with(TokenObjectId::generate),
            hash: OaepHash::Sha256,
        })
    }

    async fn import(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        let (made, refused) = self.bring_in(new, import_key, &wrapped)?;
        match refused {
            Some(refused) => {
                _ = refused.await;
                Err(Failure::new(Reason::TokenRefused, "the stand-in is told to refuse it"))
            }
            None => Ok(made),
        }
    }

    async fn mint(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        let mut inside = self.usable()?;
        inside.calls += 1;
        (0..count)
            .map(|_| inside.wrap(key, version, zone, random(32)))
            .collect()
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Vec<Result<Bytes, Failure>>, Failure> {
        let mut inside = self.usable()?;
        inside.calls += 1;
        let again = |(from, wrapped): (KeyVersion, Bytes)| {
            let dek = inside.open(key, from, zone, &wrapped)?;
            inside.wrap(key, to, zone, dek)
        };
        Ok(items.into_iter().map(again).collect())
    }

    async fn unwrap(&self, edeks: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        let _passed = self.pass().await;
        let mut inside = self.usable()?;
        inside.calls += 1;
        let open = |e: &Edek| {
            let dek = inside.open(&e.key, e.version, &e.zone, &e.wrapped)?;
            Ok(WireDek::new(Zeroizing::new(dek.to_vec())))
        };
        Ok(edeks.iter().map(open).collect())
    }

    async fn unwrap_sealed(&self, _: SealedCall) -> Result<Verified<SealedReply>, Failure> {
        Err(Failure::new(Reason::TokenRefused, "the stand-in seals nothing"))
    }

    async fn transfer(&self, _: TransferCall) -> Result<Verified<TransferReply>, Failure> {
        Err(Failure::new(Reason::TokenRefused, "the stand-in verifies nothing"))
    }

    async fn sign_audit(&self, head: &AuditHead) -> Result<AuditSignature, Failure> {
        drop(self.usable()?);
        Ok(self.audit.sign(head))
    }

    async fn audit_keys(&self) -> Result<Vec<AuditKey>, Failure> {
        drop(self.usable()?);
        Ok(vec![self.audit.key()])
    }

    fn subscribe(&self) -> watch::Receiver<TokenState> {
        self.state.subscribe()
    }

    fn expect(&self, key: &KeyName, versions: &[(KeyVersion, Kcv)]) {
        let numbers = versions.iter().map(|(version, _)| version.0).collect();
        self.inside().expected.insert(key.clone(), numbers);
    }

    async fn look_again(&self, _: &[(KeyName, KeyVersion)]) -> Result<(), Failure> {
        let mut inside = self.usable()?;
        inside.looks += 1;
        if std::mem::take(&mut inside.fails_look) {
            return Err(unavailable());
        }
        Ok(())
    }
}
