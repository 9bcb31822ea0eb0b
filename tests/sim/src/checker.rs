//! Whether a history is linearizable: whether there is an order of its calls, in which none comes before another that was told
//! before it was called, and in which each was told what the model says (Wing and Gong 1993, with Lowe's memory of states).
//!
//! A call whose outcome nobody knows takes place anywhere after it was called, or never.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    history::{Call, Event, Outcome},
    model::Model,
};

/// States looked at before the search gives up.
const STATES_MAX: usize = 3_000_000;

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// With the numbers of the calls that the longest order came to, and of those that no order gets past.
    Not {
        reached: usize,
        stuck: Vec<usize>,
    },
    /// The history allows too many orders to look at.
    Undecided,
}

/// Searches for an order.
pub(crate) fn check(events: &[Event]) -> Verdict {
    let mut search = Search {
        events,
        done: vec![false; events.len()],
        seen: HashSet::new(),
        best: (0, Vec::new()),
    };
    match search.run() {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Not {
            reached: search.best.0,
            stuck: search.best.1,
        },
        None => Verdict::Undecided,
    }
}

struct Search<'e> {
    events: &'e [Event],
    done: Vec<bool>,
    seen: HashSet<u128>,
    best: (usize, Vec<usize>),
}

/// A state with the calls that may be next in it.
struct Step {
    model: Model,
    next: Vec<usize>,
    /// The call that led here.
    by: Option<usize>,
}

impl Search<'_> {
    /// Whether there is an order; none if the search gave up.
    fn run(&mut self) -> Option<bool> {
        let mut path = vec![self.step(Model::default(), None)];
        while let Some(step) = path.last_mut() {
            if self.is_over() {
                return Some(true);
            }
            let Some(id) = step.next.pop() else {
                if let Some(by) = step.by {
                    self.done[by] = false;
                }
                path.pop();
                continue;
            };
            let Some(model) = self.after(&step.model, id) else {
                continue;
            };
            self.done[id] = true;
            if self.seen.insert(self.print(&model)) {
                path.push(self.step(model, Some(id)));
            } else {
                self.done[id] = false;
            }
            if self.seen.len() > STATES_MAX {
                return None;
            }
        }
        Some(false)
    }

    fn step(&mut self, model: Model, by: Option<usize>) -> Step {
        let next = self.candidates();
        let reached = self.done.iter().filter(|done| **done).count();
        if reached >= self.best.0 {
            self.best = (reached, next.clone());
        }
        Step { model, next, by }
    }

    /// The calls that no other has to come before: the last is tried first. Those that may never have taken place come after all others.
    fn candidates(&self) -> Vec<usize> {
        let open = || (0..self.events.len()).filter(|id| !self.done[*id]);
        let first_told = open()
            .filter_map(|id| certain(&self.events[id]))
            .min()
            .unwrap_or(usize::MAX);
        let mut found: Vec<_> = open().filter(|id| self.events[*id].called < first_told).collect();
        found.sort_by_key(|id| std::cmp::Reverse(certain(&self.events[*id]).unwrap_or(usize::MAX)));
        found
    }

    fn after(&self, model: &Model, id: usize) -> Option<Model> {
        let event = &self.events[id];
        let after = model.after(id, &event.call);
        match event.told.as_ref().map(|(_, outcome)| outcome) {
            Some(Outcome::Done(told)) => after.filter(|(_, says)| says == told).map(|(model, _)| model),
            Some(Outcome::Excluded(_)) => Some(model.clone()),
            Some(Outcome::Refused(_)) => {
                let may_be_refused = match event.call {
                    Call::Publish { writer, .. } => after.is_none() || model.is_cut_off(writer),
                    _ => after.is_none(),
                };
                may_be_refused.then(|| model.clone())
            }
            Some(Outcome::Unknown) | None => after.map(|(model, _)| model),
        }
    }

    /// Whether only calls are left that may never have taken place.
    fn is_over(&self) -> bool {
        let mut left = self.events.iter().zip(&self.done).filter(|(_, done)| !**done);
        left.all(|(event, _)| certain(event).is_none())
    }

    fn print(&self, model: &Model) -> u128 {
        let part = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &self.done, model).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        part(0) << 64 | part(1)
    }
}

