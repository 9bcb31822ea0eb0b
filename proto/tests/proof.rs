//! Zone proofs are believed only from the metadata service, of the CA, within their age, and as they were signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use strongroom_proto::{
    Failure, KeyVersion, Reason, ZoneId,
    proof::{SignedProof, ZoneProof},
    transport::{PeerIdentity, TlsFiles, TlsIdentity, Trust},
};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = PrivateKey::generate().expect("random numbers");
        let authority = Authority::new("test CA", key, today()).expect("signs itself");
        authority
            .write_certificate(&dir.path().join("ca.pem"))
            .expect("written");
        Self { dir, authority }
    }

    fn identity(&self, rest: &str) -> TlsIdentity {
        let name = rest.replace('/', "-");
        let files = TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        let request = Request {
            common_name: rest,
            uri: Some(&format!("spiffe://strongroom/{rest}")),
            names: &["localhost"],
            validity: today(),
        };
        let leaf = self.authority.issue(&request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("written");
        TlsIdentity::load(&files, SystemTime::now()).expect("usable")
    }

    fn trust(&self) -> Trust {
        Trust::load(&self.dir.path().join("ca.pem")).expect("a CA")
    }
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), 24 * HOUR)
}

fn proof() -> ZoneProof {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    ZoneProof {
        zone: ZoneId::from_bytes([7; 16]),
        key: "payroll".parse().expect("valid"),
        through: KeyVersion(3),
        issued_ms: u64::try_from(now.as_millis()).expect("before the year 584 million"),
        known: true,
        issuer: PeerIdentity::Metadata,
    }
}

fn refusal(outcome: Result<ZoneProof, Failure>) -> String {
    let failure = outcome.expect_err("must be refused");
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    failure.message
}

#[test]
fn a_proof_of_the_metadata_service_is_believed_for_its_age() {
    let pki = Pki::new();
    let (proof, now) = (proof(), SystemTime::now());
    let signed = proof.sign(&pki.identity("service/metadata")).expect("signs");
    let read = SignedProof::from_bytes(&signed.to_bytes()).expect("its own bytes");
    assert_eq!(read, signed);
    let verify = |now| read.verify(&pki.trust(), now, HOUR);
    assert_eq!(verify(now), Ok(proof));
    let old = refusal(verify(now + HOUR + Duration::from_secs(10)));
    assert!(
        old.contains("s old and may be 3600 s; have one made anew with: strongroom zone proof"),
        "{old}"
    );
    assert!(refusal(verify(now - 2 * Duration::from_secs(60))).contains("dated in the future"));
    assert!(refusal(verify(now + 25 * HOUR)).contains("certificate is not trusted"));
}

#[test]
fn nobody_else_proves_anything() {
    let (pki, other) = (Pki::new(), Pki::new());
    let now = SystemTime::now();
    for who in ["service/kms", "user/fsadmin", "service/block/n1"] {
        let signed = proof().sign(&pki.identity(who)).expect("signs");
        let text = refusal(signed.verify(&pki.trust(), now, HOUR));
        assert!(text.contains("only the metadata service may"), "{text}");
    }
    let foreign = proof().sign(&other.identity("service/metadata")).expect("signs");
    let text = refusal(foreign.verify(&pki.trust(), now, HOUR));
    assert!(text.contains("certificate is not trusted"), "{text}");
    let in_anothers_name = ZoneProof {
        issuer: PeerIdentity::Kms,
        ..proof()
    };
    let signed = in_anothers_name.sign(&pki.identity("service/metadata")).expect("signs");
    refusal(signed.verify(&pki.trust(), now, HOUR));
}

#[test]
fn no_flipped_bit_and_no_other_kind_of_message_passes() {
    let pki = Pki::new();
    let (metadata, trust, now) = (pki.identity("service/metadata"), pki.trust(), SystemTime::now());
    let bytes = proof().sign(&metadata).expect("signs").to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let outcome = SignedProof::from_bytes(&changed).and_then(|signed| signed.verify(&trust, now, HOUR));
        assert!(outcome.is_err(), "bit {bit} may be flipped");
    }
    for length in 0..bytes.len() {
        assert!(
            SignedProof::from_bytes(&bytes[..length]).is_err(),
            "length {length} is read"
        );
    }
    let signed = metadata.sign("strongroom/one/v1", b"text").expect("signs");
    assert_eq!(
        trust.verify("strongroom/one/v1", b"text", &signed, now),
        Ok(PeerIdentity::Metadata)
    );
    for (domain, text) in [
        ("strongroom/two/v1", "text"),
        ("strongroom/one/v1", "texts"),
        ("strongroom/one/v1\0t", "ext"),
    ] {
        assert!(trust.verify(domain, text.as_bytes(), &signed, now).is_err());
    }
}
