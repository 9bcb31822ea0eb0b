//! Several instances of the key service over one store: each follows the others' changes, holds a lease, makes EDEKs only
//! while it holds one, and lets a change be answered only when all the others work with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex as StdMutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason, kms::v1 as pb};
use tokio::sync::{Mutex, watch};

use super::{
    Keys, KeysError,
    compare::Place,
    key::Key,
    lease::{InstanceId, InstanceRecord, LEASE, Observer, RENEWAL, Standing, now},
    ledger_shared::{Changed, Changes},
    records::Intent,
};
use crate::{audit::LogId, config::InstancesConfig, hsm::Hsm};

/// How long a call waits for a lease that lapsed to be renewed, and an unwrap, which would go on without.
const RENEWAL_WAIT: Duration = Duration::from_secs(3);
const UNWRAP_WAIT: Duration = Duration::from_secs(1);
/// How long a look at a key waits for what other instances recorded of its uses.
const USES_WAIT: Duration = Duration::from_secs(1);
/// How long a token may take to look for new versions, and how many are looked for. Others are found when they are used.
const LOOK_WAIT: Duration = Duration::from_secs(1);
const LOOKED_FOR_MAX: usize = 32;
/// Pause between two looks at whether the others have seen a change, and how long they are looked at. A lease lapses
/// sooner.
const SEEN_PAUSE: Duration = Duration::from_millis(40);
const SEEN_MAX: Duration = Duration::from_secs(15);
/// When an instance that says nothing is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Attempts to renew against others' changes, and to read everything between two of them.
const ATTEMPTS_MAX: u32 = 20;

/// This instance among the others.
pub(super) struct Member {
    pub(super) id: InstanceId,
    name: String,
    /// The id of this instance's audit log, once that is open.
    log: OnceLock<LogId>,
    poll: Duration,
    /// The revision that the table of keys is at.
    applied: AtomicU64,
    renewals: AtomicU64,
    standing: watch::Sender<Standing>,
    /// When this instance first held a lease.
    joined: StdMutex<Option<Duration>>,
    /// Whether it is the one that does what is due by itself.
    leads: AtomicBool,
    observer: StdMutex<Observer>,
    /// What another instance has destroyed and the token's workers may still know.
    remembered: StdMutex<BTreeSet<Place>>,
    /// Held while changes are taken in.
    gate: Mutex<()>,
}

/// Tells whether this instance holds its lease. While it does, what it knows of the keys holds: others wait until it knows that a
/// version goes before they destroy it.
#[derive(Debug, Clone)]
pub struct Lease(watch::Receiver<Standing>);

impl Lease {
    /// Whether it is held, which is waited for a little unless the store does not answer.
    pub(crate) async fn is_held_within(&self, wait: Duration) -> bool {
        let mut standing = self.0.clone();
        let settled = |standing: &Standing| standing.holds(now()) || standing.cut_off;
        _ = tokio::time::timeout(wait, standing.wait_for(settled)).await;
        self.0.borrow().holds(now())
    }
}

impl Member {
    pub(super) fn new(config: &InstancesConfig, name: String, applied: u64) -> Self {
        Self {
            id: *uuid::Uuid::new_v4().as_bytes(),
            name,
            log: OnceLock::new(),
            poll: Duration::from_millis(config.poll_ms.into()),
            applied: AtomicU64::new(applied),
            renewals: AtomicU64::new(0),
            standing: watch::Sender::default(),
            joined: StdMutex::default(),
            leads: AtomicBool::new(false),
            observer: StdMutex::default(),
            remembered: StdMutex::default(),
            gate: Mutex::default(),
        }
    }

    fn remembered(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        // Places are put in one by one, so that a panic elsewhere leaves nothing half done.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn may_make(&self) -> bool {
        self.standing.borrow().holds(now())
    }

    /// Takes in what was just read of the others; those that have not lapsed.
    pub(super) fn unlapsed(
        &self,
        records: BTreeMap<InstanceId, InstanceRecord>,
    ) -> BTreeMap<InstanceId, InstanceRecord> {
        let now = now();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.observe(&records, now);
        let unlapsed = records.into_iter().filter(|(id, _)| !observer.has_lapsed(id, now));
        unlapsed.collect()
    }

