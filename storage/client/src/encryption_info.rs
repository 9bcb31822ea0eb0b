//! How a file is encrypted, in the words of HDFS' `FileEncryptionInfo`.

use std::fmt;

use serde::Serialize;
use strongroom_proto::{
    DataSuite, Edek, EdekSuite, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, ZoneFs, opening::Opening};

/// A file's encryption, with HDFS' names, and how its EDEK is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionInfo {
    /// The file.
    pub path: String,
    /// How its bytes are encrypted.
    pub cipher_suite: CipherSuite,
    /// How client and service agree on it.
    pub crypto_protocol_version: CryptoProtocolVersion,
    /// The wrapped DEK in hexadecimal, in the form of its suite; of suite `hadoop` without the IV, as HDFS has it.
    pub edek: String,
    /// The IV of EDEK and file in hexadecimal; suite `hadoop` only.
    pub iv: Option<String>,
    /// The EZ key.
    pub key_name: String,
    /// Its version, as `name@version`.
    pub ez_key_version_name: String,
    /// How the DEK is wrapped.
    pub edek_suite: &'static str,
    /// How files are encrypted.
    pub data_suite: &'static str,
    /// The zone that the EDEK is of, in hexadecimal.
    pub zone_id: String,
}

/// A cipher, as Java names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CipherSuite {
    /// Algorithm, mode and padding.
    pub name: &'static str,
    /// Bytes of a block of the algorithm.
    pub algorithm_block_size: u32,
}

/// HDFS' one version of it, `ENCRYPTION_ZONES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CryptoProtocolVersion {
    /// What it is called.
    pub description: &'static str,
    /// Its number.
    pub version: u32,
}

impl ZoneFs {
    /// How a file is encrypted; none if it is not. Takes the right to read it, in the namespace; the key service is not asked.
    ///
    /// # Errors
    /// `not-found`, `permission-denied`, or `is-a-directory`: a directory has no encryption of its own.
    pub async fn encryption_info(&self, path: &ZonePath) -> Result<Option<EncryptionInfo>, FsError> {
        let request = pb::OpenFileRequest {
            path: path.into(),
            ..pb::OpenFileRequest::default()
        };
        let opened = retry(Repeat::Harmless, || self.metadata().open_file(request.clone())).await?;
        let opening = Opening::parse(path, opened)?;
        let told = || FsError::metadata_contradiction("it gives no data suite");
        let suite = opening.stat.data_suite.ok_or_else(told)?;
        Ok(opening.edek.map(|edek| EncryptionInfo::of(path, &edek, suite)))
    }
}

impl EncryptionInfo {
    fn of(path: &ZonePath, edek: &Edek, suite: DataSuite) -> Self {
        let (iv, wrapped) = match edek.suite {
            EdekSuite::Hadoop => {
                let (iv, wrapped) = edek.wrapped.split_at(edek.wrapped.len().min(16));
                (Some(hex::encode(iv)), wrapped)
            }
            EdekSuite::Kw | EdekSuite::Gcm => (None, edek.wrapped.as_ref()),
        };
        Self {
            path: path.to_string(),
            cipher_suite: CipherSuite {
                name: match suite {
                    DataSuite::Gcm => "AES/GCM/NoPadding",
                    DataSuite::CtrHdfs => "AES/CTR/NoPadding",
                    DataSuite::Plain => "none",
                },
                algorithm_block_size: 16,
            },
            crypto_protocol_version: CryptoProtocolVersion {
                description: "Encryption zones",
                version: 2,
            },
            edek: hex::encode(wrapped),
            iv,
            key_name: edek.key.to_string(),
            ez_key_version_name: format!("{}@{}", edek.key, edek.version),
            edek_suite: edek.suite.as_str(),
            data_suite: suite.as_str(),
            zone_id: edek.zone.to_string(),
        }
    }
}

/// As `hdfs crypto -getFileEncryptionInfo` prints it.
impl fmt::Display for EncryptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cipher, protocol) = (&self.cipher_suite, &self.crypto_protocol_version);
        write!(
            f,
            "{{cipherSuite: {{name: {}, algorithmBlockSize: {}}}, ",
            cipher.name, cipher.algorithm_block_size
        )?;
        write!(
            f,
            "cryptoProtocolVersion: CryptoProtocolVersion{{description='{}', version={}, unknownValue=null}}, ",
            protocol.description, protocol.version
        )?;
        let iv = self.iv.as_deref().unwrap_or("none");
        write!(
            f,
            "edek: {}, iv: {iv}, keyName: {}, ezKeyVersionName: {}}}",
            self.edek, self.key_name, self.ez_key_version_name
        )
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::{KeyVersion, ZoneId};

    use super::*;

    fn edek(suite: EdekSuite) -> Edek {
        Edek {
            key: "lake".parse().expect("a name"),
            version: KeyVersion(3),
            zone: ZoneId::from_bytes([9; 16]),
            suite,
            wrapped: [[0xaa; 16], [0xbb; 16]].concat().into(),
        }
    }

    #[test]
    fn hadoops_edeks_are_told_as_hdfs_tells_them() {
        let path = ZonePath::parse(b"/lake/f").expect("a path");
        let info = EncryptionInfo::of(&path, &edek(EdekSuite::Hadoop), DataSuite::CtrHdfs);
        let text = format!(
            "{{cipherSuite: {{name: AES/CTR/NoPadding, algorithmBlockSize: 16}}, \
             cryptoProtocolVersion: CryptoProtocolVersion{{description='Encryption zones', version=2, unknownValue=null}}, \
             edek: {}, iv: {}, keyName: lake, ezKeyVersionName: lake@3}}",
            "bb".repeat(16),
            "aa".repeat(16)
        );
        assert_eq!(info.to_string(), text);
        let info = EncryptionInfo::of(&path, &edek(EdekSuite::Kw), DataSuite::Gcm);
        assert_eq!((info.edek.len(), info.iv), (64, None), "the suite has no IV of its own");
    }
}
