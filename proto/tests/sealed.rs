//! Signed requests and answers: what is signed reads back, and nothing else passes for it.

#[path = "../../kms/tests/support/pki.rs"]
#[allow(unreachable_pub, dead_code)]
mod pki;

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rsa::{KeySize, PrivateDecryptingKey},
};
use bytes::Bytes;
use proptest::prelude::*;
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason, ZoneId,
    sealed::{
        HeldIn, OaepHash, REQUEST_DOMAIN, RecipientKey, RequestDigest, SealedAnswer, SealedDek, SealedRequest,
        TransportKey,
    },
    transfer::{Place, TransferRequest},
    transport::CertificateSignature,
};

fn recipient(size: KeySize) -> Vec<u8> {
    let key = PrivateDecryptingKey::generate(size).expect("random numbers");
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a public key");
    der.as_ref().to_vec()
}

/// A SubjectPublicKeyInfo as of an RSA key of so many bits, which nobody has.
fn made_up(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] >>= modulus.len() * 8 - bits;
    if modulus[0] >= 0x80 {
        modulus.insert(0, 0);
    }
    let key = der(0x30, &[der(2, &modulus), der(2, &[1, 0, 1])].concat());
    // rsaEncryption (RFC 8017, appendix C), with its NULL.
    let algorithm = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    der(
        0x30,
        &[der(0x30, &algorithm), der(3, &[&[0], key.as_slice()].concat())].concat(),
    )
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    let header = match length {
        [0, low] if low < 0x80 => vec![tag, low],
        [0, low] => vec![tag, 0x81, low],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), content].concat()
}

fn request() -> SealedRequest {
    let edek = |zone: u8| Edek {
        key: "payroll".parse().expect("a key name"),
        version: KeyVersion(3),
        zone: ZoneId::from_bytes([zone; 16]),
        suite: EdekSuite::Kw,
        wrapped: Bytes::from_static(&[9; 40]),
    };
    SealedRequest {
        nonce: [1; 16],
        issued_ms: 1_000_000,
        expires_ms: 1_060_000,
        signer: "spiffe://strongroom/user/alice".parse().expect("an identity"),
        recipient: RecipientKey::from_der(&recipient(KeySize::Rsa2048)).expect("a key"),
        edeks: vec![edek(1), edek(2)],
    }
}

fn answer() -> SealedAnswer {
    SealedAnswer {
        request: RequestDigest::of(b"request"),
        transport_keys: vec![TransportKey {
            made_in: HeldIn::Token,
            hash: OaepHash::Sha1,
            sealed: Bytes::from_static(&[2; 256]),
        }],
        results: vec![
            Ok(SealedDek {
                sealed_in: HeldIn::Token,
                wrapped: Bytes::from_static(&[3; 40]),
            }),
            Err(Failure::new(Reason::EdekInvalid, "it does not open")),
        ],
    }
}

fn transfer() -> TransferRequest {
    let place = |key: &str, zone: u8| Place {
        key: key.parse().expect("a key name"),
        zone: ZoneId::from_bytes([zone; 16]),
    };
    TransferRequest {
        nonce: [1; 16],
        issued_ms: 1_000_000,
        expires_ms: 1_060_000,
        signer: "spiffe://strongroom/user/alice".parse().expect("an identity"),
        from: place("payroll", 1),
        to: place("archive", 2),
        edeks: vec![
            (KeyVersion(3), Bytes::from_static(&[9; 40])),
            (KeyVersion(4), Bytes::from_static(&[8; 68])),
        ],
    }
}

