//! The life of a key: created, rolled, lost, found again, over crashes and restarts.

use std::time::{Duration, Instant};

use strongroom_kms::token::{Kcv, TokenKeyVersion, TokenObjectId, TokenState};
use strongroom_proto::{Failure, Reason, RequestId, ZoneId, kms::v1::KeyVersionState as State};

use crate::support::{Crash, MemoryHsm, Site};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn states(key: &strongroom_proto::kms::v1::Key) -> Vec<State> {
    key.versions
        .iter()
        .map(strongroom_proto::kms::v1::KeyVersion::state)
        .collect()
}

#[tokio::test]
async fn a_repeated_request_is_answered_as_the_first_was() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let (create, roll) = (RequestId::generate(), RequestId::generate());
    let created = admin.create_as("payroll", create).await.expect("created");
    let rolled = admin.roll_as("payroll", roll).await.expect("rolled");
    assert_eq!(admin.create_as("payroll", create).await, Ok(created.clone()));
    assert_eq!(admin.roll_as("payroll", roll).await, Ok(rolled.clone()));
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    assert_eq!(admin.create_as("payroll", create).await, Ok(created));
    assert_eq!(admin.roll_as("payroll", roll).await, Ok(rolled.clone()));
    let failure = admin.roll_as("payroll", create).await.expect_err("another request");
    assert_eq!(failure.reason, Reason::InvalidArgument);
    assert!(
        failure.message.contains("used for another request (create payroll kw)"),
        "{failure}"
    );
    assert_eq!(
        admin.create("payroll").await.expect_err("it exists").reason,
        Reason::KeyExists
    );
    assert_eq!(admin.describe("payroll").await, Ok(rolled));
    kms.stop().await;
}

#[tokio::test]
async fn a_roll_mints_under_the_new_version_and_opens_the_old_ones() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata, mut alice) = (
        kms.as_user("user/keyadmin"),
        kms.as_user("service/metadata"),
        kms.as_user("user/alice"),
    );
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let old = metadata.mint("payroll", zone, 2).await.expect("minted");
    let key = admin.roll("payroll").await.expect("rolled");
    assert_eq!(key.current_version, Some(1));
    assert_eq!(states(&key), [State::DecryptOnly, State::Active]);

    let new = metadata.mint("payroll", zone, 1).await.expect("minted");
    assert_eq!(new[0].key_version, 1);
    let rewrapped = metadata.rewrap(&old).await.expect("re-wrapped");
    assert_eq!(rewrapped.key_version, 1);
    let deks = alice.unwrap(old.clone()).await.expect("old versions open");
    let again: Vec<_> = rewrapped
        .results
        .into_iter()
        .zip(old)
        .map(|(result, mut edek)| {
            use strongroom_proto::kms::v1::rewrap_result::Result::{Failure, Wrapped};
            edek.key_version = 1;
            match result.result.expect("a result") {
                Wrapped(wrapped) => edek.wrapped = wrapped,
                Failure(failure) => panic!("{failure:?}"),
            }
            edek
        })
        .collect();
    assert_eq!(alice.unwrap(again).await.expect("opened"), deks);
    kms.stop().await;
}

#[tokio::test]
async fn an_unknown_key_says_how_to_find_one() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let minted = kms
        .as_user("service/metadata")
        .mint("nothing", ZoneId::generate(), 1)
        .await
        .map(drop);
    for outcome in [
        admin.describe("nothing").await.map(drop),
        admin.roll("nothing").await.map(drop),
        admin.confirm("nothing").await.map(drop),
        minted,
    ] {
        let failure = outcome.expect_err("there is no such key");
        assert_eq!(failure.reason, Reason::KeyNotFound);
        assert_eq!(
            failure.message,
            "key nothing does not exist; list keys with: strongroom key list"
        );
    }
    kms.stop().await;
}

