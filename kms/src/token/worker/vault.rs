//! An open, logged-in session with what is cached in it, and whole calls against it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use cryptoki::{
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session,
};
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};
use zeroize::Zeroizing;

use super::{
    attributes::{self, Extraction},
    audit_key,
    canary::{self, Reference},
    clone,
    dek::Dek,
    derived::DerivedKeys,
    import,
    index::{self, At, Found, Index, Listing, Place},
    label::KeyLabel,
    object::SessionObject,
    remedy::{Refusal, Trouble, while_doing},
    suite::{OpenError, Spot, ZoneKey, suite},
    survey::Survey,
    transport::TransportKeys,
    trial::Abilities,
};
use crate::token::{ClonePublicKey, ImportKey, NewVersion, Origin, TokenKeyVersion, TokenObjectId, WrappedClone};

/// How long a new session searches the token before it serves. What it has not come to by then is found by its label.
const FIRST_SLICE: Duration = Duration::from_millis(500);
/// How long a page of a listing keeps others from the token.
const SLICE: Duration = Duration::from_millis(100);

/// One EDEK to unwrap.
pub(super) struct UnwrapItem {
    pub(super) name: KeyName,
    pub(super) version: KeyVersion,
    pub(super) zone: ZoneId,
    pub(super) wrapped: bytes::Bytes,
}

/// One EDEK to re-wrap.
pub(super) struct RewrapItem {
    pub(super) from: KeyVersion,
    pub(super) wrapped: bytes::Bytes,
}

/// Results of a batch, in its order.
pub(super) type Items = Vec<Result<Zeroizing<Vec<u8>>, Failure>>;

/// The session and its caches.
pub(super) struct Vault {
    pub(super) session: Session,
    abilities: Abilities,
    index: Index,
    /// The search for all keys that is under way.
    survey: Option<Survey>,
    derived: DerivedKeys,
    /// EDEKs of the worker's own making, by the object that wrapped them, for suites that count uses.
    references: HashMap<TokenObjectId, Reference>,
    pub(super) transport: TransportKeys,
    /// The token's audit key, once it was needed.
    pub(super) audit: Option<audit_key::Found>,
}

/// What outlives a session.
#[derive(Default)]
pub(super) struct Memory {
    /// What was known of the keys, to hold the next session's findings against.
    index: Index,
    abilities: Option<Abilities>,
}

impl Vault {
    /// Takes a logged-in session, finds the token's keys and, the first time, tries what it `offers`.
    pub(super) fn new(session: Session, before: Memory, offered: &[MechanismType]) -> Result<Self, Trouble> {
        let abilities = match before.abilities {
            Some(abilities) => abilities,
            None => Abilities::try_out(&session, offered)?,
        };
        let survey = Survey::begin(&session)?;
        let mut vault = Self {
            session,
            abilities,
            index: before.index,
            survey: Some(survey),
            derived: DerivedKeys::default(),
            references: HashMap::new(),
            transport: TransportKeys::default(),
            audit: None,
        };
        vault.search(Instant::now() + FIRST_SLICE)?;
        Ok(vault)
    }

    /// Closes the session and keeps what the next one needs.
    pub(super) fn close(self) -> Memory {
        Memory {
            index: self.index.into_memory(),
            abilities: Some(self.abilities),
        }
    }

    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// What the token was seen to do.
    pub(super) const fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// A page of the token's versions, those behind `after`; the first page of a listing begins a search of the token. While
    /// that is under way a page has none.
    pub(super) fn list(&mut self, anew: bool, after: Option<At>) -> Result<Listing, Trouble> {
        let until = Instant::now() + SLICE;
        if anew {
            self.survey = Some(Survey::begin(&self.session)?);
        }
        if self.search(until)? {
            return self.index.list(&self.session, after, until);
        }
        Ok(Listing {
            last: after,
            more: true,
            ..Listing::default()
        })
    }

