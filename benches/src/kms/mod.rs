//! What the key service makes of its token. The limit is a loop of the same PKCS#11 calls on the same token, in a process
//! of its own, run in turn with the service's load; client, service and token worker share the machine's processors with
//! nothing else.

mod cases;
mod load;
pub(crate) mod parts;
mod raw;
mod sealed;

pub(crate) use cases::{are_cases, run};
pub(crate) use parts::play_part;
