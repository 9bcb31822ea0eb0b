//! Where EDEKs come from: the key service, behind a trait so that the stock and re-encryption can be proved
//! against one that fails on demand.

use bytes::Bytes;
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, ZoneId, transfer::SignedTransfer};

/// EDEKs fresh from the token, all under one key version.
#[derive(Debug, Clone)]
pub struct Minted {
    /// The key's own name, also if an alias was asked for.
    pub key: KeyName,
    /// The version that wraps them.
    pub version: KeyVersion,
    /// How they are wrapped.
    pub suite: EdekSuite,
    /// The wrapped DEKs.
    pub edeks: Vec<Bytes>,
}

/// The outcome of re-wrapping a batch.
#[derive(Debug, Clone)]
pub struct Rewrapped {
    /// The version that every success is wrapped under.
    pub version: KeyVersion,
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<Bytes, Failure>>,
}

/// The outcome of moving a batch to another key or zone.
#[derive(Debug, Clone)]
pub struct Transferred {
    /// The version of the other key that every success is wrapped under.
    pub version: KeyVersion,
    /// How they are wrapped.
    pub suite: EdekSuite,
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<Bytes, Failure>>,
}

/// Mints, re-wraps and moves EDEKs. None of it opens anything.
pub trait EdekSource: Send + Sync + 'static {
    /// Mints `count` EDEKs under the newest version of `key`, bound to `zone`. With 0 it tells what they would be made under, and
    /// the key service does not take the zone for one that has EDEKs.
    fn mint(&self, key: &KeyName, zone: &ZoneId, count: usize) -> impl Future<Output = Result<Minted, Failure>> + Send;

    /// Wraps EDEKs of `key` and `zone` again under the newest version.
    fn rewrap(
        &self,
        key: &KeyName,
        zone: &ZoneId,
        edeks: &[(KeyVersion, Bytes)],
    ) -> impl Future<Output = Result<Rewrapped, Failure>> + Send;

    /// Presents what a user signed to have EDEKs moved to another key or zone.
    fn transfer(&self, signed: &SignedTransfer) -> impl Future<Output = Result<Transferred, Failure>> + Send;
}
