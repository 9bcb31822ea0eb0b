//! No branch and no address depends on a key or on data. Under valgrind, which `ci/test secrets` runs this in, keys and data
//! are marked as uninitialised, and memcheck complains of every jump and every access that is decided by them. Without
//! valgrind the marks do nothing, and this only checks that decrypting undoes encrypting.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "valgrind is spoken to by an instruction sequence")]

use std::arch::asm;

use strongroom_dataplane::{Backend, Ctr, CtrKey, Direction};

/// Requests of memcheck, from its header.
const MAKE_UNDEFINED: u64 = 0x4d43_0001;
const MAKE_DEFINED: u64 = 0x4d43_0002;

/// The sequence does nothing on a processor: the rotations add up to 128 bits.
fn request(code: u64, bytes: &mut [u8]) {
    let arguments = [code, bytes.as_mut_ptr() as u64, bytes.len() as u64, 0, 0, 0];
    // SAFETY: registers are as they were but for the answer in rdx, and valgrind reads the arguments and marks the bytes.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") &arguments,
            inout("rdx") 0_u64 => _,
            inout("rdi") 0_u64 => _,
        );
    }
}

#[test]
fn keys_and_data_decide_nothing() {
    // Under valgrind this is what says that the machine it shows has the kernel that is to be checked.
    let wants_aes = std::env::var("TEST_CPU_FLAGS").is_ok_and(|flags| flags.split(' ').any(|flag| flag == "aes"));
    let has_aes = Backend::all().any(|backend| backend.name() == "aes-ni");
    assert!(has_aes || !wants_aes, "AES-NI, as TEST_CPU_FLAGS says");
    for backend in Backend::all() {
        for bytes in [0, 1, 15, 16, 17, 100, 512, 1000, 5000, 20_000] {
            for position in [0, 16, 5] {
                check(backend, bytes, position);
            }
        }
    }
}

fn check(backend: Backend, bytes: usize, position: u64) {
    let plain: Vec<u8> = (0..bytes).map(|p| p as u8).collect();
    let (mut short, mut long, mut text) = ([1; 16], [2; 32], plain.clone());
    request(MAKE_UNDEFINED, &mut short);
    request(MAKE_UNDEFINED, &mut long);
    for key in [CtrKey::Aes128(&short), CtrKey::Aes256(&long)] {
        request(MAKE_UNDEFINED, &mut text);
        let ctr = Ctr::with_backend(key, &[0xf8; 16], backend);
        ctr.apply(position, &mut text).expect("a small position");
        // Ciphertext is public, and so is its checksum.
        request(MAKE_DEFINED, &mut text);
        let crc = ctr.apply_summed(position, &mut text, Direction::Decrypt, 0);
        request(MAKE_DEFINED, &mut text);
        assert!(text == plain && crc.is_ok(), "{backend} {bytes} bytes at {position}");
    }
}

/// What the check finds, so that `ci/test secrets` can see that it finds something.
#[test]
#[ignore = "only a part of ci/test secrets"]
fn a_secret_that_decides() {
    let mut secret = [3];
    request(MAKE_UNDEFINED, &mut secret);
    assert!(std::hint::black_box(secret)[0] == 3, "this is the jump");
}
