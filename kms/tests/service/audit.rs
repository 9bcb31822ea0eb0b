//! The audit log: complete, chained, repaired after a crash, and without it no answer.

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use strongroom_kms::{
    RunError,
    audit::{AuditConfig, AuditError, Expected, Outcome, Record, VerifyOptions, verify},
    token::TokenState,
};
use strongroom_proto::{
    REQUEST_ID_HEADER, Reason, ZoneId,
    kms::v1::{self as pb, audit_client::AuditClient},
};
use tonic::Request;

use crate::support::{MemoryHsm, Site};

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

/// A site that begins a segment after every few records.
fn small_segments() -> Site {
    let mut site = Site::new();
    site.config.audit = AuditConfig {
        segment_bytes: 4096,
        ..AuditConfig::default()
    };
    site
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
    assert_eq!(records[0].entry.request, records[1].entry.request, "one call, one id");
    assert_ne!(records[1].entry.request, records[2].entry.request);
    let verified = site.verify();
    assert_eq!(
        (verified.records, verified.checkpoints),
        (9, 1),
        "the stop left a checkpoint"
    );
    assert_eq!((verified.signed_seq, verified.unsigned_records), (8, 0));
}

#[tokio::test]
async fn a_call_has_the_id_that_its_client_chose_or_one_of_its_own() {
    let site = Site::new();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin").admin;
    let list = |id: Option<&str>| {
        let mut request = Request::new(pb::ListKeysRequest::default());
        if let Some(id) = id {
            request
                .metadata_mut()
                .insert(REQUEST_ID_HEADER, id.parse().expect("ASCII"));
        }
        request
    };
    let answer = admin.list_keys(list(Some("job-7"))).await.expect("listed");
    assert_eq!(answer.metadata().get(REQUEST_ID_HEADER).expect("an id"), "job-7");
    let drawn = admin.list_keys(list(None)).await.expect("listed");
    let drawn = drawn
        .metadata()
        .get(REQUEST_ID_HEADER)
        .expect("an id")
        .to_str()
        .expect("text")
        .to_owned();
    let refused = admin
        .describe_key(pb::DescribeKeyRequest {
            name: "absent".to_owned(),
        })
        .await
        .expect_err("no such key");
    let refused = refused
        .metadata()
        .get(REQUEST_ID_HEADER)
        .expect("an id")
        .to_str()
        .expect("text")
        .to_owned();
    let ids: Vec<_> = site.audit().into_iter().map(|record| record.entry.request).collect();
    assert_eq!(ids, [Some("job-7".to_owned()), Some(drawn), Some(refused)]);
    kms.stop().await;
}

#[tokio::test]
async fn a_call_that_cannot_be_read_is_recorded_and_a_flood_of_them_is_bounded() {
    let site = Site::new();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let mut guest = kms.as_user("user/guest");
    guest.describe("no key name").await.expect_err("spaces");
    guest.list("", 1001).await.expect_err("too long a page");
    let records = site.audit();
    assert_eq!(records.len(), 2);
    for (record, action) in records.iter().zip(["KeyAdmin/DescribeKey", "KeyAdmin/ListKeys"]) {
        let entry = &record.entry;
        assert_eq!((entry.who.as_str(), entry.action.as_str()), ("user guest", action));
        assert_eq!(
            (entry.outcome, entry.reason.as_deref()),
            (Outcome::Failed, Some("invalid-argument"))
        );
        assert!(entry.from.is_some() && entry.request.is_some());
    }
    let started = Instant::now();
    for _ in 0..500 {
        guest.describe("no key name").await.expect_err("spaces");
    }
    let allowed = 200 + 20 * (started.elapsed().as_secs() + 1);
    let records = site.audit().len() as u64;
    assert!(records <= 2 + allowed, "{records} records, {allowed} are allowed");
    kms.stop().await;
}

#[tokio::test]
async fn segments_end_by_size_and_chain_across_restarts() {
    let site = small_segments();
    let hsm = MemoryHsm::new();
    for _ in 0..3 {
        let kms = site.start(&hsm).await;
        let mut admin = kms.as_user("user/keyadmin");
        for _ in 0..20 {
            admin.list("", 0).await.expect("listed");
        }
        kms.stop().await;
    }
    let verified = site.verify();
    assert_eq!(verified.records - verified.checkpoints, 60);
    assert!(
        verified.checkpoints >= 3,
        "one for each stop, and some for segments that ended"
    );
    assert!(verified.segments > 4, "{} segments", verified.segments);
    let id = hsm.audit.key();
    assert_eq!((verified.keys.len(), &verified.keys[0].key_id), (1, &id.id()));
    assert!(!verified.keys[0].given, "nobody said that this key is right");
    for segment in fs::read_dir(site.audit_dir()).expect("a directory") {
        let bytes = segment.expect("a file").metadata().expect("a size").len();
        assert!(bytes < 4096 + 1024, "a segment has {bytes} bytes");
    }
}

