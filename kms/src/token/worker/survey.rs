//! The search for all key versions in a token, in slices: a token may hold thousands, each costs several calls, and a network
//! HSM takes a millisecond over each call. Between slices the token serves others.

use std::{collections::BTreeSet, num::NonZeroUsize, time::Instant};

use cryptoki::{
    object::{Attribute, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{KeyName, KeyVersion};

use super::{
    index::{At, Index, unknown_handle},
    remedy::{Trouble, while_doing},
};

/// Objects that a search asks for with each call: of ten thousands a network HSM takes a millisecond or ten over each call.
const PAGE_MAX: NonZeroUsize = NonZeroUsize::new(1000).expect("not zero");

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

/// The handle of every secret key object of the token, whoever made it. A session has one search at a time, so that it cannot be
/// left to go on later; it takes a call for a thousand objects.
fn every_key(session: &Session) -> Result<Vec<ObjectHandle>, Trouble> {
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
    let search = |page| session.iter_objects_with_cache_size(&template, page)?.collect();
    whole(search).map_err(while_doing("to find its keys"))
}

/// All that a search finds that asks for so many objects with each call, and takes a page that is not full for the last one.
/// A token may give fewer at once than it is asked for, and has more (PKCS#11 5.7.9).
fn whole<T, E>(mut search: impl FnMut(NonZeroUsize) -> Result<Vec<T>, E>) -> Result<Vec<T>, E> {
    let mut page = PAGE_MAX;
    loop {
        let found = search(page)?;
        match NonZeroUsize::new(found.len()) {
            // That is all, or all that the token gives at once.
            Some(count) if count < page => page = count,
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search of a token that holds `count` objects and gives `most` with each call, and the calls.
    fn search(count: usize, most: usize, page: NonZeroUsize) -> (Vec<usize>, usize) {
        let (mut found, mut calls) = (Vec::new(), 0);
        loop {
            let given = (count - found.len()).min(most).min(page.get());
            found.extend(found.len()..found.len() + given);
            calls += 1;
            if given < page.get() {
                return (found, calls);
            }
        }
    }

    #[test]
    fn every_object_is_found_in_few_calls_whatever_a_token_gives_at_once() {
        for (count, most, calls_max) in [
            (0, 1000, 1),
            (1, 1000, 3),
            (10, 5000, 3),
            (999, 1000, 3),
            (1000, 1000, 2),
            (1001, 1000, 2),
            (100_000, 5000, 101),
            (100_000, 64, 1564),
            (128, 64, 4),
            (100, 1, 102),
        ] {
            let mut calls = 0;
            let found = whole(|page| {
                let (found, more) = search(count, most, page);
                calls += more;
                Ok::<_, Trouble>(found)
            });
            let found = found.expect("nothing fails");
            assert_eq!(found, (0..count).collect::<Vec<_>>(), "{count} of which {most} at once");
            assert!(calls <= calls_max, "{calls} calls for {count} of which {most} at once");
        }
    }
}