/// The token fails in the middle of a create and of a roll, before or after it has generated; the request is
/// repeated at once, or after a restart of the service.
#[tokio::test]
async fn what_a_crash_leaves_is_finished_or_forgotten() {
    for (crash, restart) in [
        (Crash::BeforeGenerate, false),
        (Crash::BeforeGenerate, true),
        (Crash::AfterGenerate, false),
        (Crash::AfterGenerate, true),
    ] {
        let (site, hsm) = (Site::new(), MemoryHsm::new());
        let mut kms = site.start(&hsm).await;
        for (version, id) in [(0, RequestId::generate()), (1, RequestId::generate())] {
            let mut admin = kms.as_user("user/keyadmin");
            hsm.crash_at_next(crash);
            let first = match version {
                0 => admin.create_as("payroll", id).await,
                _ => admin.roll_as("payroll", id).await,
            };
            assert_eq!(first.expect_err("the token crashed").reason, Reason::TokenUnavailable);
            assert_eq!(hsm.holds("payroll", version), crash == Crash::AfterGenerate);
            if restart {
                kms.stop().await;
                kms = site.start(&hsm).await;
            }
            let mut admin = kms.as_user("user/keyadmin");
            if restart {
                let known = admin.describe("payroll").await.ok().and_then(|key| key.current_version);
                let finished = crash == Crash::AfterGenerate;
                let expected = if finished {
                    Some(version)
                } else {
                    version.checked_sub(1)
                };
                assert_eq!(known, expected, "{crash:?} of version {version}");
            }
            let key = match version {
                0 => admin.create_as("payroll", id).await,
                _ => admin.roll_as("payroll", id).await,
            };
            let key = key.expect("the repeat succeeds");
            assert_eq!(key.current_version, Some(version), "{crash:?}, restart: {restart}");
            assert_eq!(key.versions.len(), version as usize + 1);
        }
        kms.as_user("service/metadata")
            .mint("payroll", ZoneId::generate(), 1)
            .await
            .expect("it mints");
        kms.stop().await;
    }
}

/// After a crash another object of that label is found: it is not the one that was asked for.
#[tokio::test]
async fn a_version_with_another_id_is_not_taken_for_the_own_one() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    hsm.crash_at_next(Crash::AfterGenerate);
    let request = RequestId::generate();
    admin
        .create_as("payroll", request)
        .await
        .expect_err("the token crashed");
    let mut foreign = hsm.lose("payroll", 0);
    foreign.token_id = TokenObjectId::generate();
    hsm.put(foreign);
    let failure = admin.create_as("payroll", request).await.expect_err("another's object");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    let key = admin.describe("payroll").await.expect("taken in");
    assert_eq!((key.current_version, states(&key)), (None, vec![State::DecryptOnly]));
    kms.stop().await;
}

#[tokio::test]
async fn a_deleted_store_leaves_keys_that_only_open_until_confirmed() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("minted");
    let rolled = admin.roll("payroll").await.expect("rolled");
    kms.stop().await;
    site.remove_store();

    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    let key = admin.describe("payroll").await.expect("rebuilt from the token");
    assert_eq!(
        (key.current_version, states(&key)),
        (None, vec![State::DecryptOnly, State::DecryptOnly])
    );
    assert_eq!(key.versions[1].kcv, rolled.versions[1].kcv);
    kms.as_user("user/alice").unwrap(edeks.clone()).await.expect("called")[0]
        .as_ref()
        .expect("it opens");
    for outcome in [
        metadata.mint("payroll", zone, 1).await.map(drop),
        metadata.rewrap(&edeks).await.map(drop),
        admin.roll("payroll").await.map(drop),
    ] {
        let failure = outcome.expect_err("not confirmed");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable);
        assert!(failure.message.contains("strongroom key confirm payroll"), "{failure}");
    }
    kms.stop().await;

    // Still so after another restart; then the administrator confirms.
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    metadata.mint("payroll", zone, 1).await.expect_err("not confirmed");
    let key = admin.confirm("payroll").await.expect("confirmed");
    assert_eq!(
        (key.current_version, states(&key)),
        (Some(1), vec![State::DecryptOnly, State::Active])
    );
    assert_eq!(
        admin.confirm("payroll").await,
        Ok(key),
        "a second confirmation changes nothing"
    );
    metadata.mint("payroll", zone, 1).await.expect("it mints again");
    kms.stop().await;
}