    /// How long an instance has not renewed, by what was just read of all; none if it has left.
    pub(super) fn silent_for(
        &self,
        id: &InstanceId,
        records: &BTreeMap<InstanceId, InstanceRecord>,
    ) -> Option<Duration> {
        let now = now();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.observe(records, now);
        observer.silent_for(id, now)
    }

    /// Decides who leads: of the unlapsed instances whose token is up, the one with the least id. One that has just joined
    /// waits until all others know of it.
    fn decide_leader(&self, alive: &BTreeMap<InstanceId, InstanceRecord>) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = now().saturating_sub(*joined.get_or_insert_with(now)) >= LEASE;
        let first = alive.iter().find(|(_, record)| record.ready);
        let leads = settled && first.is_some_and(|(id, _)| *id == self.id);
        self.leads.store(leads, Ordering::Relaxed);
    }

    fn long_gone(&self, records: &BTreeMap<InstanceId, InstanceRecord>) -> Vec<(InstanceId, u64)> {
        let now = now();
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = |id: &InstanceId| {
            observer
                .silent_for(id, now)
                .is_some_and(|silent| silent > FORGOTTEN_AFTER)
        };
        let gone = records.iter().filter(|(id, _)| silent(id));
        gone.map(|(id, record)| (*id, record.renewal)).collect()
    }

    /// What there is to say of each instance, the store being at `revision`.
    fn describe(&self, records: &BTreeMap<InstanceId, InstanceRecord>, revision: u64) -> Vec<pb::Instance> {
        let now = now();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.observe(records, now);
        let silent = |id: &InstanceId| observer.silent_for(id, now).unwrap_or_default();
        let describe = |(id, record): (&InstanceId, &InstanceRecord)| pb::Instance {
            id: record.log.clone().into(),
            address: record.name.clone(),
            answering: *id == self.id,
            leased: !observer.has_lapsed(id, now),
            silent_ms: u64::try_from(silent(id).as_millis()).unwrap_or(u64::MAX),
            behind: revision.saturating_sub(record.seen),
            ready: record.ready,
        };
        records.iter().map(describe).collect()
    }

    pub(super) fn lease(&self) -> Lease {
        Lease(self.standing.subscribe())
    }

    async fn renewed_within(&self, wait: Duration) -> bool {
        self.lease().is_held_within(wait).await
    }
}

impl<H: Hsm> Keys<H> {
    /// Has this instance known by the id of its audit log.
    pub(crate) fn known_by(&self, log: LogId) {
        if let Some(member) = &self.member {
            member.log.get_or_init(|| log);
        }
    }

    /// Follows the store and keeps the lease, for as long as it is polled; returns at once if the store is this
    /// process's alone.
    pub(crate) async fn follow_store(&self) {
        let Some(member) = &self.member else {
            return;
        };
        // Apart from one another: what a token is slow to settle must not cost the lease.
        tokio::join!(self.keep_lease(member), self.settle_for_others(member));
    }

    async fn keep_lease(&self, member: &Member) {
        loop {
            let outcome = self.keep_up(member).await;
            let cut_off = outcome.is_err();
            if cut_off {
                member.leads.store(false, Ordering::Relaxed);
            }
            let before = member.standing.send_if_modified(|standing| {
                let changed = standing.cut_off != cut_off;
                standing.cut_off = cut_off;
                changed
            });
            if let (Err(failure), true) = (outcome, before) {
                tracing::error!(
                    "cannot follow the other instances; nothing is made once the lease has lapsed: {failure}"
                );
            }
            tokio::time::sleep(member.poll).await;
        }
    }

    async fn keep_up(&self, member: &Member) -> Result<(), Failure> {
        let before = member.applied();
        self.catch_up(member).await?;
        let renewed = member.standing.borrow().renewed_at();
        if member.applied() == before && now().saturating_sub(renewed) < RENEWAL {
            return Ok(());
        }
        self.renew(member).await?;
        let records = self.ledger.instances().await?;
        for (id, renewal) in member.long_gone(&records) {
            self.ledger.forget(&id, renewal).await?;
        }
        member.decide_leader(&member.unlapsed(records));
        Ok(())
    }

