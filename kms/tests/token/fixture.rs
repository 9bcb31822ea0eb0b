//! A fresh token in a temporary directory, and a worker program that sees it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use strongroom_kms::token::{NewVersion, Token, TokenConfig, TokenObjectId, TokenStartError, TokenState};
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, ZoneId};
use tempfile::TempDir;

use crate::vendor::{self, TokenUnderTest};

pub(crate) const LABEL: &str = "strongroom test";
pub(crate) const PIN: &str = "4711-correct";
pub(crate) const SO_PIN: &str = "0815-security-officer";

/// A token of its own. The environment of the test process stays as it is: the worker program sets it for itself.
pub(crate) struct Fixture {
    directory: TempDir,
    vendor: &'static dyn TokenUnderTest,
}

impl Fixture {
    /// A token that is initialised.
    pub(crate) fn new() -> Self {
        let fixture = Self::without_token();
        let output = fixture.init(LABEL);
        assert!(output.status.success(), "{output:?}");
        fixture
    }

    /// Slots without an initialised token.
    pub(crate) fn without_token() -> Self {
        Self::of(vendor::chosen())
    }

    /// The same of a certain implementation.
    pub(crate) fn of(vendor: &'static dyn TokenUnderTest) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        vendor.configure(directory.path());
        let fixture = Self { directory, vendor };
        write_secret(&fixture.path("pin"), PIN);
        write_secret(&fixture.path("so-pin"), SO_PIN);
        fixture.write_worker();
        fixture
    }

    /// The program that supervisors start. It notes each start, with its process id, before it becomes the worker.
    fn write_worker(&self) {
        let (variable, configuration) = self.environment();
        let script = format!(
            "#!/bin/sh\necho $$ >> '{}'\n{variable}='{}' exec '{}' \"$@\"\n",
            self.path("starts").display(),
            configuration.display(),
            program().display(),
        );
        fs::write(self.worker(), script).expect("writable");
        fs::set_permissions(self.worker(), fs::Permissions::from_mode(0o700)).expect("own file");
    }

    pub(crate) fn init(&self, label: &str) -> Output {
        Command::new(program())
            .arg("token-init")
            .args(["--token-label", label])
            .arg("--module")
            .arg(self.vendor.module())
            .arg("--pin-file")
            .arg(self.path("pin"))
            .arg("--so-pin-file")
            .arg(self.path("so-pin"))
            .arg("--marks")
            .arg(self.path("init-marks"))
            .envs([self.environment()])
            .output()
            .expect("the example token_worker is built with the tests")
    }

    /// Runs the probe, which goes past the token layer, and gives its output.
    pub(crate) fn probe(&self, command: &str, rest: &[&str]) -> String {
        let output = Command::new(example("token_probe"))
            .arg(command)
            .arg(self.vendor.module())
            .arg(LABEL)
            .arg(self.path("pin"))
            .args(rest)
            .envs([self.environment()])
            .output()
            .expect("the example token_probe is built with the tests");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What tells the module where its configuration is.
    pub(crate) fn environment(&self) -> (&'static str, PathBuf) {
        self.vendor.environment(self.directory.path())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn worker(&self) -> PathBuf {
        self.path("worker")
    }

    pub(crate) fn config(&self) -> TokenConfig {
        TokenConfig::new(self.vendor.module(), LABEL, self.path("pin"))
    }

    pub(crate) async fn try_start(&self, config: TokenConfig) -> Result<Token, TokenStartError> {
        Token::start(self.worker(), config, self.path("state")).await
    }

    /// A token whose worker is ready.
    pub(crate) async fn start(&self) -> Token {
        let token = self
            .try_start(self.config())
            .await
            .expect("module and PIN file are there");
        assert_eq!(*token.subscribe().borrow(), TokenState::Ready);
        token
    }

    /// Process ids of all workers started so far.
    pub(crate) fn starts(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path("starts")).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a process id")).collect()
    }

    /// Sends a signal to the youngest worker.
    pub(crate) fn signal_worker(&self, signal: &str) {
        let pid = *self.starts().last().expect("a worker was started");
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .status()
            .expect("kill is there");
        assert!(status.success(), "worker {pid} is not running");
    }
}

pub(crate) fn write_secret(path: &Path, content: &str) {
    fs::write(path, content).expect("writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("own file");
}

pub(crate) fn module() -> PathBuf {
    vendor::chosen().module()
}

/// The example, which `cargo test` builds beside the tests.
pub(crate) fn program() -> PathBuf {
    example("token_worker")
}

pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let deps = test.parent().expect("target/debug/deps");
    let program = deps.with_file_name("examples").join(name);
    assert!(
        program.exists(),
        "build it with: cargo build -p strongroom-kms --examples"
    );
    program
}

pub(crate) fn name(name: &str) -> KeyName {
    name.parse().expect("a valid name")
}

/// A version to generate, with an id of its own.
pub(crate) fn fresh(key: &str, version: u32) -> NewVersion {
    NewVersion {
        key: name(key),
        version: KeyVersion(version),
        suite: EdekSuite::Kw,
        key_bits: 256,
        id: TokenObjectId::generate(),
    }
}

pub(crate) const fn zone(byte: u8) -> ZoneId {
    ZoneId::from_bytes([byte; 16])
}

/// Waits for a state, with a deadline.
pub(crate) async fn reaches(token: &Token, wanted: impl Fn(&TokenState) -> bool) -> TokenState {
    let mut states = token.subscribe();
    let reached = tokio::time::timeout(Duration::from_secs(20), states.wait_for(|state| wanted(state))).await;
    reached
        .expect("the state is reached in 20 s")
        .expect("the supervisor runs")
        .clone()
}

/// Polls until `condition` holds, with a deadline.
pub(crate) async fn becomes(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
