//! How keys change: create, roll, confirm.
//!
//! A version is made in three steps: an *intent* is stored, with the id that the token object is to get, the token
//! generates the version, and once a canary has shown that it wraps and unwraps, the version becomes the current one in
//! the same transaction that removes the intent and stores the request's answer. A crash or a lost answer in between
//! leaves an intent, which is settled when the token comes up and before the next change of that key: a version that is
//! in the token is proved and becomes current; one that is in none of all tokens is forgotten, since nobody was told that
//! it exists. While one of them cannot be looked into, the intent stays: the version may be in there. A version in the same place with another id is somebody else's: it only opens until an administrator confirms it.
//!
//! None of these futures may be dropped half way: callers run them in a task of their own.

use std::{collections::BTreeMap, time::Duration};

use strongroom_proto::{Edek, EdekSuite, Failure, KeyName, KeyVersion, Reason, RequestId, ZoneId, kms::v1 as pb};

use super::{
    Keys, KeysError,
    attributes::Attributes,
    key::{KEY_BITS, Key},
    records::Intent,
    rotation::Rotation,
};
use crate::{
    hsm::{Held, Hsm},
    token::{Kcv, TokenKeyVersion, TokenObjectId, default_suite},
};

/// Attempts to finish a version beside other instances that change its key, and the pause before the first repeat, which grows.
const FINISH_MAX: u32 = 20;
const FINISH_PAUSE: Duration = Duration::from_millis(1);

/// Intents by key, held for the length of a change.
pub(super) type Intents = BTreeMap<KeyName, Intent>;

/// A key that is to be made.
#[derive(Debug)]
pub(crate) struct NewKey {
    pub(crate) name: KeyName,
    /// The strictest that the token serves, if none is named.
    pub(crate) suite: Option<EdekSuite>,
    pub(crate) key_bits: Option<u32>,
    pub(crate) attributes: Attributes,
    pub(crate) rotation_period_ms: Option<u64>,
}

impl<H: Hsm> Keys<H> {
    /// The suite of a new key: the one named, or the strictest that the token serves.
    pub(crate) async fn choose_suite(&self, named: Option<EdekSuite>) -> Result<EdekSuite, Failure> {
        if let Some(suite) = named {
            return Ok(suite);
        }
        self.wait_ready().await?;
        default_suite(&self.hsm.suites().await?).ok_or_else(no_default_suite)
    }

    /// Makes a key with version 0.
    pub(crate) async fn create(&self, new: NewKey, suite: EdekSuite, request: RequestId) -> Result<pb::Key, Failure> {
        let name = &new.name;
        let key_bits = key_bits(suite, new.key_bits)?;
        let what = format!("create {name} {suite}");
        let mut intents = self.changing(name).await?;
        if let Some(answer) = self.answered(&request, &what).await? {
            return Ok(answer);
        }
        self.name_is_free(name)?;
        let now_ms = self.clock.now_ms();
        let key = Key {
            attributes: new.attributes,
            rotation: new
                .rotation_period_ms
                .map(|period_ms| Rotation::starting(period_ms, now_ms)),
            key_bits,
            ..Key::new(name.clone(), suite, now_ms)
        };
        self.make(&mut intents, key, request, what).await
    }

    /// Makes a new version, which mints from then on.
    pub(crate) async fn roll(&self, name: &KeyName, request: RequestId) -> Result<pb::Key, Failure> {
        let what = format!("roll {name}");
        let mut intents = self.changing(name).await?;
        if let Some(answer) = self.answered(&request, &what).await? {
            return Ok(answer);
        }
        let key = self.known(name)?;
        key.rolling()?;
        self.make(&mut intents, key, request, what).await
    }

    /// Rolls a key whose roll is due, by its age or by its uses; nothing if it is not due any more.
    pub(crate) async fn roll_due(&self, name: &KeyName) -> Result<Option<pb::Key>, Failure> {
        let mut intents = self.changing(name).await?;
        let key = self.known(name)?;
        let Some(request) = self.due_roll(&key) else {
            return Ok(None);
        };
        let what = format!("roll {name} by itself");
        if self.answered(&request, &what).await?.is_some() {
            return Ok(None);
        }
        self.make(&mut intents, key, request, what).await.map(Some)
    }

    /// Lets a key that was rebuilt from the token mint again, under the version that the administrator names.
    pub(crate) async fn confirm(&self, name: &KeyName, version: KeyVersion, kcv: Kcv) -> Result<pb::Key, Failure> {
        let _intents = self.changing(name).await?;
        self.change(name, |key| key.confirm(version, kcv)).await
    }

    /// Changes a key, if `change` says that it did.
    pub(super) async fn change(
        &self,
        name: &KeyName,
        change: impl FnOnce(&mut Key) -> Result<bool, Failure>,
    ) -> Result<pb::Key, Failure> {
        let before = self.known(name)?;
        let mut key = before.clone();
        if change(&mut key)? {
            key.revision = self.ledger.save(Some(&before), &key).await?;
            self.put(key.clone());
        }
        Ok(self.wire(&key))
    }

