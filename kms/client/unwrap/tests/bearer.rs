//! A reader with a bearer token and no certificate, against a key service that is only its face, over real TLS.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub, dead_code)]
mod pki;

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{
    Edek, EdekSuite, KeyVersion, Reason, ZoneId,
    kms::v1::{
        ItemFailure, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        unwrap_result,
        unwrap_server::{Unwrap, UnwrapServer},
    },
    transport::{self, BearerFiles, BearerIdentity},
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

const TOKEN: &str = "header.claims.signature";

/// Opens EDEKs of whoever shows the token, but for keys that are sealed only while that is demanded.
#[derive(Clone, Default)]
struct Face {
    demands: Arc<AtomicBool>,
    sealed_calls: Arc<AtomicUsize>,
}

#[async_trait]
impl Unwrap for Face {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let shown = request.metadata().get("authorization").expect("a token");
        assert_eq!(shown, &format!("Bearer {TOKEN}"));
        let results = request.into_inner().edeks.into_iter().map(|edek| {
            let demanded = edek.key_name == "strict" && self.demands.load(Ordering::Relaxed);
            let result = if demanded {
                unwrap_result::Result::Failure(ItemFailure {
                    reason: Reason::SealedRequired.as_str().to_owned(),
                    message: "sealed only".to_owned(),
                })
            } else {
                unwrap_result::Result::Dek(vec![edek.wrapped[0]; 32].into())
            };
            UnwrapResult { result: Some(result) }
        });
        Ok(Response::new(UnwrapResponse {
            results: results.collect(),
        }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        self.sealed_calls.fetch_add(1, Ordering::Relaxed);
        Err(Status::internal("nobody signed anything"))
    }
}

fn edek(key: &str, byte: u8) -> Edek {
    Edek {
        key: key.parse().expect("a key name"),
        version: KeyVersion(0),
        zone: ZoneId::from_bytes([7; 16]),
        suite: EdekSuite::Kw,
        wrapped: Bytes::from(vec![byte; 40]),
    }
}

#[tokio::test]
async fn a_bearer_token_opens_what_is_not_sealed_only_and_is_told_the_way_to_what_is() {
    let pki = pki::Pki::new();
    let kms = pki.issue("kms", "service/kms");
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let face = Face::default();
    face.demands.store(true, Ordering::Relaxed);
    let (tls, routes) = (pki::load(&kms), Routes::new(UnwrapServer::new(face.clone())));
    tokio::spawn(
        async move { transport::serve_without_certificates(listener, &tls, routes, std::future::pending()).await },
    );
    let file = pki.path("token");
    std::fs::write(&file, TOKEN).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("own file");
    let files = BearerFiles {
        ca: kms.ca,
        bearer_token_file: file,
    };
    let bearer = BearerIdentity::load(&files).expect("usable");
    let client = UnwrapClient::connect_bearer(&remote.parse().expect("an address"), &bearer);

    let (plain, strict) = (edek("payroll", 1), edek("strict", 2));
    let (opened, refused) = tokio::join!(client.unwrap(&plain), client.unwrap(&strict));
    assert_eq!(opened.expect("opens").expose(), &[1; 32]);
    let failure = refused.expect_err("sealed only");
    assert_eq!(failure.reason, Reason::SealedRequired);
    for said in ["key strict", "bearer token", "use an identity with a certificate"] {
        assert!(failure.message.contains(said), "{failure}");
    }
    // The demand is not remembered where it cannot be met.
    face.demands.store(false, Ordering::Relaxed);
    assert_eq!(client.unwrap(&strict).await.expect("lifted").expose(), &[2; 32]);

    client.seal_always();
    let failure = client.unwrap(&plain).await.expect_err("cannot be sealed");
    assert_eq!(failure.reason, Reason::SealedRequired);
    assert!(failure.message.contains("key payroll"), "{failure}");
    assert_eq!(face.sealed_calls.load(Ordering::Relaxed), 0, "nothing is sent unsigned");
}
