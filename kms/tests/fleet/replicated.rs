//! HSMs that replicate by themselves: Strongroom makes a version in one, which cannot leave it, and finds it in the other.
//!
//! No HSM is at hand that replicates. One SoftHSM2 token that is reached by two paths (two copies of the module, two
//! configurations) stands in for one that does so at once, and two token folders, of which a thread copies one over the other,
//! for one that takes its time. What this cannot show: replicas that differ in what they can do, and half-way states of a
//! vendor's replication.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use strongroom_kms::{
    fleet::{Fleet, Health, Redundancy, RedundancyConfig},
    hsm::Hsm,
    token::{Origin, Token, TokenConfig, WireDek},
};
use strongroom_proto::{Edek, Reason};
use tempfile::TempDir;

use crate::{
    failover::becomes,
    fixture::{PIN, SO_PIN, example, fresh, write_secret, zone},
    pair::report,
    vendor::{SoftHsm2, TokenUnderTest},
};

const LABEL: &str = "strongroom hsm";
const NAMES: [&str; 2] = ["path a", "path b"];

/// Two tokens of one label.
struct Replicas {
    directory: TempDir,
}

impl Replicas {
    /// Two folders, of which the first has a token and the second a copy of it as it is now.
    fn of_two_folders() -> Self {
        let replicas = Self {
            directory: tempfile::tempdir().expect("temporary directory"),
        };
        write_secret(&replicas.path("pin"), PIN);
        write_secret(&replicas.path("so-pin"), SO_PIN);
        for name in NAMES {
            fs::create_dir(replicas.path(name)).expect("fresh");
            SoftHsm2.configure(&replicas.path(name));
            fs::copy(SoftHsm2.module(), replicas.path(name).join("module.so")).expect("a copy of the module");
        }
        let made = Command::new(example("token_worker"))
            .args(["token-init", "--token-label", LABEL, "--module"])
            .arg(SoftHsm2.module())
            .arg("--pin-file")
            .arg(replicas.path("pin"))
            .arg("--so-pin-file")
            .arg(replicas.path("so-pin"))
            .arg("--marks")
            .arg(replicas.path("init-marks"))
            .envs([SoftHsm2.environment(&replicas.path(NAMES[0]))])
            .output();
        let made = made.expect("the example token_worker is built with the tests");
        assert!(made.status.success(), "{made:?}");
        replicate(&replicas.path(NAMES[0]), &replicas.path(NAMES[1]));
        replicas
    }

    /// Two paths to one folder.
    fn of_one_folder() -> Self {
        let replicas = Self::of_two_folders();
        let other = replicas.path(NAMES[1]).join("tokens");
        fs::remove_dir_all(&other).expect("it was a copy");
        std::os::unix::fs::symlink(replicas.path(NAMES[0]).join("tokens"), other).expect("a second path");
        replicas
    }

    fn configs(&self) -> Vec<TokenConfig> {
        let config = |name: &str| {
            let folder = self.path(name);
            let (variable, path) = SoftHsm2.environment(&folder);
            let mut config = TokenConfig::new(folder.join("module.so"), LABEL, self.path("pin"));
            config.name = Some(name.to_owned());
            config
                .environment
                .insert(variable.to_owned(), path.display().to_string());
            config
        };
        NAMES.map(config).to_vec()
    }

    /// Both; a new version may take that long to show in the other one.
    async fn start(&self, replication_wait_s: u64) -> Fleet {
        let settings = RedundancyConfig {
            mode: Redundancy::ReplicatedByHsm,
            replication_wait_s,
            ..RedundancyConfig::default()
        };
        let fleet = self.start_with(&self.configs(), settings).await;
        // Two SoftHSM2 libraries that log in to one folder at the same time can get in each other's way; the one that was
        // refused tries again after a pause.
        for name in NAMES {
            becomes(&fleet, name, |health| *health == Health::Serving).await;
        }
        fleet
    }

    async fn start_with(&self, configs: &[TokenConfig], settings: RedundancyConfig) -> Fleet {
        let started = Fleet::start(example("token_worker"), configs, settings, &self.path("state")).await;
        started.expect("modules and PIN files are there")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn dump(&self, name: &str) -> String {
        let output = Command::new(example("token_probe"))
            .arg("dump")
            .arg(SoftHsm2.module())
            .arg(LABEL)
            .arg(self.path("pin"))
            .envs([SoftHsm2.environment(&self.path(name))])
            .output();
        let output = output.expect("the example token_probe is built with the tests");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Copies the objects of a SoftHSM2 token over another one's, the count of changes last, by which SoftHSM2 notices them.
fn replicate(from: &Path, to: &Path) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("writable");
        let mut entries: Vec<_> = fs::read_dir(from)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
            .collect();
        entries.sort_by_key(|path| path.file_name() == Some(OsStr::new("generation")));
        for path in entries {
            let target = to.join(path.file_name().expect("it was listed"));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, target).expect("copied");
            }
        }
    }
    copy(&from.join("tokens"), &to.join("tokens"));
}

