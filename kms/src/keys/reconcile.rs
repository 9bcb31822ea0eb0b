//! What a token that comes up, or joins others, makes known of the keys.
//!
//! A listing takes minutes where there are thousands of keys. Nobody who changes keys waits for one while a token serves, but
//! after the start of the process, and after no token served: a single one does not while its only worker is restarted, and
//! is used for what is seen in it meanwhile (`doubt`). The right to change keys is held only to settle what was begun, to
//! decide what a listing means, and to store that, one key at a time. What changed since it began is looked at again, which takes a
//! moment for a few versions (`docs/adr/0027`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_proto::{Failure, KeyName};
use tokio::sync::watch;

use super::{
    Keys, KeysError,
    compare::{Findings, Look, Place, Touched, compare},
    key::Key,
    manage::Intents,
    records::Intent,
    version::Presence,
};
use crate::{
    hsm::{Held, Hsm},
    token::TokenState,
};

/// First and longest pause between attempts to compare a token that is up but does not answer as it should.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Looks of one comparison: the first is at everything, each other one at what changed during the one before.
const LOOKS_MAX: usize = 6;

/// Pause before what none of those looks could decide is looked at again.
const LEFT_PAUSE: Duration = Duration::from_secs(10);

/// What a look means, on its way into keys and store.
struct Taking {
    known: BTreeMap<KeyName, Key>,
    /// Those that are to be kept and were not yet.
    keys: BTreeMap<KeyName, Key>,
    look: Look,
    findings: Findings,
    /// Those of which nothing was kept.
    dropped: BTreeSet<KeyName>,
}

impl Taking {
    /// Says what was found and kept. Answers what is to be looked at again.
    fn end(&mut self) -> BTreeSet<Place> {
        self.findings.leave_out(&self.dropped);
        report(&self.findings);
        std::mem::take(&mut self.findings.open)
    }
}

