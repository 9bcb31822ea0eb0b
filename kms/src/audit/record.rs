//! One audit record: what it says, and how it is bound to the one before.
//!
//! A record is a line of JSON. Its `prev` is the SHA-256, in hex, of the line before it without the newline;
//! 64 zeros in the first one. No DEK, EDEK or PIN is ever part of a record.

use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use strongroom_proto::{Failure, KeyName, KeyVersion, ZoneId, sealed::HeldIn, transport::PeerIdentity};

use super::receipt::Receipt;
use super::{
    call::CallTag,
    checkpoint::{Checkpoint, LogId},
};
use crate::policy::{Authentication, Decision, GroupName, Principal};

/// Policies that one record names, and characters of its message: a line stays far below the longest one read.
const POLICIES_MAX: usize = 16;
const MESSAGE_CHARS_MAX: usize = 1000;

/// How a call, or a part of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A change was permitted and is about to be made; a record of how it ended follows.
    Started,
    /// Permitted and done.
    Allowed,
    /// Refused by policy.
    Denied,
    /// Permitted, but not done.
    Failed,
}

impl Outcome {
    /// The word in a record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl Outcome {
    /// Every outcome there is.
    pub const ALL: [Self; 4] = [Self::Started, Self::Allowed, Self::Denied, Self::Failed];
}

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// From the certificate or the bearer token.
    pub identity: PeerIdentity,
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Groups that a bearer token names.
    pub groups: Vec<GroupName>,
    /// How the identity was proved.
    pub authentication: Authentication,
    /// The call.
    pub call: CallTag,
}

impl Caller {
    /// The holder of a certificate.
    #[must_use]
    pub fn certified(identity: PeerIdentity, address: SocketAddr) -> Self {
        Self {
            identity,
            address,
            groups: Vec::new(),
            authentication: Authentication::Certificate,
            call: CallTag::drawn(),
        }
    }

    /// The same caller, of the call `call`.
    #[must_use]
    pub fn with_call(self, call: CallTag) -> Self {
        Self { call, ..self }
    }

    /// Whom policies are asked about.
    #[must_use]
    pub fn principal(&self) -> Principal<'_> {
        Principal {
            identity: &self.identity,
            groups: &self.groups,
            authentication: self.authentication,
        }
    }

    /// How records name the caller: `user alice`, `service metadata`, `user alice (bearer)`.
    #[must_use]
    pub fn who(&self) -> String {
        match self.authentication {
            Authentication::Certificate => self.identity.short(),
            Authentication::Bearer => format!("{} (bearer)", self.identity.short()),
        }
    }
}

/// What one record says, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `user alice`, `service metadata`; `user alice (bearer)` if a bearer token says so and no certificate.
    pub who: String,
    /// Address and port of the caller; absent in records of the service itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SocketAddr>,
    /// The call, for example `create`, `list`, `unwrap`.
    pub action: String,
    /// The EZ key; absent where the call names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The version of the key, where one was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The zone that EDEKs are bound to, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How many EDEKs or keys the record is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// `token` or `worker`: where DEKs were sealed, if they were delivered sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// `token` or `worker`: where DEKs were while they were moved, of a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<String>,
    /// `user alice`: who signed what the caller presented, of a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// Label of the token whose worker verified the user's signature, of a call that is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// One word of `strongroom_proto::Reason`, where it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sentence that goes with the reason, or says more of what the service did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was destroyed, and why it might be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Box<Receipt>>,
    /// `@id`s of the policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The call's id, which its answer carries too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Of a record with the action `checkpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

impl Entry {
    /// A record of `caller` doing `action`, ended well unless said otherwise.
    #[must_use]
    pub fn new(caller: &Caller, action: &str) -> Self {
        caller.call.mark();
        Self {
            from: Some(caller.address),
            request: Some(caller.call.id().to_owned()),
            ..Self::of_service(&caller.who(), action)
        }
    }

    /// A record of something that the service did by itself.
    #[must_use]
    pub(crate) fn of_service(who: &str, action: &str) -> Self {
        Self {
            who: who.to_owned(),
            from: None,
            action: action.to_owned(),
            key: None,
            version: None,
            zone: None,
            count: None,
            sealed: None,
            moved: None,
            signed_by: None,
            verified_by: None,
            outcome: Outcome::Allowed,
            reason: None,
            message: None,
            receipt: None,
            policies: Vec::new(),
            request: None,
            checkpoint: None,
        }
    }

