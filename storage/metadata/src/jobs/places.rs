//! Which jobs are worked on: a bounded number of each kind, first come first served. A job that gave its place up is the last to come
//! by then, and those that come later are behind it. Jobs that are slow, because they are throttled or wait for something that is
//! away, hold up others no longer than a turn; and those of one owner, or on one key, never have all places, so that one of
//! somebody else is begun at once.

use std::{collections::HashMap, time::Duration};

use strongroom_proto::JobId;
use tokio::time::Instant;

/// How long a job keeps a place that another one waits for: longer than it takes a job that always fails to be paused.
const TURN: Duration = Duration::from_secs(30);

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
    /// Jobs that wait, in the order in which they came.
    tickets: HashMap<JobId, Ticket>,
    last_ticket: u64,
    /// A round is over when all jobs that wait have been looked at.
    round: u64,
}

#[derive(Debug)]
struct Held {
    group: String,
    since: Instant,
    /// It is to wait once more.
    gives_up: bool,
}

#[derive(Debug, Clone, Copy)]
struct Ticket {
    number: u64,
    /// When the job was seen to wait last.
    round: u64,
}

impl Places {
    /// Whether a job has a place.
    pub(super) fn holds(&self, job: JobId) -> bool {
        self.held.contains_key(&job)
    }

    /// Has jobs that wait stand in line, those that do already where they are. Who was not seen in a whole round waits no more; that is
    /// also what bounds the line: it holds jobs that are there.
    pub(super) fn queue(&mut self, waiting: &[Ready], ends_round: bool) {
        for ready in waiting.iter().filter(|ready| !self.held.contains_key(&ready.job)) {
            let number = self.last_ticket + 1;
            let ticket = self.tickets.entry(ready.job).or_insert(Ticket { number, round: 0 });
            ticket.round = self.round;
            self.last_ticket = self.last_ticket.max(ticket.number);
        }
        if ends_round {
            self.tickets.retain(|_, ticket| ticket.round == self.round);
            self.round += 1;
        }
    }

    /// Gives a place to the job whose turn it is, of those that wait, if one of `most` is free.
    pub(super) fn give(&mut self, waiting: &[Ready], most: usize, now: Instant) -> Option<JobId> {
        if self.held.len() >= most {
            return None;
        }
        let next = self.next(waiting, |group| self.of(group) < cap(most))?.clone();
        let Ready { job, group } = next;
        self.tickets.remove(&job);
        let held = Held {
            group,
            since: now,
            gives_up: false,
        };
        self.held.insert(job, held);
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

    /// A job is being stopped because its turn is over.
    pub(super) fn give_up(&mut self, job: JobId) {
        if let Some(held) = self.held.get_mut(&job) {
            held.gives_up = true;
        }
    }

    /// A job's work is over, or was stopped: then it stands in line again, behind all who do.
    pub(super) fn leave(&mut self, job: JobId) {
        if self.held.remove(&job).is_some_and(|held| held.gives_up) {
            self.last_ticket += 1;
            let (number, round) = (self.last_ticket, self.round);
            self.tickets.insert(job, Ticket { number, round });
        }
    }

    /// Of the groups that have the fewest places the job that waits for longest.
    fn next<'a>(&self, waiting: &'a [Ready], may: impl Fn(&str) -> bool) -> Option<&'a Ready> {
        let number = |job| self.tickets.get(&job).map_or(u64::MAX, |ticket| ticket.number);
        let free = waiting
            .iter()
            .filter(|ready| !self.holds(ready.job) && may(&ready.group));
        free.min_by_key(|ready| (self.of(&ready.group), number(ready.job), ready.job))
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
        places.queue(waiting, true);
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
                places.give_up(job);
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

    /// New jobs come all the time: one that gave its place up is behind those that waited by then, and before all that came later.
    #[test]
    fn a_stream_of_new_jobs_keeps_nobody_from_coming_again() {
        let (mut places, mut now) = (Places::default(), Instant::now());
        let slow = ready(200, "slow");
        let mut waiting = vec![slow.clone()];
        assert_eq!(fill(&mut places, &waiting, now).len(), 1);
        waiting = vec![ready(1, "a"), ready(2, "b")];
        places.queue(&waiting, true);
        now += TURN;
        assert_eq!(places.over(&waiting, 1, now), Some(slow.job));
        places.give_up(slow.job);
        places.leave(slow.job);
        waiting.push(slow.clone());
        let mut served = Vec::new();
        for number in 3..8 {
            waiting.push(ready(number, "new"));
            places.queue(&waiting, true);
            let next = places.give(&waiting, 1, now).expect("a place is free");
            waiting.retain(|ready| ready.job != next);
            places.leave(next);
            served.push(next);
        }
        let expected = [1, 2, 200, 3, 4].map(|number| JobId::from_bytes([number; 16]));
        assert_eq!(served, expected);
    }

    #[test]
    fn a_single_place_goes_round() {
        let (mut places, now) = (Places::default(), Instant::now());
        let waiting = [ready(1, "key"), ready(2, "key")];
        places.queue(&waiting, true);
        assert_eq!(places.give(&waiting, 1, now), id(1));
        assert_eq!(places.over(&waiting, 1, now + TURN), id(1));
        places.give_up(JobId::from_bytes([1; 16]));
        places.leave(JobId::from_bytes([1; 16]));
        assert_eq!(places.give(&waiting, 1, now + TURN), id(2));
        assert_eq!(places.over(&waiting, 1, now + TURN + TURN), id(2));
    }
}