    /// What the token holds in some places, one at least and no more once a moment is past, and in how many of them it was
    /// looked for.
    /// They may be known to be of one suite.
    pub(super) fn look_for_all(
        &mut self,
        places: &[At],
        suite: Option<EdekSuite>,
    ) -> Result<(Listing, usize), Trouble> {
        let until = Instant::now() + SLICE;
        let (mut listing, mut looked, mut gone) = (Listing::default(), 0, false);
        for at in places {
            match suite.filter(|_| !self.index.contains(&at.0, at.1)) {
                Some(suite) => self.look_for_of(&at.0, at.1, suite)?,
                None => self.look_for(&at.0, at.1)?,
            }
            self.index.show(&self.session, at, &mut listing)?;
            gone |= !self.index.contains(&at.0, at.1);
            looked += 1;
            if Instant::now() >= until {
                break;
            }
        }
        if gone {
            self.forget_unusable();
        }
        Ok((listing, looked))
    }

    /// Generates a version, and answers only once its attributes are read back and its canary has sung.
    pub(super) fn generate(&mut self, new: &NewVersion, clonable: bool) -> Result<TokenKeyVersion, Trouble> {
        self.abilities.check_asked(new)?;
        let label = KeyLabel::of(new);
        match self.place(&label, new.id)? {
            Place::Taken => Err(exists(&label).into()),
            // What an earlier attempt left. It stays whatever comes out here: its first maker may have been believed.
            Place::Own(handle, bits) => self.prove(handle, new.id, &KeyLabel { bits, ..label }),
            Place::Free => {
                let extraction = Extraction::of(clonable);
                let template = attributes::template(suite(new.suite), &label, new.id, new.key_bits, extraction);
                let handle = self
                    .session
                    .generate_key(&Mechanism::AesKeyGen, &template)
                    .map_err(while_doing("to generate a key"))?;
                // Destroyed again unless it is proven.
                let object = SessionObject::new(&self.session, handle);
                let made = self.prove(handle, new.id, &label)?;
                let handle = object.keep();
                self.index
                    .add(label, new.id, handle, new.key_bits as usize / 8, made.origin);
                Ok(made)
            }
        }
    }

    /// Reads the attributes of a version's object back and tries it.
    fn prove(&self, handle: ObjectHandle, id: TokenObjectId, label: &KeyLabel) -> Result<TokenKeyVersion, Trouble> {
        let (key_bytes, origin) = self.check_attributes(handle, label)?;
        let kcv = suite(label.suite)
            .check_value(&self.session, handle, &label.name, label.version)
            .map_err(while_doing("to compute a key check value"))?;
        self.check_canary(
            label,
            &Spot {
                name: &label.name,
                version: label.version,
                zone: &ZoneId::generate(),
                suite: label.suite,
                base: handle,
                id,
                kcv,
                key_bytes,
            },
        )?;
        Ok(TokenKeyVersion {
            key: label.name.clone(),
            version: label.version,
            suite: label.suite,
            kcv,
            token_id: id,
            origin,
        })
    }

    /// The key to wrap EZ keys to that are to be brought in.
    pub(super) fn import_key(&mut self, renew: bool) -> Result<ImportKey, Trouble> {
        import::import_key(&self.session, &self.abilities, renew)
    }

    /// Brings in a version that was wrapped to the import key, and answers only once it is proven as a generated one is. A
    /// repeat finds what the first attempt made.
    pub(super) fn import(
        &mut self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: &[u8],
        clonable: bool,
    ) -> Result<TokenKeyVersion, Trouble> {
        self.abilities.check_asked(new)?;
        let label = KeyLabel::of(new).unwrapped(new.key_bits);
        match self.place(&label, new.id)? {
            Place::Taken => Err(exists(&label).into()),
            Place::Own(handle, bits) => self.prove(handle, new.id, &KeyLabel { bits, ..label }),
            Place::Free => {
                let template = attributes::unwrap_template(&label, new.id, Extraction::of(clonable));
                let object = import::unwrap(&self.session, &self.abilities, import_key, wrapped, &template)?;
                self.check_size(object.handle(), new)?;
                let made = self.prove(object.handle(), new.id, &label)?;
                let handle = object.keep();
                self.index
                    .add(label, new.id, handle, new.key_bits as usize / 8, made.origin);
                Ok(made)
            }
        }
    }

