//! What administrators do with keys: disable, describe, alias, rotate, delete.

use std::time::{Duration, Instant};

use bytes::Bytes;
use strongroom_kms::token::{Kcv, Origin, TokenKeyVersion, TokenObjectId};
use strongroom_proto::{
    EdekSuite, KeyVersion, Reason, ZoneId,
    kms::v1::{self as pb, KeyVersionState as State},
    proof::ZoneProof,
    transport::{PeerIdentity, TlsIdentity},
};

use crate::support::{Kms, MemoryHsm, Pki, Site, load};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a test waits for what the service does by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two administrators more than the sample has, who may approve.
const APPROVERS: &str = r#"
@id("approvers")
permit (principal in Group::"approvers", action == Action::"approve", resource);
@id("bob") permit (principal == User::"bob", action == Action::"approve", resource);
@id("carol") permit (principal == User::"carol", action == Action::"approve", resource);
@id("keyadmin-approves") permit (principal == User::"keyadmin", action == Action::"approve", resource);
"#;

fn site() -> Site {
    Site::with_policy(&format!("{}{APPROVERS}", strongroom_kms::policy::SAMPLE))
}

/// A proof by the metadata service that a zone uses no version of payroll up to `through`.
fn proof(site: &Site, zone: ZoneId, through: u32) -> Bytes {
    proof_by(
        &load(&site.pki.issue("metadata-prover", "service/metadata")),
        site,
        zone,
        through,
    )
}

fn proof_by(identity: &TlsIdentity, site: &Site, zone: ZoneId, through: u32) -> Bytes {
    let proof = ZoneProof {
        zone,
        key: "payroll".parse().expect("a key name"),
        through: KeyVersion(through),
        issued_ms: site.clock.now_ms() + 1,
        known: true,
        issuer: PeerIdentity::Metadata,
    };
    proof.sign(identity).expect("signed").to_bytes()
}

fn read(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).expect("own file")
}

async fn until<T>(what: &str, kms: &Kms<'_>, key: &str, found: impl Fn(&pb::Key) -> Option<T>) -> T {
    let started = Instant::now();
    let mut admin = kms.as_user("user/keyadmin");
    loop {
        let key = admin.describe(key).await.expect("known");
        if let Some(found) = found(&key) {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {key:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn nothing_is_done_with_a_disabled_key_until_it_is_enabled() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 1).await.expect("minted");
    assert!(admin.set_disabled("payroll", true).await.expect("disabled").disabled);
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata, mut alice) = (
        kms.as_user("user/keyadmin"),
        kms.as_user("service/metadata"),
        kms.as_user("user/alice"),
    );
    let calls = hsm.calls();
    for outcome in [
        metadata.mint("payroll", zone, 1).await.map(drop),
        metadata.rewrap(&edeks).await.map(drop),
        alice.unwrap(edeks.clone()).await.expect("called").remove(0).map(drop),
        admin.roll("payroll").await.map(drop),
    ] {
        let failure = outcome.expect_err("disabled");
        assert_eq!(failure.reason, Reason::KeyDisabled);
        assert!(failure.message.contains("strongroom key enable payroll"), "{failure}");
    }
    assert_eq!(hsm.calls(), calls, "the token was not asked");
    admin.set_disabled("payroll", false).await.expect("enabled");
    alice
        .unwrap(edeks)
        .await
        .expect("called")
        .remove(0)
        .expect("it opens again");
    kms.stop().await;
}

#[tokio::test]
async fn an_alias_names_one_key_and_edeks_hold_the_keys_own_name() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    for name in ["payroll", "payroll2"] {
        admin.create(name).await.expect("created");
    }
    admin.set_alias("wages", "payroll", false).await.expect("made");
    for (outcome, words) in [
        (admin.create("wages").await.map(drop), "is an alias of key payroll"),
        (
            admin.set_alias("payroll2", "payroll", true).await.map(drop),
            "key payroll2 exists",
        ),
        (
            admin.set_alias("wages", "payroll2", false).await.map(drop),
            "is an alias of key payroll",
        ),
    ] {
        let failure = outcome.expect_err("taken");
        assert_eq!(failure.reason, Reason::KeyExists);
        assert!(failure.message.contains(words), "{failure}");
    }
    let failure = admin.set_alias("pay", "nothing", false).await.expect_err("no such key");
    assert_eq!(failure.reason, Reason::KeyNotFound);
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    let zone = ZoneId::generate();
    for (name, moving) in [("payroll", false), ("payroll2", true)] {
        admin.set_alias("wages", name, moving).await.expect("set");
        let edeks = metadata.mint("wages", zone, 1).await.expect("minted by the alias");
        assert_eq!(edeks[0].key_name, name);
        let opened = kms.as_user("user/alice").unwrap(edeks.clone()).await.expect("called");
        opened[0].as_ref().expect("it opens");
        assert_eq!(admin.describe("wages").await.expect("known").aliases, ["wages"]);
        let mut by_alias = edeks;
        by_alias[0].key_name = "wages".to_owned();
        let refused = kms
            .as_user("user/alice")
            .unwrap(by_alias)
            .await
            .expect("called")
            .remove(0);
        assert_eq!(refused.expect_err("no key of that name").reason, Reason::KeyNotFound);
    }
    let request = pb::DeleteAliasRequest {
        alias: "wages".to_owned(),
    };
    admin.admin.delete_alias(request).await.expect("removed");
    let failure = metadata.mint("wages", zone, 1).await.expect_err("removed");
    assert_eq!(failure.reason, Reason::KeyNotFound);
    kms.stop().await;
}

