//! What monitoring sees, over its own port.

use std::time::{Duration, Instant};

use strongroom_kms::token::TokenState;
use strongroom_proto::{
    Failure, Reason, ZoneId,
    kms::v1::{self as pb, audit_client::AuditClient, token_admin_client::TokenAdminClient},
};

use crate::support::{Kms, MemoryHsm, Site, ask, page};

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

/// Every call that only looks, by its name, and how it ended for `who`.
async fn looks(kms: &Kms<'_>, who: &str) -> Vec<(&'static str, Result<(), Reason>)> {
    let mut caller = kms.as_user(who);
    let mut audit = AuditClient::new(kms.channel(who));
    let mut tokens = TokenAdminClient::new(kms.channel(who));
    let name = || "payroll".to_owned();
    let versions = pb::ListVersionsRequest {
        name: name(),
        ..pb::ListVersionsRequest::default()
    };
    let ended = |failed: Option<tonic::Status>| failed.map_or(Ok(()), |status| Err(Failure::from(status).reason));
    let admin = &mut caller.admin;
    vec![
        (
            "describe",
            ended(admin.describe_key(pb::DescribeKeyRequest { name: name() }).await.err()),
        ),
        (
            "list",
            ended(admin.list_keys(pb::ListKeysRequest::default()).await.err()),
        ),
        ("versions", ended(admin.list_versions(versions).await.err())),
        (
            "aliases",
            ended(admin.list_aliases(pb::ListAliasesRequest::default()).await.err()),
        ),
        (
            "instances",
            ended(admin.list_instances(pb::ListInstancesRequest {}).await.err()),
        ),
        (
            "audit keys",
            ended(audit.get_audit_keys(pb::GetAuditKeysRequest {}).await.err()),
        ),
        (
            "tokens",
            ended(tokens.list_tokens(pb::ListTokensRequest {}).await.err()),
        ),
    ]
}

/// Whoever spreads calls over instances sees it before a call is refused, and again when there is room.
#[tokio::test]
async fn readiness_says_that_all_places_are_taken() {
    const CALLS_PER_CONNECTION: usize = 128;
    let (site, address) = Site::with_policy("permit (principal, action, resource);").monitored();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let mut metadata = kms.as_user("service/metadata");
    let edeks = metadata.mint("payroll", ZoneId::generate(), 1).await.expect("minted");

    let held = hsm.hold();
    let mut under_way = tokio::task::JoinSet::new();
    // Each may have half of all 1024.
    for who in ["user/alice", "user/bob"] {
        for _ in 0..4 {
            let unwrap = kms.as_user(who).unwrap;
            for _ in 0..CALLS_PER_CONNECTION {
                let (mut unwrap, edeks) = (unwrap.clone(), edeks.clone());
                under_way.spawn(async move { unwrap.unwrap(pb::UnwrapRequest { edeks }).await });
            }
        }
    }
    let mut watcher = kms.channel_to(address, "user/anybody");
    let began = Instant::now();
    loop {
        let answer = ask(&mut watcher, "/ready").await;
        if answer == (429, "overloaded\n".to_owned()) {
            break;
        }
        assert_eq!(answer, (200, "ready\n".to_owned()));
        assert!(began.elapsed() < Duration::from_secs(20), "its places are not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(held);
    let ended = under_way.join_all().await;
    assert!(ended.iter().all(Result::is_ok), "nobody was refused");
    assert_eq!(ask(&mut watcher, "/ready").await, (200, "ready\n".to_owned()));

    // Who is refused makes it so for a while.
    refuse_one(&kms, &hsm, &edeks).await;
    assert_eq!(ask(&mut watcher, "/ready").await, (429, "overloaded\n".to_owned()));
    let began = Instant::now();
    while ask(&mut watcher, "/ready").await.0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(20), "it stays overloaded");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    kms.stop().await;
}

/// One caller asks for more than its share at once.
async fn refuse_one(kms: &Kms<'_>, hsm: &MemoryHsm, edeks: &[pb::Edek]) {
    let held = hsm.hold();
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let unwrap = kms.as_user("user/alice").unwrap;
        for _ in 0..128 {
            let (mut unwrap, edeks) = (unwrap.clone(), edeks.to_vec());
            under_way.spawn(async move { unwrap.unwrap(pb::UnwrapRequest { edeks }).await });
        }
    }
    // The first that ends is one that was refused: the others are held.
    let first = under_way.join_next().await.expect("there are calls").expect("no panic");
    assert_eq!(
        Failure::from(first.expect_err("there is no place")).reason,
        Reason::Overloaded
    );
    drop(held);
    under_way.join_all().await;
}

/// As many calls of one caller as may be under way, over several connections.
#[tokio::test]
async fn whoever_has_all_his_calls_under_way_cannot_look_either_and_others_can() {
    const CALLS: usize = 512;
    let (site, hsm) = (
        Site::with_policy("permit (principal, action, resource);"),
        MemoryHsm::new(),
    );
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let mut metadata = kms.as_user("service/metadata");
    let edeks = metadata.mint("payroll", ZoneId::generate(), 1).await.expect("minted");

    let held = hsm.hold();
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let unwrap = kms.as_user("user/alice").unwrap;
        for _ in 0..CALLS / 4 {
            let (mut unwrap, edeks) = (unwrap.clone(), edeks.clone());
            under_way.spawn(async move { unwrap.unwrap(pb::UnwrapRequest { edeks }).await });
        }
    }
    let mut alice = kms.as_user("user/alice");
    let began = Instant::now();
    while alice.describe("payroll").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "her calls are not under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (what, outcome) in looks(&kms, "user/alice").await {
        assert_eq!(outcome, Err(Reason::Overloaded), "{what}");
    }
    for (what, outcome) in looks(&kms, "user/bob").await {
        assert_eq!(outcome, Ok(()), "{what}");
    }
    drop(held);
    let ended = under_way.join_all().await;
    let refused = ended.iter().filter(|outcome| outcome.is_err()).count();
    assert!(refused <= 1, "at most one that came while she looked: {refused}");
    for (what, outcome) in looks(&kms, "user/alice").await {
        assert_eq!(outcome, Ok(()), "{what}");
    }
    kms.stop().await;
}
