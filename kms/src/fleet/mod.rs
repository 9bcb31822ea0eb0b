//! Several tokens that hold the same keys, used as one.
//!
//! `route` says which token a call goes to and what happens when that one fails; `check` decides which tokens take part:
//! one that comes up is compared with what the key service's store expects before it serves, all are compared again while
//! they run, and one whose keys differ is taken out with an alarm. `make` brings a new version into every token, or into
//! none; `listing` knows what each holds, `resync` fills up a token that lacks versions. A single token is a fleet of one: it is neither compared with
//! others nor taken out, and calls wait for it while its worker is restarted.

mod check;
mod config;
mod inventory;
mod listing;
mod load;
mod make;
mod member;
mod meter;
mod report;
mod resync;
mod route;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyName, KeyVersion, ZoneId, sealed::SealedRequest, transfer::TransferRequest,
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};

pub use config::{Redundancy, RedundancyConfig};
pub use member::Health;
pub use report::{Alarm, Resynced, TokenReport};
pub(crate) use route::Ask;
#[cfg(test)]
pub(crate) use route::fails_over;

use self::{inventory::Expected, make::Material, member::Member, meter::Meter, resync::Copied};
use crate::{
    audit::{AuditHead, AuditKey, AuditSignature},
    hsm::{Held, Hsm, Lease},
    token::{
        ImportKey, Kcv, NewVersion, SealedCall, SealedReply, Token, TokenConfig, TokenKeyVersion, TokenName,
        TokenObjectId, TokenStartError, TokenState, TransferCall, TransferReply, UnfitVersion, Verified, WireDek,
        marks_directory,
    },
};

/// Tokens of one key service at most. How often a `gcm` key may be used rests on it.
pub const TOKENS_MAX: usize = 8;

/// Why the tokens cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The configuration names none.
    #[error("the configuration names no token; add a table [[tokens]]")]
    NoToken,
    /// There are more than a key service works with.
    #[error("the configuration names {count} tokens; a key service works with {TOKENS_MAX} at most")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Two tokens have one name, which is their label unless another is said.
    #[error(
        "two tokens are called {label:?} in the configuration; give those that have one label a name each: name = \"…\""
    )]
    SameLabel {
        /// The name.
        label: String,
    },
    /// A token cannot be supervised.
    #[error("cannot supervise token {label:?}")]
    Token {
        /// Its name.
        label: String,
        /// Why not.
        #[source]
        source: TokenStartError,
    },
}