/// The right to a key is none to every free name, and a name that somebody may give to keys is none to every key.
#[tokio::test]
async fn an_alias_takes_the_right_to_its_key_and_to_its_name() {
    let policy = r#"
        @id("all") permit (principal == User::"keyadmin", action, resource);
        @id("hr") permit (principal == User::"hr", action in [Action::"manage", Action::"view"], resource)
        when { resource in [Key::"payroll", Key::"wages", Key::"bonus"] || (resource.hasTag("team") && resource.getTag("team") == "hr") };
        @id("not-ops") forbid (principal == User::"hr", action == Action::"manage", resource == Key::"ops-backup");"#;
    let (site, hsm) = (Site::with_policy(policy), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut hr) = (kms.as_user("user/keyadmin"), kms.as_user("user/hr"));
    for name in ["payroll", "secret", "tagged"] {
        admin.create(name).await.expect("created");
    }
    let tag = pb::UpdateKeyRequest {
        name: "tagged".to_owned(),
        set_tags: vec![pb::Tag {
            name: "team".to_owned(),
            value: "hr".to_owned(),
        }],
        ..pb::UpdateKeyRequest::default()
    };
    admin.admin.update_key(tag).await.expect("tagged");
    admin.set_alias("finance", "payroll", false).await.expect("any name");
    for (alias, key, moving, refused) in [
        ("wages", "payroll", false, None),
        ("wages", "payroll", false, None),
        ("wages", "secret", true, Some("secret")),
        ("ops", "payroll", false, Some("ops")),
        ("bonus", "secret", false, Some("secret")),
        // A name that its key's tag lets have, and one that nothing does.
        ("team", "tagged", false, None),
        ("ops-backup", "tagged", false, Some("ops-backup")),
        // It is his to move away, and the name is not his.
        ("finance", "tagged", true, None),
        ("finance", "payroll", true, Some("finance")),
    ] {
        let outcome = hr.set_alias(alias, key, moving).await;
        match refused {
            None => drop(outcome.unwrap_or_else(|failure| panic!("{alias} for {key}: {failure}"))),
            Some(name) => {
                let failure = outcome.expect_err("not his");
                assert_eq!(failure.reason, Reason::PermissionDenied, "{alias} for {key}: {failure}");
                assert!(failure.message.contains(&format!("key {name}")), "{failure}");
            }
        }
    }
    kms.stop().await;
    let denied = |record: &strongroom_kms::audit::Record| record.entry.key.as_deref() == Some("ops");
    assert_eq!(
        site.audit().iter().filter(|record| denied(record)).count(),
        1,
        "the name that was refused is on record"
    );
}

