use std::{error::Error, fmt, str::FromStr, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};

use crate::ParseError;

/// The response header that carries a [`Reason`].
pub const REASON_HEADER: &str = "strongroom-reason";

/// The header that carries the id of a call, in the request if the client chose it, and in the answer of the key service:
/// 1 to 64 characters of `A-Z a-z 0-9 . _ -`. The call's audit records and log lines have the same.
pub const REQUEST_ID_HEADER: &str = "strongroom-request-id";

/// The response header that carries [`Failure::retry_after`], in milliseconds.
pub const RETRY_AFTER_HEADER: &str = "retry-after-ms";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal => $code:ident,)*) => {
        /// Why a call failed, in one word that programs can match on. The gRPC status follows from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason's word on the wire and in `--json`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The gRPC status that carries this reason.
            #[must_use]
            pub const fn code(self) -> Code {
                match self {
                    $(Self::$variant => Code::$code,)*
                }
            }
        }
    };
}

reasons! {
    /// A field, name or path that breaks its rule.
    InvalidArgument = "invalid-argument" => InvalidArgument,
    /// The peer has no identity that can be used.
    Unauthenticated = "unauthenticated" => Unauthenticated,
    /// Policy or role does not allow the call.
    PermissionDenied = "permission-denied" => PermissionDenied,

    /// No such EZ key.
    KeyNotFound = "key-not-found" => NotFound,
    /// An EZ key of that name exists.
    KeyExists = "key-exists" => AlreadyExists,
    /// The EZ key is disabled.
    KeyDisabled = "key-disabled" => FailedPrecondition,
    /// The key or version may not be destroyed yet, or not any more be kept.
    DeletionBlocked = "deletion-blocked" => FailedPrecondition,
    /// The key version is not one that exists, or not one that may do this.
    KeyVersionUnusable = "key-version-unusable" => FailedPrecondition,
    /// Files or clients still need the key version.
    KeyInUse = "key-in-use" => FailedPrecondition,
    /// The EDEK does not open under its key, version and zone.
    EdekInvalid = "edek-invalid" => InvalidArgument,
    /// The token cannot be reached now; a retry may succeed.
    TokenUnavailable = "token-unavailable" => Unavailable,
    /// The token refused the PIN; nobody tries again until its source changes.
    PinRejected = "pin-rejected" => FailedPrecondition,
    /// The token refused the operation itself.
    TokenRefused = "token-refused" => FailedPrecondition,

    /// A signed request is too old for who got it, or from before its start; one signed anew may succeed.
    SignedTooEarly = "signed-too-early" => Unavailable,
    /// The key's DEKs are handed out sealed to their reader only.
    SealedRequired = "sealed-required" => FailedPrecondition,

    /// Nothing at that path.
    NotFound = "not-found" => NotFound,
    /// Something is at that path.
    AlreadyExists = "already-exists" => AlreadyExists,
    /// A directory was needed.
    NotADirectory = "not-a-directory" => FailedPrecondition,
    /// A file was needed.
    IsADirectory = "is-a-directory" => FailedPrecondition,
    /// The directory holds something.
    NotEmpty = "not-empty" => FailedPrecondition,
    /// The path is in no encryption zone.
    NotInZone = "not-in-zone" => FailedPrecondition,
    /// The file is not encrypted, where it would have to be or the caller does not allow it.
    NotEncrypted = "not-encrypted" => FailedPrecondition,
    /// The directory is a zone already.
    AlreadyZone = "already-zone" => AlreadyExists,
    /// A directory above holds as many names or bytes as its quota allows, or a user has as many files open as one may.
    QuotaExceeded = "quota-exceeded" => FailedPrecondition,
    /// Source and destination are in different zones.
    CrossZone = "cross-zone" => FailedPrecondition,
    /// A move that would put a directory below itself, or the like.
    InvalidMove = "invalid-move" => FailedPrecondition,
    /// The file is not being written by this client any more.
    LeaseLost = "lease-lost" => FailedPrecondition,
    /// Somebody else is writing the file.
    LeaseHeld = "lease-held" => FailedPrecondition,
    /// The file was changed while it was rewritten, or the directory while it was looked through or counted.
    FileChanged = "file-changed" => Aborted,
    /// Another client works on the job.
    JobHeld = "job-held" => FailedPrecondition,
    /// The job was paused, is over, or is another client's.
    JobStopped = "job-stopped" => FailedPrecondition,
    /// The file's blocks or EDEK are not what the client proved them to be.
    ManifestInvalid = "manifest-invalid" => DataLoss,

    /// Not enough healthy block nodes to store a block.
    TooFewNodes = "too-few-nodes" => Unavailable,
    /// No room left.
    NoSpace = "no-space" => ResourceExhausted,
    /// No such block on that node.
    BlockNotFound = "block-not-found" => NotFound,
    /// The block's bytes are not what was written.
    BlockCorrupt = "block-corrupt" => DataLoss,
    /// Another block has that id.
    BlockExists = "block-exists" => AlreadyExists,
    /// The capability does not allow the call, or is out of date.
    CapabilityRefused = "capability-refused" => PermissionDenied,

    /// A queue is full; a retry after a pause may succeed.
    Overloaded = "overloaded" => ResourceExhausted,
    /// The service cannot be reached.
    Unavailable = "unavailable" => Unavailable,
    /// The call took longer than its deadline.
    DeadlineExceeded = "deadline-exceeded" => DeadlineExceeded,
    /// TLS or identity of the other end is not what it must be.
    UntrustedPeer = "untrusted-peer" => Unavailable,
    /// The service's own store failed.
    StoreFailed = "store-failed" => Internal,
    /// A defect.
    Internal = "internal" => Internal,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == s)
            .ok_or_else(|| ParseError::new("reason", s, "one of the words of this version"))
    }
}