#[tokio::test]
async fn a_missing_segment_is_found_and_an_archived_one_is_none() {
    let site = small_segments();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    for _ in 0..40 {
        kms.as_user("user/keyadmin").list("", 0).await.expect("listed");
    }
    kms.stop().await;
    let (dir, all) = (site.audit_dir(), site.verify());
    let archived = || VerifyOptions {
        archived: true,
        ..VerifyOptions::default()
    };
    fs::rename(dir.join("000001.log"), site.pki.path("000001.log")).expect("moved");
    assert!(is_broken(&verify(std::slice::from_ref(&dir), VerifyOptions::default())));
    let rest = verify(std::slice::from_ref(&dir), archived()).expect("a chain from its middle");
    assert!(rest.first_seq > 1 && rest.head == all.head);
    let both = [site.pki.path("000001.log"), dir.clone()];
    assert_eq!(
        verify(&both, VerifyOptions::default()).expect("in order").records,
        all.records
    );
    let kms = site.start(&hsm).await;
    kms.stop().await;
    fs::remove_file(dir.join("000003.log")).expect("removed");
    assert!(is_broken(&verify(std::slice::from_ref(&dir), archived())));
}

#[tokio::test]
async fn checkpoints_need_the_right_key_and_tell_what_a_cut_would_take() {
    let site = Site::new();
    some_life(&site).await;
    let dir = site.audit_dir();
    let other = MemoryHsm::new().audit.key().public_key;
    let options = VerifyOptions {
        keys: vec![other],
        ..VerifyOptions::default()
    };
    assert!(
        is_broken(&verify(std::slice::from_ref(&dir), options)),
        "signed by another key"
    );

    let whole = fs::read_to_string(site.audit_path()).expect("a log");
    let lines: Vec<&str> = whole.lines().collect();
    let kept = site.verify();
    let expect = |seq, hash: &str| VerifyOptions {
        expect: Some(Expected {
            seq,
            hash: Some(hex::decode(hash).expect("hex").try_into().expect("32 bytes")),
        }),
        ..VerifyOptions::default()
    };
    verify(std::slice::from_ref(&dir), expect(9, &kept.head)).expect("the end is as it was");
    // Cut off behind record 5: nothing in the log tells.
    fs::write(site.audit_path(), lines[..5].join("\n") + "\n").expect("written");
    let cut = site.verify();
    assert_eq!((cut.last_seq, cut.signed_seq, cut.unsigned_records), (5, 0, 5));
    match verify(std::slice::from_ref(&dir), expect(9, &kept.head)).expect_err("what is known from elsewhere tells") {
        AuditError::Unexpected { seq: 9, what } => assert!(what.contains("cut off"), "{what}"),
        other => panic!("{other}"),
    }
    // Written anew from record 6 on, with another hash at record 6 and no checkpoint.
    fs::write(site.audit_path(), rewritten(&lines[..8], 5)).expect("written");
    let forged = site.verify();
    assert_eq!(
        (forged.last_seq, forged.signed_seq),
        (8, 0),
        "without the key there is no checkpoint"
    );
    // With the checkpoint left in place the forgery shows.
    fs::write(site.audit_path(), rewritten(&lines, 5)).expect("written");
    match verify(&[dir], VerifyOptions::default()).expect_err("the checkpoint tells") {
        AuditError::Broken { seq: 9, what, .. } => assert!(what.contains("another chain"), "{what}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn auditors_get_the_keys_and_begin_segments_and_others_do_not() {
    let site = Site::new();
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let mut admin = AuditClient::new(kms.channel("user/keyadmin"));
    let keys = admin
        .get_audit_keys(pb::GetAuditKeysRequest {})
        .await
        .expect("permitted")
        .into_inner()
        .keys;
    let key = hsm.audit.key();
    assert_eq!(
        (keys.len(), &keys[0].token, &keys[0].public_key),
        (1, &key.token, &key.public_key)
    );
    let rotated = admin
        .rotate_audit(pb::RotateAuditRequest {})
        .await
        .expect("permitted")
        .into_inner();
    assert_eq!(rotated.segment, 2);
    let refused = AuditClient::new(kms.channel("user/guest"))
        .get_audit_keys(pb::GetAuditKeysRequest {})
        .await;
    let refused = strongroom_proto::Failure::from(refused.expect_err("no policy permits it"));
    assert_eq!(refused.reason, Reason::PermissionDenied);
    kms.stop().await;
    let options = VerifyOptions {
        keys: vec![key.public_key],
        ..VerifyOptions::default()
    };
    let verified = verify(&[site.audit_dir()], options).expect("signed by the key that was told");
    assert_eq!((verified.segments, verified.unsigned_records), (2, 0));
    assert!(verified.keys[0].given);
}

/// The log with record `changed` (from 0) in alice's name, and every hash after it made to fit.
fn rewritten(lines: &[&str], changed: usize) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let mut prev = String::new();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let mut record: Record = serde_json::from_str(line).expect("a record");
        if at == changed {
            record.entry.who = "user alice".to_owned();
        }
        if at > changed {
            record.prev = prev;
        }
        let line = serde_json::to_string(&record).expect("text");
        prev = hex::encode(digest(&SHA256, line.as_bytes()));
        text += &line;
        text.push('\n');
    }
    text
}

