//! All cores, up to four, against one: a large buffer by AES-CTR and as authenticated frames, and AES-CTR of a small buffer on
//! each.

use std::{
    cell::RefCell,
    hint::black_box,
    num::NonZeroUsize,
    rc::Rc,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use strongroom_dataplane::{Ctr, CtrKey, DataKey, ExtentKey, Geometry, PooledBuffer, Seed, Suite};

use super::{BLOCK, Case, KEY_256, SharedBuffer, aligned, pattern, shared, with_tag_room};
use crate::{limit, measure::Contestant, peers::IV};

const CORES_MAX: usize = 4;
const ONE: NonZeroUsize = NonZeroUsize::MIN;
/// What each core has in the case of small buffers: it fits in the cache that a core has to itself.
const EACH: usize = 64 << 10;
/// How often a core goes through it in a repetition: so often that threads that begin a little apart do not matter.
const PASSES: usize = 1000;
const SIZES: [(usize, &str); 2] = [(64 << 20, "64MiB"), (256 << 20, "256MiB")];

pub(super) fn cases() -> Vec<Case> {
    let ctr = |(bytes, size)| {
        Case::new(format!("ctr-cores/aes256/{size}"), bytes, move || {
            ctr_contestants(bytes)
        })
    };
    let seal = |(bytes, size)| Case::new(format!("frames-cores/seal/{size}"), bytes, move || sealing(bytes));
    let open = |(bytes, size)| Case::new(format!("frames-cores/open/{size}"), bytes, move || opening(bytes));
    let all = [SIZES.map(ctr), SIZES.map(seal), SIZES.map(open)];
    let each = Case::new(
        "ctr-cores/aes256/64KiB-each".to_owned(),
        all_cores().get() * PASSES * EACH,
        small_contestants,
    );
    all.into_iter().flatten().chain([each]).collect()
}

fn all_cores() -> NonZeroUsize {
    let most = NonZeroUsize::new(CORES_MAX).expect("not 0");
    thread::available_parallelism().map_or(ONE, |cores| cores.min(most))
}

fn ctr_contestants(bytes: usize) -> Vec<Contestant> {
    verify_ctr(bytes);
    let buffer = shared(bytes);
    vec![
        Contestant::own("all", ctr_on(&buffer, all_cores())),
        Contestant::other("one-core", ctr_on(&buffer, ONE)),
        limit::memory_contestant(bytes, None, &buffer),
    ]
}

fn ctr_on(buffer: &SharedBuffer, cores: NonZeroUsize) -> impl FnMut(usize) + use<> {
    let (ctr, buffer) = (ctr(), Rc::clone(buffer));
    move |count| {
        for _ in 0..count {
            ctr.apply_on_cores(0, black_box(&mut buffer.borrow_mut()), cores)
                .expect("a position");
        }
    }
}

/// All do as much: what several cores share, one does alone.
fn small_contestants() -> Vec<Contestant> {
    let cores = all_cores().get();
    let mut buffers: Vec<PooledBuffer> = (0..cores).map(|_| aligned(EACH)).collect();
    verify_small(&mut buffers);
    let buffers = Rc::new(RefCell::new(buffers));
    let on = |cores: usize, passes: usize| {
        let (ctr, buffers) = (ctr(), Rc::clone(&buffers));
        move |count| pass_on_each(&ctr, &mut buffers.borrow_mut()[..cores], passes * count)
    };
    vec![
        Contestant::own_timing_itself("all", on(cores, PASSES)),
        Contestant::timing_itself("one-core", on(1, cores * PASSES)),
    ]
}

/// Goes through each buffer `passes` times, each in a thread of its own; how long it took from when the first began to when
/// the last was done.
fn pass_on_each(ctr: &Ctr, buffers: &mut [PooledBuffer], passes: usize) -> Duration {
    let ready = Barrier::new(buffers.len());
    let pass = |buffer: &mut [u8]| {
        ready.wait();
        let start = Instant::now();
        for _ in 0..passes {
            ctr.apply(0, black_box(buffer)).expect("a position");
        }
        (start, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let threads: Vec<_> = buffers.iter_mut().map(|buffer| scope.spawn(|| pass(buffer))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|times| times.expect("a position")).collect()
    });
    let start = times.iter().map(|(start, _)| *start).min().expect("a core");
    let end = times.iter().map(|(_, end)| *end).max().expect("a core");
    end - start
}

/// # Panics
/// If a thread gives other bytes than AES-CTR does here.
fn verify_small(buffers: &mut [PooledBuffer]) {
    let mut expected = buffers[0].to_vec();
    ctr().apply(0, &mut expected).expect("a position");
    pass_on_each(&ctr(), buffers, 1);
    assert!(
        buffers.iter().all(|buffer| **buffer == *expected),
        "a buffer on each core"
    );
}

fn ctr() -> Ctr {
    Ctr::new(CtrKey::try_from(KEY_256).expect("32 bytes"), &IV)
}

/// # Panics
/// If several cores give other bytes than one.
fn verify_ctr(bytes: usize) {
    let (mut one, mut all) = (pattern(bytes), pattern(bytes));
    ctr().apply(0, &mut one).expect("a position");
    ctr().apply_on_cores(0, &mut all, all_cores()).expect("a position");
    assert!(one == all, "several cores");
}

fn sealing(bytes: usize) -> Vec<Contestant> {
    let (mut one, buffer) = (pattern(sealed_bytes(bytes)), shared(sealed_bytes(bytes)));
    buffer.borrow_mut().copy_from_slice(&one);
    let sums = seal_on(&mut buffer.borrow_mut(), all_cores());
    assert_eq!(seal_on(&mut one, ONE), sums, "checksums");
    assert!(*one == **buffer.borrow(), "several cores");
    let seal = |cores| {
        let buffer = Rc::clone(&buffer);
        move |count| {
            for _ in 0..count {
                black_box(seal_on(&mut buffer.borrow_mut(), cores));
            }
        }
    };
    vec![
        Contestant::own("all", seal(all_cores())),
        Contestant::other("one-core", seal(ONE)),
        limit::memory_contestant(bytes, None, &buffer),
    ]
}

fn opening(bytes: usize) -> Vec<Contestant> {
    let (sealed, opened) = (shared(sealed_bytes(bytes)), shared(bytes));
    let plain = pattern(bytes);
    sealed
        .borrow_mut()
        .copy_from_slice(&with_tag_room(&plain, key().geometry()));
    seal_on(&mut sealed.borrow_mut(), all_cores());
    for cores in [ONE, all_cores()] {
        opened.borrow_mut().fill(0);
        open_on(&sealed.borrow(), &mut opened.borrow_mut(), cores);
        assert!(
            *plain == **opened.borrow(),
            "opened on {cores} cores to what was sealed"
        );
    }
    let open = |cores| {
        let (sealed, opened) = (Rc::clone(&sealed), Rc::clone(&opened));
        move |count| {
            for _ in 0..count {
                open_on(&sealed.borrow(), &mut opened.borrow_mut(), cores);
            }
        }
    };
    vec![
        Contestant::own("all", open(all_cores())),
        Contestant::other("one-core", open(ONE)),
        limit::memory_contestant(bytes, Some(&sealed), &opened),
    ]
}

fn open_on(sealed: &[u8], out: &mut [u8], cores: NonZeroUsize) {
    key()
        .open_frames_on_cores(out.len() as u64, 0, sealed, out, cores)
        .expect("what was sealed opens");
}

fn key() -> ExtentKey {
    let geometry = Geometry::new(Suite::Gcm, 64 << 10, BLOCK).expect("a valid geometry");
    let dek = KEY_256.try_into().expect("32 bytes");
    ExtentKey::derive(&DataKey::new(dek), &[1; 16], Seed::Salt([2; 16]), geometry).expect("a DEK and a salt")
}

fn sealed_bytes(bytes: usize) -> usize {
    let sealed = key().geometry().sealed_extent_bytes(bytes as u64);
    sealed.expect("short enough") as usize
}

/// Seals in place; gives the checksums of the blocks.
fn seal_on(blocks: &mut [u8], cores: NonZeroUsize) -> Vec<u32> {
    let key = key();
    let block = key.geometry().sealed_bytes(BLOCK) as usize;
    let mut sums = vec![0; blocks.len() / block];
    key.seal_blocks_on_cores(0, true, blocks, &mut sums, cores)
        .expect("whole blocks");
    sums
}
