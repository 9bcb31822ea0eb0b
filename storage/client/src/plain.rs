//! Files that are not encrypted, and what this client asks before it has to do with one. The metadata service says which files those are; if
//! that were enough, it could have a client write plaintext, or take what anybody wrote for a file of a zone. So whoever set this client up
//! says in which directories it may be, and that is held against the path that the user named (ADR 36).

use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use strongroom_dataplane::{DataKey, ExtentKey, ExtentKeyError, Geometry, Manifest, ManifestError, ManifestKey, Seed};
use strongroom_kms_unwrap::Dek;
use strongroom_proto::{FileId, ZonePath};

/// Directories below which files may be plain; none unless somebody says so.
#[derive(Default)]
pub(crate) struct PlainDirectories(RwLock<Vec<ZonePath>>);

/// The proof that a file may be plain. Where it is missing no byte passes that is not encrypted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainAllowed(());

impl PlainDirectories {
    pub(crate) fn set(&self, directories: Vec<ZonePath>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = directories;
    }

    /// Whether the file that the user named `path` may be plain. The root is no such directory: nothing would be left that has to be encrypted.
    pub(crate) fn allow(&self, path: &ZonePath) -> Option<PlainAllowed> {
        let directories = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut listed = directories.iter().filter(|directory| !directory.is_root());
        let is_listed = listed.any(|directory| path.is_within(directory));
        is_listed.then_some(PlainAllowed(()))
    }
}

/// What a file is opened and sealed with.
pub(crate) enum Secret {
    Dek(Dek),
    /// Nothing, where that is allowed.
    Plain(PlainAllowed),
}

/// The same, in the form that its suite takes.
pub(crate) enum FileKey<'d> {
    Dek(DataKey<'d>),
    Plain(PlainAllowed),
}

impl FileKey<'_> {
    /// The key of an extent; or what lets its bytes pass as they are.
    pub(crate) fn extent(
        &self,
        crypto_id: FileId,
        seed: Seed,
        geometry: Geometry,
    ) -> Result<ExtentKey, ExtentKeyError> {
        match self {
            Self::Dek(dek) => ExtentKey::derive(dek, crypto_id.as_bytes(), seed, geometry),
            Self::Plain(_) => ExtentKey::plain(geometry),
        }
    }

    /// What authenticates the file's manifests.
    pub(crate) fn code(&self, crypto_id: FileId) -> CodeKey {
        match self {
            Self::Dek(dek) => CodeKey(Some(ManifestKey::derive(dek, crypto_id.as_bytes()))),
            Self::Plain(_) => CodeKey(None),
        }
    }

    /// Of a file that is not encrypted.
    pub(crate) const fn plain(&self) -> Option<PlainAllowed> {
        match self {
            Self::Dek(_) => None,
            Self::Plain(allowed) => Some(*allowed),
        }
    }
}

/// What authenticates manifests: nothing does those of a file without a DEK, which have no code.
pub(crate) struct CodeKey(Option<ManifestKey>);

impl CodeKey {
    pub(crate) fn authenticate(&self, manifest: &Manifest) -> Bytes {
        let code = self.0.as_ref().map(|key| key.authenticate(manifest));
        code.map(|code| Bytes::copy_from_slice(&code)).unwrap_or_default()
    }

    pub(crate) fn verify(&self, manifest: &Manifest, code: &[u8]) -> Result<(), ManifestError> {
        match &self.0 {
            Some(key) => key.verify(manifest, code),
            None if code.is_empty() => Ok(()),
            None => Err(ManifestError::Forged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_may_be_plain() {
        let path = |text: &str| ZonePath::parse(text.as_bytes()).expect("a path");
        let directories = PlainDirectories::default();
        assert!(directories.allow(&path("/landing/a")).is_none(), "nothing is listed");
        directories.set(vec![path("/landing"), path("/tmp/x"), path("/")]);
        for (asked, allowed) in [
            ("/landing", true),
            ("/landing/a/b", true),
            ("/tmp/x/y", true),
            ("/landings/a", false),
            ("/tmp/y", false),
            ("/", false),
        ] {
            assert_eq!(directories.allow(&path(asked)).is_some(), allowed, "{asked}");
        }
    }
}
