//! Which key object is which key version: found by a search of the token (`survey`) or, before that has come to it, by its
//! label, then looked up without asking the token.
//!
//! After a session was opened anew, an object handle can name another object. So every version is looked for again,
//! and is used only if it still has the `CKA_ID` and the key check value that it had before.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    time::Instant,
};

use cryptoki::{
    error::Error,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason};

use super::{
    attributes,
    label::{KeyLabel, PREFIX},
    remedy::{Trouble, names_nothing, while_doing},
    suite::suite,
};
use crate::token::{Kcv, Origin, TokenKeyVersion, TokenObjectId, UnfitVersion};

/// Versions on one page of a listing: some hundred KiB.
const PAGE_VERSIONS_MAX: usize = 1000;

/// The key versions in a token.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<KeyName, BTreeMap<KeyVersion, Slot>>,
}

/// What is known of one version.
#[derive(Debug)]
enum Slot {
    /// Known from an earlier session, and not looked for in this one: the handle means nothing.
    Unseen(Entry),
    Usable(Entry),
    /// There, but its key check value is not the one that it had before: it is shown as it is and not used.
    Changed {
        before: Entry,
        now: Kcv,
        why: String,
    },
    /// There, but not to be used, and why; and what was there before, if it is not that any more.
    Refused {
        before: Option<Entry>,
        why: String,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    handle: ObjectHandle,
    id: TokenObjectId,
    suite: EdekSuite,
    label_bits: Option<u32>,
    key_bytes: usize,
    origin: Origin,
    /// The value that the version had when it was first used.
    kcv: Option<Kcv>,
    /// Whether the value was computed by way of this handle.
    proven: bool,
}

/// A version's place in listings, which go by name and version.
pub(super) type At = (KeyName, KeyVersion);

/// A page of what the token holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Usable versions with their key check values.
    pub(super) versions: Vec<TokenKeyVersion>,
    /// What claims to be a version and is not used.
    pub(super) unfit: Vec<UnfitVersion>,
    /// Where the listing stands.
    pub(super) last: Option<At>,
    /// Whether there is more to come.
    pub(super) more: bool,
}

/// What is where a new version is to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Free,
    /// An object of that version, suite and `CKA_ID`, and the size that its label says.
    Own(ObjectHandle, Option<u32>),
    /// Another object of that name and version, or one that is not fit for use.
    Taken,
}

impl Entry {
    const fn found(&self, kcv: Kcv) -> Found {
        Found {
            handle: self.handle,
            id: self.id,
            suite: self.suite,
            key_bytes: self.key_bytes,
            origin: self.origin,
            kcv,
        }
    }
}

/// A version ready for use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    pub(super) id: TokenObjectId,
    pub(super) suite: EdekSuite,
    pub(super) key_bytes: usize,
    pub(super) origin: Origin,
    pub(super) kcv: Kcv,
}

impl Index {
    /// What the next session is to know of the keys.
    pub(super) fn into_memory(self) -> Self {
        let unseen = |slot| match slot {
            // What it was is what it must be.
            Slot::Unseen(entry) | Slot::Usable(entry) | Slot::Changed { before: entry, .. } => {
                Some(Slot::Unseen(entry))
            }
            Slot::Refused { before, .. } => before.map(Slot::Unseen),
        };
        let keys = self.keys.into_iter().map(|(name, versions)| {
            let versions = versions.into_iter();
            let versions = versions.filter_map(|(version, slot)| unseen(slot).map(|slot| (version, slot)));
            (name, versions.collect())
        });
        Self { keys: keys.collect() }
    }

    /// Looks for one version by its label: it may not have been come to yet, or another process on the same token may have made
    /// or destroyed it. What `before` knows of it, or this, is held against what is found.
    pub(super) fn look_for(
        &mut self,
        session: &Session,
        name: &KeyName,
        version: KeyVersion,
        before: Option<&Self>,
    ) -> Result<(), Trouble> {
        self.look_at(session, KeyLabel::variants(name, version), (name, version), before)
    }

