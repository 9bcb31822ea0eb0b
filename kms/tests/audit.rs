//! The audit log: complete, chained, repaired after a crash, and without it no answer.

mod support;

use std::{io::Write, path::Path};

use strongroom_kms::{
    RunError,
    audit::{AuditError, Outcome, verify},
};
use strongroom_proto::{Reason, ZoneId};
use support::{MemoryHsm, Site};

/// A life with a bit of everything in it.
async fn some_life(site: &Site) {
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 2)
        .await
        .expect("minted");
    kms.as_user("service/metadata")
        .rewrap(&edeks)
        .await
        .expect("re-wrapped");
    kms.as_user("user/alice")
        .unwrap(edeks.clone())
        .await
        .expect("unwrapped");
    kms.as_user("user/guest").unwrap(edeks).await.expect_err("denied");
    kms.as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect_err("failed");
    kms.stop().await;
}

#[tokio::test]
async fn every_call_is_in_the_chain() {
    let site = Site::new();
    some_life(&site).await;
    let records = site.audit();
    let story: Vec<_> = records
        .iter()
        .map(|r| (r.entry.action.as_str(), r.entry.outcome))
        .collect();
    assert_eq!(
        story,
        [
            ("create", Outcome::Started),
            ("create", Outcome::Allowed),
            ("mint", Outcome::Allowed),
            ("rewrap", Outcome::Allowed),
            ("unwrap", Outcome::Allowed),
            ("unwrap", Outcome::Denied),
            ("create", Outcome::Started),
            ("create", Outcome::Failed),
        ]
    );
    assert_eq!(records[1].entry.version, Some(0));
    assert_eq!(records[4].entry.policies, ["alice-opens-files"]);
    assert_eq!(records[7].entry.reason.as_deref(), Some("key-exists"));
    let verified = verify(&site.audit_path()).expect("a chain");
    assert_eq!(verified.records, 8);
}

#[tokio::test]
async fn a_changed_or_missing_record_is_found() {
    let site = Site::new();
    some_life(&site).await;
    let path = site.audit_path();
    let good = std::fs::read_to_string(&path).expect("a log");
    let lines: Vec<&str> = good.lines().collect();
    for (bad, seq) in [
        (good.replacen("user guest", "user alice", 1), 7),
        (lines[1..].join("\n") + "\n", 1),
        ([&lines[..3], &lines[4..]].concat().join("\n") + "\n", 4),
        (good.trim_end().to_owned(), 8),
    ] {
        std::fs::write(&path, bad).expect("written");
        match verify(&path).expect_err("tampered") {
            AuditError::Broken { seq: found, .. } => assert_eq!(found, seq),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_torn_last_line_is_moved_aside_and_recorded() {
    let site = Site::new();
    some_life(&site).await;
    let path = site.audit_path();
    for n in 1..=2 {
        append(&path, b"{\"seq\":9,\"time\":\"20");
        let kms = site.start(&MemoryHsm::new()).await;
        kms.stop().await;
        let torn = std::fs::read(format!("{}.torn-{n}", path.display())).expect("kept as evidence");
        assert_eq!(torn, b"{\"seq\":9,\"time\":\"20");
        let last = site.audit().pop().expect("a record").entry;
        assert_eq!((last.who.as_str(), last.action.as_str()), ("service kms", "torn-line"));
        assert_eq!(
            last.message,
            Some(format!("a torn last line was moved to audit.log.torn-{n}"))
        );
        assert_eq!(verify(&path).expect("a chain").records, 8 + n);
    }
}

#[tokio::test]
async fn a_log_whose_end_does_not_chain_stops_the_start() {
    let site = Site::new();
    some_life(&site).await;
    append(&site.audit_path(), b"no record at all\n");
    let listener = strongroom_proto::transport::bind(site.config.listen)
        .await
        .expect("a port");
    let error = strongroom_kms::serve(&site.config, MemoryHsm::new(), listener, std::future::pending()).await;
    assert!(
        matches!(error, Err(RunError::Audit(AuditError::Broken { .. }))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_every_answer() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("minted");
    kms.stop().await;
    // A file that is always full.
    std::fs::remove_file(site.audit_path()).expect("removed");
    std::os::unix::fs::symlink("/dev/full", site.audit_path()).expect("linked");

    let kms = site.start(&hsm).await;
    for outcome in [
        kms.as_user("user/alice").unwrap(edeks.clone()).await.map(drop),
        kms.as_user("user/guest").unwrap(edeks).await.map(drop),
        kms.as_user("service/metadata").mint("payroll", zone, 1).await.map(drop),
        kms.as_user("user/keyadmin").describe("payroll").await.map(drop),
        kms.as_user("user/keyadmin").create("other").await.map(drop),
    ] {
        let failure = outcome.expect_err("nothing is answered");
        assert_eq!(failure.reason, Reason::StoreFailed);
        assert!(
            failure
                .message
                .contains("cannot write its audit log (No space left on device (os error 28)"),
            "{failure}"
        );
    }
    assert!(!hsm.holds("other", 0), "no key is made that no record speaks of");
    kms.stop().await;
}

#[tokio::test]
async fn a_use_of_a_key_is_recorded_though_its_caller_has_gone_away() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let mut metadata = kms.as_user("service/metadata");
    let edeks = metadata.mint("payroll", ZoneId::generate(), 1).await.expect("minted");
    let (uses, recorded) = (hsm.calls(), site.audit().len());

    let resume = hsm.hold();
    let mut alice = kms.as_user("user/alice");
    let call = tokio::spawn(async move { alice.unwrap(edeks).await });
    hsm.wait_held().await;
    call.abort();
    assert!(call.await.expect_err("the token was held").is_cancelled());
    // Dropped with its connection by now, which the service has noticed once it answers another.
    kms.wait_health(true).await;
    drop(resume);
    site.wait_audit(recorded + 1).await;
    assert_eq!(hsm.calls(), uses + 1);
    let last = site.audit().pop().expect("a record").entry;
    assert_eq!((last.who.as_str(), last.action.as_str()), ("user alice", "unwrap"));
    kms.stop().await;
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_in_a_debug_text() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await
        .expect("minted");
    let mut alice = kms.as_user("user/alice");
    let deks = alice.unwrap(edeks.clone()).await.expect("unwrapped");
    let dek = deks[0].as_ref().expect("opened");
    let request = strongroom_proto::kms::v1::UnwrapRequest { edeks: edeks.clone() };
    let debug = format!("{:?}", alice.unwrap.unwrap(request).await.expect("unwrapped"));
    assert!(debug.contains("withheld"), "{debug}");
    kms.stop().await;
    let log = std::fs::read(site.audit_path()).expect("a log");
    for secret in [dek.as_slice(), &edeks[0].wrapped] {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal = format!("{secret:?}");
        for text in [secret, hex.as_bytes(), decimal.as_bytes()] {
            assert!(!log.windows(text.len()).any(|window| window == text));
        }
        assert!(!debug.contains(&decimal));
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the log");
    file.write_all(bytes).expect("written");
}
