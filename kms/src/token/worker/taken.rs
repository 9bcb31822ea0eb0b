//! The memory of signed requests that were taken, so that each is answered once, whatever happens to the clock.
//!
//! A request is dated by its signer and judged by this machine's clock, which can be set. It is forgotten when that clock says
//! that it does not hold any more and as much time has passed by a clock that nobody sets: one that was set forward for a
//! moment has nothing forgotten too soon. What is forgotten raises a floor, and nothing that is dated up to there is taken: a clock
//! that is set back brings no request back. While nobody sets the clock the floor is below everything that holds; after it
//! was set back by more than a request is kept, none is taken until it has caught up.
//!
//! A signer has a share, so that nobody's requests keep out those of others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use strongroom_proto::{sealed::RequestDigest, transport::PeerIdentity};

/// Requests that are remembered at once, some 100 bytes each.
const REMEMBERED_MAX: usize = 1 << 19;
/// Those of one signer: over 2,000 a second for as long as each is kept.
const REMEMBERED_PER_SIGNER_MAX: usize = 1 << 17;

/// Now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// By the clock that requests are dated by.
    pub(super) wall: SystemTime,
    /// By one that nobody sets.
    pub(super) steady: Instant,
}

/// Requests that were taken and may still hold.
pub(super) struct Taken {
    kept: Duration,
    total_max: usize,
    signer_max: usize,
    /// By the date of each.
    known: BTreeMap<(u64, RequestDigest), Known>,
    shares: HashMap<Arc<PeerIdentity>, usize>,
    /// The latest date of those that are forgotten.
    floor_ms: u64,
}

struct Known {
    signer: Arc<PeerIdentity>,
    until: Instant,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It was.
    Before,
    /// It may have been: it is dated no later than some that are forgotten, as it can be only if the clock was set back.
    BelowFloor {
        /// Until the clock has caught up.
        wait: Duration,
    },
    /// It could not be remembered; what to say of that.
    Full(String),
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// Milliseconds since 1970.
    pub(super) fn wall_ms(&self) -> u64 {
        ms(self.wall)
    }
}

impl Taken {
    /// Keeps each so long: no request may hold for longer, from its date on or from when it was taken.
    pub(super) fn new(kept: Duration) -> Self {
        Self::with_room(kept, REMEMBERED_MAX, REMEMBERED_PER_SIGNER_MAX)
    }

    fn with_room(kept: Duration, total_max: usize, signer_max: usize) -> Self {
        Self {
            kept,
            total_max,
            signer_max,
            known: BTreeMap::new(),
            shares: HashMap::new(),
            floor_ms: 0,
        }
    }

