//! What a look at the token means when something gets in its way: a token that is away, a full disk, other instances. The
//! token is a stand-in; disk and database are real.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_kms::token::{Kcv, TokenKeyVersion, TokenObjectId, TokenState};
use strongroom_proto::{
    KeyVersion, Reason, RequestId, ZoneId,
    kms::v1::{self as pb, KeyVersionState as State},
};

use crate::{
    cluster::Cluster,
    support::{Caller, Crash, Kms, MemoryHsm, Site, Way},
};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(40);
const PERMIT_ALL: &str = "permit (principal, action, resource);";

fn shared(url_file: &Path) -> Site {
    let mut site = Site::shared(url_file);
    site.config.instances.poll_ms = 10;
    site
}

/// Waits until `kms` says of a key what is looked for.
async fn until(what: &str, kms: &Kms<'_>, name: &str, found: impl Fn(&pb::Key) -> bool) {
    let (started, mut user) = (Instant::now(), kms.as_user("user/alice"));
    loop {
        let key = user.describe(name).await;
        if key.as_ref().is_ok_and(&found) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {key:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A version that nobody here has made.
fn planted(like: &TokenKeyVersion, name: &str, version: u32) -> TokenKeyVersion {
    TokenKeyVersion {
        key: name.parse().expect("a key name"),
        version: KeyVersion(version),
        kcv: Kcv::from_bytes([7; 3]),
        token_id: TokenObjectId::generate(),
        ..like.clone()
    }
}

/// The token that a version was made in goes away before it answers, and another one is up that has never heard of it.
#[tokio::test]
async fn what_was_begun_is_not_forgotten_while_a_token_is_away_that_may_hold_it() {
    let (site, hsm) = (Site::with_policy(PERMIT_ALL), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/alice");
    admin.create("k").await.expect("made");
    let request = RequestId::generate();
    hsm.crash_at_next(Crash::AfterGenerate);
    admin.roll_as("k", request).await.expect_err("the token went away");
    let made = hsm.lose("k", 1);
    hsm.set_unseen(&["hsm-a"]);
    // Once by itself, and once by a caller.
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    let failure = admin.roll("k").await.expect_err("the version may be in there");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
    assert!(
        failure.message.contains("hsm-a") && failure.message.contains("version 1 of key k"),
        "{failure}"
    );

    hsm.put(made);
    hsm.set_unseen(&[]);
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    let key = admin.roll_as("k", request).await.expect("finished");
    assert_eq!((key.current_version, key.versions.len()), (Some(1), 2), "{key:?}");
    let minted = kms
        .as_user("service/metadata")
        .mint("k", ZoneId::generate(), 1)
        .await
        .expect("nobody has to confirm it");
    assert_eq!(minted[0].key_version, 1);
    kms.stop().await;
}

/// A file system of its own, small enough to fill. Needs root, as CI has it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(directory.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "cannot mount a tmpfs; run this test as root");
        Self(directory)
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("create");
        while file.write_all(&[1; 256 << 10]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

async fn count(caller: &mut Caller) -> usize {
    let (mut count, mut after) = (0, String::new());
    loop {
        let page = caller.list(&after, 1000).await.expect("permitted").keys;
        count += page.len();
        match page.last() {
            Some(last) => after.clone_from(&last.name),
            None => return count,
        }
    }
}

/// The store is lost and is built again from the token; the disk gets full on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_gets_full_while_keys_are_taken_in_costs_none_of_them() {
    const KEYS: usize = 1500;
    let mut pause = Duration::from_millis(100);
    loop {
        let (site, hsm, disk) = (Site::with_policy(PERMIT_ALL), MemoryHsm::new(), SmallDisk::mount(24));
        let store = site.config.data_dir.join("keys.redb");
        fs::create_dir_all(&site.config.data_dir).expect("made");
        std::os::unix::fs::symlink(disk.0.path().join("keys.redb"), store).expect("a link");
        let kms = site.start(&hsm).await;
        let mut admin = kms.as_user("user/alice");
        admin.create("k").await.expect("made");
        let like = hsm.lose("k", 0);
        hsm.put(like.clone());
        for n in 0..KEYS {
            hsm.put(planted(&like, &format!("key-{n:04}"), 0));
        }
        hsm.set_state(TokenState::Ready);
        tokio::time::sleep(pause).await;
        disk.fill();
        let taken_in = loop {
            let before = count(&mut admin).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if count(&mut admin).await == before {
                break before;
            }
        };
        fs::remove_file(disk.ballast()).expect("room");
        let started = Instant::now();
        while count(&mut admin).await != KEYS + 1 {
            let known = count(&mut admin).await;
            assert!(started.elapsed() < PATIENCE, "{known} of {KEYS}, {taken_in} before");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        kms.stop().await;
        if (2..KEYS).contains(&taken_in) {
            return;
        }
        // The disk was full too early or too late to show anything.
        pause = if taken_in < 2 { pause * 2 } else { pause / 2 };
        assert!(!pause.is_zero(), "never in between");
    }
}

/// Two instances over one database, the second with another stand-in for a token, so that it finds nothing itself.
struct Two {
    here: Site,
    there: Site,
    hsm: Arc<MemoryHsm>,
    other: Arc<MemoryHsm>,
    _cluster: Cluster,
}

impl Two {
    fn new() -> Self {
        let cluster = Cluster::start();
        let url_file = cluster.fresh_url();
        Self {
            here: shared(&url_file),
            there: shared(&url_file),
            hsm: MemoryHsm::new(),
            other: MemoryHsm::new(),
            _cluster: cluster,
        }
    }

    async fn start(&self) -> (Kms<'_>, Kms<'_>) {
        (self.here.start(&self.hsm).await, self.there.start(&self.other).await)
    }
}

/// A token joins with thousands of keys that the store does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_and_changed_while_what_a_token_holds_is_stored() {
    const KEYS: usize = 1500;
    let (site, hsm) = (Site::with_policy(PERMIT_ALL), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut other) = (kms.as_user("user/alice"), kms.as_user("user/bob"));
    admin.create("k").await.expect("made");
    let like = hsm.lose("k", 0);
    hsm.put(like.clone());
    for n in 0..KEYS {
        hsm.put(planted(&like, &format!("key-{n:04}"), 0));
    }
    hsm.set_state(TokenState::Ready);
    until("the first is stored", &kms, "key-0000", |_| true).await;
    admin.create("mine").await.expect("made meanwhile");
    admin.set_disabled("key-0000", true).await.expect("changed meanwhile");
    // One that is to be stored yet.
    let last = format!("key-{:04}", KEYS - 1);
    let failure = admin.create(&last).await.expect_err("the token holds it");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable, "{failure}");
    let stored = count(&mut other).await;
    assert!(stored < KEYS, "{stored} were stored before: nobody came in between");
    let started = Instant::now();
    while count(&mut other).await < KEYS + 2 {
        assert!(started.elapsed() < PATIENCE, "not all are stored");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let key = admin.describe("key-0000").await.expect("there");
    assert!(key.disabled && key.unconfirmed, "{key:?}");
    let key = admin.describe(&last).await.expect("there");
    assert_eq!((key.versions.len(), key.unconfirmed), (1, true), "{key:?}");
    kms.stop().await;
}

/// What a look found of a key is not lost because another instance stores that key before it is taken in.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_look_found_is_looked_at_again_if_another_instance_stored_the_key_meanwhile() {
    let at = Two::new();
    let (one, two) = at.start().await;
    one.as_user("user/alice").create("zz").await.expect("made");
    let lost = at.hsm.lose("zz", 0);
    at.other.put(lost.clone());
    // Each of them is stored, which takes a moment.
    for n in 0..150 {
        at.hsm.put(planted(&lost, &format!("key-{n:03}"), 0));
    }
    let updates = Updates::of(&two, "zz");
    at.hsm.set_state(TokenState::Ready);
    until("all are taken in", &one, "key-149", |_| true).await;
    updates.end().await;
    let missing = |key: &pb::Key| key.versions[0].state() == State::Missing;
    until("that it is gone is found out", &one, "zz", missing).await;
    one.stop().await;
    two.stop().await;
}

/// Somebody changes a key during each look of a comparison: what is unknown of it is left open, and taken in after a pause,
/// although no token comes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_no_look_could_decide_is_looked_at_again_after_a_pause() {
    const LOOKS: u32 = 6;
    let at = Two::new();
    let (one, two) = at.start().await;
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    alice.create("k").await.expect("made");
    let known = at.hsm.lose("k", 0);
    at.hsm.put(known.clone());
    at.hsm.put(planted(&known, "k", 5));
    let mut looks = at.hsm.step_looks();
    at.hsm.set_state(TokenState::Ready);
    let mut next = async || tokio::time::timeout(PATIENCE, looks.recv()).await.expect("it looks");
    for n in 0..LOOKS {
        let look = next().await.expect("the stand-in is here");
        bob.update(described("k", n)).await.expect("changed");
        drop(look);
    }
    let again = next().await.expect("the stand-in is here");
    let versions = alice.describe("k").await.expect("there").versions;
    assert_eq!(versions.len(), 1, "a look that was too old decided");
    drop(again);
    until("it is taken in", &one, "k", |key| key.versions.len() == 2).await;
    one.stop().await;
    two.stop().await;
}

fn described(name: &str, n: u32) -> pb::UpdateKeyRequest {
    pb::UpdateKeyRequest {
        name: name.to_owned(),
        description: Some(format!("the {n}th")),
        ..pb::UpdateKeyRequest::default()
    }
}

/// Somebody who changes a key without end.
struct Updates {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Updates {
    fn of(kms: &Kms<'_>, name: &'static str) -> Self {
        let (stop, mut user) = (Arc::new(AtomicBool::new(false)), kms.as_user("user/bob"));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            for n in 0_u32.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                _ = user.update(described(name, n)).await;
            }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("no panic");
    }
}

/// An instance that was cut off still remembers a version that it began and that another one has finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_another_instance_has_finished_is_not_left_out_of_the_comparison() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url_file).await;
    let (here, there) = (shared(&cut), shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let mut alice = one.as_user("user/alice");
    alice.create("k").await.expect("made");
    hsm.crash_at_next(Crash::AfterGenerate);
    alice.roll("k").await.expect_err("the token's answer was lost");
    way.set_open(false);
    let finished = |key: &pb::Key| key.current_version == Some(1);
    until("the version is finished", &two, "k", finished).await;
    way.set_open(true);
    until("it is known", &one, "k", finished).await;
    // The token is compared; what is found of others shows when that has ended.
    hsm.put(planted(&hsm.lose("k", 0), "later", 0));
    hsm.set_state(TokenState::Ready);
    until("the token is compared", &one, "later", |_| true).await;
    let lost = |key: &pb::Key| key.versions[0].state() == State::Missing;
    until("what is lost is found out", &one, "k", lost).await;
    let key = alice.describe("k").await.expect("there");
    assert_eq!(key.versions[1].state(), State::Active, "{key:?}");
    one.as_user("service/metadata")
        .mint("k", ZoneId::generate(), 1)
        .await
        .expect("its newest version is where it was");
    one.stop().await;
    two.stop().await;
}

/// The same of one that another one is about to finish while this one lists the token, which was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_another_instance_finishes_meanwhile_is_not_taken_for_missing() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url_file).await;
    let (here, there) = (shared(&cut), shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let mut alice = one.as_user("user/alice");
    alice.create("k").await.expect("made");
    hsm.crash_at_next(Crash::AfterGenerate);
    alice.roll("k").await.expect_err("the token's answer was lost");
    let held = hsm.hold();
    way.set_open(false);
    tokio::time::timeout(PATIENCE, hsm.wait_held())
        .await
        .expect("it is taken over");
    way.set_open(true);
    until("it is back", &one, "k", |_| true).await;
    hsm.set_state(TokenState::Unavailable {
        why: "its worker was killed".to_owned(),
    });
    one.wait_health(false).await;
    let lists = hsm.hold_lists();
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    drop(held);
    for kms in [&two, &one] {
        let finished = |key: &pb::Key| key.versions.len() == 2;
        until("the version is finished", kms, "k", finished).await;
    }
    drop(lists);
    let started = Instant::now();
    while let Err(failure) = alice.create("other").await {
        assert!(started.elapsed() < PATIENCE, "not compared: {failure}");
    }
    let key = alice.describe("k").await.expect("there");
    assert_eq!(key.versions[1].state(), State::Active, "{key:?}");
    one.stop().await;
    two.stop().await;
}

/// Another instance may be about to fill up a token with what is destroyed here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_destroyed_before_every_instance_knows_that_it_goes() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (here, mut there) = (shared(&url_file), shared(&url_file));
    there.clock = here.clock.clone();
    there.config.instances.poll_ms = 1500;
    let (hsm, other) = (MemoryHsm::new(), MemoryHsm::new());
    let (one, two) = (here.start(&hsm).await, there.start(&other).await);
    // So that it is the first that destroys.
    other.set_state(TokenState::PinRejected);
    let mut alice = one.as_user("user/alice");
    alice.create("k").await.expect("made");
    alice.roll("k").await.expect("rolled");
    alice.delete("k", Some(0), Vec::new()).await.expect("no zone needs it");
    let known = Instant::now();
    while other.expected("k") != [0, 1] {
        assert!(known.elapsed() < PATIENCE, "{:?}", other.expected("k"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let held = hsm.hold();
    here.clock.advance(Duration::from_secs(8 * 24 * 3600));
    tokio::time::timeout(PATIENCE, hsm.wait_held())
        .await
        .expect("somebody destroys it");
    assert_eq!(other.expected("k"), [1]);
    drop(held);
    let destroyed = |key: &pb::Key| key.versions[0].state() == State::Destroyed;
    until("it is destroyed", &two, "k", destroyed).await;
    assert_eq!(alice.describe("k").await.expect("there").versions[0].detail, "");
    one.stop().await;
    two.stop().await;
}

/// A listing takes minutes where there are thousands of keys, and a worker that crashes is back in a moment.
#[tokio::test]
async fn a_token_that_was_away_is_used_while_it_is_compared_and_only_for_what_is_seen_in_it() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let (mut admin, mut metadata, mut alice) = (
        kms.as_user("user/keyadmin"),
        kms.as_user("service/metadata"),
        kms.as_user("user/alice"),
    );
    for name in ["payroll", "mail", "lake"] {
        admin.create(name).await.expect("created");
    }
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 2).await.expect("minted");

    hsm.set_state(TokenState::Unavailable {
        why: "its worker was killed".to_owned(),
    });
    kms.wait_health(false).await;
    let lists = hsm.hold_lists();
    let right = hsm.lose("mail", 0);
    let kcv = Kcv::from_bytes(right.kcv.as_bytes().map(|byte| !byte));
    hsm.put(TokenKeyVersion { kcv, ..right });
    hsm.lose("lake", 0);
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    kms.wait_health(true).await;

    metadata.mint("payroll", zone, 1).await.expect("seen in the token");
    for opened in alice.unwrap(edeks).await.expect("called") {
        opened.expect("seen in the token");
    }
    for name in ["mail", "lake"] {
        let calls = hsm.calls();
        let failure = metadata.mint(name, zone, 1).await.expect_err("not seen in the token");
        assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
        assert!(failure.message.contains("not been compared"), "{failure}");
        assert_eq!(hsm.calls(), calls, "the token was asked to use {name}");
    }
    let failure = admin
        .roll("payroll")
        .await
        .expect_err("changes wait for the comparison");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");

    drop(lists);
    let deadline = Instant::now() + PATIENCE;
    while let Err(failure) = admin.roll("payroll").await {
        assert!(Instant::now() < deadline, "{failure}");
    }
    for name in ["mail", "lake"] {
        let failure = metadata.mint(name, zone, 1).await.expect_err("the comparison found it");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable, "{failure}");
    }
    kms.stop().await;
}
