//! Journeys across real processes: `strongroom dev` with its key service, metadata service and block nodes, used
//! through the command line and the client library, and hurt in every way that the fixtures know.

mod adopt;
mod blocks;
#[path = "../../../storage/kv/tests/cluster/mod.rs"]
mod cluster;
mod commands;
mod crash;
mod dev;
mod files;
mod fsck;
mod growing;
mod hdfs_table;
mod instances;
mod key_life;
mod keys;
mod logs;
mod metadata_instances;
mod monitoring;
mod namespace;
mod raw;
mod raw_trees;
mod reencryption;
mod refusals;
mod rewriting;
mod sealed;
mod tokens;
mod transfers;
mod trash;