    /// Renews the lease, with the promise that nothing older than the store's revision is relied on.
    async fn renew(&self, member: &Member) -> Result<(), KeysError> {
        for _ in 0..ATTEMPTS_MAX {
            let begun = now();
            let record = InstanceRecord {
                name: member.name.clone(),
                log: member.log.get().map(|log| log.as_bytes().to_vec()).unwrap_or_default(),
                renewal: member.renewals.fetch_add(1, Ordering::Relaxed) + 1,
                seen: member.applied(),
                ready: *self.compared.borrow(),
            };
            if self.ledger.renew(&member.id, &record).await? {
                member.standing.send_replace(Standing::renewed(begun));
                return Ok(());
            }
            self.catch_up(member).await?;
        }
        Ok(())
    }

    /// Takes in what other instances changed.
    pub(super) async fn catch_up(&self, member: &Member) -> Result<(), KeysError> {
        let _gate = member.gate.lock().await;
        let (revision, changes) = self.ledger.changes(member.applied()).await?;
        let revision = match changes {
            Changes::These(changed) => {
                for name in changed.keys.keys().chain(changed.aliases.keys()) {
                    self.note_touched(name);
                }
                self.take_in_changes(member, changed).await?;
                revision
            }
            Changes::TooMany => {
                self.note_all_touched();
                // The database may have been set back while it was away.
                self.uses.check(&self.ledger).await?;
                let (revision, keys) = self.ledger.load_at_rest().await?;
                // Whatever of the aliases is newer than the revision is told again.
                let aliases = self.ledger.aliases().await?;
                let changed = Changed {
                    keys,
                    ..Changed::default()
                };
                self.take_in_changes(member, changed).await?;
                *self.registry.aliases.write() = aliases;
                revision
            }
        };
        member.applied.store(revision, Ordering::Release);
        Ok(())
    }

    async fn take_in_changes(&self, member: &Member, changed: Changed) -> Result<(), KeysError> {
        let deleting = changed.keys.values().filter(|key| !key.deletions.is_empty());
        for key in deleting {
            self.registry.put_zones(&key.name, &self.ledger.zones(&key.name).await?);
        }
        self.take_in_keys(member, changed.keys).await;
        self.registry.change_aliases(changed.aliases);
        Ok(())
    }

    async fn take_in_keys(&self, member: &Member, keys: BTreeMap<KeyName, Key>) {
        let mut unchecked = Vec::new();
        for (name, key) in keys {
            let lost = self.put_stored(key);
            member
                .remembered()
                .extend(lost.into_iter().map(|version| (name.clone(), version)));
            if let Some(key) = self.table().get(&name) {
                unchecked.extend(key.unchecked().map(|version| (name.clone(), version)));
            }
        }
        unchecked.truncate(LOOKED_FOR_MAX);
        if !unchecked.is_empty() && *self.compared.borrow() {
            _ = tokio::time::timeout(LOOK_WAIT, self.look_for_unchecked(&unchecked)).await;
        }
    }

    /// Catches up with the store, if others write it, and answers the revision.
    pub(super) async fn synced(&self) -> Result<u64, Failure> {
        let Some(member) = &self.member else {
            return Ok(0);
        };
        self.catch_up(member).await?;
        Ok(member.applied())
    }

    /// Has the token's workers forget what they derived from versions that another instance has destroyed. What fails is
    /// tried again the next time.
    pub(super) async fn forget_destroyed(&self, member: &Member) {
        let places = std::mem::take(&mut *member.remembered());
        if places.is_empty() {
            return;
        }
        if let Err(failure) = self.hsm.look_again(&places.iter().cloned().collect::<Vec<_>>()).await {
            member.remembered().extend(places);
            tracing::warn!("the token's workers may still know versions that were destroyed: {failure}");
        }
    }

    /// The instances over the same store, and its revision; none if it is this instance's own.
    pub(crate) async fn instances(&self) -> Result<pb::ListInstancesResponse, Failure> {
        let Some(member) = &self.member else {
            return Ok(pb::ListInstancesResponse::default());
        };
        let revision = self.ledger.revision().await?;
        let records = self.ledger.instances().await?;
        let instances = member.describe(&records, revision);
        Ok(pb::ListInstancesResponse { instances, revision })
    }