#[tokio::test]
async fn a_version_that_the_token_lost_is_remembered() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await
        .expect("minted");
    let rolled = admin.roll("payroll").await.expect("rolled");
    kms.stop().await;

    let lost = hsm.lose("payroll", 0);
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let key = admin.describe("payroll").await.expect("known");
    assert_eq!(
        (key.current_version, states(&key)),
        (Some(1), vec![State::Missing, State::Active])
    );
    assert_eq!(key.versions[0].kcv, rolled.versions[0].kcv);
    let results = kms.as_user("user/alice").unwrap(edeks.clone()).await.expect("called");
    let failure = results[0].as_ref().expect_err("its version is missing");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    assert!(
        failure
            .message
            .starts_with("version 0 of key payroll is missing: the token does not hold it"),
        "{failure}"
    );

    // The token comes back with the version after an outage: everything is as it was.
    hsm.set_state(TokenState::Unavailable {
        why: "restoring".to_owned(),
    });
    kms.wait_health(false).await;
    hsm.put(lost);
    hsm.set_state(TokenState::Ready);
    kms.wait_health(true).await;
    let deadline = Instant::now() + PATIENCE;
    while admin.describe("payroll").await.as_ref() != Ok(&rolled) {
        assert!(Instant::now() < deadline, "the comparison does not find it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kms.as_user("user/alice").unwrap(edeks).await.expect("called")[0]
        .as_ref()
        .expect("it opens");
    kms.stop().await;
}

#[tokio::test]
async fn another_key_in_a_versions_place_is_not_used() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    kms.stop().await;

    let mut other = hsm.lose("payroll", 0);
    other.kcv = Kcv::from_bytes(other.kcv.as_bytes().map(|byte| !byte));
    hsm.put(other);
    let kms = site.start(&hsm).await;
    let failure = kms
        .as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await
        .expect_err("not that key");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    assert!(
        failure
            .message
            .starts_with("version 0 of key payroll is not used: the token holds another key in its place"),
        "{failure}"
    );
    let key = kms
        .as_user("user/keyadmin")
        .roll("payroll")
        .await
        .expect("the way out that the message names");
    assert_eq!(key.current_version, Some(1));
    kms.stop().await;
}

#[tokio::test]
async fn the_service_stays_up_without_its_token_and_says_so() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    for service in [
        "strongroom.kms.v1.KeyAdmin",
        "strongroom.kms.v1.Mint",
        "strongroom.kms.v1.Unwrap",
    ] {
        assert!(kms.healthy(service).await, "{service}");
    }
    for (state, reason) in [
        (
            TokenState::Unavailable { why: "gone".to_owned() },
            Reason::TokenUnavailable,
        ),
        (TokenState::PinRejected, Reason::PinRejected),
    ] {
        hsm.set_state(state);
        kms.wait_health(false).await;
        assert!(!kms.healthy("strongroom.kms.v1.Mint").await);
        let failure = kms
            .as_user("service/metadata")
            .mint("payroll", ZoneId::generate(), 1)
            .await;
        assert_eq!(failure.expect_err("no token").reason, reason);
        let key = kms
            .as_user("user/keyadmin")
            .describe("payroll")
            .await
            .expect("what is known is shown");
        assert_eq!(key.current_version, Some(0));
    }
    hsm.set_state(TokenState::Ready);
    kms.wait_health(true).await;
    kms.as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await
        .expect("back");
    kms.stop().await;
}

#[tokio::test]
async fn a_service_that_starts_without_its_token_waits_for_it() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    hsm.set_state(TokenState::PinRejected);
    let kms = site.start_unready(&hsm).await;
    let failure = kms
        .as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect_err("no token");
    assert_eq!(failure.reason, Reason::PinRejected);
    hsm.set_state(TokenState::Ready);
    kms.wait_health(true).await;
    kms.as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect("the token is there");
    kms.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    for name in ["a", "b", "c"] {
        admin.create(name).await.expect("created");
    }
    for (after, limit, names, more) in [
        ("", 2, &["a", "b"][..], true),
        ("b", 2, &["c"], false),
        ("c", 0, &[], false),
    ] {
        let page = admin.list(after, limit).await.expect("a page");
        let found: Vec<_> = page.keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!((found.as_slice(), page.more), (names, more), "after {after:?}");
    }
    assert_eq!(
        admin.list("", 1001).await.expect_err("too many").reason,
        Reason::InvalidArgument
    );
    kms.stop().await;
}

