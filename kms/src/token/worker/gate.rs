//! Whose signed requests are answered, for sealed DEKs or for EDEKs that are moved: the worker's own check of one, against the CA
//! in a file that it reads itself, and follows while it runs.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use strongroom_proto::{
    Failure, KeyName, Reason,
    sealed::{ANSWER_DOMAIN, REQUEST_DOMAIN, RequestDigest, SealedRequest},
    transfer::{TRANSFER_DOMAIN, TransferRequest},
    transport::{CertificateSignature, PeerIdentity, TlsError, TlsFiles, TlsIdentity},
};

use crate::token::{SealedOnly, SealedReply};

/// How far a user's clock may be ahead of this machine's, in milliseconds. For as long after its start the worker refuses
/// every request: one that an earlier worker took could be dated that far ahead.
const AHEAD_MS_MAX: u64 = 2_000;
/// Requests that are remembered at once, each until it expires.
const REMEMBERED_MAX: usize = 1 << 18;

/// What a user can sign.
pub(super) trait Signed: Sized {
    /// What his signature is for.
    const DOMAIN: &'static str;

    fn decode(encoded: &[u8]) -> Result<Self, Failure>;

    fn signer(&self) -> &PeerIdentity;

    /// When it was signed, and when it ends.
    fn times_ms(&self) -> (u64, u64);
}

impl Signed for SealedRequest {
    const DOMAIN: &'static str = REQUEST_DOMAIN;

    fn decode(encoded: &[u8]) -> Result<Self, Failure> {
        Self::decode(encoded)
    }

    fn signer(&self) -> &PeerIdentity {
        &self.signer
    }

    fn times_ms(&self) -> (u64, u64) {
        (self.issued_ms, self.expires_ms)
    }
}

impl Signed for TransferRequest {
    const DOMAIN: &'static str = TRANSFER_DOMAIN;

    fn decode(encoded: &[u8]) -> Result<Self, Failure> {
        Self::decode(encoded)
    }

    fn signer(&self) -> &PeerIdentity {
        &self.signer
    }

    fn times_ms(&self) -> (u64, u64) {
        (self.issued_ms, self.expires_ms)
    }
}

/// What the worker needs for sealed delivery.
#[derive(Debug, Clone)]
pub struct SealedOptions {
    /// `--client-ca`: certificates of the CA that vouches for users.
    pub client_ca: PathBuf,
    /// `--answer-certificate`: the worker's own certificate.
    pub certificate: PathBuf,
    /// `--answer-key`: its private key.
    pub key: PathBuf,
    /// `--sealed-only`: keys whose DEKs are handed out sealed only.
    pub only: Vec<SealedOnly>,
}

/// Sealed delivery in this worker: for which keys it is the only one, and whether there is any.
#[derive(Debug)]
pub(super) struct Delivery {
    only: Vec<SealedOnly>,
    gate: Result<Gate, Failure>,
}

