//! What a token that was away may be used for until it has been compared with the store again, which takes minutes where
//! there are thousands of keys.
//!
//! A worker's restart is no new token, but could hide one: another token with the same label, or one restored from a backup. So
//! after it every version is in doubt. A version is looked for in the token at its first use, and used if that very object
//! is there; whatever is not found so is left to the comparison, which decides about it as always. Changes of keys wait for
//! the comparison, and so does all at the start of the process, which knows nothing of the token yet.

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
};

use strongroom_proto::{Failure, KeyName, KeyVersion};
use tokio::{sync::Mutex, time::timeout};

use super::{Keys, READY_WAIT, coming_up, compare::Place, version::Presence};
use crate::{
    hsm::Hsm,
    token::{TokenKeyVersion, TokenState},
};

/// Versions that are looked for at once: more would have one call wait for too long.
const LOOK_MAX: usize = 100;

/// Which versions may be used.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    inside: std::sync::Mutex<Inside>,
    /// Held while versions are looked for, so that callers who need the same ones look once.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Counts the times that the token went away.
    absences: u64,
    /// Whether the token was ever compared with the store by this process.
    compared_once: bool,
    /// What was seen since it was away last; none while nothing is in doubt.
    seen: Option<BTreeSet<Place>>,
}

impl Doubt {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Whole values are put in, so that a panic elsewhere leaves nothing half done.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token is away: all is in doubt.
    fn begin(&self) {
        let mut inside = self.inside();
        inside.absences += 1;
        inside.seen = Some(BTreeSet::new());
    }

    /// How often the token has been away.
    pub(super) fn absences(&self) -> u64 {
        self.inside().absences
    }

    /// Nothing is in doubt any more, if the token was not away since.
    fn end(&self, absences: u64) -> bool {
        let mut inside = self.inside();
        let same = inside.absences == absences;
        if same {
            inside.seen = None;
            inside.compared_once = true;
        }
        same
    }

    fn is_in_doubt(&self, name: &KeyName, version: KeyVersion) -> bool {
        let inside = self.inside();
        let seen = inside.seen.as_ref();
        seen.is_some_and(|seen| !seen.contains(&(name.clone(), version)))
    }

    fn saw(&self, absences: u64, places: impl IntoIterator<Item = Place>) {
        let mut inside = self.inside();
        if inside.absences == absences
            && let Some(seen) = &mut inside.seen
        {
            seen.extend(places);
        }
    }

    /// Why a version is not used yet.
    pub(super) fn check(&self, name: &KeyName, version: KeyVersion) -> Result<(), Failure> {
        if self.is_in_doubt(name, version) {
            return Err(coming_up());
        }
        Ok(())
    }
}

impl<H: Hsm> Keys<H> {
    /// Follows the token for as long as its supervisor lives.
    pub(crate) async fn follow_token(&self) {
        tokio::join!(self.follow_state(), self.compare_whenever_up());
    }

    /// Takes calls while the token is up, once it was compared.
    async fn follow_state(&self) {
        let mut states = self.hsm.subscribe();
        loop {
            if *states.borrow_and_update() == TokenState::Ready {
                if self.doubt.inside().compared_once {
                    self.serves.send_replace(true);
                }
            } else {
                self.compared.send_replace(false);
                self.serves.send_replace(false);
                self.doubt.begin();
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Notes that the token was compared, having been away that often when that began.
    pub(super) fn is_compared(&self, absences: u64) {
        if self.doubt.end(absences) {
            self.compared.send_replace(true);
            self.serves.send_replace(true);
        }
    }

    /// Looks for those versions that are in doubt and could be used. What is not found is left to the comparison, which is
    /// waited for a little.
    ///
    /// # Errors
    /// If the token does not answer.
    pub(super) async fn see<'a>(
        &self,
        versions: impl IntoIterator<Item = (&'a KeyName, KeyVersion)>,
    ) -> Result<(), Failure> {
        let doubted: BTreeSet<Place> = versions
            .into_iter()
            .filter(|(name, version)| self.doubt.is_in_doubt(name, *version))
            .filter(|(name, version)| self.with_key(name, |key| key.opening(*version)).is_ok())
            .map(|(name, version)| (name.clone(), version))
            .collect();
        if doubted.is_empty() {
            return Ok(());
        }
        let look = async {
            self.look_at(&doubted).await?;
            let left = || {
                doubted
                    .iter()
                    .any(|(name, version)| self.doubt.is_in_doubt(name, *version))
            };
            let mut compared = self.compared.subscribe();
            while left() && compared.changed().await.is_ok() {}
            Ok(())
        };
        // What was not seen in time is refused one by one.
        timeout(READY_WAIT, look).await.unwrap_or(Ok(()))
    }

    async fn look_at(&self, doubted: &BTreeSet<Place>) -> Result<(), Failure> {
        let _turn = self.doubt.turn.lock().await;
        let absences = self.doubt.absences();
        let places = doubted
            .iter()
            .filter(|(name, version)| self.doubt.is_in_doubt(name, *version));
        let places: Vec<_> = places.cloned().collect();
        for places in places.chunks(LOOK_MAX) {
            let held = self.hsm.look_for(places).await?;
            let found = held.versions.into_iter().filter(|found| self.is_as_known(found));
            self.doubt.saw(absences, found.map(|found| (found.key, found.version)));
        }
        Ok(())
    }

    /// Whether an object is the very one that the store knows and the last comparison found.
    fn is_as_known(&self, found: &TokenKeyVersion) -> bool {
        let known = self.with_key(&found.key, |key| {
            let known = key.versions.get(&found.version);
            Ok(key.suite == found.suite
                && known.is_some_and(|known| {
                    known.is_in(found) && known.token_id == found.token_id && known.presence != Presence::Different
                }))
        });
        known.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_before_the_token_went_away_is_in_doubt_again() {
        let (doubt, name) = (Doubt::default(), "a".parse::<KeyName>().expect("a key name"));
        let version = KeyVersion(0);
        assert!(!doubt.is_in_doubt(&name, version));
        doubt.begin();
        let first = doubt.absences();
        doubt.saw(first, [(name.clone(), version)]);
        assert!(!doubt.is_in_doubt(&name, version));
        assert!(doubt.is_in_doubt(&name, KeyVersion(1)));
        doubt.begin();
        assert!(doubt.is_in_doubt(&name, version));
        doubt.saw(first, [(name.clone(), version)]);
        assert!(doubt.is_in_doubt(&name, version), "a look at the token that went away");
        assert!(!doubt.end(first), "so is a comparison");
        assert!(doubt.end(doubt.absences()));
        assert!(!doubt.is_in_doubt(&name, version));
    }
}
