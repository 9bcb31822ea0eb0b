//! Clones of EZ keys between tokens, as the rest of the key service asks for them.

use super::{ClonePublicKey, Token, TokenKeyVersion, WrappedClone, pb, sealed::optional_signature};
use strongroom_proto::Failure;

impl Token {
    /// The public half of the key under which other tokens wrap clones for this one.
    ///
    /// # Errors
    /// `token-refused` if it has none yet; `token-unavailable`, `pin-rejected`.
    pub async fn clone_key(&self) -> Result<ClonePublicKey, Failure> {
        let key = self.call(|mut client| async move { client.clone_key(pb::CloneKeyRequest {}).await });
        Ok(key.await?.into())
    }

    /// Tries whether this token can send clones to the one whose clone key `destination` is.
    ///
    /// # Errors
    /// `token-refused` if it cannot, and why; `token-unavailable`, `pin-rejected`.
    pub async fn try_clone(&self, destination: &ClonePublicKey) -> Result<(), Failure> {
        let request = pb::TryCloneRequest {
            destination: Some(destination.into()),
        };
        let tried = self.call(|mut client| {
            let request = request.clone();
            async move { client.try_clone(request).await }
        });
        tried.await.map(drop)
    }

    /// A version, wrapped for the token whose clone key `destination` is.
    ///
    /// # Errors
    /// `token-refused` if this token does not trust that key, the version was not made for cloning, or the token holds another
    /// one in its place;
    /// `key-version-unusable`, `token-unavailable`, `pin-rejected`.
    pub async fn export_clone(
        &self,
        version: &TokenKeyVersion,
        destination: &ClonePublicKey,
    ) -> Result<WrappedClone, Failure> {
        let request = pb::ExportCloneRequest {
            version: Some(version.clone().into()),
            destination: Some(destination.into()),
        };
        let exported = self.call(|mut client| {
            let request = request.clone();
            async move { client.export_clone(request).await }
        });
        let exported = exported.await?;
        Ok(WrappedClone {
            wrapped: exported.wrapped,
            key_bits: exported.key_bits,
            signature: optional_signature(exported.signature)?,
        })
    }

    /// Takes in what [`Token::export_clone`] of another token made for this one's key `own`, and proves it.
    ///
    /// # Errors
    /// `already-exists` if another object is in its place; `token-refused` if the clone is not the same key, the token
    /// makes something else of it, or no worker vouches for it where one has to; `token-unavailable`, `pin-rejected`.
    pub async fn import_clone(
        &self,
        version: &TokenKeyVersion,
        own: &ClonePublicKey,
        clone: WrappedClone,
    ) -> Result<TokenKeyVersion, Failure> {
        let request = pb::ImportCloneRequest {
            version: Some(version.clone().into()),
            own: Some(own.into()),
            wrapped: clone.wrapped,
            key_bits: clone.key_bits,
            signature: clone.signature.map(Into::into),
        };
        let imported = self.call(|mut client| {
            let request = request.clone();
            async move { client.import_clone(request).await }
        });
        imported.await?.try_into()
    }
}
