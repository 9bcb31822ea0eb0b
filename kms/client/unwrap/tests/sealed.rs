//! Sealed delivery against a key service that is only its face, honest or not, over real mutual TLS. What a real token
//! worker makes of such requests is tested with the worker.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub, dead_code)]
mod pki;

use std::sync::{Arc, Mutex};

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrap as _},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use bytes::Bytes;
use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason, ZoneId,
    kms::v1::{
        self as pb, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        unwrap_result,
        unwrap_server::{Unwrap, UnwrapServer},
    },
    sealed::{ANSWER_DOMAIN, HeldIn, OaepHash, RequestDigest, SealedAnswer, SealedDek, SealedRequest, TransportKey},
    transport::{self, TlsIdentity},
};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, async_trait, service::Routes};

const TRANSPORT_KEY: [u8; 32] = [8; 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Manner {
    #[default]
    Honest,
    /// Signs with its own certificate, as whoever seals a DEK of his choice would have to.
    SignsItself,
    RepeatsAnOldAnswer,
    LeavesTheSignatureOut,
    ChangesABit,
    Refuses,
}

#[derive(Clone)]
struct Face {
    worker: Arc<TlsIdentity>,
    kms: Arc<TlsIdentity>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    manner: Manner,
    sealed_only: bool,
    open_calls: usize,
    sealed_calls: Vec<usize>,
    too_early: usize,
    old: Option<UnwrapSealedResponse>,
}

#[async_trait]
impl Unwrap for Face {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let mut seen = self.seen.lock().expect("unpoisoned");
        seen.open_calls += 1;
        let result = |edek: &pb::Edek| {
            let result = if seen.sealed_only {
                unwrap_result::Result::Failure(item(Reason::SealedRequired))
            } else {
                unwrap_result::Result::Dek(dek(edek.key_version).to_vec().into())
            };
            UnwrapResult { result: Some(result) }
        };
        let results = request.into_inner().edeks.iter().map(result).collect();
        Ok(Response::new(UnwrapResponse { results }))
    }

    async fn unwrap_sealed(
        &self,
        request: Request<UnwrapSealedRequest>,
    ) -> Result<Response<UnwrapSealedResponse>, Status> {
        let asked = request.into_inner();
        let request = SealedRequest::decode(&asked.request)?;
        let mut seen = self.seen.lock().expect("unpoisoned");
        seen.sealed_calls.push(request.edeks.len());
        if seen.too_early > 0 {
            seen.too_early -= 1;
            return Err(Failure::new(Reason::SignedTooEarly, "not yet").into());
        }
        let signer = if seen.manner == Manner::SignsItself {
            &self.kms
        } else {
            &self.worker
        };
        let mut answer = self.answer(signer, &asked.request, &request);
        match seen.manner {
            Manner::Honest | Manner::SignsItself => {}
            Manner::RepeatsAnOldAnswer => answer = seen.old.clone().expect("one was given"),
            Manner::LeavesTheSignatureOut => answer.signature = None,
            Manner::ChangesABit => {
                let mut bytes = answer.answer.to_vec();
                *bytes.last_mut().expect("bytes") ^= 1;
                answer.answer = bytes.into();
            }
            Manner::Refuses => answer.refusals.push(pb::SealedRefusal {
                index: 0,
                failure: Some(item(Reason::PermissionDenied)),
            }),
        }
        seen.old = Some(answer.clone());
        Ok(Response::new(answer))
    }
}

impl Face {
    fn answer(&self, signer: &TlsIdentity, encoded: &[u8], request: &SealedRequest) -> UnwrapSealedResponse {
        let public = PublicEncryptingKey::from_der(request.recipient.der()).expect("a key");
        let public = OaepPublicEncryptingKey::new(public).expect("an RSA key");
        let mut sealed = vec![0; public.ciphertext_size()];
        let sealed = public.encrypt(&OAEP_SHA256_MGF1SHA256, &TRANSPORT_KEY, &mut sealed, None);
        let wrap = |edek: &Edek| {
            let kek = AesKek::new(&AES_256, &TRANSPORT_KEY).expect("32 bytes");
            let mut wrapped = vec![0; 40];
            let wrapped = kek.wrap(&dek(edek.version.0), &mut wrapped).expect("wraps");
            Ok(SealedDek {
                sealed_in: HeldIn::Worker,
                wrapped: Bytes::copy_from_slice(wrapped),
            })
        };
        let answer = SealedAnswer {
            request: RequestDigest::of(encoded),
            transport_keys: vec![TransportKey {
                made_in: HeldIn::Worker,
                hash: OaepHash::Sha256,
                sealed: Bytes::copy_from_slice(sealed.expect("seals")),
            }],
            results: request.edeks.iter().map(wrap).collect(),
        };
        let answer = answer.encode().expect("fits");
        let signature = signer.sign(ANSWER_DOMAIN, &answer).expect("signs");
        UnwrapSealedResponse {
            answer,
            signature: Some(signature.into()),
            refusals: Vec::new(),
        }
    }
}

