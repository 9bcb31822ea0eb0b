//! Decisions that were made before. A decision depends on nothing but the question and the set of policies and
//! groups, so that one that is remembered beside its whole question is the one that would be made again. The
//! memory belongs to its set and goes with it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::{ZoneId, transport::PeerIdentity};

use super::{Action, Authentication, Context, Decision, GroupName, KeyFacts, Principal};

/// Parts of the memory, so that calls side by side seldom wait for each other.
const SHARDS: usize = 16;
/// Decisions remembered: some tens of MiB at the very most.
pub(super) const DECISIONS_MAX: usize = 1 << 16;

/// Decisions with the questions that they answer.
pub(super) struct Cache {
    shards: [Mutex<HashMap<u64, (Question, Decision)>>; SHARDS],
    hasher: RandomState,
    shard_max: usize,
}

/// A question as it was asked: all that a decision may depend on.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    identity: PeerIdentity,
    groups: Box<[GroupName]>,
    authentication: Authentication,
    action: Action,
    key: KeyFacts,
    operation: Box<str>,
    sealed: bool,
    zone: Option<ZoneId>,
}

impl Cache {
    /// Room for `decisions_max` decisions, at least one for each shard.
    pub(super) fn new(decisions_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shard_max: (decisions_max / SHARDS).max(1),
        }
    }

    /// The decision on exactly this question, made by `decide` if it is not remembered.
    pub(super) fn get(
        &self,
        who: &Principal<'_>,
        action: Action,
        key: &KeyFacts,
        context: &Context<'_>,
        decide: impl FnOnce() -> Decision,
    ) -> Decision {
        let hash = self.hash(who, action, key, context);
        if let Some((question, decision)) = self.shard(hash).get(&hash)
            && question.is(who, action, key, context)
        {
            return decision.clone();
        }
        let decision = decide();
        // A failure is made, and logged, each time.
        if !decision.failed {
            self.put(hash, Question::new(who, action, key, context), decision.clone());
        }
        decision
    }

    fn put(&self, hash: u64, question: Question, decision: Decision) {
        let mut shard = self.shard(hash);
        if shard.len() >= self.shard_max {
            // Forgetting a whole shard costs each of its decisions one evaluation, and no bookkeeping on every hit.
            shard.clear();
        }
        shard.insert(hash, (question, decision));
    }

    fn hash(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> u64 {
        self.hasher.hash_one((who, action, key, context))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, (Question, Decision)>> {
        let shard = &self.shards[(hash >> 60) as usize % SHARDS];
        // Entries go in and out whole, so that a panic elsewhere leaves nothing half done.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    fn new(who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> Self {
        // Taken apart field by field, so that a new field cannot be forgotten.
        let Principal {
            identity,
            groups,
            authentication,
        } = *who;
        let Context {
            operation,
            sealed,
            zone,
        } = *context;
        Self {
            identity: identity.clone(),
            groups: groups.into(),
            authentication,
            action,
            key: key.clone(),
            operation: operation.into(),
            sealed,
            zone,
        }
    }

    fn is(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> bool {
        let asked = Principal {
            identity: &self.identity,
            groups: &self.groups,
            authentication: self.authentication,
        };
        let under = Context {
            operation: &self.operation,
            sealed: self.sealed,
            zone: self.zone,
        };
        self.action == action && asked == *who && under == *context && self.key == *key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Decision {
        Decision {
            allowed: true,
            policies: [].into(),
            failed: false,
        }
    }

    #[test]
    fn a_question_is_decided_once_and_no_other_gets_its_answer() {
        let cache = Cache::new(DECISIONS_MAX);
        let (alice, bob) = (identity("alice"), identity("bob"));
        let groups = ["hr".parse().expect("a group")];
        let mut tagged = facts("a");
        tagged.tags.insert("k".to_owned(), "v".to_owned());
        let (alice, bob) = (Principal::certified(&alice), Principal::certified(&bob));
        let in_group = Principal {
            groups: &groups,
            ..alice
        };
        let by_token = Principal {
            authentication: Authentication::Bearer,
            ..alice
        };
        let plain = Context::of("x");
        let questions = [
            (alice, Action::View, facts("a"), plain),
            (bob, Action::View, facts("a"), plain),
            (in_group, Action::View, facts("a"), plain),
            (by_token, Action::View, facts("a"), plain),
            (alice, Action::Mint, facts("a"), plain),
            (alice, Action::View, facts("b"), plain),
            (alice, Action::View, tagged, plain),
            (alice, Action::View, facts("a"), Context::of("y")),
            (alice, Action::View, facts("a"), plain.sealed(true)),
            (alice, Action::View, facts("a"), plain.zone(ZoneId::generate())),
        ];
        for (who, action, key, context) in &questions {
            let mut asked = 0;
            for _ in 0..2 {
                cache.get(who, *action, key, context, || {
                    asked += 1;
                    allowed()
                });
            }
            assert_eq!(asked, 1, "{who:?} {action} {key:?} {context:?}");
        }
    }

    #[test]
    fn a_failure_is_not_remembered_and_the_memory_is_bounded() {
        let cache = Cache::new(SHARDS * 4);
        let alice = identity("alice");
        let who = Principal::certified(&alice);
        let mut failures = 0;
        for _ in 0..2 {
            let decision = cache.get(&who, Action::View, &facts("a"), &Context::of("x"), || {
                failures += 1;
                Decision::failure()
            });
            assert!(decision.failed);
        }
        assert_eq!(failures, 2);
        for number in 0..1000 {
            let key = facts(&format!("key-{number}"));
            cache.get(&who, Action::View, &key, &Context::of("x"), allowed);
        }
        for shard in &cache.shards {
            assert!(shard.lock().expect("nobody panicked").len() <= 4);
        }
    }

    fn identity(name: &str) -> PeerIdentity {
        format!("spiffe://strongroom/user/{name}").parse().expect("an identity")
    }

    fn facts(name: &str) -> KeyFacts {
        KeyFacts::unknown(name.parse().expect("a key name"))
    }
}
