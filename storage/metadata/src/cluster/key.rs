//! The key that signs capabilities: made once, kept in the data directory, readable by its owner only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use strongroom_proto::{Failure, capability::Signer};

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("cannot {what} the capability key {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No random numbers.
    #[error("the system gave no random numbers for a capability key")]
    Random,
    /// The file holds something else.
    #[error("{} holds no capability key; move it away and a new one is made", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Failure,
    },
}

/// Loads the key of `data_dir`, or makes it.
pub(crate) fn load_or_make(data_dir: &Path) -> Result<Signer, KeyError> {
    let path = data_dir.join("capability.key");
    let document = match fs::read(&path) {
        Ok(document) => document,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
        Err(source) => return Err(file_error("read", &path)(source)),
    };
    Signer::from_pkcs8(&document).map_err(|source| KeyError::Broken { path, source })
}

/// Writes a new key under another name first, so that a crash leaves a whole key or none.
fn make(path: &Path) -> Result<Vec<u8>, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    let fresh = path.with_extension("key.new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(document.as_ref())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(file_error("make", path))?;
    Ok(document.as_ref().to_vec())
}

fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = load_or_make(dir.path()).expect("made");
        let loaded = load_or_make(dir.path()).expect("loaded");
        assert_eq!(made.public_key(), loaded.public_key());
        let path = dir.path().join("capability.key");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, b"nonsense").expect("writable");
        assert!(matches!(load_or_make(dir.path()), Err(KeyError::Broken { .. })));
    }
}
