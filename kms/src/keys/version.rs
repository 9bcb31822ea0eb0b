//! One version of an EZ key: what it may do, and how the token's object compares with what the store says. Pure.

use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason};

use crate::token::{Kcv, Origin, TokenKeyVersion, TokenObjectId};

/// One version of an EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) standing: Standing,
    pub(crate) created_ms: u64,
    pub(crate) kcv: Kcv,
    pub(crate) token_id: TokenObjectId,
    /// Where it comes from: `Cloned` for one that was made or found where tokens clone, and may be an original or a clone.
    pub(crate) origin: Origin,
    pub(crate) presence: Presence,
    /// What the last comparison found wrong with it in the tokens; empty if nothing.
    pub(crate) trouble: String,
}

/// What a version may do, as the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Mints, unwraps and is the target of re-wrapping; at most one version of a key.
    Active,
    /// Unwraps only.
    DecryptOnly,
    /// Nothing, for ever: what is left of the version is this record.
    Destroyed {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

/// How the token's object compares with what the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Not compared since the service started.
    Unchecked,
    /// There, with the same check value.
    Present,
    /// Not in the token.
    Missing,
    /// Another key is in its place: the check value, the suite or the origin differs.
    Different,
}

impl Version {
    /// A version that was found or made in the token and only opens so far; `clones` says whether the tokens clone keys.
    pub(crate) fn of(found: &TokenKeyVersion, clones: bool, created_ms: u64) -> Self {
        Self {
            standing: Standing::DecryptOnly,
            created_ms,
            kcv: found.kcv,
            token_id: found.token_id,
            origin: match found.origin {
                Origin::Generated if clones => Origin::Cloned,
                // Whoever has the PIN can make an object that looks like a clone.
                Origin::Cloned if !clones => Origin::Imported,
                origin => origin,
            },
            presence: Presence::Present,
            trouble: String::new(),
        }
    }

    /// Whether an object of the token is this version. The check value has 24 bits, which somebody with the PIN can search
    /// for among keys of his own; that such a key was made in the token he cannot pretend.
    pub(crate) fn is_in(&self, found: &TokenKeyVersion) -> bool {
        let same_origin = match self.origin {
            Origin::Generated => found.origin == Origin::Generated,
            Origin::Cloned => found.origin != Origin::Imported,
            Origin::Imported => found.origin != Origin::Generated,
        };
        self.kcv == found.kcv && same_origin
    }

    /// What tells the object in its place, from this version of a key of `suite`.
    pub(crate) fn difference(&self, found: &TokenKeyVersion, suite: EdekSuite) -> String {
        let (what, is, should) = if found.suite != suite {
            ("suite", found.suite.to_string(), suite.to_string())
        } else if self.kcv != found.kcv {
            ("check value", found.kcv.to_string(), self.kcv.to_string())
        } else {
            (
                "origin",
                found.origin.as_str().to_owned(),
                self.origin.as_str().to_owned(),
            )
        };
        format!(
            "the token holds another key in its place (CKA_ID {}): its {what} is {is} and not {should}",
            found.token_id
        )
    }

    /// Whether it is the version that mints.
    pub(crate) fn is_active(&self) -> bool {
        self.standing == Standing::Active
    }

    /// Whether nothing but its record is left.
    pub(crate) fn is_destroyed(&self) -> bool {
        matches!(self.standing, Standing::Destroyed { .. })
    }

    /// Whether the token can be asked to use this version.
    pub(crate) fn usable(&self, name: &KeyName, number: KeyVersion) -> Result<(), Failure> {
        if let Standing::Destroyed { at_ms } = self.standing {
            return Err(unusable(format!(
                "version {number} of key {name} was destroyed at {}: what it wrapped cannot be opened any more",
                time_text(at_ms)
            )));
        }
        match &self.presence {
            Presence::Present | Presence::Unchecked => Ok(()),
            Presence::Missing => Err(unusable(format!(
                "version {number} of key {name} is missing: {}; restore the token from its backup{}",
                self.detail(),
                self.way_on(name)
            ))),
            Presence::Different => Err(unusable(format!(
                "version {number} of key {name} is not used: {}; connect the right token or restore it from its backup{}",
                self.detail(),
                self.way_on(name)
            ))),
        }
    }

    /// Why the version is not what it should be, in a sentence for those who look at it; empty if it is.
    pub(crate) fn detail(&self) -> String {
        let sentence = match (self.is_destroyed(), &self.presence) {
            (true, Presence::Present | Presence::Different) => {
                "the token holds this destroyed version again, as one restored from an old backup does: it is never used; \
                 destroy the object in the token"
            }
            (false, Presence::Missing) if self.trouble.is_empty() => "the token does not hold it",
            _ => &self.trouble,
        };
        sentence.to_owned()
    }

    /// What an administrator can do about the version that mints, besides mending the token.
    fn way_on(&self, name: &KeyName) -> String {
        if self.is_active() {
            format!(", or make a new version with: strongroom key roll {name}")
        } else {
            String::new()
        }
    }
}

/// A refusal because of a version's or key's state.
pub(crate) fn unusable(message: String) -> Failure {
    Failure::new(Reason::KeyVersionUnusable, message)
}

/// A time in milliseconds since 1970 as sentences say it, UTC.
pub(crate) fn time_text(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{ms} ms"),
            |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        )
}
