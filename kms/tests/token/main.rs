//! The token layer against a real token: every test has its own fresh token and its own worker process.

mod audit;
mod edeks;
mod faults;
mod fixture;
mod forgetting;
mod import;
mod keys;
mod many_keys;
mod own_ivs;
mod pins;
mod sealed;
mod sealed_suites;
mod start;
mod suites;
mod supervision;
mod transfer;
mod vendor;

#[path = "../support/pki.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of what they share"
)]
mod pki;
#[path = "../support/sealed_user.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of what they share"
)]
mod sealed_user;
