//! Where an issuer's keys come from: a file, or a URL of a server that a given CA vouches for.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use strongroom_proto::transport::{HttpsClient, HttpsUrl};

use super::BearerError;

/// Bytes of the largest key set.
const SET_BYTES_MAX: usize = 1 << 20;

/// A place with an issuer's key set.
pub(super) enum Source {
    File(PathBuf),
    Url { url: HttpsUrl, client: HttpsClient },
}

impl Source {
    pub(super) fn url(url: HttpsUrl, ca: &Path) -> Result<Self, BearerError> {
        let client = HttpsClient::trusting(ca).map_err(BearerError::Ca)?;
        Ok(Self::Url { url, client })
    }

    /// The text of the set.
    pub(super) async fn read(&self) -> Result<String, BearerError> {
        let text = match self {
            Self::File(path) => read_file(path),
            Self::Url { url, client } => client.get(url, SET_BYTES_MAX).await.and_then(|bytes| {
                String::from_utf8(bytes.to_vec()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }),
        };
        text.map_err(|source| BearerError::Read {
            place: self.to_string(),
            source,
        })
    }

    /// How often it is looked at.
    pub(super) const fn interval(&self) -> Duration {
        match self {
            Self::File(_) => Duration::from_secs(1),
            Self::Url { .. } => Duration::from_secs(300),
        }
    }

    /// How long nobody asks again after a token came with a key that is not in the set: anybody can make up such a
    /// token, and it must not make the key service flood the issuer.
    pub(super) const fn pause(&self) -> Duration {
        match self {
            Self::File(_) => Duration::from_millis(200),
            Self::Url { .. } => Duration::from_secs(5),
        }
    }
}

pub(super) fn read_file(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > SET_BYTES_MAX as u64 {
        return Err(io::Error::other("the file is over 1 MiB"));
    }
    std::fs::read_to_string(path)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url { url, .. } => write!(f, "{url}"),
        }
    }
}
