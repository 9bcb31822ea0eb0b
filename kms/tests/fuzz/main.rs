//! Whatever bytes arrive in the place of an EDEK or of a signed request, they end in a value or an error, never in a panic, a
//! lost worker or a DEK that they do not hold.
//!
//! For stable Rust and without further crates: loops of mutations that know the structure of what they mutate, over a corpus
//! that keeps an input when it is the first with its outcome (`corpus`). Which branches an input takes is not measured, so this
//! is *not* coverage guided: an outcome that two branches share is one to it. `FUZZ_SECONDS` says how long (1 if unset; all
//! of them together, on two cores), `FUZZ_SEED` repeats a run, `FUZZ_KEEP` names a file that what was kept is appended to, to be taken
//! over into `corpus.txt`.

mod corpus;
mod edek;
mod mutate;
mod signed;
mod token;

#[path = "../token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
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
#[path = "../token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;
