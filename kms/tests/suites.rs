//! What the service does by suite: the one that it takes if none is named, the uses of `gcm` keys, and keys that somebody
//! brought into the token.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod support;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fixture::Fixture;

use strongroom_kms::token::{Kcv, Origin, TokenObjectId};
use strongroom_proto::{
    EdekSuite, KeyVersion, Reason, RequestId, ZoneId,
    kms::v1::{CreateKeyRequest, Key},
};
use support::{Caller, Kms, MemoryHsm, Site};

const PATIENCE: Duration = Duration::from_secs(20);

async fn create(admin: &mut Caller, name: &str, suite: &str) -> support::Answer<Key> {
    let request = CreateKeyRequest {
        name: name.to_owned(),
        request_id: RequestId::generate().into(),
        suite: suite.to_owned(),
        ..CreateKeyRequest::default()
    };
    Ok(admin.admin.create_key(request).await?.into_inner())
}

async fn reaches_version(kms: &Kms<'_>, version: u32) -> Key {
    let started = Instant::now();
    let mut admin = kms.as_user("user/keyadmin");
    loop {
        let key = admin.describe("payroll").await.expect("known");
        if key.current_version >= Some(version) {
            return key;
        }
        assert!(started.elapsed() < PATIENCE, "not rolled: {key:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_key_without_a_named_suite_gets_the_strictest_that_the_token_serves() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    assert_eq!(create(&mut admin, "both", "").await.expect("created").suite, "kw");
    hsm.set_suites(&[EdekSuite::Hadoop, EdekSuite::Gcm]);
    assert_eq!(create(&mut admin, "second", "").await.expect("created").suite, "gcm");
    hsm.set_suites(&[EdekSuite::Hadoop]);
    let failure = create(&mut admin, "third", "")
        .await
        .expect_err("never hadoop by itself");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("--suite"), "{failure}");
    assert_eq!(
        create(&mut admin, "third", "hadoop").await.expect("asked for").suite,
        "hadoop"
    );
    let stranger = create(&mut kms.as_user("user/alice"), "fourth", "").await;
    assert_eq!(stranger.expect_err("no administrator").reason, Reason::PermissionDenied);
    kms.stop().await;
}

#[tokio::test]
async fn a_worn_gcm_key_rolls_by_itself_with_a_record_and_a_lost_count_is_rolled_too() {
    let (mut site, hsm) = (Site::new(), MemoryHsm::new());
    site.config.keys.gcm_roll_after_uses = 1600;
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    create(&mut admin, "payroll", "gcm").await.expect("created");
    create(&mut admin, "other", "kw").await.expect("created");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 10).await.expect("minted");
    for _ in 0..20 {
        metadata.mint("payroll", zone, 10).await.expect("minting goes on");
        metadata.mint("other", zone, 10).await.expect("minted");
    }
    let key = reaches_version(&kms, 1).await;
    assert!(key.versions.len() >= 2);
    assert_eq!(metadata.rewrap(&edeks).await.expect("re-wrapped").results.len(), 10);
    assert_eq!(admin.describe("other").await.expect("known").current_version, Some(0));
    kms.stop().await;
    let rolls: Vec<_> = site
        .audit()
        .into_iter()
        .filter(|record| record.entry.action == "roll")
        .collect();
    assert!(rolls.len() >= 2, "begun and ended: {rolls:?}");
    assert!(rolls.iter().all(|roll| roll.entry.who == "service kms"), "{rolls:?}");

    site.remove_store();
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    let failure = admin.confirm("payroll").await.expect_err("its uses are not known");
    assert!(failure.message.contains("strongroom key roll payroll"), "{failure}");
    let failure = metadata.mint("payroll", zone, 1).await.expect_err("nor does it mint");
    assert!(failure.message.contains("strongroom key roll payroll"), "{failure}");
    let before = key.versions.len();
    let rolled = admin.roll("payroll").await.expect("the way out");
    assert!(rolled.versions.len() > before);
    metadata.mint("payroll", zone, 1).await.expect("under the new version");
    kms.stop().await;
}

