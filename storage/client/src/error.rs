use std::fmt;

use strongroom_dataplane::{ExtentKeyError, GeometryError, ManifestError, SealError};
use strongroom_proto::{
    BlockId, Edek, Failure, JobId, NodeId, ParseError, Reason, ZonePath, limits::EXTENTS_PER_FILE_MAX, transport::Role,
};

use crate::RawError;

/// Why a filesystem call failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A service refused the call or could not be reached.
    #[error(transparent)]
    Remote(#[from] Failure),
    /// A service's answer breaks the contract.
    #[error("the {service} service answered with what this client cannot read; use the same version on both sides")]
    Answer {
        /// Who answered.
        service: Role,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A service's answer contradicts itself or the call.
    #[error("the {service} service's answer is wrong: {what}")]
    Contradiction {
        /// Who answered.
        service: Role,
        /// What does not agree.
        what: &'static str,
    },
    /// The file's DEK was not handed out.
    #[error("cannot get the key of {path} (EZ key {}@{}, zone {}): {failure}", edek.key, edek.version, edek.zone)]
    Unwrap {
        /// The file.
        path: ZonePath,
        /// Its EDEK.
        edek: Box<Edek>,
        /// What the key service said.
        #[source]
        failure: Failure,
    },
    /// The file is not encrypted, where this client may have to do with such a file nowhere or elsewhere.
    #[error(
        "{path} is not encrypted, by the word of the metadata service: it is in no encryption zone, or its zone has not come to it; whoever can change what that service says could have plaintext written here, or forged files read. If {path} is meant to be so, list its directory in the profile: plain = [\"/DIRECTORY\"]"
    )]
    Plain {
        /// The file.
        path: ZonePath,
    },
    /// The file's list of extents is not the one that its writer authenticated.
    #[error("{path} was tampered with or its EDEK is another file's: {source}")]
    Manifest {
        /// The file.
        path: ZonePath,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The file's length is not that of its extents.
    #[error("{path} was tampered with: its length is given as {given} bytes, its extents have {length}")]
    Length {
        /// The file.
        path: ZonePath,
        /// The metadata service's word.
        given: u64,
        /// Bytes that the manifest proves.
        length: u64,
    },
    /// No replica of a block can be read.
    #[error("block {block} of {path} {}: {}", unreadable(troubles), Troubles(troubles))]
    BlockUnreadable {
        /// The file.
        path: ZonePath,
        /// The block.
        block: BlockId,
        /// What each node answered last.
        troubles: Vec<NodeTrouble>,
    },
    /// A block is not in the file any more.
    #[error("{path} was cut short or changed while it was read; open it again")]
    CutShort {
        /// The file.
        path: ZonePath,
    },
    /// Not enough nodes made a block durable.
    #[error(
        "block {block} of {path} is on {stored} nodes where {wanted} are needed: {}",
        Troubles(troubles)
    )]
    TooFewNodes {
        /// The file.
        path: ZonePath,
        /// The block.
        block: BlockId,
        /// Nodes that have it.
        stored: usize,
        /// The least that must.
        wanted: usize,
        /// What the others answered last.
        troubles: Vec<NodeTrouble>,
    },
    /// The cluster's frames or blocks are not of a size that this client knows, or a file is too long.
    #[error("{path} does not fit the data format: {source}")]
    Geometry {
        /// The file.
        path: ZonePath,
        /// What does not fit.
        #[source]
        source: GeometryError,
    },
    /// A piece of a file has no key.
    #[error("{path} has no key for one of its extents: {source}")]
    ExtentKey {
        /// The file.
        path: ZonePath,
        /// Why.
        #[source]
        source: ExtentKeyError,
    },
    /// A block could not be sealed.
    #[error("{path} cannot be encrypted: {source}")]
    Seal {
        /// The file.
        path: ZonePath,
        /// Why.
        #[source]
        source: SealError,
    },
    /// A file has no byte at the position to go on from.
    #[error("{path} has {length} bytes, so that none can be cut off behind {from}; to lengthen it, append to it")]
    BehindTheEnd {
        /// The file.
        path: ZonePath,
        /// Where to go on.
        from: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// A file would have more pieces than it may.
    #[error(
        "{path} was flushed or appended to so often that it consists of {extents} extents, of which it may have {EXTENTS_PER_FILE_MAX}; close it, and put it in one with: strongroom fs compact {path}"
    )]
    TooManyExtents {
        /// The file.
        path: ZonePath,
        /// How many it has.
        extents: usize,
    },
    /// An earlier write to this file failed, and its error was returned then, or it was cancelled.
    #[error(
        "an earlier write to {path} failed or was cancelled, so that this writer cannot go on; open the file again"
    )]
    WriterFailed {
        /// The file.
        path: ZonePath,
    },
    /// What was written is shown, and nothing may follow.
    #[error(
        "what was flushed of {path} is there, and this writer may add no more: the file was taken from it, or is in a zone that encrypts it first, which strongroom zone info tells; open the file again then"
    )]
    WriterLetGo {
        /// The file.
        path: ZonePath,
    },
    /// Files of a directory cannot be moved to another zone.
    #[error(
        "{files} files cannot be moved to the other zone: {failure}; nothing has moved. Move them away and go on with the same command, or cancel it with: strongroom job cancel {job}"
    )]
    Transfer {
        /// How many.
        files: u64,
        /// The move.
        job: JobId,
        /// Why one of them cannot.
        #[source]
        failure: Failure,
    },
    /// New files came to a directory faster than they could be made ready to move.
    #[error(
        "files keep coming to the directory, so that it did not move; go on with the same command when there are fewer, or cancel it with: strongroom job cancel {job}"
    )]
    NeverStill {
        /// The move.
        job: JobId,
    },
    /// Ciphertext that is not what it should be.
    #[error("{path}: {source}")]
    Raw {
        /// The file.
        path: ZonePath,
        /// What is wrong.
        #[source]
        source: RawError,
    },
    /// The system has no random numbers, or a task was lost.
    #[error("this machine's {what} failed")]
    Machine {
        /// What failed.
        what: &'static str,
    },
}

