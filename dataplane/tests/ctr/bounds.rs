//! Sizes, positions and lengths at their limits.

use strongroom_dataplane::{BACKEND_VARIABLE, Ctr, CtrError};

use crate::naive::{backends, ctr, keys, keystream};

const IV: u128 = 0xffee_ddcc_bbaa_9988_7766_5544_3322_1100;

#[test]
fn nothing_and_one_byte() {
    for key in keys() {
        for backend in backends() {
            let ctr = ctr(key, IV, backend, false);
            ctr.apply(0, &mut []).expect("nothing to do");
            ctr.apply(u64::MAX, &mut []).expect("nothing to do");
            ctr.apply_to(7, &[], &mut []).expect("nothing to do");
            for position in 0..33 {
                let mut byte = [0];
                ctr.apply(position, &mut byte).expect("a small position");
                let expected = keystream(key, IV, position / 16, 16)[position as usize % 16];
                assert_eq!(byte[0], expected, "{backend} {position}");
            }
        }
    }
}

#[test]
fn positions_beyond_four_and_five_gib() {
    for key in keys() {
        for backend in backends() {
            for position in [(4 << 30) - 24, 5 << 30, (5 << 30) + 5, (1 << 44) - 100] {
                let mut bytes = vec![0; 300];
                ctr(key, IV, backend, true)
                    .apply(position, &mut bytes)
                    .expect("below 2^64");
                let offset = (position % 16) as usize;
                let stream = keystream(key, IV, position / 16, 300 + offset);
                assert!(bytes == stream[offset..], "{backend} {position}");
            }
        }
    }
}

#[test]
fn a_range_that_ends_beyond_the_last_position_is_refused_untouched() {
    for backend in backends() {
        let ctr = ctr(keys()[1], IV, backend, false);
        let mut bytes = [9; 40];
        let refused = Err(CtrError::Position {
            position: u64::MAX - 39,
            bytes: 40,
        });
        assert_eq!(ctr.apply(u64::MAX - 39, &mut bytes), refused);
        assert_eq!(ctr.apply_to(u64::MAX - 39, &[1; 40], &mut bytes), refused);
        assert_eq!(bytes, [9; 40]);
        ctr.apply(u64::MAX - 40, &mut bytes).expect("ends at the last position");
        let stream = keystream(keys()[1], IV, (u64::MAX - 40) / 16, 48);
        assert_eq!(
            bytes[..],
            stream[7..47].iter().map(|byte| byte ^ 9).collect::<Vec<u8>>()[..]
        );
    }
}

#[test]
fn buffers_of_two_lengths_are_refused_untouched() {
    let ctr = Ctr::new(keys()[0], &IV.to_be_bytes());
    let mut to = [9; 4];
    let refused = Err(CtrError::Length { from: 5, to: 4 });
    assert_eq!(ctr.apply_to(0, &[1; 5], &mut to), refused);
    assert_eq!(to, [9; 4]);
    assert_eq!(format!("{ctr:?}"), format!("Ctr(withheld, {})", ctr.backend()));
}

/// Runs this test file again with the variable set, and looks at what the child chose.
#[test]
fn the_environment_bounds_the_backend() {
    for (value, expected) in [
        ("portable", "portable"),
        ("aes-ni", backends()[1.min(backends().len() - 1)].name()),
    ] {
        let (ok, output) = child(value);
        assert!(
            ok && output.contains(&format!("backend={expected};")),
            "{value}: {output}"
        );
    }
    let (ok, output) = child("fastest");
    assert!(
        !ok && output.contains("there is no AES backend \"fastest\""),
        "{output}"
    );
}

fn child(value: &str) -> (bool, String) {
    let output = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "bounds::tells_its_backend", "--ignored", "--nocapture"])
        .env(BACKEND_VARIABLE, value)
        .output()
        .expect("the test program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
#[ignore = "only a part of the_environment_bounds_the_backend"]
fn tells_its_backend() {
    println!("backend={};", Ctr::new(keys()[0], &[0; 16]).backend());
}
