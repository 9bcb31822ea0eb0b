//! AES-CTR, in place and (`copy`) from one buffer to another.

use std::{hint::black_box, rc::Rc};

use super::{Case, KEY_128, KEY_256, SharedBuffer, pattern, shared};
use crate::{
    ipsec::Ipsec,
    limit,
    measure::Contestant,
    peers::{CtrCipher, IV, ctr_ciphers},
};

const SIZES: [(usize, &str); 6] = [
    (64, "64B"),
    (512, "512B"),
    (4 << 10, "4KiB"),
    (64 << 10, "64KiB"),
    (1 << 20, "1MiB"),
    (64 << 20, "64MiB"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, algorithm) in [(KEY_256, "ctr/aes256"), (KEY_128, "ctr/aes128")] {
        for (bytes, size) in SIZES {
            cases.push(Case::new(format!("{algorithm}/{size}"), bytes, move || {
                contestants(key, bytes, false)
            }));
            cases.push(Case::new(format!("{algorithm}/{size}/copy"), bytes, move || {
                contestants(key, bytes, true)
            }));
        }
    }
    cases
}

fn contestants(key: &'static [u8], bytes: usize, across: bool) -> Vec<Contestant> {
    let mut ciphers = ctr_ciphers(key);
    let expected = verify(&mut ciphers, bytes);
    let (from, to) = (across.then(|| shared(bytes)), shared(bytes));
    let mut contestants: Vec<Contestant> = ciphers
        .into_iter()
        .map(|cipher| contestant(cipher, from.as_ref(), &to))
        .collect();
    if let Some(mut ipsec) = Ipsec::start(key, &IV, bytes, across) {
        assert!(ipsec.show(bytes) == expected, "ipsec-mb is wrong at {bytes} bytes");
        contestants.push(Contestant::timing_itself("ipsec-mb", move |count| ipsec.run(count)));
    }
    contestants.push(limit::aes_contestant(key.len(), bytes));
    contestants.extend(limit::narrower_contestants(key.len(), bytes));
    contestants.push(limit::memory_contestant(bytes, from.as_ref(), &to));
    contestants
}

fn contestant(mut cipher: Box<dyn CtrCipher>, from: Option<&SharedBuffer>, to: &SharedBuffer) -> Contestant {
    let (name, is_ours) = (cipher.name(), cipher.is_ours());
    let (from, to) = (from.map(Rc::clone), Rc::clone(to));
    let run = move |count| match &from {
        Some(from) => cipher.across_times(black_box(&from.borrow()), &mut to.borrow_mut(), count),
        None => cipher.in_place_times(black_box(&mut to.borrow_mut()), count),
    };
    if is_ours {
        Contestant::own(name, run)
    } else {
        Contestant::other(name, run)
    }
}

/// The ciphertext of a pattern.
///
/// # Panics
/// If two implementations disagree.
fn verify(ciphers: &mut [Box<dyn CtrCipher>], bytes: usize) -> Vec<u8> {
    let plain = pattern(bytes);
    let mut expected = plain.clone();
    ciphers.last_mut().expect("there are peers").in_place(&mut expected);
    for cipher in ciphers {
        let mut own = plain.clone();
        cipher.in_place(&mut own);
        assert!(own == expected, "{} is wrong at {bytes} bytes in place", cipher.name());
        own.fill(0);
        cipher.across(&plain, &mut own);
        assert!(own == expected, "{} is wrong at {bytes} bytes", cipher.name());
    }
    expected
}
