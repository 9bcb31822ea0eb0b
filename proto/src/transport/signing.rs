//! Signatures by a certificate's key, over other things than TLS handshakes.
//!
//! What is signed is `domain ‖ 0x00 ‖ message`. A domain names one kind of message and its format, so that a signature over
//! one kind never passes for another; nor for TLS 1.3's own, which begin with 64 spaces (RFC 8446, section 4.4.3). The
//! algorithm is named by its TLS `SignatureScheme` (RFC 8446, section 4.2.3), follows from the certificate's key, and is
//! one of those that [`Trust`] lists.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use bytes::Bytes;
use rustls::{
    RootCertStore, SignatureScheme,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    identity::{PeerIdentity, of_certificate},
    tls::{TlsError, TlsIdentity, provider, roots_of},
};
use crate::{Failure, Reason};

/// Certificates in a chain, without the CA's own.
const CHAIN_MAX: usize = 4;
/// Bytes of one certificate, and of a signature: RSA-8192 has 1024.
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;
const SIGNATURE_BYTES_MAX: usize = 1024;

/// Algorithms that are accepted, preferred ones first.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A signature by a certificate's key, and the certificates that lead to the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSignature {
    /// The TLS `SignatureScheme`, for example 0x0403 for ECDSA on P-256 with SHA-256.
    pub scheme: u16,
    /// ASN.1 for ECDSA.
    pub signature: Bytes,
    /// DER, the signer's first; the CA's own is left out.
    pub chain: Vec<Bytes>,
}

impl TlsIdentity {
    /// Signs a message of the kind `domain` with this process' certificate key.
    ///
    /// # Errors
    /// [`Reason::Internal`] if the key is of a type that [`Trust`] would not accept.
    pub fn sign(&self, domain: &str, message: &[u8]) -> Result<CertificateSignature, Failure> {
        let cannot = |why: String| Failure::new(Reason::Internal, format!("the certificate's key cannot sign: {why}"));
        let material = self.material();
        let certified = &material.certified;
        let signer = certified
            .key
            .choose_scheme(&SCHEMES)
            .ok_or_else(|| cannot("it is neither ECDSA on P-256 or P-384, Ed25519 nor RSA".to_owned()))?;
        let signature = signer
            .sign(&signed_text(domain, message))
            .map_err(|error| cannot(error.to_string()))?;
        Ok(CertificateSignature {
            scheme: signer.scheme().into(),
            signature: signature.into(),
            chain: certified
                .cert
                .iter()
                .map(|certificate| Bytes::copy_from_slice(certificate))
                .collect(),
        })
    }
}

/// The CA whose certificates' signatures are believed. Accepted are ECDSA on P-256 with SHA-256 and on P-384 with SHA-384,
/// Ed25519, and RSA-PSS with SHA-256 and 2048 bits or more.
#[derive(Debug, Clone)]
pub struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Reads the CA's certificates from a PEM file.
    ///
    /// # Errors
    /// If the file cannot be read or holds no certificate.
    pub fn load(ca: &Path) -> Result<Self, TlsError> {
        Self::of_roots(roots_of(ca)?)
    }

    pub(super) fn of_roots(roots: Arc<RootCertStore>) -> Result<Self, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        Ok(Self { verifier })
    }

    /// Who signed `message` as one of the kind `domain`: the identity in a certificate that chains to the CA and is within
    /// its dates at `now`.
    ///
    /// # Errors
    /// [`Reason::PermissionDenied`] if the chain, the certificate or the signature is not good, and why.
    pub fn verify(
        &self,
        domain: &str,
        message: &[u8],
        signed: &CertificateSignature,
        now: SystemTime,
    ) -> Result<PeerIdentity, Failure> {
        let chain = chain(signed)?;
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| refused("it comes without a certificate"))?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.verifier
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since))
            .map_err(|error| refused(&format!("its certificate is not trusted ({error})")))?;
        verify_with(leaf, &signed_text(domain, message), signed)?;
        Ok(of_certificate(leaf)?)
    }
}

fn signed_text(domain: &str, message: &[u8]) -> Vec<u8> {
    [domain.as_bytes(), &[0], message].concat()
}

fn chain(signed: &CertificateSignature) -> Result<Vec<CertificateDer<'_>>, Failure> {
    let fits = signed.chain.len() <= CHAIN_MAX
        && signed.signature.len() <= SIGNATURE_BYTES_MAX
        && signed
            .chain
            .iter()
            .all(|certificate| certificate.len() <= CERTIFICATE_BYTES_MAX);
    if fits {
        Ok(signed
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect())
    } else {
        Err(refused("its certificates or its signature are too large"))
    }
}

fn verify_with(leaf: &[u8], text: &[u8], signed: &CertificateSignature) -> Result<(), Failure> {
    let algorithm = algorithm(signed.scheme).ok_or_else(|| refused("it is of an algorithm that is not accepted"))?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| refused("its certificate cannot be read"))?;
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(algorithm, key.as_ref())
        .verify(text, &signed.signature)
        .map_err(|_| refused("it does not verify: the message was changed, or another key signed it"))
}

fn algorithm(scheme: u16) -> Option<&'static dyn VerificationAlgorithm> {
    match SignatureScheme::from(scheme) {
        SignatureScheme::ECDSA_NISTP256_SHA256 => Some(&signature::ECDSA_P256_SHA256_ASN1),
        SignatureScheme::ECDSA_NISTP384_SHA384 => Some(&signature::ECDSA_P384_SHA384_ASN1),
        SignatureScheme::ED25519 => Some(&signature::ED25519),
        SignatureScheme::RSA_PSS_SHA256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        _ => None,
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(Reason::PermissionDenied, format!("the signature is refused: {why}"))
}
