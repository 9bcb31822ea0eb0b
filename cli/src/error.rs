//! What can go wrong in a command, and the exit code that says it to scripts.

use std::{error::Error as StdError, io, path::PathBuf, process::ExitCode};

use strongroom_fs::{FsError, RawError};
use strongroom_kms::{
    audit::AuditError,
    policy::{PolicyError, hadoop::ImportError},
    token::{ModuleError, PinError, init::InitError},
};
use strongroom_metadata::ExportError;
use strongroom_proto::{Failure, JobId, ParseError, Reason, transport::TlsError};

use crate::{dev::DevError, profile::ProfileError};

/// The meaning of each exit code, shown by `strongroom --help`.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  failed for a reason that has no code of its own
  2  usage: an argument, name, profile or identity that cannot be read as one
  3  not found: no such key, file, directory or configuration file
  4  refused: permission, policy, missing grant, untrusted certificate
  5  unavailable: service, token or block nodes; the same call may succeed later
  6  integrity: data, manifest or EDEK is corrupt or was tampered with
  7  partly done: some files failed or were skipped, each is named
  8  conflict: exists already, not empty, across zones, not in a zone
  130  interrupted";

/// How a command ends; the number is the process' exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unavailable = 5,
    Integrity = 6,
    Partly = 7,
    Conflict = 8,
    /// 128 and the number of SIGINT, as shells say it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Reason> for Exit {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::InvalidArgument => Self::Usage,
            Reason::KeyNotFound | Reason::NotFound => Self::NotFound,
            Reason::Unauthenticated
            | Reason::PermissionDenied
            | Reason::CapabilityRefused
            | Reason::UntrustedPeer
            | Reason::KeyDisabled
            | Reason::SealedRequired => Self::Refused,
            Reason::TokenUnavailable
            | Reason::PinRejected
            | Reason::TooFewNodes
            | Reason::NoSpace
            | Reason::Overloaded
            | Reason::Unavailable
            | Reason::SignedTooEarly
            | Reason::DeadlineExceeded => Self::Unavailable,
            Reason::EdekInvalid
            | Reason::ManifestInvalid
            | Reason::BlockNotFound
            | Reason::BlockCorrupt
            | Reason::BlockExists => Self::Integrity,
            Reason::KeyExists
            | Reason::KeyVersionUnusable
            | Reason::KeyInUse
            | Reason::DeletionBlocked
            | Reason::AlreadyExists
            | Reason::NotADirectory
            | Reason::IsADirectory
            | Reason::NotEmpty
            | Reason::NotInZone
            | Reason::NotEncrypted
            | Reason::AlreadyZone
            | Reason::QuotaExceeded
            | Reason::CrossZone
            | Reason::InvalidMove
            | Reason::LeaseLost
            | Reason::LeaseHeld
            | Reason::FileChanged
            | Reason::JobHeld
            | Reason::JobStopped => Self::Conflict,
            Reason::TokenRefused | Reason::StoreFailed | Reason::Internal => Self::Failed,
        }
    }
}