/// The tokens of one key service. Clones share them.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    members: Vec<Member>,
    settings: RedundancyConfig,
    expected: RwLock<Expected>,
    state: watch::Sender<TokenState>,
    /// Held by whoever brings keys into tokens.
    making: Mutex<Option<Copied>>,
    /// By which what is expected is still so; none if only this process changes it.
    lease: RwLock<Option<Lease>>,
    check_now: Notify,
    alarms: watch::Sender<Vec<Alarm>>,
    turn: AtomicUsize,
    meter: Meter,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Fleet {
    /// Starts the supervision of every token and waits until each has come up or said why it does not.
    ///
    /// `executable` is run as in [`Token::start`]; below `state_dir` each token has a directory for the marks of its PIN.
    ///
    /// # Errors
    /// [`FleetError`] for what cannot mend by itself.
    pub async fn start(
        executable: PathBuf,
        tokens: &[TokenConfig],
        settings: RedundancyConfig,
        state_dir: &Path,
    ) -> Result<Self, FleetError> {
        check_labels(tokens)?;
        let starts = tokens.iter().map(|config| {
            let directory = marks_directory(state_dir, config.name());
            let start = Token::start(executable.clone(), config.clone(), directory);
            async move {
                start.await.map_err(|source| FleetError::Token {
                    label: config.name().to_owned(),
                    source,
                })
            }
        });
        let tokens = futures::future::try_join_all(starts).await?;
        let fleet = Self::of(tokens, settings);
        fleet.settle().await;
        Ok(fleet)
    }

    fn of(tokens: Vec<Token>, settings: RedundancyConfig) -> Self {
        let inner = Inner {
            members: tokens.into_iter().map(Member::new).collect(),
            settings,
            expected: RwLock::default(),
            state: watch::Sender::new(TokenState::Starting),
            making: Mutex::default(),
            lease: RwLock::default(),
            check_now: Notify::new(),
            alarms: watch::Sender::default(),
            turn: AtomicUsize::new(0),
            meter: Meter::new(),
            tasks: Mutex::new(Vec::new()),
        };
        Self(Arc::new(inner))
    }

    /// Ends all workers and their supervision.
    pub async fn stop(&self) {
        for task in self.0.tasks.lock().await.drain(..) {
            task.abort();
            // It was told to end.
            _ = task.await;
        }
        futures::future::join_all(self.0.members.iter().map(|member| member.token.stop())).await;
    }

    fn members(&self) -> &[Member] {
        &self.0.members
    }

    fn settings(&self) -> &RedundancyConfig {
        &self.0.settings
    }

    /// Whether new versions are cloned by Strongroom, and so made extractable under a trusted key.
    fn clones(&self) -> bool {
        self.0.members.len() > 1 && self.0.settings.mode == Redundancy::Clone
    }

    fn meter(&self) -> &Meter {
        &self.0.meter
    }

    fn next_turn(&self) -> usize {
        self.0.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn changes(&self) -> watch::Receiver<TokenState> {
        self.0.state.subscribe()
    }

    fn request_check(&self) {
        self.0.check_now.notify_one();
    }

    fn expected<T>(&self, look: impl FnOnce(&Expected) -> T) -> T {
        look(&self.0.expected.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn check_labels(tokens: &[TokenConfig]) -> Result<(), FleetError> {
    if tokens.is_empty() {
        return Err(FleetError::NoToken);
    }
    if tokens.len() > TOKENS_MAX {
        return Err(FleetError::TooMany { count: tokens.len() });
    }
    let mut labels: Vec<_> = tokens.iter().map(TokenConfig::name).collect();
    labels.sort();
    match labels.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(FleetError::SameLabel {
            label: pair[0].to_owned(),
        }),
    }
}

impl Hsm for Fleet {
    async fn check(&self) -> Result<(), Failure> {
        self.run(&Ask::default(), |token| async move { token.profile().await.map(drop) })
            .await
            .map(drop)
    }

    async fn list_versions(&self) -> Result<Vec<TokenKeyVersion>, Failure> {
        self.list().await
    }

    async fn look_for(&self, places: &[(KeyName, KeyVersion)]) -> Result<Held, Failure> {
        Self::look_for(self, places, None).await
    }

    async fn look_for_of(&self, suite: EdekSuite, places: &[(KeyName, KeyVersion)]) -> Result<Held, Failure> {
        Self::look_for(self, places, Some(suite)).await
    }

    async fn generate(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        self.make(new, Material::Fresh).await
    }

    async fn mint(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        let ask = Ask::new(count, std::iter::once((key, version)));
        let minted = Box::pin(self.run(&ask, |token| async move { token.mint(key, version, zone, count).await })).await;
        minted.map(|(edeks, _)| edeks)
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Vec<Result<Bytes, Failure>>, Failure> {
        let needs = items
            .iter()
            .map(|(from, _)| (key, *from))
            .chain(std::iter::once((key, to)));
        let ask = Ask::new(items.len(), needs);
        let items = &items;
        Box::pin(self.run_items(ask, |token, places| async move {
            let picked = places.iter().map(|&place| items[place].clone()).collect();
            token.rewrap(key, to, zone, picked).await
        }))
        .await
    }

    async fn unwrap(&self, edeks: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        let ask = Ask::new(edeks.len(), edeks.iter().map(|edek| (&edek.key, edek.version)));
        Box::pin(self.run_items(ask, |token, places| async move {
            if places.len() == edeks.len() {
                return token.unwrap(edeks).await;
            }
            let picked: Vec<_> = places.iter().map(|&place| edeks[place].clone()).collect();
            token.unwrap(&picked).await
        }))
        .await
    }

    async fn suites(&self) -> Result<Vec<EdekSuite>, Failure> {
        let mut common: Option<Vec<EdekSuite>> = None;
        for member in self.members().iter().filter(|member| member.serves()) {
            let suites = member.token.profile().await?.suites;
            let kept = common.map(|common| common.into_iter().filter(|suite| suites.contains(suite)).collect());
            common = Some(kept.unwrap_or(suites));
        }
        common.ok_or_else(|| self.none_serves())
    }

    async fn destroy(&self, key: &KeyName, version: KeyVersion, id: TokenObjectId) -> Result<Vec<TokenName>, Failure> {
        self.destroy_everywhere(key, version, id).await
    }

    fn clones(&self) -> bool {
        self.members().len() > 1 && self.0.settings.mode == Redundancy::Clone
    }

    async fn import_key(&self, renew: bool) -> Result<ImportKey, Failure> {
        self.key_to_import_under(renew).await
    }

    async fn import(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        let wrapped = &wrapped;
        self.make(new, Material::Wrapped { import_key, wrapped }).await
    }

    async fn sign_audit(&self, head: &AuditHead) -> Result<AuditSignature, Failure> {
        let ask = Ask::new(1, std::iter::empty());
        let signed = self
            .run(&ask, |token| async move { token.sign_audit(head).await })
            .await;
        signed.map(|(signature, _)| signature)
    }

    async fn audit_keys(&self) -> Result<Vec<AuditKey>, Failure> {
        let mut keys = Vec::new();
        for member in self.members().iter().filter(|member| member.serves()) {
            let key = member.token.audit_key().await?;
            // Tokens that replicate have one between them.
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Err(self.none_serves());
        }
        Ok(keys)
    }

    async fn unwrap_sealed(&self, call: SealedCall) -> Result<Verified<SealedReply>, Failure> {
        let request = SealedRequest::decode(&call.request)?;
        let edeks = request.edeks.iter().map(|edek| (&edek.key, edek.version));
        let ask = Ask::new(request.edeks.len(), edeks);
        let (done, place) = self
            .run(&ask, |token| {
                let call = call.clone();
                async move { token.unwrap_sealed(call).await }
            })
            .await?;
        let by = self.members()[place].label().to_owned();
        Ok(Verified { done, by })
    }

    async fn transfer(&self, call: TransferCall) -> Result<Verified<TransferReply>, Failure> {
        let request = TransferRequest::decode(&call.signed.request)?;
        let from = request.edeks.iter().map(|(version, _)| (&request.from.key, *version));
        let ask = Ask::new(request.edeks.len(), from.chain([(&request.to.key, call.to)]));
        let (done, place) = self
            .run(&ask, |token| {
                let call = call.clone();
                async move { token.transfer(call).await }
            })
            .await?;
        let by = self.members()[place].label().to_owned();
        Ok(Verified { done, by })
    }

    fn subscribe(&self) -> watch::Receiver<TokenState> {
        self.changes()
    }

    fn expect(&self, key: &KeyName, versions: &[(KeyVersion, Kcv)]) {
        self.expect_versions(key, versions);
    }

    fn rely_on(&self, lease: Lease) {
        *self.0.lease.write().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    async fn look_again(&self, places: &[(KeyName, KeyVersion)]) -> Result<(), Failure> {
        let each = self.members().iter().map(|member| member.token.look_again(places));
        futures::future::join_all(each).await.into_iter().collect()
    }

    fn measure(&self, registry: &mut Registry) {
        Self::measure(self, registry);
    }

    fn tokens(&self) -> Vec<TokenReport> {
        self.report()
    }

    fn unfit(&self) -> Vec<(String, UnfitVersion)> {
        let members = self.members().iter();
        members.flat_map(|member| Hsm::unfit(&member.token)).collect()
    }

    fn alarms(&self) -> watch::Receiver<Vec<Alarm>> {
        self.0.alarms.subscribe()
    }

    async fn resync(&self, label: &str, after: Option<(KeyName, KeyVersion)>) -> Result<Resynced, Failure> {
        self.fill(label, after).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_tokens_apart() {
        let config = |label: &str| TokenConfig::new("/m.so", label, "/pin");
        assert!(matches!(check_labels(&[]), Err(FleetError::NoToken)));
        assert!(check_labels(&[config("a"), config("b")]).is_ok());
        let error = check_labels(&[config("a"), config("b"), config("a")]).expect_err("twice");
        assert!(error.to_string().contains("\"a\""), "{error}");
        let mut named = config("a");
        named.name = Some("b".to_owned());
        assert!(check_labels(&[config("a"), named]).is_ok(), "of one label");
    }
}