/// When a call was told its outcome, if it was.
fn certain(event: &Event) -> Option<usize> {
    match &event.told {
        Some((_, Outcome::Unknown)) | None => None,
        Some((at, _)) => Some(*at),
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::Reason;

    use super::*;
    use crate::{
        chunk::{self, Content},
        history::{Path, Told},
    };

    fn path(names: &[&'static str]) -> Path {
        Path(names.to_vec())
    }

    fn mkdir(name: &'static str) -> Call {
        Call::MakeDirectory(path(&[name]))
    }

    fn rename(from: &[&'static str], to: &[&'static str]) -> Call {
        Call::Rename {
            from: path(from),
            to: path(to),
            overwrite: false,
        }
    }

    fn list(names: &[&str]) -> (Call, Outcome) {
        let names = names.iter().map(|name| ((*name).to_owned(), true)).collect();
        (Call::List(path(&[])), Outcome::Done(Told::Names(names)))
    }

    const DONE: Outcome = Outcome::Done(Told::Nothing);
    const NONE: Outcome = Outcome::Refused(Reason::NotFound);

    /// Calls with the times at which they were made and told.
    fn history(calls: impl IntoIterator<Item = (usize, usize, (Call, Outcome))>) -> Vec<Event> {
        let event = |(called, told, (call, outcome))| Event {
            call,
            called,
            told: Some((told, outcome)),
        };
        calls.into_iter().map(event).collect()
    }

    fn is_linearizable(calls: impl IntoIterator<Item = (usize, usize, (Call, Outcome))>) -> bool {
        check(&history(calls)) == Verdict::Linearizable
    }

    #[test]
    fn calls_one_after_the_other_take_place_in_their_order() {
        assert!(is_linearizable([(1, 2, (mkdir("a"), DONE)), (3, 4, list(&["a"]))]));
        assert!(
            !is_linearizable([(1, 2, (mkdir("a"), DONE)), (3, 4, list(&[]))]),
            "a stale listing"
        );
        assert!(
            !is_linearizable([(1, 2, list(&["a"])), (3, 4, (mkdir("a"), DONE))]),
            "a listing out of the future"
        );
        assert!(
            !is_linearizable([(1, 2, (mkdir("a"), DONE)), (3, 4, (mkdir("a"), DONE))]),
            "made twice"
        );
        let refused = (mkdir("a"), Outcome::Refused(Reason::AlreadyExists));
        assert!(!is_linearizable([(1, 2, refused)]), "refused without a cause");
    }

    #[test]
    fn calls_at_the_same_time_take_place_in_any_order() {
        for names in [&[][..], &["a"]] {
            assert!(is_linearizable([(1, 4, (mkdir("a"), DONE)), (2, 3, list(names))]));
        }
        // Seen by one, it cannot be missed by the next.
        let seen = |first: &[&str], second: &[&str]| {
            is_linearizable([(1, 6, (mkdir("a"), DONE)), (2, 3, list(first)), (4, 5, list(second))])
        };
        assert!(seen(&[], &["a"]));
        assert!(!seen(&["a"], &[]));
    }

    #[test]
    fn a_rename_is_one_step() {
        let both = [(1, 2, (mkdir("a"), DONE)), (3, 6, (rename(&["a"], &["b"]), DONE))];
        let with = |names: &[&str]| is_linearizable(both.clone().into_iter().chain([(4, 5, list(names))]));
        assert!(with(&["a"]) && with(&["b"]));
        assert!(!with(&["a", "b"]) && !with(&[]), "half a rename");
        let twice = [
            (3, 7, (rename(&["a"], &["b"]), DONE)),
            (4, 6, (rename(&["a"], &["c"]), DONE)),
        ];
        let made = [(1, 2, (mkdir("a"), DONE))];
        assert!(
            !is_linearizable(made.into_iter().chain(twice)),
            "one name cannot go two ways"
        );
    }

    #[test]
    fn what_nobody_knows_may_have_been_at_any_time_or_never() {
        for names in [&[][..], &["a"]] {
            assert!(is_linearizable([
                (1, 2, (mkdir("a"), Outcome::Unknown)),
                (7, 8, list(names))
            ]));
        }
        let lost_again = [(3, 4, list(&["a"])), (5, 6, list(&[]))];
        let unknown = [(1, 2, (mkdir("a"), Outcome::Unknown))];
        assert!(!is_linearizable(unknown.into_iter().chain(lost_again)));
    }

    #[test]
    fn what_was_published_stays() {
        let create = Call::Create {
            path: path(&["f"]),
            writer: 1,
            overwrite: false,
        };
        let reopen = |cut| Call::Append {
            path: path(&["f"]),
            writer: 2,
            cut,
        };
        let publish = |writer, chunk| (Call::Publish { writer, chunk }, DONE);
        let read_bytes = |bytes: &[u8]| {
            (
                Call::Read(path(&["f"])),
                Outcome::Done(Told::Content(Content::of(bytes))),
            )
        };
        let read = |chunks: &[u32]| read_bytes(&chunks.iter().copied().flat_map(chunk::bytes).collect::<Vec<_>>());
        let begun = |rest: Vec<(usize, usize, (Call, Outcome))>| {
            let start = [(1, 2, (create.clone(), DONE)), (3, 4, publish(1, Some(5)))];
            is_linearizable(start.into_iter().chain(rest))
        };
        assert!(begun(vec![(5, 6, read(&[5]))]));
        assert!(!begun(vec![(5, 6, read(&[]))]), "a lost chunk");
        assert!(!begun(vec![(5, 6, (Call::Read(path(&["f"])), NONE))]), "a lost file");
        let appended = [(5, 6, (reopen(None), DONE)), (7, 8, publish(2, Some(6)))];
        assert!(begun([&appended[..], &[(9, 10, read(&[5, 6]))]].concat()));
        assert!(
            !begun([&appended[..], &[(9, 10, read(&[6, 5]))]].concat()),
            "in another order"
        );
        let cut = [(5, 6, (reopen(Some(3)), DONE)), (7, 8, publish(2, None))];
        assert!(begun(
            [&cut[..], &[(9, 10, read_bytes(&chunk::bytes(5)[..3]))]].concat()
        ));
        assert!(!begun([&cut[..], &[(9, 10, read(&[5]))]].concat()), "not cut");
        let behind = (reopen(Some(1 << 20)), Outcome::Refused(Reason::InvalidArgument));
        assert!(begun(vec![(5, 6, behind)]));
    }
}