impl Exit {
    /// What the system's refusal of a local file means.
    pub(crate) fn of_file(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::Refused,
            io::ErrorKind::AlreadyExists => Self::Conflict,
            _ => Self::Failed,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A service said no, or could not be asked.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A call of the filesystem failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file is in the way that may not be replaced.
    #[error("{0}; pass --force to replace it")]
    Exists(FsError),
    /// A file is where a directory is to be.
    #[error(
        "{0}; a directory cannot take the place of a file: name another target, or remove the file with strongroom fs rm"
    )]
    FileInTheWay(FsError),
    /// A name or path on the command line breaks its rule.
    #[error(transparent)]
    Argument(#[from] ParseError),
    /// Arguments that do not go together.
    #[error("{message}")]
    Usage { message: String },
    /// A job that this client worked on was canceled, or taken on by another client.
    #[error(
        "job {job} was canceled or taken on by another client; what was done stays so, see: strongroom job show {job}"
    )]
    JobEnded { job: JobId },
    /// Ciphertext that cannot be read or written as it was asked.
    #[error("{what}: {source}")]
    Raw {
        what: String,
        #[source]
        source: RawError,
    },
    /// The client profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The identity's certificate, key or CA cannot be used.
    #[error("the identity {identity} cannot be used")]
    Identity {
        identity: String,
        #[source]
        source: TlsError,
    },
    /// A local file or directory.
    #[error("{action} {}", path.display())]
    Local {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A local file that is in the way.
    #[error("{} exists; pass --force to replace it", path.display())]
    LocalExists { path: PathBuf },
    /// A local file that changed under us.
    #[error("{} changed while it was read; store it again when nothing writes to it", path.display())]
    LocalChanged { path: PathBuf },
    /// A local path of the wrong kind.
    #[error("{} is {found}, not {wanted}", path.display())]
    LocalKind {
        path: PathBuf,
        found: &'static str,
        wanted: &'static str,
    },
    /// A name that the zone filesystem cannot hold.
    #[error("{} is not stored: its name is not UTF-8; rename it", path.display())]
    LocalName { path: PathBuf },
    /// The bytes that came are not as many as the file has.
    #[error("{path} has {expected} bytes but {found} were read; nothing was kept")]
    Length { path: String, expected: u64, found: u64 },
    /// Standard output, for example a full disk.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Standard input.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// Some files of a transfer failed; they have been named.
    #[error("{failed} failed, {skipped} skipped of {total}; each is named above")]
    Partly {
        failed: u64,
        skipped: u64,
        total: u64,
        exit: Exit,
    },
    /// A re-encryption ended, but not for all files.
    #[error("{failures} files of {zone} keep their old EDEK and stay readable; see the metadata service's log")]
    Reencryption { zone: String, failures: u64 },
    /// A re-encryption that was waited for was stopped.
    #[error("the re-encryption of {zone} is {state}: {message}; strongroom zone reencrypt goes on with it")]
    Stopped {
        zone: String,
        state: &'static str,
        message: String,
    },
    /// A check found what is not as it should be.
    #[error("{left} findings stay, {losses} of them mean that something cannot be read; each is named above")]
    Fsck { left: u64, losses: u64 },
    /// A disk holds what does not look like ciphertext, or what nothing accounts for.
    #[error("{found} files on the disks of block nodes are not as they should be; each is named above")]
    NotCiphertext { found: u64 },
    /// Blocks that are not encrypted keep disks from being proved.
    #[error(
        "{plain} blocks are of files that are not encrypted, and {unseen} of such that are being written or deleted, each of them named above; nothing is proved before those files are encrypted, with strongroom zone adopt, and what was deleted is gone from the disks"
    )]
    PlainBlocks { plain: u64, unseen: u64 },
    /// Files of a zone are left that are not encrypted.
    #[error(
        "{left} files in {zone} are not encrypted yet; give the same command again, as a user who may read and write them; files that are being removed count until they are gone, see: strongroom job list"
    )]
    NotAdopted { zone: String, left: u64 },
    /// `strongroom dev`.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// A role's configuration.
    #[error("the {role} service cannot start")]
    RoleConfig {
        role: &'static str,
        path: PathBuf,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A role that stopped.
    #[error("the {role} service stopped")]
    Role {
        role: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// An audit log that is not what it should be, or cannot be read.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Making a token.
    #[error("cannot initialise the token")]
    Token(#[source] InitError),
    /// A policy or groups file.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A configuration file of Hadoop.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A namespace that cannot be moved.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// What was asked of the policies is denied.
    #[error("{sentence}")]
    PolicyDenies { sentence: String },
    /// SIGINT or SIGTERM.
    #[error("interrupted; what was done so far stays")]
    Interrupted,
    /// The system does not give us what every process needs.
    #[error("cannot set up {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A local failure, with what was being done to which path.
    pub(crate) fn local(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { action, path, source }
    }

    /// A stream of ciphertext that is not what it should be, or that a file cannot be made.
    pub(crate) const fn raw(what: String, source: RawError) -> Self {
        Self::Raw { what, source }
    }

    /// The exit code that this error ends the process with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Failure(failure) => failure.reason.into(),
            Self::Fs(error) | Self::Exists(error) | Self::FileInTheWay(error) => error.reason().into(),
            Self::Argument(_) | Self::Usage { .. } | Self::Raw { .. } => Exit::Usage,
            Self::Profile(error) => error.exit(),
            Self::Identity { source, .. } => identity_exit(source),
            Self::Local { source, .. } => Exit::of_file(source),
            Self::Token(error) => token_exit(error),
            Self::Audit(error) => audit_exit(error),
            Self::LocalExists { .. } | Self::LocalKind { .. } | Self::JobEnded { .. } => Exit::Conflict,
            Self::Length { .. } | Self::NotCiphertext { .. } => Exit::Integrity,
            Self::Fsck { losses: 1.., .. } => Exit::Integrity,
            Self::Fsck { .. } | Self::PlainBlocks { .. } | Self::NotAdopted { .. } => Exit::Partly,
            Self::LocalName { .. } | Self::Reencryption { .. } | Self::Stopped { .. } => Exit::Partly,
            Self::Partly { exit, .. } => *exit,
            Self::Policy(PolicyError::Read { source, .. }) => Exit::of_file(source),
            Self::Policy(_) | Self::Import(_) => Exit::Usage,
            Self::Export(error) => export_exit(error),
            Self::PolicyDenies { .. } => Exit::Refused,
            Self::Interrupted => Exit::Interrupted,
            Self::Dev(error) => error.exit(),
            Self::RoleConfig { path, .. } if !path.exists() => Exit::NotFound,
            Self::LocalChanged { .. }
            | Self::Output(_)
            | Self::Input(_)
            | Self::RoleConfig { .. }
            | Self::Role { .. }
            | Self::System { .. } => Exit::Failed,
        }
    }

    /// The word for programs: a service's reason, or the kind of exit.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Failure(failure) => return failure.reason.as_str(),
            Self::Fs(error) | Self::Exists(error) | Self::FileInTheWay(error) => return error.reason().as_str(),
            _ => {}
        }
        match self.exit() {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NotFound => "not-found",
            Exit::Refused => "refused",
            Exit::Unavailable => "unavailable",
            Exit::Integrity => "integrity",
            Exit::Partly => "partly",
            Exit::Conflict => "conflict",
            Exit::Interrupted => "interrupted",
        }
    }

    /// Whether the reader of our standard output went away, as in `strongroom fs ls / | head`.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// An identity whose files are there but break their rule is the user's to correct, like a profile.