    /// The same of a version that is said to be of one suite and was not found yet: a fraction of the searches, each of which costs a
    /// token with many keys its time. An object of that name in another suite shows in the next search of all.
    pub(super) fn look_for_of(
        &mut self,
        session: &Session,
        name: &KeyName,
        version: KeyVersion,
        suite: EdekSuite,
    ) -> Result<(), Trouble> {
        let labels = KeyLabel::variants(name, version).filter(|label| label.suite == suite);
        self.look_at(session, labels, (name, version), None)
    }

    fn look_at(
        &mut self,
        session: &Session,
        labels: impl Iterator<Item = KeyLabel>,
        (name, version): (&KeyName, KeyVersion),
        before: Option<&Self>,
    ) -> Result<(), Trouble> {
        let mut sought = Self::default();
        for label in labels {
            for handle in labelled(session, &label)? {
                let there = sought.take_in(session, handle, before.unwrap_or(self))?;
                if !there && labelled(session, &label)?.contains(&handle) {
                    return Err(unknown_handle());
                }
            }
        }
        let versions = self.keys.entry(name.clone()).or_default();
        versions.remove(&version);
        versions.extend(sought.keys.remove(name).unwrap_or_default());
        Ok(())
    }

    /// Adds an object of the token if it is one of ours. What `before` knows of its version is held against it. Answers
    /// whether there is such an object: somebody may have destroyed it since it was found.
    pub(super) fn take_in(&mut self, session: &Session, handle: ObjectHandle, before: &Self) -> Result<bool, Trouble> {
        match read(session, handle, before) {
            Ok(Some((label, id, slot))) => {
                let known = before.known(&label);
                self.insert(label, id, slot, known);
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(error) if names_nothing(&error) => Ok(false),
            Err(error) => Err(Trouble::new("to read a key's attributes", &error)),
        }
    }

    /// Takes over the check values that `other` has learnt of the same objects.
    pub(super) fn adopt_proofs(&mut self, other: &Self) {
        for (name, versions) in &mut self.keys {
            for (version, slot) in versions {
                let known = other.keys.get(name).and_then(|versions| versions.get(version));
                if let (Slot::Usable(entry), Some(Slot::Usable(known))) = (slot, known)
                    && entry.kcv.is_none()
                    && (entry.handle, entry.id) == (known.handle, known.id)
                {
                    *entry = known.clone();
                }
            }
        }
    }

    /// Versions that `other` lacks or only remembers, and that were found here.
    pub(super) fn lacking_in(&self, other: &Self) -> Vec<At> {
        let found = self.keys.iter().flat_map(|(name, versions)| {
            let found = versions.iter().filter(|(_, slot)| !matches!(slot, Slot::Unseen(_)));
            found.map(move |(version, _)| (name.clone(), *version))
        });
        found
            .filter(|(name, version)| !other.contains(name, *version))
            .collect()
    }

    /// The version's object, proven by its key check value on its first use.
    pub(super) fn find(&mut self, session: &Session, name: &KeyName, version: KeyVersion) -> Result<Found, Trouble> {
        let slot = self.keys.get_mut(name).and_then(|versions| versions.get_mut(&version));
        match slot {
            None | Some(Slot::Unseen(_)) => Err(missing(name, version).into()),
            Some(Slot::Refused { why, .. } | Slot::Changed { why, .. }) => Err(unusable(why).into()),
            Some(slot @ Slot::Usable(_)) => prove(session, name, version, slot),
        }
    }

    /// The `CKA_ID` of every version that may be used.
    pub(super) fn usable(&self) -> HashSet<TokenObjectId> {
        let slots = self.keys.values().flat_map(BTreeMap::values);
        let ids = slots.filter_map(|slot| match slot {
            Slot::Usable(entry) => Some(entry.id),
            Slot::Unseen(_) | Slot::Changed { .. } | Slot::Refused { .. } => None,
        });
        ids.collect()
    }

    /// Whether an object of that name and version was found in the token, usable or not.
    pub(super) fn contains(&self, name: &KeyName, version: KeyVersion) -> bool {
        let slot = self.keys.get(name).and_then(|versions| versions.get(&version));
        slot.is_some_and(|slot| !matches!(slot, Slot::Unseen(_)))
    }

    /// What the token holds in the place of a new version with the `CKA_ID` `id`.
    pub(super) fn place(&self, label: &KeyLabel, id: TokenObjectId) -> Place {
        match self
            .keys
            .get(&label.name)
            .and_then(|versions| versions.get(&label.version))
        {
            None | Some(Slot::Unseen(_)) => Place::Free,
            Some(Slot::Usable(entry)) if entry.id == id && entry.suite == label.suite => {
                Place::Own(entry.handle, entry.label_bits)
            }
            Some(_) => Place::Taken,
        }
    }

    /// A page of the versions behind `after`: one in any case, and no more once `until` is past.
    pub(super) fn list(&mut self, session: &Session, after: Option<At>, until: Instant) -> Result<Listing, Trouble> {
        let mut page = Listing {
            last: after,
            ..Listing::default()
        };
        while let Some(at) = self.following(page.last.as_ref()) {
            if page.is_full(until) {
                page.more = true;
                break;
            }
            if let Err(trouble) = self.show(session, &at, &mut page) {
                // It may have been destroyed since it was found.
                self.look_for(session, &at.0, at.1, None)?;
                if self.contains(&at.0, at.1) {
                    return Err(trouble);
                }
            }
            page.last = Some(at);
        }
        Ok(page)
    }

    /// Puts what was found of a version on a page.
    pub(super) fn show(&mut self, session: &Session, at: &At, page: &mut Listing) -> Result<(), Trouble> {
        let slot = self.keys.get_mut(&at.0).and_then(|versions| versions.get_mut(&at.1));
        match slot {
            None | Some(Slot::Unseen(_)) => Ok(()),
            Some(slot) => page.add(session, at, slot),
        }
    }

    /// The place of the version behind `after`, or of the first.
    fn following(&self, after: Option<&At>) -> Option<At> {
        let names = match after {
            None => self.keys.range::<KeyName, _>(..),
            Some((name, _)) => self.keys.range(name..),
        };
        let mut slots = names.flat_map(|(name, versions)| {
            let from = match after {
                Some((last, version)) if last == name => Bound::Excluded(*version),
                _ => Bound::Unbounded,
            };
            let found = versions.range((from, Bound::Unbounded));
            found.map(move |(version, slot)| (name, *version, slot))
        });
        let (name, version, _) = slots.find(|(_, _, slot)| !matches!(slot, Slot::Unseen(_)))?;
        Some((name.clone(), version))
    }

    /// Adds a version that was just generated.
    pub(super) fn add(
        &mut self,
        label: KeyLabel,
        id: TokenObjectId,
        handle: ObjectHandle,
        key_bytes: usize,
        origin: Origin,
    ) {
        let slot = Slot::Usable(Entry {
            handle,
            id,
            suite: label.suite,
            label_bits: label.bits,
            key_bytes,
            origin,
            kcv: None,
            proven: false,
        });
        self.insert(label, id, slot, None);
    }

    /// Puts an object in its place, which has to be its alone. `known` is what was there before.
    fn insert(&mut self, label: KeyLabel, id: TokenObjectId, slot: Slot, known: Option<&Entry>) {
        let text = label.to_string();
        let refuse = |why| Slot::Refused {
            before: known.cloned(),
            why,
        };
        let versions = self.keys.entry(label.name).or_default();
        let slot = match versions.remove(&label.version) {
            None => slot,
            // To choose one would be a guess, and the wrong one would make EDEKs that nothing opens later.
            Some(Slot::Usable(other) | Slot::Changed { before: other, .. }) => refuse(format!(
                "two objects in the token are labelled {text}, with CKA_ID {} and {id}; find out which one is the \
                 key and destroy the other",
                other.id
            )),
            Some(Slot::Refused { why, .. }) => refuse(format!("{why}; another object of that label has CKA_ID {id}")),
            Some(Slot::Unseen(_)) => slot,
        };
        versions.insert(label.version, slot);
    }

    fn known(&self, label: &KeyLabel) -> Option<&Entry> {
        match self.keys.get(&label.name)?.get(&label.version)? {
            Slot::Unseen(entry) | Slot::Usable(entry) | Slot::Changed { before: entry, .. } => Some(entry),
            Slot::Refused { before, .. } => before.as_ref(),
        }
    }
}

impl Listing {
    fn is_full(&self, until: Instant) -> bool {
        self.versions.len() + self.unfit.len() >= PAGE_VERSIONS_MAX
            || !(self.versions.is_empty() && self.unfit.is_empty()) && Instant::now() >= until
    }

