//! Why the metadata service refuses, and what each refusal is on the wire.

use strongroom_kv::StoreError;
use strongroom_proto::{
    DataSuite, EdekSuite, Failure, FileId, JobId, KeyName, KeyVersion, ParseError, Reason, ZoneId, ZonePath,
    transport::UserName,
};

use crate::{
    namespace::{permission::Forbidden, walkers::WALK},
    schema::keys::Measure,
};

/// Why an operation on the namespace, a file, a zone or the cluster fails. Messages name the thing and the way out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetadataError {
    /// A field, name or path that breaks its rule.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A field that breaks a rule of this service.
    #[error("{field}: {rule}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is allowed.
        rule: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record is not what this version writes.
    #[error("the metadata store holds a broken {what}; restore it from its backup")]
    Corrupt {
        /// What kind of record.
        what: &'static str,
    },
    /// The key service or another service refused.
    #[error(transparent)]
    Remote(#[from] Failure),
    /// The caller is not one who may do this.
    #[error("{who} may not {what}; {remedy}")]
    Denied {
        /// The peer.
        who: String,
        /// The call.
        what: &'static str,
        /// Who may.
        remedy: &'static str,
    },
    /// The caller lacks a permission in the namespace.
    #[error(transparent)]
    Forbidden(Box<Forbidden>),
    /// A path that is the service's own.
    #[error("{0} is reserved; choose another path")]
    Reserved(ZonePath),
    /// Nothing at a path.
    #[error("cannot find {0}")]
    NotFound(ZonePath),
    /// No such extended attribute.
    #[error("{path} has no attribute {name}; list those it has with: strongroom fs getfattr {path}")]
    NoSuchXattr {
        /// The file or directory.
        path: ZonePath,
        /// The attribute.
        name: String,
    },
    /// No such file id.
    #[error("there is no file with id {0}; open it again by its path")]
    NoSuchFile(FileId),
    /// A listing of one directory was to go on in another.
    #[error("{0} is not the directory any more of which the listing was begun; list it from its beginning")]
    Replaced(ZonePath),
    /// Renames further up left an inode below more directories than a walk takes.
    #[error("{0} is below too many directories; rename one above it to a place nearer to the root")]
    TooDeep(String),
    /// No such job.
    #[error("there is no job {0}; list those there are with: strongroom job list")]
    NoSuchJob(JobId),
    /// A removal cannot be canceled.
    #[error(
        "job {0} clears away what was removed from the namespace already and cannot be taken back; pause it with: strongroom job pause {0}"
    )]
    RemovalGoesOn(JobId),
    /// Another client works on a job.
    #[error(
        "a client works on this already, as job {id}, and is waited for {left_s} s more unless it is heard of; wait until it is through, or end it with: strongroom job cancel {id}"
    )]
    JobHeld {
        /// The job.
        id: JobId,
        /// Until the client's lease ends, in seconds.
        left_s: u64,
    },
    /// A client works on a job that another one has taken on since.
    #[error(
        "job {0} was taken on by another client, since this one was not heard of for too long; see: strongroom job show {0}"
    )]
    JobLost(JobId),
    /// A client works on a job that does not run.
    #[error("job {0} was paused or is over; see: strongroom job show {0}")]
    JobStopped(JobId),
    /// Something is at a path.
    #[error("{0} exists")]
    Exists(ZonePath),
    /// A directory was needed.
    #[error("{0} is not a directory")]
    NotADirectory(ZonePath),
    /// A file was needed.
    #[error("{0} is a directory")]
    IsADirectory(ZonePath),
    /// A directory holds something.
    #[error("{0} is not empty; remove it with all it holds with: strongroom fs rm -r {0}")]
    NotEmpty(ZonePath),
    /// The root cannot be removed or renamed.
    #[error("the root directory cannot be {0}")]
    Root(&'static str),
    /// A move that cannot be.
    #[error("{from} can't be moved to {to}: {why}")]
    InvalidMove {
        /// The source.
        from: ZonePath,
        /// The destination.
        to: ZonePath,
        /// The rule.
        why: &'static str,
    },
    /// A quota would be exceeded.
    #[error(
        "the quota of {directory} is exceeded: with all below it it may have {}, and has {used} already; remove some of that, or have a superuser raise the quota: strongroom fs quota set {directory}", measured(*.measure, *.limit)
    )]
    QuotaExceeded {
        /// The directory that has the quota.
        directory: ZonePath,
        /// Of what.
        measure: Measure,
        /// At most.
        limit: u64,
        /// As far as it is used.
        used: u64,
    },
    /// A user has as many files open as one may.
    #[error(
        "user {user} has {most} files open to write them, as many as one user may (settings.open_files_per_user); finish some, or wait: those of writers who are gone are given up after ten minutes"
    )]
    TooManyOpenFiles {
        /// The user.
        user: String,
        /// At most.
        most: i64,
    },
    /// What is moved or removed below a quota is too large to be counted on the way.
    #[error(
        "{path} has more than {most} files and directories, too many to count while it leaves a quota or comes under one; move or remove it in parts, or have a superuser give it a quota of its own first, which counts it: strongroom fs quota set {path} --bytes 1E"
    )]
    TooManyToCount {
        /// The directory.
        path: ZonePath,
        /// What is counted on the way, at most.
        most: u64,
    },
    /// What a directory holds is too much to be counted for its quota.
    #[error(
        "what {0} holds could not be counted in {s} s, and it has no quota now; set quotas on directories below it first, whose content is then not counted again",
        s = WALK.as_secs()
    )]
    TooLongToCount(ZonePath),
    /// A quota was taken away while it was being counted.
    #[error(
        "{0} has no quota now: another change took it away while what is there was being counted; look with: strongroom fs quota show {0}, and set it again"
    )]
    QuotaTakenAway(ZonePath),
    /// What a directory holds is too much to be looked through for whether it may be removed.
    #[error(
        "what {0} holds could not be looked through in {s} s for whether you may remove all of it; remove directories below it first, or have a superuser remove it",
        s = WALK.as_secs()
    )]
    TooLongToCheck(ZonePath),
    /// Each time that a directory had been looked through another one was in its place.
    #[error(
        "{0} was replaced by another directory while it was looked through for whether you may remove all of it; remove it again when nobody renames it"
    )]
    ReplacedMeanwhile(ZonePath),
    /// As many large directories are being looked through or counted as may be at once.
    #[error(
        "user {0} has to wait: as many large directories as may be at once, of one user or in all, are being looked through or counted; try again in a few seconds"
    )]
    TooManyWalks(UserName),
    /// A move across the border of a zone.
    #[error("{path} can't be moved {border}; {}", way_across(.path, .to.as_ref()))]
    CrossZone {
        /// The source.
        path: ZonePath,
        /// `from encryption zone A to encryption zone B` and the like.
        border: String,
        /// The destination, if that is in a zone as well.
        to: Option<ZonePath>,
    },
    /// A move to another zone that cannot be.
    #[error("{path} can't be moved to another zone: {why}")]
    Transfer {
        /// What is in the way.
        path: ZonePath,
        /// How.
        why: String,
    },
    /// Something that cannot be done below a directory that is being moved to another zone.
    #[error(
        "{path} is part of what job {job} moves to another zone; wait until that is done, or cancel it with: strongroom job cancel {job}"
    )]
    Moving {
        /// What was asked for.
        path: ZonePath,
        /// The transfer.
        job: JobId,
    },
    /// A file or its zone changed between the signature and the move.
    #[error("{0} or its zone changed while it was being moved; move it again")]
    MovedOn(ZonePath),
    /// One of the zones of a transfer.
    #[error("the zone {0} is gone; what was to be moved out of it or into it stays where it is: strongroom job list")]
    ZoneGone(ZoneId),
    /// A transfer that collects no EDEKs any more.
    #[error("job {id} {what} {id}")]
    TransferStopped {
        /// The job.
        id: JobId,
        /// What became of it, and what to do.
        what: &'static str,
    },
    /// A transfer cannot be canceled once its directory moved.
    #[error(
        "job {0} has moved its directory already and only drops the old EDEKs; pause that with: strongroom job pause {0}, or move the directory back"
    )]
    TransferGoesOn(JobId),
    /// A path in no zone.
    #[error("{0} is not in an encryption zone; make a zone with: strongroom zone create")]
    NotInZone(ZonePath),
    /// A file in no zone, where the service allows none.
    #[error(
        "{0} is not in an encryption zone; make a zone with: strongroom zone create; files in no zone, which are not encrypted, take plain_files = true in the settings of the metadata service"
    )]
    NoPlainFiles(ZonePath),
    /// A file in no zone, which was to get a DEK.
    #[error(
        "{0} is not encrypted, and has no DEK outside of encryption zones; make its directory one with: strongroom zone adopt"
    )]
    NoDek(ZonePath),
    /// A file that is not encrypted, in a zone whose files are.
    #[error(
        "{path} is not encrypted, and its zone {zone} takes every file in it for encrypted: there is a defect in the metadata store, and it is not read; have a superuser open the adoption of the zone again, strongroom fsck --repair, and then encrypt it: strongroom zone adopt {zone}"
    )]
    PlainInZone {
        /// The file.
        path: ZonePath,
        /// The zone's root.
        zone: ZonePath,
    },
    /// A file that a zone is to encrypt before it is written.
    #[error(
        "{path} is not encrypted yet, and its zone {zone} is about to have it encrypted: it can be read, and written once that is done; go on with it: strongroom zone adopt {zone}"
    )]
    NotAdopted {
        /// The file.
        path: ZonePath,
        /// The zone's root.
        zone: ZonePath,
    },
    /// More of a file that a zone is to encrypt, from somebody who began before.
    #[error(
        "{path} came to be in the encryption zone {zone} while it was written, and is not encrypted yet, so that no more is added to it as it is; what was shown of it stays; append the rest once it is encrypted: strongroom zone adopt {zone}"
    )]
    WrittenPlain {
        /// The file.
        path: ZonePath,
        /// The zone's root.
        zone: ZonePath,
    },
    /// Files keep a zone from being proved to use a key in a certain way.
    #[error(
        "zone {zone} is adopting what its directory held: at least {left} files of it are not encrypted yet, and no proof is given before they are; go on with it: strongroom zone adopt PATH"
    )]
    ZoneAdopting {
        /// The zone's path or id.
        zone: String,
        /// Files that are known not to be encrypted.
        left: u64,
    },
    /// Adoption of a directory in a zone.
    #[error(
        "{path} is in the encryption zone {zone}, whose files are encrypted; to put files under another key, move them to a zone of it: strongroom fs mv --transfer"
    )]
    AdoptedAlready {
        /// The directory.
        path: ZonePath,
        /// The zone's root.
        zone: ZonePath,
    },
    /// A path that is not the root of a zone.
    #[error("{path} is not the root of an encryption zone{}", inside(.zone.as_ref()))]
    NotZoneRoot {
        /// The path.
        path: ZonePath,
        /// The zone it is in.
        zone: Option<ZonePath>,
    },
    /// What was to be removed cannot be moved into the trash.
    #[error(
        "{path} cannot be moved into the trash: {why}; to remove it for good: strongroom fs rm {flag}--skip-trash {path}"
    )]
    NoTrash {
        /// What was to be removed.
        path: ZonePath,
        /// `-r ` if that takes it.
        flag: &'static str,
        /// The kind of what is in the way.
        reason: Reason,
        /// What is in the way.
        why: String,
    },
    /// Somebody else has a directory where a user's trash would be.
    #[error("{path} belongs to {owner}; a superuser can remove it")]
    ForeignTrash {
        /// Where the trash would be.
        path: ZonePath,
        /// Whose it is.
        owner: String,
    },
    /// Zone creation without a key.
    #[error("must specify a key name when creating an encryption zone; make a key with: strongroom key create")]
    NoKeyGiven,
    /// Zone creation with a data suite that the key is not for.
    #[error(
        "files of suite {suite} need EDEKs of suite {}, and key {key} makes EDEKs of suite {edeks}; take suite {} or a key made with: strongroom key create --suite {}",
        EdekSuite::Hadoop,
        DataSuite::Gcm,
        EdekSuite::Hadoop
    )]
    SuiteOfKey {
        /// The suite asked for.
        suite: DataSuite,
        /// The key.
        key: KeyName,
        /// Its suite.
        edeks: EdekSuite,
    },
    /// Zone creation on a file.
    #[error("attempt to create an encryption zone for a file: {0}; give a directory")]
    ZoneOnFile(ZonePath),
    /// Zone creation on a zone.
    #[error("directory {0} is already an encryption zone")]
    AlreadyZone(ZonePath),
    /// Adoption of a directory in which somebody's trash is.
    #[error(
        "{0} holds something named .Trash, which would become the trash of everybody in the zone; move it elsewhere or remove it first, with: strongroom fs rm -r --skip-trash"
    )]
    TrashInTheWay(ZonePath),
    /// Zone creation on a directory that holds something.
    #[error("attempt to create an encryption zone for a non-empty directory: {0}; make a new, empty directory")]
    ZoneNotEmpty(ZonePath),
    /// A file is not being written by the caller.
    #[error("file {file} is not being written by user {user} any more: {why}; write it again")]
    LeaseLost {
        /// The file.
        file: FileId,
        /// The caller.
        user: UserName,
        /// What became of it.
        why: &'static str,
    },
    /// A file is being written by somebody else.
    #[error(
        "user {writer} has {path} open to write it, for {left_s} s more unless they renew; if they are gone, take it from them, and what they have not published with it: strongroom fs recover {path}"
    )]
    LeaseHeld {
        /// The file.
        path: ZonePath,
        /// Who writes it.
        writer: String,
        /// Until the lease ends, in seconds.
        left_s: u64,
    },
    /// A file is not what it was when its rewriting began.
    #[error("{0} was changed while it was rewritten, and stays as it was changed; rewrite it again")]
    Changed(ZonePath),
    /// What the client says of a file does not fit what is recorded.
    #[error("file {file}: {rule}")]
    Manifest {
        /// The file.
        file: FileId,
        /// What does not fit.
        rule: String,
    },
    /// Too few healthy block nodes.
    #[error("{healthy} of {known} block nodes are healthy, at least {needed} are needed; see: strongroom status")]
    TooFewNodes {
        /// Nodes that may take blocks.
        healthy: usize,
        /// Nodes that ever reported.
        known: usize,
        /// The least for a write.
        needed: u32,
    },
    /// Files keep a zone from being proved free of old key versions.
    #[error(
        "{files} files of zone {zone} use version {through} or older of key {key}, {open} of them being written; re-wrap them with: strongroom zone reencrypt PATH --wait, and have the proof made again"
    )]
    ZoneUsesVersion {
        /// The zone's path or id.
        zone: String,
        /// Its key.
        key: KeyName,
        /// The version asked about.
        through: KeyVersion,
        /// Files in the way.
        files: u64,
        /// Of the first thousand of them, those that are being written.
        open: usize,
    },
    /// Files of a removed zone keep it from being proved free of old key versions.
    #[error(
        "{files} files that use version {through} or older of key {key} are still being cleared away with zone {zone}, which was removed; see how far that is, and what holds it up, with: strongroom job list, and have the proof made again"
    )]
    ZoneBeingRemoved {
        /// The zone's id.
        zone: String,
        /// Its key.
        key: KeyName,
        /// The version asked about.
        through: KeyVersion,
        /// Files in the way.
        files: u64,
    },
    /// The key service re-wraps under a version older than it made EDEKs under before.
    #[error(
        "the key service re-wraps EDEKs of zone {zone} under version {answered} of its key, but had version {target} when the re-encryption began; see that every instance of it has all versions: strongroom key versions"
    )]
    OlderVersion {
        /// The zone's path when the re-encryption was asked for.
        zone: String,
        /// What it answers with.
        answered: KeyVersion,
        /// What it had.
        target: KeyVersion,
    },
    /// A proof is asked about the version that new files get.
    #[error(
        "version {newest} is the newest of key {key}, which new files of zone {zone} get; roll it first with: strongroom key roll {key}"
    )]
    NewestVersion {
        /// The zone's path or id.
        zone: String,
        /// Its key.
        key: KeyName,
        /// Its newest version.
        newest: KeyVersion,
    },
    /// The place moved on, to newer key versions or another zone, faster than EDEKs for it could be had.
    #[error(
        "the place for the file was given another zone, or a newer key version, at each of {tries} tries to fetch an EDEK for it; it now takes key version {needed} and later; try again"
    )]
    StaleEdek {
        /// How often that was tried.
        tries: usize,
        /// The least version.
        needed: KeyVersion,
    },
}

