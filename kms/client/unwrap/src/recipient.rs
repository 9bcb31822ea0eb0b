//! The key that sealed DEKs are for, and the transport keys that were opened with it.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    key_wrap::{AES_256, AesKek, KeyWrap as _},
    rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use strongroom_proto::{
    Failure, Reason,
    sealed::{OaepHash, RecipientKey, TransportKey},
};
use zeroize::{Zeroize as _, Zeroizing};

use std::sync::Arc;

use crate::{Dek, sealed::untrusted};

/// 128 bits of strength, as a DEK outlives this process in what others may have recorded.
const KEY_SIZE: KeySize = KeySize::Rsa3072;
/// Bytes of a transport key.
const KEY_BYTES: usize = 32;

/// An RSA key that lives as long as this process. AWS-LC clears its private half when it is dropped.
pub(crate) struct Recipient {
    public: RecipientKey,
    private: OaepPrivateDecryptingKey,
}

impl Recipient {
    /// Takes some tenths of a second, on a thread of its own.
    pub(crate) async fn generate() -> Result<Arc<Self>, Failure> {
        let made = tokio::task::spawn_blocking(|| {
            let private = PrivateDecryptingKey::generate(KEY_SIZE).ok()?;
            let der: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
            Some(Self {
                public: RecipientKey::from_der(der.as_ref()).ok()?,
                private: OaepPrivateDecryptingKey::new(private).ok()?,
            })
        });
        let made = made.await.ok().flatten().map(Arc::new);
        made.ok_or_else(|| Failure::new(Reason::Internal, "no key for sealed delivery could be made"))
    }

    pub(crate) const fn public(&self) -> &RecipientKey {
        &self.public
    }

    /// Opens a transport key.
    pub(crate) fn open(&self, key: &TransportKey) -> Result<TransportSecret, Failure> {
        let hash = match key.hash {
            OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
            OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        };
        let mut opened = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let secret = self
            .private
            .decrypt(hash, &key.sealed, &mut opened, None)
            .map_err(|_| untrusted("its transport key is not sealed to this process"))?;
        let mut bytes = Box::new(Zeroizing::new([0; KEY_BYTES]));
        if secret.len() != bytes.len() {
            return Err(untrusted("its transport key has not 32 bytes"));
        }
        bytes.copy_from_slice(secret);
        Ok(TransportSecret {
            sealed: key.clone(),
            bytes,
        })
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recipient(withheld)")
    }
}

/// A transport key in the clear. Zeroed when dropped.
pub(crate) struct TransportSecret {
    sealed: TransportKey,
    bytes: Box<Zeroizing<[u8; KEY_BYTES]>>,
}

impl TransportSecret {
    pub(crate) fn is_of(&self, key: &TransportKey) -> bool {
        self.sealed == *key
    }

    /// The DEK that it wraps.
    pub(crate) fn unwrap(&self, wrapped: &[u8]) -> Result<Dek, Failure> {
        let mut plain = Zeroizing::new(vec![0; wrapped.len()]);
        let key = AesKek::new(&AES_256, &self.bytes[..]).map_err(|_| untrusted("its transport key is not one"))?;
        let dek = key
            .unwrap(wrapped, &mut plain)
            .map_err(|_| untrusted("a DEK is not wrapped with its transport key"))?;
        let opened = Dek::from_wire(dek);
        dek.zeroize();
        opened
    }
}

impl fmt::Debug for TransportSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportSecret(withheld)")
    }
}
