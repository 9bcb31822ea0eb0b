//! A user of sealed delivery, as far as tests need one: signs requests and opens answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    key_wrap::{AES_256, AesKek, KeyWrap as _},
    rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use bytes::Bytes;
use strongroom_proto::{
    Edek, Failure,
    sealed::{
        ANSWER_DOMAIN, HeldIn, OaepHash, REQUEST_DOMAIN, RecipientKey, RequestDigest, SealedAnswer, SealedRequest,
        nonce,
    },
    transport::{CertificateSignature, PeerIdentity, TlsIdentity},
};

pub struct SealedUser {
    pub tls: TlsIdentity,
    private: OaepPrivateDecryptingKey,
    recipient: RecipientKey,
}

/// A request and its signature.
#[derive(Clone)]
pub struct Signed {
    pub request: SealedRequest,
    pub encoded: Bytes,
    pub signature: CertificateSignature,
}

impl SealedUser {
    pub fn new(tls: TlsIdentity) -> Self {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("random numbers");
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().expect("a public key");
        Self {
            tls,
            recipient: RecipientKey::from_der(der.as_ref()).expect("a sound key"),
            private: OaepPrivateDecryptingKey::new(private).expect("an RSA key"),
        }
    }

    pub fn request(&self, edeks: &[Edek]) -> SealedRequest {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now_ms = u64::try_from(since.as_millis()).expect("this age");
        SealedRequest {
            nonce: nonce(),
            issued_ms: now_ms,
            expires_ms: now_ms + 30_000,
            signer: self.tls.identity().clone(),
            recipient: self.recipient.clone(),
            edeks: edeks.to_vec(),
        }
    }

    pub fn sign(&self, request: SealedRequest) -> Signed {
        let encoded = request.encode().expect("a sound request");
        let signature = self.tls.sign(REQUEST_DOMAIN, &encoded).expect("signs");
        Signed {
            request,
            encoded,
            signature,
        }
    }

    /// The DEKs, once the answer is seen to be the token worker's and this request's.
    pub fn open(
        &self,
        asked: &Signed,
        answer: &[u8],
        signature: &CertificateSignature,
    ) -> Vec<Result<(HeldIn, Vec<u8>), Failure>> {
        let trust = self.tls.trust();
        let signer = trust.verify(ANSWER_DOMAIN, answer, signature, SystemTime::now());
        assert_eq!(signer, Ok(PeerIdentity::TokenWorker));
        let answer = SealedAnswer::decode(answer).expect("an answer");
        assert_eq!(answer.request, RequestDigest::of(&asked.encoded));
        let results = answer.results.iter().map(|result| {
            let dek = result.as_ref().map_err(Clone::clone)?;
            let key = answer.transport_keys.iter().find(|key| key.made_in == dek.sealed_in);
            let key = key.expect("a transport key of the same place");
            let hash = match key.hash {
                OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
                OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
            };
            let mut opened = vec![0; self.private.min_output_size()];
            let opened = self
                .private
                .decrypt(hash, &key.sealed, &mut opened, None)
                .expect("sealed to this key");
            let kek = AesKek::new(&AES_256, opened).expect("32 bytes");
            let mut plain = vec![0; dek.wrapped.len()];
            let plain = kek.unwrap(&dek.wrapped, &mut plain).expect("under the transport key");
            Ok((dek.sealed_in, plain.to_vec()))
        });
        results.collect()
    }
}
