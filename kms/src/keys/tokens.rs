//! What the key service tells of the tokens behind its keys.

use strongroom_proto::{Failure, KeyName, KeyVersion};
use tokio::sync::watch;

use super::Keys;
use crate::{
    fleet::{Alarm, Resynced, TokenReport},
    hsm::Hsm,
};

impl<H: Hsm> Keys<H> {
    /// Every token as it is now.
    pub(crate) fn tokens(&self) -> Vec<TokenReport> {
        self.hsm.tokens()
    }

    /// Alarms of the tokens.
    pub(crate) fn alarms(&self) -> watch::Receiver<Vec<Alarm>> {
        self.hsm.alarms()
    }

    /// Fills up the token with that label, going on behind `after`.
    ///
    /// # Errors
    /// If there is no such token, or it is not up.
    pub(crate) async fn resync(&self, label: &str, after: Option<(KeyName, KeyVersion)>) -> Result<Resynced, Failure> {
        self.hsm.resync(label, after).await
    }
}
