//! Storage that lies, to see that the checks would find a service that does.

use clap::ValueEnum;

/// What is made to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// The database acknowledges commits that it forgets.
    LostCommits,
    /// The database shows a state that is over.
    StaleReads,
    /// The database commits what was decided on a state that is over.
    NoConflicts,
    /// Block nodes acknowledge blocks that they do not keep.
    LostBlocks,
}