#[tokio::test]
async fn policies_know_tags_and_demands_of_a_key() {
    let policy = r#"
        @id("keyadmin") permit (principal == User::"keyadmin", action in [Action::"manage", Action::"view"], resource);
        @id("by-team") permit (principal, action == Action::"mint", resource)
        when { resource.hasTag("team") && resource.getTag("team") == "hr" && !resource.sealed_required };"#;
    let (site, hsm) = (Site::with_policy(policy), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let change = |team: &str, sealed| pb::UpdateKeyRequest {
        name: "payroll".to_owned(),
        set_tags: vec![pb::Tag {
            name: "team".to_owned(),
            value: team.to_owned(),
        }],
        sealed_required: Some(sealed),
        ..pb::UpdateKeyRequest::default()
    };
    for (team, sealed, allowed) in [("it", false, false), ("hr", false, true), ("hr", true, false)] {
        let key = admin.update(change(team, sealed)).await.expect("changed");
        assert_eq!((key.tags[0].value.as_str(), key.sealed_required), (team, sealed));
        let minted = metadata.mint("payroll", ZoneId::generate(), 1).await;
        assert_eq!(minted.is_ok(), allowed, "{team} {sealed}");
    }
    kms.stop().await;
}

/// Policies know enabling and disabling by words of their own, so nothing else comes along under them.
#[tokio::test]
async fn a_key_is_disabled_by_a_call_that_changes_nothing_else() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let before = admin.create("payroll").await.expect("created");
    for disabled in [true, false] {
        let request = pb::UpdateKeyRequest {
            name: "payroll".to_owned(),
            disabled: Some(disabled),
            sealed_required: Some(true),
            ..pb::UpdateKeyRequest::default()
        };
        let failure = admin.update(request).await.expect_err("two things at once");
        assert_eq!(failure.reason, Reason::InvalidArgument);
    }
    let key = admin.describe("payroll").await.expect("there");
    assert_eq!(
        (key.disabled, key.sealed_required),
        (before.disabled, before.sealed_required)
    );
    kms.stop().await;
}

#[tokio::test]
async fn a_confirmation_names_what_the_administrator_looked_at() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    let kcv = admin
        .roll("payroll")
        .await
        .expect("rolled")
        .versions
        .remove(1)
        .kcv
        .to_vec();
    kms.stop().await;
    site.remove_store();

    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let nameless = pb::ConfirmKeyRequest {
        name: "payroll".to_owned(),
        ..pb::ConfirmKeyRequest::default()
    };
    let failure = admin.admin.confirm_key(nameless).await.expect_err("names nothing");
    assert_eq!(failure.code(), tonic::Code::InvalidArgument);
    for (version, kcv) in [(0, kcv.clone()), (1, vec![0; 3]), (2, kcv.clone())] {
        let failure = admin
            .confirm_version("payroll", version, kcv)
            .await
            .expect_err("not that");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    }
    let key = admin.confirm_version("payroll", 1, kcv).await.expect("confirmed");
    assert_eq!((key.current_version, key.unconfirmed), (Some(1), false));
    kms.stop().await;
}

