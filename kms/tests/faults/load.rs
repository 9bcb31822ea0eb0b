//! Concurrent minting, unwrapping and re-wrapping that remembers every answer, and the judgement of those answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use strongroom_kms::{
    hsm::Hsm,
    token::{NewVersion, WireDek},
};
use strongroom_proto::{Edek, EdekSuite, Failure, KeyVersion, Reason, ZoneId, limits::EDEKS_PER_CALL_MAX};
use tokio::task::JoinSet;

use crate::fixture::{fresh, name, zone};

const ZONE: ZoneId = zone(1);
const KEYS: [(&str, EdekSuite); 3] = [
    ("strict", EdekSuite::Kw),
    ("fast", EdekSuite::Gcm),
    ("lake", EdekSuite::Hadoop),
];
const V0: KeyVersion = KeyVersion(0);
const V1: KeyVersion = KeyVersion(1);
/// EDEKs whose DEK is known from before the fault, for each key.
const KNOWN: usize = 20;
/// EDEKs in a call.
pub(crate) const BATCH: usize = 5;
/// After a failure a caller waits so long, as clients do.
const PAUSE: Duration = Duration::from_millis(20);
/// No call may take longer: callers give one up after that (`CALL_TIMEOUT`).
const CALL_MAX: Duration = Duration::from_secs(15);
/// What a failing token may be answered with. An EDEK of the client's that is good is not among it.
const CLEAN: [Reason; 4] = [
    Reason::TokenUnavailable,
    Reason::TokenRefused,
    Reason::Overloaded,
    Reason::KeyVersionUnusable,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Mint,
    Unwrap,
    Rewrap,
}

const KINDS: [Kind; 3] = [Kind::Mint, Kind::Unwrap, Kind::Rewrap];

/// Callers of every kind for every key.
pub(crate) struct Load<H> {
    token: H,
    known: Vec<(Edek, Bytes)>,
    stopped: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    minted: Vec<Edek>,
    /// With the DEK that each must hold.
    rewrapped: Vec<(Edek, Bytes)>,
    wrong: Vec<String>,
    succeeded: usize,
    failed: BTreeMap<&'static str, usize>,
    longest: Duration,
    last_success: BTreeMap<(usize, Kind), Instant>,
}

/// What a load came to.
pub(crate) struct Outcome {
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) reasons: Vec<&'static str>,
    pub(crate) longest: Duration,
    /// Minted EDEKs that open to nothing.
    pub(crate) dead: usize,
}