/// The key service as a process of its own, until it is killed.
struct Service<'a> {
    process: Child,
    kms: Kms<'a>,
}

impl<'a> Service<'a> {
    async fn start(site: &'a Site, fixture: &Fixture, roll_after_uses: u64) -> Self {
        let listener = std::net::TcpListener::bind(site.config.listen).expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let (config, tls) = (&site.config, &site.config.tls);
        let text = format!(
            "listen = '{address}'\npolicy = '{}'\ndata_dir = '{}'\n\
             [tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n\
             [keys]\ngcm_roll_after_uses = {roll_after_uses}\n\
             [[tokens]]\nmodule = '{}'\nlabel = '{}'\npin_file = '{}'\n",
            config.policy.display(),
            config.data_dir.display(),
            tls.ca.display(),
            tls.certificate.display(),
            tls.key.display(),
            fixture::module().display(),
            fixture::LABEL,
            fixture.path("pin").display(),
        );
        let path = site.pki.path("process.toml");
        fs::write(&path, text).expect("written");
        let process = Command::new(fixture::program())
            .args(["kms", "--config"])
            .arg(&path)
            .envs([fixture.environment()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example token_worker is built with the tests");
        let kms = Kms::at(site, address);
        kms.wait_health(true).await;
        Self { process, kms }
    }

    /// `kill -9`.
    fn kill(mut self) {
        self.process.kill().expect("it has not ended before");
        self.process.wait().expect("ends");
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Each EDEK that is made alone counts as 64 uses at most; so 25 of them wear out a version that is to make 1600.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_again_and_again_forgets_no_use_of_a_gcm_version() {
    const USES: u64 = 1600;
    const MINTS: usize = 25;
    const A_LIFE: usize = 4;
    let (site, fixture) = (Site::new(), Fixture::new());
    let service = Service::start(&site, &fixture, USES).await;
    create(&mut service.kms.as_user("user/keyadmin"), "payroll", "gcm")
        .await
        .expect("created");
    service.kill();
    let (zone, mut minted) = (ZoneId::generate(), 0);
    while minted < MINTS {
        let service = Service::start(&site, &fixture, USES).await;
        let mut metadata = service.kms.as_user("service/metadata");
        for _ in 0..A_LIFE {
            let edeks = metadata.mint("payroll", zone, 1).await.expect("minted");
            minted += usize::from(edeks[0].key_version == 0);
            if edeks[0].key_version > 0 {
                // A crash may have it count too many.
                minted = MINTS;
            }
        }
        // It is killed in the middle of another one, or before it, or after.
        let last = tokio::spawn(async move { metadata.mint("payroll", zone, 1).await });
        service.kill();
        _ = last.await.expect("no panic");
    }
    let service = Service::start(&site, &fixture, USES).await;
    reaches_version(&service.kms, 1).await;
    service.kill();
}

/// Makes an EDEK of payroll, however long its roll takes, and says of which version it is.
async fn mint_soon(kms: &Kms<'_>) -> u32 {
    let (started, mut metadata) = (Instant::now(), kms.as_user("service/metadata"));
    loop {
        match metadata.mint("payroll", ZoneId::generate(), 1).await {
            Ok(edeks) => return edeks[0].key_version,
            Err(failure) => assert!(started.elapsed() < PATIENCE, "{failure}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_store_that_was_set_back_makes_nothing_under_gcm_versions_whose_uses_it_forgot() {
    for mark_is_kept in [true, false] {
        let (site, hsm) = (Site::new(), MemoryHsm::new());
        let file = |name: &str| site.config.data_dir.join(name);
        let kms = site.start(&hsm).await;
        let mut admin = kms.as_user("user/keyadmin");
        create(&mut admin, "payroll", "gcm").await.expect("created");
        create(&mut admin, "other", "kw").await.expect("created");
        let zone = ZoneId::generate();
        let old = kms
            .as_user("service/metadata")
            .mint("payroll", zone, 1)
            .await
            .expect("minted");
        kms.stop().await;
        std::fs::copy(file("keys.redb"), file("backup")).expect("at rest");
        for _ in 0..2 {
            // Each start reserves a range of its own.
            let kms = site.start(&hsm).await;
            assert_eq!(mint_soon(&kms).await, 0, "nothing was set back");
            kms.stop().await;
        }
        std::fs::copy(file("backup"), file("keys.redb")).expect("restored");
        if !mark_is_kept {
            std::fs::remove_file(file("uses.mark")).expect("it was there");
        }
        let rolls_before = rolls(&site);

        let kms = site.start(&hsm).await;
        assert_eq!(
            mint_soon(&kms).await,
            1,
            "never under the version that was counted, mark {mark_is_kept}"
        );
        let key = kms.as_user("user/keyadmin").describe("payroll").await.expect("known");
        assert_eq!(key.versions.len(), 2, "one roll");
        let other = kms.as_user("user/keyadmin").describe("other").await.expect("known");
        assert_eq!(other.versions.len(), 1, "kw keys count nothing");
        let opened = kms.as_user("user/alice").unwrap(old).await.expect("called").remove(0);
        opened.expect("what was made opens");
        kms.stop().await;
        let kms = site.start(&hsm).await;
        assert_eq!(mint_soon(&kms).await, 1, "it is found out once");
        kms.stop().await;
        assert_eq!(rolls(&site), rolls_before + 1);
    }
}

/// Rolls that the service has made by itself.
fn rolls(site: &Site) -> usize {
    let records = site.audit().into_iter();
    let rolls = records.filter(|record| record.entry.action == "roll" && record.entry.version.is_some());
    rolls.filter(|roll| roll.entry.who == "service kms").count()
}

#[tokio::test]
async fn a_version_that_somebody_brought_in_never_mints() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let zone = ZoneId::generate();
    kms.as_user("user/keyadmin").create("payroll").await.expect("created");
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("minted");
    kms.stop().await;

    // Beside the version that the service made, and then in its place, with the same check value.
    let mut planted = hsm.lose("payroll", 0);
    hsm.put(planted.clone());
    let own = planted.clone();
    planted.version = KeyVersion(1);
    planted.kcv = Kcv::from_bytes([7; 3]);
    planted.token_id = TokenObjectId::generate();
    planted.origin = Origin::Imported;
    hsm.put(planted);
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    let failure = admin
        .confirm_version("payroll", 1, vec![7; 3])
        .await
        .expect_err("brought in");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    assert!(failure.message.contains("somebody brought it in"), "{failure}");
    metadata
        .mint("payroll", zone, 1)
        .await
        .expect_err("nobody has looked at it");
    assert_eq!(
        admin.roll("payroll").await.expect("the way out").current_version,
        Some(2)
    );
    assert_eq!(
        metadata.mint("payroll", zone, 1).await.expect("minted")[0].key_version,
        2
    );
    kms.stop().await;

    let mut exchanged = hsm.lose("payroll", 0);
    exchanged.origin = Origin::Imported;
    hsm.put(exchanged);
    let kms = site.start(&hsm).await;
    let mut alice = kms.as_user("user/alice");
    let opened = alice.unwrap(edeks.clone()).await.expect("called").remove(0);
    let failure = opened.expect_err("another key is in its place");
    assert!(
        failure.message.contains("its origin is imported and not generated"),
        "{failure}"
    );
    hsm.put(own);
    kms.stop().await;
    let kms = site.start(&hsm).await;
    let opened = kms.as_user("user/alice").unwrap(edeks).await.expect("called").remove(0);
    opened.expect("its own key is back");
    kms.stop().await;
}
