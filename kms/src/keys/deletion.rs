//! How a key or one of its old versions comes to be destroyed. Pure: the time, the zones and who asks are arguments.
//!
//! The order: what is to go is *retired*, so that nothing is made under it any more, and all that was under way has
//! ended; then, for each zone that ever minted with the key, the metadata service proves that it uses none of it, at a
//! time after that (keys used outside zones need approvals instead); then it is *pending* for 7 to 30 days; then it is
//! *begun*, from when on nobody can take it back, and destroyed in every token.

use std::collections::BTreeMap;

use strongroom_proto::{Failure, KeyVersion, Reason, ZoneId};

/// The shortest and longest time that a deletion is pending.
pub(crate) const PENDING_DAYS: std::ops::RangeInclusive<u32> = 7..=30;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Approvals that are kept: as many as anybody may demand.
pub(crate) const APPROVALS_MAX: usize = 16;
/// Zones that a sentence names.
const NAMED_MAX: usize = 5;

/// What is to be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Every version of the key.
    Key,
    /// One version that does not mint.
    Version(KeyVersion),
}

impl Target {
    /// Whether `version` is part of it.
    pub(crate) fn covers(self, version: KeyVersion) -> bool {
        match self {
            Self::Key => true,
            Self::Version(number) => number == version,
        }
    }
}

/// A deletion that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// Who asked for it: `user keyadmin`.
    pub(crate) requested_by: String,
    /// How long it is pending once nothing is missing.
    pub(crate) pending_ms: u64,
    /// Since when nothing is made under the target any more; proofs are to be younger.
    pub(crate) retired_ms: u64,
    /// When it is destroyed; none while proofs are missing.
    pub(crate) due_ms: Option<u64>,
    /// Its destruction, once that cannot be taken back any more.
    pub(crate) begun: Option<Begun>,
    /// The version that minted before, and does so again if the deletion is taken back.
    pub(crate) active_before: Option<KeyVersion>,
    /// Users who agreed, and when, in milliseconds since 1970.
    pub(crate) approvals: BTreeMap<String, u64>,
}

/// A destruction that has begun and only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Since when, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Names it in its receipts, which are the same however often it is cut off.
    pub(crate) id: [u8; 16],
}

/// What the metadata service last proved of a zone and a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    /// The newest version that the zone does not use; it uses no older one either.
    pub(crate) through: KeyVersion,
    /// From when on that holds, in milliseconds since 1970.
    pub(crate) issued_ms: u64,
    /// Whether the metadata service knows the zone at all.
    pub(crate) known: bool,
    /// SHA-256 of the signed proof.
    pub(crate) hash: [u8; 32],
}

/// The zones that ever minted with a key, each with its last proof.
pub(crate) type Zones = BTreeMap<ZoneId, Option<Proven>>;

/// Whose agreement destructions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quorum {
    /// Users besides the one who asks.
    pub(crate) approvals: usize,
    /// Of every destruction, and not only where proofs do not say everything.
    pub(crate) always: bool,
}

/// What a key's deletion asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demands {
    /// Approvals instead of proofs.
    pub(crate) outside_zones: bool,
    /// Approvals besides proofs: there may be zones that nobody remembers.
    pub(crate) zones_lost: bool,
    /// How many, where any, and whether in any case.
    pub(crate) quorum: Quorum,
}

/// What a deletion waits for, besides its time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Obstacles {
    /// Zones without a proof that counts.
    pub(crate) zones: Vec<ZoneId>,
    /// Zones that the metadata service does not know: they count once the approvals are complete.
    pub(crate) unknown_zones: usize,
    /// Approvals still needed.
    pub(crate) approvals: usize,
}

impl Deletion {
    /// A deletion of what was retired at `retired_ms`.
    pub(crate) fn new(requested_by: String, pending_ms: u64, retired_ms: u64) -> Self {
        Self {
            requested_by,
            pending_ms,
            retired_ms,
            due_ms: None,
            begun: None,
            active_before: None,
            approvals: BTreeMap::new(),
        }
    }

    /// What is missing: proofs for versions up to `newest`, and approvals where proofs do not say everything or they are always asked for.
    pub(crate) fn obstacles(&self, newest: KeyVersion, zones: &Zones, demands: Demands) -> Obstacles {
        let mut found = Obstacles::default();
        if !demands.outside_zones {
            for (zone, proof) in zones {
                match proof {
                    Some(proof) if proof.through >= newest && proof.issued_ms > self.retired_ms => {
                        found.unknown_zones += usize::from(!proof.known);
                    }
                    _ => found.zones.push(*zone),
                }
            }
        }
        let unproven = demands.outside_zones || demands.zones_lost || found.unknown_zones > 0;
        if unproven || demands.quorum.always {
            found.approvals = demands.quorum.approvals.saturating_sub(self.approvals.len());
        }
        found
    }

