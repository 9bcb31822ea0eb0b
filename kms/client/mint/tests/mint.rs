//! Typed answers and retries, against a key service that is only its face, over real mutual TLS.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub)]
mod pki;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use strongroom_kms_mint::{MintClient, Minted};
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{
        self as pb, MintRequest, MintResponse, RewrapRequest, RewrapResponse, RewrapResult,
        TransferRequest as WireTransfer, TransferResponse,
        mint_server::{Mint, MintServer},
        rewrap_result,
    },
    sealed::HeldIn,
    transfer::{Place, TRANSFER_DOMAIN, TransferRequest},
    transport::{self, CertificateSignature, TlsIdentity, Trust},
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

/// A transfer that came: who signed it, and its nonce.
type Seen = (String, [u8; 16]);

/// Fails its first call; then mints zeros, and re-wraps and moves every other EDEK.
#[derive(Default, Clone)]
struct Face {
    calls: Arc<AtomicUsize>,
    transfers: Arc<Mutex<Vec<Seen>>>,
    trust: Arc<Mutex<Option<Trust>>>,
}

impl Face {
    fn verified(&self, wire: WireTransfer) -> TransferRequest {
        let signature: CertificateSignature = wire.signature.expect("signed").try_into().expect("a signature");
        let trust = self.trust.lock().expect("unpoisoned").clone().expect("a CA");
        let now = std::time::SystemTime::now();
        let signer = trust
            .verify(TRANSFER_DOMAIN, &wire.request, &signature, now)
            .expect("verifies");
        let request = TransferRequest::decode(&wire.request).expect("a request");
        assert_eq!(signer, request.signer);
        let seen = (signer.short(), request.nonce);
        self.transfers.lock().expect("unpoisoned").push(seen);
        request
    }
}

#[async_trait]
impl Mint for Face {
    async fn mint(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Failure::new(Reason::Overloaded, "busy").into());
        }
        let request = request.into_inner();
        if request.key_name == "unknown" {
            return Err(Failure::new(Reason::KeyNotFound, "key unknown does not exist").into());
        }
        Ok(Response::new(MintResponse {
            key_name: request.key_name,
            key_version: 3,
            suite: "kw".to_owned(),
            wrapped: vec![Bytes::from_static(&[0; 40]); request.count as usize],
        }))
    }

    async fn rewrap(&self, request: Request<RewrapRequest>) -> Result<Response<RewrapResponse>, Status> {
        let results = request.into_inner().edeks.into_iter().map(|edek| RewrapResult {
            result: Some(if edek.key_version % 2 == 0 {
                rewrap_result::Result::Wrapped(edek.wrapped)
            } else {
                rewrap_result::Result::Failure(pb::ItemFailure {
                    reason: "key-version-unusable".to_owned(),
                    message: "odd".to_owned(),
                })
            }),
        });
        Ok(Response::new(RewrapResponse {
            key_version: 3,
            results: results.collect(),
        }))
    }

    async fn transfer(&self, request: Request<WireTransfer>) -> Result<Response<TransferResponse>, Status> {
        let asked = self.verified(request.into_inner());
        if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Failure::new(Reason::SignedTooEarly, "not yet").into());
        }
        let edeks = asked.edeks.into_iter().map(|(version, wrapped)| pb::WrappedDek {
            key_version: version.0,
            wrapped,
        });
        let request = RewrapRequest {
            edeks: edeks.collect(),
            ..RewrapRequest::default()
        };
        let done = self.rewrap(Request::new(request)).await?.into_inner();
        Ok(Response::new(TransferResponse {
            key_version: done.key_version,
            suite: "gcm".to_owned(),
            results: done.results,
            held_in: "worker".to_owned(),
        }))
    }
}

async fn connect(face: &Face) -> MintClient {
    connect_with(face).await.0
}

/// A client of the metadata service, and a user.
async fn connect_with(face: &Face) -> (MintClient, TlsIdentity) {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let tls = pki::load(&pki.issue("kms", "service/kms"));
    let routes = Routes::new(MintServer::new(face.clone()));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let metadata = pki::load(&pki.issue("metadata", "service/metadata"));
    *face.trust.lock().expect("unpoisoned") = Some(metadata.trust());
    let alice = pki::load(&pki.issue("alice", "user/alice"));
    (
        MintClient::connect(&remote.parse().expect("an address"), &metadata),
        alice,
    )
}