/// What one block node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTrouble {
    /// The node.
    pub node: NodeId,
    /// Its failure, or what this client found wrong with its bytes.
    pub failure: Failure,
}

impl FsError {
    /// The reason in one word, for exit codes and `--json`.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Remote(failure) | Self::Unwrap { failure, .. } | Self::Transfer { failure, .. } => failure.reason,
            Self::NeverStill { .. }
            | Self::Raw {
                source: RawError::Restless,
                ..
            } => Reason::Overloaded,
            Self::Plain { .. } => Reason::NotEncrypted,
            Self::Manifest { .. } | Self::Length { .. } => Reason::ManifestInvalid,
            Self::CutShort { .. } => Reason::NotFound,
            Self::BlockUnreadable { troubles, .. } => unreadable_reason(troubles),
            Self::TooFewNodes { troubles, .. } => too_few_reason(troubles),
            Self::WriterFailed { .. } | Self::WriterLetGo { .. } => Reason::LeaseLost,
            Self::Raw { .. }
            | Self::Geometry { .. }
            | Self::ExtentKey { .. }
            | Self::Seal { .. }
            | Self::BehindTheEnd { .. }
            | Self::TooManyExtents { .. } => Reason::InvalidArgument,
            Self::Answer { .. } | Self::Contradiction { .. } | Self::Machine { .. } => Reason::Internal,
        }
    }

    /// For use with `map_err` where the metadata service's answer is parsed.
    pub(crate) fn metadata_answer(source: ParseError) -> Self {
        Self::Answer {
            service: Role::Metadata,
            source,
        }
    }

    pub(crate) const fn metadata_contradiction(what: &'static str) -> Self {
        Self::Contradiction {
            service: Role::Metadata,
            what,
        }
    }
}

/// A block is lost only if no node may still have it: one that cannot be reached might.
fn unreadable_reason(troubles: &[NodeTrouble]) -> Reason {
    match troubles.iter().find(|trouble| !is_loss(trouble.failure.reason)) {
        Some(trouble) => trouble.failure.reason,
        None => Reason::BlockCorrupt,
    }
}

fn unreadable(troubles: &[NodeTrouble]) -> &'static str {
    match unreadable_reason(troubles) {
        Reason::BlockCorrupt => "is corrupt or missing on every node",
        _ => "cannot be read from any node",
    }
}

const fn is_loss(reason: Reason) -> bool {
    matches!(reason, Reason::BlockCorrupt | Reason::BlockNotFound)
}

fn too_few_reason(troubles: &[NodeTrouble]) -> Reason {
    let all_full = !troubles.is_empty() && troubles.iter().all(|t| t.failure.reason == Reason::NoSpace);
    if all_full { Reason::NoSpace } else { Reason::TooFewNodes }
}

struct Troubles<'t>(&'t [NodeTrouble]);

impl fmt::Display for Troubles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no node is known to have it");
        }
        for (i, trouble) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", trouble.node, trouble.failure)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_lost_only_when_every_node_says_so() {
        let trouble = |reason| NodeTrouble {
            node: "node-1".parse().expect("valid"),
            failure: Failure::new(reason, "why"),
        };
        let reason = |reasons: &[Reason]| unreadable_reason(&reasons.iter().copied().map(trouble).collect::<Vec<_>>());
        assert_eq!(reason(&[]), Reason::BlockCorrupt);
        assert_eq!(
            reason(&[Reason::BlockCorrupt, Reason::BlockNotFound]),
            Reason::BlockCorrupt
        );
        assert_eq!(
            reason(&[Reason::BlockCorrupt, Reason::Unavailable]),
            Reason::Unavailable
        );
        let words = |reason| unreadable(&[trouble(Reason::BlockNotFound), trouble(reason)]);
        assert_eq!(words(Reason::BlockCorrupt), "is corrupt or missing on every node");
        assert_eq!(words(Reason::Unavailable), "cannot be read from any node");
        assert_eq!(too_few_reason(&[trouble(Reason::NoSpace)]), Reason::NoSpace);
        assert_eq!(
            too_few_reason(&[trouble(Reason::NoSpace), trouble(Reason::Unavailable)]),
            Reason::TooFewNodes
        );
    }
}
