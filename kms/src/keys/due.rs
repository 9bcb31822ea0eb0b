//! What is due, and what is written down now and then.

use strongroom_proto::{Failure, KeyName, RequestId};

use super::{Keys, key::Key, uses};
use crate::hsm::Hsm;

/// Uses recorded in one transaction.
const USES_MAX: usize = 5000;

impl<H: Hsm> Keys<H> {
    /// Keys whose roll is due, while there is a token to roll them in.
    pub(crate) fn rolls_due(&self) -> Vec<KeyName> {
        if !*self.compared.borrow() {
            return Vec::new();
        }
        let table = self.table();
        let due = table.values().filter(|key| self.due_roll(key).is_some());
        due.map(|key| key.name.clone()).collect()
    }

    /// The request id of the roll of a key that is due: by its age, which one of several instances sees to, or because its
    /// version made many EDEKs, which only those may know that made them. It is the same
    /// for all attempts and all instances, so that one of them makes a version.
    pub(super) fn due_roll(&self, key: &Key) -> Option<RequestId> {
        key.rolling().ok()?;
        let worn = key.current().filter(|&version| self.uses.is_worn(&key.name, version));
        let aged = key
            .rotation
            .filter(|rotation| rotation.is_due(&key.name, self.clock.now_ms()) && self.leads());
        worn.map(|version| uses::roll_request(&key.name, version))
            .or_else(|| aged.map(|rotation| rotation.request(&key.name)))
    }

    /// Records last uses that the store does not know, to the minute.
    pub(crate) async fn store_uses(&self) -> Result<(), Failure> {
        loop {
            let uses = self.registry.unstored_uses(USES_MAX);
            if uses.is_empty() {
                return Ok(());
            }
            self.ledger.save_uses(&uses).await?;
            self.registry.uses_stored(&uses);
        }
    }
}
