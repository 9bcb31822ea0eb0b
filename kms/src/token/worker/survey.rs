//! The search for all key versions in a token, in slices: a token may hold thousands, each costs several calls, and a network
//! HSM takes a millisecond over each call. Between slices the token serves others.

use std::time::Instant;

use cryptoki::{
    object::{Attribute, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    index::Index,
    remedy::{Trouble, while_doing},
};

/// A search under way.
#[derive(Debug)]
pub(super) struct Survey {
    left: Vec<ObjectHandle>,
    found: Index,
}

impl Survey {
    pub(super) fn begin(session: &Session) -> Result<Self, Trouble> {
        let search = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
        Ok(Self {
            left: session.find_objects(&search).map_err(while_doing("to find its keys"))?,
            found: Index::default(),
        })
    }

    /// Looks at one object at least, then at others until `until`, and says whether that was all. What `index` knows of a
    /// version is held against what is found.
    pub(super) fn go_on(&mut self, session: &Session, index: &Index, until: Instant) -> Result<bool, Trouble> {
        while let Some(handle) = self.left.pop() {
            self.found.take_in(session, handle, index)?;
            if Instant::now() >= until {
                break;
            }
        }
        Ok(self.left.is_empty())
    }

    /// What was found, and of what `index` holds beyond that, which may have been made meanwhile, what is still there.
    pub(super) fn end(mut self, session: &Session, index: &Index) -> Result<Index, Trouble> {
        for (name, version) in index.lacking_in(&self.found) {
            self.found.look_for(session, &name, version)?;
        }
        Ok(self.found)
    }
}
