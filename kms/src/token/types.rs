use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, transport::CertificateSignature};
use zeroize::Zeroizing;

use super::{MarkError, PinError, SealedConfig};

/// Worker processes of one token.
const WORKERS_MAX: u8 = 16;

/// Where a token is: a table `[[tokens]]` of the key service's configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The PKCS#11 module (a shared library).
    pub module: PathBuf,
    /// The token's label, without padding.
    pub label: String,
    /// What people and commands call it; its label if nothing is said. Needed where two tokens have one label, as HSMs that
    /// replicate do.
    #[serde(default)]
    pub name: Option<String>,
    /// The file that holds the user PIN. Only its owner may read it.
    pub pin_file: PathBuf,
    /// Worker processes, 1 to 16. Each is logged in and has sessions of its own; a call goes to the least loaded.
    #[serde(default = "one", deserialize_with = "workers")]
    pub workers: u8,
    /// What the workers' environment has beside a few well-known variables: a vendor's own configuration. Never a PIN.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Sealed delivery: the configuration's table `[sealed]`, which is one for all tokens.
    #[serde(skip)]
    pub sealed: Option<SealedConfig>,
}

const fn one() -> u8 {
    1
}

fn workers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let workers = <u8 as serde::Deserialize>::deserialize(deserializer)?;
    if (1..=WORKERS_MAX).contains(&workers) {
        return Ok(workers);
    }
    Err(serde::de::Error::custom(format!(
        "a token has 1 to {WORKERS_MAX} workers, not {workers}"
    )))
}

impl TokenConfig {
    /// A token with one worker.
    #[must_use]
    pub fn new(module: impl Into<PathBuf>, label: impl Into<String>, pin_file: impl Into<PathBuf>) -> Self {
        Self {
            module: module.into(),
            label: label.into(),
            name: None,
            pin_file: pin_file.into(),
            workers: one(),
            environment: BTreeMap::new(),
            sealed: None,
        }
    }

    /// The name by which people know it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.label)
    }

    /// The same with relative paths taken from `base`.
    #[must_use]
    pub fn relative_to(&self, base: &Path) -> Self {
        Self {
            module: base.join(&self.module),
            pin_file: base.join(&self.pin_file),
            ..self.clone()
        }
    }
}

/// Why a token cannot even be supervised: what no retry can mend.
#[derive(Debug, thiserror::Error)]
pub enum TokenStartError {
    /// The module is not there.
    #[error(
        "the PKCS#11 module {} does not exist; install it with: apt-get install softhsm2, or correct `module` in the configuration",
        path.display()
    )]
    ModuleMissing {
        /// The module asked for.
        path: PathBuf,
    },
    /// The PIN file is missing or open to others.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The place for the rejected-PIN mark cannot be used.
    #[error(transparent)]
    Mark(#[from] MarkError),
}

/// What the supervisor knows of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// A worker is being started.
    Starting,
    /// Calls are served.
    Ready,
    /// The last worker did not come up; another will be tried soon.
    Unavailable {
        /// What it said.
        why: String,
    },
    /// The token refused the PIN; nothing is tried until the PIN file changes.
    PinRejected,
}

/// What a token is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProfile {
    /// The token's label.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// The library's description and version.
    pub library: String,
    /// Mechanisms that matter to a suite, as the PKCS#11 headers spell them.
    pub mechanisms: Vec<String>,
    /// EDEK suites that it can serve, the ones to be preferred first.
    pub suites: Vec<EdekSuite>,
    /// Whether the suites were seen to work; if not, nobody has logged in and they are what the mechanisms promise.
    pub tried: bool,
    /// Who makes the IVs of AES-GCM, where the suite `gcm` was seen to work.
    pub gcm_iv: Option<IvSource>,
    /// Hashes that RSA-OAEP was seen to take, each with MGF1 over the same hash, as the PKCS#11 headers spell them.
    pub oaep_hashes: Vec<String>,
    /// Sessions that the token allows at once; `None` where it names no limit.
    pub sessions_max: Option<u64>,
}

impl TokenProfile {
    /// The suite of keys whose maker names none: `kw` if it works, else `gcm`.
    #[must_use]
    pub fn default_suite(&self) -> Option<EdekSuite> {
        default_suite(&self.suites)
    }
}

/// The suite of keys whose maker names none, of those that can be served: `kw`, else `gcm`. `hadoop` is for those who ask.
pub(crate) fn default_suite(served: &[EdekSuite]) -> Option<EdekSuite> {
    [EdekSuite::Kw, EdekSuite::Gcm]
        .into_iter()
        .find(|suite| served.contains(suite))
}

/// Who makes the IVs of AES-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IvSource {
    /// The token takes the caller's.
    Caller,
    /// The token makes its own and says which it used.
    Token,
}

impl IvSource {
    /// The word on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Token => "token",
        }
    }
}

/// A version of an EZ key that is to be generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVersion {
    /// The EZ key.
    pub key: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// The suite to record with it.
    pub suite: EdekSuite,
    /// The size of the AES key in bits.
    pub key_bits: u32,
    /// The `CKA_ID` of its object. Whoever asks draws and notes it before, so that a repeat after a crash finds exactly what
    /// the first attempt made.
    pub id: TokenObjectId,
}

