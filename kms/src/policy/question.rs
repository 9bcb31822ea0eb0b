//! What policies are asked: who wants to do what with which key, and under which circumstances.

use std::{collections::BTreeMap, fmt, str::FromStr};

use strongroom_proto::{EdekSuite, KeyName, ZoneId, groups::GroupName, transport::PeerIdentity};

/// What somebody wants to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create, roll, confirm and everything else that changes a key.
    Manage,
    /// Describe, list.
    View,
    /// Make EDEKs of fresh DEKs.
    Mint,
    /// Wrap EDEKs again under the newest version.
    Rewrap,
    /// Be given DEKs.
    Unwrap,
    /// Read what the audit log says of a key.
    Audit,
    /// Approve what somebody else asked for.
    Approve,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Self; 7] = [
        Self::Manage,
        Self::View,
        Self::Mint,
        Self::Rewrap,
        Self::Unwrap,
        Self::Audit,
        Self::Approve,
    ];

    /// The action's word in policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manage => "manage",
            Self::View => "view",
            Self::Mint => "mint",
            Self::Rewrap => "rewrap",
            Self::Unwrap => "unwrap",
            Self::Audit => "audit",
            Self::Approve => "approve",
        }
    }

    /// How a sentence says it: `may not … key payroll`.
    pub(super) const fn phrase(self) -> &'static str {
        match self {
            Self::Manage => "manage",
            Self::View => "view",
            Self::Mint => "mint with",
            Self::Rewrap => "re-wrap with",
            Self::Unwrap => "unwrap with",
            Self::Audit => "audit",
            Self::Approve => "approve a change of",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not an [`Action`] or an [`Authentication`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct WordError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl FromStr for Action {
    type Err = WordError;

    fn from_str(s: &str) -> Result<Self, WordError> {
        let known = Self::ALL.into_iter().find(|action| action.as_str() == s);
        known.ok_or_else(|| WordError {
            what: "action",
            value: s.to_owned(),
            rule: "actions are manage, view, mint, rewrap, unwrap, audit and approve",
        })
    }
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Authentication {
    /// By the private key of a client certificate, on the mutual-TLS port.
    #[default]
    Certificate,
    /// By a bearer token of the configured issuer.
    Bearer,
}

impl Authentication {
    /// The word in policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Bearer => "bearer",
        }
    }
}

impl FromStr for Authentication {
    type Err = WordError;

    fn from_str(s: &str) -> Result<Self, WordError> {
        let known = [Self::Certificate, Self::Bearer]
            .into_iter()
            .find(|how| how.as_str() == s);
        known.ok_or_else(|| WordError {
            what: "way to prove an identity",
            value: s.to_owned(),
            rule: "certificate or bearer",
        })
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal<'a> {
    /// The user or service.
    pub identity: &'a PeerIdentity,
    /// Groups that the caller brought with it, in a token. Those of the groups file come on top.
    pub groups: &'a [GroupName],
    /// How it proved its identity.
    pub authentication: Authentication,
}

impl<'a> Principal<'a> {
    /// The holder of a certificate.
    #[must_use]
    pub const fn certified(identity: &'a PeerIdentity) -> Self {
        Self {
            identity,
            groups: &[],
            authentication: Authentication::Certificate,
        }
    }
}

/// What policies may know of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyFacts {
    /// Its name.
    pub name: KeyName,
    /// Its suite; of a key that is being created, the suite asked for; none if there is no such key.
    pub suite: Option<EdekSuite>,
    /// Whether its DEKs leave the service only by sealed delivery.
    pub sealed_required: bool,
    /// Labels that administrators gave it.
    pub tags: BTreeMap<String, String>,
}

impl KeyFacts {
    /// A key of which nothing but its name is known.
    #[must_use]
    pub const fn unknown(name: KeyName) -> Self {
        Self {
            name,
            suite: None,
            sealed_required: false,
            tags: BTreeMap::new(),
        }
    }
}

/// The circumstances of a call, `context` in policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context<'a> {
    /// The call, by its word in the audit log: `create`, `roll`, `unwrap`, …
    pub operation: &'a str,
    /// Whether DEKs are asked for by sealed delivery.
    pub sealed: bool,
    /// The zone that EDEKs are bound to.
    pub zone: Option<ZoneId>,
}

impl<'a> Context<'a> {
    /// A call that is about no zone.
    #[must_use]
    pub const fn of(operation: &'a str) -> Self {
        Self {
            operation,
            sealed: false,
            zone: None,
        }
    }

    /// With the zone that EDEKs are bound to.
    #[must_use]
    pub const fn zone(mut self, zone: ZoneId) -> Self {
        self.zone = Some(zone);
        self
    }

    /// Asking for sealed delivery, or not.
    #[must_use]
    pub const fn sealed(mut self, sealed: bool) -> Self {
        self.sealed = sealed;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_others_are_refused() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
        }
        let error = "destroy".parse::<Action>().expect_err("no action").to_string();
        assert!(error.contains("manage, view"), "{error}");
    }
}
