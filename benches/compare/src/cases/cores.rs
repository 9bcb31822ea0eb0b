//! AES-CTR of a large buffer on all cores, up to four, against one.

use std::{hint::black_box, num::NonZeroUsize, thread};

use strongroom_dataplane::{Ctr, CtrKey};

use super::{Case, KEY_256, aligned, pattern};
use crate::{limit, measure::Contestant, peers::IV};

const CORES_MAX: usize = 4;

pub(super) fn cases() -> Vec<Case> {
    let sizes = [(64 << 20, "64MiB"), (256 << 20, "256MiB")];
    let case = |(bytes, size)| Case::new(format!("ctr-cores/aes256/{size}"), bytes, move || contestants(bytes));
    sizes.map(case).into()
}

fn contestants(bytes: usize) -> Vec<Contestant> {
    let cores = thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(at_most()));
    verify(bytes, cores);
    vec![
        Contestant::own("all", on_cores(bytes, cores)),
        Contestant::other("one-core", on_cores(bytes, NonZeroUsize::MIN)),
        limit::memory_contestant(bytes, false),
    ]
}

fn at_most() -> NonZeroUsize {
    NonZeroUsize::new(CORES_MAX).expect("not 0")
}

fn on_cores(bytes: usize, cores: NonZeroUsize) -> impl FnMut(usize) {
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
fn verify(bytes: usize, cores: NonZeroUsize) {
    let (mut one, mut all) = (pattern(bytes), pattern(bytes));
    ctr().apply(0, &mut one).expect("a position");
    ctr().apply_on_cores(0, &mut all, cores).expect("a position");
    assert!(one == all, "{cores} cores");
}
