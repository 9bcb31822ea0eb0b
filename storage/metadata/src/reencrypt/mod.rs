//! Re-encryption of a zone, as a job: every file's EDEK re-wrapped under the newest key version. Blocks are not touched.
//!
//! The index by key version is the work list: pages of stale entries are re-wrapped by the key service and
//! swapped in, file by file, if the file still has the EDEK that was sent. A cursor in the job says where the
//! pass is, so that a restart resumes it and a file that fails is met once.

pub(crate) mod job;
mod rewrap;
pub(crate) mod swap;
pub(crate) mod worker;