fn identity_exit(error: &TlsError) -> Exit {
    match error {
        TlsError::Read { source, .. } => Exit::of_file(source),
        TlsError::KeyReadable { .. }
        | TlsError::OutOfDate { .. }
        | TlsError::WrongRole { .. }
        | TlsError::AnotherIdentity { .. } => Exit::Refused,
        TlsError::Pem { .. }
        | TlsError::NoToken { .. }
        | TlsError::Identity(_)
        | TlsError::Rustls(_)
        | TlsError::Verifier(_) => Exit::Usage,
    }
}

fn audit_exit(error: &AuditError) -> Exit {
    match error {
        AuditError::Io { source, .. } => Exit::of_file(source),
        AuditError::Empty { .. } => Exit::NotFound,
        AuditError::Broken { .. } | AuditError::Unexpected { .. } => Exit::Integrity,
    }
}

fn export_exit(error: &ExportError) -> Exit {
    match error {
        ExportError::File { source, .. } => Exit::of_file(source),
        ExportError::Damaged { .. } | ExportError::OtherExport { .. } | ExportError::Mismatch { .. } => Exit::Integrity,
        ExportError::NotEmpty | ExportError::OtherImport { .. } | ExportError::Running => Exit::Conflict,
        ExportError::Empty => Exit::NotFound,
        ExportError::Store(error) => error.reason().into(),
        ExportError::Open(_) | ExportError::Format { .. } | ExportError::StoreFormat { .. } => Exit::Failed,
    }
}

