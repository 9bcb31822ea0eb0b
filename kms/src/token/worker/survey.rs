//! The search for all key versions in a token, in slices: a token may hold thousands, each costs several calls, and a network
//! HSM takes a millisecond over each call. Between slices the token serves others.

use std::{collections::BTreeSet, time::Instant};

use cryptoki::{
    object::{Attribute, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{KeyName, KeyVersion};

use super::{
    index::{At, Index, unknown_handle},
    remedy::{Trouble, while_doing},
};

/// A search under way.
#[derive(Debug)]
pub(super) struct Survey {
    left: Vec<ObjectHandle>,
    /// Handles that named nothing any more when their turn came.
    gone: Vec<ObjectHandle>,
    found: Index,
    /// Versions to look for once more: what happened to them since the search began is not in what it found.
    touched: BTreeSet<At>,
    /// Whether those are among them that are known and were not found.
    compared: bool,
}

impl Survey {
    pub(super) fn begin(session: &Session) -> Result<Self, Trouble> {
        Ok(Self {
            left: every_key(session)?,
            gone: Vec::new(),
            found: Index::default(),
            touched: BTreeSet::new(),
            compared: false,
        })
    }

    /// Notes that a version was made, looked for or destroyed meanwhile.
    pub(super) fn touch(&mut self, name: &KeyName, version: KeyVersion) {
        self.touched.insert((name.clone(), version));
    }

    /// Takes one step at least, then others until `until`, and says whether that was all. What `index` knows of a version is
    /// held against what is found. A step that fails is taken again the next time.
    pub(super) fn go_on(&mut self, session: &Session, index: &Index, until: Instant) -> Result<bool, Trouble> {
        while self.step(session, index)? {
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Answers whether there was anything to do.
    fn step(&mut self, session: &Session, index: &Index) -> Result<bool, Trouble> {
        if let Some(&handle) = self.left.last() {
            if !self.found.take_in(session, handle, index)? {
                self.gone.push(handle);
            }
            self.left.pop();
            return Ok(true);
        }
        if !self.gone.is_empty() {
            self.see_gone(session)?;
            return Ok(true);
        }
        if !self.compared {
            self.touched.extend(index.lacking_in(&self.found));
            self.compared = true;
        }
        let Some(at) = self.touched.first().cloned() else {
            return Ok(false);
        };
        self.found.look_for(session, &at.0, at.1, Some(index))?;
        self.touched.remove(&at);
        Ok(true)
    }

    /// Sees that what was destroyed since the search began is not found any more.
    fn see_gone(&mut self, session: &Session) -> Result<(), Trouble> {
        let there = every_key(session)?;
        if self.gone.iter().any(|gone| there.contains(gone)) {
            return Err(unknown_handle());
        }
        self.gone.clear();
        Ok(())
    }

    /// What was found, with what `index` has learnt of it.
    pub(super) fn end(mut self, index: &Index) -> Index {
        self.found.adopt_proofs(index);
        self.found
    }
}

/// The handle of every secret key object of the token.
fn every_key(session: &Session) -> Result<Vec<ObjectHandle>, Trouble> {
    let search = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
    session.find_objects(&search).map_err(while_doing("to find its keys"))
}