    /// Records that `who` agrees. Answers whether that is news.
    pub(crate) fn approve(&mut self, who: &str, now_ms: u64) -> Result<bool, Failure> {
        if who == self.requested_by {
            return Err(Failure::new(
                Reason::PermissionDenied,
                format!("{who} asked for the deletion; another user has to approve it"),
            ));
        }
        if self.approvals.contains_key(who) {
            return Ok(false);
        }
        if self.begun.is_some() {
            return Err(blocked(
                "the destruction has begun; nobody's approval is asked for any more".to_owned(),
            ));
        }
        if self.approvals.len() >= APPROVALS_MAX {
            return Err(blocked(format!("the deletion has {APPROVALS_MAX} approvals already")));
        }
        self.approvals.insert(who.to_owned(), now_ms);
        Ok(true)
    }
}

/// Checks how long a deletion is to be pending; 0 means 30 days.
pub(crate) fn pending_ms(days: u32) -> Result<u64, Failure> {
    let days = if days == 0 { *PENDING_DAYS.end() } else { days };
    if PENDING_DAYS.contains(&days) {
        Ok(u64::from(days) * DAY_MS)
    } else {
        Err(Failure::new(
            Reason::InvalidArgument,
            format!(
                "a deletion is pending for {} to {} days, not {days}",
                PENDING_DAYS.start(),
                PENDING_DAYS.end()
            ),
        ))
    }
}

/// A refusal of a deletion.
pub(crate) fn blocked(message: String) -> Failure {
    Failure::new(Reason::DeletionBlocked, message)
}

/// The first zones of many, as a sentence names them.
pub(crate) fn zones_text(zones: &[ZoneId]) -> String {
    let mut text: Vec<String> = zones.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if zones.len() > NAMED_MAX {
        text.push(format!("and {} more", zones.len() - NAMED_MAX));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUORUM: Quorum = Quorum {
        approvals: 2,
        always: false,
    };
    const NEWEST: KeyVersion = KeyVersion(3);

    fn proof(through: u32, issued_ms: u64, known: bool) -> Option<Proven> {
        Some(Proven {
            through: KeyVersion(through),
            issued_ms,
            known,
            hash: [0; 32],
        })
    }

    #[test]
    fn a_proof_counts_if_it_is_younger_than_the_retirement_and_speaks_of_all() {
        let deletion = Deletion::new("user keyadmin".to_owned(), 1, 100);
        let zone = ZoneId::from_bytes([1; 16]);
        let demands = Demands {
            quorum: QUORUM,
            ..Demands::default()
        };
        for (given, zones, approvals) in [
            (None, 1, 0),
            (proof(3, 100, true), 1, 0),
            (proof(2, 101, true), 1, 0),
            (proof(3, 101, true), 0, 0),
            (proof(4, 101, true), 0, 0),
            // Nobody knows whose zone it is: people have to say so.
            (proof(3, 101, false), 0, 2),
        ] {
            let obstacles = deletion.obstacles(NEWEST, &Zones::from([(zone, given.clone())]), demands);
            assert_eq!(
                (obstacles.zones.len(), obstacles.approvals),
                (zones, approvals),
                "{given:?}"
            );
        }
        assert_eq!(deletion.obstacles(NEWEST, &Zones::new(), demands), Obstacles::default());
        let proven = Zones::from([(zone, proof(3, 101, true))]);
        let quorum = Quorum { always: true, ..QUORUM };
        let always = Demands { quorum, ..demands };
        assert_eq!(deletion.obstacles(NEWEST, &proven, always).approvals, 2);
    }

    #[test]
    fn approvals_are_those_of_other_users_each_once() {
        let mut deletion = Deletion::new("user keyadmin".to_owned(), 1, 100);
        let demands = Demands {
            outside_zones: true,
            quorum: QUORUM,
            ..Demands::default()
        };
        let missing = |deletion: &Deletion| deletion.obstacles(NEWEST, &Zones::new(), demands).approvals;
        let own = deletion.approve("user keyadmin", 1).expect_err("his own");
        assert_eq!(own.reason, Reason::PermissionDenied);
        assert_eq!(deletion.approve("user a", 1), Ok(true));
        assert_eq!(deletion.approve("user a", 2), Ok(false));
        assert_eq!(missing(&deletion), 1);
        assert_eq!(deletion.approve("user b", 3), Ok(true));
        assert_eq!(missing(&deletion), 0);
    }

    #[test]
    fn the_pending_time_has_bounds() {
        assert_eq!(pending_ms(0), pending_ms(30));
        assert_eq!(pending_ms(7), Ok(7 * DAY_MS));
        for days in [1, 6, 31] {
            assert_eq!(
                pending_ms(days).expect_err("out of bounds").reason,
                Reason::InvalidArgument
            );
        }
    }
}