    /// Sees that a key that was brought in has the size that was said, if the token tells it.
    fn check_size(&self, handle: ObjectHandle, new: &NewVersion) -> Result<(), Trouble> {
        let found = self.session.get_attributes(handle, &[AttributeType::ValueLen]);
        let found = found.map_err(while_doing("to read a key's attributes"))?;
        match found.first() {
            Some(Attribute::ValueLen(bytes)) if **bytes != 0 && **bytes * 8 != u64::from(new.key_bits) => {
                Err(import::another_size(new.key_bits).into())
            }
            _ => Ok(()),
        }
    }

    /// The key under which other tokens wrap clones for this one.
    pub(super) fn clone_key(&mut self) -> Result<ClonePublicKey, Trouble> {
        clone::own_key(&self.session)
    }

    /// Tries whether this token can send clones to the one whose clone key `destination` is.
    pub(super) fn try_clone(&mut self, destination: &ClonePublicKey) -> Result<(), Trouble> {
        clone::try_export(&self.session, destination)
    }

    /// A version, wrapped for another token and not signed yet.
    pub(super) fn export_clone(
        &mut self,
        version: &TokenKeyVersion,
        destination: &ClonePublicKey,
    ) -> Result<WrappedClone, Trouble> {
        let found = self.find(&version.key, version.version)?;
        // What the worker vouches for must be what it wraps.
        if (found.id, found.suite, found.kcv) != (version.token_id, version.suite, version.kcv) {
            return Err(clone::another(version));
        }
        let wrapped = clone::export(&self.session, found.handle, destination)?.into();
        // No suite has keys of more than 256 bits.
        let key_bits = u32::try_from(found.key_bytes * 8).unwrap_or(u32::MAX);
        Ok(WrappedClone {
            wrapped,
            key_bits,
            signature: None,
        })
    }

    /// Takes in a clone from another token, and answers only once it is proven to be the same key.
    pub(super) fn import_clone(
        &mut self,
        version: &TokenKeyVersion,
        own: &ClonePublicKey,
        clone: &WrappedClone,
    ) -> Result<TokenKeyVersion, Trouble> {
        let label = KeyLabel {
            suite: version.suite,
            name: version.key.clone(),
            version: version.version,
            bits: None,
        };
        let label = label.unwrapped(clone.key_bits);
        match self.place(&label, version.token_id)? {
            Place::Taken => Err(exists(&label).into()),
            Place::Own(handle, bits) => self.prove(handle, version.token_id, &KeyLabel { bits, ..label }),
            Place::Free => {
                let template = attributes::unwrap_template(&label, version.token_id, Extraction::UnderTrusted);
                let object = clone::import(&self.session, &clone.wrapped, own, &template)?;
                let copy = self.prove(object.handle(), version.token_id, &label)?;
                if copy.kcv != version.kcv {
                    return Err(clone::unequal(version, &copy));
                }
                let handle = object.keep();
                self.index.add(
                    label,
                    version.token_id,
                    handle,
                    clone.key_bits as usize / 8,
                    copy.origin,
                );
                Ok(copy)
            }
        }
    }

    /// Destroys a version's object, if it has that `CKA_ID`, and sees that the token shows it no more. One that is gone already
    /// is no failure: a repeat finds it so.
    pub(super) fn destroy(&mut self, name: &KeyName, version: KeyVersion, id: TokenObjectId) -> Result<(), Trouble> {
        let objects = index::objects(&self.session, name, version)?;
        if let Some((_, other)) = objects.iter().find(|(_, found)| *found != id) {
            return Err(another(name, version, id, *other).into());
        }
        for (handle, _) in objects {
            self.session
                .destroy_object(handle)
                .map_err(while_doing("to destroy a key"))?;
        }
        self.look_for(name, version)?;
        self.forget_unusable();
        let held = index::holds_id(&self.session, id)?;
        if held || self.index.contains(name, version) {
            return Err(refused(format!(
                "the token still holds version {version} of key {name} after it was destroyed"
            )));
        }
        Ok(())
    }

