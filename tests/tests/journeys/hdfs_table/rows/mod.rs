//! The rows, in the order of `docs/hdfs-differences.md`.

mod commands;
mod cryptography;
mod defects;
mod elsewhere;
mod files;
mod raw;
mod reencryption;
mod rename;
mod stock;
mod trash;
mod zones;

use super::Topic;

pub(super) const TOPICS: &[Topic] = &[
    zones::TOPIC,
    rename::TOPIC,
    files::TOPIC,
    cryptography::TOPIC,
    stock::TOPIC,
    commands::TOPIC,
    reencryption::TOPIC,
    raw::TOPIC,
    trash::TOPIC,
    elsewhere::WEBHDFS,
    elsewhere::WIRE,
    elsewhere::S3,
    elsewhere::BDR,
    defects::TOPIC,
];
