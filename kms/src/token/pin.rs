//! PINs: read from a file that only its owner may read, held in memory that is zeroed, never shown.

use std::{
    fmt,
    fs::{File, Metadata},
    io::{self, Read},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aws_lc_rs::pbkdf2;
use cryptoki::types::AuthPin;
use strongroom_proto::transport::mode_open_to_others;
use zeroize::Zeroizing;

/// Bytes of a PIN file; PKCS#11 tokens take far fewer.
const PIN_BYTES_MAX: u64 = 1024;

/// Why a PIN file cannot be used. The PIN itself is never part of a message.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("cannot read the PIN file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a directory or the like.
    #[error("the PIN file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the PIN file {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no PIN.
    #[error("the PIN file {} must hold one line of 1 to 1023 bytes of UTF-8", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A PIN. Zeroed when dropped; there is no way to print, copy or serialise it.
pub(super) struct Pin(Zeroizing<String>);

impl Pin {
    /// Reads the file and strips one trailing newline.
    ///
    /// # Errors
    /// [`PinError`], naming the file.
    pub(super) fn read(path: &Path) -> Result<Self, PinError> {
        let file = File::open(path).map_err(read_error(path))?;
        check_private(path, &file.metadata().map_err(read_error(path))?)?;
        // Room for all of it from the start: a growing buffer would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX as usize + 32));
        file.take(PIN_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(read_error(path))?;
        Self::parse(&bytes).ok_or_else(|| PinError::Malformed { path: path.to_owned() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = std::str::from_utf8(line).ok()?;
        let whole = (1..PIN_BYTES_MAX as usize).contains(&text.len()) && !text.contains(['\n', '\0']);
        whole.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// Two bytes that come of the PIN, by which it may be known again.
    pub(super) fn derive(&self, salt: &[u8], iterations: NonZeroU32) -> [u8; 2] {
        let mut derived = [0; 2];
        let secret = self.0.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, secret, &mut derived);
        derived
    }

    /// For the calls that take a PIN, the one place that hands it out. The copy zeroes itself too.
    pub(super) fn to_auth(&self) -> AuthPin {
        AuthPin::from(self.0.as_str())
    }

    /// Length in bytes, which tokens bound.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(withheld)")
    }
}

/// Checks, without reading it, that a PIN file is there and closed to others.
pub(super) fn check_file(path: &Path) -> Result<(), PinError> {
    check_private(path, &std::fs::metadata(path).map_err(read_error(path))?)
}

fn check_private(path: &Path, metadata: &Metadata) -> Result<(), PinError> {
    if !metadata.is_file() {
        return Err(PinError::NotAFile { path: path.to_owned() });
    }
    match mode_open_to_others(path, metadata) {
        None => Ok(()),
        Some(mode) => Err(PinError::ReadableByOthers {
            path: path.to_owned(),
            mode,
        }),
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> PinError {
    |source| PinError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn written(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("pin");
        fs::write(&path, content).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
        (directory, path)
    }

    #[test]
    fn one_trailing_newline_is_not_part_of_the_pin() {
        for (content, length) in [(&b"1234"[..], Some(4)), (b"1234\n", Some(4)), (b"12 34\r\n", Some(6))] {
            assert_eq!(Pin::parse(content).map(|pin| pin.len()), length);
        }
        for content in [&b""[..], b"\n", b"1234\n\n", b"12\n34", b"\xff", b"a\0b", &[b'1'; 1024]] {
            assert!(Pin::parse(content).is_none(), "{content:?} must be refused");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620] {
            let (_directory, path) = written(b"1234", mode);
            let error = Pin::read(&path).expect_err("open to others").to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        let (_directory, path) = written(b"4711-secret", 0o600);
        let pin = Pin::read(&path).expect("private");
        assert_eq!(format!("{pin:?}"), "Pin(withheld)");
    }
}