impl<H: Hsm> Keys<H> {
    /// Compares the token with the store whenever it comes up, for as long as its supervisor lives.
    pub(super) async fn compare_whenever_up(&self) {
        let mut states = self.hsm.subscribe();
        let mut pause = PAUSE_FIRST;
        // Where to look: everywhere, or at what the last comparison has left open.
        let (mut places, mut looked_at) = (None, None);
        loop {
            let state = states.borrow_and_update().clone();
            let absences = self.doubt.absences();
            if looked_at != Some(absences) {
                // What was left open was left by a look at a token that may have been another one.
                places = None;
            }
            let outcome = match state {
                TokenState::Ready => self.reconcile(places.take()).await,
                _ => Ok(BTreeSet::new()),
            };
            match outcome {
                Ok(left) => {
                    pause = PAUSE_FIRST;
                    *self.obstacle() = None;
                    if state == TokenState::Ready {
                        self.is_compared(absences);
                        looked_at = Some(absences);
                    }
                    let left = Some(left).filter(|left| !left.is_empty());
                    match changed(&mut states, left.is_some()).await {
                        None => return,
                        Some(true) => places = None,
                        Some(false) => places = left,
                    }
                }
                Err(failure) => {
                    tracing::error!(reason = %failure.reason, "cannot compare the token with the store: {failure}");
                    *self.obstacle() = Some(failure);
                    _ = tokio::time::timeout(pause, states.changed()).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Settles what was begun, then takes in what the token holds, everywhere or in some places. Answers what is left open.
    async fn reconcile(&self, mut places: Option<BTreeSet<Place>>) -> Result<BTreeSet<Place>, Failure> {
        self.settle_begun().await;
        for _ in 0..LOOKS_MAX {
            let look = self.look(places).await?;
            let intents = self.changes.lock().await;
            let begun = self.begun(&intents).await?;
            // After that: what another instance has given up since it was read is noted as touched.
            self.synced().await?;
            let mut taking = self.decide(&begun, look.since(self.touched_since()));
            drop(intents);
            // A turn for each key, so that who changes others does not wait for thousands.
            let open = loop {
                let _turn = self.changes.lock().await;
                if let Some(open) = self.keep_next(&mut taking).await? {
                    break open;
                }
            };
            if open.is_empty() {
                return Ok(open);
            }
            places = Some(open);
        }
        // Each look leaves a fraction of the one before, unless somebody changes the same keys without end.
        let left = places.unwrap_or_default();
        tracing::warn!(
            left = left.len(),
            pause_s = LEFT_PAUSE.as_secs(),
            "versions changed each time that they were looked at in the token; they are looked at again after a pause"
        );
        Ok(left)
    }

    async fn settle_begun(&self) {
        let begun: Vec<_> = self.changes.lock().await.keys().cloned().collect();
        for name in &begun {
            let mut intents = self.changes.lock().await;
            // Another instance may have finished it while this one stood still.
            let settled = match self.adopt(name, &mut intents).await {
                Ok(()) => self.settle(&mut intents, name).await,
                failed => failed,
            };
            if let Err(failure) = settled {
                // The next change of the key tries again; all other keys are served meanwhile.
                tracing::error!(key = %name, reason = %failure.reason, "a version that was begun cannot be finished: {failure}");
            }
        }
    }

    /// Looks at what the token holds, everywhere or in some places. From now on it is noted which keys are touched.
    async fn look(&self, places: Option<BTreeSet<Place>>) -> Result<Look, Failure> {
        *self.touched() = Some(Touched::default());
        self.synced().await?;
        let before = self.table().clone();
        let held = match &places {
            None => Held {
                versions: self.hsm.list_versions().await?,
                unfit: self.hsm.unfit(),
                unseen: Vec::new(),
            },
            Some(places) => {
                let places: Vec<_> = places.iter().cloned().collect();
                self.hsm.look_for(&places).await?
            }
        };
        Ok(Look::new(before, places, held))
    }

    /// Takes in what the token holds in the places of an intent that came to nothing, while nobody changes keys.
    pub(super) async fn take_in_place(&self, intents: &Intents, intent: &Intent) -> Result<(), Failure> {
        let places = intent.places();
        let before = self.table().clone();
        let held = self.hsm.look_for(&places).await?;
        let begun = self.begun(intents).await?;
        let look = Look::new(before, Some(places.into_iter().collect()), held);
        let mut taking = self.decide(&begun, look);
        while self.keep_next(&mut taking).await?.is_none() {}
        Ok(())
    }

    /// What a look means for keys and store. `begun` is what could not be settled, or is being made by another instance: nobody's
    /// version yet.
    fn decide(&self, begun: &Intents, mut look: Look) -> Taking {
        look.leave_out(|key, version| begun.get(key).is_some_and(|intent| intent.covers(version)));
        let known = self.table().clone();
        let mut keys = known.clone();
        let findings = compare(&mut keys, &look, self.hsm.clones(), self.clock.now_ms());
        keys.retain(|name, key| known.get(name) != Some(key));
        let dropped = keys.keys().cloned().collect();
        Taking {
            known,
            keys,
            look,
            findings,
            dropped,
        }
    }

    /// Brings the next key and the store up to what a look found. Answers what the look is too old for, once that was all.
    async fn keep_next(&self, taking: &mut Taking) -> Result<Option<BTreeSet<Place>>, Failure> {
        let Some((name, key)) = taking.keys.pop_first() else {
            return Ok(Some(taking.end()));
        };
        let places = taking.look.places_of(&key);
        let changed = taking.findings.changed.contains(&name);
        match self.keep(taking.known.get(&name), key, changed).await {
            Ok(true) => _ = taking.dropped.remove(&name),
            // Somebody else was quicker.
            Ok(false) => {
                let found = taking.look.found_of(&name);
                taking.findings.open.extend(places.into_iter().chain(found));
            }
            Err(error) => {
                taking.end();
                return Err(error.into());
            }
        }
        Ok(None)
    }

    /// Stores what was found of a key, if it is to be stored, and has it known at once, whatever becomes of other keys. Answers
    /// whether it did: not if somebody else stored the key meanwhile.
    async fn keep(&self, before: Option<&Key>, mut key: Key, changed: bool) -> Result<bool, KeysError> {
        if changed {
            match self.ledger.save(before, &key).await {
                Ok(revision) => key.revision = revision,
                Err(KeysError::Stale { .. } | KeysError::Claimed { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(self.put(key))
    }

    /// Looks for versions that another instance has made, so that it is known that the token holds them.
    pub(super) async fn look_for_unchecked(&self, places: &[Place]) -> Result<(), Failure> {
        let held = self.hsm.look_for(places).await?;
        for found in held.versions {
            self.amend(&found.key, |key| {
                let same_suite = key.suite == found.suite;
                if let Some(version) = key.versions.get_mut(&found.version)
                    && version.presence == Presence::Unchecked
                    && version.is_in(&found)
                    && same_suite
                {
                    version.presence = Presence::Present;
                }
            });
        }
        Ok(())
    }

    /// Notes that a version of a key was given up, or that another instance changed the key.
    pub(super) fn note_touched(&self, name: &KeyName) {
        if let Some(touched) = &mut *self.touched() {
            touched.add(name.clone());
        }
    }

    /// Notes that other instances changed more than they told.
    pub(super) fn note_all_touched(&self) {
        if let Some(touched) = &mut *self.touched() {
            touched.add_all();
        }
    }

    fn touched_since(&self) -> Touched {
        self.touched().take().unwrap_or_default()
    }

    fn touched(&self) -> MutexGuard<'_, Option<Touched>> {
        // Names are added one by one, so that a panic elsewhere leaves nothing half done.
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the state changed, or nothing did for as long as there is to wait while something is left; none if it cannot any more.
async fn changed(states: &mut watch::Receiver<TokenState>, left: bool) -> Option<bool> {
    let changed = states.changed();
    if !left {
        return changed.await.ok().map(|()| true);
    }
    match tokio::time::timeout(LEFT_PAUSE, changed).await {
        Ok(changed) => changed.ok().map(|()| true),
        Err(_) => Some(false),
    }
}

fn report(findings: &Findings) {
    for (key, version) in &findings.unknown {
        tracing::warn!(%key, %version, "the token holds a version that the store did not know: it only opens until the key is confirmed");
    }
    for (key, version) in &findings.planted {
        tracing::error!(%key, %version, "somebody brought this version into the token and has it too: it never mints; find out who, and roll the key");
    }
    for (key, version) in &findings.missing {
        tracing::warn!(%key, %version, "the token lacks a version that the store knows: nothing under it can be opened");
    }
    for (key, version) in &findings.different {
        tracing::error!(%key, %version, "the token holds another key in the place of this version: it is not used");
    }
    for (key, version) in &findings.returned {
        tracing::error!(%key, %version, "the token holds a destroyed version again: it is never used; destroy the object in the token");
    }
}
