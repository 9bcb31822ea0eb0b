//! Which token a call goes to, and what happens when that one fails.
//!
//! A call goes to the least loaded of the tokens that serve and hold the versions it needs; so calls spread over all of
//! them. What one token fails in a way that says nothing about the call itself is done by the next one within the same
//! call, and a token that hangs gets company before its caller loses patience. Where a token blames a single EDEK,
//! another token is asked before the client is told so.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::time::{sleep, timeout};

use super::{Fleet, member::Member};
use crate::token::Token;

/// How long a call waits for some token to serve when none does.
const SERVING_WAIT: Duration = Duration::from_secs(6);
/// Tokens that judge one EDEK at most.
const OPINIONS_MAX: usize = 3;

/// What a call asks of the token it goes to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask<'a> {
    /// The versions that the token should hold.
    pub(crate) needs: Vec<(&'a KeyName, KeyVersion)>,
    /// EDEKs in the call.
    pub(crate) items: usize,
    /// Tokens, by their place, that have given their answer already.
    avoid: Vec<usize>,
}

/// Results of single EDEKs, in order.
type Items<T> = Vec<Result<T, Failure>>;

impl<'a> Ask<'a> {
    /// For a call with that many items; versions that follow one another are noted once.
    pub(crate) fn new(items: usize, needs: impl Iterator<Item = (&'a KeyName, KeyVersion)>) -> Self {
        let mut needs: Vec<_> = needs.collect();
        needs.dedup();
        Self {
            needs,
            items,
            avoid: Vec::new(),
        }
    }
}

impl Fleet {
    /// Has some token do a call. Answers with the place of the token that did.
    ///
    /// # Errors
    /// What concerns the call itself; for the rest only what every token said, or that none serves.
    pub(crate) async fn run<T, F>(&self, ask: &Ask<'_>, call: impl Fn(Token) -> F) -> Result<(T, usize), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        if let [single] = self.members() {
            return self
                .on(single, ask.items, call(single.token.clone()))
                .await
                .map(|done| (done, 0));
        }
        let failure = match self.try_each(ask, &call).await {
            Ok(done) => return Ok(done),
            Err(failure) if failure.is_transient() && ask.avoid.is_empty() => failure,
            Err(failure) => return Err(failure),
        };
        // None could; perhaps one is just coming back. A full queue is not waited for: its caller is told to pause.
        if failure.reason == Reason::Overloaded || !self.wait_serving().await {
            return Err(failure);
        }
        match self.try_each(ask, &call).await {
            // A signed request that a worker took in the first round is a replay to it in the second: the first answer counts.
            Err(again) if again.reason == Reason::PermissionDenied => Err(failure),
            outcome => outcome,
        }
    }

    /// Has tokens do a call with a result for each item. Results that another token may give otherwise are asked for
    /// there; `pick` makes the call for the items at the places it is given.
    pub(crate) async fn run_items<T, F>(
        &self,
        ask: Ask<'_>,
        pick: impl Fn(Token, Vec<usize>) -> F,
    ) -> Result<Items<T>, Failure>
    where
        F: Future<Output = Result<Items<T>, Failure>>,
    {
        let all: Vec<usize> = (0..ask.items).collect();
        let (results, first) = self.run(&ask, |token| pick(token, all.clone())).await?;
        let mut results = same_length(results, all.len())?;
        let mut ask = ask;
        ask.avoid.push(first);
        while ask.avoid.len() < OPINIONS_MAX.min(self.members().len()) {
            let doubtful: Vec<usize> = doubtful(&results);
            if doubtful.is_empty() {
                break;
            }
            ask.items = doubtful.len();
            // Without a second opinion the first one stands.
            let Ok((again, other)) = self.run(&ask, |token| pick(token, doubtful.clone())).await else {
                break;
            };
            let again = same_length(again, doubtful.len())?;
            self.compare(&ask.avoid, &results, &doubtful, &again);
            for (place, result) in doubtful.into_iter().zip(again) {
                // Between two failures the one that may pass is the better answer.
                if result.is_ok() || results[place].as_ref().is_err_and(|failure| !failure.is_transient()) {
                    results[place] = result;
                }
            }
            ask.avoid.push(other);
        }
        Ok(results)
    }

    /// One attempt on each token that serves, in the best order, until one succeeds.
    async fn try_each<T, F>(&self, ask: &Ask<'_>, call: &impl Fn(Token) -> F) -> Result<(T, usize), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tried = ask.avoid.clone();
        let mut running = FuturesUnordered::new();
        let mut verdict: Option<Failure> = None;
        loop {
            match self.best(ask, &tried) {
                Some(place) => {
                    tried.push(place);
                    let member = &self.members()[place];
                    let attempt = self.on(member, ask.items, call(member.token.impatient()));
                    running.push(async move { (place, attempt.await) });
                }
                None if running.is_empty() => return Err(verdict.unwrap_or_else(|| self.none_serves())),
                None => {}
            }
            // Until an attempt ends, or all that run are silent and another token could be asked. That one may come back only
            // while the call waits.
            loop {
                tokio::select! {
                    Some((place, outcome)) = running.next() => match outcome {
                        Ok(done) => return Ok((done, place)),
                        Err(failure) if !fails_over(failure.reason) => return Err(failure),
                        Err(failure) => {
                            self.note(place, &failure);
                            verdict = Some(milder(verdict, failure));
                            break;
                        }
                    },
                    () = sleep(self.settings().hedge_after()) => {
                        let silence = self.settings().hedge_after();
                        let silent = |place: &usize| self.members()[*place].token.silent_for(silence);
                        let all_silent = tried.iter().filter(|place| !ask.avoid.contains(place)).all(silent);
                        if all_silent && self.others_serve(&tried) {
                            tracing::warn!("no answer within {silence:?}; another token is asked too");
                            break;
                        }
                    }
                }
            }
        }
    }

