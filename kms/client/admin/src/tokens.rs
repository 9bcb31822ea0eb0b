//! The tokens behind the key service.

use strongroom_proto::{
    Failure,
    kms::v1::{self as pb, token_admin_client::TokenAdminClient as Grpc},
    transport::{BearerIdentity, CallerChannel, Remote, Remotes, Repeat, Role, TlsIdentity, identified, retry},
};

/// The tokens and what was found about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// In the order of the key service's configuration.
    pub tokens: Vec<TokenInfo>,
    /// The newest 100 since the service started, oldest first.
    pub alarms: Vec<TokenAlarm>,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its label.
    pub label: String,
    /// `away`, `checking`, `serving` or `out`; `unknown` from a newer service.
    pub state: &'static str,
    /// Why it is not used; empty if there is no more to say.
    pub why: String,
    /// Calls that wait for it or are under way.
    pub calls: u64,
    /// EDEKs in them.
    pub edeks: u64,
    /// Key versions that it holds.
    pub held: u64,
    /// Versions that it should hold and does not, or not as they should be.
    pub lacking: u64,
    /// When it was compared last, in milliseconds since 1970.
    pub checked_ms: Option<u64>,
}

/// Something that an operator must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAlarm {
    /// When it was raised, in milliseconds since 1970.
    pub time_ms: u64,
    /// The token's label.
    pub token: String,
    /// What was found.
    pub what: String,
}

/// Reasons that are kept of what a token still lacks.
const REASONS_MAX: usize = 1000;

/// What filling up a token came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResyncedToken {
    /// How many versions it got.
    pub cloned: u64,
    /// How many it still lacks.
    pub left: u64,
    /// The first 1000 of those: `key@version`, and why.
    pub reasons: Vec<(String, String)>,
}

/// A connection to the key service's `TokenAdmin`. Clones share it. Failures that pass by themselves are retried for at
/// most 20 s, which changes nothing twice.
#[derive(Debug, Clone)]
pub struct TokenAdminClient {
    grpc: Grpc<CallerChannel>,
}

impl TokenAdminClient {
    /// A client that connects at its first call, in the runtime that it is made in.
    #[must_use]
    pub fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        Self {
            grpc: Grpc::new(CallerChannel::certified(remotes, tls, Role::Kms)),
        }
    }

    /// As [`Self::connect`], with a bearer token, to the key service's port for them.
    #[must_use]
    pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity) -> Self {
        Self {
            grpc: Grpc::new(CallerChannel::bearer(remote, bearer, Role::Kms)),
        }
    }

    /// Every token as the instance that answers sees it.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn list(&self) -> Result<Tokens, Failure> {
        let answer = retry(Repeat::Harmless, || {
            let mut grpc = self.grpc.clone();
            async move { grpc.list_tokens(identified(pb::ListTokensRequest {})).await }
        })
        .await?;
        Ok(Tokens {
            tokens: answer.tokens.into_iter().map(TokenInfo::from).collect(),
            alarms: answer.alarms.into_iter().map(TokenAlarm::from).collect(),
        })
    }

    /// Has every version that the token with that label lacks cloned into it, which takes as long as there are many. The key
    /// service does it for some seconds at a time; `told` is told after each what it has come to.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached. A repeat goes on from there.
    pub async fn resync(&self, label: &str, mut told: impl FnMut(&ResyncedToken)) -> Result<ResyncedToken, Failure> {
        let mut done = ResyncedToken::default();
        let mut after = None;
        loop {
            let answer = self.resync_behind(label, after.take()).await?;
            done.cloned += answer.cloned_count;
            done.left += answer.left_count;
            let room = REASONS_MAX.saturating_sub(done.reasons.len());
            let reason = |left: pb::TokenVersion| (format!("{}@{}", left.key, left.version), left.why);
            done.reasons.extend(answer.left.into_iter().take(room).map(reason));
            after = answer.next;
            if after.is_none() {
                return Ok(done);
            }
            told(&done);
        }
    }

    async fn resync_behind(
        &self,
        label: &str,
        after: Option<pb::TokenVersion>,
    ) -> Result<pb::ResyncTokenResponse, Failure> {
        let request = pb::ResyncTokenRequest {
            label: label.to_owned(),
            after,
        };
        retry(Repeat::Harmless, || {
            let (mut grpc, request) = (self.grpc.clone(), request.clone());
            async move { grpc.resync_token(identified(request)).await }
        })
        .await
    }
}

impl From<pb::Token> for TokenInfo {
    fn from(wire: pb::Token) -> Self {
        let state = match wire.health() {
            pb::TokenHealth::Away => "away",
            pb::TokenHealth::Checking => "checking",
            pb::TokenHealth::Serving => "serving",
            pb::TokenHealth::Out => "out",
            pb::TokenHealth::Unspecified => "unknown",
        };
        Self {
            label: wire.label,
            state,
            why: wire.why,
            calls: wire.calls,
            edeks: wire.edeks,
            held: wire.held,
            lacking: wire.lacking,
            checked_ms: wire.checked_ms,
        }
    }
}

impl From<pb::TokenAlarm> for TokenAlarm {
    fn from(wire: pb::TokenAlarm) -> Self {
        Self {
            time_ms: wire.time_ms,
            token: wire.token,
            what: wire.what,
        }
    }
}
