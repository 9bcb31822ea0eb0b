//! Which tokens take part: compared when they come up and again while they run.
//!
//! A token is compared with what the key service's store expects, and where the store knows nothing (it was lost, or is
//! just being read) with the tokens that serve. Then trial EDEKs are minted and opened across tokens: that the keys are
//! equal does not show that the token works. A token whose keys or answers differ is taken out with an alarm, and comes
//! back by itself once a later check finds it mended.

use std::time::{Duration, Instant};

use strongroom_proto::{Edek, Failure, Reason, ZoneId};
use tokio::time::{sleep, timeout};

use super::{
    Fleet,
    inventory::{Inventory, Listed},
    member::{Health, Member, Status},
};
use crate::token::{Token, TokenKeyVersion, TokenState, WireDek};

/// Versions that one comparison tries with trial EDEKs, others each time.
const TRIALS: usize = 3;
/// Least pause between two comparisons, however often one is asked for.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// A comparison of thousands of keys in a slow token takes minutes. After one that took longer than this the tokens are left alone
/// for so many times as long, if all take part: operations come first.
const CHECK_LONG: Duration = Duration::from_secs(10);
const CHECK_REST: u32 = 9;
/// Differences that one alarm names.
const NAMED_MAX: usize = 8;
/// How long the token that another one is compared with may take over its part: if it hangs, it must not keep that one out.
const REFERENCE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the start waits for every token to be compared.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);

/// What a comparison came to.
enum Verdict {
    Sound(Listed),
    /// The token answers wrongly, and how.
    Wrong(String),
    /// It did not answer.
    Silent(Failure),
}

impl Fleet {
    /// Starts following the tokens, and waits until each was compared once.
    pub(super) async fn settle(&self) {
        let mut tasks = self.0.tasks.lock().await;
        for place in 0..self.members().len() {
            let fleet = self.clone();
            tasks.push(tokio::spawn(async move { fleet.follow(place).await }));
        }
        if self.members().len() > 1 {
            let fleet = self.clone();
            tasks.push(tokio::spawn(async move { fleet.compare_again_and_again().await }));
        }
        drop(tasks);
        let mut changes = self.changes();
        let settled = |member: &Member| {
            let up = *member.token.subscribe().borrow() == TokenState::Ready;
            !up || member.read(|status| matches!(status.health, Health::Serving | Health::Out(_)))
        };
        let all = changes.wait_for(|_| self.members().iter().all(settled));
        // Whoever needs longer joins later.
        _ = timeout(SETTLE_TIMEOUT, all).await;
    }

