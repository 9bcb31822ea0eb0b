//! Proof that a new EZ key works before anybody relies on it.

use cryptoki::{error::Error, object::ObjectHandle, session::Session};
use strongroom_proto::{KeyName, KeyVersion, ZoneId};

use super::kw::{self, Context};

/// Mints an EDEK for a zone that does not exist, unwraps it under two wrapping keys derived independently, and compares;
/// under another zone's it must not open. Answers whether all of that held.
///
/// # Errors
/// If the token fails an operation that has to work.
pub(super) fn sings(session: &Session, base: ObjectHandle, name: &KeyName, version: KeyVersion) -> Result<bool, Error> {
    let context = Context::wrapping(name, version, &ZoneId::generate());
    let other = Context::wrapping(name, version, &ZoneId::generate());
    let first = kw::derive_wrapping_key(session, base, &context)?;
    let second = kw::derive_wrapping_key(session, base, &context)?;
    let foreign = kw::derive_wrapping_key(session, base, &other)?;

    let wrapped = kw::mint(session, first.handle())?;
    let by_first = kw::unwrap_readable(session, first.handle(), &wrapped)?;
    let by_second = kw::unwrap_readable(session, second.handle(), &wrapped)?;
    let equal = kw::read(session, &by_first)?.equals(&kw::read(session, &by_second)?);
    let bound = kw::unwrap_sensitive(session, foreign.handle(), &wrapped).is_err();
    Ok(equal && bound)
}
