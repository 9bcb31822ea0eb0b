//! An issuer of tokens: its keys, its signatures, made without the library that the service checks them with.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};
use strongroom_proto::transport::TlsFiles;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// A kind of signing key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Ecdsa,
    Rsa,
    Ed25519,
}

enum Signer {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Keys by their ids.
pub(crate) struct Issuer(BTreeMap<&'static str, Signer>);

impl Issuer {
    pub(crate) fn new(keys: &[(&'static str, Kind)]) -> Self {
        let key = |&(id, kind): &(&'static str, Kind)| {
            let signer = match kind {
                Kind::Ecdsa => {
                    Signer::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("random numbers"))
                }
                Kind::Rsa => Signer::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).expect("random numbers")),
                Kind::Ed25519 => Signer::Ed25519(Ed25519KeyPair::generate().expect("random numbers")),
            };
            (id, signer)
        };
        Self(keys.iter().map(key).collect())
    }

    /// The key set, with keys that are of no use to the service.
    pub(crate) fn set(&self) -> String {
        let mut keys = vec![
            json!({"kty": "oct", "kid": "e", "k": "c2VjcmV0", "alg": "HS256"}),
            json!({"kty": "new", "kid": "n"}),
        ];
        keys.extend(self.0.iter().map(|(id, signer)| signer.jwk(id)));
        json!({ "keys": keys }).to_string()
    }

    pub(crate) fn sign(&self, id: &str, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": self.0[id].algorithm(), "kid": id});
        self.sign_header(id, &header, claims)
    }

    pub(crate) fn sign_header(&self, id: &str, header: &Value, claims: &Value) -> String {
        token(header, claims, |message| self.0[id].sign(message))
    }

    /// What a verifier that lets the token choose would take for good.
    pub(crate) fn hmac_with_public_key(&self, id: &str, claims: &Value) -> String {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.0[id].public());
        let header = json!({"alg": "HS256", "kid": id});
        token(&header, claims, |message| {
            hmac::sign(&secret, message).as_ref().to_vec()
        })
    }
}

impl Signer {
    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ecdsa(_) => "ES256",
            Self::Rsa(_) => "RS256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(key) => key.sign(&random, message).expect("signs").as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .expect("signs");
                signature
            }
        }
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Self::Rsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    fn jwk(&self, id: &str) -> Value {
        let public = self.public();
        match self {
            // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
            Self::Ecdsa(_) => json!({
                "kty": "EC", "crv": "P-256", "kid": id, "use": "sig",
                "x": base64url(&public[1..33]), "y": base64url(&public[33..]),
            }),
            Self::Ed25519(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64url(&public)}),
            Self::Rsa(key) => json!({
                "kty": "RSA", "kid": id, "alg": "RS256",
                "n": base64url(key.public_key().modulus().big_endian_without_leading_zero()),
                "e": base64url(key.public_key().exponent().big_endian_without_leading_zero()),
            }),
        }
    }
}

pub(crate) fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(&signature))
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for letter in 0..=chunk.len() {
            text.push(char::from(LETTERS[(word >> (18 - 6 * letter)) as usize & 63]));
        }
    }
    text
}

pub(crate) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// A web server with one document, over TLS.
pub(crate) struct KeySetServer {
    port: u16,
    answer: Arc<Mutex<(&'static str, String)>>,
    asked: Arc<AtomicUsize>,
}

impl KeySetServer {
    pub(crate) async fn start(files: &TlsFiles, body: String) -> Self {
        let chain = CertificateDer::pem_file_iter(&files.certificate)
            .expect("a file")
            .map(|c| c.expect("PEM"));
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            port: listener.local_addr().expect("an address").port(),
            answer: Arc::new(Mutex::new(("200 OK", body))),
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&server.answer), Arc::clone(&server.asked));
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                asked.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 4096];
                _ = stream.read(&mut request).await;
                let (status, body) = answer.lock().expect("nobody panicked").clone();
                let length = body.len();
                let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                _ = stream.write_all(text.as_bytes()).await;
                _ = stream.shutdown().await;
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/keys", self.port)
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_status(&self, status: &'static str) {
        self.answer.lock().expect("nobody panicked").0 = status;
    }

    pub(crate) fn set_body(&self, body: String) {
        self.answer.lock().expect("nobody panicked").1 = body;
    }
}