#[tokio::test]
async fn a_transfer_is_signed_anew_for_each_attempt_and_what_another_signed_is_presented_once() {
    let face = Face::default();
    let (client, alice) = connect_with(&face).await;
    let place = |key: &str| Place {
        key: key.parse().expect("a key name"),
        zone: ZoneId::from_bytes([7; 16]),
    };
    let wrapped = Bytes::from_static(&[0; 40]);
    let edeks = [0, 1].map(|version| (KeyVersion(version), wrapped.clone()));
    let done = client.transfer(&alice, &place("a"), &place("b"), &edeks).await;
    let done = done.expect("the second attempt succeeds");
    assert_eq!((done.version, done.suite), (KeyVersion(3), EdekSuite::Gcm));
    assert_eq!(done.held_in, Some(HeldIn::Worker));
    let odd = Failure::new(Reason::KeyVersionUnusable, "odd");
    assert_eq!(done.results, [Ok(wrapped), Err(odd)]);
    {
        let seen = face.transfers.lock().expect("unpoisoned");
        assert!(seen.iter().all(|(who, _)| who == "user alice"), "{seen:?}");
        assert_ne!(seen[0].1, seen[1].1, "two requests");
    }

    let now = std::time::SystemTime::now();
    let request = TransferRequest::new(alice.identity().clone(), place("a"), place("b"), edeks.to_vec(), now);
    let signed = request.sign(&alice).expect("signs");
    assert_eq!(client.present(&signed).await.expect("moved").results.len(), 2);
    face.calls.store(0, Ordering::SeqCst);
    let failure = client.present(&signed).await.expect_err("the user has to sign anew");
    assert_eq!(failure.reason, Reason::SignedTooEarly);
    assert_eq!(
        face.transfers.lock().expect("unpoisoned").len(),
        4,
        "presented once each"
    );
}

#[tokio::test]
async fn mint_and_rewrap_answer_in_types() {
    let face = Face::default();
    let client = connect(&face).await;
    let key: KeyName = "payroll".parse().expect("a key name");
    let zone = ZoneId::generate();
    let minted = client.mint(&key, &zone, 2).await.expect("the second call succeeds");
    let wrapped = Bytes::from_static(&[0; 40]);
    let expected = Minted {
        key: key.clone(),
        version: KeyVersion(3),
        suite: EdekSuite::Kw,
        edeks: vec![wrapped.clone(); 2],
    };
    assert_eq!(minted, expected);
    assert_eq!(face.calls.load(Ordering::SeqCst), 2);

    let edeks = [0, 1, 2].map(|version| (KeyVersion(version), wrapped.clone()));
    let rewrapped = client.rewrap(&key, &zone, &edeks).await.expect("called");
    assert_eq!(rewrapped.version, KeyVersion(3));
    let odd = Failure::new(Reason::KeyVersionUnusable, "odd");
    assert_eq!(rewrapped.results, [Ok(wrapped.clone()), Err(odd), Ok(wrapped)]);

    let unknown = "unknown".parse().expect("a key name");
    let failure = client.mint(&unknown, &zone, 1).await.expect_err("no such key");
    assert_eq!(failure, Failure::new(Reason::KeyNotFound, "key unknown does not exist"));
    assert_eq!(face.calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_key_service_that_is_not_there_is_named_within_the_wait_of_the_metadata_service() {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let metadata = pki::load(&pki.issue("metadata", "service/metadata"));
    let client = MintClient::connect(&address.parse().expect("an address"), &metadata);
    let key = "payroll".parse().expect("a key name");
    let mint_wait = std::time::Duration::from_secs(5);
    let outcome = tokio::time::timeout(mint_wait, client.mint(&key, &ZoneId::generate(), 1)).await;
    let failure = outcome.expect("in time").expect_err("nobody listens");
    assert_eq!(failure.reason, Reason::Unavailable);
    let named = format!("cannot reach the kms service at {address}");
    assert!(failure.message.contains(&named), "{failure}");
}
