//! Which jobs are worked on: a bounded number of each kind, in turn. Jobs that are slow, because they are throttled or wait for something that is
//! away, hold up others no longer than a turn; and those of one owner, or on one key, never have all places, so that one of
//! somebody else is begun at once.

use std::{collections::HashMap, time::Duration};

use strongroom_proto::JobId;
use tokio::time::Instant;

/// How long a job keeps a place that another one waits for: longer than it takes a job that always fails to be paused.
const TURN: Duration = Duration::from_secs(30);

/// Turns that are remembered.
const REMEMBERED: u64 = 10_000;

/// A job that there is work to do on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) job: JobId,
    /// Whose it is, or on which key.
    pub(super) group: String,
}

/// The places of one kind of job.
#[derive(Debug, Default)]
pub(super) struct Places {
    held: HashMap<JobId, Held>,
    /// When jobs that wait had their last turn, counted in turns.
    served: HashMap<JobId, u64>,
    turns: u64,
}

#[derive(Debug)]
struct Held {
    group: String,
    since: Instant,
}

impl Places {
    /// Whether a job has a place.
    pub(super) fn holds(&self, job: JobId) -> bool {
        self.held.contains_key(&job)
    }

    /// Gives a place to the job whose turn it is, of those that wait, if one of `most` is free.
    pub(super) fn give(&mut self, waiting: &[Ready], most: usize, now: Instant) -> Option<JobId> {
        if self.held.len() >= most {
            return None;
        }
        let next = self.next(waiting, |group| self.of(group) < cap(most))?.clone();
        self.turns += 1;
        self.served.insert(next.job, self.turns);
        let turns = self.turns;
        self.served.retain(|_, turn| *turn + REMEMBERED > turns);
        let Ready { job, group } = next;
        self.held.insert(job, Held { group, since: now });
        Some(job)
    }

    /// A job whose turn is over: one that has had its place for long, of those who have most, while another one waits that could have it.
    pub(super) fn over(&self, waiting: &[Ready], most: usize, now: Instant) -> Option<JobId> {
        let next = self.next(waiting, |_| true)?;
        let of_next = self.of(&next.group);
        let has_enough = of_next >= cap(most);
        if self.held.len() < most && !has_enough {
            return None;
        }
        let long = self.held.iter().filter(|(_, held)| now - held.since >= TURN);
        let gives_way = long.filter(|(_, held)| {
            let same = held.group == next.group;
            same || (!has_enough && self.of(&held.group) > of_next)
        });
        gives_way
            .max_by_key(|(_, held)| (self.of(&held.group), now - held.since))
            .map(|(job, _)| *job)
    }

    /// A job's work is over, or was stopped.
    pub(super) fn leave(&mut self, job: JobId) {
        self.held.remove(&job);
    }

    /// Of the groups that have the fewest places the job that waits for longest.
    fn next<'a>(&self, waiting: &'a [Ready], may: impl Fn(&str) -> bool) -> Option<&'a Ready> {
        let served = |job| self.served.get(&job).copied().unwrap_or_default();
        let free = waiting
            .iter()
            .filter(|ready| !self.holds(ready.job) && may(&ready.group));
        free.min_by_key(|ready| (self.of(&ready.group), served(ready.job), ready.job))
    }

    fn of(&self, group: &str) -> usize {
        self.held.values().filter(|held| held.group == group).count()
    }
}

/// Places that one group may have: one is left for others, unless there is but one.
const fn cap(most: usize) -> usize {
    if most > 1 { most - 1 } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(number: u8, group: &str) -> Ready {
        Ready {
            job: JobId::from_bytes([number; 16]),
            group: group.to_owned(),
        }
    }

    fn id(number: u8) -> Option<JobId> {
        Some(JobId::from_bytes([number; 16]))
    }

    /// Gives places until none is given.
    fn fill(places: &mut Places, waiting: &[Ready], now: Instant) -> Vec<JobId> {
        std::iter::from_fn(|| places.give(waiting, 4, now)).collect()
    }

    #[test]
    fn one_owner_never_has_all_places() {
        let (mut places, now) = (Places::default(), Instant::now());
        let mut waiting: Vec<_> = (1..=6).map(|number| ready(number, "alice")).collect();
        assert_eq!(fill(&mut places, &waiting, now).len(), 3);
        waiting.push(ready(7, "bob"));
        assert_eq!(places.give(&waiting, 4, now), id(7), "at once");
        assert_eq!(places.give(&waiting, 4, now), None);
        places.leave(JobId::from_bytes([7; 16]));
        assert_eq!(places.give(&waiting[..6], 4, now), None, "it stays free for others");
    }

    #[test]
    fn slow_jobs_give_way_after_their_turn_and_come_again() {
        let (mut places, mut now) = (Places::default(), Instant::now());
        let waiting: Vec<_> = (1..=5).map(|number| ready(number, "alice")).collect();
        fill(&mut places, &waiting, now);
        assert_eq!(places.over(&waiting, 4, now), None, "too early");
        let mut seen = Vec::new();
        for _ in 0..4 {
            now += TURN;
            while let Some(job) = places.over(&waiting, 4, now) {
                places.leave(job);
                seen.extend(places.give(&waiting, 4, now));
            }
        }
        for ready in &waiting {
            assert!(seen.contains(&ready.job), "{ready:?} had no turn: {seen:?}");
        }
        assert_eq!(places.over(&waiting[..0], 4, now + TURN), None, "nobody waits");
    }

    #[test]
    fn who_has_most_gives_way_first_and_never_to_those_who_have_more() {
        let (mut places, now) = (Places::default(), Instant::now());
        let of = |group, numbers: std::ops::RangeInclusive<u8>| numbers.map(move |number| ready(number, group));
        let mut waiting: Vec<_> = of("alice", 1..=3).chain(of("bob", 4..=4)).collect();
        assert_eq!(fill(&mut places, &waiting, now).len(), 4);
        waiting.push(ready(9, "carol"));
        let later = now + TURN;
        let given_up = places.over(&waiting, 4, later).expect("alice has three");
        assert!((1..=3).any(|number| id(number) == Some(given_up)));
        places.leave(given_up);
        assert_eq!(places.give(&waiting, 4, later), id(9));
        let of_alice = [ready(8, "alice")];
        let given_up = places.over(&of_alice, 4, later).expect("one of her own");
        assert!(
            (1..=3).any(|number| id(number) == Some(given_up)),
            "not bob's or carol's"
        );
    }

    #[test]
    fn a_single_place_goes_round() {
        let (mut places, now) = (Places::default(), Instant::now());
        let waiting = [ready(1, "key"), ready(2, "key")];
        assert_eq!(places.give(&waiting, 1, now), id(1));
        assert_eq!(places.over(&waiting, 1, now + TURN), id(1));
        places.leave(JobId::from_bytes([1; 16]));
        assert_eq!(places.give(&waiting, 1, now + TURN), id(2));
        assert_eq!(places.over(&waiting, 1, now + TURN + TURN), id(2));
    }
}