#[tokio::test]
async fn a_version_of_one_shows_in_the_other_and_can_leave_neither() {
    let replicas = Replicas::of_one_folder();
    let fleet = replicas.start(5).await;
    let new = fresh("payroll", 0);
    let made = fleet.generate(&new).await.expect("found in both");
    assert_eq!((made.token_id, made.origin), (new.id, Origin::Generated));
    assert_eq!(fleet.generate(&new).await.expect("found again"), made);
    assert_eq!(NAMES.map(|name| report(&fleet, name).held), [1, 1]);
    for name in NAMES {
        let dump = replicas.dump(name);
        assert!(
            dump.contains("Extractable(false)") && !dump.contains("Extractable(true)\n"),
            "{dump}"
        );
    }

    let import = fleet.import_key(false).await.expect("an import key");
    let public = PublicEncryptingKey::from_der(&import.spki).expect("an RSA public key");
    let public = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(&OAEP_SHA1_MGF1SHA1, &[7; 32], &mut wrapped, None)
        .expect("short enough");
    let brought = fresh("lake", 0);
    let made = fleet
        .import(&brought, import.id, wrapped.into())
        .await
        .expect("found in both");
    assert_eq!(made.origin, Origin::Imported);

    let minted = fleet.mint(&new.key, new.version, &zone(1), 10).await.expect("minted");
    let edek = |wrapped| Edek {
        key: new.key.clone(),
        version: new.version,
        zone: zone(1),
        suite: new.suite,
        wrapped,
    };
    let edeks: Vec<_> = minted.into_iter().map(edek).collect();
    let mut opened = Vec::new();
    for config in replicas.configs() {
        let single = replicas.start_with(&[config], RedundancyConfig::default()).await;
        let deks = single.unwrap(&edeks).await.expect("called").into_iter();
        let deks = deks.map(|dek| dek.map(WireDek::into_wire).expect("it opens").to_vec());
        opened.push(deks.collect::<Vec<_>>());
        single.stop().await;
    }
    assert_eq!(opened[0], opened[1]);
    let failure = fleet.resync(NAMES[1], None).await.expect_err("not Strongroom's to do");
    assert_eq!(failure.reason, Reason::InvalidArgument);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_waited_for_but_not_for_ever() {
    let replicas = Replicas::of_two_folders();
    let fleet = replicas.start(20).await;
    let (from, to) = (replicas.path(NAMES[0]), replicas.path(NAMES[1]));
    let replication = std::thread::spawn({
        let (from, to) = (from.clone(), to.clone());
        move || {
            // The replication's own delay, not the test's patience.
            std::thread::sleep(Duration::from_millis(1500));
            replicate(&from, &to);
        }
    });
    let since = Instant::now();
    let made = fleet.generate(&fresh("payroll", 0)).await.expect("it arrives");
    assert!(since.elapsed() > Duration::from_secs(1), "it was waited for");
    replication.join().expect("copied");
    assert_eq!(NAMES.map(|name| report(&fleet, name).held), [1, 1]);
    fleet.stop().await;

    let fleet = replicas.start(1).await;
    let new = fresh("payroll", 1);
    let failure = fleet.generate(&new).await.expect_err("nothing is copied");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    for part in [NAMES[0], NAMES[1], "after 1 s", "replication_wait_s"] {
        assert!(failure.message.contains(part), "{failure} lacks {part:?}");
    }
    replicate(&from, &to);
    let late = fleet.generate(&new).await.expect("a repeat finds it");
    assert_eq!(late.token_id, new.id);
    assert_eq!(fleet.list_versions().await.expect("listed"), [made, late]);
    fleet.stop().await;
}

#[tokio::test]
async fn another_key_in_the_place_of_the_replica_is_refused_with_an_alarm() {
    let replicas = Replicas::of_two_folders();
    let other = replicas.configs().swap_remove(1);
    let single = Token::start(example("token_worker"), other, replicas.path("state/single")).await;
    let single = single.expect("started");
    single.generate(&fresh("payroll", 0)).await.expect("another one");
    single.stop().await;

    let fleet = replicas.start(5).await;
    let failure = fleet.generate(&fresh("payroll", 0)).await.expect_err("not a replica");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("not the same key"), "{failure}");
    let alarms = fleet.alarms().borrow().clone();
    assert!(alarms.iter().any(|alarm| alarm.token == NAMES[1]), "{alarms:?}");
    fleet.stop().await;
}