#[tokio::test]
async fn calls_of_too_many_edeks_or_of_none_to_open_are_refused() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let (mut metadata, mut alice) = (kms.as_user("service/metadata"), kms.as_user("user/alice"));
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 1000).await.expect("1000 are allowed");
    assert_eq!(alice.unwrap(edeks.clone()).await.expect("1000 are allowed").len(), 1000);
    let mut many = edeks.clone();
    many.push(edeks[0].clone());
    for outcome in [
        metadata.mint("payroll", zone, 1001).await.map(drop),
        metadata.rewrap(&many).await.map(drop),
        alice.unwrap(many).await.map(drop),
        alice.unwrap(Vec::new()).await.map(drop),
    ] {
        let failure = outcome.expect_err("out of bounds");
        assert_eq!(failure.reason, Reason::InvalidArgument);
        assert!(
            failure.message.starts_with("a call is about 1 to 1000 EDEKs"),
            "{failure}"
        );
    }
    kms.stop().await;
}

#[tokio::test]
async fn a_version_that_fails_its_canary_never_becomes_current() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    hsm.set_opens_nothing(true);
    let id = RequestId::generate();
    let failure = admin.roll_as("payroll", id).await.expect_err("the canary fails");
    assert_eq!(failure.reason, Reason::TokenRefused);
    let object = "remove the object strongroom:1:kw:payroll@1 from the token";
    assert!(failure.message.contains(object), "{failure}");
    assert_eq!(admin.describe("payroll").await.expect("known").current_version, Some(0));
    kms.stop().await;

    // It is nobody's version after a restart either, and holds up nothing else.
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let key = admin.describe("payroll").await.expect("known");
    assert_eq!((key.current_version, key.versions.len()), (Some(0), 1));
    kms.as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await
        .expect("it mints as before");

    // The way out that the message names.
    hsm.set_opens_nothing(false);
    hsm.lose("payroll", 1);
    assert_eq!(
        admin.roll_as("payroll", id).await.expect("rolled").current_version,
        Some(1)
    );
    kms.stop().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_compared_is_not_used_and_answers_say_why() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let why = Failure::new(Reason::TokenRefused, "two objects claim to be version 0 of key payroll");
    hsm.set_list_failure(Some(why.clone()));
    let kms = site.start_unready(&hsm).await;
    assert_eq!(kms.as_user("user/keyadmin").create("payroll").await, Err(why));
    assert!(!kms.healthy("").await);
    hsm.set_list_failure(None);
    kms.wait_health(true).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("compared");
    kms.stop().await;
}

#[tokio::test]
async fn of_many_who_create_a_key_at_once_one_succeeds() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let mut admin = kms.as_user("user/keyadmin");
        calls.spawn(async move { admin.create("payroll").await });
    }
    let outcomes = calls.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let refused = outcomes.into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|failure| failure.reason == Reason::KeyExists));
    kms.stop().await;
    let verified = site.verify();
    assert_eq!(
        verified.records, 65,
        "each call started and ended, and the stop left a checkpoint"
    );
}

/// A caller that goes away in the middle of a change does not stop it.
#[tokio::test]
async fn a_change_is_made_to_its_end_without_its_caller() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let resume = hsm.hold();
    let id = RequestId::generate();
    let call = tokio::spawn(async move { admin.create_as("payroll", id).await });
    site.wait_audit(1).await;
    call.abort();
    assert!(call.await.expect_err("the token was held").is_cancelled());
    drop(resume);
    let mut admin = kms.as_user("user/keyadmin");
    let key = admin.create_as("payroll", id).await.expect("the same request");
    assert_eq!((key.current_version, key.versions.len()), (Some(0), 1));
    kms.stop().await;
    let ended = site
        .audit()
        .into_iter()
        .filter(|r| r.entry.outcome == strongroom_kms::audit::Outcome::Allowed);
    assert_eq!(ended.count(), 2, "both calls ended, whoever waited");
}