    /// Remembers a request of that date, unless it was taken before.
    pub(super) fn take(
        &mut self,
        digest: RequestDigest,
        issued_ms: u64,
        signer: PeerIdentity,
        now: Moment,
    ) -> Result<(), NotTaken> {
        self.forget(now);
        let place = (issued_ms, digest);
        if self.known.contains_key(&place) {
            return Err(NotTaken::Before);
        }
        if issued_ms <= self.floor_ms {
            let wait = Duration::from_millis(self.floor_ms.saturating_sub(now.wall_ms()));
            return Err(NotTaken::BelowFloor { wait });
        }
        self.check_room(&signer)?;
        let signer = match self.shares.get_key_value(&signer) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(signer),
        };
        *self.shares.entry(Arc::clone(&signer)).or_default() += 1;
        let until = now.steady + self.kept;
        self.known.insert(place, Known { signer, until });
        Ok(())
    }

    fn check_room(&self, signer: &PeerIdentity) -> Result<(), NotTaken> {
        let (of_all, own) = (self.known.len(), self.shares.get(signer).copied().unwrap_or(0));
        let full = |who: &str, count: usize| {
            Err(NotTaken::Full(format!(
                "the token worker remembers {count} signed requests{who} already; try again after a pause"
            )))
        };
        match () {
            () if own >= self.signer_max => full(&format!(" of {}", signer.short()), own),
            () if of_all >= self.total_max => full("", of_all),
            () => Ok(()),
        }
    }

    /// Those that are dated earliest were taken earliest, but for what clocks differ by: one that is still kept holds up the
    /// others for a moment at the most.
    fn forget(&mut self, now: Moment) {
        while let Some(first) = self.known.first_entry() {
            let (issued_ms, _) = *first.key();
            let age = now.wall.duration_since(UNIX_EPOCH + Duration::from_millis(issued_ms));
            if age.is_ok_and(|age| age > self.kept) && now.steady >= first.get().until {
                let forgotten = first.remove();
                self.floor_ms = self.floor_ms.max(issued_ms);
                self.shrink_share(&forgotten.signer);
            } else {
                break;
            }
        }
    }

    fn shrink_share(&mut self, signer: &PeerIdentity) {
        if let Some(count) = self.shares.get_mut(signer) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(signer);
            }
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "../../../tests/support/seed.rs"]
mod seed;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: Duration = Duration::from_secs(60);
    const MINUTE: i64 = 60_000;
    /// The clock when a test begins.
    const START_MS: i64 = 1_700_000_000_000;

    /// Two clocks of one machine, and a user whose clock is right.
    struct Machine {
        taken: Taken,
        now: Moment,
        next: u64,
    }

    impl Machine {
        fn new() -> Self {
            let wall = UNIX_EPOCH + Duration::from_millis(START_MS.unsigned_abs());
            Self {
                taken: Taken::new(KEPT),
                now: Moment {
                    wall,
                    steady: Instant::now(),
                },
                next: 0,
            }
        }

        fn passes(&mut self, ms: u64) {
            self.now.wall += Duration::from_millis(ms);
            self.now.steady += Duration::from_millis(ms);
        }

        fn is_set_by(&mut self, ms: i64) {
            let by = Duration::from_millis(ms.unsigned_abs());
            self.now.wall = if ms < 0 { self.now.wall - by } else { self.now.wall + by };
        }

        /// A request of now, which no other is like.
        fn request(&mut self) -> (RequestDigest, u64) {
            self.next += 1;
            (RequestDigest::of(&self.next.to_be_bytes()), self.now.wall_ms())
        }

        fn takes(&mut self, (digest, issued_ms): (RequestDigest, u64)) -> Result<(), NotTaken> {
            self.taken.take(digest, issued_ms, user("alice"), self.now)
        }

        fn takes_another(&mut self) -> Result<(), NotTaken> {
            let request = self.request();
            self.takes(request)
        }
    }

    fn user(name: &str) -> PeerIdentity {
        format!("spiffe://strongroom/user/{name}").parse().expect("an identity")
    }

    #[test]
    fn no_request_is_taken_twice_however_the_clock_is_set() {
        let jump = prop_oneof![3 => Just(0), 1 => -5 * MINUTE..5 * MINUTE, 1 => -300 * MINUTE..300 * MINUTE];
        let steps = prop::collection::vec((jump, 0..90_000_u64), 1..40);
        seed::check(200, &steps, |steps| {
            let mut machine = Machine::new();
            let mut requests = Vec::new();
            for (at, (jump, pause)) in steps.into_iter().enumerate() {
                machine.passes(pause);
                machine.is_set_by(jump);
                let fresh = machine.request();
                if machine.takes(fresh).is_ok() {
                    requests.push(fresh);
                }
                for replayed in &requests {
                    if machine.takes(*replayed).is_ok() {
                        return Err(format!("{replayed:?} is taken again in step {at}"));
                    }
                }
            }
            Ok(())
        });
    }

    #[test]
    fn a_clock_that_is_set_keeps_out_nobody_for_longer_than_it_was_set_back() {
        // By how much the clock is set after a quiet time, for how long, and how long requests are refused after that.
        let rows = [
            (0, 10_000, 0),
            (60 * MINUTE, 10_000, 0),
            (-50_000, 10_000, 0),
            (-10 * MINUTE, 0, 9 * MINUTE),
        ];
        for (by, during, refused) in rows {
            let mut machine = Machine::new();
            for _ in 0..200 {
                machine.takes_another().expect("nobody set the clock");
                machine.passes(1000);
            }
            let before = machine.request();
            machine.takes(before).expect("nobody set the clock");
            machine.is_set_by(by);
            for _ in 0..during / 1000 {
                machine.takes_another().expect("while it is set");
                machine.passes(1000);
            }
            if by > 0 {
                machine.is_set_by(-by);
            }
            assert_eq!(machine.takes(before), Err(NotTaken::Before), "set by {by} ms");
            let mut waited = 0;
            while let Err(failure) = machine.takes_another() {
                assert!(matches!(failure, NotTaken::BelowFloor { .. }), "{failure:?}");
                machine.passes(1000);
                waited += 1000;
            }
            assert!((waited - refused).abs() <= 2000, "set by {by} ms: {waited} ms");
        }
    }

    #[test]
    fn what_is_forgotten_leaves_nothing_behind() {
        let mut machine = Machine::new();
        for _ in 0..500 {
            machine.takes_another().expect("nobody set the clock");
            machine.passes(1000);
        }
        assert!(machine.taken.known.len() <= 62, "{}", machine.taken.known.len());
        assert_eq!(machine.taken.shares.values().sum::<usize>(), machine.taken.known.len());
        machine.passes(KEPT.as_millis() as u64 + 2000);
        machine.taken.forget(machine.now);
        assert!(machine.taken.known.is_empty() && machine.taken.shares.is_empty());
    }

    #[test]
    fn a_signer_who_fills_his_share_leaves_room_for_others() {
        let mut machine = Machine::new();
        machine.taken = Taken::with_room(KEPT, 5, 3);
        let count = |machine: &mut Machine, name: &str| {
            let takes = (0..10).filter(|_| {
                let (digest, issued_ms) = machine.request();
                machine.taken.take(digest, issued_ms, user(name), machine.now).is_ok()
            });
            takes.count()
        };
        assert_eq!(count(&mut machine, "mallory"), 3);
        assert_eq!(count(&mut machine, "alice"), 2, "what is left of the whole");
        let (digest, issued_ms) = machine.request();
        match machine.taken.take(digest, issued_ms, user("mallory"), machine.now) {
            Err(NotTaken::Full(text)) => assert!(text.contains("3 signed requests of user mallory"), "{text}"),
            other => panic!("{other:?}"),
        }
        machine.passes(61_000);
        assert_eq!(count(&mut machine, "mallory"), 3, "his are forgotten");
        assert_eq!(machine.taken.shares.len(), 1);
    }
}
