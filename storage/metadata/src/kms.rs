//! The real source of EDEKs: the key service, through its client for minting, re-wrapping and moving them.

use bytes::Bytes;
use strongroom_kms_mint::MintClient;
use strongroom_proto::{Failure, KeyName, KeyVersion, ZoneId, transfer::SignedTransfer};

use crate::zones::source::{EdekSource, Minted, Rewrapped, Transferred};

impl EdekSource for MintClient {
    async fn mint(&self, key: &KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        let minted = Self::mint(self, key, zone, count).await?;
        Ok(Minted {
            key: minted.key,
            version: minted.version,
            suite: minted.suite,
            edeks: minted.edeks,
        })
    }

    async fn rewrap(&self, key: &KeyName, zone: &ZoneId, edeks: &[(KeyVersion, Bytes)]) -> Result<Rewrapped, Failure> {
        let rewrapped = Self::rewrap(self, key, zone, edeks).await?;
        Ok(Rewrapped {
            version: rewrapped.version,
            results: rewrapped.results,
        })
    }

    async fn transfer(&self, signed: &SignedTransfer) -> Result<Transferred, Failure> {
        let moved = self.present(signed).await?;
        Ok(Transferred {
            version: moved.version,
            suite: moved.suite,
            results: moved.results,
        })
    }
}
