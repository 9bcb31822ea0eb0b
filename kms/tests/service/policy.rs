//! Who may do what, through the gRPC face with real certificates, and what the audit log says of it.

use strongroom_kms::audit::Outcome;
use strongroom_proto::{Reason, ZoneId};

use crate::support::{MemoryHsm, Site};

#[tokio::test]
async fn duties_are_apart() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect("an administrator creates");
    let zone = ZoneId::generate();
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("metadata mints");
    for (who, allowed) in [
        ("user/keyadmin", &["view", "list", "manage"][..]),
        ("service/metadata", &["mint", "rewrap"]),
        ("user/alice", &["unwrap"]),
        ("user/fsadmin", &[]),
        ("user/guest", &[]),
        ("service/block/node-1", &[]),
    ] {
        let mut caller = kms.as_user(who);
        let outcomes = [
            ("view", caller.describe("payroll").await.map(drop)),
            ("list", caller.list("", 0).await.map(drop)),
            ("manage", caller.roll("payroll").await.map(drop)),
            ("mint", caller.mint("payroll", zone, 1).await.map(drop)),
            ("rewrap", caller.rewrap(&edeks).await.map(drop)),
            ("unwrap", caller.unwrap(edeks.clone()).await.map(drop)),
        ];
        for (action, outcome) in outcomes {
            match outcome {
                Ok(()) => assert!(allowed.contains(&action), "{who} did {action}"),
                Err(failure) => {
                    assert!(!allowed.contains(&action), "{who} could not {action}: {failure}");
                    assert_eq!(failure.reason, Reason::PermissionDenied);
                }
            }
        }
    }
    kms.stop().await;
}

#[tokio::test]
async fn a_denied_call_says_who_what_and_which_key_and_is_audited() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 3)
        .await
        .expect("minted");
    let before = hsm.calls();

    let failure = kms
        .as_user("user/guest")
        .unwrap(edeks)
        .await
        .expect_err("guest was granted nothing");
    assert_eq!(failure.reason, Reason::PermissionDenied);
    assert_eq!(
        failure.message,
        "user guest may not unwrap with key payroll (no policy permits it)"
    );
    assert_eq!(hsm.calls(), before, "a denied call must not reach the token");

    let record = site.audit().pop().expect("a record");
    let entry = record.entry;
    assert_eq!((entry.who.as_str(), entry.action.as_str()), ("user guest", "unwrap"));
    assert_eq!(
        (entry.key.as_deref(), entry.version, entry.count),
        (Some("payroll"), Some(0), Some(3))
    );
    assert_eq!(entry.zone, Some(zone.to_string()));
    assert_eq!(
        (entry.outcome, entry.reason.as_deref()),
        (Outcome::Denied, Some("permission-denied"))
    );
    assert_eq!(entry.message, Some(failure.message));
    assert!(entry.from.is_some_and(|from| from.ip().is_loopback()));
    kms.stop().await;
}

#[tokio::test]
async fn a_forbidden_call_names_the_policy_that_forbids_it() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let mut metadata = kms.as_user("service/metadata");
    let edeks = metadata.mint("payroll", ZoneId::generate(), 1).await.expect("minted");
    let failure = metadata.unwrap(edeks).await.expect_err("metadata never unwraps");
    assert_eq!(
        failure.message,
        "service metadata may not unwrap with key payroll (forbidden by services-never-unwrap)"
    );
    assert_eq!(
        site.audit().pop().expect("a record").entry.policies,
        ["services-never-unwrap"]
    );
    kms.stop().await;
}

const TWO_KEYS: &str = r#"
    @id("admin") permit (principal == User::"keyadmin", action in [Action::"manage"], resource);
    @id("bob-sees-b") permit (principal == User::"bob", action == Action::"view", resource == Key::"b");
    @id("bob-reads-b") permit (principal == User::"bob", action == Action::"unwrap", resource == Key::"b");
    @id("mint") permit (principal == Service::"metadata", action == Action::"mint", resource);
"#;