/// One version of an EZ key, as the token holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKeyVersion {
    /// The EZ key.
    pub key: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// The suite recorded with it.
    pub suite: EdekSuite,
    /// The key check value.
    pub kcv: Kcv,
    /// The object's `CKA_ID`.
    pub token_id: TokenObjectId,
    /// How the key came to be in the token, as far as the token vouches for it.
    pub origin: Origin,
}

/// A version that a token holds and that is not used: there twice, or not as a zone key must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfitVersion {
    /// The EZ key.
    pub key: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// Why, in a sentence that says what to look for in the token.
    pub why: String,
}

/// What tells a token from any other: people know it by the label, its maker by the serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName {
    /// The label, without padding.
    pub label: String,
    /// The serial number, without padding.
    pub serial: String,
}

/// How a key came to be in a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made in the token, and never outside it: `CKA_LOCAL` and `CKA_NEVER_EXTRACTABLE`.
    Generated,
    /// Cloned from another of the key service's tokens, under a key that a security officer declared trusted.
    Cloned,
    /// Brought in: the token cannot say who else has it.
    Imported,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Generated, Self::Cloned, Self::Imported];

    /// The word on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::Cloned => "cloned",
            Self::Imported => "imported",
        }
    }
}

/// A key version on its way from one token to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedClone {
    /// The key, wrapped under the destination's clone key.
    pub wrapped: Bytes,
    /// Its size. Some tokens cannot tell that of keys that they unwrapped.
    pub key_bits: u32,
    /// By the certificate of the token worker that wrapped it, if it has one.
    pub signature: Option<CertificateSignature>,
}

/// The public half of the RSA key that EZ keys are wrapped to which are brought into a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportKey {
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// The `CKA_ID` of its private half.
    pub id: TokenObjectId,
    /// The hash of RSA-OAEP, for its mask too (MGF1); the label is empty.
    pub hash: OaepHash,
}

/// A hash for RSA-OAEP (RFC 8017, section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OaepHash {
    /// SHA-256.
    Sha256,
    /// SHA-1, for tokens that know no other; OAEP does not rest on its resistance to collisions.
    Sha1,
}

impl OaepHash {
    /// Every hash, the ones to be preferred first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha1];

    /// The word on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
        }
    }
}

/// A key check value: the first 3 bytes of AES-CMAC over 16 zero bytes under a check key that the token derives from
/// the EZ key. Equal keys have equal values; it tells nothing usable about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kcv([u8; 3]);

impl Kcv {
    /// The value whose bytes these are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 3]) -> Self {
        Self(bytes)
    }

    /// The 3 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 3] {
        &self.0
    }
}

impl fmt::Display for Kcv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<Kcv> for Bytes {
    fn from(kcv: Kcv) -> Self {
        Self::copy_from_slice(&kcv.0)
    }
}

/// `CKA_ID` of a key object: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenObjectId([u8; 16]);

impl TokenObjectId {
    /// A fresh one.
    ///
    /// # Panics
    /// If the system gives no random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("the system gives random bytes");
        Self(id)
    }

    /// The id whose bytes these are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TokenObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<TokenObjectId> for Bytes {
    fn from(id: TokenObjectId) -> Self {
        Self::copy_from_slice(&id.0)
    }
}

/// A DEK on its way through the key service to the client that may have it. It can be put on the wire and nothing else.
pub struct WireDek(Zeroizing<Vec<u8>>);

impl WireDek {
    /// Takes the DEK out of the token's hands.
    #[must_use]
    pub const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes for the answer to the client. They are overwritten with zeros when the last reference to them goes.
    #[must_use]
    pub fn into_wire(self) -> Bytes {
        Bytes::from_owner(Owner(self.0))
    }
}

impl fmt::Debug for WireDek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireDek(withheld)")
    }
}

/// Lets [`Bytes`] own memory that is zeroed when it is freed.
struct Owner(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dek_shows_only_on_the_wire() {
        let dek = WireDek::new(Zeroizing::new(vec![0xa5; 32]));
        assert_eq!(format!("{dek:?}"), "WireDek(withheld)");
        assert_eq!(dek.into_wire().as_ref(), [0xa5; 32]);
    }

    #[test]
    fn the_configuration_takes_relative_paths_from_its_directory_and_refuses_unknown_fields() {
        let text = "module = '/m.so'\nlabel = 'a'\npin_file = 'pin'";
        let config: TokenConfig = toml::from_str(text).expect("valid");
        let config = config.relative_to(Path::new("/etc/strongroom"));
        assert_eq!(config.module, Path::new("/m.so"));
        assert_eq!(config.pin_file, Path::new("/etc/strongroom/pin"));
        for refused in ["pin = '1234'", "workers = 0", "workers = 17"] {
            assert!(toml::from_str::<TokenConfig>(&format!("{text}\n{refused}")).is_err());
        }
    }
}