/// Another process on the same token made the version that is about to be made: nobody said that it may be used.
#[tokio::test]
async fn a_version_that_somebody_else_made_meanwhile_is_not_adopted() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 1).await.expect("minted");
    let mut foreign = hsm.lose("payroll", 0);
    hsm.put(foreign.clone());
    foreign.version = strongroom_proto::KeyVersion(1);
    foreign.kcv = Kcv::from_bytes([7; 3]);
    hsm.put(foreign);

    let id = RequestId::generate();
    for _ in 0..2 {
        let failure = admin.roll_as("payroll", id).await.expect_err("it is not ours");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable);
        assert!(failure.message.contains("strongroom key confirm payroll"), "{failure}");
    }
    let key = admin.describe("payroll").await.expect("known");
    assert_eq!(
        (key.current_version, states(&key)),
        (None, vec![State::DecryptOnly, State::DecryptOnly])
    );
    metadata.mint("payroll", zone, 1).await.expect_err("not confirmed");
    kms.as_user("user/alice").unwrap(edeks).await.expect("called")[0]
        .as_ref()
        .expect("it opens");
    assert_eq!(
        admin.confirm("payroll").await.expect("confirmed").current_version,
        Some(1)
    );
    assert_eq!(
        admin.roll_as("payroll", id).await.expect("rolled").current_version,
        Some(2)
    );
    kms.stop().await;
}

#[tokio::test]
async fn reflection_names_every_service() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut client = ServerReflectionClient::new(kms.channel("user/guest"));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    for expected in ["KeyAdmin", "Mint", "Unwrap"].map(|name| format!("strongroom.kms.v1.{name}")) {
        assert!(names.contains(&expected), "{names:?}");
    }
    drop(answers);
    kms.stop().await;
}

/// A listing takes minutes where there are thousands of keys.
#[tokio::test]
async fn nobody_waits_for_a_listing_and_what_changes_meanwhile_is_not_mistaken() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    for name in ["rolled", "lost", "cut"] {
        admin.create(name).await.expect("created");
    }
    let lost = hsm.lose("lost", 0);
    hsm.put(TokenKeyVersion {
        key: "planted".parse().expect("a key name"),
        token_id: TokenObjectId::generate(),
        ..lost
    });
    let listing = hsm.hold_lists();
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    let changes = async {
        admin.create("new").await.expect("created");
        admin.roll("rolled").await.expect("rolled");
        // One that is cut off is settled by the next, for which the token is not listed either.
        for crash in [Crash::BeforeGenerate, Crash::AfterGenerate] {
            hsm.crash_at_next(crash);
            admin.roll("cut").await.expect_err("cut off");
        }
        admin.roll("cut").await.expect("rolled");
    };
    let outcome = tokio::time::timeout(PATIENCE, changes).await;
    outcome.expect("nobody waits for the listing");
    assert_eq!(states(&admin.describe("lost").await.expect("there")), [State::Active]);
    drop(listing);

    let started = Instant::now();
    while states(&admin.describe("lost").await.expect("there")) != [State::Missing] {
        assert!(started.elapsed() < PATIENCE, "what is lost is found out");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut metadata = kms.as_user("service/metadata");
    for (name, current) in [("new", 0), ("rolled", 1), ("cut", 2)] {
        let key = admin.describe(name).await.expect("there");
        assert_eq!(key.current_version, Some(current), "{key:?}");
        let minted = metadata.mint(name, ZoneId::generate(), 1).await.expect("minted");
        assert_eq!(minted[0].key_version, current);
    }
    let planted = admin.describe("planted").await.expect("there");
    assert_eq!(planted.current_version, None, "until somebody has looked at it");
    kms.stop().await;
}
