//! AES-256-CTR of more than any cache holds; too long to be measured unless asked for.

use std::{hint::black_box, rc::Rc};

use strongroom_dataplane::{Ctr, CtrKey};

use super::{Case, KEY_256, SharedBuffer, shared};
use crate::{
    limit,
    measure::Contestant,
    peers::{AwsLc, CtrCipher, IV},
};

/// Pieces that ours writes through the cache: larger copies go around it.
const ORDINARY: usize = 8 << 20;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bytes, size) in [(64 << 20, "64MiB"), (1 << 30, "1GiB")] {
        let name = format!("ctr-large/aes256/{size}");
        cases.push(Case::on_request(name.clone(), bytes, move || in_place(bytes)));
        cases.push(Case::on_request(format!("{name}/copy"), bytes, move || across(bytes)));
    }
    cases
}

fn in_place(bytes: usize) -> Vec<Contestant> {
    let buffer = shared(bytes);
    verify(&mut buffer.borrow_mut());
    let memory = limit::memory_contestant(bytes, None, &buffer);
    let (own, theirs) = (Rc::clone(&buffer), buffer);
    let (ctr, aws_lc) = (ctr(), AwsLc::new(KEY_256));
    vec![
        Contestant::own("best", move |count| {
            for _ in 0..count {
                ctr.apply(0, black_box(&mut own.borrow_mut())).expect("a position");
            }
        }),
        Contestant::other("aws-lc", move |count| {
            (0..count).for_each(|_| aws_lc.encrypt(black_box(&mut theirs.borrow_mut())));
        }),
        limit::aes_contestant(KEY_256.len(), bytes),
        memory,
    ]
}

fn across(bytes: usize) -> Vec<Contestant> {
    let (from, to) = (shared(bytes), shared(bytes));
    let (one, pieces, mut aws_lc) = (ctr(), ctr(), AwsLc::new(KEY_256));
    vec![
        copier("best", true, (&from, &to), move |from, to| {
            one.apply_to(0, from, to).expect("a position");
        }),
        copier("ordinary-stores", false, (&from, &to), move |from, to| {
            for (piece, (from, to)) in from.chunks(ORDINARY).zip(to.chunks_mut(ORDINARY)).enumerate() {
                pieces
                    .apply_to((piece * ORDINARY) as u64, from, to)
                    .expect("a position");
            }
        }),
        copier("aws-lc", false, (&from, &to), move |from, to| aws_lc.across(from, to)),
        limit::aes_contestant(KEY_256.len(), bytes),
        limit::memory_contestant(bytes, Some(&from), &to),
    ]
}

fn copier(
    name: &'static str,
    is_ours: bool,
    (from, to): (&SharedBuffer, &SharedBuffer),
    mut copy: impl FnMut(&[u8], &mut [u8]) + 'static,
) -> Contestant {
    copy(&from.borrow(), &mut to.borrow_mut());
    verify_copy(name, &from.borrow(), &mut to.borrow_mut());
    let (from, to) = (Rc::clone(from), Rc::clone(to));
    let run = move |count| {
        for _ in 0..count {
            copy(black_box(&from.borrow()), &mut to.borrow_mut());
        }
    };
    if is_ours {
        Contestant::own(name, run)
    } else {
        Contestant::other(name, run)
    }
}

fn ctr() -> Ctr {
    Ctr::new(CtrKey::try_from(KEY_256).expect("32 bytes"), &IV)
}

/// # Panics
/// If a copy is not undone where it lies: ours by AWS-LC, theirs by ours.
fn verify_copy(name: &str, from: &[u8], to: &mut [u8]) {
    match name {
        "aws-lc" => ctr().apply(0, to).expect("a position"),
        _ => AwsLc::new(KEY_256).encrypt(to),
    }
    assert!(from == to, "{name}: back to what it was");
}

/// # Panics
/// If AWS-LC does not undo what ours did.
fn verify(buffer: &mut [u8]) {
    let first = buffer[0];
    ctr().apply(0, buffer).expect("a position");
    AwsLc::new(KEY_256).encrypt(buffer);
    assert!(buffer.iter().all(|byte| *byte == first), "back to what it was");
}