    /// Follows one token's supervisor for as long as it lives.
    async fn follow(&self, place: usize) {
        let member = &self.members()[place];
        let mut states = member.token.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                TokenState::Ready => self.admit(place).await,
                TokenState::Starting => self.away(member, "its worker is being started"),
                TokenState::Unavailable { why } => self.away(member, &why),
                TokenState::PinRejected => self.away(member, "it rejected the PIN; correct its PIN file"),
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn away(&self, member: &Member, why: &str) {
        self.set_health(member, Health::Away(why.to_owned()));
    }

    /// Lets a token take part that came up, if it is sound.
    async fn admit(&self, place: usize) {
        let member = &self.members()[place];
        if self.members().len() == 1 {
            return self.set_health(member, Health::Serving);
        }
        self.set_health(member, Health::Checking);
        self.compare_one(place).await;
        self.fill_unasked(member).await;
    }

    /// Fills up a token that was found to lack versions, where that is not left to an operator.
    async fn fill_unasked(&self, member: &Member) {
        let lacks = || member.serves() && member.read(|status| status.lacking) > 0;
        if !self.settings().auto_resync || !self.clones() || !lacks() {
            return;
        }
        match self.fill_until(member, None, None).await {
            Ok(done) if done.left.is_empty() => {
                tracing::info!(token = member.label(), cloned = done.cloned.len(), "filled up");
            }
            Ok(done) => {
                let (key, version, why) = &done.left[0];
                let left = done.left.len();
                tracing::warn!(token = member.label(), left, %key, %version, why, "not all that the token lacks could be cloned");
            }
            Err(failure) => tracing::warn!(token = member.label(), "cannot fill up the token: {failure}"),
        }
    }

    async fn compare_again_and_again(&self) {
        let mut rest = Duration::ZERO;
        loop {
            tokio::select! {
                () = sleep(self.settings().check_interval().max(rest)) => {}
                () = self.0.check_now.notified() => {}
            }
            let started = Instant::now();
            for place in 0..self.members().len() {
                let state = self.members()[place].token.subscribe().borrow().clone();
                if state == TokenState::Ready {
                    self.compare_one(place).await;
                    // What it should hold may have been learnt, or its officer's trust given, after it came up.
                    self.fill_unasked(&self.members()[place]).await;
                }
            }
            self.see_to_last_copy().await;
            // One that is out waits for the next comparison.
            let all_serve = self.members().iter().all(Member::serves);
            let took = started.elapsed();
            rest = if all_serve && took > CHECK_LONG {
                took * CHECK_REST
            } else {
                Duration::ZERO
            };
            sleep(CHECK_PAUSE).await;
        }
    }

    /// Compares one token, and lets it take part or takes it out.
    pub(super) async fn compare_one(&self, place: usize) {
        let member = &self.members()[place];
        let health = match self.judge(place).await {
            Verdict::Sound(listed) => {
                self.take_in(member, &listed);
                Health::Serving
            }
            Verdict::Wrong(why) => {
                let known = member.read(|status| matches!(&status.health, Health::Out(before) if *before == why));
                if !known {
                    self.raise(
                        member.label(),
                        format!("token {:?} is taken out: {why}", member.label()),
                    );
                }
                Health::Out(why)
            }
            // It was not shown to be wrong; that it does not answer is its supervisor's business.
            Verdict::Silent(failure) => {
                tracing::warn!(token = member.label(), "the token could not be compared: {failure}");
                match member.read(|status| status.health.clone()) {
                    Health::Checking => Health::Away(failure.message),
                    health => health,
                }
            }
        };
        // The token may have gone away meanwhile: then it is compared again when it returns.
        if *member.token.subscribe().borrow() == TokenState::Ready {
            self.set_health(member, health);
        }
    }

    async fn judge(&self, place: usize) -> Verdict {
        let member = &self.members()[place];
        let listed = match self.listed(member).await {
            Ok(listed) => listed,
            Err(failure) => return Verdict::Silent(failure),
        };
        let differing = self.differing(place, listed.found());
        if !differing.is_empty() {
            let more = if differing.len() > NAMED_MAX { " and more" } else { "" };
            let named = differing.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; ");
            return Verdict::Wrong(format!("{named}{more}"));
        }
        // What was destroyed since it was listed is not tried.
        let held = member.read(|status| status.held.after(&listed));
        match self.try_out(place, &held).await {
            Ok(()) => Verdict::Sound(listed),
            Err(failure) if says_nothing(&failure) => Verdict::Silent(failure),
            Err(failure) => Verdict::Wrong(failure.message),
        }
    }

    /// Versions whose check value is not the expected one, in words.
    fn differing(&self, place: usize, held: &Inventory) -> Vec<String> {
        let expected = |held: &TokenKeyVersion| {
            self.expected(|expected| expected.get(&held.key, held.version))
                .or_else(|| {
                    let others = self
                        .members()
                        .iter()
                        .enumerate()
                        .filter(|(other, member)| *other != place && member.serves());
                    let mut values = others.filter_map(|(_, member)| {
                        member.read(|status| status.held.get(&held.key, held.version).map(|other| other.kcv))
                    });
                    values.next()
                })
        };
        let differing = held.iter().filter_map(|held| {
            let kcv = expected(held).filter(|kcv| *kcv != held.kcv)?;
            Some(format!(
                "its version {} of key {} has key check value {} and not {kcv}: it is another key",
                held.version, held.key, held.kcv
            ))
        });
        let mut differing: Vec<_> = differing.collect();
        differing.sort();
        differing
    }

    /// Mints and opens trial EDEKs, across tokens where another one serves.
    async fn try_out(&self, place: usize, held: &Inventory) -> Result<(), Failure> {
        let (count, start) = (held.len(), self.next_turn());
        let mut versions: Vec<_> = held.iter().collect();
        versions.sort_by(|a, b| (&a.key, a.version).cmp(&(&b.key, b.version)));
        for trial in 0..TRIALS.min(count) {
            let version = versions[(start + trial) % count];
            let own = &self.members()[place];
            let others = self.members().iter().enumerate();
            let other = others
                .filter(|(other, member)| *other != place && member.serves())
                .find(|(_, member)| member.read(|status| status.held.has(&version.key, version.version)))
                .map(|(_, member)| member);
            let tried = try_version(&own.token, other.map(|other| &other.token), version).await;
            if let Err(failure) = tried
                && (says_nothing(&failure) || !self.is_gone(version, own, other).await?)
            {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Whether a token that is tried, or the one that it is held against, does not hold a version any more: another instance may have
    /// destroyed it since it was listed, and that an EDEK does not open there says nothing of the token then.
    async fn is_gone(&self, version: &TokenKeyVersion, own: &Member, other: Option<&Member>) -> Result<bool, Failure> {
        if self.has_lost(own, version).await? {
            return Ok(true);
        }
        let Some(other) = other else { return Ok(false) };
        // The other one's troubles do not keep this one in.
        let looked = timeout(REFERENCE_TIMEOUT, self.has_lost(other, version)).await;
        Ok(matches!(looked, Ok(Ok(true))))
    }

    /// Whether there is nothing in the place of a version in a token now.
    async fn has_lost(&self, member: &Member, version: &TokenKeyVersion) -> Result<bool, Failure> {
        let place = [(version.key.clone(), version.version)];
        let asked = Instant::now();
        let found = member.token.look_for(&place).await?;
        let unfit = self.take_in_places(member, &place, &found, asked).count();
        Ok(found.versions.is_empty() && unfit == 0)
    }

    fn set_health(&self, member: &Member, health: Health) {
        let changed = member.change(|status: &mut Status| {
            let changed = status.health != health;
            if changed {
                tracing::info!(token = member.label(), "the token is {}", health.as_str());
            }
            status.health = health;
            changed
        });
        if !changed {
            return;
        }
        let state = self.state();
        // Also without another state: whoever compares the keys must look again when a token joins or leaves.
        self.0.state.send_replace(state);
    }

    /// The state of all tokens together.
    fn state(&self) -> TokenState {
        if self.members().iter().any(Member::serves) {
            return TokenState::Ready;
        }
        if let [single] = self.members() {
            return single.token.subscribe().borrow().clone();
        }
        let states: Vec<_> = self
            .members()
            .iter()
            .map(|member| member.token.subscribe().borrow().clone())
            .collect();
        if states.iter().all(|state| *state == TokenState::PinRejected) {
            TokenState::PinRejected
        } else if states.contains(&TokenState::Starting) {
            TokenState::Starting
        } else {
            TokenState::Unavailable {
                why: self.none_serves().message,
            }
        }
    }
}

/// Whether a trial that failed so is no evidence against the token.
const fn says_nothing(failure: &Failure) -> bool {
    failure.is_transient() || matches!(failure.reason, Reason::PinRejected)
}

/// An EDEK made by one token opens in the other, to the same DEK, and the other way round.
pub(super) async fn try_version(own: &Token, other: Option<&Token>, version: &TokenKeyVersion) -> Result<(), Failure> {
    let mine = mint_one(own, version).await?;
    let opened = open_one(own, &mine).await?;
    let Some(other) = other else { return Ok(()) };
    // The other one's troubles are not this one's.
    let Ok(Ok((theirs, reference))) = timeout(REFERENCE_TIMEOUT, mint_and_open(other, version)).await else {
        return Ok(());
    };
    let crossed = open_one(own, &theirs).await?;
    let back = open_one(other, &mine).await.map_err(|failure| {
        let reason = if failure.is_transient() {
            failure.reason
        } else {
            Reason::TokenRefused
        };
        Failure::new(
            reason,
            format!("token {:?} does not open what it minted: {failure}", other.label()),
        )
    })?;
    if crossed == reference && back == opened {
        return Ok(());
    }
    Err(Failure::new(
        Reason::TokenRefused,
        format!(
            "an EDEK of version {} of key {} opens to another DEK than in token {:?}",
            version.version,
            version.key,
            other.label()
        ),
    ))
}

async fn mint_and_open(token: &Token, version: &TokenKeyVersion) -> Result<(Edek, bytes::Bytes), Failure> {
    let minted = mint_one(token, version).await?;
    let opened = open_one(token, &minted).await?;
    Ok((minted, opened))
}

async fn mint_one(token: &Token, version: &TokenKeyVersion) -> Result<Edek, Failure> {
    let zone = ZoneId::generate();
    let mut minted = token.mint(&version.key, version.version, &zone, 1).await?;
    Ok(Edek {
        key: version.key.clone(),
        version: version.version,
        zone,
        suite: version.suite,
        wrapped: minted.pop().unwrap_or_default(),
    })
}

async fn open_one(token: &Token, edek: &Edek) -> Result<bytes::Bytes, Failure> {
    let opened = token.unwrap(std::slice::from_ref(edek)).await?;
    opened.into_iter().next().map_or_else(
        || Err(Failure::new(Reason::Internal, "a token answered a call with nothing")),
        |result| result.map(WireDek::into_wire),
    )
}