    /// Puts a version on the page, proven if it was not yet.
    fn add(&mut self, session: &Session, (name, version): &At, slot: &mut Slot) -> Result<(), Trouble> {
        let found = match (prove(session, name, *version, slot), &*slot) {
            (Ok(proven), _) => proven,
            // Nothing is known of it then, and it must not be taken for missing.
            (Err(Trouble::Failed(failure)), _) if failure.is_transient() => return Err(failure.into()),
            (Err(Trouble::Failed(failure)), Slot::Changed { before, now, .. }) => {
                tracing::error!(key = %name, %version, "{failure}");
                before.found(*now)
            }
            (Err(Trouble::Failed(failure)), _) => {
                tracing::error!(key = %name, %version, "left out of the token's keys: {failure}");
                self.unfit.push(UnfitVersion {
                    key: name.clone(),
                    version: *version,
                    why: failure.message,
                });
                return Ok(());
            }
            (Err(trouble), _) => return Err(trouble),
        };
        self.versions.push(TokenKeyVersion {
            key: name.clone(),
            version: *version,
            suite: found.suite,
            kcv: found.kcv,
            token_id: found.id,
            origin: found.origin,
        });
        Ok(())
    }
}

/// Every object of a version, whatever its suite and whether it is fit for use or not, with its `CKA_ID`.
pub(super) fn objects(
    session: &Session,
    name: &KeyName,
    version: KeyVersion,
) -> Result<Vec<(ObjectHandle, TokenObjectId)>, Trouble> {
    let mut objects = Vec::new();
    for label in KeyLabel::variants(name, version) {
        for handle in labelled(session, &label)? {
            let found = identify(session, handle).map_err(while_doing("to read a key's label"))?;
            objects.extend(found.map(|(_, id)| (handle, id)));
        }
    }
    Ok(objects)
}

/// Every secret key object of the token with that label.
pub(super) fn labelled(session: &Session, label: &KeyLabel) -> Result<Vec<ObjectHandle>, Trouble> {
    let search = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Label(label.to_string().into_bytes()),
    ];
    session
        .find_objects(&search)
        .map_err(while_doing("to find a key by its label"))
}

