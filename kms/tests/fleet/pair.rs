//! Two tokens that hold the same keys, of SoftHSM2 or of two implementations: how to set them up for a test.
//!
//! Each token has a folder of its own with its own configuration, which its `[[tokens]]` entry names in `environment`; so they are as separate as two HSMs, each can be stopped, emptied or replaced, and a fault-injecting
//! module can stand in front of one of them alone: set `module` and further variables of that entry
//! ([`Pair::configs`], then change what is to be changed, then [`Pair::start_with`]).

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use strongroom_kms::{
    fleet::{Fleet, Health, RedundancyConfig, TokenReport},
    hsm::Hsm,
    token::{
        TokenConfig,
        trust::{LinkOptions, Linked, link},
    },
};
use strongroom_proto::Failure;
use tempfile::TempDir;

use crate::{
    fixture::{PIN, SO_PIN, example, write_secret},
    vendor::{SoftHsm2, TokenUnderTest},
};

pub(crate) const LABELS: [&str; 2] = ["strongroom a", "strongroom b"];

/// Two tokens of their own.
pub(crate) struct Pair {
    directory: TempDir,
    vendors: [&'static dyn TokenUnderTest; 2],
}

impl Pair {
    /// Two tokens that are initialised and linked.
    pub(crate) fn new() -> Self {
        let pair = Self::unlinked([&SoftHsm2, &SoftHsm2]);
        let linked = pair.link(false).expect("linked");
        assert!(linked.iter().all(|token| token.lacks.is_empty()), "{linked:?}");
        pair
    }

    /// Two tokens that do not know each other.
    pub(crate) fn unlinked(vendors: [&'static dyn TokenUnderTest; 2]) -> Self {
        let pair = Self {
            directory: tempfile::tempdir().expect("temporary directory"),
            vendors,
        };
        write_secret(&pair.path("pin"), PIN);
        write_secret(&pair.path("so-pin"), SO_PIN);
        for label in LABELS {
            pair.make_token(label);
        }
        pair.write_worker();
        pair
    }

    /// A fresh token in the place of the one with that label.
    pub(crate) fn make_token(&self, label: &str) {
        _ = fs::remove_dir_all(self.folder(label));
        self.make_slots(label);
        let output = Command::new(example("token_worker"))
            .args(["token-init", "--token-label", label, "--module"])
            .arg(self.vendor(label).module())
            .arg("--pin-file")
            .arg(self.path("pin"))
            .arg("--so-pin-file")
            .arg(self.path("so-pin"))
            .arg("--marks")
            .arg(self.path("init-marks"))
            .envs([self.environment(label)])
            .output()
            .expect("the example token_worker is built with the tests");
        assert!(output.status.success(), "{output:?}");
    }

    /// The program that supervisors start: it notes each start in the file that the token's environment names before it becomes the worker.
    fn write_worker(&self) {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = token-worker ]; then echo $$ >> \"$STARTS\"; fi\nexec '{}' \"$@\"\n",
            example("token_worker").display(),
        );
        fs::write(self.worker(), script).expect("writable");
        fs::set_permissions(self.worker(), fs::Permissions::from_mode(0o700)).expect("own file");
    }

    pub(crate) fn link(&self, check_only: bool) -> Result<Vec<Linked>, Failure> {
        self.link_accepting(&[], check_only)
    }

    /// Links although who has the PIN can read the keys of some tokens.
    pub(crate) fn link_accepting(&self, readable: &[&str], check_only: bool) -> Result<Vec<Linked>, Failure> {
        self.link_with(&self.configs(), readable, check_only)
    }

    /// Links tokens that are configured in another way than usual.
    pub(crate) fn link_with(
        &self,
        configs: &[TokenConfig],
        readable: &[&str],
        check_only: bool,
    ) -> Result<Vec<Linked>, Failure> {
        let pins = LABELS.map(|label| (label.to_owned(), self.path("so-pin")));
        let readable: Vec<_> = readable.iter().map(|&label| label.to_owned()).collect();
        link(&LinkOptions {
            executable: &self.worker(),
            tokens: configs,
            so_pin_files: &pins,
            state_dir: &self.path("state"),
            keys_readable_with_pin: &readable,
            check_only,
        })
    }

    pub(crate) fn configs(&self) -> Vec<TokenConfig> {
        let config = |label: &&str| {
            let mut config = TokenConfig::new(self.vendor(label).module(), *label, self.path("pin"));
            for (name, path) in [self.environment(label), ("STARTS", self.starts_file(label))] {
                config.environment.insert(name.to_owned(), path.display().to_string());
            }
            config
        };
        LABELS.iter().map(config).collect()
    }

    pub(crate) async fn start(&self) -> Fleet {
        let fleet = self.start_with(&self.configs(), Self::settings()).await;
        for label in LABELS {
            assert_eq!(report(&fleet, label).health, Health::Serving, "{label}");
        }
        fleet
    }

    pub(crate) async fn start_with(&self, configs: &[TokenConfig], settings: RedundancyConfig) -> Fleet {
        let started = Fleet::start(self.worker(), configs, settings, &self.path("state")).await;
        started.expect("modules and PIN files are there")
    }

