//! The namespace as clients meet it: operations a second over gRPC and mutual TLS, each durable before it is answered, on both
//! engines. The limit is the engine alone: durable commits of as many rows as a created file has, in this process on the same disk.
//! Files are empty, so that no block is in the way; whoever makes one gets an EDEK that the token made.

mod cases;
mod limit;
mod load;
mod many;
mod site;
mod watch;

pub(crate) use cases::{are_engines, run};
