//! What monitoring sees, over its own port.

mod support;

use std::{net::SocketAddr, time::Duration};

use axum::body::to_bytes;
use strongroom_kms::token::TokenState;
use strongroom_proto::ZoneId;
use support::{Kms, MemoryHsm, Site};
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

/// Bytes of the largest page that is read.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Status and text of a page, asked for as `who`.
async fn page(kms: &Kms<'_>, address: SocketAddr, who: &str, path: &str) -> (u16, String) {
    ask(&mut kms.channel_to(address, who), path).await
}

async fn ask(channel: &mut Channel, path: &str) -> (u16, String) {
    let request = http::Request::get(path)
        .body(tonic::body::Body::empty())
        .expect("a request");
    let ready = channel.ready().await.expect("connected");
    let response = ready.call(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = to_bytes(axum::body::Body::new(response.into_body()), PAGE_BYTES_MAX);
    let text = String::from_utf8(body.await.expect("a body").to_vec()).expect("text");
    (status, text)
}

#[tokio::test]
async fn calls_and_key_operations_are_counted_for_those_who_may_see_them() {
    let (site, address) = Site::new().monitored();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let (mut metadata, mut guest) = (kms.as_user("service/metadata"), kms.as_user("user/guest"));
    let edeks = metadata.mint("payroll", ZoneId::generate(), 5).await.expect("minted");
    guest.unwrap(edeks).await.expect_err("guest may not");

    let (status, text) = page(&kms, address, "user/prometheus", "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        r#"strongroom_kms_calls_total{call="Mint/Mint",outcome="ok"} 1"#,
        r#"strongroom_kms_calls_total{call="Unwrap/Unwrap",outcome="permission-denied"} 1"#,
        r#"strongroom_kms_call_seconds_count{call="Mint/Mint"} 1"#,
        r#"strongroom_kms_key_operations_total{operation="mint",key="payroll",outcome="allowed"} 5"#,
        r#"strongroom_kms_key_operations_total{operation="unwrap",key="payroll",outcome="denied"} 5"#,
        "strongroom_kms_ready 1",
        "strongroom_kms_policy_broken 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    for who in ["user/guest", "service/metadata"] {
        let (status, text) = page(&kms, address, who, "/metrics").await;
        assert_eq!(status, 403);
        assert!(text.contains("`readers`") && !text.contains("payroll"), "{text}");
    }
    kms.stop().await;
}

#[tokio::test]
async fn readiness_says_what_is_down() {
    let (site, address) = Site::new().monitored();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    assert_eq!(page(&kms, address, "user/anybody", "/live").await.0, 200);
    assert_eq!(
        page(&kms, address, "user/anybody", "/ready").await,
        (200, "ready\n".to_owned())
    );
    hsm.set_state(TokenState::Unavailable {
        why: "the cable was cut".to_owned(),
    });
    kms.wait_health(false).await;
    assert_eq!(
        page(&kms, address, "user/anybody", "/ready").await,
        (503, "token-down: the cable was cut\n".to_owned())
    );
    hsm.set_state(TokenState::Ready);
    kms.wait_health(true).await;
    assert_eq!(page(&kms, address, "user/anybody", "/ready").await.0, 200);
    kms.stop().await;
}

/// A stop lets calls in flight finish, says meanwhile that it is one, and then ends.
#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let (site, address) = Site::new().monitored();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let mut metadata = kms.as_user("service/metadata");
    let edeks = metadata.mint("payroll", ZoneId::generate(), 3).await.expect("minted");
    let mut watcher = kms.channel_to(address, "user/anybody");
    assert_eq!(ask(&mut watcher, "/ready").await.0, 200);

    let mut alice = kms.as_user("user/alice");
    let held = hsm.hold();
    let opening = tokio::spawn(async move { alice.unwrap(edeks).await });
    hsm.wait_held().await;
    let mut stopped = std::pin::pin!(kms.stop());
    let early = tokio::time::timeout(Duration::from_millis(50), stopped.as_mut());
    assert!(early.await.is_err(), "a call is under way");
    assert_eq!(ask(&mut watcher, "/ready").await, (503, "stopping\n".to_owned()));
    drop(held);
    let opened = opening.await.expect("no panic").expect("answered");
    assert!(opened.len() == 3 && opened.iter().all(Result::is_ok));
    stopped.await;
}
