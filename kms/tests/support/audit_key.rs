//! A stand-in for a token's audit key: in memory, and it signs whatever it is asked to.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use strongroom_kms::audit::{AuditHead, AuditKey, AuditSignature};

pub struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("random numbers"))
    }

    pub fn key(&self) -> AuditKey {
        AuditKey::of_point("stand-in".to_owned(), self.0.public_key().as_ref()).expect("a point of P-256")
    }

    pub fn sign(&self, head: &AuditHead) -> AuditSignature {
        let signature = self.0.sign(&SystemRandom::new(), &head.signed_text()).expect("signs");
        AuditSignature {
            key: self.key(),
            signature: signature.as_ref().to_vec().into(),
        }
    }
}
