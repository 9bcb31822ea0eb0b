//! The metadata service through its gRPC faces, over a store of the engine that `STRONGROOM_TEST_STORE` names, with a stand-in for the key
//! service. One program, since each that is linked with the service costs its build again.

#[path = "../fixture/mod.rs"]
mod fixture;

mod acls;
mod adopt;
mod adopt_races;
mod export;
mod expunge;
mod files;
mod fsck;
mod growing;
mod guards;
mod index;
mod instances;
mod inventory;
mod jobs;
mod limits;
mod namespace;
mod permissions;
mod plain;
mod proof;
mod quotas;
mod raw;
mod reencryption;
mod removal;
mod repair;
mod rewriting;
mod rewriting_jobs;
mod role;
mod suites;
mod transfer;
mod trash;
mod turns;
mod xattrs;
mod zones;