/// Whether the token holds a secret key with that `CKA_ID`, whatever its label.
pub(super) fn holds_id(session: &Session, id: TokenObjectId) -> Result<bool, Trouble> {
    let search = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    let found = session.find_objects(&search).map_err(while_doing("to find its keys"))?;
    Ok(!found.is_empty())
}

/// Label and `CKA_ID` of an object that is one of ours.
fn identify(session: &Session, handle: ObjectHandle) -> Result<Option<(KeyLabel, TokenObjectId)>, Error> {
    let mut text = None;
    let mut id = None;
    for attribute in session.get_attributes(handle, &[AttributeType::Label, AttributeType::Id])? {
        match attribute {
            Attribute::Label(bytes) => text = String::from_utf8(bytes).ok(),
            Attribute::Id(bytes) => id = Some(bytes),
            _ => {}
        }
    }
    let Some(text) = text.filter(|text| text.starts_with(PREFIX)) else {
        return Ok(None);
    };
    let id = id
        .and_then(|id| <[u8; 16]>::try_from(id).ok())
        .map(TokenObjectId::from_bytes);
    let found = KeyLabel::parse(&text).zip(id);
    if found.is_none() {
        tracing::warn!(
            label = text,
            "an object in the token has a label like a Strongroom key but is none"
        );
    }
    Ok(found)
}

