//! What is due, and what is written down now and then.

use strongroom_proto::{Failure, KeyName};

use super::Keys;
use crate::hsm::Hsm;

/// Uses recorded in one transaction.
const USES_MAX: usize = 5000;

impl<H: Hsm> Keys<H> {
    /// Keys whose roll is due, while there is a token to roll them in.
    pub(crate) fn rolls_due(&self) -> Vec<KeyName> {
        if !*self.compared.borrow() {
            return Vec::new();
        }
        let now_ms = self.clock.now_ms();
        let table = self.table();
        let due = table.values().filter(|key| {
            let over = key.rotation.is_some_and(|rotation| rotation.is_due(&key.name, now_ms));
            over && key.rolling().is_ok()
        });
        due.map(|key| key.name.clone()).collect()
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
