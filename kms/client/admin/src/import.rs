//! Keys that come from elsewhere: wrapped here, so that nothing but the token sees them.

use std::fmt;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use bytes::Bytes;
use strongroom_proto::{Failure, KeyName, Reason, RequestId, kms::v1 as pb, transport::identified};
use zeroize::Zeroizing;

use crate::{Key, KeyAdminClient, NewKey};

/// The raw AES key of one version: 16, 24 or 32 bytes, overwritten when it goes.
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

impl KeyMaterial {
    /// The key whose bytes these are.
    ///
    /// # Errors
    /// `invalid-argument` if these are not 16, 24 or 32 bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Failure> {
        match bytes.len() {
            16 | 24 | 32 => Ok(Self(bytes)),
            other => Err(refused(format!("an AES key has 16, 24 or 32 bytes, not {other}"))),
        }
    }

    fn bits(&self) -> u32 {
        u32::try_from(self.0.len() * 8).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(withheld)")
    }
}

impl KeyAdminClient {
    /// Makes a key whose versions, from 0 on, are `material`, all of one size. All of them come in, or none. The last one
    /// mints, except in suite `gcm`, where the key is rolled first. A repeat with the same id is answered as the first
    /// call was. `new` names the suite; its size is that of `material`.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached; `invalid-argument` if there is no material, or of several
    /// sizes.
    pub async fn import(
        &self,
        name: &KeyName,
        new: &NewKey,
        material: &[KeyMaterial],
        id: RequestId,
    ) -> Result<Key, Failure> {
        let bits = size(material)?;
        let asked = pb::GetImportKeyRequest { name: name.to_string() };
        let target = self
            .call(asked, |mut grpc, request| async move {
                grpc.get_import_key(identified(request)).await
            })
            .await?;
        let wrapped = material.iter().map(|material| wrap(&target, material));
        let request = pb::ImportKeyRequest {
            key: Some(pb::CreateKeyRequest {
                key_bits: bits,
                ..new.to_wire(name, id)
            }),
            import_key: target.id.clone(),
            wrapped: wrapped.collect::<Result<_, _>>()?,
        };
        self.key(request, |mut grpc, request| async move {
            grpc.import_key(identified(request)).await
        })
        .await
    }
}

fn size(material: &[KeyMaterial]) -> Result<u32, Failure> {
    let first = material.first().map(KeyMaterial::bits);
    let bits = first.ok_or_else(|| refused("a key is imported with one version at least".to_owned()))?;
    if material.iter().any(|material| material.bits() != bits) {
        return Err(refused("all versions of a key have the same size".to_owned()));
    }
    Ok(bits)
}

/// RSA-OAEP (RFC 8017, section 7.1) with the hash that the token takes, and no label.
fn wrap(target: &pb::GetImportKeyResponse, material: &KeyMaterial) -> Result<Bytes, Failure> {
    let algorithm = match target.hash.as_str() {
        "sha256" => &OAEP_SHA256_MGF1SHA256,
        "sha1" => &OAEP_SHA1_MGF1SHA1,
        _ => return Err(malformed()),
    };
    let public = PublicEncryptingKey::from_der(&target.spki).map_err(|_| malformed())?;
    let public = OaepPublicEncryptingKey::new(public).map_err(|_| malformed())?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(algorithm, &material.0, &mut wrapped, None)
        .map_err(|_| malformed())?;
    Ok(wrapped.into())
}

fn refused(message: String) -> Failure {
    Failure::new(Reason::InvalidArgument, message)
}

fn malformed() -> Failure {
    Failure::new(
        Reason::Internal,
        "the key service answered with an import key that this program cannot use; update it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_has_the_size_of_an_aes_key_and_is_never_shown() {
        for bytes in [0, 15, 17, 31, 33, 64] {
            KeyMaterial::new(Zeroizing::new(vec![0; bytes])).expect_err("no AES key");
        }
        let [short, long] = [16, 32].map(|bytes| KeyMaterial::new(Zeroizing::new(vec![0xa5; bytes])).expect("a key"));
        assert_eq!(format!("{short:?}"), "KeyMaterial(withheld)");
        size(&[]).expect_err("none");
        size(&[short, long]).expect_err("of two sizes");
    }
}
