//! What a token says, once its signature and its claims were checked.

use std::net::SocketAddr;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use strongroom_proto::{
    Failure,
    transport::{PeerIdentity, UserName},
};

use super::{BearerConfig, keys::Key, refused};
use crate::{
    audit::{CallTag, Caller},
    policy::{Authentication, GroupName},
};

/// Groups that one token may list. More are refused and not cut: a group may be one that is forbidden something.
const GROUPS_MAX: usize = 1000;

/// Whose tokens count, and what they say of whom.
pub(super) struct Verifier {
    issuer: String,
    audience: String,
    user_claim: String,
    groups_claim: String,
    require_groups: bool,
    clock_skew_s: u64,
}

impl Verifier {
    pub(super) fn new(config: &BearerConfig) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            user_claim: config.user_claim.clone(),
            groups_claim: config.groups_claim.clone(),
            require_groups: config.require_groups,
            clock_skew_s: config.clock_skew_s,
        }
    }

    /// The holder of a token, if `key` signed it and its claims hold now.
    pub(super) fn caller(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &Key,
        address: SocketAddr,
    ) -> Result<Caller, Failure> {
        let checked = decode::<Map<String, Value>>(token, &key.key, &self.validation(algorithm));
        let claims = checked.map_err(|error| refused(self.why(error.kind())))?.claims;
        Ok(Caller {
            identity: PeerIdentity::User(self.user(&claims)?),
            address,
            groups: self.groups(&claims)?,
            authentication: Authentication::Bearer,
            call: CallTag::drawn(),
        })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.validate_nbf = true;
        validation.leeway = self.clock_skew_s;
        validation
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<UserName, Failure> {
        let claim = &self.user_claim;
        let name = claims.get(claim).and_then(Value::as_str);
        let name = name.ok_or_else(|| refused(format!("the bearer token has no claim {claim} that names its user")))?;
        name.parse()
            .map_err(|error| refused(format!("the claim {claim} of the bearer token names no user: {error}")))
    }

    fn groups(&self, claims: &Map<String, Value>) -> Result<Vec<GroupName>, Failure> {
        let claim = &self.groups_claim;
        if is_elsewhere(claims, claim) {
            return Err(refused(format!(
                "the bearer token says that its user's groups are to be asked for elsewhere (_claim_names); have the issuer put \
                 fewer groups into the claim {claim}"
            )));
        }
        let listed = match claims.get(claim) {
            // To take it for empty would lift what policies forbid to a group.
            None | Some(Value::Null) if self.require_groups => {
                return Err(refused(format!(
                    "the bearer token has no claim {claim} that lists its user's groups; have the issuer put it into every token, \
                     if need be empty"
                )));
            }
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(listed)) if listed.len() <= GROUPS_MAX => listed,
            Some(Value::Array(_)) => {
                return Err(refused(format!(
                    "the claim {claim} of the bearer token lists over {GROUPS_MAX} groups"
                )));
            }
            Some(_) => return Err(refused(format!("the claim {claim} of the bearer token is no list"))),
        };
        let mut groups = listed
            .iter()
            .map(|group| group_name(claim, group))
            .collect::<Result<Vec<_>, _>>()?;
        // One order for one set of groups, so that decisions on it are remembered once.
        groups.sort();
        groups.dedup();
        Ok(groups)
    }

    fn why(&self, kind: &ErrorKind) -> String {
        match kind {
            ErrorKind::ExpiredSignature => "the bearer token has expired; get a new one".to_owned(),
            ErrorKind::ImmatureSignature => "the bearer token is not valid yet; check the clocks".to_owned(),
            ErrorKind::InvalidIssuer => format!("the bearer token is not of the issuer {}", self.issuer),
            ErrorKind::InvalidAudience => format!("the bearer token is not for the audience {}", self.audience),
            ErrorKind::MissingRequiredClaim(claim) => format!("the bearer token has no claim {claim}"),
            ErrorKind::InvalidSignature => "the bearer token's signature is wrong".to_owned(),
            _ => "the bearer token cannot be verified".to_owned(),
        }
    }
}

/// What a token says of its signature. Nothing of it is proved yet.
pub(super) fn header(token: &str) -> Result<Header, Failure> {
    let header = decode_header(token).map_err(|_| {
        refused("the bearer token is no JWT with a signature that is accepted here (RSA, ECDSA or Ed25519)")
    })?;
    // What a token declares critical has to be understood (RFC 7515, section 4.1.11), and nothing is.
    if header.crit.is_some() {
        return Err(refused("the bearer token demands extensions that are not known here"));
    }
    Ok(header)
}

pub(super) fn stranger() -> Failure {
    refused(
        "the bearer token is signed with no key of the issuer that is known here, or with an algorithm that is not accepted",
    )
}

/// Whether the issuer left a claim out and says where to get it (OpenID Connect Core, section 5.6.2), as some do for users of
/// many groups.
fn is_elsewhere(claims: &Map<String, Value>, claim: &str) -> bool {
    let names = claims.get("_claim_names").and_then(Value::as_object);
    names.is_some_and(|names| names.contains_key(claim))
}

fn group_name(claim: &str, value: &Value) -> Result<GroupName, Failure> {
    let name = value.as_str();
    let name = name.ok_or_else(|| {
        refused(format!(
            "the claim {claim} of the bearer token lists something that is no text"
        ))
    })?;
    name.parse()
        .map_err(|error| refused(format!("the claim {claim} of the bearer token: {error}")))
}
