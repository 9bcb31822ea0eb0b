//! The authority and what it issues.

use std::{fmt, path::Path, time::SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, pem::Pem, x509::SubjectPublicKeyInfo};

use crate::{PkiError, PrivateKey, Validity, file, validity::seconds};

/// Signs certificates. It is its certificate and its key; there is no other state.
pub struct Authority {
    certificate_pem: String,
    key: PrivateKey,
}

/// What a leaf certificate is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The subject's common name, for people who look at the certificate.
    pub common_name: &'a str,
    /// Who the holder is: `spiffe://strongroom/user/alice`. Without it, peers refuse the certificate.
    pub uri: Option<&'a str>,
    /// The DNS names and IP addresses that the holder is called by. A certificate without any is a client's only.
    pub names: &'a [&'a str],
    /// From when until when it holds.
    pub validity: Validity,
}

/// A certificate and its key.
pub struct Leaf {
    certificate_pem: String,
    key: PrivateKey,
}

impl Authority {
    /// A new authority, self-signed, with `key`. Its certificate may sign leaves and no further authorities.
    ///
    /// # Errors
    ///
    /// [`PkiError::Validity`] or [`PkiError::Sign`].
    pub fn new(name: &str, key: PrivateKey, validity: Validity) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity.apply(&mut params, name)?;
        let certificate = params.self_signed(key.pair()).map_err(sign_error(name))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key,
        })
    }

    /// The authority that [`Self::new`] made once, from its certificate and key.
    ///
    /// # Errors
    ///
    /// [`PkiError::Certificate`] or [`PkiError::NoAuthority`] for a certificate that is none or cannot sign,
    /// [`PkiError::OtherKey`] if it is not `key`'s.
    pub fn reload(certificate_pem: &str, key: PrivateKey) -> Result<Self, PkiError> {
        let pem = pem(certificate_pem).ok_or(PkiError::Certificate)?;
        let certificate = pem.parse_x509().map_err(|_| PkiError::Certificate)?;
        if !certificate.is_ca() {
            let subject = certificate.subject().to_string();
            return Err(PkiError::NoAuthority { subject });
        }
        if certificate.public_key().raw != key.public() {
            return Err(PkiError::OtherKey);
        }
        let authority = Self {
            certificate_pem: certificate_pem.to_owned(),
            key,
        };
        authority.issuer()?;
        Ok(authority)
    }

    /// The authority's certificate, which those trust who trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes the authority's certificate to a file of mode 0644, atomically and durably.
    ///
    /// # Errors
    ///
    /// [`PkiError::File`].
    pub fn write_certificate(&self, path: &Path) -> Result<(), PkiError> {
        file::write(path, &self.certificate_pem, file::EVERYONE)
    }

    /// A certificate of a new key.
    ///
    /// # Errors
    ///
    /// As [`Self::issue_for`], and [`PkiError::Generate`] without random numbers.
    pub fn issue(&self, request: &Request<'_>) -> Result<Leaf, PkiError> {
        self.issue_for(PrivateKey::generate()?, request)
    }

    /// A certificate of `key`, for example to renew one whose key is kept.
    ///
    /// # Errors
    ///
    /// [`PkiError::Name`], [`PkiError::Validity`] or [`PkiError::Sign`].
    pub fn issue_for(&self, key: PrivateKey, request: &Request<'_>) -> Result<Leaf, PkiError> {
        let certificate = request
            .params()?
            .signed_by(key.pair(), &self.issuer()?)
            .map_err(sign_error(request.common_name))?;
        Ok(Leaf {
            certificate_pem: certificate.pem(),
            key,
        })
    }

    /// Whether a certificate is one of this authority for `uri` and `key` that holds at `at`.
    pub fn vouches(&self, certificate_pem: &str, key: &PrivateKey, uri: &str, at: SystemTime) -> bool {
        let Some(pem) = pem(certificate_pem) else {
            return false;
        };
        let Ok(certificate) = pem.parse_x509() else {
            return false;
        };
        certificate.public_key().raw == key.public()
            && names(&certificate, uri)
            && holds(&certificate, at)
            && self.signed(&certificate)
    }

    fn signed(&self, certificate: &X509Certificate<'_>) -> bool {
        use x509_parser::prelude::FromDer as _;
        let public = self.key.public();
        SubjectPublicKeyInfo::from_der(&public)
            .is_ok_and(|(_, public)| certificate.verify_signature(Some(&public)).is_ok())
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, PkiError> {
        Issuer::from_ca_cert_pem(&self.certificate_pem, self.key.pair()).map_err(|_| PkiError::Certificate)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Leaf {
    /// The certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes the key to a file of mode 0600, then the certificate to one of mode 0644, each atomically and durably.
    ///
    /// # Errors
    ///
    /// [`PkiError::File`].
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<(), PkiError> {
        self.key.write(key)?;
        self.write_certificate(certificate)
    }

    /// Writes the certificate alone, for a key that has its file already.
    ///
    /// # Errors
    ///
    /// [`PkiError::File`].
    pub fn write_certificate(&self, path: &Path) -> Result<(), PkiError> {
        file::write(path, &self.certificate_pem, file::EVERYONE)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl Request<'_> {
    fn params(&self) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.alternative_names()?;
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !self.names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        self.validity.apply(&mut params, self.common_name)?;
        Ok(params)
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, PkiError> {
        let name = |name: &&str| match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName((*name).try_into().map_err(name_error(name))?)),
        };
        let uri = |uri: &str| Ok(SanType::URI(uri.try_into().map_err(name_error(uri))?));
        self.names
            .iter()
            .map(name)
            .chain(self.uri.into_iter().map(uri))
            .collect()
    }
}

fn sign_error(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let subject = subject.to_owned();
    move |source| PkiError::Sign { subject, source }
}

fn name_error(name: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let name = name.to_owned();
    move |source| PkiError::Name { name, source }
}

/// The first PEM block of a text.
fn pem(text: &str) -> Option<Pem> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
    Some(pem)
}

fn names(certificate: &X509Certificate<'_>, uri: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let is_uri = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(found) if *found == uri);
    names.is_some_and(|names| names.value.general_names.iter().any(is_uri))
}

fn holds(certificate: &X509Certificate<'_>, at: SystemTime) -> bool {
    let validity = certificate.validity();
    i64::try_from(seconds(at))
        .is_ok_and(|at| (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&at))
}