#[tokio::test]
async fn a_list_shows_what_the_caller_may_view() {
    let (site, hsm) = (Site::with_policy(TWO_KEYS), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    assert_eq!(admin.list("", 0).await.expect("no key, nothing to refuse").keys, []);
    for name in ["a", "b", "c"] {
        admin.create(name).await.expect("created");
    }
    let page = kms.as_user("user/bob").list("", 0).await.expect("bob may view one");
    assert_eq!(page.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(!page.more);
    let failure = admin.list("", 0).await.expect_err("this administrator may view none");
    assert_eq!(
        failure.message,
        "user keyadmin may not view any key (no policy permits it)"
    );
    kms.stop().await;
}

#[tokio::test]
async fn a_mixed_batch_fails_item_by_item() {
    let (site, hsm) = (Site::with_policy(TWO_KEYS), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let mut metadata = kms.as_user("service/metadata");
    let mut edeks = Vec::new();
    for name in ["a", "b"] {
        admin.create(name).await.expect("created");
        edeks.extend(metadata.mint(name, ZoneId::generate(), 1).await.expect("minted"));
    }
    let mut flipped = edeks[1].clone();
    flipped.wrapped = [b"not it".as_slice(), &[0; 34]].concat().into();
    let mut unknown = edeks[1].clone();
    unknown.key_version = 9;
    let mut malformed = edeks[1].clone();
    malformed.zone_id = vec![1, 2, 3].into();
    edeks.extend([flipped, unknown, malformed]);

    let results = kms.as_user("user/bob").unwrap(edeks).await.expect("one item is good");
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|f| f.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            Some(Reason::PermissionDenied),
            None,
            Some(Reason::EdekInvalid),
            Some(Reason::KeyVersionUnusable),
            Some(Reason::InvalidArgument),
        ]
    );
    let of_call = site
        .audit()
        .into_iter()
        .map(|record| record.entry)
        .filter(|entry| entry.action == "unwrap");
    assert_eq!(of_call.count(), 5, "one record for each way to end");
    kms.stop().await;
}

#[tokio::test]
async fn a_bad_policy_file_stops_the_start() {
    let site = Site::with_policy(
        "permit (principal, action, resource);\npermit (principal, action == Action::\"read\", resource);",
    );
    let listener = strongroom_proto::transport::bind(site.config.listen)
        .await
        .expect("a port");
    let error = strongroom_kms::serve(&site.config, MemoryHsm::new(), listener, std::future::pending())
        .await
        .expect_err("must not start");
    let source = std::error::Error::source(&error).expect("a source").to_string();
    assert!(
        source.contains("policy.cedar:2: ") && source.contains("read"),
        "{source}"
    );
}

#[tokio::test]
async fn policies_and_groups_are_reloaded_and_a_broken_file_changes_nothing() {
    let (mut site, hsm) = (Site::with_policy(IN_HR), MemoryHsm::new());
    let groups = site.pki.path("groups.toml");
    std::fs::write(&groups, "hr = ['bob']\n").expect("written");
    site.config.groups = Some(groups.clone());
    let kms = site.start(&hsm).await;
    let (mut bob, mut carol) = (kms.as_user("user/bob"), kms.as_user("user/carol"));
    bob.create("payroll").await.expect("bob is in the group");
    carol.describe("payroll").await.expect_err("carol is not");

    std::fs::write(&groups, "hr = ['carol']\n").expect("written");
    wait_record(&site, "policy-reloaded", 1).await;
    // The record is on disk before the set is in force.
    let soon = async { while carol.describe("payroll").await.is_err() {} };
    tokio::time::timeout(PATIENCE, soon).await.expect("carol is now");
    bob.describe("payroll").await.expect_err("bob is not any more");

    std::fs::write(&site.config.policy, "permit (principal, action);").expect("written");
    let broken = wait_record(&site, "policy-broken", 1).await;
    assert_eq!((broken.who.as_str(), broken.outcome), ("service kms", Outcome::Failed));
    let message = broken.message.expect("a reason");
    assert!(message.contains("policy.cedar:1: "), "{message}");
    carol
        .describe("payroll")
        .await
        .expect("the policies before are in force");

    std::fs::write(&site.config.policy, IN_HR).expect("written");
    wait_record(&site, "policy-reloaded", 2).await;
    carol.describe("payroll").await.expect("as before");
    kms.stop().await;
}

/// The forbidding half comes later than the permitting one.
#[tokio::test]
async fn a_policy_file_that_is_written_in_two_halves_is_taken_up_whole_or_not_at_all() {
    const GATE: &str = r#"@id("not-bob") forbid (principal == User::"bob", action, resource);"#;
    let (site, hsm) = (
        Site::with_policy(&format!("{GATE}\n// strongroom: end\n")),
        MemoryHsm::new(),
    );
    let kms = site.start(&hsm).await;
    let mut bob = kms.as_user("user/bob");
    let permit = r#"permit (principal, action, resource);"#;
    std::fs::write(&site.config.policy, permit).expect("written");
    let broken = wait_record(&site, "policy-broken", 1).await;
    let message = broken.message.expect("a reason");
    assert!(message.contains("may have been cut"), "{message}");
    bob.create("payroll")
        .await
        .expect_err("nothing of the first half is in force");

    let whole = format!("{permit}\n{GATE}\n// strongroom: end\n");
    std::fs::write(&site.config.policy, whole).expect("written");
    wait_record(&site, "policy-reloaded", 1).await;
    let mut carol = kms.as_user("user/carol");
    let soon = async { while carol.list("", 0).await.is_err() {} };
    tokio::time::timeout(PATIENCE, soon).await.expect("it is in force");
    bob.create("payroll").await.expect_err("and its second half too");
    kms.stop().await;
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

const IN_HR: &str = r#"@id("hr") permit (principal in Group::"hr", action, resource);"#;

/// The last of so many records of `action`, once they are there.
async fn wait_record(site: &Site, action: &str, count: usize) -> strongroom_kms::audit::Entry {
    for _ in 0..1000 {
        let records = site.audit().into_iter().map(|record| record.entry);
        let mut found: Vec<_> = records.filter(|entry| entry.action == action).collect();
        if found.len() >= count {
            return found.swap_remove(count - 1);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no {count} records of {action}");
}
