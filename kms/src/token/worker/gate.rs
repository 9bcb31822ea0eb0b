//! Whose signed requests are answered, for sealed DEKs or for EDEKs that are moved: the worker's own check of one, against the CA
//! in a file that it reads itself, and follows while it runs.

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use strongroom_proto::{
    Failure, KeyName, Reason,
    sealed::{ANSWER_DOMAIN, REQUEST_DOMAIN, RequestDigest, SEALED_LIFETIME_MS_MAX, SealedRequest},
    transfer::{TRANSFER_DOMAIN, TRANSFER_LIFETIME_MS_MAX, TransferRequest},
    transport::{CertificateSignature, PeerIdentity, TlsError, TlsFiles, TlsIdentity},
};

use super::taken::{Moment, NotTaken, Taken, ms};
use crate::token::{SealedOnly, SealedReply};

/// How far a user's clock may be ahead of this machine's, in milliseconds. For as long after its start the worker refuses
/// every request: one that an earlier worker took could be dated that far ahead.
const AHEAD_MS_MAX: u64 = 2_000;
/// How long a request of any kind can hold, from its date on or from when it was taken.
const HOLDS: Duration = Duration::from_millis(
    AHEAD_MS_MAX
        + if SEALED_LIFETIME_MS_MAX > TRANSFER_LIFETIME_MS_MAX {
            SEALED_LIFETIME_MS_MAX
        } else {
            TRANSFER_LIFETIME_MS_MAX
        },
);

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
            taken: Mutex::new(Taken::new(HOLDS)),
        })
    }

    /// The request, if its user signed it, it holds at `now` and was not taken before.
    ///
    /// # Errors
    /// `permission-denied` if it is nobody's, another's or was taken before; `signed-too-early` if it is out of date, or the
    /// clock was set back; `overloaded` if too many of its signer, or in all, are remembered.
    pub(super) fn admit<R: Signed>(
        &self,
        encoded: &[u8],
        signature: &CertificateSignature,
        now: Moment,
    ) -> Result<R, Failure> {
        let signer = self.own.trust().verify(R::DOMAIN, encoded, signature, now.wall)?;
        let request = R::decode(encoded)?;
        check_signer(&signer, request.signer())?;
        let (issued_ms, expires_ms) = request.times_ms();
        self.check_time(issued_ms, expires_ms, now.wall_ms())?;
        self.take(RequestDigest::of(encoded), issued_ms, signer, now)?;
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
        if issued_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
            let ahead = issued_ms - now_ms;
            return Err(refused(&format!(
                "it is dated {ahead} ms ahead of the token worker's clock; set this machine's clock right"
            )));
        }
        if issued_ms <= self.started_ms.saturating_add(AHEAD_MS_MAX) {
            return Err(early("was signed before the token worker took requests; sign another"));
        }
        if expires_ms < now_ms {
            return Err(early("has expired; sign another"));
        }
        Ok(())
    }

    fn take(&self, digest: RequestDigest, issued_ms: u64, signer: PeerIdentity, now: Moment) -> Result<(), Failure> {
        // Nothing is left half done by a panic in here.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.take(digest, issued_ms, signer, now).map_err(|why| match why {
            NotTaken::Before => refused("it was answered before, and each is answered once"),
            NotTaken::BelowFloor { wait } => early(&format!(
                "is dated no later than some that were answered and are forgotten, since the clock of the token worker's machine \
                 was set back; sign another in {} s, or restart the key service",
                wait.as_secs() + 1
            )),
            NotTaken::Full(text) => Failure::new(Reason::Overloaded, text),
        })
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

fn early(why: &str) -> Failure {
    Failure::new(Reason::SignedTooEarly, format!("the signed request {why}"))
}

#[cfg(test)]
#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub, dead_code, reason = "tests of the whole crate use it too")]
mod pki;

#[cfg(test)]
#[path = "../../../tests/support/sealed_user.rs"]
#[allow(unreachable_pub, dead_code, reason = "tests of the whole crate use it too")]
mod sealed_user;

#[cfg(test)]
mod tests {
    use strongroom_proto::{Edek, EdekSuite, KeyVersion, ZoneId};

    use super::{
        pki::{Pki, load},
        sealed_user::{SealedUser, Signed},
        *,
    };

    /// A gate, a user, and both clocks of the machine in the gate's hands.
    struct Scene {
        _pki: Pki,
        gate: Gate,
        user: SealedUser,
        start: Moment,
    }

    impl Scene {
        fn new() -> Self {
            let (pki, start) = (Pki::new(), Moment::now());
            let own = pki.issue("token-worker", "service/token-worker");
            let options = SealedOptions {
                client_ca: own.ca,
                certificate: own.certificate,
                key: own.key,
                only: Vec::new(),
            };
            let gate = Gate::open(&options, start.wall).expect("a certificate of its own");
            let user = SealedUser::new(load(&pki.issue("alice", "user/alice")));
            Self {
                _pki: pki,
                gate,
                user,
                start,
            }
        }

        /// So many seconds by each clock.
        fn at(&self, wall_s: u64, steady_s: u64) -> Moment {
            Moment {
                wall: self.start.wall + Duration::from_secs(wall_s),
                steady: self.start.steady + Duration::from_secs(steady_s),
            }
        }

        fn signed(&self, wall_s: u64) -> Signed {
            let edek = Edek {
                key: "payroll".parse().expect("a key name"),
                version: KeyVersion(0),
                zone: ZoneId::from_bytes([1; 16]),
                suite: EdekSuite::Kw,
                wrapped: Bytes::from_static(&[0; 48]),
            };
            let mut request = self.user.request(&[edek]);
            request.issued_ms = self.at(wall_s, 0).wall_ms();
            request.expires_ms = request.issued_ms + 30_000;
            self.user.sign(request)
        }

        fn admit(&self, signed: &Signed, now: Moment) -> Result<(), Failure> {
            let admitted: Result<SealedRequest, Failure> = self.gate.admit(&signed.encoded, &signed.signature, now);
            admitted.map(drop)
        }

        fn refused(&self, signed: &Signed, now: Moment, reason: Reason, word: &str) {
            let failure = self.admit(signed, now).expect_err("must be refused");
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.message.contains(word), "{failure} lacks {word:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_lets_no_request_in_twice() {
        let scene = Scene::new();
        let first = scene.signed(10);
        scene.admit(&first, scene.at(10, 10)).expect("it holds");

        // An hour ahead for a second.
        let (late, ahead) = (scene.signed(11), scene.signed(3611));
        scene.refused(&late, scene.at(3611, 11), Reason::SignedTooEarly, "has expired");
        scene
            .admit(&ahead, scene.at(3611, 11))
            .expect("the user's clock is ahead too");
        let (again, denied) = ("answered before", Reason::PermissionDenied);
        scene.refused(&first, scene.at(12, 12), denied, again);
        scene.refused(&ahead, scene.at(12, 12), denied, "ahead of the token worker's clock");
        let second = scene.signed(12);
        scene
            .admit(&second, scene.at(12, 12))
            .expect("the clock is right again");

        // What was taken is forgotten in time, and the clock is set back to before that.
        scene.admit(&scene.signed(200), scene.at(200, 200)).expect("it holds");
        for forgotten in [&first, &second] {
            scene.refused(forgotten, scene.at(13, 201), Reason::SignedTooEarly, "was set back");
        }
        scene
            .admit(&scene.signed(14), scene.at(14, 202))
            .expect("later than those");
        // It comes to the hour of the request that was ahead.
        scene.refused(&ahead, scene.at(3612, 3800), denied, again);
    }
}