#[test]
fn a_transfer_reads_back_every_bit_of_it_means_something_and_its_bytes_are_the_documented_ones() {
    let encoded = transfer().encode().expect("a sound request");
    assert_eq!(TransferRequest::decode(&encoded).expect("reads"), transfer());
    differs_at_every_bit(&encoded, |bytes| TransferRequest::decode(bytes).ok());
    let mut documented = vec![1];
    documented.extend([1; 16]);
    documented.extend(1_000_000_u64.to_be_bytes());
    documented.extend(1_060_000_u64.to_be_bytes());
    documented.extend(b"\0\x1espiffe://strongroom/user/alice\0\x07payroll");
    documented.extend([1; 16]);
    documented.extend(b"\0\x07archive");
    documented.extend([2; 16]);
    documented.extend([0, 2, 0, 0, 0, 3, 0, 40]);
    documented.extend([9; 40]);
    documented.extend([0, 0, 0, 4, 0, 68]);
    documented.extend([8; 68]);
    assert_eq!(encoded, documented);
}

#[test]
fn what_no_transfer_may_be_is_neither_written_nor_read() {
    let changed = |change: &dyn Fn(&mut TransferRequest)| {
        let mut request = transfer();
        change(&mut request);
        request
    };
    for bad in [
        changed(&|r| r.expires_ms = r.issued_ms + 60_001),
        changed(&|r| r.expires_ms = r.issued_ms),
        changed(&|r| r.edeks.clear()),
        changed(&|r| r.edeks = vec![r.edeks[0].clone(); 201]),
        changed(&|r| r.to = r.from.clone()),
    ] {
        assert_eq!(bad.encode().expect_err("out of bounds").reason, Reason::InvalidArgument);
    }
    for length in [0, 129] {
        let request = changed(&|r| r.edeks[0].1 = vec![7; length].into());
        let encoded = request.encode().expect("is written");
        assert!(TransferRequest::decode(&encoded).is_err(), "an EDEK of {length} bytes");
    }
    // One place for both: an encoding that was changed afterwards.
    let two = changed(&|r| r.to.key = "payroll".parse().expect("a key name"));
    let encoded = two.encode().expect("another zone").to_vec();
    let at = encoded
        .windows(16)
        .position(|window| window == [2; 16])
        .expect("the other zone");
    let mut same = encoded.clone();
    same[at..at + 16].copy_from_slice(&[1; 16]);
    assert!(TransferRequest::decode(&encoded).is_ok() && TransferRequest::decode(&same).is_err());
}

#[test]
fn requests_and_answers_read_back_and_every_bit_of_them_means_something() {
    let encoded = request().encode().expect("a sound request");
    assert_eq!(SealedRequest::decode(&encoded).expect("reads"), request_like(&encoded));
    differs_at_every_bit(&encoded, |bytes| SealedRequest::decode(bytes).ok());
    let encoded = answer().encode().expect("a sound answer");
    assert_eq!(SealedAnswer::decode(&encoded).expect("reads"), answer());
    differs_at_every_bit(&encoded, |bytes| SealedAnswer::decode(bytes).ok());
}

/// The recipient's key is drawn anew in every request.
fn request_like(encoded: &[u8]) -> SealedRequest {
    SealedRequest {
        recipient: SealedRequest::decode(encoded).expect("reads").recipient,
        ..request()
    }
}

fn differs_at_every_bit<T: PartialEq + std::fmt::Debug>(encoded: &[u8], decode: impl Fn(&[u8]) -> Option<T>) {
    let original = decode(encoded);
    assert!(original.is_some());
    for bit in 0..encoded.len() * 8 {
        let mut changed = encoded.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(decode(&changed), original, "bit {bit} means nothing");
    }
    for length in 0..encoded.len() {
        assert!(decode(&encoded[..length]).is_none(), "{length} bytes are enough");
    }
    assert!(decode(&[encoded, &[0]].concat()).is_none(), "a byte may follow");
}

#[test]
fn what_no_request_may_be_is_neither_written_nor_read() {
    let sound = request();
    let mut long = sound.clone();
    long.expires_ms = long.issued_ms + 60_001;
    let mut ended = sound.clone();
    ended.expires_ms = ended.issued_ms;
    let mut empty = sound.clone();
    empty.edeks.clear();
    let mut many = sound.clone();
    many.edeks = vec![sound.edeks[0].clone(); 201];
    for bad in [long, ended, empty, many] {
        assert_eq!(bad.encode().expect_err("out of bounds").reason, Reason::InvalidArgument);
    }
    // A lifetime that was stretched after the encoding: the first bytes are format, nonce and times.
    let mut encoded = sound.encode().expect("a sound request").to_vec();
    encoded[25..33].copy_from_slice(&2_000_000u64.to_be_bytes());
    assert!(SealedRequest::decode(&encoded).is_err());
}

