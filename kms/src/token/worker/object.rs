//! Session objects that are destroyed on every path.

use cryptoki::{object::ObjectHandle, session::Session};

/// A session object; dropping it destroys it in the token.
pub(super) struct SessionObject<'s> {
    session: &'s Session,
    handle: ObjectHandle,
}

impl<'s> SessionObject<'s> {
    pub(super) const fn new(session: &'s Session, handle: ObjectHandle) -> Self {
        Self { session, handle }
    }

    pub(super) const fn handle(&self) -> ObjectHandle {
        self.handle
    }

    /// Keeps the object; whoever takes the handle destroys it.
    pub(super) fn keep(self) -> ObjectHandle {
        let handle = self.handle;
        std::mem::forget(self);
        handle
    }
}

impl Drop for SessionObject<'_> {
    fn drop(&mut self) {
        destroy(self.session, self.handle);
    }
}

/// Destroys an object. A token that cannot has lost the session, and the object with it.
pub(super) fn destroy(session: &Session, handle: ObjectHandle) {
    if let Err(error) = session.destroy_object(handle) {
        tracing::warn!(%error, "an object in the token could not be destroyed");
    }
}