impl Delivery {
    /// A certificate that cannot be used costs sealed delivery and nothing else: what is sealed only stays so.
    pub(super) fn open(options: Option<&SealedOptions>, now: SystemTime) -> Self {
        let Some(options) = options else {
            let text =
                "sealed delivery and transfers are not set up; add a table [sealed] to the key service's configuration";
            return Self {
                only: Vec::new(),
                gate: Err(Failure::new(Reason::TokenRefused, text)),
            };
        };
        let gate = Gate::open(options, now).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            let text = format!("{error}{}", source.unwrap_or_default());
            tracing::error!("{text}");
            Failure::new(Reason::TokenRefused, text)
        });
        Self {
            only: options.only.clone(),
            gate,
        }
    }

    /// The gate.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn gate(&self) -> Result<&Gate, Failure> {
        self.gate.as_ref().map_err(Clone::clone)
    }

    /// Takes up certificates that are replaced, the CA's included, for ever.
    pub(super) fn follow(&self) -> impl Future<Output = ()> + 'static {
        let own = self.gate.as_ref().ok().map(|gate| gate.own.clone());
        async move {
            if let Some(own) = own {
                own.keep_fresh().await;
            }
        }
    }

    /// Whether DEKs of `key` may go out sealed only.
    pub(super) fn is_sealed_only(&self, key: &KeyName) -> bool {
        self.only.iter().any(|only| only.covers(key))
    }

    /// Refuses to hand out a DEK of `key` in the clear if it may go out sealed only.
    pub(super) fn check_unsealed(&self, key: &KeyName) -> Result<(), Failure> {
        if self.is_sealed_only(key) {
            return Err(Failure::new(
                Reason::SealedRequired,
                format!("DEKs of key {key} are handed out by sealed delivery only"),
            ));
        }
        Ok(())
    }

    /// Refuses to move DEKs of a key that may go out sealed only to one whose DEKs may go out otherwise.
    pub(super) fn check_transfer(&self, from: &KeyName, to: &KeyName) -> Result<(), Failure> {
        if self.is_sealed_only(from) && !self.is_sealed_only(to) {
            return Err(Failure::new(
                Reason::SealedRequired,
                format!(
                    "DEKs of key {from} are handed out by sealed delivery only, and those of key {to} are not, so none is \
                     moved there"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses to take in a version of `key` that was not made in a token if its DEKs may go out sealed only: whoever knows
    /// an EZ key opens its EDEKs without any token.
    pub(super) fn check_import(&self, key: &KeyName) -> Result<(), Failure> {
        if self.is_sealed_only(key) {
            return Err(Failure::new(
                Reason::TokenRefused,
                format!(
                    "DEKs of key {key} are handed out by sealed delivery only, so no version of it is brought in from elsewhere"
                ),
            ));
        }
        Ok(())
    }
}

/// The check, and the worker's signature.
pub(super) struct Gate {
    own: TlsIdentity,
    started_ms: u64,
    taken: Mutex<Taken>,
}

/// Requests that were taken and have not expired.
#[derive(Default)]
struct Taken {
    known: HashSet<RequestDigest>,
    by_expiry: BTreeSet<(u64, RequestDigest)>,
}

/// Why there is no sealed delivery.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error("the token worker's certificate for sealed delivery cannot be used")]
    Tls(#[from] TlsError),
    #[error(
        "the certificate {} is that of {found}; sealed delivery needs one for spiffe://strongroom/service/token-worker",
        path.display()
    )]
    WrongCertificate { path: PathBuf, found: String },
}

impl Gate {
    /// Loads the certificates. `now` is when the worker started: what was signed before is not taken.
    pub(super) fn open(options: &SealedOptions, now: SystemTime) -> Result<Self, GateError> {
        let files = TlsFiles {
            ca: options.client_ca.clone(),
            certificate: options.certificate.clone(),
            key: options.key.clone(),
        };
        let own = TlsIdentity::load(&files, now)?;
        if *own.identity() != PeerIdentity::TokenWorker {
            return Err(GateError::WrongCertificate {
                path: options.certificate.clone(),
                found: own.identity().short(),
            });
        }
        Ok(Self {
            own,
            started_ms: ms(now),
            taken: Mutex::default(),
        })
    }

    /// The request, if its user signed it, it holds at `now` and was not taken before.
    ///
    /// # Errors
    /// `permission-denied` if it is nobody's, another's or was taken before; `signed-too-early` if it is out of date;
    /// `overloaded` if too many are remembered.
    pub(super) fn admit<R: Signed>(
        &self,
        encoded: &[u8],
        signature: &CertificateSignature,
        now: SystemTime,
    ) -> Result<R, Failure> {
        let signer = self.own.trust().verify(R::DOMAIN, encoded, signature, now)?;
        let request = R::decode(encoded)?;
        check_signer(&signer, request.signer())?;
        let (issued_ms, expires_ms) = request.times_ms();
        self.check_time(issued_ms, expires_ms, ms(now))?;
        self.take(RequestDigest::of(encoded), expires_ms, ms(now))?;
        Ok(request)
    }

    /// The worker's own certificate and key, and the CA.
    pub(super) const fn own(&self) -> &TlsIdentity {
        &self.own
    }

    /// The answer with the worker's signature.
    pub(super) fn sign(&self, answer: Bytes) -> Result<SealedReply, Failure> {
        let signature = self.own.sign(ANSWER_DOMAIN, &answer)?;
        Ok(SealedReply { answer, signature })
    }

    fn check_time(&self, issued_ms: u64, expires_ms: u64, now_ms: u64) -> Result<(), Failure> {
        let early = |why: &str| {
            Err(Failure::new(
                Reason::SignedTooEarly,
                format!("the signed request {why}; sign another"),
            ))
        };
        if issued_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
            let ahead = issued_ms - now_ms;
            return Err(refused(&format!(
                "it is dated {ahead} ms ahead of the token worker's clock; set this machine's clock right"
            )));
        }
        if issued_ms <= self.started_ms.saturating_add(AHEAD_MS_MAX) {
            return early("was signed before the token worker took requests");
        }
        if expires_ms < now_ms {
            return early("has expired");
        }
        Ok(())
    }

    fn take(&self, digest: RequestDigest, expires_ms: u64, now_ms: u64) -> Result<(), Failure> {
        // Nothing is left half done by a panic in here.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.forget_before(now_ms);
        if taken.known.len() >= REMEMBERED_MAX {
            return Err(Failure::new(
                Reason::Overloaded,
                format!("the token worker remembers {REMEMBERED_MAX} signed requests already; try again after a pause"),
            ));
        }
        if !taken.known.insert(digest) {
            return Err(refused("it was answered before, and each is answered once"));
        }
        taken.by_expiry.insert((expires_ms, digest));
        Ok(())
    }
}

impl Taken {
    fn forget_before(&mut self, now_ms: u64) {
        while let Some(&(expires_ms, digest)) = self.by_expiry.first()
            && expires_ms < now_ms
        {
            self.by_expiry.pop_first();
            self.known.remove(&digest);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({:?})", self.own)
    }
}

fn check_signer(signer: &PeerIdentity, named: &PeerIdentity) -> Result<(), Failure> {
    if signer != named {
        let (signer, named) = (signer.short(), named.short());
        return Err(refused(&format!("{signer} signed it, and it names {named}")));
    }
    match signer {
        PeerIdentity::User(_) => Ok(()),
        // The key service has a certificate of the same CA, and must not be able to ask for itself.
        _ => Err(refused(&format!("{} is no user", signer.short()))),
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!("the signed request is refused: {why}"),
    )
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