#[test]
fn only_rsa_keys_of_a_sound_size_are_sealed_to() {
    for size in [KeySize::Rsa2048, KeySize::Rsa3072] {
        let der = recipient(size);
        let key = RecipientKey::from_der(&der).expect("a sound key");
        assert_eq!((key.der(), key.modulus().len()), (der.as_slice(), size.len()));
        assert!(RecipientKey::from_der(&der[..der.len() - 1]).is_err());
        assert!(RecipientKey::from_der(&[der.as_slice(), &[0]].concat()).is_err());
        // The exponent's last byte is the document's last.
        let mut even = der.clone();
        *even.last_mut().expect("bytes") = 3;
        assert!(RecipientKey::from_der(&even).is_err());
    }
    for (bits, taken) in [(2047, false), (2048, true), (4096, true), (4097, false), (8192, false)] {
        let key = RecipientKey::from_der(&made_up(bits));
        assert_eq!(key.is_ok(), taken, "{bits} bits");
    }
}

#[test]
fn a_signature_holds_for_its_bytes_domain_signer_and_time_only() {
    let (ours, theirs) = (pki::Pki::new(), pki::Pki::new());
    let alice = pki::load(&ours.issue("alice", "user/alice"));
    let (verifier, now) = (alice.trust(), SystemTime::now());
    let signed = alice.sign(REQUEST_DOMAIN, b"body").expect("signs");
    let verify = |domain, body: &[u8], signature: &CertificateSignature, at| {
        verifier
            .verify(domain, body, signature, at)
            .map_err(|failure| failure.reason)
    };
    assert_eq!(
        verify(REQUEST_DOMAIN, b"body", &signed, now).as_ref(),
        Ok(alice.identity())
    );

    let refused = Err(Reason::PermissionDenied);
    assert_eq!(verify(REQUEST_DOMAIN, b"bodY", &signed, now), refused);
    assert_eq!(verify("another", b"body", &signed, now), refused);
    let day = Duration::from_secs(48 * 3600);
    assert_eq!(verify(REQUEST_DOMAIN, b"body", &signed, now + day), refused, "expired");
    assert_eq!(
        verify(REQUEST_DOMAIN, b"body", &signed, now - day),
        refused,
        "not valid yet"
    );

    let mallory = pki::load(&theirs.issue("alice", "user/alice"));
    let foreign = mallory.sign(REQUEST_DOMAIN, b"body").expect("signs");
    assert_eq!(verify(REQUEST_DOMAIN, b"body", &foreign, now), refused, "another CA's");
    let bob = pki::load(&ours.issue("bob", "user/bob"));
    let mut swapped = signed.clone();
    swapped.chain = bob.sign(REQUEST_DOMAIN, b"body").expect("signs").chain;
    assert_eq!(
        verify(REQUEST_DOMAIN, b"body", &swapped, now),
        refused,
        "another's certificate"
    );
    for change in [
        |signature: &mut CertificateSignature| signature.chain.clear(),
        |signature: &mut CertificateSignature| signature.scheme = 0x0401,
        |signature: &mut CertificateSignature| signature.signature = Bytes::new(),
        |signature: &mut CertificateSignature| signature.chain = vec![signature.chain[0].clone(); 5],
    ] {
        let mut changed = signed.clone();
        change(&mut changed);
        assert_eq!(verify(REQUEST_DOMAIN, b"body", &changed, now), refused);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        _ = SealedRequest::decode(&bytes);
        _ = SealedAnswer::decode(&bytes);
        _ = TransferRequest::decode(&bytes);
        _ = RecipientKey::from_der(&bytes);
    }
}