    /// EDEKs of fresh DEKs, handed out only once one more that was minted with them has been opened again.
    pub(super) fn mint(
        &mut self,
        name: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<bytes::Bytes>, Trouble> {
        let spot = self.spot(name, version, zone)?;
        let key = self.zone_key(&spot)?;
        let minted = canary::mint(&self.session, &spot, &key, count).map_err(faulty("to mint an EDEK"))?;
        Ok(minted.into_iter().map(bytes::Bytes::from).collect())
    }

    /// EDEKs of the same DEKs under version `to`, each seen to hold its DEK.
    pub(super) fn rewrap(
        &mut self,
        name: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: &[RewrapItem],
    ) -> Result<Items, Trouble> {
        let mut proven = Proven::default();
        let done = items
            .iter()
            .map(|item| settle(self.rewrap_one(name, to, zone, item, &mut proven)))
            .collect::<Result<Items, _>>()?;
        let spot = self.spot(name, to, zone)?;
        let key = self.zone_key(&spot)?;
        canary::check(&self.session, &spot, &key).map_err(faulty("to open an EDEK of its own"))?;
        Ok(done)
    }

    /// The DEKs of EDEKs.
    pub(super) fn unwrap(&mut self, items: &[UnwrapItem]) -> Result<Items, Trouble> {
        let mut proven = Proven::default();
        items
            .iter()
            .map(|item| settle(self.unwrap_one(item, &mut proven)))
            .collect()
    }

    fn rewrap_one(
        &mut self,
        name: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        item: &RewrapItem,
        proven: &mut Proven,
    ) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let spot = self.spot(name, item.from, zone)?;
        let suite = suite(spot.suite);
        if !suite.has_length(item.wrapped.len()) {
            return Err(edek_invalid(&spot).into());
        }
        let to_spot = self.spot(name, to, zone)?;
        if to_spot.suite != spot.suite {
            return Err(mixed(name, item.from, to).into());
        }
        // The second cannot push out the first: only the key unused for longest makes room.
        let to = self.zone_key(&to_spot)?;
        let from = self.zone_key(&spot)?;
        let again = |session: &Session| suite.rewrap(session, &from, &to, &item.wrapped);
        self.opened(&spot, &from, proven, again).map(Zeroizing::new)
    }

