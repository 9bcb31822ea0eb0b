//! The machine under a simulated run: its random numbers come from the seed and its clocks from the simulation.
//!
//! Not only our code asks the system for the time and for random numbers: the standard library seeds its hash maps, Tokio
//! the order in which `select!` looks at its branches, `uuid` makes ids, rustls looks at dates. An argument to our own
//! functions would reach none of them. So this executable has the two functions of the C library that all of them end in,
//! and the linker takes these before the library's. Nothing else than this executable has them.
//!
//! AWS-LC asks the kernel by itself: salts, TLS randoms and signatures differ between two runs of a seed, and nothing that
//! a run decides or records depends on them.
#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use strongroom_proto::Clock;

/// When every run begins, in seconds since the Unix epoch: in November 2026.
const EPOCH_S: u64 = 1_795_000_000;
/// What the clocks that only go forward show at the beginning.
const UPTIME_S: u64 = 1_000;
const REALTIME: i32 = 0;

static STREAM: AtomicU64 = AtomicU64::new(0);
static ELAPSED_NS: AtomicU64 = AtomicU64::new(0);

/// Begins a run: to be called once, before anything asks for a random number.
pub(crate) fn begin(seed: u64) {
    STREAM.store(seed, Ordering::Relaxed);
}

/// The time that the run has come to.
pub(crate) fn set_elapsed(elapsed: Duration) {
    let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    ELAPSED_NS.store(ns, Ordering::Relaxed);
}

/// How far the run has come.
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(ELAPSED_NS.load(Ordering::Relaxed))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    EPOCH_S * 1000 + ELAPSED_NS.load(Ordering::Relaxed) / 1_000_000
}

/// The services' clock.
pub(crate) fn clock() -> Clock {
    Clock::of(now_ms, || Duration::from_secs(UPTIME_S) + elapsed())
}

/// The next random number of the run (SplitMix64, Steele and others 2014).
pub(crate) fn random() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = STREAM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `struct timespec` of 64-bit Linux.
#[repr(C)]
pub(crate) struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// The C library's function of that name (getrandom(2)).
// SAFETY: no other code in this executable exports the name; the library's function of the same signature gives way.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        // SAFETY: the caller gives `length` writable bytes at `buffer`, as for the library's function.
        let byte = unsafe { buffer.add(at) };
        // SAFETY: `byte` is one of them.
        unsafe { byte.write((random() >> 32) as u8) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// The C library's function of that name (clock_gettime(2)).
// SAFETY: as for `getrandom`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let ns = ELAPSED_NS.load(Ordering::Relaxed);
    let start_s = if clock == REALTIME { EPOCH_S } else { UPTIME_S };
    let seconds = i64::try_from(start_s + ns / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(ns % 1_000_000_000).unwrap_or(0);
    // SAFETY: the caller gives a writable `struct timespec`, as for the library's function.
    unsafe { time.write(Timespec { seconds, nanoseconds }) };
    0
}
