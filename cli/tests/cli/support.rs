//! Runs the executable in a home of its own, with certificates that nobody else has.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use tempfile::TempDir;

/// A user's home without any service.
pub(crate) struct Home {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    /// An empty home.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir }
    }

    /// A home whose profile names services that nobody runs, on a port that nothing listens on.
    pub(crate) fn with_profile() -> Self {
        let home = Self::new();
        home.write_identity("alice");
        let profile = "kms = \"localhost:1\"\nmetadata = \"localhost:1\"\n\
             [defaults]\nkey = \"alice\"\nzone = \"alice\"\nfs = \"alice\"\n\
             [identities.alice]\nca = \"ca.pem\"\ncertificate = \"alice.pem\"\nkey = \"alice.key\"\n";
        home.write(".config/strongroom/profile.toml", profile);
        home
    }

    /// A path in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file with its directories.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the home")).expect("makes directories");
        fs::write(&path, content).expect("writes");
        path
    }

    /// Runs a command to its end. `{home}` in an argument is the home.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        let home = self.dir.path().to_str().expect("UTF-8");
        let output = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .args(arguments.iter().map(|argument| argument.replace("{home}", home)))
            .env_clear()
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .output()
            .expect("the executable starts");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn write_identity(&self, user: &str) {
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600));
        let key = PrivateKey::generate().expect("random numbers");
        let ca = Authority::new("test CA", key, validity).expect("signs itself");
        let request = Request {
            common_name: user,
            uri: Some(&format!("spiffe://strongroom/user/{user}")),
            names: &[],
            validity,
        };
        let leaf = ca.issue(&request).expect("valid names");
        let path = |name: &str| self.path(".config/strongroom").join(name);
        fs::create_dir_all(path("")).expect("makes directories");
        ca.write_certificate(&path("ca.pem")).expect("writes");
        leaf.write(&path(&format!("{user}.pem")), &path(&format!("{user}.key")))
            .expect("writes");
    }
}

/// Changes a file's permission bits.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
}