/// What an object of the token is to be taken for, if it is one of ours.
fn read(
    session: &Session,
    handle: ObjectHandle,
    before: &Index,
) -> Result<Option<(KeyLabel, TokenObjectId, Slot)>, Error> {
    let Some((label, id)) = identify(session, handle)? else {
        return Ok(None);
    };
    let slot = examine(session, handle, &label, id, before)?;
    Ok(Some((label, id, slot)))
}

/// Handles that are found and name nothing are a session's that is broken: its keys must not be taken for missing.
pub(super) fn unknown_handle() -> Trouble {
    Trouble::Lost("the token finds keys by handles that it then does not know".to_owned())
}

/// Decides whether an object may serve as the version that its label says.
fn examine(
    session: &Session,
    handle: ObjectHandle,
    label: &KeyLabel,
    id: TokenObjectId,
    before: &Index,
) -> Result<Slot, Error> {
    let read = attributes::read_back(session, handle, label)?;
    if let Some(wrong) = read.wrong {
        let why = format!("{label} (CKA_ID {id}) is not used: its attribute {wrong} is not what a zone key's must be");
        let before = before.known(label).cloned();
        return Ok(Slot::Refused { before, why });
    }
    let known = before.known(label);
    if let Some(known) = known.filter(|known| known.id != id) {
        let why = format!(
            "{label} had CKA_ID {} and now has {id}: the token's keys were exchanged while it was in use",
            known.id
        );
        let before = Some(known.clone());
        return Ok(Slot::Refused { before, why });
    }
    Ok(Slot::Usable(Entry {
        handle,
        id,
        suite: label.suite,
        label_bits: label.bits,
        key_bytes: read.key_bytes,
        origin: read.origin,
        kcv: known.and_then(|known| known.kcv),
        proven: false,
    }))
}

/// Computes the key check value if this handle was not proven yet, and holds it against the one known before.
fn prove(session: &Session, name: &KeyName, version: KeyVersion, slot: &mut Slot) -> Result<Found, Trouble> {
    let entry = match slot {
        Slot::Usable(entry) => entry,
        Slot::Changed { why, .. } | Slot::Refused { why, .. } => return Err(unusable(why).into()),
        Slot::Unseen(_) => return Err(missing(name, version).into()),
    };
    if let (true, Some(kcv)) = (entry.proven, entry.kcv) {
        return Ok(entry.found(kcv));
    }
    let compute = || {
        suite(entry.suite)
            .check_value(session, entry.handle, name, version)
            .map_err(while_doing("to compute a key check value"))
    };
    let kcv = compute()?;
    // A value that is new, or not the one known, is believed only twice: a token that gives wrong answers must neither have
    // one remembered nor a sound key refused.
    if entry.kcv != Some(kcv) && compute()? != kcv {
        return Err(Trouble::Gone(format!(
            "the token gave a wrong answer: two key check values of key {name} version {version}"
        )));
    }
    match entry.kcv {
        Some(known) if known != kcv => {
            let why = format!(
                "key {name} version {version} had key check value {known} and now has {kcv}: it is not the same key"
            );
            let failure = unusable(&why);
            *slot = Slot::Changed {
                before: entry.clone(),
                now: kcv,
                why,
            };
            Err(failure.into())
        }
        _ => {
            let found = entry.found(kcv);
            entry.kcv = Some(kcv);
            entry.proven = true;
            Ok(found)
        }
    }
}

fn missing(name: &KeyName, version: KeyVersion) -> Failure {
    Failure::new(
        Reason::KeyVersionUnusable,
        format!(
            "the token holds no version {version} of key {name}; see what it holds with: strongroom key show {name}"
        ),
    )
}

fn unusable(why: &str) -> Failure {
    Failure::new(Reason::KeyVersionUnusable, why)
}
