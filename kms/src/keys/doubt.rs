//! What a token that was away may be used for until it has been compared with the store again, which takes minutes where
//! there are thousands of keys.
//!
//! A worker's restart is no new token, but could hide one: another token with the same label, or one restored from a backup. So
//! after it every version is in doubt. A version is looked for in the token at its first use, and used if that very object
//! is there; whatever is not found so is left to the comparison, which decides about it as always. Changes of keys wait for
//! the comparison, and so does all at the start of the process, which knows nothing of the token yet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_proto::{Failure, KeyName, KeyVersion};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{Keys, READY_WAIT, coming_up, compare::Place, version::Presence};
use crate::{
    hsm::Hsm,
    token::{TokenKeyVersion, TokenState},
};

/// Looks that may be under way at once. A worker that lists the token answers all that wait for it between two slices of a tenth of
/// a second; more of them, at some 20 calls each, would keep other calls of a slow token waiting for as long as a call may.
const LOOKS_MAX: usize = 16;
/// Versions that are looked for by one look, at some 20 calls of the token each: more would have others wait for too long.
const LOOK_MAX: usize = 8;
/// How long a call waits until its versions were looked for, after those of others who came before. With the waits for the token, for
/// the comparison and for the call itself that is less than a client gives an attempt.
const LOOK_WAIT: Duration = Duration::from_secs(8);

/// Which versions may be used.
#[derive(Debug)]
pub(super) struct Doubt {
    inside: std::sync::Mutex<Inside>,
    looks: Semaphore,
    /// Told whenever a look ends.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Counts the times that the token went away.
    absences: u64,
    /// Whether the token was ever compared with the store by this process.
    compared_once: bool,
    /// What was looked for since it was away last; none while nothing is in doubt.
    looked_for: Option<BTreeMap<Place, Look>>,
}

/// How the look for a version goes. Callers who need the same one look once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    UnderWay,
    /// The very object is there.
    Seen,
    /// It is left to the comparison.
    Unseen,
}

/// A look that is under way. If it is given up, others may look for the same.
#[derive(Debug)]
struct Turn<'d> {
    doubt: &'d Doubt,
    absences: u64,
    places: Vec<Place>,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            inside: std::sync::Mutex::default(),
            looks: Semaphore::new(LOOKS_MAX),
            ended: watch::Sender::default(),
        }
    }
}

impl Inside {
    fn look(&self, place: &Place) -> Option<Look> {
        self.looked_for.as_ref().and_then(|looks| looks.get(place).copied())
    }

    fn is_in_doubt(&self, place: &Place) -> bool {
        self.looked_for.is_some() && self.look(place) != Some(Look::Seen)
    }
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
        inside.looked_for = Some(BTreeMap::new());
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
            inside.looked_for = None;
            inside.compared_once = true;
        }
        same
    }

    fn is_in_doubt(&self, name: &KeyName, version: KeyVersion) -> bool {
        self.inside().is_in_doubt(&(name.clone(), version))
    }

    /// Takes on some of those places that nobody has looked for.
    fn take_on(&self, places: &BTreeSet<Place>) -> Option<Turn<'_>> {
        let mut inside = self.inside();
        let absences = inside.absences;
        let looked_for = inside.looked_for.as_mut()?;
        let free = places.iter().filter(|place| !looked_for.contains_key(place));
        let places: Vec<_> = free.take(LOOK_MAX).cloned().collect();
        if places.is_empty() {
            return None;
        }
        looked_for.extend(places.iter().cloned().map(|place| (place, Look::UnderWay)));
        Some(Turn {
            doubt: self,
            absences,
            places,
        })
    }

    /// Whether somebody looks for one of those places.
    fn is_looked_for(&self, places: &BTreeSet<Place>) -> bool {
        let inside = self.inside();
        places.iter().any(|place| inside.look(place) == Some(Look::UnderWay))
    }

    /// Why a version is not used yet.
    pub(super) fn check(&self, name: &KeyName, version: KeyVersion) -> Result<(), Failure> {
        if self.is_in_doubt(name, version) {
            return Err(coming_up());
        }
        Ok(())
    }
}