    pub(super) fn unwrap_one(&mut self, item: &UnwrapItem, proven: &mut Proven) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let spot = self.spot(&item.name, item.version, &item.zone)?;
        let suite = suite(spot.suite);
        if !suite.has_length(item.wrapped.len()) {
            return Err(edek_invalid(&spot).into());
        }
        let key = self.zone_key(&spot)?;
        let open = |session: &Session| suite.open(session, &key, &item.wrapped);
        self.opened(&spot, &key, proven, open).map(Dek::into_wire)
    }

    /// Opens an EDEK. It is blamed only if it is refused again after the key has opened one of its own making: tokens
    /// answer a wrong EDEK with all sorts of codes, and a failing token does too. A batch asks each key for that proof
    /// once.
    pub(super) fn opened<T>(
        &mut self,
        spot: &Spot<'_>,
        key: &ZoneKey,
        proven: &mut Proven,
        open: impl Fn(&Session) -> Result<T, OpenError>,
    ) -> Result<T, Trouble> {
        let first = match open(&self.session) {
            Err(error @ (OpenError::Refused(_) | OpenError::Unsound)) => error,
            other => return other.map_err(faulty("to open an EDEK")),
        };
        if let OpenError::Refused(error) = &first
            && let Refusal::Trouble(trouble) = Refusal::of(error)
        {
            return Err(trouble);
        }
        if !proven.0.contains(&(spot.id, *spot.zone)) {
            self.prove_key(spot, key)
                .map_err(faulty("to open an EDEK of its own"))?;
            proven.0.insert((spot.id, *spot.zone));
        }
        match open(&self.session) {
            Err(OpenError::Refused(_) | OpenError::Unsound) => Err(edek_invalid(spot).into()),
            other => other.map_err(faulty("to open an EDEK")),
        }
    }

    /// Sees that a key opens what it wrapped. Where uses are counted that is one EDEK for the whole session, or else whoever
    /// sends bad EDEKs would wear the key out.
    fn prove_key(&mut self, spot: &Spot<'_>, key: &ZoneKey) -> Result<(), OpenError> {
        if !suite(spot.suite).counts_uses() {
            return canary::check(&self.session, spot, key);
        }
        match self.references.get(&spot.id) {
            Some(reference) => canary::reopen(&self.session, spot, reference),
            None => {
                let reference = canary::reference(&self.session, spot)?;
                self.references.insert(spot.id, reference);
                Ok(())
            }
        }
    }

    pub(super) fn zone_key(&mut self, spot: &Spot<'_>) -> Result<ZoneKey, Trouble> {
        suite(spot.suite)
            .zone_key(&self.session, &mut self.derived, spot)
            .map_err(while_doing("to derive a wrapping key"))
    }

    /// A version's object and suite, to be used for `zone`.
    pub(super) fn spot<'a>(
        &mut self,
        name: &'a KeyName,
        version: KeyVersion,
        zone: &'a ZoneId,
    ) -> Result<Spot<'a>, Trouble> {
        let found = self.find(name, version)?;
        Ok(Spot {
            name,
            version,
            zone,
            suite: found.suite,
            base: found.handle,
            id: found.id,
            kcv: found.kcv,
            key_bytes: found.key_bytes,
        })
    }

    fn find(&mut self, name: &KeyName, version: KeyVersion) -> Result<Found, Trouble> {
        // The key service asks for versions that were made; this one by another process, since the last search.
        if !self.index.contains(name, version) {
            self.look_for(name, version)?;
        }
        self.index.find(&self.session, name, version)
    }

    /// What the token holds in the place of a new version. A look for the labels of one suite costs a fraction of one for all
    /// where there are many keys, and a free place is the rule.
    fn place(&mut self, label: &KeyLabel, id: TokenObjectId) -> Result<Place, Trouble> {
        let mut found = self.survey.is_some() || !matches!(self.index.place(label, id), Place::Free);
        for label in KeyLabel::variants(&label.name, label.version).filter(|variant| variant.suite == label.suite) {
            found |= !index::labelled(&self.session, &label)?.is_empty();
        }
        if found {
            self.look_for(&label.name, label.version)?;
        }
        Ok(self.index.place(label, id))
    }

    /// Goes on with the search for all keys, if one is under way, and says whether it is done.
    fn search(&mut self, until: Instant) -> Result<bool, Trouble> {
        let Some(survey) = &mut self.survey else {
            return Ok(true);
        };
        if !survey.go_on(&self.session, &self.index, until)? {
            return Ok(false);
        }
        if let Some(survey) = self.survey.take() {
            self.index = survey.end(&self.index);
        }
        self.forget_unusable();
        Ok(true)
    }

    /// Looks for one version by its label, and has a search that is under way look for it once more: it may be about to change.
    fn look_for(&mut self, name: &KeyName, version: KeyVersion) -> Result<(), Trouble> {
        self.touch(name, version);
        self.index.look_for(&self.session, name, version, None)
    }

    fn look_for_of(&mut self, name: &KeyName, version: KeyVersion, suite: EdekSuite) -> Result<(), Trouble> {
        self.touch(name, version);
        self.index.look_for_of(&self.session, name, version, suite)
    }

    fn touch(&mut self, name: &KeyName, version: KeyVersion) {
        if let Some(survey) = &mut self.survey {
            survey.touch(name, version);
        }
    }

    /// Forgets what was made with versions that are gone, or fit for use no more.
    fn forget_unusable(&mut self) {
        let usable = self.index.usable();
        self.derived.keep_of(&self.session, &usable);
        self.references.retain(|id, _| usable.contains(id));
    }

    /// Reads a new key's attributes back; answers its bytes and where it comes from.
    fn check_attributes(&self, handle: ObjectHandle, label: &KeyLabel) -> Result<(usize, Origin), Trouble> {
        let read =
            attributes::read_back(&self.session, handle, label).map_err(while_doing("to read a key's attributes"))?;
        match read.wrong {
            None => Ok((read.key_bytes, read.origin)),
            Some(wrong) => Err(refused(format!(
                "the token made {label} with another {wrong} than asked for, so it was destroyed again; this token \
                 cannot hold zone keys"
            ))),
        }
    }

    fn check_canary(&self, label: &KeyLabel, spot: &Spot<'_>) -> Result<(), Trouble> {
        let sings = canary::sings(&self.session, spot).map_err(faulty("to try a new key"))?;
        if sings {
            return Ok(());
        }
        Err(refused(format!(
            "a trial EDEK of {label} did not open as it must, so the key was destroyed again; this token cannot hold \
             zone keys"
        )))
    }
}

