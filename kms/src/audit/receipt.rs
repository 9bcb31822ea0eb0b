//! What the audit log says of a key version that was destroyed: what it was, and why it might be.

use serde::{Deserialize, Serialize};

/// Zones that one receipt lists; the digest covers all.
pub(crate) const ZONES_MAX: usize = 32;

/// The receipt of a destroyed key version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Names the receipt. A destruction that was cut off is carried out again: two receipts with one id are the same one.
    #[serde(default)]
    pub id: String,
    /// Whether the destruction was begun before and cut off, so that the log may hold this receipt already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    /// `CKA_ID` of the token object, in hex.
    pub token_id: String,
    /// The key check value, in hex.
    pub kcv: String,
    /// Tokens in which the object was looked for afterwards, by its `CKA_ID` and by its label, and not found.
    #[serde(default)]
    pub absent_from: Vec<TokenReceipt>,
    /// Who asked for the destruction.
    pub requested_by: String,
    /// Since when nothing was made under the version, in milliseconds since 1970.
    pub retired_ms: u64,
    /// When it was last used, to a minute, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_ms: Option<u64>,
    /// Users who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
    /// Zones that had minted with the key.
    pub zones: usize,
    /// SHA-256, in hex, of the zones in order, each its id and the SHA-256 of its signed proof (16 and 32 bytes).
    pub proofs_sha256: String,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<ZoneReceipt>,
}

/// A token that does not hold a version any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenReceipt {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
}

/// A zone and the proof that it needed the version no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneReceipt {
    /// The zone, in hex.
    pub zone: String,
    /// SHA-256 of the signed proof, in hex.
    pub sha256: String,
}