    /// The defaults, but compared every second.
    pub(crate) fn settings() -> RedundancyConfig {
        RedundancyConfig {
            check_interval_s: 1,
            ..RedundancyConfig::default()
        }
    }

    /// Sends a signal to the youngest worker of a token.
    pub(crate) fn signal(&self, label: &str, signal: &str) {
        let output = self.kill(label, signal);
        assert!(output.status.success(), "no worker of {label} is running: {output:?}");
    }

    /// Ends the youngest worker of a token that it may have left already, because its token is gone.
    fn end_worker(&self, label: &str) {
        _ = self.kill(label, "KILL");
    }

    fn kill(&self, label: &str, signal: &str) -> Output {
        let text = fs::read_to_string(self.starts_file(label)).expect("a worker was started");
        let pid = text.lines().last().expect("a worker was started");
        let output = Command::new("kill").arg(format!("-{signal}")).arg(pid).output();
        output.expect("kill is there")
    }

    /// Takes a token away, as if it were unplugged: its objects are gone and its worker with them.
    pub(crate) fn remove(&self, label: &str) {
        fs::rename(self.folder(label), self.path(&format!("{}.removed", slug(label)))).expect("it was there");
        self.make_slots(label);
        self.end_worker(label);
    }

    /// Keeps a copy of a token's objects.
    pub(crate) fn back_up(&self, label: &str) {
        let copied = Command::new("cp")
            .arg("-a")
            .args([self.folder(label), self.path(&format!("{}.backup", slug(label)))])
            .status();
        assert!(copied.expect("cp is there").success());
    }

    /// Exchanges the token's objects with that copy. Nobody may use them.
    pub(crate) fn swap_backup(&self, label: &str) {
        let (folder, backup) = (self.folder(label), self.path(&format!("{}.backup", slug(label))));
        let aside = self.path(&format!("{}.aside", slug(label)));
        for (from, to) in [(&folder, &aside), (&backup, &folder), (&aside, &backup)] {
            fs::rename(from, to).expect("it was backed up");
        }
    }

    /// Puts that copy in the token's place.
    pub(crate) fn restore(&self, label: &str) {
        fs::remove_dir_all(self.folder(label)).expect("it was there");
        fs::rename(self.path(&format!("{}.backup", slug(label))), self.folder(label)).expect("it was backed up");
        self.end_worker(label);
    }

    /// Plugs it in again.
    pub(crate) fn return_token(&self, label: &str) {
        fs::remove_dir_all(self.folder(label)).expect("it was removed");
        fs::rename(self.path(&format!("{}.removed", slug(label))), self.folder(label)).expect("it was removed");
    }

    /// Runs the probe, which goes past the token layer.
    pub(crate) fn try_probe(&self, label: &str, command: &str, rest: &[&str]) -> Output {
        Command::new(example("token_probe"))
            .arg(command)
            .arg(self.vendor(label).module())
            .arg(label)
            .arg(self.path("pin"))
            .args(rest)
            .envs([self.environment(label)])
            .output()
            .expect("the example token_probe is built with the tests")
    }

    pub(crate) fn probe(&self, label: &str, command: &str, rest: &[&str]) -> String {
        let output = self.try_probe(label, command, rest);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs the thief on a token, with or without the user's PIN; what it tried and what came of it, line by line.
    pub(crate) fn thief(&self, command: &str, label: &str, with_pin: bool, rest: &[&str]) -> String {
        let mut process = Command::new(example("token_thief"));
        process.arg(command).arg(self.vendor(label).module()).arg(label);
        if with_pin {
            process.arg(self.path("pin"));
        }
        let output = process.args(rest).envs([self.environment(label)]).output();
        let output = output.expect("the example token_thief is built with the tests");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What tells the module of that token where its configuration is.
    pub(crate) fn environment(&self, label: &str) -> (&'static str, PathBuf) {
        self.vendor(label).environment(&self.folder(label))
    }

    /// The implementation of that token.
    pub(crate) fn vendor(&self, label: &str) -> &'static dyn TokenUnderTest {
        let place = LABELS.iter().position(|known| *known == label);
        self.vendors[place.expect("one of the two")]
    }

    /// Slots with nothing in them.
    fn make_slots(&self, label: &str) {
        fs::create_dir(self.folder(label)).expect("fresh directory");
        self.vendor(label).configure(&self.folder(label));
    }

    fn folder(&self, label: &str) -> PathBuf {
        self.path(&slug(label))
    }

    fn starts_file(&self, label: &str) -> PathBuf {
        self.path(&format!("{}.starts", slug(label)))
    }

    pub(crate) fn worker(&self) -> PathBuf {
        self.path("worker")
    }
}

pub(crate) fn report(fleet: &Fleet, label: &str) -> TokenReport {
    let mut reports = fleet.tokens().into_iter();
    reports
        .find(|report| report.label == label)
        .expect("the fleet has that token")
}

fn slug(label: &str) -> String {
    label.replace(' ', "-")
}