/// When it is worth trying again where whoever is overloaded cannot tell: some of the calls under way are done by then.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(200);

/// A refusal that crosses a process boundary: the word for programs, the sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is.
    pub reason: Reason,
    /// Names the thing and the way out.
    pub message: String,
    /// After which pause a repeat may succeed, where whoever refused can tell.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with its sentence; of an overload, with the hint to come back after 200 ms.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: matches!(reason, Reason::Overloaded).then_some(OVERLOAD_PAUSE),
        }
    }

    /// The same with the pause after which a repeat may succeed.
    #[must_use]
    pub const fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Whether the same call may succeed a little later without anybody's help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.reason,
            Reason::Overloaded
                | Reason::Unavailable
                | Reason::TokenUnavailable
                | Reason::DeadlineExceeded
                | Reason::SignedTooEarly
                // Block nodes report themselves within seconds to a metadata service that restarted.
                | Reason::TooFewNodes
        )
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::new(Reason::InvalidArgument, error.to_string())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(failure.reason.code(), failure.message);
        status
            .metadata_mut()
            .insert(REASON_HEADER, MetadataValue::from_static(failure.reason.as_str()));
        if let Some(pause) = failure.retry_after {
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            status.metadata_mut().insert(RETRY_AFTER_HEADER, pause_ms.into());
        }
        status
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let word = status.metadata().get(REASON_HEADER).and_then(|word| word.to_str().ok());
        match word.and_then(|word| word.parse().ok()) {
            Some(reason) => Self {
                retry_after: retry_after(&status),
                ..Self::new(reason, status.message())
            },
            None => match transport_reason(&status) {
                Reason::UntrustedPeer => Self::new(Reason::UntrustedPeer, untrusted_text(&status)),
                reason => Self::new(reason, chain_text(&status)),
            },
        }
    }
}

/// The pause that the service asks for; one that is no number is none.
fn retry_after(status: &Status) -> Option<Duration> {
    let pause_ms = status.metadata().get(RETRY_AFTER_HEADER)?.to_str().ok()?;
    Some(Duration::from_millis(pause_ms.parse().ok()?))
}

/// The reason of a status that none of our services made: the transport's own.
fn transport_reason(status: &Status) -> Reason {
    if is_tls_failure(status) {
        return Reason::UntrustedPeer;
    }
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => Reason::Unavailable,
        Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidArgument,
        Code::PermissionDenied => Reason::PermissionDenied,
        Code::Unauthenticated => Reason::Unauthenticated,
        // It comes from the connection: HTTP/2 counts among its errors that a server ends one in good order (GOAWAY).
        _ if status.source().is_some() => Reason::Unavailable,
        _ => Reason::Internal,
    }
}

/// Looks for a TLS failure down the chain, also where hyper boxed it into an I/O error. A server refuses a
/// client's certificate only after the handshake (RFC 8446, 4.4.2.4): that alert reaches us inside an HTTP/2
/// error that hides its cause, so there it is known by rustls' words.
fn is_tls_failure(status: &Status) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = next {
        if error.to_string().contains("received fatal alert") {
            return true;
        }
        if error.is::<rustls::Error>() || error.is::<crate::transport::TlsError>() {
            return true;
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<crate::transport::TlsError>()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn untrusted_text(status: &Status) -> String {
    let text = chain_text(status);
    match text.split_once("received fatal alert: ") {
        Some((_, rest)) => format!(
            "the service refused this client's certificate ({}); it must be within its dates and issued by the service's CA",
            rest.split(':').next().unwrap_or(rest)
        ),
        None => text,
    }
}

/// The status' message and what its sources add to it, each said once.
fn chain_text(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        let part = error.to_string();
        // What tonic calls any failure of a connection adds nothing to its cause.
        if part != "transport error" && !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for &reason in Reason::ALL {
            let failure = Failure::new(reason, "why");
            let status = Status::from(failure.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(Failure::from(status), failure);
            assert_eq!(reason.as_str().parse(), Ok(reason));
            let failure = failure.retry_after(Duration::from_millis(1500));
            assert_eq!(Failure::from(Status::from(failure.clone())), failure);
        }
    }
}