fn token_exit(error: &InitError) -> Exit {
    match error {
        InitError::Exists { .. } => Exit::Conflict,
        InitError::Label { .. } | InitError::PinLength { .. } => Exit::Usage,
        InitError::Pin(PinError::Read { source, .. }) => Exit::of_file(source),
        InitError::Pin(PinError::ReadableByOthers { .. }) => Exit::Refused,
        InitError::Pin(PinError::NotAFile { .. } | PinError::Malformed { .. }) => Exit::Usage,
        InitError::Module(ModuleError::Missing { .. }) => Exit::NotFound,
        InitError::Withheld { .. } => Exit::Refused,
        InitError::Module(_) | InitError::NoFreeSlot | InitError::Refused { .. } | InitError::Mark(_) => Exit::Failed,
    }
}

/// An error and its causes in one line, each said once.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_map_to_the_documented_codes() {
        for (reason, exit) in [
            (Reason::InvalidArgument, Exit::Usage),
            (Reason::KeyNotFound, Exit::NotFound),
            (Reason::PermissionDenied, Exit::Refused),
            (Reason::PinRejected, Exit::Unavailable),
            (Reason::TooFewNodes, Exit::Unavailable),
            (Reason::BlockCorrupt, Exit::Integrity),
            (Reason::ManifestInvalid, Exit::Integrity),
            (Reason::NotEmpty, Exit::Conflict),
            (Reason::CrossZone, Exit::Conflict),
            (Reason::Internal, Exit::Failed),
        ] {
            assert_eq!(Exit::from(reason), exit, "{reason}");
        }
    }

    #[test]
    fn files_of_the_caller_map_to_the_documented_codes() {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let identity = |source| Error::Identity {
            identity: "alice".to_owned(),
            source,
        };
        let key = || PathBuf::from("alice.key");
        let unread = |kind| TlsError::Read {
            path: key(),
            source: io(kind),
        };
        let pin = |source| PinError::Read { path: key(), source };
        let mode = 0o644;
        for (error, exit) in [
            (identity(unread(io::ErrorKind::PermissionDenied)), Exit::Refused),
            (identity(unread(io::ErrorKind::NotFound)), Exit::NotFound),
            (identity(unread(io::ErrorKind::InvalidData)), Exit::Failed),
            (identity(TlsError::KeyReadable { path: key(), mode }), Exit::Refused),
            (
                identity(TlsError::Pem {
                    path: key(),
                    what: "key",
                }),
                Exit::Usage,
            ),
            (
                Error::local("cannot read", "/a")(io(io::ErrorKind::PermissionDenied)),
                Exit::Refused,
            ),
            (
                ProfileError::Read {
                    path: key(),
                    source: io(io::ErrorKind::PermissionDenied),
                }
                .into(),
                Exit::Refused,
            ),
            (
                Error::Token(InitError::Exists { label: "l".to_owned() }),
                Exit::Conflict,
            ),
            (
                Error::Token(pin(io(io::ErrorKind::PermissionDenied)).into()),
                Exit::Refused,
            ),
            (Error::Token(pin(io(io::ErrorKind::NotFound)).into()), Exit::NotFound),
        ] {
            assert_eq!(error.exit(), exit, "{}", chain(&error));
        }
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let error = Error::Local {
            action: "cannot read",
            path: "/a".into(),
            source: io::Error::other("the disk is gone"),
        };
        assert_eq!(chain(&error), "cannot read /a: the disk is gone");
        let failure = Error::from(Failure::new(Reason::KeyNotFound, "key payroll does not exist"));
        assert_eq!(chain(&failure), "key payroll does not exist");
    }
}