    /// Whether a new key or alias may have that name.
    pub(super) fn name_is_free(&self, name: &KeyName) -> Result<(), Failure> {
        if let Some(key) = self.table().get(name) {
            let way_out = if key.is_destroyed() {
                "its name stays taken after its destruction; take another".to_owned()
            } else {
                format!("make a new version of it with: strongroom key roll {name}")
            };
            return Err(Failure::new(Reason::KeyExists, format!("key {name} exists; {way_out}")));
        }
        match self.registry.aliases.read().get(name) {
            None => Ok(()),
            Some(key) => Err(Failure::new(
                Reason::KeyExists,
                format!(
                    "{name} is an alias of key {key}; take another name, or remove the alias with: strongroom key alias delete \
                     {name}"
                ),
            )),
        }
    }

    pub(super) fn known(&self, name: &KeyName) -> Result<Key, Failure> {
        self.with_key(name, |key| Ok(key.clone()))
    }

    /// Takes the right to change `name`, the token being up and nothing begun being left for it.
    pub(super) async fn changing(&self, name: &KeyName) -> Result<tokio::sync::MutexGuard<'_, Intents>, Failure> {
        self.wait_compared().await?;
        let mut intents = self.changes.lock().await;
        self.adopt(name, &mut intents).await?;
        self.settle(&mut intents, name).await?;
        Ok(intents)
    }

    /// Takes the right to change what only the store knows; the token may be away.
    pub(super) async fn changing_store(&self) -> Result<tokio::sync::MutexGuard<'_, Intents>, Failure> {
        let intents = self.changes.lock().await;
        self.synced().await?;
        Ok(intents)
    }

    /// What the same request was answered before.
    pub(super) async fn answered(&self, request: &RequestId, what: &str) -> Result<Option<pb::Key>, Failure> {
        match self.ledger.request(request).await? {
            None => Ok(None),
            Some(known) if known.what == what => Ok(known.answer),
            Some(known) => Err(Failure::new(
                Reason::InvalidArgument,
                format!(
                    "request id {request} was used for another request ({}); take a new one",
                    known.what
                ),
            )),
        }
    }

    /// Makes the next version of `key`.
    async fn make(
        &self,
        intents: &mut Intents,
        key: Key,
        request: RequestId,
        what: String,
    ) -> Result<pb::Key, Failure> {
        let revision = key.revision;
        let intent = Intent {
            key: key.name.clone(),
            version: key.next_version()?,
            suite: key.suite,
            created_ms: self.clock.now_ms(),
            request,
            what,
            key_bits: key.key_bits,
            token_id: TokenObjectId::generate(),
            new_key: key.versions.is_empty().then_some(key),
            imports: None,
            undone: false,
        };
        self.begin(intents, &intent, revision).await?;
        match self.hsm.generate(&intent.new_version()).await {
            Ok(made) => self.finish(intents, &intent, &made).await,
            Err(failure) if failure.reason == Reason::AlreadyExists => {
                self.give_way(intents, &intent).await?;
                Err(taken(&intent))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Stores what is about to be made. Whoever holds a lease before and after is not taken for gone until long after the token's
    /// next call has ended.
    pub(super) async fn begin(&self, intents: &mut Intents, intent: &Intent, revision: u64) -> Result<(), Failure> {
        self.wait_lease().await?;
        self.ledger.begin(intent, revision).await?;
        intents.insert(intent.key.clone(), intent.clone());
        self.wait_lease().await
    }

    /// Takes in a version that somebody else made in the place of `intent`'s. Attempts before this one are settled, so
    /// it is none of theirs.
    pub(super) async fn give_way(&self, intents: &mut Intents, intent: &Intent) -> Result<(), Failure> {
        self.forget(intents, &intent.key).await?;
        self.take_in_place(intents, intent).await
    }

    /// Forgets what was begun for `name`.
    async fn forget(&self, intents: &mut Intents, name: &KeyName) -> Result<(), Failure> {
        self.ledger.drop_intent(name).await?;
        intents.remove(name);
        self.note_touched(name);
        Ok(())
    }

    /// Finishes or forgets what was begun for `name`, if something was.
    pub(super) async fn settle(&self, intents: &mut Intents, name: &KeyName) -> Result<(), Failure> {
        let Some(intent) = intents.get(name).cloned() else {
            return Ok(());
        };
        let held = self.hsm.look_for(&intent.places()).await?;
        if intent.imports.is_some() {
            return self.settle_import(intents, &intent, &held).await;
        }
        if held.versions.iter().any(|found| is_of(found, &intent)) {
            tracing::warn!(key = %name, version = %intent.version, "finishing a version that was begun before");
            // The first attempt may have ended before every token had it.
            let made = self.hsm.generate(&intent.new_version()).await?;
            self.finish(intents, &intent, &made).await?;
        } else {
            looked_everywhere(&intent, &held)?;
            tracing::warn!(key = %name, version = %intent.version, "forgetting a version that never reached the token");
            self.forget(intents, name).await?;
        }
        Ok(())
    }

    /// Proves the version and makes it the current one.
    async fn finish(&self, intents: &mut Intents, intent: &Intent, made: &TokenKeyVersion) -> Result<pb::Key, Failure> {
        self.prove(intent).await?;
        let mut attempt = 0;
        loop {
            let before = self.table().get(&intent.key).cloned();
            let new = || Key::new(intent.key.clone(), intent.suite, intent.created_ms);
            let mut key = before.clone().or_else(|| intent.new_key.clone()).unwrap_or_else(new);
            key.activate(made, self.hsm.clones(), intent.created_ms);
            let answer = self.wire(&key);
            match self.ledger.complete(intent, before.as_ref(), &key, &answer).await {
                Ok(revision) => key.revision = revision,
                // Another instance may have changed something else of the key while the version was made.
                Err(KeysError::Stale { .. }) if self.member.is_some() && attempt < FINISH_MAX => {
                    attempt += 1;
                    tokio::time::sleep(FINISH_PAUSE * attempt).await;
                    self.synced().await?;
                    continue;
                }
                Err(KeysError::Lost { .. }) => return self.ended_elsewhere(intents, intent).await,
                Err(error) => return Err(error.into()),
            }
            intents.remove(&intent.key);
            self.put(key);
            return Ok(answer);
        }
    }

    /// The canary: an EDEK made under the version opens again.
    pub(super) async fn prove(&self, intent: &Intent) -> Result<(), Failure> {
        let zone = ZoneId::generate();
        let minted = self.hsm.mint(&intent.key, intent.version, &zone, 1).await?;
        let canaries: Vec<Edek> = minted
            .into_iter()
            .map(|wrapped| Edek {
                key: intent.key.clone(),
                version: intent.version,
                zone,
                suite: intent.suite,
                wrapped,
            })
            .collect();
        let opened = self.hsm.unwrap(&canaries).await?;
        match opened.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            // It may not come out here. The worker has opened another of the same batch before it handed out this one.
            Some(Err(failure)) if failure.reason == Reason::SealedRequired => Ok(()),
            Some(Err(failure)) if failure.is_transient() => Err(failure),
            _ => Err(Failure::new(
                Reason::TokenRefused,
                format!(
                    "version {} of key {} is in the token but does not open what it wrapped; remove the object \
                     strongroom:1:{}:{}@{} from the token and repeat the call",
                    intent.version, intent.key, intent.suite, intent.key, intent.version
                ),
            )),
        }
    }
}

/// The size of an EZ key. Hadoop's DEKs are as long as it; other suites have one size.
pub(super) fn key_bits(suite: EdekSuite, asked: Option<u32>) -> Result<u32, Failure> {
    match (suite, asked) {
        (_, None | Some(KEY_BITS)) => Ok(KEY_BITS),
        (EdekSuite::Hadoop, Some(bits @ (128 | 192))) => Ok(bits),
        (_, Some(bits)) => Err(Failure::new(
            Reason::InvalidArgument,
            format!("a key of suite {suite} has 256 bits (hadoop: also 128 or 192), not {bits}"),
        )),
    }
}

fn no_default_suite() -> Failure {
    Failure::new(
        Reason::TokenRefused,
        "the token serves neither suite kw nor gcm; name another with --suite, and see what it serves with: strongroom token \
         inspect",
    )
}

/// That no token was left out of the search for what was begun: only then what was not found is nowhere.
pub(super) fn looked_everywhere(intent: &Intent, held: &Held) -> Result<(), Failure> {
    if held.unseen.is_empty() {
        return Ok(());
    }
    let (key, version, tokens) = (&intent.key, intent.version, held.unseen.join(", "));
    Err(Failure::new(
        Reason::TokenUnavailable,
        format!(
            "version {version} of key {key} was begun and may be in a token that cannot be looked into now ({tokens}); bring it back, \
             or take it out of the configuration for good"
        ),
    ))
}

pub(super) fn taken(intent: &Intent) -> Failure {
    let Intent {
        key, version, suite, ..
    } = intent;
    Failure::new(
        Reason::KeyVersionUnusable,
        format!(
            "the token holds version {version} of key {key}, which this key service did not make; look at it with: strongroom \
             key show {key}; then let it mint with: strongroom key confirm {key} --version {version} --kcv KCV, or remove the object \
             strongroom:1:{suite}:{key}@{version} from the token"
        ),
    )
}

/// Whether a version is the one that `intent` asked for; an object with another id is somebody else's.
pub(super) fn is_of(found: &TokenKeyVersion, intent: &Intent) -> bool {
    let place = found.key == intent.key && found.version == intent.version;
    place && found.suite == intent.suite && found.token_id == intent.token_id
}
