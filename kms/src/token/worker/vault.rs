//! An open, logged-in session with what is cached in it, and whole calls against it.

use std::time::{Duration, Instant};

use cryptoki::{mechanism::Mechanism, object::ObjectHandle, session::Session};
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};
use zeroize::Zeroizing;

use super::{
    attributes, canary,
    derived::DerivedKeys,
    index::{Found, Index, Place},
    kw::{self, Context},
    label::KeyLabel,
    object::SessionObject,
    remedy::{Refusal, Trouble, while_doing},
};
use crate::token::{NewVersion, TokenKeyVersion};

/// The token is searched for an unknown version at most so often: a search can take milliseconds per hundred keys.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

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
    session: Session,
    index: Index,
    derived: DerivedKeys,
    searched: Instant,
}

impl Vault {
    /// Takes a logged-in session and finds the token's keys; `before` is what an earlier session knew of them.
    pub(super) fn new(session: Session, before: &Index) -> Result<Self, Trouble> {
        let index = Index::build(&session, before)?;
        Ok(Self {
            session,
            index,
            derived: DerivedKeys::default(),
            searched: Instant::now(),
        })
    }

    /// Closes the session and keeps what was known of the keys, to hold the next session's findings against.
    pub(super) fn close(self) -> Index {
        self.index
    }

    /// Searches the token anew and lists every version.
    pub(super) fn list(&mut self) -> Result<Vec<TokenKeyVersion>, Trouble> {
        self.search()?;
        self.index.list(&self.session)
    }

    /// Generates a version, and answers only once its attributes are read back and its canary has sung.
    pub(super) fn generate(&mut self, new: &NewVersion) -> Result<TokenKeyVersion, Trouble> {
        check_asked(new)?;
        self.search()?;
        let label = KeyLabel::of(new);
        match self.index.place(&label, new.id) {
            Place::Taken => Err(exists(&label).into()),
            // What an earlier attempt left. It stays whatever comes out here: its first maker may have been believed.
            Place::Own(handle) => self.prove(handle, new, &label),
            Place::Free => {
                let template = attributes::template(&label, new.id);
                let handle = self
                    .session
                    .generate_key(&Mechanism::AesKeyGen, &template)
                    .map_err(while_doing("to generate a key"))?;
                // Destroyed again unless it is proven.
                let object = SessionObject::new(&self.session, handle);
                let made = self.prove(handle, new, &label)?;
                let handle = object.keep();
                self.index.add(label, new.id, handle);
                Ok(made)
            }
        }
    }

    /// Reads the attributes of a version's object back and tries it.
    fn prove(&self, handle: ObjectHandle, new: &NewVersion, label: &KeyLabel) -> Result<TokenKeyVersion, Trouble> {
        self.check_attributes(handle, label)?;
        self.check_canary(handle, label)?;
        let kcv = kw::key_check_value(&self.session, handle, &new.key, new.version)
            .map_err(while_doing("to compute a key check value"))?;
        Ok(TokenKeyVersion {
            key: new.key.clone(),
            version: new.version,
            suite: new.suite,
            kcv,
            token_id: new.id,
        })
    }

    /// EDEKs of fresh DEKs.
    pub(super) fn mint(
        &mut self,
        name: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<bytes::Bytes>, Trouble> {
        let wrapping = self.wrapping_key(name, version, zone)?;
        (0..count)
            .map(|_| kw::mint(&self.session, wrapping).map(bytes::Bytes::from))
            .collect::<Result<_, _>>()
            .map_err(while_doing("to mint an EDEK"))
    }

    /// EDEKs of the same DEKs under version `to`. The DEKs stay in the token.
    pub(super) fn rewrap(
        &mut self,
        name: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: &[RewrapItem],
    ) -> Result<Items, Trouble> {
        let mut proven = false;
        items
            .iter()
            .map(|item| settle(self.rewrap_one(name, to, zone, item, &mut proven)))
            .collect()
    }

    /// The DEKs of EDEKs.
    pub(super) fn unwrap(&mut self, items: &[UnwrapItem]) -> Result<Items, Trouble> {
        let mut proven = false;
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
        proven: &mut bool,
    ) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let invalid = || edek_invalid(name, item.from, zone);
        if item.wrapped.len() != kw::WRAPPED_BYTES {
            return Err(invalid().into());
        }
        // The second cannot push out the first: only the key unused for longest makes room.
        let wrapping = self.wrapping_key(name, to, zone)?;
        let unwrapping = self.wrapping_key(name, item.from, zone)?;
        let dek = match kw::unwrap_sensitive(&self.session, unwrapping, &item.wrapped) {
            Ok(dek) => dek,
            Err(error) => return Err(self.blame(&error, unwrapping, proven, invalid())),
        };
        kw::wrap(&self.session, wrapping, dek.handle())
            .map(Zeroizing::new)
            .map_err(while_doing("to wrap a DEK"))
    }

