//! What keeps secrets in memory from reaching a disk.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Lets this process and its children leave no core dump: it would hold DEKs or the PIN. Where the system refuses, the
/// process goes on and says so.
pub(crate) fn forbid_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core dump with secrets in it");
    }
}
