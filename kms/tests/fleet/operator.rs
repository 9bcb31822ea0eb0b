//! What operators see of the tokens and do with them over the key service's own port, and what the audit log says of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_kms::{audit::Outcome, fleet::Health};
use strongroom_proto::{
    Failure, Reason,
    kms::v1::{self as pb, KeyVersionState as State, TokenHealth, token_admin_client::TokenAdminClient},
};

use crate::{
    failover::becomes,
    pair::{LABELS, Pair, report},
    support::Site,
};

#[tokio::test]
async fn tokens_are_listed_filled_up_and_their_alarms_recorded() {
    let (site, pair) = (Site::new(), Pair::new());
    let fleet = Arc::new(pair.start().await);
    let kms = site.start(&fleet).await;
    let created = kms.as_user("user/keyadmin").create("payroll").await.expect("in both");
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    pair.make_token(LABELS[1]);
    pair.link(false).expect("introduced");
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;

    let mut admin = TokenAdminClient::new(kms.channel("user/keyadmin"));
    let listed = admin
        .list_tokens(pb::ListTokensRequest {})
        .await
        .expect("allowed")
        .into_inner();
    let seen: Vec<_> = listed
        .tokens
        .iter()
        .map(|token| (token.label.as_str(), token.health(), token.held, token.lacking))
        .collect();
    assert_eq!(
        seen,
        [
            (LABELS[0], TokenHealth::Serving, 1, 0),
            (LABELS[1], TokenHealth::Serving, 0, 1)
        ]
    );
    assert!(listed.tokens.iter().all(|token| token.checked_ms.is_some()));

    let done = admin
        .resync_token(resync(LABELS[1]))
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!((done.cloned_count, done.left_count), (1, 0), "{done:?}");
    let unknown = Failure::from(admin.resync_token(resync("hsm-z")).await.expect_err("unknown"));
    assert_eq!(unknown.reason, Reason::NotFound);

    let mut alice = TokenAdminClient::new(kms.channel("user/alice"));
    let refused = Failure::from(alice.resync_token(resync(LABELS[1])).await.expect_err("no right"));
    assert_eq!(refused.reason, Reason::PermissionDenied);

    let id = hex::encode(&created.versions[0].token_id);
    pair.probe(LABELS[1], "replace", &["strongroom:1:kw:payroll@0", &id, "no"]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Out(_))).await;
    let listed = admin
        .list_tokens(pb::ListTokensRequest {})
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(listed.tokens[1].health(), TokenHealth::Out);
    assert!(listed.alarms[0].what.contains("version 0 of key payroll"), "{listed:?}");
    site.wait_audit(10).await;
    kms.stop().await;
    fleet.stop().await;

    let records = site.audit();
    let of = |action: &str| {
        let matching = records.iter().filter(|record| record.entry.action == action);
        matching.map(|record| record.entry.outcome).collect::<Vec<_>>()
    };
    assert_eq!(of("token-list"), [Outcome::Allowed, Outcome::Allowed]);
    assert_eq!(
        of("token-resync"),
        [
            Outcome::Started,
            Outcome::Allowed,
            Outcome::Started,
            Outcome::Failed,
            Outcome::Denied
        ]
    );
    assert_eq!(of("token-alarm"), [Outcome::Failed]);
}

fn resync(label: &str) -> pb::ResyncTokenRequest {
    pb::ResyncTokenRequest {
        label: label.to_owned(),
        after: None,
    }
}

/// One token is restored from a backup that still has the version, the other one is filled up from it.
#[tokio::test]
async fn filling_up_a_token_does_not_bring_a_destroyed_version_back() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let (site, pair) = (Site::new(), Pair::new());
    let fleet = Arc::new(pair.start().await);
    let kms = site.start(&fleet).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("in both");
    admin.roll("payroll").await.expect("in both");
    pair.back_up(LABELS[0]);
    admin
        .delete("payroll", Some(0), Vec::new())
        .await
        .expect("no zone needs it");
    site.clock.advance(Duration::from_secs(8 * 24 * 3600));
    let began = Instant::now();
    while admin.describe("payroll").await.expect("known").versions[0].state() != State::Destroyed {
        assert!(began.elapsed() < PATIENCE, "nobody destroys it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    pair.restore(LABELS[0]);
    while report(&fleet, LABELS[0]).held != 2 {
        assert!(began.elapsed() < 2 * PATIENCE, "its version is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pair.make_token(LABELS[1]);
    pair.signal(LABELS[1], "KILL");
    pair.link(false).expect("introduced");
    let mut tokens = TokenAdminClient::new(kms.channel("user/keyadmin"));
    // Both come up in their time: until then there is nothing to fill up, or nothing to fill it from.
    let cloned = loop {
        let done = tokens.resync_token(resync(LABELS[1])).await;
        let cloned = done.map_or_else(|_| Vec::new(), |done| done.into_inner().cloned);
        if !cloned.is_empty() {
            break cloned;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "it is not filled up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let versions: Vec<u32> = cloned.iter().map(|cloned| cloned.version).collect();
    assert_eq!(versions, [1]);
    let dump = pair.probe(LABELS[1], "dump", &[]);
    assert!(dump.contains("payroll@1") && !dump.contains("payroll@0"), "{dump}");
    kms.stop().await;
    fleet.stop().await;
}