    /// Whether this instance is to do what is due by itself. With several it is one of them at a time; should two take
    /// themselves for it, the store lets one of them through.
    pub(crate) fn leads(&self) -> bool {
        let leads = |member: &Member| member.may_make() && member.leads.load(Ordering::Relaxed);
        self.member.as_ref().is_none_or(leads)
    }

    /// Takes in when other instances used a key's versions, as far as they have recorded it, which they do twice a minute.
    pub(crate) async fn learn_uses(&self, name: &KeyName) {
        let cut_off = |member: &Member| member.standing.borrow().cut_off;
        if self.member.as_ref().is_none_or(cut_off) {
            return;
        }
        // It is for people to look at: without the store they see what this instance knows.
        if let Ok(Ok(uses)) = tokio::time::timeout(USES_WAIT, self.ledger.last_uses(name)).await {
            for (version, at_ms) in uses {
                self.registry.load_use(name.clone(), version, at_ms);
            }
        }
    }

    /// Every version that any instance is making. Of those that this one began others may have finished some since.
    pub(super) async fn begun(&self, own: &BTreeMap<KeyName, Intent>) -> Result<BTreeMap<KeyName, Intent>, Failure> {
        match self.member {
            Some(_) => Ok(self.ledger.intents().await?),
            None => Ok(own.clone()),
        }
    }

    /// Waits for the lease that making EDEKs and versions of keys takes.
    pub(crate) async fn wait_lease(&self) -> Result<(), Failure> {
        match &self.member {
            Some(member) if !member.may_make() && !member.renewed_within(RENEWAL_WAIT).await => Err(Failure::new(
                Reason::StoreFailed,
                "this instance of the key service has lost touch with its store, so it makes no EDEKs and no versions of keys until \
                 it has caught up; the others do. Existing EDEKs can still be opened",
            )),
            _ => Ok(()),
        }
    }

    /// Gives a lease that lapsed a moment to be renewed, which is to say that what others changed is known again. Looking
    /// and opening go on without it when the store is away.
    pub(crate) async fn try_lease(&self) {
        if let Some(member) = self.member.as_ref().filter(|member| !member.may_make()) {
            member.renewed_within(UNWRAP_WAIT).await;
        }
    }

    /// Whether what was made under a version may be handed out: that it minted was still so after it was made.
    pub(super) fn still_mints(&self, name: &KeyName, version: KeyVersion) -> bool {
        let current = || self.minting(name).is_ok_and(|(current, _)| current == version);
        self.member.as_ref().is_none_or(|member| member.may_make() && current())
    }

    /// Waits until every instance that holds a lease works with all changes up to now.
    pub(crate) async fn seen_everywhere(&self) -> Result<(), Failure> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let started = now();
        let mut target = None;
        loop {
            match self.seen_by_all(member, &mut target).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(_) if now().saturating_sub(started) < SEEN_MAX => {}
                Ok(false) => return Err(unseen("an instance keeps its lease and does not catch up")),
                Err(error) => return Err(unseen(&super::chain(&error))),
            }
            tokio::time::sleep(SEEN_PAUSE).await;
        }
    }

    async fn seen_by_all(&self, member: &Member, target: &mut Option<u64>) -> Result<bool, KeysError> {
        let target = match *target {
            Some(target) => target,
            None => *target.insert(self.ledger.revision().await?),
        };
        self.catch_up(member).await?;
        let others = member.unlapsed(self.ledger.instances().await?);
        Ok(others
            .iter()
            .all(|(id, other)| *id == member.id || other.seen >= target))
    }

    /// Gives the lease up, so that nobody waits for it. Nothing is made from here on.
    pub(crate) async fn leave(&self) {
        if let Some(member) = &self.member {
            member.standing.send_replace(Standing::default());
            let renewal = member.renewals.load(Ordering::Relaxed);
            if let Err(error) = self.ledger.forget(&member.id, renewal).await {
                tracing::warn!(%error, "the lease was not given up; it lapses by itself");
            }
        }
    }
}

fn unseen(why: &str) -> Failure {
    Failure::new(
        Reason::StoreFailed,
        format!(
            "the change was made, but it is not known whether every instance works with it ({why}); repeat the call with the same request id"
        ),
    )
}