    /// One attempt, within the bounds of the token's queue.
    async fn on<T>(
        &self,
        member: &Member,
        items: usize,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let wait_max = self.settings().queue_wait_max();
        let place = member.load.enter(items, wait_max).map_err(|pause| {
            let text = format!(
                "token {:?} has so many calls waiting that this one would wait for more than {wait_max:?}; try again after a pause",
                member.label()
            );
            Failure::new(Reason::Overloaded, text).retry_after(pause)
        })?;
        let since = Instant::now();
        let outcome = call.await;
        self.meter()
            .called(member.label(), since.elapsed(), outcome.as_ref().err());
        if outcome.is_ok() {
            place.answered();
            member.answered();
        }
        outcome
    }

    /// The token to ask next.
    fn best(&self, ask: &Ask<'_>, tried: &[usize]) -> Option<usize> {
        let (silence, start) = (self.settings().hedge_after(), self.next_turn());
        let members = self.members().iter().enumerate();
        let candidates = members.filter(|(place, member)| !tried.contains(place) && member.serves());
        let best = candidates.min_by_key(|(place, member)| {
            // Of equals, each in turn.
            let turn = (place + start) % self.members().len();
            (
                member.is_doubtful(silence),
                member.lacks(&ask.needs),
                member.load.items(),
                turn,
            )
        });
        best.map(|(place, _)| place)
    }

    /// Whether there is a token to ask besides those that were `tried`. Asking this takes nobody's turn.
    fn others_serve(&self, tried: &[usize]) -> bool {
        let mut members = self.members().iter().enumerate();
        members.any(|(place, member)| !tried.contains(&place) && member.serves())
    }

    /// Waits until some token serves; false if none does in time.
    async fn wait_serving(&self) -> bool {
        let mut changes = self.changes();
        let serving = changes.wait_for(|_| self.members().iter().any(Member::serves));
        timeout(SERVING_WAIT, serving)
            .await
            .is_ok_and(|outcome| outcome.is_ok())
    }

    fn note(&self, place: usize, failure: &Failure) {
        let member = &self.members()[place];
        // None of these says that the token is not well; the last is what a worker says of every request from before its start.
        if !matches!(
            failure.reason,
            Reason::Overloaded | Reason::KeyVersionUnusable | Reason::SignedTooEarly
        ) {
            member.failed();
        }
        tracing::warn!(token = member.label(), reason = %failure.reason, "another token does what this one failed: {failure}");
    }

    /// Says so where a token refused what another one opens: the first one's word is worth nothing then.
    fn compare<T>(&self, earlier: &[usize], results: &Items<T>, doubtful: &[usize], again: &Items<T>) {
        let blamed = |place: &usize| matches!(&results[*place], Err(failure) if failure.reason == Reason::EdekInvalid);
        let wrong = doubtful
            .iter()
            .zip(again)
            .filter(|(place, again)| blamed(place) && again.is_ok())
            .count();
        if wrong == 0 {
            return;
        }
        for member in earlier.iter().map(|&place| &self.members()[place]) {
            tracing::error!(
                token = member.label(),
                wrong,
                "this token refused EDEKs that another one opens; it is checked"
            );
            member.failed();
        }
        self.request_check();
    }

    pub(super) fn none_serves(&self) -> Failure {
        let states = self.members().iter().map(|member| {
            member.read(|status| match status.health.why() {
                "" => format!("{:?} is {}", member.label(), status.health.as_str()),
                why => format!("{:?} is {}: {why}", member.label(), status.health.as_str()),
            })
        });
        let text = format!(
            "no token serves ({}); see: strongroom token list",
            states.collect::<Vec<_>>().join("; ")
        );
        let reason = if self
            .members()
            .iter()
            .all(|member| *member.token.subscribe().borrow() == crate::token::TokenState::PinRejected)
        {
            Reason::PinRejected
        } else {
            Reason::TokenUnavailable
        };
        Failure::new(reason, text)
    }
}

/// Whether another token may do what one failed for that reason.
pub(crate) const fn fails_over(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::InvalidArgument | Reason::AlreadyExists | Reason::PermissionDenied | Reason::SealedRequired
    )
}

/// Whether one token's word on a single EDEK is not enough.
const fn wants_opinion(reason: Reason) -> bool {
    !matches!(reason, Reason::InvalidArgument)
}

/// Of two tokens' failures the one that leaves hope, since the token that gave it may hold what the other lacks.
fn milder(before: Option<Failure>, now: Failure) -> Failure {
    match before {
        Some(before) if before.is_transient() && !now.is_transient() => before,
        _ => now,
    }
}

fn doubtful<T>(results: &Items<T>) -> Vec<usize> {
    let wanted = |(place, result): (usize, &Result<T, Failure>)| match result {
        Err(failure) if wants_opinion(failure.reason) => Some(place),
        _ => None,
    };
    results.iter().enumerate().filter_map(wanted).collect()
}

fn same_length<T>(results: Vec<T>, expected: usize) -> Result<Vec<T>, Failure> {
    if results.len() == expected {
        return Ok(results);
    }
    Err(Failure::new(
        Reason::Internal,
        format!("a token answered {} results for {expected} EDEKs", results.len()),
    ))
}
