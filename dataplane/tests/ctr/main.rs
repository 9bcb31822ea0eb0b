//! AES-CTR: vectors of NIST, every backend against the portable one and that one against a naive one, edges of buffers,
//! positions and counters.

#![allow(clippy::print_stdout, reason = "tests print their seeds")]

mod backends;
mod bounds;
mod crosschecks;
mod naive;
mod pages;
#[path = "../seed/mod.rs"]
mod seed;
mod sums;
mod vectors;