fn measured(measure: Measure, limit: u64) -> String {
    match measure {
        Measure::Names => format!("{limit} files and directories, itself included"),
        Measure::Bytes => format!("{limit} bytes"),
    }
}

/// How else to move something.
fn way_across(from: &ZonePath, to: Option<&ZonePath>) -> String {
    to.map_or_else(
        || "copy it instead, with strongroom fs get and put, and remove the original".to_owned(),
        |to| {
            format!(
                "with the right to unwrap with the one zone's key and to mint with the other's, move it with: strongroom fs mv --transfer {from} {to}; or copy it, with strongroom fs get and put"
            )
        },
    )
}

fn inside(zone: Option<&ZonePath>) -> String {
    zone.map_or_else(
        || "; list zones with: strongroom zone list".to_owned(),
        |zone| format!("; it is in the zone {zone}"),
    )
}

impl MetadataError {
    /// The word for programs.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Parse(_) | Self::Field { .. } | Self::Root(_) | Self::NoKeyGiven => Reason::InvalidArgument,
            Self::Manifest { .. } | Self::SuiteOfKey { .. } => Reason::InvalidArgument,
            Self::RemovalGoesOn(_) | Self::TransferGoesOn(_) => Reason::InvalidArgument,
            Self::Store(error) => store_reason(error),
            Self::Corrupt { .. } => Reason::StoreFailed,
            Self::Remote(failure) => failure.reason,
            Self::NoTrash { reason, .. } => *reason,
            Self::ForeignTrash { .. } => Reason::PermissionDenied,
            Self::Denied { .. } | Self::Forbidden(_) | Self::Reserved(_) => Reason::PermissionDenied,
            Self::NotFound(_)
            | Self::NoSuchXattr { .. }
            | Self::NoSuchFile(_)
            | Self::NoSuchJob(_)
            | Self::Replaced(_) => Reason::NotFound,
            Self::Exists(_) => Reason::AlreadyExists,
            Self::NotADirectory(_) | Self::ZoneOnFile(_) => Reason::NotADirectory,
            Self::IsADirectory(_) => Reason::IsADirectory,
            Self::NotEmpty(_) | Self::ZoneNotEmpty(_) | Self::TrashInTheWay(_) => Reason::NotEmpty,
            Self::InvalidMove { .. } | Self::TooDeep(_) | Self::Transfer { .. } => Reason::InvalidMove,
            Self::Moving { .. } | Self::TransferStopped { .. } | Self::ZoneGone(_) => Reason::InvalidMove,
            Self::CrossZone { .. } => Reason::CrossZone,
            Self::QuotaExceeded { .. } | Self::TooManyOpenFiles { .. } => Reason::QuotaExceeded,
            Self::TooManyToCount { .. } | Self::TooLongToCount(_) | Self::TooLongToCheck(_) => Reason::InvalidMove,
            Self::NotInZone(_) | Self::NoPlainFiles(_) | Self::NotZoneRoot { .. } => Reason::NotInZone,
            Self::NotAdopted { .. } | Self::WrittenPlain { .. } | Self::PlainInZone { .. } | Self::NoDek(_) => {
                Reason::NotEncrypted
            }
            Self::AlreadyZone(_) | Self::AdoptedAlready { .. } => Reason::AlreadyZone,
            Self::LeaseLost { .. } => Reason::LeaseLost,
            Self::LeaseHeld { .. } => Reason::LeaseHeld,
            Self::ZoneUsesVersion { .. } | Self::ZoneBeingRemoved { .. } | Self::NewestVersion { .. } => {
                Reason::KeyInUse
            }
            Self::ZoneAdopting { .. } => Reason::KeyInUse,
            Self::OlderVersion { .. } => Reason::KeyVersionUnusable,
            Self::Changed(_) | Self::MovedOn(_) | Self::ReplacedMeanwhile(_) | Self::QuotaTakenAway(_) => {
                Reason::FileChanged
            }
            Self::JobHeld { .. } => Reason::JobHeld,
            Self::JobLost(_) | Self::JobStopped(_) => Reason::JobStopped,
            Self::TooFewNodes { .. } => Reason::TooFewNodes,
            Self::StaleEdek { .. } | Self::TooManyWalks(_) => Reason::Overloaded,
        }
    }
}

const fn store_reason(error: &StoreError) -> Reason {
    match error {
        StoreError::Full { .. } | StoreError::DatabaseFull { .. } => Reason::NoSpace,
        // Whoever asks again with the same id of its request is answered rightly, whatever became of the first one.
        StoreError::Unreachable { .. } | StoreError::OutcomeUnknown { .. } => Reason::Unavailable,
        StoreError::Overloaded { .. } | StoreError::Contended { .. } => Reason::Overloaded,
        _ => Reason::StoreFailed,
    }
}

impl From<MetadataError> for Failure {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Remote(failure) => failure,
            other => Self::new(other.reason(), other.to_string()),
        }
    }
}

impl From<MetadataError> for tonic::Status {
    fn from(error: MetadataError) -> Self {
        if let MetadataError::Store(store) = &error {
            tracing::error!(error = %chain(store), "the store failed");
        }
        Failure::from(error).into()
    }
}

/// An error and all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