    fn unwrap_one(&mut self, item: &UnwrapItem, proven: &mut bool) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let invalid = || edek_invalid(&item.name, item.version, &item.zone);
        if item.wrapped.len() != kw::WRAPPED_BYTES {
            return Err(invalid().into());
        }
        let unwrapping = self.wrapping_key(&item.name, item.version, &item.zone)?;
        let dek = match kw::unwrap_readable(&self.session, unwrapping, &item.wrapped) {
            Ok(dek) => dek,
            Err(error) => return Err(self.blame(&error, unwrapping, proven, invalid())),
        };
        kw::read(&self.session, &dek)
            .map(kw::Dek::into_wire)
            .map_err(while_doing("to read a DEK"))
    }

    /// What a refused unwrap means. Where the token gives no reason, the EDEK is blamed only if the wrapping key opens
    /// one of its own making; a batch asks for that proof once.
    fn blame(
        &self,
        error: &cryptoki::error::Error,
        wrapping: ObjectHandle,
        proven: &mut bool,
        invalid: Failure,
    ) -> Trouble {
        match Refusal::of(error) {
            Refusal::Trouble(trouble) => trouble,
            Refusal::Invalid => invalid.into(),
            Refusal::Unclear if *proven => invalid.into(),
            Refusal::Unclear => {
                let works = kw::mint(&self.session, wrapping)
                    .and_then(|wrapped| kw::unwrap_sensitive(&self.session, wrapping, &wrapped).map(drop));
                match works {
                    Ok(()) => {
                        *proven = true;
                        invalid.into()
                    }
                    Err(error) => Trouble::new("to unwrap an EDEK of its own", &error),
                }
            }
        }
    }

    fn wrapping_key(&mut self, name: &KeyName, version: KeyVersion, zone: &ZoneId) -> Result<ObjectHandle, Trouble> {
        let Found { handle, id } = self.find(name, version)?;
        let context = Context::wrapping(name, version, zone);
        self.derived
            .wrapping_key(&self.session, id, handle, context)
            .map_err(while_doing("to derive a wrapping key"))
    }

    fn find(&mut self, name: &KeyName, version: KeyVersion) -> Result<Found, Trouble> {
        // Another process on the same token may have made the version since the last search.
        if !self.index.contains(name, version) && self.searched.elapsed() >= SEARCH_INTERVAL {
            self.search()?;
        }
        self.index.find(&self.session, name, version)
    }

    fn search(&mut self) -> Result<(), Trouble> {
        self.index = Index::build(&self.session, &self.index)?;
        self.searched = Instant::now();
        Ok(())
    }

    fn check_attributes(&self, handle: ObjectHandle, label: &KeyLabel) -> Result<(), Trouble> {
        let wrong =
            attributes::first_wrong(&self.session, handle).map_err(while_doing("to read a key's attributes"))?;
        match wrong {
            None => Ok(()),
            Some(wrong) => Err(refused(format!(
                "the token made {label} with another {wrong} than asked for, so it was destroyed again; this token \
                 cannot hold zone keys"
            ))),
        }
    }

    fn check_canary(&self, handle: ObjectHandle, label: &KeyLabel) -> Result<(), Trouble> {
        let sings = canary::sings(&self.session, handle, &label.name, label.version)
            .map_err(while_doing("to try a new key"))?;
        if sings {
            return Ok(());
        }
        Err(refused(format!(
            "a trial EDEK of {label} did not open as it must, so the key was destroyed again; this token cannot hold \
             zone keys"
        )))
    }
}

/// Splits one item's failure from what stops the whole call.
fn settle<T>(outcome: Result<T, Trouble>) -> Result<Result<T, Failure>, Trouble> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Trouble::Failed(failure)) => Ok(Err(failure)),
        Err(trouble) => Err(trouble),
    }
}

fn check_asked(new: &NewVersion) -> Result<(), Failure> {
    let suite = new.suite;
    if suite != EdekSuite::Kw {
        return Err(Failure::new(
            Reason::TokenRefused,
            format!("this token does not serve suite {suite}; leave the suite out to get the token's default"),
        ));
    }
    if usize::try_from(new.key_bits) == Ok(kw::KEY_BYTES * 8) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::InvalidArgument,
        format!("a key of suite {suite} has 256 bits, not {}", new.key_bits),
    ))
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

fn edek_invalid(name: &KeyName, version: KeyVersion, zone: &ZoneId) -> Failure {
    Failure::new(
        Reason::EdekInvalid,
        format!(
            "the EDEK does not open under key {name} version {version} for zone {zone}: it is damaged or another's"
        ),
    )
}

fn refused(message: String) -> Trouble {
    Failure::new(Reason::TokenRefused, message).into()
}