impl<H: Hsm> Load<H> {
    /// Makes keys and EDEKs while the token is sound.
    pub(crate) async fn prepare(token: H) -> Self {
        let mut known = Vec::new();
        for (key, suite) in KEYS {
            for version in [V0, V1] {
                let new = NewVersion {
                    suite,
                    ..fresh(key, version.0)
                };
                token.generate(&new).await.expect("a fresh version");
            }
            let minted = token.mint(&name(key), V0, &ZONE, KNOWN).await.expect("minted");
            let edeks: Vec<_> = minted.iter().map(|wrapped| edek(key, suite, V0, wrapped)).collect();
            let deks = token.unwrap(&edeks).await.expect("called");
            let deks = deks.into_iter().map(|dek| dek.expect("opens").into_wire());
            known.extend(edeks.into_iter().zip(deks));
        }
        Self {
            token,
            known,
            stopped: AtomicBool::new(false),
            log: Mutex::default(),
        }
    }

    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for key in 0..KEYS.len() {
            for kind in KINDS {
                let load = Arc::clone(self);
                callers.spawn(async move {
                    while !load.stopped.load(Ordering::Relaxed) {
                        load.call(key, kind).await;
                    }
                });
            }
        }
        callers
    }

    pub(crate) async fn stop(&self, mut callers: JoinSet<()>) {
        self.stopped.store(true, Ordering::Relaxed);
        while let Some(caller) = callers.join_next().await {
            caller.expect("no caller panics");
        }
    }

    /// How long from now until calls of every kind for every key succeed that began after now.
    pub(crate) async fn recovery(&self, most: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < most {
            if self.all_succeeded_since(start) {
                return Some(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    fn all_succeeded_since(&self, start: Instant) -> bool {
        let last = &self.log.lock().expect("not poisoned").last_success;
        last.len() == KEYS.len() * KINDS.len() && last.values().all(|&began| began >= start)
    }

    async fn call(&self, key: usize, kind: Kind) {
        let began = Instant::now();
        let outcome = match kind {
            Kind::Mint => self.mint(key).await,
            Kind::Unwrap => self.unwrap(key).await,
            Kind::Rewrap => self.rewrap(key).await,
        };
        if !self.note(key, kind, began, outcome) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Answers whether the call succeeded.
    fn note(&self, key: usize, kind: Kind, began: Instant, outcome: Result<(), Failure>) -> bool {
        let mut log = self.log.lock().expect("not poisoned");
        log.longest = log.longest.max(began.elapsed());
        let Err(failure) = outcome else {
            log.succeeded += 1;
            log.last_success.insert((key, kind), began);
            return true;
        };
        *log.failed.entry(failure.reason.as_str()).or_default() += 1;
        if !CLEAN.contains(&failure.reason) {
            log.wrong
                .push(format!("{kind:?} failed by {}: {failure}", failure.reason));
        }
        false
    }

    async fn mint(&self, key: usize) -> Result<(), Failure> {
        let (text, suite) = KEYS[key];
        let minted = self.token.mint(&name(text), V0, &ZONE, BATCH).await?;
        let edeks = minted.iter().map(|wrapped| edek(text, suite, V0, wrapped));
        self.log.lock().expect("not poisoned").minted.extend(edeks);
        Ok(())
    }

    async fn unwrap(&self, key: usize) -> Result<(), Failure> {
        let known = self.some_known(key);
        let edeks: Vec<_> = known.iter().map(|(edek, _)| edek.clone()).collect();
        for (result, (_, dek)) in self.token.unwrap(&edeks).await?.into_iter().zip(known) {
            if result?.into_wire() != *dek {
                let mut log = self.log.lock().expect("not poisoned");
                log.wrong.push("a known EDEK was unwrapped to another DEK".to_owned());
            }
        }
        Ok(())
    }

    async fn rewrap(&self, key: usize) -> Result<(), Failure> {
        let (text, suite) = KEYS[key];
        let known = self.some_known(key);
        let items = known.iter().map(|(edek, _)| (V0, edek.wrapped.clone())).collect();
        let results = self.token.rewrap(&name(text), V1, &ZONE, items).await?;
        let mut failure = Ok(());
        for (result, (_, dek)) in results.into_iter().zip(known) {
            match result {
                Ok(wrapped) => {
                    let new = (edek(text, suite, V1, &wrapped), dek.clone());
                    self.log.lock().expect("not poisoned").rewrapped.push(new);
                }
                Err(error) => failure = Err(error),
            }
        }
        failure
    }

    fn some_known(&self, key: usize) -> &[(Edek, Bytes)] {
        let all = &self.known[key * KNOWN..(key + 1) * KNOWN];
        let at = self.log.lock().expect("not poisoned").succeeded * BATCH % (KNOWN - BATCH);
        &all[at..at + BATCH]
    }

    /// Has a sound token open everything that was handed out.
    ///
    /// # Panics
    /// If any answer was wrong, or a failure unclean or too late; `dead_max` says how many minted EDEKs may open to nothing.
    /// None opens to the DEK of another one in any case.
    pub(crate) async fn judge(&self, scenario: &str, dead_max: usize, clean: &impl Hsm) -> Outcome {
        let log = std::mem::take(&mut *self.log.lock().expect("not poisoned"));
        let mut wrong = log.wrong;
        let minted = open_all(clean, &log.minted).await;
        let bad = minted.iter().filter(|dek| dek.is_err()).count();
        let refused = minted.iter().filter(|dek| **dek == Err(Reason::EdekInvalid)).count();
        if bad > dead_max || refused < bad {
            wrong.push(format!(
                "{bad} of {} minted EDEKs do not open, {refused} of them because they are invalid",
                minted.len()
            ));
        }
        let dead = bad;
        let distinct: BTreeSet<_> = minted.iter().flatten().collect();
        if distinct.len() + dead != minted.len() {
            wrong.push("two EDEKs were minted for one DEK".to_owned());
        }
        let (edeks, deks): (Vec<_>, Vec<_>) = log.rewrapped.into_iter().unzip();
        let opened = open_all(clean, &edeks).await;
        let bad = opened
            .iter()
            .zip(&deks)
            .filter(|(found, dek)| found.as_ref() != Ok(dek))
            .count();
        if bad > 0 {
            wrong.push(format!("{bad} of {} re-wrapped EDEKs hold another DEK", deks.len()));
        }
        wrong.truncate(10);
        assert!(wrong.is_empty(), "{scenario}: {wrong:#?}");
        assert!(log.longest < CALL_MAX, "{scenario}: a call took {:?}", log.longest);
        Outcome {
            succeeded: log.succeeded,
            failed: log.failed.values().sum(),
            reasons: log.failed.into_keys().collect(),
            longest: log.longest,
            dead,
        }
    }
}

async fn open_all(token: &impl Hsm, edeks: &[Edek]) -> Vec<Result<Bytes, Reason>> {
    let mut deks = Vec::with_capacity(edeks.len());
    for part in edeks.chunks(EDEKS_PER_CALL_MAX) {
        let results = token.unwrap(part).await.expect("a sound token");
        let plain = |result: Result<WireDek, Failure>| result.map(WireDek::into_wire);
        deks.extend(
            results
                .into_iter()
                .map(|dek| plain(dek).map_err(|failure| failure.reason)),
        );
    }
    deks
}

fn edek(key: &str, suite: EdekSuite, version: KeyVersion, wrapped: &Bytes) -> Edek {
    Edek {
        key: name(key),
        version,
        zone: ZONE,
        suite,
        wrapped: wrapped.clone(),
    }
}
