//! A large buffer on all cores, up to four, against one: AES-CTR, and authenticated frames.

use std::{cell::RefCell, hint::black_box, num::NonZeroUsize, rc::Rc, thread};

use strongroom_dataplane::{Ctr, CtrKey, DataKey, ExtentKey, Geometry};

use super::{BLOCK, Case, KEY_256, aligned, pattern};
use crate::{limit, measure::Contestant, peers::IV};

const CORES_MAX: usize = 4;
const ONE: NonZeroUsize = NonZeroUsize::MIN;
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
    all.into_iter().flatten().collect()
}

fn all_cores() -> NonZeroUsize {
    let most = NonZeroUsize::new(CORES_MAX).expect("not 0");
    thread::available_parallelism().map_or(ONE, |cores| cores.min(most))
}

fn ctr_contestants(bytes: usize) -> Vec<Contestant> {
    verify_ctr(bytes);
    vec![
        Contestant::own("all", ctr_on(bytes, all_cores())),
        Contestant::other("one-core", ctr_on(bytes, ONE)),
        limit::memory_contestant(bytes, false),
    ]
}

fn ctr_on(bytes: usize, cores: NonZeroUsize) -> impl FnMut(usize) {
    let (ctr, mut buffer) = (ctr(), aligned(bytes));
    move |count| {
        for _ in 0..count {
            ctr.apply_on_cores(0, black_box(&mut buffer), cores)
                .expect("a position");
        }
    }
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
    let (mut one, mut all) = (pattern(sealed_bytes(bytes)), pattern(sealed_bytes(bytes)));
    assert_eq!(seal_on(&mut one, ONE), seal_on(&mut all, all_cores()), "checksums");
    assert!(one == all, "several cores");
    let buffer = Rc::new(RefCell::new(all));
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
        limit::memory_contestant(bytes, false),
    ]
}

fn opening(bytes: usize) -> Vec<Contestant> {
    let mut sealed = vec![0x5a; sealed_bytes(bytes)];
    seal_on(&mut sealed, all_cores());
    let buffers = Rc::new((sealed, RefCell::new(vec![0; bytes])));
    let open = |cores| {
        let buffers = Rc::clone(&buffers);
        move |count| {
            for _ in 0..count {
                let (key, out) = (key(), &mut buffers.1.borrow_mut());
                key.open_frames_on_cores(bytes as u64, 0, &buffers.0, out, cores)
                    .expect("what was sealed opens");
            }
        }
    };
    vec![
        Contestant::own("all", open(all_cores())),
        Contestant::other("one-core", open(ONE)),
        limit::memory_contestant(bytes, true),
    ]
}

fn key() -> ExtentKey {
    let geometry = Geometry::new(64 << 10, BLOCK).expect("a valid geometry");
    let dek = KEY_256.try_into().expect("32 bytes");
    ExtentKey::derive(&DataKey::new(dek), &[1; 16], &[2; 16], geometry)
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