#[tokio::test]
async fn a_page_looks_at_no_more_keys_than_it_needs_and_versions_come_in_pages() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    for number in 0..2500_u32 {
        let [a, b, c, d] = number.to_be_bytes();
        let version = if number < 1100 { number } else { 0 };
        hsm.put(TokenKeyVersion {
            key: match number {
                0..1100 => "aa".parse().expect("a key name"),
                _ => format!("key-{number:04}").parse().expect("a key name"),
            },
            version: KeyVersion(version),
            suite: EdekSuite::Kw,
            kcv: Kcv::from_bytes([b, c, d]),
            token_id: TokenObjectId::from_bytes([a, b, c, d, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            origin: Origin::Generated,
        });
    }
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let (mut after, mut names) = (String::new(), Vec::new());
    loop {
        let page = admin.list(&after, 1000).await.expect("a page");
        assert!(page.keys.iter().all(|key| key.versions.is_empty()));
        names.extend(page.keys.into_iter().map(|key| key.name));
        after = page.next;
        if !page.more {
            break;
        }
    }
    assert_eq!(names.len(), 1401);
    let key = admin.describe("aa").await.expect("known");
    assert_eq!(
        (key.version_count, key.versions.len(), key.versions[0].version),
        (1100, 1000, 100)
    );
    let (mut after, mut versions) = (None, Vec::new());
    loop {
        let request = pb::ListVersionsRequest {
            name: "aa".to_owned(),
            after,
            limit: 400,
        };
        let page = admin.admin.list_versions(request).await.expect("a page").into_inner();
        versions.extend(page.versions.iter().map(|version| version.version));
        after = versions.last().copied();
        if !page.more {
            break;
        }
    }
    assert!(versions.into_iter().eq(0..1100));
    kms.stop().await;
}

#[tokio::test]
async fn a_key_is_rolled_once_when_it_is_due() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    let rotation = |period: Duration| pb::UpdateKeyRequest {
        name: "payroll".to_owned(),
        rotation_period_ms: Some(u64::try_from(period.as_millis()).expect("fits")),
        ..pb::UpdateKeyRequest::default()
    };
    let failure = admin.update(rotation(DAY / 2)).await.expect_err("too often");
    assert_eq!(failure.reason, Reason::InvalidArgument);
    let key = admin.update(rotation(DAY)).await.expect("set");
    let due_ms = key.next_rotation_ms.expect("a next one");
    assert!(due_ms >= site.clock.now_ms() + 23 * 3_600_000);

    // The day passes while the service is down, and again while it runs.
    kms.stop().await;
    site.clock.advance(DAY + DAY / 10);
    let kms = site.start(&hsm).await;
    until("the first roll", &kms, "payroll", |key| {
        (key.current_version == Some(1)).then_some(())
    })
    .await;
    kms.stop().await;
    let kms = site.start(&hsm).await;
    site.clock.advance(DAY + DAY / 10);
    until("the second roll", &kms, "payroll", |key| {
        (key.current_version == Some(2)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let key = kms.as_user("user/keyadmin").describe("payroll").await.expect("known");
    assert_eq!(key.versions.len(), 3, "once for each due time");
    kms.stop().await;
    let rolls = site.audit().into_iter().filter(|record| {
        let entry = &record.entry;
        entry.who == "service kms" && entry.action == "roll" && entry.version.is_some()
    });
    assert_eq!(rolls.count(), 2);
}

/// Whoever may re-wrap could otherwise fill the record of zones, each of which stands in the way of a destruction.
#[tokio::test]
async fn a_zone_goes_on_record_with_its_first_edek_and_only_so_many_do() {
    let (mut site, hsm) = (site(), MemoryHsm::new());
    site.config.keys.zones_max = 2;
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zones = [ZoneId::generate(), ZoneId::generate(), ZoneId::generate()];
    let edeks = metadata.mint("payroll", zones[0], 1).await.expect("minted");
    let none = metadata
        .mint("payroll", zones[2], 0)
        .await
        .expect("it may be asked for none");
    assert!(none.is_empty());
    let mut strayed = edeks.clone();
    strayed[0].zone_id = zones[1].into();
    let rewrapped = metadata.rewrap(&strayed).await.expect("called");
    let refused = |result: &pb::RewrapResult| matches!(result.result, Some(pb::rewrap_result::Result::Failure(_)));
    assert!(rewrapped.results.iter().all(refused), "they are not that zone's");
    admin.roll("payroll").await.expect("rolled");
    let failure = admin
        .delete("payroll", Some(0), Vec::new())
        .await
        .expect_err("unproved");
    assert!(failure.message.contains(&zones[0].to_string()), "{failure}");
    assert!(!failure.message.contains(&zones[2].to_string()), "{failure}");
    assert!(!failure.message.contains(&zones[1].to_string()), "{failure}");
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let mut metadata = kms.as_user("service/metadata");
    metadata
        .mint("payroll", zones[1], 1)
        .await
        .expect("there is room for another");
    let failure = metadata.mint("payroll", zones[2], 1).await.expect_err("one too many");
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("serves 2 zones"), "{failure}");
    metadata.mint("payroll", zones[0], 1).await.expect("it is on record");
    kms.stop().await;
}

/// The service runs on, and who signs proofs has a certificate of a CA that is added and taken away again.
#[tokio::test]
async fn proofs_are_checked_against_the_ca_of_the_day() {
    let (site, hsm, next) = (site(), MemoryHsm::new(), Pki::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    metadata.mint("payroll", zone, 1).await.expect("minted");
    admin.roll("payroll").await.expect("rolled");
    let signer = load(&next.issue("metadata", "service/metadata"));
    let newcomer = |site: &Site| proof_by(&signer, site, zone, 0);
    let failure = admin.delete("payroll", Some(0), vec![newcomer(&site)]).await;
    assert_eq!(failure.expect_err("not trusted yet").reason, Reason::PermissionDenied);

    let ca = site.pki.path("ca.pem");
    let (old, new) = (read(&ca), read(&next.path("ca.pem")));
    for (cas, trusted) in [([&old[..], &new].concat(), true), (old, false)] {
        std::fs::write(&ca, cas).expect("own file");
        let started = Instant::now();
        loop {
            site.clock.advance(Duration::from_secs(1));
            let outcome = admin.delete("payroll", Some(0), vec![newcomer(&site)]).await;
            let refused = matches!(&outcome, Err(failure) if failure.reason == Reason::PermissionDenied);
            if refused != trusted {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "trusted: {trusted}; {outcome:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    kms.stop().await;
}

#[tokio::test]
async fn a_version_that_zones_may_need_is_not_deleted() {
    let (site, hsm) = (site(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zones = [ZoneId::generate(), ZoneId::generate()];
    let edeks = metadata.mint("payroll", zones[0], 1).await.expect("minted");
    metadata.mint("payroll", zones[1], 1).await.expect("minted");
    let failure = admin
        .delete("payroll", Some(0), Vec::new())
        .await
        .expect_err("it mints");
    assert!(failure.message.contains("strongroom key roll payroll"), "{failure}");
    admin.roll("payroll").await.expect("rolled");

    let early = proof(&site, zones[0], 0);
    site.clock.advance(Duration::from_secs(5));
    let failure = admin
        .delete("payroll", Some(0), vec![early])
        .await
        .expect_err("unproved");
    assert_eq!(failure.reason, Reason::DeletionBlocked);
    for word in [
        zones[0].to_string().as_str(),
        zones[1].to_string().as_str(),
        "strongroom zone proof",
    ] {
        assert!(failure.message.contains(word), "{failure} lacks {word}");
    }
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    site.clock.advance(Duration::from_secs(5));
    let proofs = vec![proof(&site, zones[0], 0)];
    admin
        .delete("payroll", Some(0), proofs)
        .await
        .expect_err("one is missing");
    let forged = {
        let mut bytes = proof(&site, zones[1], 0).to_vec();
        bytes[30] ^= 1;
        bytes.into()
    };
    admin
        .delete("payroll", Some(0), vec![forged])
        .await
        .expect_err("not the metadata service's");
    let other = ZoneProof {
        zone: zones[1],
        key: "payroll".parse().expect("a key name"),
        through: KeyVersion(0),
        issued_ms: site.clock.now_ms() + 1,
        known: true,
        issuer: "spiffe://strongroom/user/keyadmin".parse().expect("an identity"),
    };
    let by_user = other
        .sign(&load(&site.pki.issue("prover", "user/keyadmin")))
        .expect("signed");
    let failure = admin
        .delete("payroll", Some(0), vec![by_user.to_bytes()])
        .await
        .expect_err("a user's");
    assert_eq!(failure.reason, Reason::PermissionDenied);
    let proofs = vec![proof(&site, zones[1], 0)];
    let key = admin.delete("payroll", Some(0), proofs).await.expect("pending");
    let deletion = key.versions[0].deletion.clone().expect("pending");
    let due_ms = deletion.due_ms.expect("a due time");
    assert!(due_ms > site.clock.now_ms() + 6 * 24 * 3_600_000);
    assert_eq!(deletion.requested_by, "user keyadmin");

    // It opens while it is pending, and stays if the deletion is taken back.
    kms.as_user("user/alice")
        .unwrap(edeks.clone())
        .await
        .expect("called")
        .remove(0)
        .expect("opens");
    admin.cancel_delete("payroll", Some(0)).await.expect("taken back");
    let failure = admin
        .cancel_delete("payroll", Some(0))
        .await
        .expect_err("nothing to take back");
    assert_eq!(failure.reason, Reason::DeletionBlocked);
    let key = admin.describe("payroll").await.expect("known");
    assert_eq!(
        (key.versions[0].deletion.clone(), key.versions[0].state()),
        (None, State::DecryptOnly)
    );
    kms.stop().await;
}

#[tokio::test]
async fn a_key_that_is_to_be_deleted_opens_and_mints_again_if_that_is_taken_back() {
    let (site, hsm) = (site(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    let request = pb::CreateKeyRequest {
        name: "payroll".to_owned(),
        request_id: strongroom_proto::RequestId::generate().into(),
        outside_zones: true,
        ..pb::CreateKeyRequest::default()
    };
    admin.admin.create_key(request).await.expect("created");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 1).await.expect("minted");
    let key = admin.delete("payroll", None, Vec::new()).await.expect("pending");
    assert_eq!(key.current_version, None);
    assert_eq!(key.deletion.expect("pending").approvals_missing, 2);
    for outcome in [
        metadata.mint("payroll", zone, 1).await.map(drop),
        admin.roll("payroll").await.map(drop),
    ] {
        let failure = outcome.expect_err("to be deleted");
        assert!(
            failure.message.contains("strongroom key cancel-delete payroll"),
            "{failure}"
        );
    }
    kms.as_user("user/alice")
        .unwrap(edeks)
        .await
        .expect("called")
        .remove(0)
        .expect("opens");

    let own = admin.approve_delete("payroll", None).await.expect_err("asked for it");
    assert_eq!(own.reason, Reason::PermissionDenied);
    let guest = kms.as_user("user/guest").approve_delete("payroll", None).await;
    assert_eq!(guest.expect_err("may not").reason, Reason::PermissionDenied);
    let mut bob = kms.as_user("user/bob");
    for _ in 0..2 {
        let key = bob.approve_delete("payroll", None).await.expect("approved");
        assert_eq!(key.deletion.expect("pending").approvals_missing, 1, "each user once");
    }
    kms.stop().await;

    let kms = site.start(&hsm).await;
    let key = kms
        .as_user("user/keyadmin")
        .cancel_delete("payroll", None)
        .await
        .expect("taken back");
    assert_eq!((key.current_version, key.deletion), (Some(0), None));
    kms.as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("it mints again");
    kms.stop().await;
}

#[tokio::test]
async fn where_every_destruction_needs_approvals_a_proof_alone_is_not_enough() {
    let (mut site, hsm) = (site(), MemoryHsm::new());
    site.config.keys.destroy_approvals = 1;
    site.config.keys.destroy_approvals_always = true;
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    admin.create("payroll").await.expect("created");
    let zone = ZoneId::generate();
    metadata.mint("payroll", zone, 1).await.expect("minted");
    admin.roll("payroll").await.expect("rolled");
    let unproved = admin.delete("payroll", Some(0), Vec::new()).await;
    unproved.expect_err("retired, and no more");
    site.clock.advance(Duration::from_secs(5));
    let proofs = vec![proof(&site, zone, 0)];
    let key = admin.delete("payroll", Some(0), proofs).await.expect("pending");
    let missing = |key: &pb::Key| {
        key.versions[0]
            .deletion
            .as_ref()
            .map(|deletion| deletion.approvals_missing)
    };
    assert_eq!(missing(&key), Some(1));
    site.clock.advance(40 * DAY);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let key = admin.describe("payroll").await.expect("known");
    assert_eq!(missing(&key), Some(1), "its time alone does not destroy it");
    kms.as_user("user/bob")
        .approve_delete("payroll", Some(0))
        .await
        .expect("approved");
    until("the destruction", &kms, "payroll", |key| {
        (key.versions[0].state() == State::Destroyed).then_some(())
    })
    .await;
    kms.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_version_is_known_after_a_restart() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let minted = kms
        .as_user("service/metadata")
        .mint("payroll", ZoneId::generate(), 1)
        .await;
    minted.expect("minted");
    let used = |key: pb::Key| key.versions[0].last_used_ms;
    let before = used(kms.as_user("user/keyadmin").describe("payroll").await.expect("known"));
    assert!(before.is_some());
    kms.stop().await;
    let kms = site.start(&hsm).await;
    assert_eq!(
        used(kms.as_user("user/keyadmin").describe("payroll").await.expect("known")),
        before
    );
    kms.stop().await;
}
