//! Typed answers and retries, against a key service that is only its face, over real mutual TLS.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub)]
mod pki;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use strongroom_kms_mint::{MintClient, Minted};
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{
        self as pb, MintRequest, MintResponse, RewrapRequest, RewrapResponse, RewrapResult,
        mint_server::{Mint, MintServer},
        rewrap_result,
    },
    transport,
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

/// Fails its first call; then mints zeros and re-wraps every other EDEK.
#[derive(Default, Clone)]
struct Face {
    calls: Arc<AtomicUsize>,
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
}

async fn connect(face: &Face) -> MintClient {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let tls = pki::load(&pki.issue("kms", "service/kms"));
    let routes = Routes::new(MintServer::new(face.clone()));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let metadata = pki::load(&pki.issue("metadata", "service/metadata"));
    MintClient::connect(&remote.parse().expect("an address"), &metadata)
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
