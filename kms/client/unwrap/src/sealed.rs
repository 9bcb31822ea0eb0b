//! Sealed delivery: signs requests with the certificate's key and opens answers with a key of this process.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use strongroom_proto::{
    Edek, Failure, KeyName, Reason,
    kms::v1::{UnwrapSealedRequest, UnwrapSealedResponse, unwrap_client::UnwrapClient as Grpc},
    sealed::{ANSWER_DOMAIN, REQUEST_DOMAIN, RequestDigest, SealedAnswer, SealedRequest, nonce},
    transport::{CallerChannel, PeerIdentity, Repeat, TlsIdentity, retry},
};
use tokio::sync::OnceCell;
use tonic::{Response, Status};

use crate::{
    Dek,
    recipient::{Recipient, TransportSecret},
};

/// How long a signed request holds: longer than one attempt may take.
const LIFETIME_MS: u64 = 30_000;
/// Keys that are known to be sealed only; when there are more, all are forgotten and learnt anew.
const KEYS_MAX: usize = 1024;
/// Transport keys that are remembered: token workers use theirs for as long as they run.
const TRANSPORT_KEYS_MAX: usize = 16;

/// What a client needs for sealed delivery.
pub(crate) struct Sealer {
    /// Signs requests; none of a caller with a bearer token.
    tls: Option<TlsIdentity>,
    always: AtomicBool,
    required: Mutex<HashSet<KeyName>>,
    recipient: OnceCell<Arc<Recipient>>,
    opened: Mutex<VecDeque<Arc<TransportSecret>>>,
}

impl Sealer {
    pub(crate) fn new(tls: Option<TlsIdentity>) -> Self {
        Self {
            tls,
            always: AtomicBool::new(false),
            required: Mutex::default(),
            recipient: OnceCell::new(),
            opened: Mutex::default(),
        }
    }

    /// From now on everything is asked for sealed.
    pub(crate) fn seal_always(&self) {
        self.always.store(true, Ordering::Relaxed);
    }

    /// Whether EDEKs of that key are to be asked for sealed.
    pub(crate) fn seals(&self, key: &KeyName) -> bool {
        self.always.load(Ordering::Relaxed) || locked(&self.required).contains(key)
    }

    /// Whether requests of this caller can be signed.
    ///
    /// # Errors
    /// Why not, of an EDEK of `key`, and the way out.
    pub(crate) fn check(&self, key: &KeyName) -> Result<(), Failure> {
        match self.tls {
            Some(_) => Ok(()),
            None => Err(unsigned(&format!("DEKs of key {key}"))),
        }
    }

    /// Remembers that the key service hands out that key's DEKs sealed only.
    pub(crate) fn require(&self, key: &KeyName) {
        let mut required = locked(&self.required);
        if required.len() >= KEYS_MAX {
            required.clear();
        }
        required.insert(key.clone());
    }

    /// The DEKs of at most [`strongroom_proto::sealed::SEALED_EDEKS_MAX`] EDEKs. Every attempt is signed anew, because each
    /// request is answered once.
    pub(crate) async fn unwrap(
        &self,
        grpc: &Grpc<CallerChannel>,
        edeks: &[Edek],
    ) -> Result<Vec<Result<Dek, Failure>>, Failure> {
        let tls = self.tls.as_ref().ok_or_else(|| unsigned("these DEKs"))?;
        let recipient = self.recipient.get_or_try_init(Recipient::generate).await?;
        let (digest, answer) = retry(Repeat::Harmless, || {
            let (mut grpc, signed) = (grpc.clone(), signed(tls, recipient, edeks));
            async move {
                let signed = signed?;
                let digest = RequestDigest::of(&signed.request);
                let answer = grpc.unwrap_sealed(signed).await?.into_inner();
                Ok::<_, Status>(Response::new((digest, answer)))
            }
        })
        .await?;
        self.open(tls, recipient, digest, answer, edeks.len())
    }

