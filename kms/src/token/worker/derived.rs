//! Derived wrapping keys that are kept in the session, so that most calls skip the derivation.

use std::collections::{BTreeMap, HashMap, HashSet};

use cryptoki::{error::Error, object::ObjectHandle, session::Session};

use super::{
    kw::{self, Context},
    object,
};
use crate::token::TokenObjectId;

/// Wrapping keys kept in the session at once; the one unused for longest makes room. A few kilobytes each on SoftHSM2.
const KEPT_MAX: usize = 4096;

/// Wrapping keys by the object they were derived from (its `CKA_ID`, so that a handle of another object never serves)
/// and their context, which covers name, version and zone.
#[derive(Debug, Default)]
pub(super) struct DerivedKeys {
    kept: HashMap<(TokenObjectId, Context), Kept>,
    /// The same by their last use.
    by_use: BTreeMap<u64, (TokenObjectId, Context)>,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    handle: ObjectHandle,
    last_use: u64,
}

impl DerivedKeys {
    /// The wrapping key for `context` under the EZ key object `base`.
    pub(super) fn wrapping_key(
        &mut self,
        session: &Session,
        id: TokenObjectId,
        base: ObjectHandle,
        context: Context,
    ) -> Result<ObjectHandle, Error> {
        self.uses += 1;
        let last_use = self.uses;
        if let Some(kept) = self.kept.get_mut(&(id, context)) {
            self.by_use.remove(&kept.last_use);
            self.by_use.insert(last_use, (id, context));
            kept.last_use = last_use;
            return Ok(kept.handle);
        }
        let handle = kw::derive_wrapping_key(session, base, &context)?.keep();
        if self.kept.len() >= KEPT_MAX {
            self.evict(session);
        }
        self.by_use.insert(last_use, (id, context));
        self.kept.insert((id, context), Kept { handle, last_use });
        Ok(handle)
    }

    /// Destroys those that were derived from other objects than `bases`.
    pub(super) fn keep_of(&mut self, session: &Session, bases: &HashSet<TokenObjectId>) {
        for (_, kept) in self.kept.extract_if(|(base, _), _| !bases.contains(base)) {
            self.by_use.remove(&kept.last_use);
            object::destroy(session, kept.handle);
        }
    }

    /// Destroys them all.
    pub(super) fn clear(&mut self, session: &Session) {
        self.by_use.clear();
        for (_, kept) in self.kept.drain() {
            object::destroy(session, kept.handle);
        }
    }

    fn evict(&mut self, session: &Session) {
        let oldest = self.by_use.pop_first();
        if let Some(kept) = oldest.and_then(|(_, key)| self.kept.remove(&key)) {
            object::destroy(session, kept.handle);
        }
    }
}
