//! Several tokens used as one, on real SoftHSM2 tokens.

#[path = "../../../storage/kv/tests/cluster/mod.rs"]
mod cluster;
mod failover;
#[path = "../token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod import;
mod instances;
mod judged;
mod keys;
mod lapsed;
mod linking;
mod measured;
mod operator;
mod pair;
mod planted;
mod refill;
mod repair;
mod replicated;
mod requests;
mod sealed;
#[path = "../support/sealed_user.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of what they share"
)]
mod sealed_user;
#[path = "../support/mod.rs"]
mod support;
mod theft;
#[path = "../token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;
mod wrong;
