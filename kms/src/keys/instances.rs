//! Several instances of the key service over one store: each follows the others' changes, holds a lease, makes EDEKs only
//! while it holds one, and lets a change be answered only when all the others work with it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex as StdMutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::sync::{Mutex, watch};

use super::{
    Keys, KeysError,
    key::Key,
    lease::{InstanceId, InstanceRecord, Observer, RENEWAL, Standing, now},
    ledger_shared::Changes,
    records::Intent,
};
use crate::{config::InstancesConfig, hsm::Hsm};

/// How long a call waits for a lease that lapsed to be renewed, and an unwrap, which would go on without.
const RENEWAL_WAIT: Duration = Duration::from_secs(3);
const UNWRAP_WAIT: Duration = Duration::from_secs(1);
/// How long a token may take to look for new versions.
const LIST_WAIT: Duration = Duration::from_secs(1);
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
    poll: Duration,
    /// The revision that the table of keys is at.
    applied: AtomicU64,
    renewals: AtomicU64,
    standing: watch::Sender<Standing>,
    observer: StdMutex<Observer>,
    /// Held while changes are taken in.
    gate: Mutex<()>,
}

impl Member {
    pub(super) fn new(config: &InstancesConfig, name: String, applied: u64) -> Self {
        Self {
            id: *uuid::Uuid::new_v4().as_bytes(),
            name,
            poll: Duration::from_millis(config.poll_ms.into()),
            applied: AtomicU64::new(applied),
            renewals: AtomicU64::new(0),
            standing: watch::Sender::default(),
            observer: StdMutex::default(),
            gate: Mutex::default(),
        }
    }

    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn may_make(&self) -> bool {
        self.standing.borrow().holds(now())
    }

    /// Takes in what was just read of the others; those that have not lapsed.
    fn unlapsed(&self, records: BTreeMap<InstanceId, InstanceRecord>) -> BTreeMap<InstanceId, InstanceRecord> {
        let now = now();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.observe(&records, now);
        let unlapsed = records.into_iter().filter(|(id, _)| !observer.has_lapsed(id, now));
        unlapsed.collect()
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

    async fn renewed_within(&self, wait: Duration) -> bool {
        let mut standing = self.standing.subscribe();
        let settled = |standing: &Standing| standing.holds(now()) || standing.cut_off;
        _ = tokio::time::timeout(wait, standing.wait_for(settled)).await;
        self.may_make()
    }
}

impl<H: Hsm> Keys<H> {
    /// Follows the store and keeps the lease, for as long as it is polled; returns at once if the store is this
    /// process's alone.
    pub(crate) async fn follow_store(&self) {
        let Some(member) = &self.member else {
            return;
        };
        loop {
            let outcome = self.keep_up(member).await;
            let cut_off = outcome.is_err();
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
        let alive = member.unlapsed(records);
        self.finish_for_others(member, &alive).await;
        Ok(())
    }

    /// Renews the lease, with the promise that nothing older than the store's revision is relied on.
    async fn renew(&self, member: &Member) -> Result<(), KeysError> {
        for _ in 0..ATTEMPTS_MAX {
            let begun = now();
            let record = InstanceRecord {
                name: member.name.clone(),
                renewal: member.renewals.fetch_add(1, Ordering::Relaxed) + 1,
                seen: member.applied(),
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
    async fn catch_up(&self, member: &Member) -> Result<(), KeysError> {
        let _gate = member.gate.lock().await;
        let (revision, changes) = self.ledger.changes(member.applied()).await?;
        let revision = match changes {
            Changes::Keys(keys) => {
                self.take_over_keys(keys).await;
                revision
            }
            Changes::TooMany => {
                let (revision, keys) = self.ledger.load_at_rest().await?;
                self.take_over_keys(keys).await;
                revision
            }
        };
        member.applied.store(revision, Ordering::Release);
        Ok(())
    }

    async fn take_over_keys(&self, keys: BTreeMap<KeyName, Key>) {
        let mut unknown = false;
        for mut key in keys.into_values() {
            if let Some(known) = self.table().get(&key.name) {
                key.keep_presence(known);
            }
            unknown |= key.has_unchecked();
            self.put(key);
        }
        if unknown && *self.compared.borrow() {
            // The token's worker searches it when it lists, and finds what another made there.
            _ = tokio::time::timeout(LIST_WAIT, self.hsm.list_versions()).await;
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

    /// Makes sure that nobody else is making a version of `name`. What was left by an instance whose lease lapsed comes
    /// into `intents`.
    pub(super) async fn adopt(&self, name: &KeyName, intents: &mut BTreeMap<KeyName, Intent>) -> Result<(), Failure> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        self.catch_up(member).await?;
        match self.ledger.claimed(name).await? {
            None => _ = intents.remove(name),
            Some((owner, intent)) => {
                if owner != member.id {
                    let alive = member.unlapsed(self.ledger.instances().await?);
                    if alive.contains_key(&owner) {
                        return Err(KeysError::Claimed { key: name.clone() }.into());
                    }
                    self.ledger.take_over(name, &owner).await?;
                    tracing::warn!(key = %name, "taking over a version that a lapsed instance began");
                }
                intents.insert(name.clone(), intent);
            }
        }
        Ok(())
    }

    /// Settles what instances began that are not there any more.
    async fn finish_for_others(&self, member: &Member, alive: &BTreeMap<InstanceId, InstanceRecord>) {
        let claims = self.ledger.claims().await.unwrap_or_default();
        let left = claims
            .into_iter()
            .filter(|(_, owner)| *owner != member.id && !alive.contains_key(owner));
        for (name, _) in left {
            if !*self.compared.borrow() {
                return;
            }
            if let Err(failure) = self.changing(&name).await {
                tracing::warn!(key = %name, "cannot settle what a lapsed instance began: {failure}");
            }
        }
    }

    /// Every version that any instance is making.
    pub(super) async fn begun(&self, own: &BTreeMap<KeyName, Intent>) -> Result<BTreeMap<KeyName, Intent>, Failure> {
        let mut begun = own.clone();
        if self.member.is_some() {
            begun.extend(self.ledger.intents().await?);
        }
        Ok(begun)
    }

    /// Waits for the lease that making EDEKs takes.
    pub(super) async fn wait_lease(&self) -> Result<(), Failure> {
        match &self.member {
            Some(member) if !member.may_make() && !member.renewed_within(RENEWAL_WAIT).await => Err(Failure::new(
                Reason::StoreFailed,
                "this instance of the key service has lost touch with its store, so it makes no EDEKs until it has caught up; \
                 the others do. Existing EDEKs can still be opened",
            )),
            _ => Ok(()),
        }
    }

    /// Gives a lease that lapsed a moment to be renewed. Opening goes on without it when the store is away.
    pub(super) async fn try_lease(&self) {
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
