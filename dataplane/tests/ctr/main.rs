//! AES-CTR: vectors of NIST, every backend against the portable one and that one against a naive one, edges of buffers,
//! positions and counters.

#![allow(clippy::print_stdout, reason = "a process that a test starts says what it uses")]

mod backends;
mod bounds;
mod crosschecks;
mod naive;
mod pages;
#[path = "../seed/mod.rs"]
mod seed;
mod sums;
mod vectors;