    /// With the key that the call names.
    #[must_use]
    pub fn key(mut self, key: &KeyName) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// With the version that was used.
    #[must_use]
    pub fn version(mut self, version: Option<KeyVersion>) -> Self {
        self.version = version.map(|version| version.0);
        self
    }

    /// With the zone and the number of EDEKs.
    #[must_use]
    pub fn edeks(mut self, zone: &ZoneId, count: usize) -> Self {
        self.zone = Some(zone.to_string());
        self.count = Some(count);
        self
    }

    /// With the number of things that the call is about.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }

    /// With a sentence, of something that ended well.
    #[must_use]
    pub(crate) fn noted(mut self, message: String) -> Self {
        self.message = Some(message);
        self
    }

    /// With where DEKs were sealed.
    #[must_use]
    pub fn sealed(mut self, sealed_in: Option<HeldIn>) -> Self {
        self.sealed = sealed_in.map(|place| place.as_str().to_owned());
        self
    }

    /// With where DEKs were while they were moved.
    #[must_use]
    pub fn moved(mut self, held_in: Option<HeldIn>) -> Self {
        self.moved = held_in.map(|place| place.as_str().to_owned());
        self
    }

    /// With who signed what the caller presented.
    #[must_use]
    pub fn signed_by(mut self, signer: &PeerIdentity) -> Self {
        self.signed_by = Some(signer.short());
        self
    }

    /// With the token whose worker verified the user's signature.
    #[must_use]
    pub fn verified_by(mut self, label: Option<&str>) -> Self {
        self.verified_by = label.map(str::to_owned);
        self
    }

    /// With the policies that decided.
    #[must_use]
    pub fn decided(mut self, decision: &Decision) -> Self {
        self.policies = decision.policies.iter().take(POLICIES_MAX).cloned().collect();
        self
    }

    /// With the receipt of a destroyed version.
    #[must_use]
    pub fn receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = Some(Box::new(receipt));
        self
    }

    /// A change that is about to be made.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.outcome = Outcome::Started;
        self
    }

    /// Refused by policy.
    #[must_use]
    pub fn denied(self, failure: &Failure) -> Self {
        self.ended(Outcome::Denied, failure)
    }

    /// Permitted, but not done.
    #[must_use]
    pub fn failed(self, failure: &Failure) -> Self {
        self.ended(Outcome::Failed, failure)
    }

    fn ended(mut self, outcome: Outcome, failure: &Failure) -> Self {
        self.outcome = outcome;
        self.reason = Some(failure.reason.as_str().to_owned());
        self.message = Some(failure.message.chars().take(MESSAGE_CHARS_MAX).collect());
        self
    }
}

/// A record in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the log, from 1.
    pub seq: u64,
    /// UTC, RFC 3339.
    pub time: jiff::Timestamp,
    /// The log's id, 32 hexadecimal digits: which instance of the key service wrote it.
    pub instance: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
    /// SHA-256 of the line before.
    pub prev: String,
}

/// SHA-256 of a line without its newline.
pub(super) fn line_hash(line: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, line);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The end of the chain: what the next record follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
}

impl Head {
    /// Before the first record, whose `prev` is 64 zeros.
    pub(super) const fn genesis() -> Self {
        Self { seq: 0, hash: [0; 32] }
    }

    /// The head after a line that is a record.
    pub(super) fn after(line: &[u8]) -> Option<Self> {
        let record: Record = serde_json::from_slice(line).ok()?;
        Some(Self {
            seq: record.seq,
            hash: line_hash(line),
        })
    }

    /// Appends the record's line to `out` and returns the head after it.
    pub(super) fn append(&self, log: LogId, time: jiff::Timestamp, entry: Entry, out: &mut Vec<u8>) -> Self {
        let record = Record {
            seq: self.seq + 1,
            time,
            instance: log.to_string(),
            entry,
            prev: hex::encode(self.hash),
        };
        let line = serde_json::to_vec(&record).expect("a record has only text and numbers");
        out.extend_from_slice(&line);
        out.push(b'\n');
        Self {
            seq: record.seq,
            hash: line_hash(&line),
        }
    }
}
