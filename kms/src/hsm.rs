//! What the key service asks of its tokens, as a trait: [`crate::fleet::Fleet`] is the real one and [`Token`] a single
//! one; tests of the service's own logic put a stand-in in its place that says it is one.

use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use strongroom_proto::{Edek, EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};
use tokio::sync::watch;

use crate::{
    audit::{AuditHead, AuditKey, AuditSignature},
    fleet::{Alarm, Resynced, TokenReport},
    token::{
        CALL_TIMEOUT, ImportKey, Kcv, Listing, NewVersion, SealedCall, SealedReply, Token, TokenKeyVersion, TokenName,
        TokenObjectId, TokenState, TransferCall, TransferReply, UnfitVersion, Verified, WireDek,
    },
};

pub use crate::keys::Lease;

/// What tokens hold.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Key versions.
    pub versions: Vec<TokenKeyVersion>,
    /// What looks like a version and is not fit for use, each with the label of the token that holds it.
    pub unfit: Vec<(String, UnfitVersion)>,
    /// Labels of tokens that were not looked into, because they were away or did not answer. What is not found may be there.
    pub unseen: Vec<String>,
}

/// A token, reached asynchronously. Every call is bounded in time and fails with
/// [`strongroom_proto::Reason::TokenUnavailable`] or `PinRejected` while the token cannot be used.
pub trait Hsm: Send + Sync + 'static {
    /// Whether the token answers now, and if not, why.
    fn check(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How long a call of [`Hsm::generate`] or [`Hsm::import`] has a token at work at most. Nothing comes of it afterwards.
    fn call_limit(&self) -> Duration {
        CALL_TIMEOUT
    }

    /// Every key version in the token, each as it was at some time since the call. It takes minutes where there are thousands.
    fn list_versions(&self) -> impl Future<Output = Result<Vec<TokenKeyVersion>, Failure>> + Send;

    /// What the token holds in certain places now, each of which is looked for: quick for a few of them.
    fn look_for(&self, places: &[(KeyName, KeyVersion)]) -> impl Future<Output = Result<Held, Failure>> + Send;

    /// The same of versions that are known to be of one suite, for less where they were not found before. That there is no other object
    /// of such a version in another suite is not looked at.
    fn look_for_of(
        &self,
        _suite: EdekSuite,
        places: &[(KeyName, KeyVersion)],
    ) -> impl Future<Output = Result<Held, Failure>> + Send {
        self.look_for(places)
    }

    /// Generates a key version, or finds the one that an earlier attempt made with the same id. A version that exists
    /// with another id is refused with `already-exists`.
    fn generate(&self, new: &NewVersion) -> impl Future<Output = Result<TokenKeyVersion, Failure>> + Send;

    /// Suites that keys can be made with, the ones to be preferred first: those that every token serves.
    fn suites(&self) -> impl Future<Output = Result<Vec<EdekSuite>, Failure>> + Send;

    /// Destroys a key version, if its object has that `CKA_ID`; one with another is refused with `key-version-unusable`, and
    /// nothing is destroyed. A version that is gone already is no failure, so that a call that was cut off is repeated. Where
    /// there are several tokens it is gone from all of them when this succeeds. Answers the tokens in which the object was
    /// looked for afterwards, by its `CKA_ID` and by its label, and not found.
    ///
    /// Nothing can be undone: whoever calls has stored what it is about to do, and calls again after a crash.
    fn destroy(
        &self,
        key: &KeyName,
        version: KeyVersion,
        id: TokenObjectId,
    ) -> impl Future<Output = Result<Vec<TokenName>, Failure>> + Send;

    /// The public key to wrap an EZ key to that is to be brought in (RSA-OAEP with the hash it names, no label). It lives in
    /// one token, survives restarts, and serves until `renew` asks for another, which ends it.
    fn import_key(&self, renew: bool) -> impl Future<Output = Result<ImportKey, Failure>> + Send;

    /// Brings in a version. `new` is drawn and stored before, as for [`Hsm::generate`], and a repeat with the same id finds
    /// what the first attempt made; `import_key` is the id of the import key that the raw AES key is `wrapped` to. Refused
    /// with `invalid-argument` if that import key is gone or does not open it, or if the key has another size than `new`
    /// says. The answer's origin is [`crate::token::Origin::Imported`]; the caller records it, and should let such a key be
    /// rolled before it mints, since somebody outside had it.
    fn import(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> impl Future<Output = Result<TokenKeyVersion, Failure>> + Send;

    /// `count` EDEKs of fresh DEKs.
    fn mint(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> impl Future<Output = Result<Vec<Bytes>, Failure>> + Send;

    /// Wraps EDEKs again under version `to`; one result for each item, in order.
    fn rewrap(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> impl Future<Output = Result<Vec<Result<Bytes, Failure>>, Failure>> + Send;

    /// The DEKs; one result for each EDEK, in order.
    fn unwrap(&self, edeks: &[Edek]) -> impl Future<Output = Result<Vec<Result<WireDek, Failure>>, Failure>> + Send;

    /// The DEKs of a signed request, sealed to who signed it; a token checks that by itself.
    fn unwrap_sealed(&self, call: SealedCall) -> impl Future<Output = Result<Verified<SealedReply>, Failure>> + Send;

    /// EDEKs moved to another key or zone at a signed request; a token checks that by itself.
    fn transfer(&self, call: TransferCall) -> impl Future<Output = Result<Verified<TransferReply>, Failure>> + Send;

    /// Has the head of an audit log signed by a token's audit key, which is made if there is none.
    fn sign_audit(&self, head: &AuditHead) -> impl Future<Output = Result<AuditSignature, Failure>> + Send;

    /// The public half of every audit key that [`Self::sign_audit`] may sign with now.
    fn audit_keys(&self) -> impl Future<Output = Result<Vec<AuditKey>, Failure>> + Send;

    /// What the token's supervisor knows, and every change of it.
    fn subscribe(&self) -> watch::Receiver<TokenState>;

    /// Says which versions of a key there should be, and with which check values. Replaces what was said of it before;
    /// only who compares several tokens has a use for it.
    fn expect(&self, _key: &KeyName, _versions: &[(KeyVersion, Kcv)]) {}

    /// Says by which lease what [`Self::expect`] was told is still so. Without one it always is.
    fn rely_on(&self, _lease: Lease) {}

    /// Has whatever serves look for versions that another instance has destroyed, and forget what was derived from those that are
    /// gone. Fails if that is not done everywhere.
    fn look_again(&self, _places: &[(KeyName, KeyVersion)]) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// Adds what is measured of the tokens to what monitoring is told.
    fn measure(&self, _registry: &mut Registry) {}

    /// Whether keys are cloned from token to token, so that a version may be found as a clone.
    fn clones(&self) -> bool {
        false
    }

    /// What there is to say of each token; nothing where there is only one and nobody keeps count.
    fn tokens(&self) -> Vec<TokenReport> {
        Vec::new()
    }

    /// Versions that [`Hsm::list_versions`] last left out, each with the label of the token that holds it, and why.
    fn unfit(&self) -> Vec<(String, UnfitVersion)> {
        Vec::new()
    }

    /// Alarms about the tokens since the start, the newest last.
    fn alarms(&self) -> watch::Receiver<Vec<Alarm>> {
        watch::channel(Vec::new()).1
    }

    /// Fills up the token with that label with the versions that it lacks, those behind `after`, for less than ten seconds. There may
    /// be more: `next` of the answer says behind which.
    fn resync(
        &self,
        label: &str,
        _after: Option<(KeyName, KeyVersion)>,
    ) -> impl Future<Output = Result<Resynced, Failure>> + Send {
        let text = format!("there is no other token that token {label:?} could be filled up from");
        std::future::ready(Err(Failure::new(Reason::InvalidArgument, text)))
    }
}

impl Hsm for Token {
    async fn check(&self) -> Result<(), Failure> {
        self.profile().await.map(drop)
    }

    async fn list_versions(&self) -> Result<Vec<TokenKeyVersion>, Failure> {
        Self::list_versions(self).await
    }

    async fn look_for(&self, places: &[(KeyName, KeyVersion)]) -> Result<Held, Failure> {
        Ok(held(self, Self::look_for(self, places).await?))
    }

    async fn look_for_of(&self, suite: EdekSuite, places: &[(KeyName, KeyVersion)]) -> Result<Held, Failure> {
        Ok(held(self, Self::look_for_of(self, suite, places).await?))
    }

    async fn generate(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        Self::generate(self, new).await
    }

    async fn suites(&self) -> Result<Vec<EdekSuite>, Failure> {
        Ok(self.profile().await?.suites)
    }

    async fn destroy(&self, key: &KeyName, version: KeyVersion, id: TokenObjectId) -> Result<Vec<TokenName>, Failure> {
        Ok(vec![Self::destroy(self, key, version, id).await?])
    }

    async fn import_key(&self, renew: bool) -> Result<ImportKey, Failure> {
        Self::import_key(self, renew).await
    }

    async fn import(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        Self::import(self, new, import_key, wrapped).await
    }

    async fn mint(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        Self::mint(self, key, version, zone, count).await
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Vec<Result<Bytes, Failure>>, Failure> {
        Self::rewrap(self, key, to, zone, items).await
    }

    async fn unwrap(&self, edeks: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        Self::unwrap(self, edeks).await
    }

    async fn unwrap_sealed(&self, call: SealedCall) -> Result<Verified<SealedReply>, Failure> {
        let done = Self::unwrap_sealed(self, call).await?;
        let by = self.label().to_owned();
        Ok(Verified { done, by })
    }

    async fn transfer(&self, call: TransferCall) -> Result<Verified<TransferReply>, Failure> {
        let done = Self::transfer(self, call).await?;
        let by = self.label().to_owned();
        Ok(Verified { done, by })
    }

    async fn sign_audit(&self, head: &AuditHead) -> Result<AuditSignature, Failure> {
        Self::sign_audit(self, head).await
    }

    async fn audit_keys(&self) -> Result<Vec<AuditKey>, Failure> {
        Ok(vec![self.audit_key().await?])
    }

    fn subscribe(&self) -> watch::Receiver<TokenState> {
        Self::subscribe(self)
    }

    async fn look_again(&self, places: &[(KeyName, KeyVersion)]) -> Result<(), Failure> {
        Self::look_again(self, places).await
    }

    fn unfit(&self) -> Vec<(String, UnfitVersion)> {
        let labelled = |unfit| (self.label().to_owned(), unfit);
        Self::unfit(self).into_iter().map(labelled).collect()
    }
}

fn held(token: &Token, Listing { versions, unfit }: Listing) -> Held {
    let labelled = |unfit| (token.label().to_owned(), unfit);
    Held {
        versions,
        unfit: unfit.into_iter().map(labelled).collect(),
        unseen: Vec::new(),
    }
}
