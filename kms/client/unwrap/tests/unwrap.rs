//! Batches, failures and retries, against a key service that is only its face, over real mutual TLS.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub)]
mod pki;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
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
    transport,
};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, async_trait, service::Routes};

/// Answers each EDEK with a DEK made of its number, except for the numbers it refuses.
#[derive(Default, Clone)]
struct Face {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<usize>,
    in_flight: usize,
    in_flight_max: usize,
    /// Calls that fail before one succeeds.
    outages: usize,
    refuse_call: Option<Failure>,
}

#[async_trait]
impl Unwrap for Face {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let edeks = request.into_inner().edeks;
        self.enter(edeks.len())?;
        // Long enough that the others gather.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.seen.lock().expect("unpoisoned").in_flight -= 1;
        let results = edeks.iter().map(result).collect();
        Ok(Response::new(UnwrapResponse { results }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        Err(Failure::new(Reason::TokenRefused, "it seals nothing").into())
    }
}

impl Face {
    fn enter(&self, edeks: usize) -> Result<(), Failure> {
        let mut seen = self.seen.lock().expect("unpoisoned");
        seen.calls.push(edeks);
        if seen.outages > 0 {
            seen.outages -= 1;
            return Err(Failure::new(Reason::TokenUnavailable, "coming up"));
        }
        if let Some(failure) = &seen.refuse_call {
            return Err(failure.clone());
        }
        seen.in_flight += 1;
        seen.in_flight_max = seen.in_flight_max.max(seen.in_flight);
        Ok(())
    }
}

fn result(edek: &pb::Edek) -> UnwrapResult {
    let result = if edek.key_version == 13 {
        unwrap_result::Result::Failure(pb::ItemFailure {
            reason: "edek-invalid".to_owned(),
            message: "number 13 does not open".to_owned(),
        })
    } else {
        unwrap_result::Result::Dek(Bytes::from(dek(edek.key_version).to_vec()))
    };
    UnwrapResult { result: Some(result) }
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

/// A client of a new face; the directory must outlive nothing but the start.
async fn connect(face: &Face) -> UnwrapClient {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let tls = pki::load(&pki.issue("kms", "service/kms"));
    let routes = Routes::new(UnwrapServer::new(face.clone()));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let alice = pki::load(&pki.issue("alice", "user/alice"));
    UnwrapClient::connect(&remote.parse().expect("an address"), &alice)
}

#[tokio::test]
async fn concurrent_callers_share_calls_and_each_gets_its_own_dek() {
    const CALLERS: u32 = 3000;
    let face = Face::default();
    let client = connect(&face).await;
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move { (number, client.unwrap(&edek(number)).await) });
    }
    let mut answered = HashSet::new();
    while let Some(done) = callers.join_next().await {
        let (number, outcome) = done.expect("no panic");
        answered.insert(number);
        match outcome {
            Ok(opened) => assert_eq!(opened.expose(), &dek(number)),
            Err(failure) => assert_eq!((number, failure.message.as_str()), (13, "number 13 does not open")),
        }
    }
    assert_eq!(answered.len(), CALLERS as usize);
    let seen = face.seen.lock().expect("unpoisoned");
    assert_eq!(seen.calls.iter().sum::<usize>(), CALLERS as usize);
    assert!(seen.calls.iter().all(|&edeks| edeks <= 1000), "{:?}", seen.calls);
    assert!(seen.calls.len() <= 64, "too little is shared: {:?}", seen.calls);
    assert!(seen.in_flight_max <= 4, "{} calls at once", seen.in_flight_max);
}

#[tokio::test]
async fn an_outage_is_bridged_and_a_refusal_is_not_repeated() {
    let face = Face::default();
    let client = connect(&face).await;
    face.seen.lock().expect("unpoisoned").outages = 2;
    client.unwrap(&edek(1)).await.expect("the third call succeeds");
    assert_eq!(face.seen.lock().expect("unpoisoned").calls.len(), 3);

    let refusal = Failure::new(Reason::PermissionDenied, "user alice may not");
    face.seen.lock().expect("unpoisoned").refuse_call = Some(refusal.clone());
    assert_eq!(client.unwrap(&edek(1)).await.expect_err("refused"), refusal);
    assert_eq!(face.seen.lock().expect("unpoisoned").calls.len(), 4);
}

/// The port refuses connections for far longer than the first few pauses, as it does while a service restarts.
#[tokio::test]
async fn a_key_service_that_comes_back_costs_time_and_no_error() {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let alice = pki::load(&pki.issue("alice", "user/alice"));
    let client = UnwrapClient::connect(&address.to_string().parse().expect("an address"), &alice);
    let call = tokio::spawn(async move { client.unwrap(&edek(1)).await });

    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!call.is_finished(), "it gave up");
    let listener = transport::bind(address).await.expect("the same port");
    let tls = pki::load(&pki.issue("kms", "service/kms"));
    let routes = Routes::new(UnwrapServer::new(Face::default()));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let opened = call.await.expect("no panic").expect("the service is back");
    assert_eq!(opened.expose(), &dek(1));
}
