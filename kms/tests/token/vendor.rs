//! The implementations of PKCS#11 that the tests of this folder hold the token layer against: all tests run over each, one
//! at a time, chosen by `STRONGROOM_TEST_TOKEN`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What tests have to know of an implementation to make a token of it. All else must not differ.
pub(crate) trait TokenUnderTest: Sync {
    /// Its module.
    fn module(&self) -> PathBuf;
    /// Writes its configuration into a fresh folder; it keeps its tokens in there too, and has room for two of them.
    fn configure(&self, folder: &Path);
    /// What tells its module where that configuration is.
    fn environment(&self, folder: &Path) -> (&'static str, PathBuf);
    /// What it calls its model.
    fn model(&self) -> &'static str;
    /// The hashes that its RSA-OAEP takes.
    fn oaep_hashes(&self) -> &'static [&'static str];
}

/// The implementation that this run of the tests is about.
pub(crate) fn chosen() -> &'static dyn TokenUnderTest {
    match env::var("STRONGROOM_TEST_TOKEN").as_deref() {
        Err(_) | Ok("softhsm2") => &SoftHsm2,
        Ok("kryoptic") => &Kryoptic,
        Ok(other) => panic!("STRONGROOM_TEST_TOKEN is {other:?}; there are: softhsm2 (if unset), kryoptic"),
    }
}

/// SoftHSM2, from the distribution.
pub(crate) struct SoftHsm2;

const SOFTHSM2_MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];

impl TokenUnderTest for SoftHsm2 {
    fn module(&self) -> PathBuf {
        let found = SOFTHSM2_MODULES.iter().map(PathBuf::from).find(|path| path.exists());
        found.expect("these tests need SoftHSM2: apt-get install softhsm2")
    }

    fn configure(&self, folder: &Path) {
        let tokens = folder.join("tokens");
        fs::create_dir(&tokens).expect("fresh folder");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\n",
            tokens.display()
        );
        fs::write(folder.join("softhsm2.conf"), text).expect("writable");
    }

    fn environment(&self, folder: &Path) -> (&'static str, PathBuf) {
        ("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
    }

    fn model(&self) -> &'static str {
        "SoftHSM v2"
    }

    fn oaep_hashes(&self) -> &'static [&'static str] {
        &["CKM_SHA_1"]
    }
}

/// Kryoptic, built by `ci/test tokens` (`docs/adr/0018-kryoptic-is-the-second-token.md`).
pub(crate) struct Kryoptic;

impl TokenUnderTest for Kryoptic {
    fn module(&self) -> PathBuf {
        let test = env::current_exe().expect("a running test has a path");
        let target = test.ancestors().nth(3).expect("target/debug/deps/token");
        let module = target.join("kryoptic/libkryoptic_pkcs11.so");
        assert!(
            module.exists(),
            "{} is missing; build it with: ci/test tokens",
            module.display()
        );
        module
    }

    fn configure(&self, folder: &Path) {
        let slot = |number: u8| {
            let database = folder.join(format!("kryoptic-{number}.sql"));
            format!(
                "[[slots]]\nslot = {number}\ndbtype = 'sqlite'\ndbargs = '{}'\n",
                database.display()
            )
        };
        fs::write(folder.join("kryoptic.toml"), slot(1) + &slot(2)).expect("writable");
    }

    fn environment(&self, folder: &Path) -> (&'static str, PathBuf) {
        ("KRYOPTIC_CONF", folder.join("kryoptic.toml"))
    }

    fn model(&self) -> &'static str {
        "v1"
    }

    fn oaep_hashes(&self) -> &'static [&'static str] {
        &["CKM_SHA256", "CKM_SHA384", "CKM_SHA512", "CKM_SHA_1"]
    }
}