fn is_broken<T>(outcome: &Result<T, AuditError>) -> bool {
    matches!(outcome, Err(AuditError::Broken { .. }))
}

#[tokio::test]
async fn a_token_that_is_away_pauses_checkpoints_and_nothing_else() {
    let mut site = Site::new();
    site.config.audit.checkpoint_s = 1;
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.list("", 0).await.expect("listed");
    until("a checkpoint", || site.verify().checkpoints == 1).await;
    hsm.set_state(TokenState::Unavailable {
        why: "unplugged".to_owned(),
    });
    admin.list("", 0).await.expect("records go on");
    let paused = |record: &Record| record.entry.action == "checkpoint" && record.entry.outcome == Outcome::Failed;
    until("that it pauses is recorded", || site.audit().iter().any(paused)).await;
    hsm.set_state(TokenState::Ready);
    until("another checkpoint", || site.verify().checkpoints == 2).await;
    assert_eq!(
        site.audit().iter().filter(|record| paused(record)).count(),
        1,
        "it is said once"
    );
    kms.stop().await;
    let verified = site.verify();
    assert_eq!(verified.unsigned_records, 0, "what came while it was away is signed");
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never seen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_torn_last_line_is_moved_aside_and_recorded() {
    let site = Site::new();
    some_life(&site).await;
    let path = site.audit_path();
    for n in 1..=2 {
        append(&path, b"{\"seq\":9,\"time\":\"20");
        assert!(is_broken(&verify(&[site.audit_dir()], VerifyOptions::default())));
        let kms = site.start(&MemoryHsm::new()).await;
        kms.stop().await;
        let torn = fs::read(format!("{}.torn-{n}", path.display())).expect("kept as evidence");
        assert_eq!(torn, b"{\"seq\":9,\"time\":\"20");
        let last = site.audit().pop().expect("a record").entry;
        assert_eq!((last.who.as_str(), last.action.as_str()), ("service kms", "torn-line"));
        assert_eq!(
            last.message,
            Some(format!("a torn last line was moved to 000001.log.torn-{n}"))
        );
        let verified = site.verify();
        assert_eq!((verified.records, verified.torn_files.len() as u64), (9 + 2 * n, n));
    }
}

#[tokio::test]
async fn a_log_whose_last_segment_does_not_chain_stops_the_start() {
    let site = Site::new();
    some_life(&site).await;
    let good = fs::read_to_string(site.audit_path()).expect("a log");
    for bad in [
        good.clone() + "no record at all\n",
        good.replacen("user alice", "user bob", 1),
    ] {
        fs::write(site.audit_path(), bad).expect("written");
        let listener = strongroom_proto::transport::bind(site.config.listen)
            .await
            .expect("a port");
        let error = strongroom_kms::serve(&site.config, MemoryHsm::new(), listener, std::future::pending()).await;
        assert!(
            matches!(error, Err(RunError::Audit(AuditError::Broken { .. }))),
            "{error:?}"
        );
    }
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
    fs::remove_file(site.audit_path()).expect("removed");
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
    let log = fs::read(site.audit_path()).expect("a log");
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
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("the log");
    file.write_all(bytes).expect("written");
}
