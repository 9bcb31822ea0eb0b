//! The key service in this process, over a stand-in for the token, through its gRPC face. One program, since each that is linked with the
//! service costs its build again; those that need a process of their own, or a real token, have theirs beside it.

mod audit;
mod audit_properties;
mod bearer;
mod begun;
#[path = "../../../storage/kv/tests/cluster/mod.rs"]
mod cluster;
mod comparing;
mod given_up;
mod hadoop_acls;
mod keys;
mod lifecycle;
mod monitoring;
mod policy;
mod policy_properties;
#[path = "../support/seed.rs"]
mod seed;
#[path = "../support/mod.rs"]
mod support;
