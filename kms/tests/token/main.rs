//! The token layer against SoftHSM2: every test has its own fresh token and its own worker process.

mod edeks;
mod faults;
mod fixture;
mod keys;
mod pins;
mod start;
mod suites;
mod supervision;
mod throughput;
