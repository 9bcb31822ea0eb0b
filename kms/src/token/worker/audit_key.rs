//! The audit key: an ECDSA key pair on P-256 in the token that signs heads of audit logs, and nothing else.
//!
//! There is one in each token, labelled [`LABEL`]; whichever key service needs it first makes it. The private half is SENSITIVE,
//! not extractable and SIGN-only (`CKM_ECDSA`, PKCS#11 3.1 section 6.3.12). The digest that it signs is computed here,
//! from the parts of a head, so that the key service cannot have anything else signed.

use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{Failure, Reason};

use super::{
    remedy::{Trouble, while_doing},
    vault::Vault,
};
use crate::{
    audit::{AuditHead, AuditKey, AuditSignature, checkpoint::verifies},
    token::TokenObjectId,
};

/// The label of both halves.
pub(super) const LABEL: &str = "strongroom:1:audit";

/// P-256 as the parameters of an EC key: the DER of its object identifier (RFC 5480, section 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Tag and length of a DER OCTET STRING of 65 bytes, as which `CKA_EC_POINT` holds the point (PKCS#11 3.1, section 6.3.3).
const POINT_HEADER: [u8; 2] = [0x04, 65];

/// The key of an open session.
#[derive(Debug, Clone)]
pub(super) struct Found {
    private: ObjectHandle,
    key: AuditKey,
}

impl Vault {
    /// The public half of the token's audit key, which is made if there is none.
    pub(super) fn audit_key(&mut self, token: &str) -> Result<AuditKey, Trouble> {
        Ok(self.found_audit_key(token)?.key)
    }

    /// Signs a head, and answers only with a signature that verifies.
    pub(super) fn sign_audit(&mut self, token: &str, head: &AuditHead) -> Result<AuditSignature, Trouble> {
        let found = self.found_audit_key(token)?;
        let signature = self
            .session()
            .sign(&Mechanism::Ecdsa, found.private, &head.digest())
            .map_err(while_doing("to sign the audit log"))?;
        if !verifies(&found.key.public_key, head, &signature) {
            return Err(refused("its signature does not verify under its own public key"));
        }
        Ok(AuditSignature {
            key: found.key,
            signature: signature.into(),
        })
    }

    fn found_audit_key(&mut self, token: &str) -> Result<Found, Trouble> {
        if let Some(found) = &self.audit {
            return Ok(found.clone());
        }
        let found = match find(self.session(), token)? {
            Some(found) => found,
            None => make(self.session(), token)?,
        };
        self.audit = Some(found.clone());
        Ok(found)
    }
}

/// The token's audit key. Two key services may have made one each at the same moment: then the least `CKA_ID` is it.
fn find(session: &Session, token: &str) -> Result<Option<Found>, Trouble> {
    let search = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Token(true),
        Attribute::Label(LABEL.into()),
    ];
    let mut candidates = Vec::new();
    for handle in session
        .find_objects(&search)
        .map_err(while_doing("to find its audit key"))?
    {
        candidates.push((id_of(session, handle)?, handle));
    }
    candidates.sort_by(|a, b| a.0.cmp(&b.0));
    let Some((id, private)) = candidates.into_iter().next() else {
        return Ok(None);
    };
    check(session, private)?;
    let search = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Token(true),
        Attribute::Label(LABEL.into()),
        Attribute::Id(id),
    ];
    let public = session
        .find_objects(&search)
        .map_err(while_doing("to find its audit key"))?;
    let public = *public.first().ok_or_else(|| refused("it has no public half"))?;
    Ok(Some(Found {
        private,
        key: public_key(session, public, token)?,
    }))
}

fn make(session: &Session, token: &str) -> Result<Found, Trouble> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_| Failure::new(Reason::Internal, "the system gives no random bytes for a CKA_ID"))?;
    let id = TokenObjectId::from_bytes(id).as_bytes().to_vec();
    let (public, private) = session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public_template(&id), &private_template(&id))
        .map_err(while_doing("to make its audit key"))?;
    tracing::info!(token, "the token has an audit key now");
    check(session, private)?;
    Ok(Found {
        private,
        key: public_key(session, public, token)?,
    })
}

fn public_template(id: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(LABEL.into()),
        Attribute::Id(id.to_vec()),
        Attribute::EcParams(P256.to_vec()),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Modifiable(false),
    ]
}

fn private_template(id: &[u8]) -> Vec<Attribute> {
    let mut template = sign_only();
    template.push(Attribute::Label(LABEL.into()));
    template.push(Attribute::Id(id.to_vec()));
    template
}

fn sign_only() -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::AllowedMechanisms(vec![MechanismType::ECDSA]),
    ]
}

/// Refuses a key that could leave the token or sign by another mechanism.
fn check(session: &Session, private: ObjectHandle) -> Result<(), Trouble> {
    let mut expected = sign_only();
    expected.extend([Attribute::KeyType(KeyType::EC), Attribute::Local(true)]);
    let types: Vec<_> = expected.iter().map(Attribute::attribute_type).collect();
    let found = session
        .get_attributes(private, &types)
        .map_err(while_doing("to read its audit key's attributes"))?;
    match expected.iter().find(|attribute| !found.contains(attribute)) {
        None => Ok(()),
        Some(wrong) => Err(refused(&format!(
            "its attribute {} is not what it must be",
            wrong.attribute_type()
        ))),
    }
}

fn id_of(session: &Session, handle: ObjectHandle) -> Result<Vec<u8>, Trouble> {
    match one(session, handle, AttributeType::Id).map_err(while_doing("to read its audit key"))? {
        Attribute::Id(id) => Ok(id),
        _ => Err(refused("it has no CKA_ID")),
    }
}

fn public_key(session: &Session, public: ObjectHandle, token: &str) -> Result<AuditKey, Trouble> {
    let attribute = one(session, public, AttributeType::EcPoint).map_err(while_doing("to read its audit key"))?;
    let Attribute::EcPoint(point) = attribute else {
        return Err(refused("it has no public point"));
    };
    // Some tokens leave the OCTET STRING's header out.
    let bare = point.strip_prefix(&POINT_HEADER).unwrap_or(&point);
    AuditKey::of_point(token.to_owned(), bare).ok_or_else(|| refused("it is not on P-256"))
}

fn one(session: &Session, handle: ObjectHandle, kind: AttributeType) -> Result<Attribute, Error> {
    let mut attributes = session.get_attributes(handle, &[kind])?;
    attributes.pop().ok_or(Error::InvalidValue)
}

fn refused(why: &str) -> Trouble {
    let message = format!("the token's audit key ({LABEL}) is not used: {why}");
    Failure::new(Reason::TokenRefused, message).into()
}
