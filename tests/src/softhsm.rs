use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use tempfile::TempDir;

/// Where distributions put the library.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// A SoftHSM2 with one fresh token in a directory of its own.
///
/// SoftHSM2 reads its configuration from `SOFTHSM2_CONF` once per process, so a token is for the processes that are
/// started with [`SoftHsm::environment`], not for this one.
pub struct SoftHsm {
    folder: TempDir,
}

impl SoftHsm {
    /// The token's label.
    pub const LABEL: &str = "strongroom-test";
    /// The token user's PIN.
    pub const PIN: &str = "86420864";

    /// Makes the directory and initialises the token.
    pub fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
        };
        let objects = this.folder.path().join("objects");
        fs::create_dir(&objects).expect("own directory");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            objects.display()
        );
        fs::write(this.config(), config).expect("own directory");
        this.set_pin_file(Self::PIN);
        this.initialise();
        this
    }

    /// The PKCS#11 library.
    pub fn module() -> PathBuf {
        let mut known = MODULES.iter().map(PathBuf::from);
        known
            .find(|path| path.is_file())
            .expect("libsofthsm2.so is not installed; run: apt-get install softhsm2")
    }

    /// The variable that points a process at this token.
    pub fn environment(&self) -> (&'static str, PathBuf) {
        ("SOFTHSM2_CONF", self.config())
    }

    /// The file that holds the PIN, which only its owner can read.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.path().join("pin")
    }

    /// Puts another PIN into the file; the token's own stays.
    pub fn set_pin_file(&self, pin: &str) {
        fs::write(self.pin_file(), pin).expect("own directory");
        fs::set_permissions(self.pin_file(), fs::Permissions::from_mode(0o600)).expect("own file");
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    fn initialise(&self) {
        let (name, value) = self.environment();
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", Self::LABEL])
            .args(["--pin", Self::PIN, "--so-pin", "13571357"])
            .env(name, value)
            .output()
            .expect("softhsm2-util is not installed; run: apt-get install softhsm2");
        assert!(
            output.status.success(),
            "softhsm2-util failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_its_own() {
        let (first, second) = (SoftHsm::new(), SoftHsm::new());
        let serial = |token: &SoftHsm| {
            let (name, value) = token.environment();
            let output = Command::new("softhsm2-util")
                .arg("--show-slots")
                .env(name, value)
                .output()
                .expect("installed");
            let text = String::from_utf8(output.stdout).expect("text");
            assert!(text.contains(SoftHsm::LABEL), "{text}");
            let line = text
                .lines()
                .find(|line| line.contains("Serial number"))
                .map(str::to_owned);
            line.expect("the token has a serial number")
        };
        assert_ne!(serial(&first), serial(&second));
        assert!(SoftHsm::module().is_file());
    }
}
