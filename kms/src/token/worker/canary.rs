//! Proof that a key works: before anybody relies on a new one, before a batch of EDEKs is handed out, and before an EDEK is
//! blamed for not opening.

use cryptoki::session::Session;
use strongroom_proto::ZoneId;

use super::{
    derived::DerivedKeys,
    remedy::Refusal,
    suite::{OpenError, Spot, ZoneKey, suite},
};

/// An EDEK of the worker's own making, for a zone that does not exist.
#[derive(Debug)]
pub(super) struct Reference {
    zone: ZoneId,
    wrapped: Vec<u8>,
}

/// Mints an EDEK for a zone that does not exist, opens it by way of two keys obtained independently, and compares; under
/// another zone's it must not open, if the suite binds zones. Answers whether all of that held.
pub(super) fn sings(session: &Session, spot: &Spot<'_>) -> Result<bool, OpenError> {
    let mut derived = DerivedKeys::default();
    let outcome = try_out(session, spot, &mut derived);
    derived.clear(session);
    outcome
}

/// `count` EDEKs of fresh DEKs. One more was minted with them and opened again by way of a key that owes nothing to the
/// cached one.
pub(super) fn mint(session: &Session, spot: &Spot<'_>, key: &ZoneKey, count: usize) -> Result<Vec<Vec<u8>>, OpenError> {
    let suite = suite(spot.suite);
    let mut minted = suite.mint(session, key, count + 1)?;
    let canary = minted.pop().ok_or(NOTHING_MINTED)?;
    own(suite.open_afresh(session, spot, &canary))?;
    Ok(minted)
}

/// Sees that what is wrapped under `key` opens.
pub(super) fn check(session: &Session, spot: &Spot<'_>, key: &ZoneKey) -> Result<(), OpenError> {
    mint(session, spot, key, 0).map(drop)
}

/// Makes an EDEK that opens, to be opened again later.
pub(super) fn reference(session: &Session, spot: &Spot<'_>) -> Result<Reference, OpenError> {
    let zone = ZoneId::generate();
    let spot = &Spot { zone: &zone, ..*spot };
    let suite = suite(spot.suite);
    let mut derived = DerivedKeys::default();
    let minted = suite
        .zone_key(session, &mut derived, spot)
        .and_then(|key| suite.mint(session, &key, 1));
    derived.clear(session);
    let wrapped = minted?.pop().ok_or(NOTHING_MINTED)?;
    let reference = Reference { zone, wrapped };
    reopen(session, spot, &reference)?;
    Ok(reference)
}

/// Sees that a reference still opens.
pub(super) fn reopen(session: &Session, spot: &Spot<'_>, reference: &Reference) -> Result<(), OpenError> {
    let spot = &Spot {
        zone: &reference.zone,
        ..*spot
    };
    own(suite(spot.suite).open_afresh(session, spot, &reference.wrapped)).map(drop)
}

const NOTHING_MINTED: OpenError = OpenError::Wrong("nothing was minted");

fn try_out(session: &Session, spot: &Spot<'_>, derived: &mut DerivedKeys) -> Result<bool, OpenError> {
    let suite = suite(spot.suite);
    let (zone, other) = (ZoneId::generate(), ZoneId::generate());
    let spot = &Spot { zone: &zone, ..*spot };
    let foreign = suite.zone_key(session, derived, &Spot { zone: &other, ..*spot })?;
    let key = suite.zone_key(session, derived, spot)?;
    let minted = suite.mint(session, &key, 1)?;
    let wrapped = minted.first().ok_or(NOTHING_MINTED)?;
    let cached = own(suite.open(session, &key, wrapped))?;
    let afresh = own(suite.open_afresh(session, spot, wrapped))?;
    let bound = !suite.binds_zone() || suite.open(session, &foreign, wrapped).is_err();
    Ok(cached.equals(&afresh) && bound)
}

/// What was minted here is no client's: that it does not open is never its own fault. A refusal that may come from a lost
/// session or library keeps its code.
fn own<T>(outcome: Result<T, OpenError>) -> Result<T, OpenError> {
    outcome.map_err(|error| match error {
        OpenError::Refused(error) => match Refusal::of(&error) {
            Refusal::Invalid => OpenError::Wrong("an EDEK of the token's own making does not open"),
            Refusal::Unclear | Refusal::Trouble(_) => OpenError::Token(error),
        },
        OpenError::Unsound => OpenError::Wrong("an EDEK does not hold what was put into it"),
        other => other,
    })
}