impl Turn<'_> {
    /// Notes where something was seen, unless the token has been away since.
    fn saw(self, seen: &BTreeSet<Place>) {
        let mut inside = self.doubt.inside();
        if inside.absences == self.absences
            && let Some(looked_for) = &mut inside.looked_for
        {
            let look = |place: &Place| if seen.contains(place) { Look::Seen } else { Look::Unseen };
            looked_for.extend(self.places.iter().map(|place| (place.clone(), look(place))));
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inside = self.doubt.inside();
        if inside.absences == self.absences
            && let Some(looked_for) = &mut inside.looked_for
        {
            for place in &self.places {
                if looked_for.get(place) == Some(&Look::UnderWay) {
                    looked_for.remove(place);
                }
            }
        }
        drop(inside);
        self.doubt.ended.send_replace(());
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
        // What was not seen in time is refused one by one.
        let Ok(looked) = timeout(LOOK_WAIT, self.look_at(&doubted)).await else {
            return Ok(());
        };
        looked?;
        let left = || {
            doubted
                .iter()
                .any(|(name, version)| self.doubt.is_in_doubt(name, *version))
        };
        let mut compared = self.compared.subscribe();
        let wait = async { while left() && compared.changed().await.is_ok() {} };
        _ = timeout(READY_WAIT, wait).await;
        Ok(())
    }

    /// Looks for what nobody has looked for yet, and waits for what others look for.
    async fn look_at(&self, doubted: &BTreeSet<Place>) -> Result<(), Failure> {
        loop {
            let mut ended = self.doubt.ended.subscribe();
            if let Some(turn) = self.doubt.take_on(doubted) {
                let _permit = self.doubt.looks.acquire().await;
                let seen = self.look_for_known(&turn.places).await?;
                turn.saw(&seen);
            } else if self.doubt.is_looked_for(doubted) {
                // Its sender is here.
                _ = ended.changed().await;
            } else {
                return Ok(());
            }
        }
    }

    /// Which of those versions are in the token.
    async fn look_for_known(&self, places: &[Place]) -> Result<BTreeSet<Place>, Failure> {
        let mut by_suite = HashMap::<_, Vec<Place>>::new();
        for place in places {
            let suite = self.with_key(&place.0, |key| Ok(key.suite))?;
            by_suite.entry(suite).or_default().push(place.clone());
        }
        let mut seen = BTreeSet::new();
        for (suite, places) in by_suite {
            let held = self.hsm.look_for_of(suite, &places).await?;
            let found = held.versions.into_iter().filter(|found| self.is_as_known(found));
            seen.extend(found.map(|found| (found.key, found.version)));
        }
        Ok(seen)
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

    fn place(name: &str, version: u32) -> Place {
        (name.parse().expect("a key name"), KeyVersion(version))
    }

    fn is_in_doubt(doubt: &Doubt, (name, version): &Place) -> bool {
        doubt.is_in_doubt(name, *version)
    }

    #[test]
    fn what_was_seen_before_the_token_went_away_is_in_doubt_again() {
        let (doubt, known, other) = (Doubt::default(), place("a", 0), place("a", 1));
        let places = BTreeSet::from([known.clone()]);
        assert!(!is_in_doubt(&doubt, &known));
        doubt.begin();
        let first = doubt.absences();
        doubt.take_on(&places).expect("nobody looks for it").saw(&places);
        assert!(!is_in_doubt(&doubt, &known));
        assert!(is_in_doubt(&doubt, &other));
        doubt.begin();
        assert!(is_in_doubt(&doubt, &known));
        let late = doubt.take_on(&places).expect("nobody looks for it");
        doubt.begin();
        late.saw(&places);
        assert!(is_in_doubt(&doubt, &known), "a look at the token that went away");
        assert!(!doubt.end(first), "so is a comparison");
        assert!(doubt.end(doubt.absences()));
        assert!(!is_in_doubt(&doubt, &known));
    }

    #[test]
    fn a_version_is_looked_for_once_by_few_at_a_time_and_by_others_if_that_is_given_up() {
        let doubt = Doubt::default();
        doubt.begin();
        let last = place("a", u32::try_from(LOOK_MAX).expect("a few"));
        let places: BTreeSet<_> = (0..=last.1.0).map(|version| place("a", version)).collect();
        let first = doubt.take_on(&places).expect("nobody looks for them");
        assert_eq!(first.places.len(), LOOK_MAX);
        let second = doubt.take_on(&places).expect("one is left");
        assert_eq!(second.places, std::slice::from_ref(&last));
        assert!(doubt.take_on(&places).is_none() && doubt.is_looked_for(&places));
        drop(first);
        second.saw(&BTreeSet::new());
        let again = doubt.take_on(&places).expect("it was given up");
        again.saw(&places);
        assert!(doubt.take_on(&places).is_none() && !doubt.is_looked_for(&places));
        let left: Vec<_> = places.iter().filter(|place| is_in_doubt(&doubt, place)).collect();
        assert_eq!(left, [&last], "the comparison decides about it");
    }
}