    /// Believes only a token worker's answer to exactly this request: anybody can seal something to a public key.
    fn open(
        &self,
        tls: &TlsIdentity,
        recipient: &Recipient,
        digest: RequestDigest,
        wire: UnwrapSealedResponse,
        count: usize,
    ) -> Result<Vec<Result<Dek, Failure>>, Failure> {
        let mut results: Vec<Option<Result<Dek, Failure>>> = (0..count).map(|_| None).collect();
        if let Some(signature) = wire.signature {
            let signer = tls
                .trust()
                .verify(ANSWER_DOMAIN, &wire.answer, &signature.try_into()?, SystemTime::now())
                .map_err(|failure| untrusted(&failure.message))?;
            let answer = SealedAnswer::decode(&wire.answer)?;
            if signer != PeerIdentity::TokenWorker || answer.request != digest || answer.results.len() != count {
                return Err(untrusted("it is not a token worker's answer to this request"));
            }
            for (place, result) in results.iter_mut().zip(&answer.results) {
                *place = Some(self.open_one(recipient, &answer, result));
            }
        }
        for refusal in wire.refusals {
            if let (Some(place), Some(failure)) = (results.get_mut(refusal.index as usize), refusal.failure) {
                let reason = failure.reason.parse().unwrap_or(Reason::Internal);
                *place = Some(Err(Failure::new(reason, failure.message)));
            }
        }
        let unanswered = || Err(untrusted("it leaves out an EDEK"));
        Ok(results
            .into_iter()
            .map(|result| result.unwrap_or_else(unanswered))
            .collect())
    }

    fn open_one(
        &self,
        recipient: &Recipient,
        answer: &SealedAnswer,
        result: &Result<strongroom_proto::sealed::SealedDek, Failure>,
    ) -> Result<Dek, Failure> {
        let dek = result.as_ref().map_err(Clone::clone)?;
        let mut keys = answer.transport_keys.iter();
        let key = keys
            .find(|key| key.made_in == dek.sealed_in)
            .ok_or_else(|| untrusted("it has no key to what it carries"))?;
        let known = locked(&self.opened).iter().find(|secret| secret.is_of(key)).cloned();
        let secret = match known {
            Some(secret) => secret,
            None => self.remember(recipient.open(key)?),
        };
        secret.unwrap(&dek.wrapped)
    }

    fn remember(&self, secret: TransportSecret) -> Arc<TransportSecret> {
        let secret = Arc::new(secret);
        let mut opened = locked(&self.opened);
        if opened.len() >= TRANSPORT_KEYS_MAX {
            opened.pop_front();
        }
        opened.push_back(Arc::clone(&secret));
        secret
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?})", self.tls)
    }
}

fn signed(tls: &TlsIdentity, recipient: &Recipient, edeks: &[Edek]) -> Result<UnwrapSealedRequest, Failure> {
    let issued_ms = now_ms();
    let request = SealedRequest {
        nonce: nonce(),
        issued_ms,
        expires_ms: issued_ms + LIFETIME_MS,
        signer: tls.identity().clone(),
        recipient: recipient.public().clone(),
        edeks: edeks.to_vec(),
    };
    let request = request.encode()?;
    let signature = tls.sign(REQUEST_DOMAIN, &request)?;
    Ok(UnwrapSealedRequest {
        request,
        signature: Some(signature.into()),
    })
}

/// Nothing is left half done by a panic while one of these is locked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a caller with a bearer token is told.
fn unsigned(what: &str) -> Failure {
    Failure::new(
        Reason::SealedRequired,
        format!(
            "{what} are handed out by sealed delivery only, which is asked for with a signature of the caller's certificate; this \
             caller has a bearer token, which signs nothing: use an identity with a certificate and its key"
        ),
    )
}

pub(crate) fn untrusted(why: &str) -> Failure {
    Failure::new(
        Reason::UntrustedPeer,
        format!("the sealed answer that came through the key service is not believed: {why}"),
    )
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
