//! A key service that was taken over brings keys of its own into a token as clones: played here, with the tokens' public
//! clone keys, which anybody has.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents};
use prost::Message as _;
use strongroom_kms::token::{
    ClonePublicKey, Kcv, NewVersion, Origin, SealedConfig, Token, TokenKeyVersion, WrappedClone,
};
use strongroom_proto::{Failure, Reason, sealed::ANSWER_DOMAIN};

use crate::{
    fixture::fresh,
    pair::Pair,
    support::{Pki, load},
};

const CLONE_DOMAIN: &str = "strongroom/clone/v1";

/// What a worker signs, on the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct Statement {
    #[prost(message, tag = "1")]
    version: Option<Version>,
    #[prost(message, tag = "2")]
    own: Option<CloneKey>,
    #[prost(bytes, tag = "3")]
    wrapped: Vec<u8>,
    #[prost(uint32, tag = "4")]
    key_bits: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Version {
    #[prost(string, tag = "1")]
    key_name: String,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(string, tag = "3")]
    suite: String,
    #[prost(bytes, tag = "4")]
    kcv: Vec<u8>,
    #[prost(bytes, tag = "5")]
    token_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CloneKey {
    #[prost(bytes, tag = "1")]
    modulus: Vec<u8>,
    #[prost(bytes, tag = "2")]
    exponent: Vec<u8>,
}

fn statement(version: &TokenKeyVersion, own: &ClonePublicKey, clone: &WrappedClone) -> Vec<u8> {
    let statement = Statement {
        version: Some(Version {
            key_name: version.key.to_string(),
            version: version.version.0,
            suite: version.suite.to_string(),
            kcv: version.kcv.as_bytes().to_vec(),
            token_id: version.token_id.as_bytes().to_vec(),
        }),
        own: Some(CloneKey {
            modulus: own.modulus.clone(),
            exponent: own.exponent.clone(),
        }),
        wrapped: clone.wrapped.to_vec(),
        key_bits: clone.key_bits,
    };
    statement.encode_to_vec()
}

/// Two linked tokens, each with a worker that hands out DEKs of payroll sealed only.
async fn tokens(pair: &Pair, pki: &Pki) -> [Token; 2] {
    let own = pki.issue("token-worker", "service/token-worker");
    let mut tokens = Vec::new();
    for (mut config, marks) in pair.configs().into_iter().zip(["marks-a", "marks-b"]) {
        config.sealed = Some(SealedConfig {
            certificate: own.certificate.clone(),
            key: own.key.clone(),
            only: vec!["payroll".parse().expect("a key name")],
            client_ca: own.ca.clone(),
        });
        let started = Token::start(pair.worker(), config, pair.path(marks)).await;
        tokens.push(started.expect("module and PIN file are there"));
    }
    tokens.try_into().expect("two tokens")
}

/// A key that the key service knows, wrapped for a token without another token's help.
fn planted(own: &ClonePublicKey) -> WrappedClone {
    let public = PublicKeyComponents {
        n: own.modulus.as_slice(),
        e: own.exponent.as_slice(),
    };
    let public: PublicEncryptingKey = public.try_into().expect("a sound key");
    let public = OaepPublicEncryptingKey::new(public).expect("an RSA key");
    let mut wrapped = vec![0; public.ciphertext_size()];
    let wrapped = public.encrypt(&OAEP_SHA1_MGF1SHA1, &[7; 32], &mut wrapped, None);
    WrappedClone {
        wrapped: wrapped.expect("encrypts").to_vec().into(),
        key_bits: 256,
        signature: None,
    }
}

fn version_of(new: NewVersion) -> TokenKeyVersion {
    TokenKeyVersion {
        key: new.key,
        version: new.version,
        suite: new.suite,
        kcv: Kcv::from_bytes([1, 2, 3]),
        token_id: new.id,
        origin: Origin::Generated,
    }
}

fn refused(outcome: Result<TokenKeyVersion, Failure>, word: &str) {
    let failure = outcome.expect_err("must be refused");
    assert_eq!(failure.reason, Reason::TokenRefused, "{failure}");
    assert!(failure.message.contains(word), "{failure} lacks {word:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_in_under_a_sealed_only_name_but_what_a_worker_wrapped() {
    let (pair, pki) = (Pair::new(), Pki::new());
    let [source, destination] = tokens(&pair, &pki).await;
    let own = destination.clone_key().await.expect("it was linked");

    let version = version_of(fresh("payroll", 0));
    refused(
        destination.import_clone(&version, &own, planted(&own)).await,
        "there is no signature",
    );
    // Without that check it comes in: here it fails for its check value, which its maker could have computed.
    let other = version_of(fresh("other", 0));
    refused(
        destination.import_clone(&other, &own, planted(&own)).await,
        "has check value",
    );

    let worker = load(&pki.issue("another-worker", "service/token-worker"));
    let made = source.generate_clonable(&fresh("payroll", 1)).await.expect("made");
    let clone = source.export_clone(&made, &own).await.expect("wrapped");
    for (who, name) in [("service/kms", "service kms"), ("user/alice", "user alice")] {
        let forger = load(&pki.issue("forger", who));
        let signature = forger.sign(CLONE_DOMAIN, &statement(&made, &own, &clone));
        let forged = WrappedClone {
            signature: Some(signature.expect("signs")),
            ..clone.clone()
        };
        let outcome = destination.import_clone(&made, &own, forged).await;
        refused(outcome, &format!("{name} signed it"));
    }
    let foreign = load(&Pki::new().issue("token-worker", "service/token-worker"));
    for (domain, signer, why) in [
        (CLONE_DOMAIN, &foreign, "not trusted"),
        (ANSWER_DOMAIN, &worker, "does not verify"),
    ] {
        let signature = signer.sign(domain, &statement(&made, &own, &clone));
        let forged = WrappedClone {
            signature: Some(signature.expect("signs")),
            ..clone.clone()
        };
        refused(destination.import_clone(&made, &own, forged).await, why);
    }
    let planted_under_its_signature = WrappedClone {
        wrapped: planted(&own).wrapped,
        ..clone.clone()
    };
    refused(
        destination.import_clone(&made, &own, planted_under_its_signature).await,
        "does not verify",
    );
    let shortened = WrappedClone {
        key_bits: 128,
        ..clone.clone()
    };
    refused(
        destination.import_clone(&made, &own, shortened).await,
        "does not verify",
    );
    let mut relabelled = made.clone();
    relabelled.version = fresh("payroll", 2).version;
    refused(
        destination.import_clone(&relabelled, &own, clone.clone()).await,
        "does not verify",
    );
    // A worker does not vouch for a key under another's name, id or check value.
    let mut misnamed = made.clone();
    misnamed.kcv = Kcv::from_bytes([1, 2, 3]);
    let failure = source.export_clone(&misnamed, &own).await.expect_err("not that one");
    assert!(
        failure.message.contains("another id, suite or check value"),
        "{failure}"
    );

    let copy = destination.import_clone(&made, &own, clone).await.expect("taken in");
    assert_eq!((copy.kcv, copy.token_id), (made.kcv, made.token_id));
    for token in [source, destination] {
        token.stop().await;
    }
}