/// Keys, by object and zone, that a batch has seen to open an EDEK of their own making.
#[derive(Default)]
pub(super) struct Proven(HashSet<(TokenObjectId, ZoneId)>);

/// What an operation on EDEKs means that did not succeed, the EDEK not being to blame. A wrong answer costs the worker:
/// what the module or the session has come to is not known.
pub(super) fn faulty(doing: &'static str) -> impl Fn(OpenError) -> Trouble {
    move |error| match error {
        OpenError::Token(error) | OpenError::Refused(error) => Trouble::new(doing, &error),
        OpenError::Wrong(what) => {
            tracing::error!(
                what,
                "the token gave a wrong answer while it was asked {doing}; all of it is discarded"
            );
            Trouble::Gone(format!("the token gave a wrong answer: {what}"))
        }
        OpenError::Unsound => Trouble::Gone("an EDEK of the token's own making is unsound".to_owned()),
    }
}

/// Splits one item's failure from what stops the whole call.
pub(super) fn settle<T>(outcome: Result<T, Trouble>) -> Result<Result<T, Failure>, Trouble> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Trouble::Failed(failure)) => Ok(Err(failure)),
        Err(trouble) => Err(trouble),
    }
}

fn exists(label: &KeyLabel) -> Failure {
    Failure::new(
        Reason::AlreadyExists,
        format!(
            "the token holds version {} of key {} already",
            label.version, label.name
        ),
    )
}

fn another(name: &KeyName, version: KeyVersion, id: TokenObjectId, found: TokenObjectId) -> Failure {
    Failure::new(
        Reason::KeyVersionUnusable,
        format!(
            "version {version} of key {name} has CKA_ID {found} in the token, not {id}: it is another object, so nothing \
             was destroyed"
        ),
    )
}

pub(super) fn edek_invalid(spot: &Spot<'_>) -> Failure {
    let Spot {
        name, version, zone, ..
    } = spot;
    Failure::new(
        Reason::EdekInvalid,
        format!(
            "the EDEK does not open under key {name} version {version} for zone {zone}: it is damaged or another's"
        ),
    )
}

fn mixed(name: &KeyName, from: KeyVersion, to: KeyVersion) -> Failure {
    Failure::new(
        Reason::KeyVersionUnusable,
        format!(
            "versions {from} and {to} of key {name} are of different suites; EDEKs are wrapped again within one suite"
        ),
    )
}

fn refused(message: String) -> Trouble {
    Failure::new(Reason::TokenRefused, message).into()
}
