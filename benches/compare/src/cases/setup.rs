//! What a key costs that is used once: its expansion, and that with a first message.

use std::hint::black_box;

use aes::{Aes128, Aes256, cipher::KeyInit};
use strongroom_dataplane::{Ctr, CtrKey};

use super::{Case, KEY_128, KEY_256};
use crate::{
    measure::Contestant,
    peers::{AwsLc, IV},
};

const FIRST: usize = 4 << 10;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, algorithm) in [(KEY_256, "ctr/aes256"), (KEY_128, "ctr/aes128")] {
        cases.push(Case::new(format!("{algorithm}/new-key"), 0, move || expansion(key)));
        cases.push(Case::new(format!("{algorithm}/new-key+4KiB"), FIRST, move || {
            first_message(key)
        }));
    }
    cases
}

fn expansion(key: &'static [u8]) -> Vec<Contestant> {
    vec![
        repeated(true, "best", move || drop(black_box(own(black_box(key))))),
        repeated(false, "aws-lc", move || _ = black_box(AwsLc::new(black_box(key)))),
        repeated(false, "rustcrypto", move || match key.len() {
            16 => _ = black_box(Aes128::new_from_slice(black_box(key))),
            _ => _ = black_box(Aes256::new_from_slice(black_box(key))),
        }),
    ]
}

fn first_message(key: &'static [u8]) -> Vec<Contestant> {
    let (mut ours, mut theirs) = (vec![0; FIRST], vec![0; FIRST]);
    own(key).apply(0, &mut ours).expect("a position");
    AwsLc::new(key).encrypt(&mut theirs);
    assert!(ours == theirs, "a first message");
    vec![
        repeated(true, "best", move || {
            own(black_box(key)).apply(0, black_box(&mut ours)).expect("a position")
        }),
        repeated(false, "aws-lc", move || {
            AwsLc::new(black_box(key)).encrypt(black_box(&mut theirs))
        }),
    ]
}

fn repeated(is_ours: bool, name: &'static str, mut work: impl FnMut() + 'static) -> Contestant {
    let run = move |count| (0..count).for_each(|_| work());
    if is_ours {
        Contestant::own(name, run)
    } else {
        Contestant::other(name, run)
    }
}

fn own(key: &[u8]) -> Ctr {
    Ctr::new(CtrKey::try_from(key).expect("16 or 32 bytes"), &IV)
}
