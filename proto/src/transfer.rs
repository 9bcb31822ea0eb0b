//! Transfer: EDEKs move from one key or zone to another, at the request of a user who signs for it.
//!
//! Wrapping again within one key and zone needs nobody's signature, since it lets nobody open what he could not open before.
//! Moving does: whoever could move EDEKs by himself could hand any zone to any reader. So the request names both places and
//! every EDEK, whole, and the token worker, not the key service, verifies its signature. Its bytes travel as they were
//! signed. Each request is carried out once by each token worker.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::{
    Failure, KeyName, KeyVersion, Reason, ZoneId,
    sealed::{Nonce, nonce},
    signed::{Reader, Writer, malformed, wrapped},
    transport::{CertificateSignature, PeerIdentity, TlsIdentity},
};

/// EDEKs in one request: what the token worker does in one go, as a signed batch cannot be cut.
pub const TRANSFER_EDEKS_MAX: usize = 200;
/// How long a request may hold, in milliseconds.
pub const TRANSFER_LIFETIME_MS_MAX: u64 = 60_000;
/// What signatures of transfer requests are for.
pub const TRANSFER_DOMAIN: &str = "strongroom/transfer-request/v1";

const FORMAT: u8 = 1;
/// How long [`TransferRequest::new`] lets a request hold: longer than the service that presents it may take.
const LIFETIME_MS: u64 = 30_000;

/// What EDEKs are bound to, but for the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The EZ key by its own name; an alias is not resolved.
    pub key: KeyName,
    /// The zone.
    pub zone: ZoneId,
}

/// What a user signs to have EDEKs moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRequest {
    /// Makes it the only one of its kind.
    pub nonce: Nonce,
    /// When it was signed, in milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends: at most [`TRANSFER_LIFETIME_MS_MAX`] later.
    pub expires_ms: u64,
    /// Who signs it.
    pub signer: PeerIdentity,
    /// Where the EDEKs are.
    pub from: Place,
    /// Where they are moved to; another key, another zone, or both.
    pub to: Place,
    /// 1 to [`TRANSFER_EDEKS_MAX`], each under its version of the key.
    pub edeks: Vec<(KeyVersion, Bytes)>,
}

/// A request with its user's signature, to be presented to the key service by him or by a service.
#[derive(Debug, Clone)]
pub struct SignedTransfer {
    /// The signed bytes.
    pub request: Bytes,
    /// By the key of the user's certificate.
    pub signature: CertificateSignature,
}

impl TransferRequest {
    /// A request that `signer` signs at `now`; it holds for 30 s.
    #[must_use]
    pub fn new(signer: PeerIdentity, from: Place, to: Place, edeks: Vec<(KeyVersion, Bytes)>, now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let issued_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self {
            nonce: nonce(),
            issued_ms,
            expires_ms: issued_ms.saturating_add(LIFETIME_MS),
            signer,
            from,
            to,
            edeks,
        }
    }

    /// Signs it with the key of the user's certificate.
    ///
    /// # Errors
    /// As [`Self::encode`]; [`Reason::Internal`] if the key cannot sign.
    pub fn sign(&self, tls: &TlsIdentity) -> Result<SignedTransfer, Failure> {
        let request = self.encode()?;
        let signature = tls.sign(TRANSFER_DOMAIN, &request)?;
        Ok(SignedTransfer { request, signature })
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// If it is not a request that [`Self::decode`] takes.
    pub fn encode(&self) -> Result<Bytes, Failure> {
        self.check()?;
        let mut writer = Writer::default();
        writer
            .byte(FORMAT)
            .fixed(&self.nonce)
            .time_ms(self.issued_ms)
            .time_ms(self.expires_ms)
            .field(self.signer.to_string().as_bytes())?;
        for place in [&self.from, &self.to] {
            writer
                .field(place.key.as_str().as_bytes())?
                .fixed(place.zone.as_bytes());
        }
        writer.count(self.edeks.len())?;
        for (version, wrapped) in &self.edeks {
            writer.number(version.0).field(wrapped)?;
        }
        Ok(writer.finish().into())
    }

    /// Reads what was signed. Whether it was signed, and by whom, is another question.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if anything is not as it must be.
    pub fn decode(encoded: &[u8]) -> Result<Self, Failure> {
        let mut reader = Reader::new(encoded);
        if reader.byte()? != FORMAT {
            return Err(malformed("another format than this version reads"));
        }
        let mut request = Self {
            nonce: reader.array()?,
            issued_ms: reader.time_ms()?,
            expires_ms: reader.time_ms()?,
            signer: reader.text()?.parse()?,
            from: read_place(&mut reader)?,
            to: read_place(&mut reader)?,
            edeks: Vec::new(),
        };
        let count = reader.count()?;
        if count > TRANSFER_EDEKS_MAX {
            return Err(wrong_count(count));
        }
        for _ in 0..count {
            let version = KeyVersion(reader.number()?);
            request.edeks.push((version, wrapped(&mut reader)?));
        }
        reader.end()?;
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Failure> {
        if !(1..=TRANSFER_EDEKS_MAX).contains(&self.edeks.len()) {
            return Err(wrong_count(self.edeks.len()));
        }
        if self.from == self.to {
            return Err(Failure::new(
                Reason::InvalidArgument,
                format!(
                    "a transfer within key {} and one zone moves nothing; EDEKs are wrapped again there with: strongroom zone reencrypt",
                    self.from.key
                ),
            ));
        }
        match self.expires_ms.checked_sub(self.issued_ms) {
            Some(1..=TRANSFER_LIFETIME_MS_MAX) => Ok(()),
            _ => Err(malformed("a lifetime that is not 1 to 60000 ms")),
        }
    }
}

fn read_place(reader: &mut Reader<'_>) -> Result<Place, Failure> {
    Ok(Place {
        key: reader.text()?.parse()?,
        zone: ZoneId::from_bytes(reader.array()?),
    })
}

fn wrong_count(count: usize) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!("a transfer is about 1 to {TRANSFER_EDEKS_MAX} EDEKs, not {count}"),
    )
}