fn item(reason: Reason) -> pb::ItemFailure {
    pb::ItemFailure {
        reason: reason.as_str().to_owned(),
        message: "as told".to_owned(),
    }
}

fn dek(number: u32) -> [u8; 32] {
    let mut dek = [0; 32];
    dek[..4].copy_from_slice(&number.to_be_bytes());
    dek
}

fn edek(number: u32) -> Edek {
    Edek {
        key: "payroll".parse().expect("a key name"),
        version: KeyVersion(number),
        zone: ZoneId::from_bytes([7; 16]),
        suite: EdekSuite::Kw,
        wrapped: Bytes::from_static(&[1; 40]),
    }
}

async fn connect() -> (UnwrapClient, Face) {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let face = Face {
        worker: Arc::new(pki::load(&pki.issue("token-worker", "service/token-worker"))),
        kms: Arc::new(pki::load(&pki.issue("kms", "service/kms"))),
        seen: Arc::default(),
    };
    let (tls, routes) = (Arc::clone(&face.kms), Routes::new(UnwrapServer::new(face.clone())));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let alice = pki::load(&pki.issue("alice", "user/alice"));
    (
        UnwrapClient::connect(&remote.parse().expect("an address"), &alice),
        face,
    )
}

#[tokio::test]
async fn a_demand_is_met_remembered_and_batched() {
    let (client, face) = connect().await;
    face.seen.lock().expect("unpoisoned").sealed_only = true;
    face.seen.lock().expect("unpoisoned").too_early = 1;
    let opened = client.unwrap(&edek(1)).await.expect("sealed instead");
    assert_eq!(opened.expose(), &dek(1));
    assert_eq!(
        face.seen.lock().expect("unpoisoned").sealed_calls,
        [1, 1],
        "signed anew once"
    );

    let mut callers = JoinSet::new();
    for number in 0..1000 {
        let client = client.clone();
        callers.spawn(async move { (number, client.unwrap(&edek(number)).await.expect("opens")) });
    }
    while let Some(done) = callers.join_next().await {
        let (number, opened) = done.expect("no panic");
        assert_eq!(opened.expose(), &dek(number));
    }
    let seen = face.seen.lock().expect("unpoisoned");
    assert_eq!(seen.open_calls, 1, "the demand is remembered");
    assert_eq!(seen.sealed_calls.iter().sum::<usize>(), 1002);
    assert!(
        seen.sealed_calls.iter().all(|&edeks| edeks <= 200),
        "{:?}",
        seen.sealed_calls
    );
    assert!(
        seen.sealed_calls.len() <= 64,
        "too little is shared: {:?}",
        seen.sealed_calls
    );
}

#[tokio::test]
async fn an_answer_that_no_token_worker_gave_to_this_request_is_not_believed() {
    let (client, face) = connect().await;
    client.seal_always();
    client.unwrap(&edek(1)).await.expect("honest");
    assert_eq!(face.seen.lock().expect("unpoisoned").open_calls, 0);
    for (manner, reason) in [
        (Manner::SignsItself, Reason::UntrustedPeer),
        (Manner::RepeatsAnOldAnswer, Reason::UntrustedPeer),
        (Manner::LeavesTheSignatureOut, Reason::UntrustedPeer),
        (Manner::ChangesABit, Reason::UntrustedPeer),
        (Manner::Refuses, Reason::PermissionDenied),
    ] {
        face.seen.lock().expect("unpoisoned").manner = manner;
        let failure = client.unwrap(&edek(1)).await.expect_err("must not be believed");
        assert_eq!(failure.reason, reason, "{manner:?}: {failure}");
    }
    face.seen.lock().expect("unpoisoned").manner = Manner::Honest;
    assert_eq!(client.unwrap(&edek(2)).await.expect("honest again").expose(), &dek(2));
}
