//! The audit key: made once, in the token, and it signs heads of audit logs.

use strongroom_kms::audit::{AuditHead, LogId, checkpoint::verifies};

use crate::fixture::{Fixture, fresh};

const fn head(seq: u64) -> AuditHead {
    AuditHead {
        log: LogId::from_bytes([1; 16]),
        seq,
        hash: [2; 32],
    }
}

#[tokio::test]
async fn one_key_signs_for_all_workers_and_is_no_zone_key() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let key = token.audit_key().await.expect("made");
    let signed = token.sign_audit(&head(7)).await.expect("signed");
    assert_eq!(signed.key, key);
    assert!(verifies(&key.public_key, &head(7), &signed.signature));
    assert!(
        !verifies(&key.public_key, &head(8), &signed.signature),
        "a signature is for one head"
    );
    fixture.signal_worker("KILL");
    let again = token.sign_audit(&head(8)).await.expect("by the next worker");
    assert_eq!(again.key, key, "no second key is made");
    assert_eq!(token.list_versions().await.expect("listed"), []);
    let made = token
        .generate(&fresh("audit", 0))
        .await
        .expect("a zone key of that name");
    assert_eq!(token.list_versions().await.expect("listed"), [made]);
    token.stop().await;
    let token = fixture.start().await;
    assert_eq!(token.audit_key().await.expect("found"), key);
}
