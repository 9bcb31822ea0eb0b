//! What operators see of the tokens and do with them over the key service's own port, and what the audit log says of it.

use std::sync::Arc;

use strongroom_kms::{audit::Outcome, fleet::Health};
use strongroom_proto::{
    Failure, Reason,
    kms::v1::{self as pb, TokenHealth, token_admin_client::TokenAdminClient},
};

use crate::{
    failover::becomes,
    pair::{LABELS, Pair},
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

    let resync = |label: &str| pb::ResyncTokenRequest {
        label: label.to_owned(),
    };
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
